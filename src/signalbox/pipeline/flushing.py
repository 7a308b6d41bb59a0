"""Writes the events of an open transaction, within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from django.db import DatabaseError, DataError, IntegrityError

from signalbox import conf
from signalbox.core import interrupts, loggers
from signalbox.pipeline import backends, batches, dropped_events, process_exit, routing, serializer, writer
from signalbox.pipeline.delivery_errors import EnqueueError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import PendingEvent

logger = loggers.get_logger("recording")


class FlushResult(NamedTuple):
    """The result of a flush."""

    is_complete: bool = True
    """Whether every event was written. The others are exported after the commit."""
    has_waited_for_lock: bool = False
    """Whether the table was locked, or the transaction refused to write."""


def write_events(connection: BaseDatabaseWrapper, events: list[PendingEvent], *, may_wait: bool) -> FlushResult:
    """Write ``events`` in the transaction that is open on ``connection``, and set ``written_to`` of those it contains.

    ``may_wait`` says whether to wait for a locked table, for up to ``LOCK_TIMEOUT``. Raises the error of events that
    must not be dropped, and errors that ended the transaction.
    """
    groups, without_tables = routing.group_events(connection, events)
    if groups:
        process_exit.prepare()
    has_waited = False
    for schema, group in groups.items():
        has_waited |= not _write_group(connection, schema, group, may_wait=may_wait and not has_waited)
    return FlushResult(not (without_tables or has_waited), has_waited)


def _write_group(
    connection: BaseDatabaseWrapper, schema: str | None, events: list[PendingEvent], *, may_wait: bool
) -> bool:
    """Write events of one schema. Return False if its table is locked, or the transaction refuses to write."""
    backend, config = backends.get_backend(connection), conf.get()
    lock_timeout = config.LOCK_TIMEOUT if may_wait else 0.0
    droppable = False
    try:
        batch = serializer.build_batch(events, using=connection.alias)
        # A change must not be committed without its deliveries, even if its event is dropped.
        droppable = config.ON_ERROR == "log" and not batch.deliveries
        writer.write(connection, batch, schema=schema, lock_timeout=lock_timeout)
    except Exception as error:
        if (
            interrupts.is_interrupt(error)
            or not backend.is_transaction_alive(error)
            or not droppable
            or backend.is_conflict(error)  # the application may run the transaction again
        ):
            raise
        dropped_events.write_stats.add_failure()
        if backend.is_lock_timeout(error) or backend.is_refused_for_now(error):
            for event in events:
                event.is_late = True
            return False
        if backend.is_row_error(error):
            _write_bisecting(connection, batch, schema)
        elif backend.is_permission_error(error):
            dropped_events.count_denied(connection, len(events), error)
        else:
            _count_dropped(connection, len(events), error)
    for event in events:
        event.written_to = connection.alias
    return True


def write_into_foreign_transaction(connection: BaseDatabaseWrapper, events: list[PendingEvent]) -> list[PendingEvent]:
    """Write ``events`` within a savepoint into a transaction that Django does not know of.

    Returns the events without tables. Raises ``EnqueueError`` if events with deliveries can't be written.
    """
    groups, without_tables = routing.group_events(connection, events)
    for schema, group in groups.items():
        batch = serializer.build_batch(group, using=connection.alias)
        try:
            writer.write(connection, batch, nested=True, schema=schema, lock_timeout=conf.get().LOCK_TIMEOUT)
        except Exception as error:
            interrupts.raise_if_interrupt(error)
            if batch.deliveries:
                raise EnqueueError(
                    f"The deliveries of {len(batch.deliveries)} durable receivers could not be written."
                ) from error
            dropped_events.write_stats.add_failure()
            _count_dropped(connection, len(group), error)
        else:
            for event in group:
                event.written_to = connection.alias
    return without_tables


def _write_bisecting(connection: BaseDatabaseWrapper, batch: batches.Batch, schema: str | None) -> None:
    """Write the rows of a rejected ``batch`` that the database accepts, and drop the others."""
    left = len(batch.events)
    try:
        for part, error in writer.write_bisecting(connection, batch, schema=schema):
            left -= len(part.events)
            if error is not None:
                dropped_events.count_dropped(part, error)
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        if not backends.get_backend(connection).is_transaction_alive(error):
            raise
        _count_dropped(connection, left, error)


def _count_dropped(connection: BaseDatabaseWrapper, count: int, error: Exception) -> None:
    """Count and log events that are lost."""
    is_lock_timeout = backends.get_backend(connection).is_lock_timeout(error)
    reason = dropped_events.DropReason.LOCK_TIMEOUT if is_lock_timeout else dropped_events.DropReason.DATABASE_ERROR
    dropped_events.write_stats.add_dropped(reason, count)
    logger.error("%d events of %r could not be written and are dropped.", count, connection.alias, exc_info=error)


def build_commit_error(cause: BaseException, event_count: int) -> DatabaseError:
    """Return the error that a COMMIT raises: ``cause`` if it is the database's own, otherwise one caused by it.

    It is always a ``DatabaseError``: Django commits on SQLite and MariaDB after any other exception.
    """
    note = f"Signalbox could not write {event_count} events, so their transaction is rolled back."
    if isinstance(cause, DatabaseError) and not isinstance(cause, DataError | IntegrityError):
        cause.add_note(note)  # the application may retry by its class and SQLSTATE
        return cause
    error = DatabaseError(
        f'{note} The cause is {cause!r}. Set SIGNALBOX = {{"ON_ERROR": "log"}} to commit without them.'
    )
    error.__cause__ = cause
    return error
