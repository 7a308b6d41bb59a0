"""Ids that were given and not seen yet: an open transaction may still fill them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

PATIENCE: Final = 3600.0
"""Seconds after which a missing id is given up where the database can't tell who may still fill it."""

GRACE: Final = 1.0
"""Seconds between a transaction's taking an id and its showing among the running ones; in truth microseconds."""

IMPATIENCE: Final = 8
"""A gap is asked for again after an eighth of its age: what is missing for long is asked for seldom."""

MOST: Final = 10_000
"""Gaps that are remembered; beyond that the oldest are given up."""


class Running(NamedTuple):
    """Which transactions a database has, told by the numbers it gives them in the order of their beginning."""

    oldest: int
    """The oldest one that has not ended."""
    upcoming: int
    """The number that the next one will get."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Consecutive ids that are missing."""

    first: int
    last: int
    noticed: float
    """When it was noticed, in seconds."""
    asked: float
    """When it was last asked for, in seconds."""
    fence: int | None = None
    """The number of the first transaction that began too late to fill it; ``None`` if that is not known yet."""


class Gaps:
    """The gaps that are still open. Times are seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._open: list[Gap] = []

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, number: int) -> bool:
        return any(gap.first <= number <= gap.last for gap in self._open)

    def note(self, after: int, ids: Iterable[int], now: float) -> None:
        """Note what is missing between ``after`` and the ``ids`` that were seen above it, given in their order."""
        for number in ids:
            if number > after + 1:
                self._open.append(Gap(first=after + 1, last=number - 1, noticed=now, asked=now))
            after = number
        del self._open[:-MOST]

    def due(self, now: float) -> list[Gap]:
        """Return the gaps to ask for now."""
        return [gap for gap in self._open if now - gap.asked >= (gap.asked - gap.noticed) / IMPATIENCE]

    def judge(self, asked: Iterable[Gap], now: float, running: Running | None) -> None:
        """Give up those of the gaps that were ``asked`` for which nobody can fill any more.

        ``running`` was read before they were asked for; ``None`` where the database doesn't tell.
        """
        concerned = set(asked)
        judged = [_judged(gap, now, running) if gap in concerned else gap for gap in self._open]
        self._open = [gap for gap in judged if gap is not None]

    def fill(self, ids: Iterable[int]) -> None:
        """Take out ids that are no longer missing."""
        numbers = sorted(ids)
        if numbers:
            self._open = [
                left
                for gap in self._open
                for left in _without(gap, numbers[bisect_left(numbers, gap.first) : bisect_right(numbers, gap.last)])
            ]


def _judged(gap: Gap, now: float, running: Running | None) -> Gap | None:
    """Return the gap as it is to be kept; ``None`` if nobody can fill it any more."""
    if running is None:
        return None if now - gap.noticed >= PATIENCE else replace(gap, asked=now)
    if gap.fence is None:
        return replace(gap, asked=now, fence=running.upcoming if now - gap.noticed >= GRACE else None)
    return None if running.oldest >= gap.fence else replace(gap, asked=now)


def _without(gap: Gap, numbers: Iterable[int]) -> Iterator[Gap]:
    """Return what is left of a gap without the ids ``numbers``, given in their order."""
    first = gap.first
    for number in numbers:
        if number > first:
            yield replace(gap, first=first, last=number - 1)
        first = number + 1
    if first <= gap.last:
        yield replace(gap, first=first)
