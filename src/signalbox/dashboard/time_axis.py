"""A time axis: positions in per cent, ticks, and gaps where nothing happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Final, NamedTuple

from signalbox.dashboard import formats

MAX_TICKS: Final = 6
"""Maximum number of ticks on an axis."""

MAX_GAPS: Final = 5
"""Maximum number of gaps on an axis: the longest."""

GAP_PERCENT: Final = 10.0
"""Width of a gap, in per cent of the axis."""

NARROW_LABEL_PERCENT: Final = 18.0
"""Width of the label of a gap on a phone, in per cent of the axis."""

TICK_LABEL_PERCENT: Final = 18.0
"""Width of the label of a tick, in per cent of the axis."""


class Tick(NamedTuple):
    """A tick on the axis."""

    position: str
    label: str
    is_label_left: bool = False
    """Whether its label is on its left, as it does not fit on its right."""


class Gap(NamedTuple):
    """A part of the axis that is drawn with a fixed width, because nothing happened in it."""

    start: int
    end: int
    left: str
    """Its beginning, in per cent of the axis."""
    middle: str
    width: str
    has_narrow_label: bool = True
    """Whether there is room for its label on a phone."""

    @property
    def label(self) -> str:
        """Its duration."""
        return formats.format_duration(self.end - self.start)


@dataclass(slots=True)
class TimeAxis:
    """An axis from ``start`` to ``end``, in microseconds since the epoch."""

    start: int
    end: int
    gaps: list[Gap] = field(default_factory=list)
    """In order of time."""

    @property
    def duration_us(self) -> int:
        """Its length in microseconds, at least 1."""
        return max(self.end - self.start, 1)

    @property
    def drawn_us(self) -> int:
        """Its length without gaps."""
        return max(self.duration_us - sum(gap.end - gap.start for gap in self.gaps), 1)

    def get_percent(self, time: int) -> float:
        """Return the position of ``time``, in per cent; 0 before the axis and 100 after it."""
        scale = (100 - GAP_PERCENT * len(self.gaps)) / self.drawn_us
        percent, drawn_from = 0.0, self.start
        for gap in self.gaps:
            if time <= gap.start:
                break
            percent += (gap.start - drawn_from) * scale
            if time < gap.end:
                return percent + GAP_PERCENT * (time - gap.start) / (gap.end - gap.start)
            percent, drawn_from = percent + GAP_PERCENT, gap.end
        return min(max(percent + (time - drawn_from) * scale, 0.0), 100.0)

    def place(self, time: int) -> str:
        """Return the position of ``time`` as text, in per cent."""
        return format_percent(self.get_percent(time))

    def measure(self, start: int, end: int, min_us: int = 0) -> str:
        """Return the width of a bar from ``start`` to ``end`` as text, in per cent."""
        return format_percent(self.get_percent(max(end, start + min_us)) - self.get_percent(start))


def format_percent(percent: float) -> str:
    """Return a position or width in per cent as text."""
    return f"{percent:.3f}"


def build_axis_with_gaps(intervals: Iterable[tuple[int, int]]) -> TimeAxis:
    """Return an axis over ``intervals``, with gaps for pauses that are longer than all of them together."""
    merged: list[list[int]] = []
    for start, end in sorted((start, max(start, end)) for start, end in intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    if not merged:
        return TimeAxis(0, 1)
    busy_us = max(sum(end - start for start, end in merged), 1000)
    pauses = [
        (after[0] - before[1], before[1], after[0])
        for before, after in pairwise(merged)
        if after[0] - before[1] > busy_us
    ]
    axis = TimeAxis(merged[0][0], merged[-1][1])
    pauses = sorted(pauses, reverse=True)[:MAX_GAPS]
    axis.gaps = [Gap(start, end, "", "", "") for _, start, end in sorted(pauses, key=lambda pause: pause[1])]
    last_label = -NARROW_LABEL_PERCENT
    placed = []
    for gap in axis.gaps:
        middle = axis.get_percent((gap.start + gap.end) // 2)
        has_label = middle - last_label >= NARROW_LABEL_PERCENT
        last_label = middle if has_label else last_label
        placed.append((gap, has_label))
    axis.gaps = [
        gap._replace(
            left=axis.place(gap.start),
            middle=axis.place((gap.start + gap.end) // 2),
            width=format_percent(GAP_PERCENT),
            has_narrow_label=has_label,
        )
        for gap, has_label in placed
    ]
    return axis


def build_ticks(duration_us: int) -> Iterator[Tick]:
    """Yield ticks of an axis without gaps at round times: 1, 2 or 5 times a power of ten microseconds."""
    step = next(
        step
        for zeros in count()
        for step in (10**zeros, 2 * 10**zeros, 5 * 10**zeros)
        if duration_us / step <= MAX_TICKS
    )
    for mark in range(0, duration_us, step):
        if mark / duration_us < 0.94:
            yield Tick(format_percent(100 * mark / duration_us), formats.format_duration(mark) if mark else "0")


def build_segment_ticks(axis: TimeAxis, origin: int) -> Iterator[Tick]:
    """Yield a tick where each part between gaps begins, with its time since ``origin``."""
    label_end = 0.0
    for start in (axis.start, *(gap.end for gap in axis.gaps)):
        percent = axis.get_percent(start)
        label = f"+{formats.format_duration(max(start - origin, 0))}"
        tick = Tick(format_percent(percent), label, percent > 100 - TICK_LABEL_PERCENT)
        label_start = percent - TICK_LABEL_PERCENT if tick.is_label_left else percent
        if label_start >= label_end:
            yield tick
            label_end = label_start + TICK_LABEL_PERCENT
