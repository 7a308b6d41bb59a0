"""Exports events that are not part of an open transaction, together with finished traces.

They are queued in their trace and written together when it finishes. If they can't be written then, because a
transaction is open, an event loop is running, the tables are missing or the database is unavailable, they stay pending
until the next flush. The module is long because when an event is queued and when it is written depend on each other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from django.apps import apps
from django.db import DatabaseError, connections

from signalbox import conf
from signalbox.core import catalog, interrupts, loggers, observers, tracing
from signalbox.pipeline import (
    backends,
    batches,
    dropped_events,
    missing_tables,
    pending,
    process_exit,
    processors,
    routing,
    serializer,
    writer,
)
from signalbox.pipeline.dropped_events import DropReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import PendingEvent, Schema
    from signalbox.core.tracing import Trace
    from signalbox.pipeline.pending import PendingRow

logger = loggers.get_logger("recording")

MAX_CONFLICTS: Final = 3
"""Number of retries after a conflict with another transaction. After them the rows stay pending."""

FLUSH_THRESHOLD: int = batches.FLUSH_THRESHOLD
"""Events that a trace keeps in memory. More are written before it finishes."""

LONG_TRACE_NS: Final = 10_000_000_000
"""After this many nanoseconds a trace counts as long-running, and its events are written immediately."""

MAX_WAIT_FOR_TRANSACTIONS: Final = (0.05, 0.5)
"""Seconds that a thread waits for transactions of other threads on SQLite, if more than ``FLUSH_THRESHOLD`` events are
pending, and if half of the queue is full."""

DELETED_DATABASE: Final = "(deleted)"
"""Placeholder for a trace row that was written to a test database which no longer exists."""

_flush_guard = threading.local()


def enqueue(event: PendingEvent) -> None:
    """Queue ``event``, which has no open transaction, to be written when its trace finishes."""
    trace = event.trace
    if trace.is_ignored and not pending.must_persist(event):
        trace.dropped += 1
        return
    if not processors.admits(event):
        return
    routing.resolve_schema(event)
    require_row(trace)
    trace.pending.append(event)
    process_exit.prepare()
    trace.must_persist = trace.must_persist or pending.must_persist(event)
    if not should_defer(trace):
        flush_trace(trace)


def enqueue_committed(events: Iterable[PendingEvent]) -> None:
    """Write ``events`` now, if possible. Their change was committed in a database without Signalbox's tables.

    They are not queued until their trace finishes, because a crash before that would lose them and their deliveries.
    """
    for event in events:
        routing.resolve_schema(event)
        require_row(event.trace)
        event.trace.pending.append(event)
        event.trace.must_persist = True
        pending.add(event.trace)
    flush(may_wait=False)


def write_now(event: PendingEvent) -> None:
    """Write ``event`` now, because it has deliveries that a crash must not lose.

    Within an event loop it is queued, because an event loop must not wait for a database. Raises ``DatabaseError`` if
    it can't be written.
    """
    if in_event_loop():
        enqueue(event)
        return
    if not processors.admits(event):
        return
    require_row(event.trace)
    connection = connections[routing.get_events_database()]
    is_nested = backends.in_transaction(connection) or backends.has_foreign_transaction(connection)
    if not missing_tables.has_tables(connection):
        raise DatabaseError("The tables of Signalbox do not exist.")
    routing.resolve_schema(event)
    groups, waiting = writer.group_by_schema(connection, [event], routing.get_event_schema)
    if waiting:
        raise DatabaseError(f"The schema {event.schema!r} has no tables of Signalbox.")
    for schema in groups:
        writer.write(
            connection,
            serializer.build_batch([event], using=connection.alias),
            nested=is_nested,
            schema=schema,
            lock_timeout=conf.get().LOCK_TIMEOUT,
        )
    event.written_to = connection.alias
    event.trace.is_id_fixed = True


def enqueue_update(event: PendingEvent) -> None:
    """Schedule an UPDATE for an event that was already written."""
    trace = event.trace
    if event not in trace.updates:
        trace.updates.append(event)
    if not should_defer(trace):
        flush_trace(trace)


def should_defer(trace: Trace) -> bool:
    """Return True if the events of ``trace`` are written when it finishes."""
    if trace.duration is not None or tracing.is_process_trace(trace) or trace.kind == "shell":
        return False
    if len(trace.pending) >= FLUSH_THRESHOLD or len(trace.updates) >= FLUSH_THRESHOLD:
        return False
    return trace.kind in ("request", "test") or trace.get_elapsed() < LONG_TRACE_NS


def finish_trace(trace: Trace, status: str = "") -> None:
    """Finish ``trace``: set its duration and status, and write its events and its row."""
    if trace.duration is not None:
        return
    trace.duration = trace.get_elapsed()
    trace.status = trace.status or status
    if not processors.keeps_trace(trace):
        _drop_pending(trace)
    trace.events = trace.count_events() - trace.dropped
    trace.freeze_actor()
    if _needs_row(trace):
        _add_row(trace)
    else:
        trace.is_row_omitted = True
    if trace.pending or trace.updates:
        flush_trace(trace)
    else:
        flush()


def _add_row(trace: Trace) -> None:
    """Queue the row of a finished ``trace``."""
    if not trace.row_schemas:
        schema = writer.resolve_schema(connections[routing.get_events_database()])
        if schema is not None:
            trace.row_schemas[schema] = 0
    pending.add_finished(trace)


def require_row(trace: Trace) -> None:
    """Queue the row of ``trace`` if it finished without one. An event is recorded in it later, as by a thread."""
    if trace.is_row_omitted:
        trace.is_row_omitted = False
        trace.events = 1
        _add_row(trace)


def ignore_trace(trace: Trace) -> None:
    """Record only the changes, and the events with deliveries, of ``trace`` from now on. Drop its other events."""
    trace.is_ignored = True
    _drop_pending(trace)


def _drop_pending(trace: Trace) -> None:
    """Drop the pending events of ``trace`` that are not about a change and have no deliveries."""
    kept = [event for event in trace.pending if pending.must_persist(event)]
    trace.dropped += len(trace.pending) - len(kept)
    trace.pending[:] = kept


def flush_for_read() -> None:
    """Write pending events before a read. A test reads its own events, so those of its open trace are written too."""
    open_traces = list(tracing.iter_trace_stack())
    if any(trace.kind == "test" for trace in open_traces):
        for trace in open_traces:
            if trace.pending or trace.updates:
                pending.add(trace)
    flush()


def has_pending() -> bool:
    """Return True if events or traces are pending."""
    return not pending.is_empty()


def discard_pending() -> None:
    """Discard pending events and traces, so that the next test does not find those of this one."""
    pending.clear()
    if tracing.get_process_trace().row_database:
        tracing.get_process_trace().row_database = DELETED_DATABASE


def flush_trace(trace: Trace) -> None:
    """Write the pending events of ``trace`` now, if possible."""
    pending.add(trace)
    flush()


def flush(*, may_wait: bool = True) -> None:
    """Write pending events. Unwritten events stay pending. Errors are not raised to the application.

    On SQLite they wait for the transactions of other threads, which flush at their end. Their write could make these
    fail. They don't wait with ``may_wait=False``, nor in WAL mode if the queue is nearly full. If there are more than
    ``FLUSH_THRESHOLD``, this thread waits too, so that threads don't add events faster than one of them writes them.
    """
    if not has_pending() or getattr(_flush_guard, "blocked", False) or not apps.ready:
        return
    if in_event_loop():
        pending.drop_excess()
        _report_queue_length()
        return
    _flush_guard.blocked = True
    try:
        connection = connections[routing.get_events_database()]
        if not _can_write(connection):
            pending.drop_excess(_get_drop_reason(connection))
        elif connection.in_atomic_block:  # of a TestCase
            _flush(connection)
        else:
            backend = backends.get_backend(connection)
            length = pending.count()
            with backend.excluding_transactions(_get_max_wait(length) if may_wait else 0.0) as is_excluded:
                is_nearly_full = 10 * length > 9 * pending.MAX_PENDING
                if is_excluded or not may_wait or (is_nearly_full and backend.can_write_beside_readers()):
                    _flush(connection)
                else:
                    pending.drop_excess()
    except (AssertionError, RuntimeError) as error:  # test tools raise these if a test may not use the database
        logger.debug("Events could not be written and stay pending: %r", error)
        pending.drop_excess()
    except Exception as error:  # noqa: BLE001 - the database may be unavailable
        interrupts.raise_if_interrupt(error)
        dropped_events.write_stats.add_failure()
        level = logging.ERROR if dropped_events.write_stats.failures == 1 else logging.DEBUG
        logger.log(level, "Events could not be written and stay pending: %r", error)
        pending.drop_excess()
    finally:
        _flush_guard.blocked = False
        _report_queue_length()


def _get_max_wait(length: int) -> float:
    """Return how long a thread waits for transactions of other threads, in seconds."""
    if length <= FLUSH_THRESHOLD:
        return 0.0
    return MAX_WAIT_FOR_TRANSACTIONS[2 * length > pending.MAX_PENDING]


def _report_queue_length() -> None:
    if observers.writes:
        observers.notify(observers.writes, "on_queue_length", pending.count())


def _get_drop_reason(connection: BaseDatabaseWrapper) -> DropReason:
    """Return why events can't be written on ``connection``, without a query."""
    return DropReason.MISSING_TABLE if missing_tables.lacks_tables(connection) else DropReason.QUEUE_FULL


