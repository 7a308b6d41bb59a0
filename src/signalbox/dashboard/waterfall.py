"""A trace's events as a tree on a time axis. Pure: events in, rows with their places in per cent out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from signalbox.dashboard import formats
from signalbox.queries.timeline_query import CRASH
from signalbox.queries.trace_tree import grow

if TYPE_CHECKING:
    from signalbox.models import Event, Trace

Side: TypeAlias = Literal["right", "left", "above"]

DEEPEST: Final = 12
"""Levels that are indented; what is nested deeper stands at the last of them."""

TICKS: Final = 6
"""Marks on the axis at most."""

ENDS: Final = ("committed", "rolled_back")
"""The outcomes that a transaction's end gives."""

MOST_ENDINGS: Final = 20
"""Commits and rollbacks that are marked at most, the first ones."""

ROOM: Final = 12
"""Per cent of the axis that the name of a commit needs."""

BESIDE: Final = 25
"""Per cent of the axis that the numbers beside a bar need, on a phone."""

SPARSE: Final = 3
"""Parts of a trace of which the events must take one for its whole to be the axis."""

SHORT: Final = 100
"""Parts of the axis of which a bar must take one for its receivers to be drawn inside."""


class Run(NamedTuple):
    """A receiver's run: one bar inside its event's."""

    name: str
    place: str
    us: int | None
    error: str | None
    left: str
    width: str


@dataclass(slots=True)
class Row:
    """One event in its place."""

    event: Event
    depth: int = 0
    runs: list[Run] = field(default_factory=list)
    shown_runs: list[Run] = field(default_factory=list)
    """Those that find room in the bar; one that raised is always shown."""
    offset: int = 0
    """Microseconds since the trace began."""
    left: str = "0"
    """Where its bar begins, in per cent of the axis."""
    width: str = "0"
    end: str = "0"

    @property
    def indent(self) -> int:
        """Its level, as far as levels are shown."""
        return min(self.depth, DEEPEST)

    @property
    def bad(self) -> bool:
        """Whether it tells of an error: a receiver raised, the operation did, or the request."""
        return bool(self.event.errors) or self.event.outcome == "failed" or self.event.signal == CRASH

    @property
    def raised(self) -> bool:
        """Whether it tells of an error that no receiver's run shows: its bar is red."""
        return self.bad and not self.event.errors

    @property
    def took(self) -> str:
        """What stands beside its bar, or above it."""
        if self.event.duration or self.runs:
            return formats.duration(self.event.duration)
        return "no signal" if formats.group(self.event.signal) == "bulk" else "nobody listens"

    @property
    def side(self) -> Side:
        """Where there is room for its numbers: right of its bar, else left of it, else above it."""
        return "right" if 100 - float(self.end) >= BESIDE else "left" if float(self.left) >= BESIDE else "above"


class Tick(NamedTuple):
    """A mark on the axis."""

    at: str
    label: str


class Ending(NamedTuple):
    """A commit or a rollback, as far as events tell of it.

    They hold neither its moment nor which of them shared a transaction. Those that follow each other in one database
    with the same outcome are taken together, and the ending stands where the last of them ended.
    """

    outcome: str
    database: str
    number: int
    """How many events it stands for."""
    at: str
    """Its place, in per cent of the axis."""
    offset: int
    """Microseconds since the axis begins."""
    named: bool = True
    """Whether there is room for its name."""

    def __str__(self) -> str:
        number = f"{self.number} event{'' if self.number == 1 else 's'}"
        return f"{self.word} of {number} on {self.database}: the last ended at {formats.duration(self.offset)}"

    @property
    def word(self) -> str:
        """What it is called."""
        return "commit" if self.outcome == "committed" else "rollback"

    @property
    def late(self) -> bool:
        """Whether it stands so far right that its name must stand left of it."""
        return float(self.at) > 88


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A trace on its axis."""

    rows: list[Row]
    ticks: list[Tick]
    endings: list[Ending]
    """Commits and rollbacks, in the order of their time."""
    start: int
    """When the axis begins, in microseconds."""
    span: int
    """Microseconds from the axis's beginning to its end."""
    before: int
    """Microseconds of the trace before the axis."""
    sparse: bool
    """Whether the events take so little of the trace that an axis of theirs alone shows more."""
    whole: bool
    """Whether the axis is that of the whole trace."""


