"""Ids that were given and not seen yet: an open transaction may still fill them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

GAP_TIMEOUT: Final = 3600.0
"""Seconds after which a missing id is given up where the database can't tell who may still fill it."""

SNAPSHOT_GRACE_SECONDS: Final = 1.0
"""Seconds between a transaction's taking an id and its showing among the running ones; in truth microseconds."""

RECHECK_AGE_DIVISOR: Final = 8
"""A gap is asked for again after an eighth of its age: what is missing for long is asked for seldom."""

MAX_GAPS: Final = 10_000
"""Gaps that are remembered; beyond that the oldest are given up."""


class TransactionSnapshot(NamedTuple):
    """Which transactions a database has, told by the numbers it gives them in the order of their beginning."""

    xmin: int
    """The oldest one that has not ended."""
    xmax: int
    """The number that the next one will get."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdGap:
    """Consecutive ids that are missing."""

    first: int
    last: int
    detected_at: float
    """When it was noticed, in seconds."""
    checked_at: float
    """When it was last asked for, in seconds."""
    xid_limit: int | None = None
    """The number of the first transaction that began too late to fill it; ``None`` if that is not known yet."""


class IdGapTracker:
    """The gaps that are still open. Times are seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._gaps: list[IdGap] = []

    def __len__(self) -> int:
        return len(self._gaps)

    def __contains__(self, event_id: int) -> bool:
        return any(gap.first <= event_id <= gap.last for gap in self._gaps)

    def add(self, after: int, ids: Iterable[int], now: float) -> None:
        """Note what is missing between ``after`` and the ``ids`` that were seen above it, given in their order."""
        for number in ids:
            if number > after + 1:
                self._gaps.append(IdGap(first=after + 1, last=number - 1, detected_at=now, checked_at=now))
            after = number
        del self._gaps[:-MAX_GAPS]

    def get_due(self, now: float) -> list[IdGap]:
        """Return the gaps to ask for now."""
        return [
            gap
            for gap in self._gaps
            if now - gap.checked_at >= (gap.checked_at - gap.detected_at) / RECHECK_AGE_DIVISOR
        ]

    def update_checked(self, checked: Iterable[IdGap], now: float, snapshot: TransactionSnapshot | None) -> None:
        """Give up those of the ``checked`` gaps that nobody can fill any more.

        ``snapshot`` was read before they were asked for; ``None`` where the database doesn't tell.
        """
        concerned = set(checked)
        judged = [_update_gap(gap, now, snapshot) if gap in concerned else gap for gap in self._gaps]
        self._gaps = [gap for gap in judged if gap is not None]

    def remove_ids(self, ids: Iterable[int]) -> None:
        """Take out ids that are no longer missing."""
        numbers = sorted(ids)
        if numbers:
            self._gaps = [
                left
                for gap in self._gaps
                for left in _subtract_ids(
                    gap, numbers[bisect_left(numbers, gap.first) : bisect_right(numbers, gap.last)]
                )
            ]


def _update_gap(gap: IdGap, now: float, snapshot: TransactionSnapshot | None) -> IdGap | None:
    """Return the gap as it is to be kept; ``None`` if nobody can fill it any more."""
    if snapshot is None:
        return None if now - gap.detected_at >= GAP_TIMEOUT else replace(gap, checked_at=now)
    if gap.xid_limit is None:
        return replace(
            gap, checked_at=now, xid_limit=snapshot.xmax if now - gap.detected_at >= SNAPSHOT_GRACE_SECONDS else None
        )
    return None if snapshot.xmin >= gap.xid_limit else replace(gap, checked_at=now)


def _subtract_ids(gap: IdGap, ids: Iterable[int]) -> Iterator[IdGap]:
    """Return what is left of a gap without ``ids``, given in their order."""
    first = gap.first
    for number in ids:
        if number > first:
            yield replace(gap, first=first, last=number - 1)
        first = number + 1
    if first <= gap.last:
        yield replace(gap, first=first)