@contextmanager
def suspended() -> Iterator[None]:
    """Write nothing in the block, which closes a connection. A write would open it again."""
    before = getattr(_flush_guard, "blocked", False)
    _flush_guard.blocked = True
    try:
        yield
    finally:
        _flush_guard.blocked = before


def in_event_loop() -> bool:
    """Return True if an event loop runs in this thread. It must not wait for a database."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _can_write(connection: BaseDatabaseWrapper) -> bool:
    if _is_shared_by_threads(connection):
        return False
    if connection.in_atomic_block:
        if (
            connection.connection is None
            or not _in_testcase_transaction(connection)
            or backends.is_transaction_aborted(connection)
        ):
            return False
    elif backends.is_pipeline_open(connection):
        return False
    elif connection.connection is None:
        # Commands such as ``collectstatic`` run without a database. Only work that uses it opens a connection.
        if not pending.needs_database():
            return False
    elif not connection.autocommit or backends.has_foreign_transaction(connection):
        return False
    return missing_tables.has_tables(connection)


def _is_shared_by_threads(connection: BaseDatabaseWrapper) -> bool:
    """Return True if ``connection`` belongs to another thread, as with Django's live server for tests.

    A transaction here would conflict with those of that thread, which writes the pending events itself.
    """
    return connection.allow_thread_sharing and connection._thread_ident != threading.get_ident()  # type: ignore[attr-defined]


def _in_testcase_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the open transaction is that of a ``TestCase``, which contains all writes of the test."""
    return all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks) and bool(
        connection.atomic_blocks
    )


