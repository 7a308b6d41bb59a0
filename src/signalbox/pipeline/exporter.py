"""Exports events that are not part of an open transaction, together with finished traces.

They are queued in their trace and written together when it finishes. If they can't be written then, because a
transaction is open, an event loop is running, the tables are missing or the database is unavailable, they stay pending
until the next flush.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections import deque
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from django.apps import apps
from django.db import DatabaseError, connections, router

from signalbox import conf
from signalbox.core import interrupts, tracing
from signalbox.core.event import Outcome
from signalbox.pipeline import backends, batches, deliveries, serializer, writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import PendingEvent, Schema
    from signalbox.core.tracing import Trace

logger = logging.getLogger("signalbox")

MAX_PENDING: Final = 10_000
"""Maximum number of pending events while the database is unavailable. Older ones are dropped, counted and logged."""

MAX_BATCH_ROWS: Final = 2_000
"""Maximum number of rows that one statement writes, to limit the memory of both sides."""

MAX_CONFLICTS: Final = 3
"""How often a statement that lost against another transaction is sent again. Then its rows wait."""

FLUSH_THRESHOLD: Final = 1000
"""Events that are kept in memory until their trace or transaction ends. More are written before that."""

LONG_TRACE_NS: Final = 10_000_000_000
"""After this many nanoseconds a trace counts as long-running, and its events are written immediately."""

DELETED_DATABASE: Final = "(deleted)"
"""Placeholder for a trace row that was written to a test database which no longer exists."""

_pending_traces: deque[Trace] = deque()
"""Traces with pending events."""
_finished_traces: deque[Trace] = deque()
"""Traces whose own rows are pending."""
_rows_in_flight: list[_PendingRow] = []
"""Rows that are being written, which the queues do not hold meanwhile."""
_lock = threading.Lock()
_flush_guard = threading.local()


def enqueue(event: PendingEvent) -> None:
    """Queue ``event``, which has no open transaction, to be written when its trace finishes."""
    trace = event.trace
    if trace.suppressed is not None:
        trace.suppressed += 1
        return
    _resolve_schema(event)
    trace.pending.append(event)
    prepare_exit()
    if event.using or deliveries.get_source() is not deliveries.NO_DELIVERIES:
        trace.must_persist = trace.must_persist or _must_persist(event)
    if not should_defer(trace):
        flush_trace(trace)


def enqueue_committed(events: Iterable[PendingEvent]) -> None:
    """Write ``events`` now, if possible. Their change was committed in a database without Signalbox's tables.

    They do not wait for their trace, because a crash until then would lose them and their deliveries.
    """
    for event in events:
        _resolve_schema(event)
        event.trace.pending.append(event)
        event.trace.must_persist = True
        if event.trace not in _pending_traces:
            _pending_traces.append(event.trace)
    flush()


def _resolve_schema(event: PendingEvent) -> None:
    if event.schema is None and apps.ready:
        event.schema = writer.resolve_schema(connections[get_events_database()])
    if event.schema is not None:
        event.trace.row_schemas.setdefault(event.schema, 0)


def write_now(event: PendingEvent) -> None:
    """Write ``event`` now, because it has deliveries that a crash must not lose.

    Within an event loop it is queued, because an event loop must not wait for a database. Raises ``DatabaseError`` if
    it can't be written.
    """
    if in_event_loop():
        enqueue(event)
        return
    connection = connections[get_events_database()]
    is_nested = backends.in_transaction(connection) or backends.has_foreign_transaction(connection)
    if not writer.has_tables(connection):
        raise DatabaseError("The tables of Signalbox do not exist.")
    _resolve_schema(event)
    groups, waiting = writer.group_by_schema(connection, [event], _get_event_schema)
    if waiting:
        raise DatabaseError(f"The schema {event.schema!r} has no tables of Signalbox.")
    for schema in groups:
        writer.write(
            connection,
            serializer.build_batch([event]),
            nested=is_nested,
            schema=schema,
            lock_timeout=conf.get().LOCK_TIMEOUT,
        )
    event.written_to = connection.alias


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
    return trace.kind in ("request", "test") or tracing.now() - trace.started < LONG_TRACE_NS


def finish_trace(trace: Trace, status: str = "") -> None:
    """Finish ``trace``: set its duration and status, and write its events and its row."""
    if trace.duration is not None:
        return
    trace.duration = tracing.now() - trace.started
    trace.status = trace.status or status
    trace.events = trace.count_events() - (trace.suppressed or 0)
    trace.freeze_actor()
    if _needs_row(trace):
        if not trace.row_schemas:
            schema = writer.resolve_schema(connections[get_events_database()])
            if schema is not None:
                trace.row_schemas[schema] = 0
        _finished_traces.append(trace)
    if trace.pending or trace.updates:
        flush_trace(trace)
    else:
        flush()


def flush_for_read() -> None:
    """Write pending events before a read. A test reads its own events, so those of its open trace are written too."""
    chain = list(tracing.iter_trace_stack())
    if any(trace.kind == "test" for trace in chain):
        _pending_traces.extend(
            trace for trace in chain if (trace.pending or trace.updates) and trace not in _pending_traces
        )
    flush()


def has_pending() -> bool:
    """Return True if events or traces are pending."""
    return bool(_pending_traces or _finished_traces)


def discard_pending() -> None:
    """Discard pending events and traces, so that the next test does not find those of this one."""
    with _lock:
        for trace in _pending_traces:
            trace.pending.clear()
            trace.updates.clear()
            trace.must_persist = False
        _pending_traces.clear()
        _finished_traces.clear()
    if tracing.get_process_trace().row_database:
        tracing.get_process_trace().row_database = DELETED_DATABASE


def flush_trace(trace: Trace) -> None:
    """Write the pending events of ``trace`` now, if possible."""
    if trace not in _pending_traces:
        _pending_traces.append(trace)
    flush()


def flush() -> None:
    """Write pending events. Errors are never raised to the application; unwritten events stay pending."""
    if not has_pending() or getattr(_flush_guard, "blocked", False) or not apps.ready:
        return
    if in_event_loop():
        _drop_excess()
        return
    _flush_guard.blocked = True
    try:
        connection = connections[get_events_database()]
        if _can_write(connection):
            _flush(connection)
        else:
            _drop_excess()
    except (AssertionError, RuntimeError) as error:  # test tools raise these if a test may not use the database
        logger.debug("Events wait, as they could not be written: %r", error)
        _drop_excess()
    except Exception as error:  # noqa: BLE001 - the database may be unavailable
        interrupts.raise_if_interrupt(error)
        writer.write_stats.failures += 1
        level = logging.ERROR if writer.write_stats.failures == 1 else logging.DEBUG
        logger.log(level, "Events wait, as they could not be written: %r", error)
        _drop_excess()
    finally:
        _flush_guard.blocked = False


@contextmanager
def suspended() -> Iterator[None]:
    """Write nothing in the block. It closes a connection, and a write would open it again."""
    before = getattr(_flush_guard, "blocked", False)
    _flush_guard.blocked = True
    try:
        yield
    finally:
        _flush_guard.blocked = before


def get_events_database() -> str:
    """Return the alias of the database for traces, and for events without a change in another database."""
    from signalbox.models import Trace  # not apps.get_model(): a test can limit the current apps

    alias: str = router.db_for_write(Trace)
    return alias


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
        if not any(map(_uses_database, (*_pending_traces, *_finished_traces))):
            return False
    elif not connection.autocommit or backends.has_foreign_transaction(connection):
        return False
    return writer.has_tables(connection)


def _is_shared_by_threads(connection: BaseDatabaseWrapper) -> bool:
    """Return True if another thread has lent its connection to this one, as Django's live server for tests does.

    A transaction of ours would collide with those of that thread. It writes the pending events itself.
    """
    return connection.allow_thread_sharing and connection._thread_ident != threading.get_ident()  # type: ignore[attr-defined]


def _uses_database(trace: Trace) -> bool:
    """Return True if the work of ``trace`` uses a database: by its kind, or because it changed something."""
    return trace.must_persist or trace.kind in ("request", "task", "test", "custom")


def _must_persist(event: PendingEvent) -> bool:
    """Return True if ``event`` is about a change, committed or not, or has deliveries."""
    return (bool(event.using) and event.outcome is not Outcome.SENT) or _has_subscriber(event)


def _has_subscriber(event: PendingEvent) -> bool:
    """Return True if ``event`` has durable receivers."""
    return event.outcome is not Outcome.ROLLED_BACK and deliveries.get_source().has_subscriber(
        event.signal, event.sender
    )


def check_delivery_tables(connection: BaseDatabaseWrapper, events: Iterable[PendingEvent]) -> None:
    """Raise ``EnqueueError`` if ``events`` have durable receivers and no database has the tables for their deliveries.

    While ``migrate`` runs, the tables may be created later: then the events are written when it has finished.
    """
    names = sorted({f"{event.signal} of {event.sender}" for event in events if _has_subscriber(event)})
    if not names or _is_migrating():
        return
    alias = get_events_database()
    if alias != connection.alias and writer.has_tables(connections[alias]):
        return
    raise deliveries.EnqueueError(
        f"{', '.join(names)} has durable receivers, but database {alias!r} has no tables for their deliveries: "
        "run manage.py migrate."
    )


def _is_migrating() -> bool:
    trace: Trace | None = tracing.get_current_trace()
    while trace is not None:
        if trace.kind == "command" and trace.name == "migrate":
            return True
        trace = trace.previous
    return False


def _in_testcase_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the open transaction is that of a ``TestCase``, which contains everything that the test does."""
    return all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks) and bool(
        connection.atomic_blocks
    )


