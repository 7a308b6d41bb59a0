"""Events and traces as JSON objects, for programs: the keys are documented and stay."""

from __future__ import annotations

from typing import Any

from signalbox.models import Event, Trace, to_datetime


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return an event as a JSON-able dict.

    Spans are 16 hexadecimal digits, as in W3C's ``traceparent``: numbers of 63 bits do not survive every JSON parser.
    """
    return {
        "id": event.id,
        "time": format_iso(event.time),
        "trace_id": event.trace_id,
        "span": format_span(event.span),
        "parent": None if event.parent is None else format_span(event.parent),
        "signal": event.signal,
        "sender": event.sender,
        "object_key": event.object_key,
        "object_label": event.object_label,
        "actor_key": event.actor_key,
        "actor_label": event.actor_label,
        "database": event.database,
        "outcome": event.outcome,
        "duration_us": event.duration,
        "errors": event.errors,
        "data": event.data,
    }


def trace_to_dict(trace: Trace) -> dict[str, Any]:
    """Return a trace as a JSON-able dict."""
    return {
        "id": trace.id,
        "time": format_iso(trace.time),
        "trace_id": trace.trace_id,
        "kind": trace.kind,
        "name": trace.name,
        "actor_key": trace.actor_key,
        "actor_label": trace.actor_label,
        "duration_us": trace.duration,
        "status": trace.status,
        "events": trace.events,
        "errors": trace.errors,
        "rolled_back": trace.rolled_back,
        "data": trace.data,
    }


def format_iso(microseconds: int) -> str:
    """Return microseconds since the epoch as an ISO 8601 text in UTC, to the microsecond."""
    return to_datetime(microseconds).isoformat(timespec="microseconds")


def format_span(number: int) -> str:
    """Return a span as 16 hexadecimal digits."""
    return f"{number:016x}"
