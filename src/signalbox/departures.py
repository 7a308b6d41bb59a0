"""The one place through which events of no transaction leave, with the traces that end.

They wait in their trace and go out together when it ends; where they can't be written at once (a transaction is open,
an event loop is running, the tables are not there yet, the database is away) they wait for the next occasion.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from django.apps import apps
from django.db import connections, router

from signalbox import context, store
from signalbox.event import Draft, Outcome

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.context import Trace

logger = logging.getLogger("signalbox")

MOST_WAITING: Final = 10_000
"""Events that wait for a database which is away; beyond that the oldest are dropped, counted and logged."""

PATIENCE: Final = 10_000_000_000
"""Nanoseconds after which a command is taken for one that stays: its events leave as they come."""

_waiting: deque[Trace] = deque()
_lock = threading.Lock()
_draining = threading.local()


def depart(draft: Draft) -> None:
    """Let ``draft``, which belongs to no open transaction, leave with its trace."""
    trace = draft.trace
    if trace.hushed is not None:
        trace.hushed += 1
        return
    trace.pending.append(draft)
    if not waits(trace):
        hurry(trace)


def depart_at_once(draft: Draft) -> None:
    """Write ``draft``, which has deliveries, now: they must not be lost with its trace.

    Within an event loop, which must not wait for a database, it leaves with its trace nonetheless.
    Raises ``DatabaseError`` if it can't be written.
    """
    if _in_event_loop():
        depart(draft)
        return
    connection = connections[home()]
    store.write(connection, store.batch_of([draft]))
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
    if trace.duration is not None or context.is_ambient(trace) or trace.kind == "shell":
        return False
    return trace.kind != "command" or context.now() - trace.started < PATIENCE


def end(trace: Trace, status: str = "") -> None:
    """End ``trace``: note how long it took and let everything in it leave."""
    if trace.duration is not None:
        return
    trace.duration = context.now() - trace.started
    trace.status = trace.status or status
    trace.events = trace.numbered() - (trace.hushed or 0)
    trace.settle_actor()
    if trace.pending or trace.late or _has_row(trace):
        hurry(trace)


def forget() -> None:
    """Drop what waits: a test has ended, and the next one is not to find it in its database."""
    with _lock:
        for trace in _waiting:
            trace.pending, trace.late = [], []
        _waiting.clear()


def hurry(trace: Trace) -> None:
    """Let what waits in ``trace`` leave now, if it can."""
    if trace not in _waiting:
        _waiting.append(trace)
    drain()


def drain() -> None:
    """Write what waits. Whatever stands in the way is no concern of the application: the rest waits on."""
    if not _waiting or getattr(_draining, "now", False) or not apps.ready or _in_event_loop():
        return
    _draining.now = True
    try:
        connection = connections[home()]
        if _may_write(connection):
            _drain(connection)
    except Exception as error:  # the database may be away, or closed to this test: see ``DatabaseOperationForbidden``
        store.tally.failures += 1
        level = logging.ERROR if store.tally.failures == 1 else logging.DEBUG
        logger.log(level, "Events wait, as they could not be written: %r", error)
        _limit()
    finally:
        _draining.now = False


def home() -> str:
    """Return the alias of the database that holds traces, and the events that no change ties to another."""
    alias: str = router.db_for_write(apps.get_model("signalbox", "Trace"))
    return alias


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _may_write(connection: BaseDatabaseWrapper) -> bool:
    if connection.connection is None:
        # Commands such as ``collectstatic`` run where there is no database: only work that has one opens it.
        if not any(trace.kind in ("request", "task", "test", "work") for trace in _waiting):
            return False
    elif store.in_transaction(connection) and not _in_test(connection):
        return False
    return store.ready(connection)


def _in_test(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the open transaction is a ``TestCase``'s, which holds everything that the test does."""
    return all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks) and bool(
        connection.atomic_blocks
    )


def _drain(connection: BaseDatabaseWrapper) -> None:
    with _lock:
        traces = [_waiting.popleft() for _ in range(len(_waiting))]
    taken = [(trace, trace.pending, trace.late) for trace in traces]
    for trace in traces:
        trace.pending, trace.late = [], []
    drafts = [draft for _, pending, _ in taken for draft in pending]
    batch = store.Batch(
        events=store.event_rows(drafts, Outcome.COMMITTED),
        traces=[store.trace_row(trace) for trace in traces if _has_row(trace)],
        late=[store.late_row(draft) for _, _, late in taken for draft in late if draft.written],
    )
    try:
        if batch:
            store.write(connection, batch, guarded=True)
    except BaseException:
        for trace, pending, late in taken:
            trace.pending[:0], trace.late[:0] = pending, late
        with _lock:
            _waiting.extendleft(reversed([trace for trace in traces if trace not in _waiting]))
        raise
    for draft in drafts:
        draft.written = True


def _has_row(trace: Trace) -> bool:
    """Tell whether the trace's own row is due: when it has ended and something happened in it."""
    happened = trace.events > 0 or (trace.hushed is None and any(trace.counts.values()))
    return trace.duration is not None and happened


def _limit() -> None:
    """Drop the oldest of what waits beyond ``MOST_WAITING``."""
    with _lock:
        number = sum(len(trace.pending) + 1 for trace in _waiting)
        while number > MOST_WAITING and _waiting:
            trace = _waiting.popleft()
            number -= len(trace.pending) + 1
            store.tally.dropped += len(trace.pending)
            logger.error("%d events waited too long for the database and are dropped.", len(trace.pending))
            trace.pending = []


def _leave_with_the_process() -> None:
    ambient = context.process()
    if ambient.pending or any(ambient.counts.values()):
        end(ambient)
    drain()


atexit.register(_leave_with_the_process)
