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
from signalbox.pipeline import backends, batches, writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Draft
    from signalbox.core.tracing import Trace

logger = logging.getLogger("signalbox")

MOST_WAITING: Final = 10_000
"""Events that wait for a database which is away; beyond that the oldest are dropped, counted and logged."""

MOST_AT_ONCE: Final = 2_000
"""Rows that one statement writes, so that neither side has to hold all that may have come together."""

SPILL: Final = 1000
"""Events that wait in memory for the end of their trace, or of their transaction; more are written early."""

PATIENCE: Final = 10_000_000_000
"""Nanoseconds after which work is taken for such that stays: its events leave as they come."""

GONE: Final = "(gone)"
"""No database's name: a trace's row was written to that of a test, which may go, and the row with it."""

_waiting: deque[Trace] = deque()
"""Traces with events that are to leave."""
_ended: deque[Trace] = deque()
"""Traces whose own rows are to be written."""
_lock = threading.Lock()
_draining = threading.local()


def depart(draft: Draft) -> None:
    """Let ``draft``, which belongs to no open transaction, leave with its trace."""
    trace = draft.trace
    if trace.hushed is not None:
        trace.hushed += 1
        return
    trace.pending.append(draft)
    if draft.using or writer.deliverer is not None:
        trace.pressing = trace.pressing or _presses(draft)
    if not waits(trace):
        hurry(trace)


def depart_committed(drafts: Iterable[Draft]) -> None:
    """Let ``drafts``, whose change has just been committed where there are no tables, leave now: neither they nor their
    deliveries may be lost with their trace."""
    for draft in drafts:
        draft.trace.pending.append(draft)
        draft.trace.pressing = True
        if draft.trace not in _waiting:
            _waiting.append(draft.trace)
    drain()


def depart_at_once(draft: Draft) -> None:
    """Write ``draft``, which has deliveries, now: they must not be lost with its trace.

    Within an event loop, which must not wait for a database, it leaves with its trace nonetheless.
    Raises ``DatabaseError`` if it can't be written.
    """
    if in_event_loop():
        depart(draft)
        return
    connection = connections[home()]
    writer.write(connection, writer.batch_of([draft]))
    draft.written = connection.alias


def complete_late(draft: Draft) -> None:
    """Let what became known of ``draft`` only after it was written follow it."""
    trace = draft.trace
    if draft not in trace.late:
        trace.late.append(draft)
    if not waits(trace):
        hurry(trace)


def waits(trace: Trace) -> bool:
    """Tell whether the events of ``trace`` wait for its end."""
    if trace.duration is not None or tracing.is_ambient(trace) or trace.kind == "shell":
        return False
    if len(trace.pending) >= SPILL or len(trace.late) >= SPILL:
        return False
    return trace.kind in ("request", "test") or tracing.now() - trace.started < PATIENCE


def end(trace: Trace, status: str = "") -> None:
    """End ``trace``: note how long it took and let everything in it leave."""
    if trace.duration is not None:
        return
    trace.duration = tracing.now() - trace.started
    trace.status = trace.status or status
    trace.events = trace.numbered() - (trace.hushed or 0)
    trace.settle_actor()
    if _has_row(trace):
        _ended.append(trace)
    if trace.pending or trace.late:
        hurry(trace)
    else:
        drain()


def show() -> None:
    """Write what waits, as somebody reads; of a test also before its trace ends, as it reads what it did itself."""
    chain = list(tracing.chain())
    if any(trace.kind == "test" for trace in chain):
        _waiting.extend(trace for trace in chain if (trace.pending or trace.late) and trace not in _waiting)
    drain()


def waiting() -> bool:
    """Tell whether something waits to be written."""
    return bool(_waiting or _ended)


def forget() -> None:
    """Drop what waits: a test has ended, and the next one is not to find it in its database."""
    with _lock:
        for trace in _waiting:
            trace.pending.clear()
            trace.late.clear()
            trace.pressing = False
        _waiting.clear()
        _ended.clear()
    if tracing.process().introduced:
        tracing.process().introduced = GONE


def hurry(trace: Trace) -> None:
    """Let what waits in ``trace`` leave now, if it can."""
    if trace not in _waiting:
        _waiting.append(trace)
    drain()


def drain() -> None:
    """Write what waits. Whatever stands in the way is no concern of the application: the rest waits on."""
    if not waiting() or getattr(_draining, "now", False) or not apps.ready:
        return
    if in_event_loop():
        _limit()
        return
    _draining.now = True
    try:
        connection = connections[home()]
        if _may_write(connection):
            _drain(connection)
        else:
            _limit()
    except (AssertionError, RuntimeError) as error:  # what test tools raise where a test may not use the database
        logger.debug("Events wait, as they could not be written: %r", error)
        _limit()
    except Exception as error:  # noqa: BLE001 - the database may be away
        writer.tally.failures += 1
        level = logging.ERROR if writer.tally.failures == 1 else logging.DEBUG
        logger.log(level, "Events wait, as they could not be written: %r", error)
        _limit()
    finally:
        _draining.now = False


