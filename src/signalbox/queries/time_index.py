"""Between which ids the rows of a stretch of time lie, found without an index on the time."""

from __future__ import annotations

import datetime as dt
from typing import Final, TypeVar

from django.db.models import BigIntegerField, ExpressionWrapper, F, QuerySet
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce

from signalbox.models import Event, Trace, to_microseconds

EventOrTrace = TypeVar("EventOrTrace", Event, Trace)

MAX_WRITE_DELAY: Final = dt.timedelta(hours=1)
"""The longest that an event is expected to wait for its row: for the COMMIT of its transaction, or for a database that
is away. The events of a transaction that stays open for longer are found by asking for a wider stretch."""

WINDOW_ROWS: Final = 100
"""Rows that each step reads."""

WRITE_TIME_EXPRESSIONS: Final[dict[type[Event | Trace], Combinable]] = {
    Event: F("time"),
    # Django gives the sum of two big integers the type IntegerField, which is too small for microseconds.
    Trace: ExpressionWrapper(F("time") + Coalesce(F("duration"), 0), output_field=BigIntegerField()),
}
"""The earliest time of a row's write: when the event was sent, or when the trace ended."""


def filter_by_time(
    queryset: QuerySet[EventOrTrace], since: dt.datetime | None, until: dt.datetime | None
) -> QuerySet[EventOrTrace]:
    """Return the rows of ``queryset`` between two moments: an event at its own time, a trace at the time of its end.

    A row gets its id when it is written, up to ``MAX_WRITE_DELAY`` after its time and never before it. Therefore

    - a row as old as ``since - MAX_WRITE_DELAY`` was written before ``since``, and so was each row with a smaller id;
    - a row as young as ``until + MAX_WRITE_DELAY`` was written after each row that can be older than ``until``.

    Both ids are searched by halves: some 25 steps for a hundred million rows, each a few rows by primary key. Rows
    between the ids are then compared by their exact time.
    """
    time = WRITE_TIME_EXPRESSIONS[queryset.model]
    found = queryset.alias(written=time)
    table = queryset.model._base_manager.using(queryset.db)
    if since is not None:
        first = find_first_id(table, time, earliest_write_us(since))
        if first is None:
            return queryset.none()
        found = found.filter(id__gte=first, written__gte=to_microseconds(since))
    if until is not None:
        after = find_first_id(table, time, latest_write_us(until))
        found = found.filter(written__lt=to_microseconds(until))
        if after is not None:
            found = found.filter(id__lt=after)
    return found


def earliest_write_us(since: dt.datetime) -> int:
    """Return a moment (µs) before which nothing younger than ``since`` was written."""
    # In microseconds: a datetime can't be before the year 1 or after 9999, but a filter can.
    return to_microseconds(since) - MAX_WRITE_DELAY // dt.timedelta(microseconds=1)


def latest_write_us(until: dt.datetime) -> int:
    """Return a moment (µs) after which nothing older than ``until`` is expected to be written."""
    return to_microseconds(until) + MAX_WRITE_DELAY // dt.timedelta(microseconds=1)


def find_first_id(queryset: QuerySet[EventOrTrace], time_expression: Combinable, timestamp_us: int) -> int | None:
    """Return the lowest id of a row whose ``time_expression`` is at or after ``timestamp_us``; ``None`` without one.

    Rows that were written late may have lower ids.
    """
    rows = queryset.order_by("id").values_list("id", time_expression)
    ids = queryset.order_by("id").values_list("id", flat=True)
    low, newest = ids.first(), ids.last()
    if low is None or newest is None:
        return None
    found: int | None = None
    high = newest
    while low <= high:
        middle = (low + high) // 2
        window = list(rows.filter(id__gte=middle, id__lte=newest)[:WINDOW_ROWS])
        match_id = next((row_id for row_id, when in window if when >= timestamp_us), None)
        if match_id is None:
            low = window[-1][0] + 1 if len(window) == WINDOW_ROWS else newest + 1
        else:
            found, high = match_id, middle - 1
    return found
