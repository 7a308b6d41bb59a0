"""The traces with new events or rows since a position in the tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, TypeVar

from django.db import connections
from django.db.models import IntegerField, Q, QuerySet, Value

from signalbox.models import Event, Trace
from signalbox.pipeline.backends import get_backend
from signalbox.queries.id_gaps import GAP_LOOKBACK_IDS, find_missing_ids

EventOrTrace = TypeVar("EventOrTrace", Event, Trace)

MAX_LIVE_TRACES: Final = 100
"""Maximum number of traces in one update; if more are new, the page reloads its list."""


class PositionGap(NamedTuple):
    """Missing keys below the greatest one: their transaction may still be open."""

    table: int
    """0 for events, 1 for traces."""
    first: int
    last: int
    detected_at: int
    """When they were found missing, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Position:
    """The rows that a live page has read. The page stores it, so that the server has no state."""

    event_id: int
    trace_row_id: int
    gaps: tuple[PositionGap, ...] = ()

    @classmethod
    def at_end(cls) -> Self:
        """Return the position at the end of the tables, with the gaps before it, which an open transaction may fill."""
        ends: list[int] = []
        gaps: list[PositionGap] = []
        now = int(time.time())
        for table, rows in enumerate((Event.objects.all(), Trace.objects.all())):
            # With one writer at a time, no row appears below the greatest key.
            look_back = GAP_LOOKBACK_IDS if get_backend(connections[rows.db]).has_concurrent_writers else 1
            keys = list(rows.order_by("-id").values_list("id", flat=True)[:look_back])[::-1]
            ends.append(keys[-1] if keys else 0)
            if look_back > 1 and keys:
                # Key 1 is the start of the table only if the query reached it.
                first = keys[0] if len(keys) == look_back else 1
                gaps += _subtract_ids(PositionGap(table, first, keys[-1], now), keys)[-MAX_POSITION_GAPS:]
        return cls(ends[0], ends[1], tuple(gaps[-MAX_POSITION_GAPS:]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that ``text`` contains; the end of the tables if it is not valid."""
        try:
            keys, *gaps = (
                [_parse_id(part) for part in parts.split(".")] for parts in text.split("~")[: MAX_POSITION_GAPS + 1]
            )
            event, trace = keys
            missing = tuple(PositionGap(*gap) for gap in gaps)
        except (ValueError, TypeError):
            return cls.at_end()
        return cls(event, trace, missing) if all(gap.table in (0, 1) for gap in missing) else cls.at_end()

    def __str__(self) -> str:
        return "~".join([f"{self.event_id}.{self.trace_row_id}", *(".".join(map(str, gap)) for gap in self.gaps)])


def _parse_id(text: str) -> int:
    """Return a number that every database accepts as a key."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(text)
    return int(text)


MAX_POSITION_GAPS: Final = 20
"""Maximum number of gaps in a position; the newest are kept."""

POSITION_GAP_TIMEOUT: Final = 60
"""Seconds after which a gap is dropped: its transaction was probably rolled back."""


MAX_UPDATE_ROWS: Final = 2_000
"""Maximum number of rows of each table that one update reads."""


class LiveUpdate(NamedTuple):
    """The traces with changes since a position."""

    trace_ids: list[str]
    """Traces with new events or rows, the newest last."""
    position: Position
    """The position after them."""
    is_behind: bool
    """Whether there are more changes than one update contains: the page must reload its list."""


def get_live_update(position: Position) -> LiveUpdate:
    """Return the changes since ``position``, with one statement.

    Transactions do not commit in the order of their keys, so that missing keys are queried again.
    """
    conditions = [Q(id__gt=position.event_id), Q(id__gt=position.trace_row_id)]
    for gap in position.gaps:
        conditions[gap.table] |= Q(id__range=(gap.first, gap.last))
    events, traces = (
        _take_lowest_ids(queryset.filter(condition), MAX_UPDATE_ROWS)
        .annotate(table=Value(table, output_field=IntegerField()))
        .values_list("table", "id", "trace_id")
        for table, (queryset, condition) in enumerate(
            zip((Event.objects.all(), Trace.objects.all()), conditions, strict=True)
        )
    )
    rows = sorted(events.union(traces, all=True))
    now = int(time.time())
    after: list[int] = []
    gaps: list[PositionGap] = []
    behind = False
    for table, before in enumerate((position.event_id, position.trace_row_id)):
        keys = [key for found, key, _ in rows if found == table]
        behind |= len(keys) == MAX_UPDATE_ROWS
        after.append(max([before, *keys]))
        gaps += _update_gaps(table, before, [gap for gap in position.gaps if gap.table == table], keys, now)
    newest: dict[str, int] = {}
    for _, key, trace_id in rows:
        newest.pop(trace_id, None)
        newest[trace_id] = key
    reached = Position(after[0], after[1], tuple(sorted(gaps, key=lambda gap: gap.detected_at)[-MAX_POSITION_GAPS:]))
    return LiveUpdate(list(newest), reached, behind or len(newest) > MAX_LIVE_TRACES)


def _take_lowest_ids(queryset: QuerySet[EventOrTrace], limit: int) -> QuerySet[EventOrTrace]:
    """Return the ``limit`` rows with the lowest keys, as a queryset that can be part of a union."""
    least = queryset.order_by("id")[:limit]
    if connections[queryset.db].features.supports_slicing_ordering_in_compound:
        return least
    return queryset.model._base_manager.using(queryset.db).filter(id__in=least.values("id")).order_by()


def _update_gaps(
    table: int, before: int, gaps: Iterable[PositionGap], keys: Sequence[int], now: int
) -> list[PositionGap]:
    """Return the gaps that are still open, and the new ones between ``keys`` (rising) above ``before``."""
    found = []
    for gap in gaps:
        if now - gap.detected_at <= POSITION_GAP_TIMEOUT:
            inside = [key for key in keys if gap.first <= key <= gap.last]
            found += _subtract_ids(gap, inside)
    above = [key for key in keys if key > before]
    return found + (_subtract_ids(PositionGap(table, before + 1, above[-1], now), above) if above else [])


def _subtract_ids(gap: PositionGap, ids: Iterable[int]) -> list[PositionGap]:
    """Return the parts of ``gap`` that ``ids`` do not fill."""
    return [gap._replace(first=first, last=last) for first, last in find_missing_ids(gap.first, gap.last, ids)]
