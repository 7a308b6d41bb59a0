"""Records operations on the event log itself, such as an export, regardless of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import connections

from signalbox import conf
from signalbox.core import clock, interrupts, loggers, tracing
from signalbox.core.event import Outcome, PendingEvent
from signalbox.pipeline import backends, exporter, processors, routing, serializer, writer
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.core.event import Actor
    from signalbox.core.tracing import Trace

logger = loggers.get_logger("recording")

EXPORTED: Final = "signalbox.exported"
"""The signal's name in the event of an export."""

ERASED: Final = "signalbox.erased"
"""A person's data was erased from the event log. The erasure writes this event with its batches."""

OPERATIONS: Final = (EXPORTED, ERASED)
"""Names of the operations."""

SENDER: Final = "signalbox.Event"
"""The sender of the events: the table that the operations are about."""


def record_operation(
    name: str,
    arguments: Mapping[str, Any],
    *,
    actor: Actor | None = None,
    trace: Trace | None = None,
    duration_ns: int | None = None,
    outcome: Outcome = Outcome.SENT,
) -> bool:
    """Write the event of an operation on the event log. Return False, and log the error, if it can't be written.

    ``RECORD``, ``IGNORE``, ``SIGNALBOX_DISABLED`` and event processors can't prevent it. Processors can add data. It is
    written at once, in the open transaction if there is one. In an event loop it is queued instead.

    Args:
        name: The name in the column ``signal``, one of ``OPERATIONS``.
        arguments: What the event says about the operation. Secrets are redacted.
        actor: Who did it; None for the actor of the trace.
        trace: The trace of the event; None for the current one.
        duration_ns: Nanoseconds that the operation took.
        outcome: ``SENT``, or ``FAILED`` if an exception ended the operation.
    """
    trace = trace or tracing.get_current_trace()
    event = PendingEvent(clock.now(), trace, tracing.running_receiver.get(), name, SENDER, "")
    event.actor = actor or event.actor
    event.args = encoder.dumps(encoder.encode(dict(arguments), redactor=get_redactor()))
    event.duration = duration_ns
    event.outcome = outcome
    if not processors.admits(event):
        event.is_admitted = True
        trace.dropped -= 1
    try:
        if exporter.in_event_loop():
            exporter.enqueue(event)
        else:
            _write(event)
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("The operation %s of %s could not be recorded.", name, event.actor)
        return False
    return True


def _write(event: PendingEvent) -> None:
    connection = connections[routing.get_events_database()]
    connection.ensure_connection()
    is_nested = backends.in_transaction(connection) or backends.has_foreign_transaction(connection)
    routing.resolve_schema(event)
    groups, without_tables = writer.group_by_schema(connection, [event], routing.get_event_schema)
    if without_tables:
        raise LookupError(f"The schema {event.schema!r} has no tables of Signalbox. Run manage.py migrate.")
    for schema in groups:
        batch = serializer.build_batch([event], using=connection.alias)
        lock_timeout = conf.get().LOCK_TIMEOUT
        writer.write(connection, batch, nested=is_nested, schema=schema, lock_timeout=lock_timeout)
    event.written_to = connection.alias
