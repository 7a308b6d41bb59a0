"""The one place through which events of no transaction leave, with the traces that end.

They wait in their trace and go out together when it ends; where they can't be written at once (a transaction is open,
an event loop is running, the tables are not there yet, the database is away) they wait for the next occasion.
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
from django.db import connections, router

from signalbox.core import tracing
from signalbox.core.event import Outcome
from signalbox.pipeline import backends, batches, deliveries, serializer, writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import PendingEvent
    from signalbox.core.tracing import Trace

logger = logging.getLogger("signalbox")

MAX_PENDING: Final = 10_000
"""Events that wait for a database which is away; beyond that the oldest are dropped, counted and logged."""

MAX_BATCH_ROWS: Final = 2_000
"""Rows that one statement writes, so that neither side has to hold all that may have come together."""

FLUSH_THRESHOLD: Final = 1000
"""Events that wait in memory for the end of their trace, or of their transaction; more are written early."""

LONG_TRACE_NS: Final = 10_000_000_000
"""Nanoseconds after which work is taken for such that stays: its events leave as they come."""

DELETED_DATABASE: Final = "(gone)"
"""No database's name: a trace's row was written to that of a test, which may go, and the row with it."""

_pending_traces: deque[Trace] = deque()
"""Traces with events that are to leave."""
_finished_traces: deque[Trace] = deque()
"""Traces whose own rows are to be written."""
_lock = threading.Lock()
_flush_guard = threading.local()


def enqueue(event: PendingEvent) -> None:
    """Let ``draft``, which belongs to no open transaction, leave with its trace."""
    trace = event.trace
    if trace.suppressed is not None:
        trace.suppressed += 1
        return
    trace.pending.append(event)
    if event.using or deliveries.get_source() is not deliveries.NO_DELIVERIES:
        trace.must_persist = trace.must_persist or _must_persist(event)
    if not should_defer(trace):
        flush_trace(trace)


def enqueue_committed(events: Iterable[PendingEvent]) -> None:
    """Let ``drafts``, whose change has just been committed where there are no tables, leave now: neither they nor their
    deliveries may be lost with their trace."""
    for draft in events:
        draft.trace.pending.append(draft)
        draft.trace.must_persist = True
        if draft.trace not in _pending_traces:
            _pending_traces.append(draft.trace)
    flush()


def write_now(event: PendingEvent) -> None:
    """Write ``draft``, which has deliveries, now: they must not be lost with its trace.

    Within an event loop, which must not wait for a database, it leaves with its trace nonetheless.
    Raises ``DatabaseError`` if it can't be written.
    """
    if in_event_loop():
        enqueue(event)
        return
    connection = connections[get_events_database()]
    is_nested = backends.in_transaction(connection) or backends.has_foreign_transaction(connection)
    writer.write(connection, serializer.build_batch([event]), nested=is_nested)
    event.written_to = connection.alias


def enqueue_update(event: PendingEvent) -> None:
    """Let what became known of ``draft`` only after it was written follow it."""
    trace = event.trace
    if event not in trace.updates:
        trace.updates.append(event)
    if not should_defer(trace):
        flush_trace(trace)


def should_defer(trace: Trace) -> bool:
    """Tell whether the events of ``trace`` wait for its end."""
    if trace.duration is not None or tracing.is_process_trace(trace) or trace.kind == "shell":
        return False
    if len(trace.pending) >= FLUSH_THRESHOLD or len(trace.updates) >= FLUSH_THRESHOLD:
        return False
    return trace.kind in ("request", "test") or tracing.now() - trace.started < LONG_TRACE_NS


def finish_trace(trace: Trace, status: str = "") -> None:
    """End ``trace``: note how long it took and let everything in it leave."""
    if trace.duration is not None:
        return
    trace.duration = tracing.now() - trace.started
    trace.status = trace.status or status
    trace.events = trace.count_events() - (trace.suppressed or 0)
    trace.freeze_actor()
    if _needs_row(trace):
        _finished_traces.append(trace)
    if trace.pending or trace.updates:
        flush_trace(trace)
    else:
        flush()


def flush_for_read() -> None:
    """Write what waits, as somebody reads; of a test also before its trace ends, as it reads what it did itself."""
    chain = list(tracing.iter_trace_stack())
    if any(trace.kind == "test" for trace in chain):
        _pending_traces.extend(
            trace for trace in chain if (trace.pending or trace.updates) and trace not in _pending_traces
        )
    flush()


def has_pending() -> bool:
    """Tell whether something waits to be written."""
    return bool(_pending_traces or _finished_traces)


def discard_pending() -> None:
    """Drop what waits: a test has ended, and the next one is not to find it in its database."""
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
    """Let what waits in ``trace`` leave now, if it can."""
    if trace not in _pending_traces:
        _pending_traces.append(trace)
    flush()


def flush() -> None:
    """Write what waits. Whatever stands in the way is no concern of the application: the rest waits on."""
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
    except (AssertionError, RuntimeError) as error:  # what test tools raise where a test may not use the database
        logger.debug("Events wait, as they could not be written: %r", error)
        _drop_excess()
    except Exception as error:  # noqa: BLE001 - the database may be away
        writer.write_stats.failures += 1
        level = logging.ERROR if writer.write_stats.failures == 1 else logging.DEBUG
        logger.log(level, "Events wait, as they could not be written: %r", error)
        _drop_excess()
    finally:
        _flush_guard.blocked = False


@contextmanager
def suspended() -> Iterator[None]:
    """Let nothing leave in the block: a connection is being closed, and must not be opened again meanwhile."""
    before = getattr(_flush_guard, "blocked", False)
    _flush_guard.blocked = True
    try:
        yield
    finally:
        _flush_guard.blocked = before


def get_events_database() -> str:
    """Return the alias of the database that holds traces, and the events that no change ties to another."""
    alias: str = router.db_for_write(apps.get_model("signalbox", "Trace"))
    return alias


def in_event_loop() -> bool:
    """Tell whether an event loop runs in this thread, which must not wait for a database."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _can_write(connection: BaseDatabaseWrapper) -> bool:
    if connection.in_atomic_block:
        if (
            connection.connection is None
            or not _in_testcase_transaction(connection)
            or backends.is_transaction_aborted(connection)
        ):
            return False
    elif connection.connection is None:
        # Commands such as ``collectstatic`` run where there is no database: only work that has one opens it.
        if not any(map(_uses_database, (*_pending_traces, *_finished_traces))):
            return False
    elif not connection.autocommit or backends.has_foreign_transaction(connection):
        return False
    return writer.has_tables(connection)


