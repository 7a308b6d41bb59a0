"""A trace's events as a tree on a time axis. Pure: events in, rows with their places in per cent out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from signalbox.core import labels
from signalbox.dashboard import formats
from signalbox.queries.timeline_query import REQUEST_EXCEPTION_SIGNAL
from signalbox.queries.trace_tree import build_trees

if TYPE_CHECKING:
    from signalbox.models import Event, Trace

LabelSide: TypeAlias = Literal["right", "left", "above"]

MAX_INDENT: Final = 12
"""Levels that are indented; what is nested deeper stands at the last of them."""

MAX_TICKS: Final = 6
"""Marks on the axis at most."""

TRANSACTION_OUTCOMES: Final = ("committed", "rolled_back")
"""The outcomes that a transaction's end gives."""

MAX_TRANSACTION_ENDS: Final = 20
"""Commits and rollbacks that are marked at most, the first ones."""

END_LABEL_PERCENT: Final = 12
"""Per cent of the axis that the name of a commit needs."""

DURATION_LABEL_PERCENT: Final = 25
"""Per cent of the axis that the numbers beside a bar need, on a phone."""

SPARSE_RATIO: Final = 3
"""Parts of a trace of which the events must take one for its whole to be the axis."""

SHORT_BAR_RATIO: Final = 100
"""Parts of the axis of which a bar must take one for its receivers to be drawn inside."""


class CallBar(NamedTuple):
    """A receiver's run: one bar inside its event's."""

    name: str
    location: str
    duration_us: int | None
    error: str | None
    left: str
    width: str


@dataclass(slots=True)
class WaterfallRow:
    """One event in its place."""

    event: Event
    depth: int = 0
    calls: list[CallBar] = field(default_factory=list)
    visible_calls: list[CallBar] = field(default_factory=list)
    """Those that find room in the bar; one that raised is always shown."""
    offset_us: int = 0
    """Microseconds since the trace began."""
    left: str = "0"
    """Where its bar begins, in per cent of the axis."""
    width: str = "0"
    end: str = "0"

    @property
    def indent(self) -> int:
        """Its level, as far as levels are shown."""
        return min(self.depth, MAX_INDENT)

    @property
    def has_error(self) -> bool:
        """Whether it tells of an error: a receiver raised, the operation did, or the request."""
        return (
            bool(self.event.errors) or self.event.outcome == "failed" or self.event.signal == REQUEST_EXCEPTION_SIGNAL
        )

    @property
    def has_own_error(self) -> bool:
        """Whether it tells of an error that no receiver's run shows: its bar is red."""
        return self.has_error and not self.event.errors

    @property
    def duration_text(self) -> str:
        """What stands beside its bar, or above it."""
        if self.event.duration or self.calls:
            return formats.format_duration(self.event.duration)
        return "no signal" if labels.get_signal_group(self.event.signal) == "bulk" else "nobody listens"

    @property
    def label_side(self) -> LabelSide:
        """Where there is room for its numbers: right of its bar, else left of it, else above it."""
        return (
            "right"
            if 100 - float(self.end) >= DURATION_LABEL_PERCENT
            else "left"
            if float(self.left) >= DURATION_LABEL_PERCENT
            else "above"
        )


class Tick(NamedTuple):
    """A mark on the axis."""

    position: str
    label: str


class TransactionEnd(NamedTuple):
    """A commit or a rollback, as far as events tell of it.

    They hold neither its moment nor which of them shared a transaction. Those that follow each other in one database
    with the same outcome are taken together, and the ending stands where the last of them ended.
    """

    outcome: str
    database: str
    event_count: int
    """How many events it stands for."""
    position: str
    """Its place, in per cent of the axis."""
    offset_us: int
    """Microseconds since the axis begins."""
    has_label: bool = True
    """Whether there is room for its name."""

    def __str__(self) -> str:
        number = f"{self.event_count} event{'' if self.event_count == 1 else 's'}"
        return (
            f"{self.label} of {number} on {self.database}: the last ended at {formats.format_duration(self.offset_us)}"
        )

    @property
    def label(self) -> str:
        """What it is called."""
        return "commit" if self.outcome == "committed" else "rollback"

    @property
    def is_label_left(self) -> bool:
        """Whether it stands so far right that its name must stand left of it."""
        return float(self.position) > 88


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A trace on its axis."""

    rows: list[WaterfallRow]
    ticks: list[Tick]
    transaction_ends: list[TransactionEnd]
    """Commits and rollbacks, in the order of their time."""
    start: int
    """When the axis begins, in microseconds."""
    duration_us: int
    """Microseconds from the axis's beginning to its end."""
    skipped_us: int
    """Microseconds of the trace before the axis."""
    is_sparse: bool
    """Whether the events take so little of the trace that an axis of theirs alone shows more."""
    is_whole_trace: bool
    """Whether the axis is that of the whole trace."""