@contextmanager
def held() -> Iterator[None]:
    """Let nothing leave in the block: a connection is being closed, and must not be opened again meanwhile."""
    before = getattr(_draining, "now", False)
    _draining.now = True
    try:
        yield
    finally:
        _draining.now = before


def home() -> str:
    """Return the alias of the database that holds traces, and the events that no change ties to another."""
    alias: str = router.db_for_write(apps.get_model("signalbox", "Trace"))
    return alias


def in_event_loop() -> bool:
    """Tell whether an event loop runs in this thread, which must not wait for a database."""
    return asyncio._get_running_loop() is not None  # ``get_running_loop()`` raises where there is none: that takes long


def _may_write(connection: BaseDatabaseWrapper) -> bool:
    if connection.in_atomic_block:
        if connection.connection is None or not _in_test(connection) or backends.aborted(connection):
            return False
    elif connection.connection is None:
        # Commands such as ``collectstatic`` run where there is no database: only work that has one opens it.
        if not any(map(_has_database, (*_waiting, *_ended))):
            return False
    elif not connection.autocommit:
        return False
    return writer.ready(connection)


def _has_database(trace: Trace) -> bool:
    """Tell whether ``trace`` is work that has a database: by its kind, or as it changed something."""
    return trace.pressing or trace.kind in ("request", "task", "test", "work")


def _presses(draft: Draft) -> bool:
    """Tell whether ``draft`` is of a change in some database, whatever became of it, or has deliveries."""
    return (bool(draft.using) and draft.outcome is not Outcome.SENT) or _delivers(draft)


def _delivers(draft: Draft) -> bool:
    """Tell whether durable receivers wait for ``draft``."""
    if writer.deliverer is None or draft.outcome is Outcome.ROLLED_BACK:
        return False
    return writer.deliverer.wants(draft.signal, draft.sender)


def _in_test(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the open transaction is a ``TestCase``'s, which holds everything that the test does."""
    return all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks) and bool(
        connection.atomic_blocks
    )


