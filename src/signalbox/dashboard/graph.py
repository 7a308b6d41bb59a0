"""The map: which receivers listen to which signals of which senders, how often they ran and how they are."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.dispatch import Signal

from signalbox.core import catalog, labels, receivers
from signalbox.instrumentation.install import get_recorded_signals
from signalbox.instrumentation.signal_arguments import get_sender_label
from signalbox.models import Event
from signalbox.outbox import registry
from signalbox.serialization.configured_redactor import get_redactor

MAX_EVENTS: Final = 5_000
"""How many of the latest events say how receivers did."""

SLOW_P90_US: Final = 50_000
"""Microseconds from which a receiver's slowest tenth makes it slow."""

ANY_SENDER: Final = "any sender"
"""What a receiver of every sender listens to."""

UNKNOWN_SENDER: Final = "?"
"""A sender of which Django keeps nothing but an id."""

EXCERPT_LINES: Final = 12
"""Lines of source that are shown of a receiver."""


@dataclass(slots=True)
class Edge:
    """One receiver listening to one signal of one sender."""

    signal: str
    group: str
    sender: str
    receiver: str
    location: str
    app_label: str
    is_django: bool
    """Whether the receiver is Django's own."""
    is_async: bool
    health: str
    """``ok``, ``dead``, ``failing``, ``slow``, ``idle``, ``unmeasured`` or ``durable``."""
    calls: int = 0
    errors: int = 0
    p90: int | None = None
    """Microseconds that nine of ten runs took at most."""
    error: str = ""
    """What it raised last."""
    source: str = ""


@dataclass(slots=True)
class CallStats:
    """How one receiver of one signal did, with one sender or with all."""

    calls: int = 0
    errors: int = 0
    error: str = ""
    durations_us: list[int] = field(default_factory=list)

    def add_call(self, call: Mapping[str, Any]) -> None:
        """Count one run; the latest are given first."""
        self.calls += 1
        if call.get("duration_us") is not None:
            self.durations_us.append(call["duration_us"])
        if call.get("error"):
            self.errors += 1
            self.error = self.error or call["error"]


CallStatsByReceiver = Mapping[tuple[str, str, str], CallStats]
"""How receivers did, by signal, sender and name; of all senders together under ``ANY_SENDER``."""


def build_edges(*, include_source: bool = False) -> list[Edge]:
    """Return every connection of the process with what the latest events say of it, and every durable receiver.

    ``include_source`` adds excerpts.
    """
    call_stats = _collect_call_stats(
        Event.objects.order_by("-id").values_list("signal", "sender", "data__receivers")[:MAX_EVENTS]
    )
    found = [
        edge
        for name, signal in get_signals().items()
        for edge in build_signal_edges(name, signal, call_stats, include_source=include_source)
    ]
    found += build_durable_edges(include_source=include_source)
    return sorted(found, key=lambda edge: (edge.is_django, edge.group, edge.signal, edge.sender, edge.receiver))


def get_signals() -> dict[str, Signal]:
    """Return the signals of Django and those of the project that are recorded, by name."""
    found = {name: catalog.import_signal(entry) for name, entry in catalog.BUILTIN_SIGNALS.items() if entry.path}
    return found | {name: signal for signal, name in get_recorded_signals().items() if name not in found}


def _collect_call_stats(events: Iterable[tuple[str, str, Any]]) -> dict[tuple[str, str, str], CallStats]:
    found: dict[tuple[str, str, str], CallStats] = {}
    for signal, sender, calls in events:
        for call in calls or ():
            for sender_key in (sender, ANY_SENDER):
                found.setdefault((signal, sender_key, call["name"]), CallStats()).add_call(call)
    return found


def build_signal_edges(
    name: str, signal: Signal, call_stats: CallStatsByReceiver, *, include_source: bool
) -> Iterator[Edge]:
    """Yield the connections of one signal, with the calls and errors of their receivers."""
    # pre_init and post_init are counted, not recorded; of others the setting may ask for none.
    is_recorded = name in get_recorded_signals().values()
    for connected in receivers.get_connected_receivers(signal):
        receiver = connected.receiver
        receiver_name = "(collected)" if receiver is None else receivers.get_name(receiver)
        sender = ANY_SENDER if connected.any_sender else get_sender_label(connected.sender) or UNKNOWN_SENDER
        stats = call_stats.get((name, sender, receiver_name), CallStats())
        durations = sorted(stats.durations_us)
        p90 = durations[min(len(durations) - 1, len(durations) * 9 // 10)] if durations else None
        yield Edge(
            signal=name,
            group=labels.get_signal_group(name),
            sender=sender,
            receiver=receiver_name,
            location="" if receiver is None else receivers.get_location(receiver),
            app_label=_get_app_label(receiver_name),
            is_django=receiver_name.startswith("django."),
            is_async=connected.is_async,
            health=_get_health(receiver is None, is_recorded, stats, p90),
            calls=stats.calls,
            errors=stats.errors,
            p90=p90,
            error=stats.error,
            source=get_source_excerpt(receiver) if include_source else "",
        )


def build_durable_edges(*, include_source: bool) -> Iterator[Edge]:
    """Yield what durable receivers wait for. They are not connected; their deliveries tell how they do."""
    for signal, sender, durable in registry.get_subscriptions():
        yield Edge(
            signal=signal,
            group=labels.get_signal_group(signal),
            sender=ANY_SENDER if sender is None else sender,
            receiver=durable.name,
            location=receivers.get_location(durable.function),
            app_label=_get_app_label(durable.name),
            is_django=False,
            is_async=iscoroutinefunction(durable.function),
            health="durable",
            source=get_source_excerpt(durable.function) if include_source else "",
        )


def _get_health(dead: bool, is_recorded: bool, stats: CallStats, p90: int | None) -> str:
    if dead:
        return "dead"
    if stats.errors:
        return "failing"
    if p90 is not None and p90 >= SLOW_P90_US:
        return "slow"
    if stats.calls:
        return "ok"
    return "idle" if is_recorded else "unmeasured"


def _get_app_label(dotted: str) -> str:
    """Return the label of the installed app that a dotted name belongs to, else its first part."""
    fitting = [config for config in apps.get_app_configs() if dotted.startswith(f"{config.name}.")]
    return max(fitting, key=lambda config: len(config.name)).label if fitting else dotted.partition(".")[0]


def get_source_excerpt(receiver: Any) -> str:
    """Return the first lines of a receiver's source without secrets; empty where it can't be read."""
    code = receivers.get_code(receiver)
    if code is None:
        return ""
    lines = (linecache.getline(code.co_filename, code.co_firstlineno + number) for number in range(EXCERPT_LINES))
    return get_redactor().redact_text("".join(lines).rstrip())


def edges_to_json(edges: Iterable[Edge]) -> list[dict[str, Any]]:
    """Return edges as plain values, each with the number of its row in the table; the source stands there alone."""
    return [asdict(edge) | {"row": row, "source": ""} for row, edge in enumerate(edges)]