def _flush(connection: BaseDatabaseWrapper) -> None:
    rows, elsewhere = pending.take(connection.alias)
    taken = list(chain(rows, *elsewhere.values()))
    try:
        _write(connection, rows)
        for alias, other_rows in elsewhere.items():
            if _can_write_updates(connections[alias]):
                _write(connections[alias], other_rows)
    finally:
        pending.put_back(taken, [*rows, *chain.from_iterable(elsewhere.values())])
    if rows:
        pending.drop_excess()


def _write(connection: BaseDatabaseWrapper, rows: list[PendingRow]) -> None:
    """Write ``rows`` by schema, and remove the written and dropped ones from the list."""
    groups, waiting = writer.group_by_schema(connection, rows, _get_row_schema)
    left: list[PendingRow] = []
    try:
        while groups:
            schema = next(iter(groups))
            try:
                _write_group(connection, groups[schema], schema)
            except DatabaseError as error:
                backend = backends.get_backend(connection)
                if not backend.is_lock_timeout(error) or (
                    backend.in_transaction() and not backend.is_transaction_alive(error)
                ):
                    raise
                left += groups[schema]  # this schema's table is locked, others may not be
            del groups[schema]
    finally:
        rows[:] = [*chain.from_iterable(groups.values()), *left, *waiting]


def _get_row_schema(row: PendingRow) -> Schema:
    return row.schema


