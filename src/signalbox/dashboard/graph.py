"""The data of the map: connections of signals, senders and receivers, with their statistics."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.dispatch import Signal

from signalbox.core import catalog, display_names, receivers
from signalbox.core.receiver_stats import CallTotals
from signalbox.dashboard.links import get_deliveries_url, get_receiver_url, get_signal_url
from signalbox.instrumentation.install import get_recorded_signals
from signalbox.instrumentation.signal_arguments import get_sender_label
from signalbox.models import Event
from signalbox.outbox import registry
from signalbox.queries.receiver_activity import count_dead_deliveries
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.source_code import redact_source

MAX_EVENTS: Final = 5_000
"""Number of the latest events that the statistics of receivers use."""

SLOW_P90_US: Final = 50_000
"""90th percentile of the duration from which a receiver is slow, in microseconds."""

ANY_SENDER: Final = "any sender"
"""Name of the sender for receivers of every sender."""

UNKNOWN_SENDER: Final = "?"
"""Name of a sender that Django keeps only by id."""

COLLECTED_RECEIVER: Final = "(collected)"
"""Name of a receiver that was garbage-collected."""

EXCERPT_LINES: Final = 12
"""Number of source lines that are shown of a receiver."""


@dataclass(slots=True)
class Edge:
    """The connection of one receiver to one signal and sender."""

    signal: str
    group: str
    sender: str
    receiver: str
    location: str
    app_label: str
    is_django: bool
    """Whether the receiver is one of Django or of Signalbox itself."""
    is_async: bool
    health: str
    """``ok``, ``dead``, ``failing``, ``slow``, ``idle``, ``unmeasured`` or ``durable``."""
    calls: int = 0
    errors: int = 0
    p90: int | None = None
    """90th percentile of the duration, in microseconds; ``None`` if unknown."""
    error: str = ""
    """Its last exception; empty if there is none."""
    source: str = ""
    dead_deliveries: int = 0
    """Number of its dead deliveries, if it is durable."""


CallTotalsByReceiver = Mapping[tuple[str, str, str], CallTotals]
"""Statistics of receivers by signal, sender and name; under ``ANY_SENDER`` those of all senders together."""


def build_edges(*, include_source: bool = False) -> list[Edge]:
    """Return every connection of the process with its statistics, and every durable receiver.

    ``include_source`` adds excerpts of the receivers' source.
    """
    call_totals = collect_call_totals(
        Event.objects.order_by("-id").values_list("signal", "sender", "data__receivers")[:MAX_EVENTS]
    )
    found = [
        edge
        for name, signal in get_signals().items()
        for edge in build_signal_edges(name, signal, call_totals, include_source=include_source)
    ]
    found += build_durable_edges(include_source=include_source)
    return sorted(found, key=lambda edge: (edge.is_django, edge.group, edge.signal, edge.sender, edge.receiver))


def get_signals() -> dict[str, Signal]:
    """Return the built-in signals and the recorded signals of the project, by name."""
    found = {name: catalog.import_signal(entry) for name, entry in catalog.BUILTIN_SIGNALS.items() if entry.path}
    return found | {name: signal for signal, name in get_recorded_signals().items() if name not in found}


def collect_call_totals(events: Iterable[tuple[str, str, Any]]) -> dict[tuple[str, str, str], CallTotals]:
    """Sum up events, given as signal, sender and recorded calls, newest first."""
    found: dict[tuple[str, str, str], CallTotals] = {}
    for signal, sender, calls in events:
        for call in calls or ():
            for sender_key in (sender, ANY_SENDER):
                found.setdefault((signal, sender_key, call["name"]), CallTotals()).add_call(call)
    return found


def build_signal_edges(
    name: str, signal: Signal, call_totals: CallTotalsByReceiver, *, include_source: bool
) -> Iterator[Edge]:
    """Yield the connections of one signal, with the statistics of their receivers."""
    # Some signals are only counted, and settings may exclude others.
    is_recorded = name in get_recorded_signals().values()
    for connected in receivers.get_connected_receivers(signal):
        receiver = connected.receiver
        receiver_name = COLLECTED_RECEIVER if receiver is None else receivers.get_name(receiver)
        sender = ANY_SENDER if connected.any_sender else get_sender_label(connected.sender) or UNKNOWN_SENDER
        totals = call_totals.get((name, sender, receiver_name), CallTotals())
        p90 = totals.get_percentile(90)
        yield Edge(
            signal=name,
            group=display_names.get_signal_group(name),
            sender=sender,
            receiver=receiver_name,
            location="" if receiver is None else receivers.get_location(receiver),
            app_label=_get_app_label(receiver_name),
            is_django=receivers.is_in_django(receiver_name) or receiver_name.startswith("signalbox."),
            is_async=connected.is_async,
            health=_get_health(receiver is None, is_recorded, totals, p90),
            calls=totals.calls,
            errors=totals.errors,
            p90=p90,
            error=totals.last_error,
            source=get_source_excerpt(receiver) if include_source else "",
        )


def build_durable_edges(*, include_source: bool) -> Iterator[Edge]:
    """Yield the subscriptions of durable receivers. They are not connected to a signal and have no statistics here."""
    dead_deliveries = count_dead_deliveries() if registry.get_durable_receivers() else {}
    for signal, sender, durable in registry.get_subscriptions():
        yield Edge(
            signal=signal,
            group=display_names.get_signal_group(signal),
            sender=ANY_SENDER if sender is None else sender,
            receiver=durable.name,
            location=receivers.get_location(durable.function),
            app_label=_get_app_label(durable.name),
            is_django=False,
            is_async=iscoroutinefunction(durable.function),
            health="durable",
            source=get_source_excerpt(durable.function) if include_source else "",
            dead_deliveries=dead_deliveries.get(durable.name, 0),
        )


def _get_health(dead: bool, is_recorded: bool, totals: CallTotals, p90: int | None) -> str:
    if dead:
        return "dead"
    if totals.errors:
        return "failing"
    if p90 is not None and p90 >= SLOW_P90_US:
        return "slow"
    if totals.calls:
        return "ok"
    return "idle" if is_recorded else "unmeasured"


def _get_app_label(dotted: str) -> str:
    """Return the label of the installed app that a dotted name belongs to, else its first part."""
    fitting = [config for config in apps.get_app_configs() if dotted.startswith(f"{config.name}.")]
    return max(fitting, key=lambda config: len(config.name)).label if fitting else dotted.partition(".")[0]


def get_source_excerpt(receiver: Any) -> str:
    """Return the first lines of a receiver's source without secrets; empty if it can't be read."""
    code = receivers.get_code(receiver)
    if code is None:
        return ""
    lines = (linecache.getline(code.co_filename, code.co_firstlineno + number) for number in range(EXCERPT_LINES))
    return redact_source("".join(lines).rstrip(), get_redactor())


def edges_to_json(edges: Iterable[Edge]) -> list[dict[str, Any]]:
    """Return edges as JSON values with the number of their row in the table and their links, without source."""
    return [
        asdict(edge)
        | {
            "row": row,
            "source": "",
            "receiver_url": "" if edge.receiver == COLLECTED_RECEIVER else get_receiver_url(edge.receiver),
            "signal_url": get_signal_url(edge.signal),
            "dead_url": get_deliveries_url(edge.receiver, "dead"),
        }
        for row, edge in enumerate(edges)
    ]