class _Due(NamedTuple):
    """A row that is to be written: of a draft, or without one the trace's own."""

    trace: Trace
    draft: Draft | None = None
    late: bool = False

    @property
    def key(self) -> tuple[str, int, bool]:
        """What tells its row from others."""
        return (self.trace.id, self.trace.started // 1000 if self.draft is None else self.draft.span, self.late)


def _drain(connection: BaseDatabaseWrapper) -> None:
    with _lock:  # another thread may be appending: lists are emptied, never replaced
        ended = [_ended.popleft() for _ in range(len(_ended))]
        traces = [_waiting.popleft() for _ in range(len(_waiting))]
        for trace in traces:  # before its events are taken: another thread may be adding one that presses
            trace.pressing = False
        due = [_Due(trace) for trace in (*ended, *_introduced(traces))]
        due += [_Due(trace, draft) for trace in traces for draft in _taken(trace.pending)]
        late = [(trace, draft) for trace in traces for draft in _taken(trace.late) if draft.written]
    elsewhere: dict[str, list[_Due]] = {}
    for trace, draft in late:
        there = due if draft.written == connection.alias else elsewhere.setdefault(draft.written, [])
        there.append(_Due(trace, draft, late=True))
    try:
        _write(connection, due)
        for alias, rows in elsewhere.items():
            if _may_write_late(connections[alias]):
                _write(connections[alias], rows)
    finally:
        _put_back(list(chain(due, *elsewhere.values())))


def _write(connection: BaseDatabaseWrapper, due: list[_Due]) -> None:
    """Write ``due``, so many rows at once, and take out of it what needs no other attempt."""
    while due:
        now = due[:MOST_AT_ONCE]
        written: list[batches.Batch] = []
        try:
            for part, error in writer.write_apart(connection, _batch(now)):
                written.append(part)
                if error is not None:
                    writer.drop(part, error)
        except BaseException:
            done = {key for part in written for key in _keys(part)}
            due[: len(now)] = [one for one in now if one.key not in done]
            _settle(connection, [one for one in now if one.key in done])
            raise
        del due[: len(now)]
        _settle(connection, now)


def _batch(due: list[_Due]) -> batches.Batch:
    own = [one.trace for one in due if one.draft is None]
    return writer.batch_of(
        [one.draft for one in due if one.draft is not None and not one.late],
        traces=writer.trace_rows(trace for trace in own if not trace.introduced),
        late=writer.late_rows(one.draft for one in due if one.draft is not None and one.late),
        ended=writer.ended_rows(trace for trace in own if trace.introduced),
        lost=_undeliverable,
    )


def _undeliverable(draft: Draft, error: Exception) -> None:
    """Tell of deliveries that can't be made, and never could be: the event goes without, and nothing waits for it."""
    logger.critical("No delivery of %s from %s %s can be made: %r", draft.signal, draft.sender, draft.key, error)


def _keys(part: batches.Batch) -> Iterator[tuple[str, int, bool]]:
    """Return the ``_Due.key`` of each row."""
    yield from ((row[0], row[5], False) for row in part.traces)
    yield from ((row[6], row[7], False) for row in part.ended)
    yield from ((row[1], row[2], False) for row in part.events)
    yield from ((row[3], row[4], True) for row in part.late)


def _settle(connection: BaseDatabaseWrapper, written: list[_Due]) -> None:
    for trace, draft, _ in written:
        if draft is None:
            trace.introduced = _database(connection)
        else:
            draft.written = connection.alias


def _put_back(due: list[_Due]) -> None:
    """Let what could not be written wait on, before what has come meanwhile."""
    _ended.extendleft(one.trace for one in reversed(due) if one.draft is None and one.trace.duration is not None)
    held: dict[tuple[int, bool], tuple[Trace, list[Draft]]] = {}
    for trace, draft, late in due:
        if draft is not None:
            held.setdefault((id(trace), late), (trace, []))[1].append(draft)
    with _lock:
        for (_, late), (trace, drafts) in reversed(held.items()):
            (trace.late if late else trace.pending)[:0] = drafts
            trace.pressing = trace.pressing or any(map(_presses, drafts))
            if trace not in _waiting:
                _waiting.appendleft(trace)


def _introduced(traces: list[Trace]) -> list[Trace]:
    """Return the process's trace if its row is due: with its first events, as nobody can wait for its end."""
    return [trace for trace in traces if tracing.is_ambient(trace) and not trace.introduced and trace.duration is None]


def _taken(held: list[Draft]) -> list[Draft]:
    """Take out what is in ``held`` now."""
    found = held[:]
    del held[: len(found)]
    return found


def _may_write_late(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether what became known late can follow its events on ``connection``, which is not that of ``home()``."""
    return _in_test(connection) if connection.in_atomic_block else connection.get_autocommit()


def _has_row(trace: Trace) -> bool:
    """Tell whether the trace's own row is due, or its completion: when it has ended and something happened in it."""
    if trace.introduced and trace.introduced != _database(connections[home()]):
        return False  # it was in a test's database
    return trace.events > 0 or (trace.hushed is None and any(trace.counts.values()))


def _database(connection: BaseDatabaseWrapper) -> str:
    return str(connection.settings_dict["NAME"])


def _limit() -> None:
    """Drop the oldest of what waits beyond ``MOST_WAITING``, and then some: not one and a line in the log for each."""
    with _lock:
        excess = sum(len(trace.pending) for trace in _waiting) + len(_ended) - MOST_WAITING
        if excess <= 0:
            return
        excess += MOST_WAITING // 10
        dropped = 0
        while dropped < excess and _waiting:
            pending = _waiting[0].pending
            oldest = pending[: excess - dropped]
            del pending[: len(oldest)]
            dropped += len(oldest)
            if not pending:
                _waiting.popleft()
        while dropped < excess and _ended:
            _ended.popleft()
            dropped += 1
        writer.tally.dropped += dropped
    logger.error("%d events waited too long for the database and are dropped.", dropped)


def _leave_with_the_process() -> None:
    ambient = tracing.process()
    reopened = None
    if ambient.introduced:
        connection = connections[home()]
        if connection.connection is None and ambient.introduced == _database(connection):
            reopened = connection
            with suppress(Exception):  # the database may be away, or a test's that is gone
                connection.ensure_connection()  # now: that it is opened is an event, which is to be counted
    if ambient.introduced or ambient.pending or any(ambient.counts.values()):
        end(ambient)
    drain()
    if reopened is not None:  # nobody else will close it
        reopened.close()
    _tell_what_is_lost()


def _tell_what_is_lost() -> None:
    """Log what still waits when the process ends. That a command without a database began is no loss."""
    lost = [draft for trace in _waiting if _has_database(trace) for draft in trace.pending]
    if lost:
        writer.tally.dropped += len(lost)
        logger.error(
            "%d events could not be written before the process ended, and are lost: durable receivers waited for %d.",
            len(lost),
            sum(map(_delivers, lost)),
        )


atexit.register(_leave_with_the_process)


def _after_fork() -> None:
    """What waits in the parent is the parent's to write."""
    global _lock, _draining
    _lock, _draining = threading.Lock(), threading.local()
    forget()


os.register_at_fork(after_in_child=_after_fork)