class _PendingRow(NamedTuple):
    """A pending row: of an event, or without one the trace's own."""

    trace: Trace
    event: PendingEvent | None = None
    is_update: bool = False
    row_schema: Schema = None
    """The schema of a trace's row."""

    @property
    def schema(self) -> Schema:
        """The schema that it belongs to."""
        return self.row_schema if self.event is None else self.event.schema

    @property
    def is_written(self) -> bool:
        """Whether a trace's row exists in its schema."""
        if self.row_schema is None:
            return bool(self.trace.row_database)
        return self.trace.row_schemas[self.row_schema] > 0

    @property
    def key(self) -> tuple[str, int, bool]:
        """Identifier of its row."""
        return (self.trace.id, self.trace.started // 1000 if self.event is None else self.event.span, self.is_update)


def _flush(connection: BaseDatabaseWrapper) -> None:
    with _lock:  # another thread may be appending: lists are emptied, never replaced
        finished = [_finished_traces.popleft() for _ in range(len(_finished_traces))]
        traces = [_pending_traces.popleft() for _ in range(len(_pending_traces))]
        for trace in traces:  # before its events are taken, as another thread may add one
            trace.must_persist = False
        rows = [
            _PendingRow(trace, row_schema=schema)
            for trace in (*finished, *_get_process_trace_to_write(traces))
            for schema in _get_row_schemas(trace)
        ]
        rows += [_PendingRow(trace, event) for trace in traces for event in _take_all(trace.pending)]
        late = [(trace, event) for trace in traces for event in _take_all(trace.updates) if event.written_to]
    elsewhere: dict[str, list[_PendingRow]] = {}
    for trace, event in late:
        target = rows if event.written_to == connection.alias else elsewhere.setdefault(event.written_to, [])
        target.append(_PendingRow(trace, event, is_update=True))
    in_flight = list(chain(rows, *elsewhere.values()))
    _rows_in_flight.extend(in_flight)
    try:
        _write(connection, rows)
        for alias, other_rows in elsewhere.items():
            if _can_write_updates(connections[alias]):
                _write(connections[alias], other_rows)
    finally:
        _requeue(list(chain(rows, *elsewhere.values())))
        with _lock:
            written = set(map(id, in_flight))
            _rows_in_flight[:] = [row for row in _rows_in_flight if id(row) not in written]
    if rows:
        _drop_excess()


def _get_row_schemas(trace: Trace) -> list[Schema]:
    """Return the schemas in which the row of ``trace`` is to be inserted or completed."""
    if not trace.row_schemas:
        return [None]
    complete = 1 if trace.duration is None else 2
    return [schema for schema, state in trace.row_schemas.items() if state < complete]


def _write(connection: BaseDatabaseWrapper, rows: list[_PendingRow]) -> None:
    """Write ``rows`` by schema, and remove those from the list that need no other attempt."""
    groups, waiting = writer.group_by_schema(connection, rows, _get_row_schema)
    left: list[_PendingRow] = []
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


def _get_row_schema(row: _PendingRow) -> Schema:
    return row.schema


def _get_event_schema(event: PendingEvent) -> Schema:
    return event.schema


def _write_group(connection: BaseDatabaseWrapper, rows: list[_PendingRow], schema: str | None) -> None:
    """Write ``rows`` in parts, and remove those from the list that need no other attempt.

    They do not wait for a lock on a table. Only deliveries wait for ``LOCK_TIMEOUT``, as they are more urgent.
    """
    backend = backends.get_backend(connection)
    conflicts = 0
    while rows:
        now = rows[:MAX_BATCH_ROWS]
        written: list[batches.Batch] = []
        try:
            batch = _build_batch(now)
            lock_timeout = conf.get().LOCK_TIMEOUT if batch.deliveries else 0.0
            for part, error in writer.write_bisecting(connection, batch, schema=schema, lock_timeout=lock_timeout):
                written.append(part)
                if error is not None:
                    writer.count_dropped(part, error)
        except BaseException as error:
            done = {key for part in written for key in _iter_row_keys(part)}
            rows[: len(now)] = [one for one in now if one.key not in done]
            _mark_written(connection, [one for one in now if one.key in done])
            if backend.is_conflict(error) and not backend.in_transaction() and conflicts < MAX_CONFLICTS:
                conflicts += 1
                continue
            if isinstance(error, DatabaseError) and backend.is_permission_error(error):
                denied = sum(row.event is not None for row in rows)
                writer.count_denied(connection, denied, error)
                rows.clear()
                return
            raise
        del rows[: len(now)]
        _mark_written(connection, now)


def _build_batch(rows: list[_PendingRow]) -> batches.Batch:
    own = [one for one in rows if one.event is None]
    return serializer.build_batch(
        [one.event for one in rows if one.event is not None and not one.is_update],
        traces=serializer.build_trace_rows(one.trace for one in own if not one.is_written),
        event_updates=serializer.build_event_updates(
            one.event for one in rows if one.event is not None and one.is_update
        ),
        trace_updates=serializer.build_trace_updates(one.trace for one in own if one.is_written),
        on_delivery_error=_log_undeliverable,
    )


def _log_undeliverable(event: PendingEvent, error: Exception) -> None:
    """Log that no delivery can be created for this event. The event itself is still written."""
    logger.critical("No delivery of %s from %s %s can be made: %r", event.signal, event.sender, event.key, error)


def _iter_row_keys(batch: batches.Batch) -> Iterator[tuple[str, int, bool]]:
    """Return the ``_PendingRow.key`` of each row."""
    yield from ((row[0], row[5], False) for row in batch.traces)
    yield from ((row[6], row[7], False) for row in batch.trace_updates)
    yield from ((row[1], row[2], False) for row in batch.events)
    yield from ((row[3], row[4], True) for row in batch.event_updates)


def _mark_written(connection: BaseDatabaseWrapper, written: list[_PendingRow]) -> None:
    for trace, event, _, schema in written:
        if event is None:
            trace.row_database = _get_database_name(connection)
            if schema is not None:
                trace.row_schemas[schema] = 1 if trace.duration is None else 2
        else:
            event.written_to = connection.alias


def _requeue(rows: list[_PendingRow]) -> None:
    """Put unwritten rows back at the front of the queues."""
    finished = {
        id(one.trace): one.trace for one in reversed(rows) if one.event is None and one.trace.duration is not None
    }
    _finished_traces.extendleft(finished.values())
    held: dict[tuple[int, bool], tuple[Trace, list[PendingEvent]]] = {}
    for trace, event, late, _ in rows:
        if event is not None:
            held.setdefault((id(trace), late), (trace, []))[1].append(event)
    with _lock:
        for (_, late), (trace, events) in reversed(held.items()):
            (trace.updates if late else trace.pending)[:0] = events
            trace.must_persist = trace.must_persist or any(map(_must_persist, events))
            if trace not in _pending_traces:
                _pending_traces.appendleft(trace)


def _get_process_trace_to_write(traces: list[Trace]) -> list[Trace]:
    """Return the process's trace if its row is pending. It is written with its first events, not when it finishes."""
    return [
        trace
        for trace in traces
        if tracing.is_process_trace(trace)
        and trace.duration is None
        and (0 in trace.row_schemas.values() if trace.row_schemas else not trace.row_database)
    ]


def _take_all(items: list[PendingEvent]) -> list[PendingEvent]:
    """Remove and return the current items."""
    found = items[:]
    del items[: len(found)]
    return found


def _can_write_updates(connection: BaseDatabaseWrapper) -> bool:
    """Return True if events on ``connection`` can be updated. It is not the connection of ``get_events_database()``."""
    if connection.in_atomic_block:
        return _in_testcase_transaction(connection)
    if backends.is_pipeline_open(connection):
        return False
    return connection.get_autocommit() and not backends.has_foreign_transaction(connection)


def _needs_row(trace: Trace) -> bool:
    """Return True if the row of a finished trace must be written or updated, because something happened in it."""
    if trace.row_database and trace.row_database != _get_database_name(connections[get_events_database()]):
        return False  # its row was in a test database
    return trace.events > 0 or (trace.suppressed is None and any(trace.init_counts.values()))


def _get_database_name(connection: BaseDatabaseWrapper) -> str:
    return str(connection.settings_dict["NAME"])


def _drop_excess() -> None:
    """Drop the oldest events beyond ``MAX_PENDING``, and a tenth more, so that not every event logs a line."""
    with _lock:
        excess = sum(len(trace.pending) for trace in _pending_traces) + len(_finished_traces) - MAX_PENDING
        if excess <= 0:
            return
        excess += MAX_PENDING // 10
        dropped = 0
        while dropped < excess and _pending_traces:
            pending = _pending_traces[0].pending
            oldest = pending[: excess - dropped]
            del pending[: len(oldest)]
            dropped += len(oldest)
            if not pending:
                _pending_traces.popleft()
        while dropped < excess and _finished_traces:
            _finished_traces.popleft()
            dropped += 1
        writer.write_stats.dropped += dropped
    logger.error("%d events waited too long for the database and are dropped.", dropped)


EXIT_TIMEOUT: Final = 1.2
"""Seconds for which the end of the process waits for a database server. Ending the interpreter takes time as well."""


class _ExitThread:
    """A thread that writes what is pending when the process ends.

    A connection to a server that does not answer can block for minutes, and only another thread can give up waiting for
    it. The thread starts with the first event, because none can be started while the interpreter shuts down. It does
    not run during a fork, which warns in a process with several threads.
    """

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._is_exiting = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signalbox-exit", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._wake.wait()
        if not self._is_exiting:
            return
        try:
            _write_at_exit()
        except Exception as error:  # noqa: BLE001 - the process ends: no other code handles it
            logger.debug("Events could not be written as the process ends: %r", error)
        finally:
            self._done.set()

    def stop(self) -> None:
        """End the thread without writing."""
        self._wake.set()
        self._thread.join(EXIT_TIMEOUT)

    def write(self) -> bool:
        """Write what is pending. Return False if that takes more than ``EXIT_TIMEOUT``."""
        self._is_exiting = True
        self._wake.set()
        return self._done.wait(EXIT_TIMEOUT)


_exit_thread: _ExitThread | None = None
_has_exit_thread = False
"""Whether ``prepare_exit()`` was called in this process, since the last fork."""


def prepare_exit() -> None:
    """Start what writes the pending events when the process ends, unless it has been started."""
    global _exit_thread, _has_exit_thread
    if _has_exit_thread or not apps.ready:
        return
    _has_exit_thread = True
    if connections[get_events_database()].vendor == "sqlite":  # no server, and a database may be in memory
        return
    with suppress(RuntimeError):  # no thread can be started here: the process ends as without one
        _exit_thread = _ExitThread()


def _stop_exit_thread() -> None:
    global _exit_thread, _has_exit_thread
    thread, _exit_thread, _has_exit_thread = _exit_thread, None, False
    if thread is not None:
        thread.stop()


def _flush_at_exit() -> None:
    thread = _exit_thread
    if thread is None:
        _write_at_exit()
    elif not thread.write():
        logger.error("The database does not answer. The process ends without waiting for it.")
    _log_lost_events()


def _write_at_exit() -> None:
    """Finish the trace of the process and write what is pending."""
    ambient = tracing.get_process_trace()
    reopened = None
    connection = connections[get_events_database()]
    is_used = any(map(_uses_database, (*_pending_traces, *_finished_traces)))
    if connection.connection is None and (is_used or ambient.row_database == _get_database_name(connection)):
        reopened = connection
        with suppress(Exception):  # the database may be unavailable, or a deleted test database
            connection.ensure_connection()  # before the trace finishes, because this is an event too
    if ambient.row_database or ambient.pending or any(ambient.init_counts.values()):
        finish_trace(ambient)
    flush()
    if reopened is not None:  # no other code closes it
        reopened.close()


def _log_lost_events() -> None:
    """Log events that are still pending when the process ends, without those of commands that use no database."""
    lost = [event for trace in list(_pending_traces) if _uses_database(trace) for event in trace.pending]
    lost += [row.event for row in list(_rows_in_flight) if row.event is not None and not row.is_update]
    if lost:
        writer.write_stats.dropped += len(lost)
        logger.error(
            "%d events could not be written before the process ended, and are lost: durable receivers waited for %d.",
            len(lost),
            sum(map(_has_subscriber, lost)),
        )


atexit.register(_flush_at_exit)


def _after_fork() -> None:
    """Discard pending events in a forked child. The parent writes them."""
    global _lock, _flush_guard, _exit_thread, _has_exit_thread
    _lock, _flush_guard = threading.Lock(), threading.local()
    _exit_thread, _has_exit_thread = None, False
    _rows_in_flight.clear()
    discard_pending()


os.register_at_fork(before=_stop_exit_thread, after_in_child=_after_fork)
