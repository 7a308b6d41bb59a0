"""Turns what was collected in a request into JSON data, which the store of django-debug-toolbar keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from signalbox.core import display_names
from signalbox.core.event import Outcome
from signalbox.pipeline.serializer import get_stored_outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from signalbox.contrib.debug_toolbar.collector import Collector, ReceiverKey
    from signalbox.core.event import PendingEvent
    from signalbox.core.tracing import Trace


TOOLBAR_PREFIX: Final = "debug_toolbar."
"""The toolbar's own receivers run for each template and static file. They are left out."""


def build_stats(collector: Collector) -> dict[str, Any]:
    """Return the events, receivers, ends of transactions and counts of a request. All values are JSON data."""
    query_counts = collector.count_receiver_queries()
    receivers = [
        row
        for event in collector.events
        for row in _iter_receivers(event, query_counts)
        if not row["name"].startswith(TOOLBAR_PREFIX)
    ]
    events = [_build_event(event) for event in collector.events]
    return {
        "trace_id": collector.trace.id,
        "events": events,
        "event_count": len(events) + collector.omitted_count,
        "omitted_count": collector.omitted_count,
        "operations": [event for event in events if event["group"] == "bulk"],
        "receivers": receivers,
        "receiver_ms": sum(row["duration_ms"] or 0.0 for row in receivers if row["depth"] == 0),
        "receiver_query_count": sum(collector.receiver_query_counts.values()),
        "commits": sum(end.outcome is Outcome.COMMITTED for end in collector.ends),
        "rollbacks": sum(end.outcome is Outcome.ROLLED_BACK for end in collector.ends),
        "omitted_end_count": collector.omitted_end_count,
        "ends": [
            {
                "outcome": end.outcome.value,
                "database": end.database,
                "event_count": end.event_count,
                "is_savepoint": end.is_savepoint,
                "at_ms": max(end.time - collector.trace.started, 0) / 1_000_000,
            }
            for end in collector.ends
        ],
        "counted_sends": list(_iter_counted_sends(collector.trace)),
    }


def _build_event(event: PendingEvent) -> dict[str, Any]:
    return {
        "signal": event.signal,
        "group": display_names.get_signal_group(event.signal),
        "sender": event.sender,
        "object": event.label or event.key,
        "database": event.using,
        "outcome": get_stored_outcome(event, Outcome.COMMITTED.value),
        "receiver_count": len(event.receiver_calls or ()),
        "at_ms": max(event.time - event.trace.started, 0) / 1_000_000,
    }


def _iter_receivers(event: PendingEvent, query_counts: dict[ReceiverKey, int]) -> Iterator[dict[str, Any]]:
    for index, call in enumerate(event.receiver_calls or ()):
        position = index if call.position is None else call.position
        yield {
            "name": call.location.name,
            "location": call.location.location,
            "signal": event.signal,
            "sender": event.sender,
            "object": event.label or event.key,
            "duration_ms": None if call.duration_ns is None else call.duration_ns / 1_000_000,
            "error": call.error or "",
            "queries": query_counts.get((event.span, position), 0),
            "depth": 0 if event.parent is None else 1,
        }


def _iter_counted_sends(trace: Trace) -> Iterator[dict[str, Any]]:
    """Return the sends that were only counted, such as those of ``post_init``."""
    counted: Mapping[str, dict[Any, int]] = trace.send_counts
    for signal, senders in counted.items():
        for sender, count in senders.items():
            label = sender if isinstance(sender, str) else sender._meta.label
            yield {"signal": signal, "sender": label, "count": count}
