"""The waterfall of a trace: its events and their receivers as a tree, with positions on a time axis in per cent.

Does not query the database. Every position is a recorded time: what was not recorded is not drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from signalbox.core import display_names
from signalbox.dashboard import formats
from signalbox.dashboard.time_axis import Tick, TimeAxis, build_ticks
from signalbox.dashboard.transaction_lines import TransactionLine, build_lines
from signalbox.queries.event_errors import has_error
from signalbox.queries.trace_calls import RecordedCall, get_calls, get_end, get_parent_receiver, walk_with_calls
from signalbox.queries.trace_tree import build_trees
from signalbox.queries.transaction_ends import get_transaction_ends

if TYPE_CHECKING:
    from signalbox.models import Event, Trace

LabelSide: TypeAlias = Literal["right", "left", "above"]

MAX_INDENT: Final = 12
"""Maximum number of indented levels. Deeper rows have the indent of the last level."""

MAX_CALLS_PER_EVENT: Final = 20
"""Maximum number of receivers of an event that have a row."""

MAX_CALL_ROWS: Final = 1_000
"""Maximum number of receivers on a page that have a row. Beyond it those that raised have one, up to the next limit."""

MAX_RAISED_ROWS: Final = 1_000
"""Maximum number of receivers on a page that raised and have a row, besides ``MAX_CALL_ROWS``."""

TRANSACTION_OUTCOMES: Final = ("committed", "rolled_back")
"""The outcomes of events in a transaction that has ended."""

DURATION_LABEL_PERCENT: Final = 25
"""Width of the label of a duration on a phone, in per cent of the axis."""

SPARSE_RATIO: Final = 3
"""If the events take less than one part in this number of the trace, the axis spans only the events."""

MIN_BAR_RATIO: Final = 5_000
"""The shortest bar takes one part in this number of the axis."""


@dataclass(slots=True)
class Row:
    """A row with a bar."""

    kind = "row"
    depth: int = 0
    offset_us: int = 0
    """Microseconds from the start of the axis."""
    left: str = "0"
    """Start of its bar, in per cent of the axis."""
    width: str = "0"
    end: str = "0"

    def place(self, axis: TimeAxis, start: int, end: int) -> None:
        """Set the position of its bar."""
        self.offset_us = start - axis.start
        self.left = axis.place(start)
        self.width = axis.measure(start, end, axis.drawn_us // MIN_BAR_RATIO)
        self.end = axis.place(end)

    @property
    def indent(self) -> int:
        """Its level of indentation, at most ``MAX_INDENT``."""
        return min(self.depth, MAX_INDENT)

    @property
    def label_side(self) -> LabelSide:
        """The side of its bar with room for the label: right, else left, else above."""
        return (
            "right"
            if 100 - float(self.end) >= DURATION_LABEL_PERCENT
            else "left"
            if float(self.left) >= DURATION_LABEL_PERCENT
            else "above"
        )


@dataclass(slots=True)
class EventRow(Row):
    """One event. Its bar ends with its send, or with its last receiver."""

    kind = "event"
    event: Event = field(kw_only=True)
    hidden_calls: int = 0
    """Number of receivers without a row."""

    @property
    def has_error(self) -> bool:
        """Whether a receiver, the operation or the request raised an exception."""
        return has_error(self.event)

    @property
    def has_own_error(self) -> bool:
        """Whether the operation or the request raised, not a receiver. Its bar is red then."""
        return self.has_error and not self.event.errors

    @property
    def duration_text(self) -> str:
        """The label of its bar."""
        if self.event.duration or get_calls(self.event):
            return formats.format_duration(self.event.duration)
        return "no signal" if display_names.get_signal_group(self.event.signal) == "bulk" else "no receivers"


@dataclass(slots=True)
class CallRow(Row):
    """One call of a receiver."""

    kind = "call"
    call: RecordedCall = field(kw_only=True)

    @property
    def is_placed(self) -> bool:
        """Whether its beginning and its duration were recorded, so that it has a bar."""
        return self.call.started is not None and self.call.duration_us is not None


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A trace on a time axis."""

    rows: list[EventRow | CallRow]
    ticks: list[Tick]
    lines: list[TransactionLine]
    """Commits and rollbacks, in order of time."""
    hidden_line_count: int
    """Number of commits and rollbacks that are not drawn."""
    has_unknown_ends: bool
    """Whether no end was recorded of the transactions of its events."""
    axis: TimeAxis
    skipped_us: int
    """Microseconds of the trace before the axis."""
    is_sparse: bool
    """Whether the events take so little of the trace that an axis for only the events is better."""
    is_whole_trace: bool
    """Whether the axis spans the whole trace."""


