"""Queues of events without an open transaction, and of finished traces, that are not written yet."""

from __future__ import annotations

import os
import threading
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from signalbox.core import loggers, tracing
from signalbox.core.event import Outcome
from signalbox.pipeline import dropped_events, routing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from signalbox.core.event import PendingEvent, Schema
    from signalbox.core.tracing import Trace
    from signalbox.pipeline.batches import RowKey

logger = loggers.get_logger("recording")

MAX_PENDING: Final = 10_000
"""Maximum number of pending events while the database is unavailable. Older ones are dropped, counted and logged."""

_traces: deque[Trace] = deque()
"""Traces with pending events."""
_finished_traces: deque[Trace] = deque()
"""Traces whose own rows are pending."""
_rows_in_flight: list[PendingRow] = []
"""Rows that are being written, which the queues do not contain meanwhile."""
_lock = threading.Lock()


class PendingRow(NamedTuple):
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
    def key(self) -> RowKey:
        """Identifier of its row."""
        return (self.trace.id, self.trace.started // 1000 if self.event is None else self.event.span, self.is_update)


# ------------------------------------------------------------------ adding


def add(trace: Trace) -> None:
    """Queue ``trace``, which has pending events or updates."""
    if trace not in _traces:
        _traces.append(trace)


def add_finished(trace: Trace) -> None:
    """Queue the row of a finished ``trace``."""
    _finished_traces.append(trace)


def must_persist(event: PendingEvent) -> bool:
    """Return True if ``event`` is about a change, committed or not, or has deliveries."""
    return (bool(event.using) and event.outcome is not Outcome.SENT) or routing.has_subscriber(event)


# ------------------------------------------------------------------ looking


def is_empty() -> bool:
    """Return True if no event and no trace is pending."""
    return not (_traces or _finished_traces)


def count_events() -> tuple[int, int]:
    """Return the number of pending events, and of those among them that a locked table has delayed."""
    in_flight = [row.event for row in list(_rows_in_flight) if row.event is not None and not row.is_update]
    events = [*chain.from_iterable(trace.pending[:] for trace in list(_traces)), *in_flight]
    return len(events), sum(event.is_late for event in events)


def count() -> int:
    """Return the number of pending events and of pending rows of traces."""
    with _lock:
        return sum(len(trace.pending) for trace in _traces) + len(_finished_traces)


def needs_database() -> bool:
    """Return True if a pending trace uses a database: by its kind, or because it changed something."""
    return any(map(_uses_database, (*_traces, *_finished_traces)))


def _uses_database(trace: Trace) -> bool:
    return trace.must_persist or trace.kind in ("request", "task", "test", "custom")


def get_lost_events() -> list[PendingEvent]:
    """Return the events that are lost if the process ends now, without those of commands that use no database."""
    lost = [event for trace in list(_traces) if _uses_database(trace) for event in trace.pending]
    return lost + [row.event for row in list(_rows_in_flight) if row.event is not None and not row.is_update]


# ------------------------------------------------------------------ taking


def take(alias: str) -> tuple[list[PendingRow], dict[str, list[PendingRow]]]:
    """Remove the pending rows from the queues until ``put_back()`` is called.

    Returns the rows for the database ``alias``, and the updates of events in other databases, by alias.
    """
    with _lock:  # another thread may be appending: lists are emptied, never replaced
        finished = [_finished_traces.popleft() for _ in range(len(_finished_traces))]
        traces = [_traces.popleft() for _ in range(len(_traces))]
        for trace in traces:  # before its events are taken, as another thread may add one
            trace.must_persist = False
        rows = [
            PendingRow(trace, row_schema=schema)
            for trace in (*finished, *_iter_new_process_traces(traces))
            for schema in _get_row_schemas(trace)
        ]
        rows += [PendingRow(trace, event) for trace in traces for event in _take_all(trace.pending)]
        late = [(trace, event) for trace in traces for event in _take_all(trace.updates) if event.written_to]
    elsewhere: dict[str, list[PendingRow]] = {}
    for trace, event in late:
        target = rows if event.written_to == alias else elsewhere.setdefault(event.written_to, [])
        target.append(PendingRow(trace, event, is_update=True))
    _rows_in_flight.extend(chain(rows, *elsewhere.values()))
    return rows, elsewhere


def put_back(taken: Iterable[PendingRow], unwritten: list[PendingRow]) -> None:
    """End the write of the rows that ``take()`` returned. The unwritten ones return to the front of the queues."""
    _requeue(unwritten)
    with _lock:
        done = set(map(id, taken))
        _rows_in_flight[:] = [row for row in _rows_in_flight if id(row) not in done]


def _get_row_schemas(trace: Trace) -> list[Schema]:
    """Return the schemas in which the row of ``trace`` is to be inserted or completed."""
    if not trace.row_schemas:
        return [None]
    complete = 1 if trace.duration is None else 2
    return [schema for schema, state in trace.row_schemas.items() if state < complete]


def _iter_new_process_traces(traces: list[Trace]) -> Iterator[Trace]:
    """Yield the process's trace if its row is pending. It is written with its first events, not when it finishes."""
    for trace in traces:
        if tracing.is_process_trace(trace) and trace.duration is None:
            is_new = 0 in trace.row_schemas.values() if trace.row_schemas else not trace.row_database
            if is_new:
                yield trace


def _take_all(items: list[PendingEvent]) -> list[PendingEvent]:
    """Remove and return the current items."""
    found = items[:]
    del items[: len(found)]
    return found


def _requeue(rows: list[PendingRow]) -> None:
    finished = {
        id(one.trace): one.trace for one in reversed(rows) if one.event is None and one.trace.duration is not None
    }
    _finished_traces.extendleft(finished.values())
    held: dict[tuple[int, bool], tuple[Trace, list[PendingEvent]]] = {}
    for trace, event, is_update, _ in rows:
        if event is not None:
            held.setdefault((id(trace), is_update), (trace, []))[1].append(event)
    with _lock:
        for (_, is_update), (trace, events) in reversed(held.items()):
            (trace.updates if is_update else trace.pending)[:0] = events
            trace.must_persist = trace.must_persist or any(map(must_persist, events))
            if trace not in _traces:
                _traces.appendleft(trace)


# ------------------------------------------------------------------ dropping


def drop_excess(reason: dropped_events.DropReason = dropped_events.DropReason.QUEUE_FULL) -> None:
    """Drop the oldest events beyond ``MAX_PENDING``, and a tenth more, so that not every event logs a line.

    ``reason`` is why they could not be written.
    """
    with _lock:
        excess = sum(len(trace.pending) for trace in _traces) + len(_finished_traces) - MAX_PENDING
        if excess <= 0:
            return
        excess += MAX_PENDING // 10
        dropped = 0
        while dropped < excess and _traces:
            events = _traces[0].pending
            oldest = events[: excess - dropped]
            del events[: len(oldest)]
            dropped += len(oldest)
            if not events:
                _traces.popleft()
        while dropped < excess and _finished_traces:
            _finished_traces.popleft()
            dropped += 1
        dropped_events.write_stats.add_dropped(reason, dropped)
    logger.error("Pending events could not be written for too long: %d of them are dropped.", dropped)


def clear() -> None:
    """Discard pending events and traces."""
    with _lock:
        for trace in _traces:
            trace.pending.clear()
            trace.updates.clear()
            trace.must_persist = False
        _traces.clear()
        _finished_traces.clear()


def _after_fork() -> None:
    """Discard pending events in a forked child. The parent writes them."""
    global _lock
    _lock = threading.Lock()
    _rows_in_flight.clear()


os.register_at_fork(after_in_child=_after_fork)