def _write_group(connection: BaseDatabaseWrapper, rows: list[PendingRow], schema: str | None) -> None:
    """Write ``rows`` in parts, and remove the written and dropped ones from the list.

    The write does not wait for a lock on a table. Only deliveries wait for ``LOCK_TIMEOUT``, as they are more urgent.
    """
    backend = backends.get_backend(connection)
    conflicts = 0
    while rows:
        now = rows[: batches.MAX_BATCH_ROWS]
        written: list[batches.Batch] = []
        try:
            batch = _build_batch(now, connection, schema)
            lock_timeout = conf.get().LOCK_TIMEOUT if batch.deliveries else 0.0
            for part, error in writer.write_bisecting(connection, batch, schema=schema, lock_timeout=lock_timeout):
                written.append(part)
                if error is not None:
                    dropped_events.count_dropped(part, error)
        except BaseException as error:
            done = {key for part in written for key in part.iter_keys()}
            rows[: len(now)] = [one for one in now if one.key not in done]
            _mark_written(connection, [one for one in now if one.key in done])
            if backend.is_conflict(error) and not backend.in_transaction() and conflicts < MAX_CONFLICTS:
                conflicts += 1
                continue
            if isinstance(error, DatabaseError) and backend.is_permission_error(error):
                denied = sum(row.event is not None for row in rows)
                dropped_events.count_denied(connection, denied, error)
                rows.clear()
                return
            raise
        del rows[: len(now)]
        _mark_written(connection, now)


def _build_batch(rows: list[PendingRow], connection: BaseDatabaseWrapper, schema: str | None) -> batches.Batch:
    own = [one for one in rows if one.event is None]
    updated = [one.event for one in rows if one.event is not None and one.is_update]
    return serializer.build_batch(
        [one.event for one in rows if one.event is not None and not one.is_update],
        using=connection.alias,
        traces=serializer.build_trace_rows(one.trace for one in own if not one.is_written),
        event_updates=serializer.build_event_updates(updated),
        trace_updates=serializer.build_trace_updates(one.trace for one in own if one.is_written),
        errors=[
            *serializer.build_trace_error_rows(one.trace for one in own if not one.is_written),
            *writer.filter_unwritten_errors(
                connection,
                serializer.build_error_rows(updated)
                + serializer.build_trace_error_rows(one.trace for one in own if one.is_written),
                schema=schema,
            ),
        ],
        is_committed=True,
    )


def _mark_written(connection: BaseDatabaseWrapper, written: list[PendingRow]) -> None:
    for trace, event, _, schema in written:
        trace.is_id_fixed = True
        if event is None:
            trace.row_database = _get_database_name(connection)
            if schema is not None:
                trace.row_schemas[schema] = 1 if trace.duration is None else 2
        else:
            event.written_to = connection.alias


def _can_write_updates(connection: BaseDatabaseWrapper) -> bool:
    """Return True if events on ``connection`` can be updated. It is not that of the database for traces."""
    if connection.in_atomic_block:
        return _in_testcase_transaction(connection)
    if backends.is_pipeline_open(connection):
        return False
    return connection.get_autocommit() and not backends.has_foreign_transaction(connection)


def _needs_row(trace: Trace) -> bool:
    """Return True if the row of a finished trace must be written or updated, because something happened in it."""
    if trace.row_database and trace.row_database != _get_database_name(connections[routing.get_events_database()]):
        return False  # its row was in a test database
    if trace.events > 0 or trace.raised_error is not None:
        return True
    if trace.is_ignored or trace.dropped or tracing.is_process_trace(trace):
        return False
    counted = {signal for signal, senders in trace.send_counts.items() if senders}
    return bool(counted - catalog.START_UP_SIGNALS if trace.kind == "command" else counted)


def _get_database_name(connection: BaseDatabaseWrapper) -> str:
    return str(connection.settings_dict["NAME"])


def _write_at_exit() -> None:
    """Finish the trace of the process and write pending events."""
    ambient = tracing.get_process_trace()
    reopened = None
    connection = connections[routing.get_events_database()]
    if connection.connection is None and (
        pending.needs_database() or ambient.row_database == _get_database_name(connection)
    ):
        reopened = connection
        with suppress(Exception):  # the database may be unavailable, or a deleted test database
            connection.ensure_connection()  # before the trace finishes, because this is an event too
    if ambient.row_database or ambient.pending:
        finish_trace(ambient)
    flush(may_wait=False)
    if reopened is not None:  # no other code closes it
        reopened.close()


process_exit.register(_write_at_exit)


def _after_fork() -> None:
    """Discard pending events in a forked child. The parent writes them."""
    global _flush_guard
    _flush_guard = threading.local()
    discard_pending()


os.register_at_fork(after_in_child=_after_fork)