def build_rows(events: Iterable[Event]) -> list[WaterfallRow]:
    """Return events as rows, each below the one in whose receiver it happened, in the order in which they were sent."""
    rows = []
    stack = [(0, node) for node in reversed(build_trees(events))]
    while stack:
        depth, node = stack.pop()
        rows.append(WaterfallRow(node.event, depth))
        stack.extend((depth + 1, child) for child in reversed(node.children))
    return rows


def build_waterfall(events: Sequence[Event], traces: Sequence[Trace], whole_trace: bool | None = None) -> Waterfall:
    """Return a trace's events on one axis.

    The axis spans the whole trace if ``whole_trace``, else only its events. By default it spans the events if they take
    little of the trace.
    """
    rows = build_rows(events)
    first = min((event.time for event in events), default=0)
    last = max((event.time + (event.duration or 0) for event in events), default=0)
    trace_start = min([trace.time for trace in traces] + ([first] if events else []), default=0)
    trace_end = max([last, *(trace.time + (trace.duration or 0) for trace in traces)])
    is_sparse = bool(events) and (last - first) * SPARSE_RATIO < trace_end - trace_start
    if whole_trace is None:
        whole_trace = not is_sparse
    start, end = (trace_start, trace_end) if whole_trace or not events else (first, last)
    duration_us = max(end - start, 1)
    for row in rows:
        _position_row(row, start, duration_us)
    return Waterfall(
        rows,
        list(_build_ticks(duration_us)),
        _find_transaction_ends(rows, start, duration_us),
        start,
        duration_us,
        start - trace_start,
        is_sparse,
        whole_trace,
    )


def _position_row(row: WaterfallRow, start: int, duration_us: int) -> None:
    event = row.event
    row.offset_us = event.time - start
    event_us = event.duration or 0
    row.left, row.width = (
        _format_percent(row.offset_us, duration_us),
        _format_percent(max(event_us, duration_us // 5000), duration_us),
    )
    row.end = _format_percent(row.offset_us + event_us, duration_us)
    receivers = event.data.get("receivers") if isinstance(event.data, dict) else None
    call_offset_us = row.offset_us
    for call in receivers or ():
        call_us = call.get("duration_us")
        # Receivers run one after the other, and each one's beginning is not kept: they stand in their order.
        row.calls.append(
            CallBar(
                call["name"],
                call.get("location", ""),
                call_us,
                call.get("error"),
                _format_percent(call_offset_us, duration_us),
                _format_percent(call_us or 0, duration_us),
            )
        )
        call_offset_us += call_us or 0
    if event_us * SHORT_BAR_RATIO < duration_us:
        row.visible_calls = [bar for bar in row.calls if bar.error]
    else:
        row.visible_calls = row.calls


@dataclass(slots=True)
class _TransactionSegment:
    outcome: str
    depth: int
    end: int = 0
    event_count: int = 0


def _find_transaction_ends(rows: Iterable[WaterfallRow], start: int, duration_us: int) -> list[TransactionEnd]:
    found: list[tuple[str, _TransactionSegment]] = []
    open_segments: dict[str, list[_TransactionSegment]] = {}
    for row in rows:
        event = row.event
        if event.outcome not in TRANSACTION_OUTCOMES:
            continue
        segments = open_segments.setdefault(event.database, [])
        # A savepoint that is rolled back within a receiver's event leaves the transaction around it as it is.
        while segments and (
            segments[-1].depth > row.depth
            or (segments[-1].depth == row.depth and segments[-1].outcome != event.outcome)
        ):
            found.append((event.database, segments.pop()))
        if not segments or segments[-1].outcome != event.outcome:
            segments.append(_TransactionSegment(event.outcome, row.depth))
        segments[-1].end = max(segments[-1].end, event.time + (event.duration or 0))
        segments[-1].event_count += 1
    found += [(database, segment) for database, segments in open_segments.items() for segment in segments]
    ends: list[TransactionEnd] = []
    for database, segment in sorted(found, key=lambda item: item[1].end)[:MAX_TRANSACTION_ENDS]:
        offset = segment.end - start
        last_label = next((float(end.position) for end in reversed(ends) if end.has_label), -100.0)
        has_label = 100 * offset / duration_us - last_label >= END_LABEL_PERCENT
        ends.append(
            TransactionEnd(
                segment.outcome, database, segment.event_count, _format_percent(offset, duration_us), offset, has_label
            )
        )
    return ends


def _format_percent(part: int, whole: int) -> str:
    return f"{min(max(100 * part / whole, 0), 100):.3f}"


def _build_ticks(duration_us: int) -> Iterator[Tick]:
    """Yield marks at round times: 1, 2 or 5 times a power of ten microseconds."""
    step = next(
        step
        for zeros in count()
        for step in (10**zeros, 2 * 10**zeros, 5 * 10**zeros)
        if duration_us / step <= MAX_TICKS
    )
    for mark in range(0, duration_us, step):
        if mark / duration_us < 0.94:
            yield Tick(_format_percent(mark, duration_us), formats.format_duration(mark) if mark else "0")
