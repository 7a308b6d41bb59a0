"""``pre_init`` and ``post_init`` are counted per trace and model: a queryset sends them for every row it loads.

Their ``send`` is replaced, not wrapped: Django's own, without receivers, costs as much as a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models.signals import post_init, pre_init
from django.dispatch.dispatcher import NO_RECEIVERS

from signalbox.core import tracing

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.dispatch import Signal

INIT_SIGNALS = {"pre_init": pre_init, "post_init": post_init}


def install(names: set[str]) -> None:
    """Count the sends of those of the two signals that ``names`` holds."""
    for name in names & INIT_SIGNALS.keys():
        signal = INIT_SIGNALS[name]
        signal.__dict__["send"] = _build_counting_send(name, signal)


def uninstall() -> None:
    """Leave both signals as Django made them."""
    for signal in INIT_SIGNALS.values():
        signal.__dict__.pop("send", None)


def _build_counting_send(name: str, signal: Signal) -> Callable[..., list[tuple[Any, Any]]]:
    original = type(signal).send
    get_trace = tracing._current_trace.get
    process = tracing.get_process_trace

    def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        (get_trace() or tracing._process_trace or process()).init_counts[name][sender] += 1
        if not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS:
            return []
        return original(signal, sender, **named)

    return send
