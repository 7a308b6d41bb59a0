"""Events and traces as JSON objects with documented, stable keys."""

from __future__ import annotations

from typing import Any

from signalbox.models import Attempt, Delivery, Event, Trace, to_datetime
from signalbox.queries.errors import ErrorGroup


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


def delivery_to_dict(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as a JSON-able dict, without its arguments and its traceback."""
    columns = {
        field.attname: getattr(delivery, field.attname)
        for field in Delivery._meta.concrete_fields
        if field.attname not in ("payload", "partition_id", "traceback")
    }
    times = {
        name: None if columns[name] is None else format_iso(columns[name])
        for name in (
            "run_at",
            "next_check_at",
            "lease_expires_at",
            "deferred_since",
            "attempt_started",
            "created",
            "finished",
        )
    }
    return {**columns, **times, "span": format_span(delivery.span)}


def attempt_to_dict(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as a JSON-able dict."""
    return {
        "number": attempt.number,
        "started": format_iso(attempt.started),
        "ended": format_iso(attempt.ended),
        "outcome": attempt.outcome,
        "retry_at": None if attempt.retry_at is None else format_iso(attempt.retry_at),
        "error": attempt.error,
        "worker": attempt.worker,
    }


def error_to_dict(group: ErrorGroup) -> dict[str, Any]:
    """Return a group of errors as a JSON-able dict."""
    newest, decision = group.newest, group.decision
    return {
        "fingerprint": group.fingerprint,
        "state": group.state,
        "changed": None if decision is None else format_iso(decision.changed),
        "changed_by": None if decision is None else decision.actor_label,
        "count": group.count,
        "traces": group.trace_count,
        "first_seen": format_iso(group.first_seen),
        "last_seen": format_iso(group.last_seen),
        "exception": newest.exception,
        "message": newest.message,
        "file": newest.file,
        "line": newest.line,
        "function": newest.function,
        "receiver": newest.receiver,
        "newest_trace_id": newest.trace_id,
    }


def format_iso(microseconds: int) -> str:
    """Return microseconds since the epoch as an ISO 8601 text in UTC, to the microsecond."""
    return to_datetime(microseconds).isoformat(timespec="microseconds")


def format_span(number: int) -> str:
    """Return a span as 16 hexadecimal digits."""
    return f"{number:016x}"