def build_rows(events: Iterable[Event]) -> list[EventRow]:
    """Return events as rows in the order of sending, nested events below their parents."""
    rows = []
    stack = [(0, node) for node in reversed(build_trees(events))]
    while stack:
        depth, node = stack.pop()
        rows.append(EventRow(depth, event=node.event))
        stack.extend((depth + 1, child) for child in reversed(node.children))
    return rows


def build_placed_rows(events: Iterable[Event], axis: TimeAxis, depth: int = 0) -> list[EventRow | CallRow]:
    """Return events and the calls of their receivers as rows on ``axis``, ``depth`` levels deeper.

    Calls beyond the limits have no row, except those that have caused an event, and ``MAX_RAISED_ROWS`` that raised.
    """
    rows: list[EventRow | CallRow] = []
    parents = {(event.parent, get_parent_receiver(event)) for event in events}
    row_counts: Counter[int] = Counter()
    row_total = raised_total = 0
    event_rows: dict[int, EventRow] = {}
    for level, item in walk_with_calls(events):
        if not isinstance(item, RecordedCall):
            row = EventRow(depth + level, event=item)
            row.place(axis, item.time, get_end(item))
            event_rows[item.span] = row
            rows.append(row)
            continue
        span = item.event.span
        is_beyond = row_counts[span] >= MAX_CALLS_PER_EVENT or row_total >= MAX_CALL_ROWS
        if is_beyond and (span, item.index) not in parents:
            if not item.error or raised_total >= MAX_RAISED_ROWS:
                event_rows[span].hidden_calls += 1
                continue
            raised_total += 1
        row_counts[span] += 1
        row_total += 1
        call_row = CallRow(depth + level, call=item)
        if item.started is not None:
            call_row.place(axis, item.started, item.started + (item.duration_us or 0))
        rows.append(call_row)
    return rows


def build_waterfall(
    events: Sequence[Event], traces: Sequence[Trace], whole_trace: bool | None = None, *, is_page: bool = False
) -> Waterfall:
    """Return a trace's events on one axis.

    The axis spans the whole trace if ``whole_trace``, else only its events and commits. By default it spans the events
    if they take little of the trace. If ``is_page``, the trace has other events, and the axis spans only these.
    """
    transaction_ends = get_transaction_ends(traces)
    first = min((event.time for event in events), default=0)
    last = max(map(get_end, events), default=0)
    pieces = [] if is_page else traces
    if not is_page:
        last = max([last, *(end.time for end in transaction_ends.ends)])
    trace_start = min([trace.time for trace in pieces] + ([first] if events else []), default=0)
    trace_end = max([last, *(trace.time + (trace.duration or 0) for trace in pieces)])
    is_sparse = bool(events) and (last - first) * SPARSE_RATIO < trace_end - trace_start
    if whole_trace is None:
        whole_trace = not is_sparse
    start, end = (trace_start, trace_end) if whole_trace or not events else (first, last)
    axis = TimeAxis(start, max(end, start + 1))
    lines = build_lines(transaction_ends.ends, axis)
    return Waterfall(
        build_placed_rows(events, axis),
        list(build_ticks(axis.duration_us)),
        lines,
        0 if is_page else transaction_ends.total - len(lines),
        not transaction_ends.ends and any(event.outcome in TRANSACTION_OUTCOMES for event in events),
        axis,
        start - trace_start,
        is_sparse,
        whole_trace,
    )
