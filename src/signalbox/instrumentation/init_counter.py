"""Counts ``pre_init`` and ``post_init`` by trace and model, as a queryset sends them for every row that it loads.

Their ``send`` is replaced, not wrapped: without receivers, Django's own takes as long as a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models.signals import post_init, pre_init
from django.dispatch.dispatcher import NO_RECEIVERS

from signalbox.core import tracing
from signalbox.core.instance_layer import InstanceLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.dispatch import Signal

INIT_SIGNALS = {"pre_init": pre_init, "post_init": post_init}

_layers: dict[str, InstanceLayer] = {}


def install(names: set[str]) -> None:
    """Count the sends of ``pre_init`` and ``post_init`` if ``names`` contains them."""
    for name in names & INIT_SIGNALS.keys():
        signal = INIT_SIGNALS[name]
        layer = _layers.setdefault(name, InstanceLayer(signal))
        layer.replace("send", _build_counting_send(name, signal, layer), is_direct=True)


def uninstall() -> None:
    """Restore both signals."""
    for name in list(_layers):
        if _layers[name].remove():
            del _layers[name]


def _build_counting_send(name: str, signal: Signal, layer: InstanceLayer) -> Callable[..., list[tuple[Any, Any]]]:
    original = layer.get_original("send")
    is_replaced = "send" in vars(signal)
    get_trace = tracing._current_trace.get
    process = tracing.get_process_trace

    def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if not layer.is_active:
            return original(sender, **named)  # type: ignore[no-any-return]
        (get_trace() or tracing._process_trace or process()).send_counts[name][sender] += 1
        if not is_replaced and (not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS):
            return []
        return original(sender, **named)  # type: ignore[no-any-return]

    return send