def _uses_database(trace: Trace) -> bool:
    """Tell whether ``trace`` is work that has a database: by its kind, or as it changed something."""
    return trace.must_persist or trace.kind in ("request", "task", "test", "custom")


def _must_persist(event: PendingEvent) -> bool:
    """Tell whether ``draft`` is of a change in some database, whatever became of it, or has deliveries."""
    return (bool(event.using) and event.outcome is not Outcome.SENT) or _has_subscriber(event)


def _has_subscriber(event: PendingEvent) -> bool:
    """Tell whether durable receivers wait for ``draft``."""
    return event.outcome is not Outcome.ROLLED_BACK and deliveries.get_source().has_subscriber(
        event.signal, event.sender
    )


def _in_testcase_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the open transaction is a ``TestCase``'s, which holds everything that the test does."""
    return all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks) and bool(
        connection.atomic_blocks
    )


class _PendingRow(NamedTuple):
    """A row that is to be written: of a draft, or without one the trace's own."""

    trace: Trace
    event: PendingEvent | None = None
    is_update: bool = False

    @property
    def key(self) -> tuple[str, int, bool]:
        """What tells its row from others."""
        return (self.trace.id, self.trace.started // 1000 if self.event is None else self.event.span, self.is_update)


def _flush(connection: BaseDatabaseWrapper) -> None:
    with _lock:  # another thread may be appending: lists are emptied, never replaced
        ended = [_finished_traces.popleft() for _ in range(len(_finished_traces))]
        traces = [_pending_traces.popleft() for _ in range(len(_pending_traces))]
        for trace in traces:  # before its events are taken: another thread may be adding one that presses
            trace.must_persist = False
        due = [_PendingRow(trace) for trace in (*ended, *_get_process_trace_to_write(traces))]
        due += [_PendingRow(trace, draft) for trace in traces for draft in _take_all(trace.pending)]
        late = [(trace, draft) for trace in traces for draft in _take_all(trace.updates) if draft.written_to]
    elsewhere: dict[str, list[_PendingRow]] = {}
    for trace, draft in late:
        there = due if draft.written_to == connection.alias else elsewhere.setdefault(draft.written_to, [])
        there.append(_PendingRow(trace, draft, is_update=True))
    try:
        _write(connection, due)
        for alias, rows in elsewhere.items():
            if _can_write_updates(connections[alias]):
                _write(connections[alias], rows)
    finally:
        _requeue(list(chain(due, *elsewhere.values())))


def _write(connection: BaseDatabaseWrapper, rows: list[_PendingRow]) -> None:
    """Write ``due``, so many rows at once, and take out of it what needs no other attempt."""
    while rows:
        now = rows[:MAX_BATCH_ROWS]
        written: list[batches.Batch] = []
        try:
            for part, error in writer.write_bisecting(connection, _build_batch(now)):
                written.append(part)
                if error is not None:
                    writer.count_dropped(part, error)
        except BaseException:
            done = {key for part in written for key in _iter_row_keys(part)}
            rows[: len(now)] = [one for one in now if one.key not in done]
            _mark_written(connection, [one for one in now if one.key in done])
            raise
        del rows[: len(now)]
        _mark_written(connection, now)


def _build_batch(rows: list[_PendingRow]) -> batches.Batch:
    own = [one.trace for one in rows if one.event is None]
    return serializer.build_batch(
        [one.event for one in rows if one.event is not None and not one.is_update],
        traces=serializer.build_trace_rows(trace for trace in own if not trace.row_database),
        event_updates=serializer.build_event_updates(
            one.event for one in rows if one.event is not None and one.is_update
        ),
        trace_updates=serializer.build_trace_updates(trace for trace in own if trace.row_database),
        on_delivery_error=_log_undeliverable,
    )


def _log_undeliverable(event: PendingEvent, error: Exception) -> None:
    """Tell of deliveries that can't be made, and never could be: the event goes without, and nothing waits for it."""
    logger.critical("No delivery of %s from %s %s can be made: %r", event.signal, event.sender, event.key, error)


def _iter_row_keys(batch: batches.Batch) -> Iterator[tuple[str, int, bool]]:
    """Return the ``_Due.key`` of each row."""
    yield from ((row[0], row[5], False) for row in batch.traces)
    yield from ((row[6], row[7], False) for row in batch.trace_updates)
    yield from ((row[1], row[2], False) for row in batch.events)
    yield from ((row[3], row[4], True) for row in batch.event_updates)


def _mark_written(connection: BaseDatabaseWrapper, written: list[_PendingRow]) -> None:
    for trace, draft, _ in written:
        if draft is None:
            trace.row_database = _get_database_name(connection)
        else:
            draft.written_to = connection.alias


def _requeue(rows: list[_PendingRow]) -> None:
    """Let what could not be written wait on, before what has come meanwhile."""
    _finished_traces.extendleft(
        one.trace for one in reversed(rows) if one.event is None and one.trace.duration is not None
    )
    held: dict[tuple[int, bool], tuple[Trace, list[PendingEvent]]] = {}
    for trace, draft, late in rows:
        if draft is not None:
            held.setdefault((id(trace), late), (trace, []))[1].append(draft)
    with _lock:
        for (_, late), (trace, drafts) in reversed(held.items()):
            (trace.updates if late else trace.pending)[:0] = drafts
            trace.must_persist = trace.must_persist or any(map(_must_persist, drafts))
            if trace not in _pending_traces:
                _pending_traces.appendleft(trace)


def _get_process_trace_to_write(traces: list[Trace]) -> list[Trace]:
    """Return the process's trace if its row is due: with its first events, as nobody can wait for its end."""
    return [
        trace
        for trace in traces
        if tracing.is_process_trace(trace) and not trace.row_database and trace.duration is None
    ]


def _take_all(items: list[PendingEvent]) -> list[PendingEvent]:
    """Take out what is in ``held`` now."""
    found = items[:]
    del items[: len(found)]
    return found


def _can_write_updates(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether what became known late can follow its events on ``connection``, which is not that of ``home()``."""
    if connection.in_atomic_block:
        return _in_testcase_transaction(connection)
    return connection.get_autocommit() and not backends.has_foreign_transaction(connection)


def _needs_row(trace: Trace) -> bool:
    """Tell whether the trace's own row is due, or its completion: when it has ended and something happened in it."""
    if trace.row_database and trace.row_database != _get_database_name(connections[get_events_database()]):
        return False  # it was in a test's database
    return trace.events > 0 or (trace.suppressed is None and any(trace.init_counts.values()))


def _get_database_name(connection: BaseDatabaseWrapper) -> str:
    return str(connection.settings_dict["NAME"])


def _drop_excess() -> None:
    """Drop the oldest of what waits beyond ``MOST_WAITING``, and then some: not one and a line in the log for each."""
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


def _flush_at_exit() -> None:
    ambient = tracing.get_process_trace()
    reopened = None
    if ambient.row_database:
        connection = connections[get_events_database()]
        if connection.connection is None and ambient.row_database == _get_database_name(connection):
            reopened = connection
            with suppress(Exception):  # the database may be away, or a test's that is gone
                connection.ensure_connection()  # now: that it is opened is an event, which is to be counted
    if ambient.row_database or ambient.pending or any(ambient.init_counts.values()):
        finish_trace(ambient)
    flush()
    if reopened is not None:  # nobody else will close it
        reopened.close()
    _log_lost_events()


def _log_lost_events() -> None:
    """Log what still waits when the process ends. That a command without a database began is no loss."""
    lost = [draft for trace in _pending_traces if _uses_database(trace) for draft in trace.pending]
    if lost:
        writer.write_stats.dropped += len(lost)
        logger.error(
            "%d events could not be written before the process ended, and are lost: durable receivers waited for %d.",
            len(lost),
            sum(map(_has_subscriber, lost)),
        )


atexit.register(_flush_at_exit)


def _after_fork() -> None:
    """What waits in the parent is the parent's to write."""
    global _lock, _flush_guard
    _lock, _flush_guard = threading.Lock(), threading.local()
    discard_pending()


os.register_at_fork(after_in_child=_after_fork)
