"""Searches events by ranges of ids, the newest first, within a budget of time.

A filter without an index reads every event. One statement over the whole table would run for minutes. Many short
statements can stop after each of them, and report how far the search came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.db.models import Q

from signalbox.models import Event
from signalbox.queries import event_stream, time_index
from signalbox.queries.filter_conditions import trace_id_prefix_q

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from signalbox.queries.filters import EventFilter

FIRST_WINDOW: Final = 1_000
"""Ids that the first statement of a search covers."""

WIDEST_WINDOW: Final = 100_000
"""Ids that one statement covers at most. A database examines as many rows with JSON in less than a second."""

WIDEST_TRACE_WINDOW: Final = 10_000
"""The same, if the statement looks up the trace of each event. PostgreSQL expects high costs of more lookups, and then
compiles the statement, which takes seconds (``jit_above_cost``)."""

FAST_SECONDS: Final = 0.05
"""A statement that took less time is followed by one with four times as many ids."""

SLOW_SECONDS: Final = 0.2
"""A statement that took more time is followed by one with half as many ids."""

DEFAULT_BUDGET: Final = 2.0
"""Seconds after which a search for a page stops and returns how far it came."""

CHUNK_ROWS: Final = 200
"""Maximum number of rows that one statement returns. The data of an event can be large."""


LOWEST_ID: Final = 1
"""No event has a lower id."""


class Windows:
    """The ranges of ids that a search covers, and the time that is left.

    Args:
        first_id: The lowest id of the search.
        below: The id after its greatest.
        budget: Seconds until ``is_over_budget``; None for no limit.
        is_indexed: Whether one statement may cover all ids.
        reads_traces: Whether the statements look up the trace of each event.
    """

    def __init__(
        self, first_id: int, below: int, *, budget: float | None, is_indexed: bool = False, reads_traces: bool = False
    ) -> None:
        self.first_id = first_id
        self.cursor = below
        """Events with this id or a greater one were searched."""
        self.is_indexed = is_indexed
        self.reads_traces = reads_traces
        self._size = FIRST_WINDOW
        self._started = time.monotonic()
        self._budget = budget
        self._statement_started = self._started
        self._ids_per_second: float | None = None

    @property
    def has_more(self) -> bool:
        """Whether some ids were not searched."""
        return self.cursor > self.first_id

    @property
    def is_over_budget(self) -> bool:
        """Whether the time is used up."""
        return self._budget is not None and time.monotonic() - self._started > self._budget

    def start_statement(self) -> tuple[int, int]:
        """Return the first and the last id of the next statement."""
        self._statement_started = now = time.monotonic()
        size = self._size
        if self._budget is not None and self._ids_per_second is not None:
            left = max(self._started + self._budget - now, 0)
            size = min(size, max(int(left * self._ids_per_second), FIRST_WINDOW))
        first = self.first_id if self.is_indexed else max(self.first_id, self.cursor - size)
        return first, self.cursor - 1

    def to_q(self, first: int, last: int) -> Q:
        """Return the condition on ids from ``first`` to ``last``, which are those of a statement.

        With two limits, SQLite prefers the primary key to an index.
        """
        return Q(id__lte=last) if self.is_indexed and first == LOWEST_ID else Q(id__range=(first, last))

    def finish_statement(self, first: int, *, is_window_done: bool = True) -> None:
        """Continue below ``first``. With ``is_window_done`` the size of the next range depends on the time it took."""
        took = time.monotonic() - self._statement_started
        self._ids_per_second = (self.cursor - first) / max(took, 0.0001)
        self.cursor = first
        if is_window_done and took < FAST_SECONDS:
            self._size *= 4
        elif took > SLOW_SECONDS:
            self._size = max(self._size // 2, FIRST_WINDOW)
        self._size = min(self._size, WIDEST_TRACE_WINDOW if self.reads_traces else WIDEST_WINDOW)


class EventSearch(Iterator[Any]):
    """An iterator over the newest events that match, the newest first.

    Args:
        event_filter: What the events must meet.
        before: Only events with an id below this one.
        limit: Number of events after which it ends.
        using: Alias of the database whose tables are read, or None for the router's choice.
        budget: Seconds after which it ends, or None for no limit.
        columns: Names of the columns to return as tuples; without any, events are returned.
        report: Called after each statement with the number of events so far, and the share of the ids, from 0 to 1.
    """

    def __init__(
        self,
        event_filter: EventFilter,
        *,
        before: int | None = None,
        limit: int,
        using: str | None = None,
        budget: float | None = None,
        columns: Sequence[str] = (),
        report: Callable[[int, float], object] | None = None,
    ) -> None:
        self.is_cut_off = False
        """Whether the budget was used up before the search was complete."""
        self.count = 0
        """Number of events that were returned."""
        self._events: QuerySet[Any] = event_filter.select_newest(Event.objects.using(using))
        if columns:
            self._events = self._events.values_list("id", *columns)
        self._has_columns = bool(columns)
        self._report = report
        self._all_events = Event.objects.using(using)
        self._is_end_known = False
        self._limit = limit
        first_id, below = get_id_bounds(event_filter, before, using)
        self._first_below = below
        self.windows = Windows(
            first_id,
            below,
            budget=budget,
            is_indexed=event_filter.is_indexed,
            reads_traces=event_filter.reads_traces,
        )
        self._rows: list[Any] = []

    def __next__(self) -> Any:
        """Return the next event, or its columns."""
        if self.count >= self._limit:
            raise StopIteration
        while not self._rows:
            if not self.windows.has_more:
                raise StopIteration
            if self.windows.is_over_budget:
                self.is_cut_off = True
                raise StopIteration
            self._search_window()
        self.count += 1
        row = self._rows.pop()
        return row[1:] if self._has_columns else row

    def _search_window(self) -> None:
        size = min(CHUNK_ROWS, self._limit - self.count)
        first, last = self.windows.start_statement()
        rows = list(self._events.filter(self.windows.to_q(first, last))[:size])
        self._rows = rows[::-1]
        is_done = len(rows) < size
        if is_done and first > self.windows.first_id and not self._is_end_known:
            self._is_end_known = True
            # A purge has deleted the events with lower ids: millions of them, after years.
            self.windows.first_id = max(self.windows.first_id, event_stream.get_oldest_id(self._all_events.db))
        lowest = first if is_done else rows[-1][0] if self._has_columns else rows[-1].id
        self.windows.finish_statement(lowest, is_window_done=is_done)
        if self._report is not None:
            whole = max(self._first_below - self.windows.first_id, 1)
            self._report(self.count, (self._first_below - self.windows.cursor) / whole)

    def get_reached_time(self) -> int | None:
        """Return the time of the oldest event that was searched, in microseconds; None without one."""
        oldest = self._all_events.filter(id__gte=self.windows.cursor).order_by("id").values_list("time", flat=True)
        found: int | None = oldest.first()
        return found


def get_id_bounds(event_filter: EventFilter, before: int | None, using: str | None = None) -> tuple[int, int]:
    """Return the first id of a search, and the id after its last."""
    newest = event_stream.get_newest_id(using)
    first, below = LOWEST_ID, newest + 1 if before is None else min(before, newest + 1)
    if event_filter.since is not None:
        first = _find_first_id(time_index.earliest_write_us(event_filter.since), using) or newest + 1
    if event_filter.until is not None:
        below = min(below, _find_first_id(time_index.latest_write_us(event_filter.until), using) or newest + 1)
    if event_filter.trace:
        low, high = _find_trace_ids(event_filter, using)
        first, below = max(first, low), min(below, high + 1)
    return first, below


def _find_first_id(timestamp_us: int, using: str | None) -> int | None:
    events = Event.objects.using(using)
    return time_index.find_first_id(events, time_index.WRITE_TIME_EXPRESSIONS[Event], timestamp_us)


MAX_TRACE_IDS: Final = 10_000
"""Maximum number of events of the traces of a filter whose ids limit a search."""


def _find_trace_ids(event_filter: EventFilter, using: str | None) -> tuple[int, int]:
    """Return the least and the greatest id of events of the filter's traces; ``(1, 0)`` if there are none."""
    found: QuerySet[Event] = Event.objects.using(using).filter(trace_id_prefix_q(event_filter.trace))
    # In the order of the index of traces, otherwise a database may read the whole table in the order of ids.
    ids = list(found.order_by("trace_id", "id").values_list("id", flat=True)[: MAX_TRACE_IDS + 1])
    if len(ids) > MAX_TRACE_IDS:
        return LOWEST_ID, event_stream.get_newest_id(using)
    return (min(ids), max(ids)) if ids else (LOWEST_ID, 0)