def tree(events: Iterable[Event]) -> list[Row]:
    """Return events as rows, each below the one in whose receiver it happened, in the order in which they were sent."""
    rows = []
    waiting = [(0, node) for node in reversed(grow(events))]
    while waiting:
        depth, node = waiting.pop()
        rows.append(Row(node.event, depth))
        waiting.extend((depth + 1, child) for child in reversed(node.children))
    return rows


def waterfall(events: Sequence[Event], traces: Sequence[Trace], whole: bool | None = None) -> Waterfall:
    """Return a trace's events on one axis: that of the ``whole`` trace, or of its events alone; by default that of the
    events where they take little of the trace."""
    rows = tree(events)
    first = min((event.time for event in events), default=0)
    last = max((event.time + (event.duration or 0) for event in events), default=0)
    began = min([trace.time for trace in traces] + ([first] if events else []), default=0)
    ended = max([last, *(trace.time + (trace.duration or 0) for trace in traces)])
    sparse = bool(events) and (last - first) * SPARSE < ended - began
    if whole is None:
        whole = not sparse
    start, end = (began, ended) if whole or not events else (first, last)
    span = max(end - start, 1)
    for row in rows:
        _place(row, start, span)
    return Waterfall(rows, list(_ticks(span)), _endings(rows, start, span), start, span, start - began, sparse, whole)


def _place(row: Row, start: int, span: int) -> None:
    event = row.event
    row.offset = event.time - start
    taken = event.duration or 0
    row.left, row.width = _share(row.offset, span), _share(max(taken, span // 5000), span)
    row.end = _share(row.offset + taken, span)
    receivers = event.data.get("receivers") if isinstance(event.data, dict) else None
    at = row.offset
    for run in receivers or ():
        us = run.get("us")
        # Receivers run one after the other, and each one's beginning is not kept: they stand in their order.
        row.runs.append(
            Run(run["name"], run.get("place", ""), us, run.get("error"), _share(at, span), _share(us or 0, span))
        )
        at += us or 0
    if taken * SHORT < span:
        row.shown_runs = [run for run in row.runs if run.error]
    else:
        row.shown_runs = row.runs


@dataclass(slots=True)
class _Stretch:
    outcome: str
    depth: int
    end: int = 0
    number: int = 0


def _endings(rows: Iterable[Row], start: int, span: int) -> list[Ending]:
    found: list[tuple[str, _Stretch]] = []
    opened: dict[str, list[_Stretch]] = {}
    for row in rows:
        event = row.event
        if event.outcome not in ENDS:
            continue
        within = opened.setdefault(event.database, [])
        # A savepoint that is rolled back within a receiver's event leaves the transaction around it as it is.
        while within and (
            within[-1].depth > row.depth or (within[-1].depth == row.depth and within[-1].outcome != event.outcome)
        ):
            found.append((event.database, within.pop()))
        if not within or within[-1].outcome != event.outcome:
            within.append(_Stretch(event.outcome, row.depth))
        within[-1].end = max(within[-1].end, event.time + (event.duration or 0))
        within[-1].number += 1
    found += [(database, stretch) for database, within in opened.items() for stretch in within]
    endings: list[Ending] = []
    for database, stretch in sorted(found, key=lambda one: one[1].end)[:MOST_ENDINGS]:
        offset = stretch.end - start
        before = next((float(ending.at) for ending in reversed(endings) if ending.named), -100.0)
        named = 100 * offset / span - before >= ROOM
        endings.append(Ending(stretch.outcome, database, stretch.number, _share(offset, span), offset, named))
    return endings


def _share(part: int, whole: int) -> str:
    return f"{min(max(100 * part / whole, 0), 100):.3f}"


def _ticks(span: int) -> Iterator[Tick]:
    """Yield marks at round times: 1, 2 or 5 times a power of ten microseconds."""
    step = next(step for zeros in count() for step in (10**zeros, 2 * 10**zeros, 5 * 10**zeros) if span / step <= TICKS)
    for mark in range(0, span, step):
        if mark / span < 0.94:
            yield Tick(_share(mark, span), formats.duration(mark) if mark else "0")
