"""Gaps in the ids that were read, which an open transaction may still fill."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from signalbox.pipeline.backends.base import TransactionSnapshot

GAP_TIMEOUT: Final = 3600.0
"""Seconds after which a missing id is dropped if the database does not show which transactions are open."""

SNAPSHOT_GRACE_SECONDS: Final = 1.0
"""Upper bound in seconds until a transaction with an id is listed as running. It usually takes microseconds."""

RECHECK_AGE_DIVISOR: Final = 8
"""A gap is queried again after an eighth of its age, so that old gaps are queried rarely."""

MAX_GAPS: Final = 10_000
"""Maximum number of remembered gaps; the oldest are dropped first."""


GAP_LOOKBACK_IDS: Final = 1_000
"""Number of ids at the end of a table that are searched for gaps at the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdGap:
    """Consecutive ids that are missing."""

    first: int
    last: int
    detected_at: float
    """When it was noticed, in seconds."""
    checked_at: float
    """When it was last queried, in seconds."""
    xid_limit: int | None = None
    """The number of the first transaction that began too late to fill it; ``None`` if that is not known yet."""


class IdGapTracker:
    """The gaps that are still open. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._gaps: list[IdGap] = []

    def __len__(self) -> int:
        return len(self._gaps)

    def __contains__(self, event_id: int) -> bool:
        return any(gap.first <= event_id <= gap.last for gap in self._gaps)

    def add(self, after: int, ids: Iterable[int], now: float) -> None:
        """Add the gaps between ``after`` and the ``ids`` above it, which are in rising order."""
        seen = list(ids)
        for first, last in find_missing_ids(after + 1, max([after, *seen[-1:]]), seen):
            self._gaps.append(IdGap(first=first, last=last, detected_at=now, checked_at=now))
        del self._gaps[:-MAX_GAPS]

    def get_due(self, now: float) -> list[IdGap]:
        """Return the gaps to query now."""
        return [
            gap
            for gap in self._gaps
            if now - gap.checked_at >= (gap.checked_at - gap.detected_at) / RECHECK_AGE_DIVISOR
        ]

    def update_checked(self, checked: Iterable[IdGap], now: float, snapshot: TransactionSnapshot | None) -> None:
        """Drop those of the ``checked`` gaps that no open transaction can fill.

        ``snapshot`` was read before they were queried; ``None`` if the database does not show its transactions.
        """
        concerned = set(checked)
        judged = [_update_gap(gap, now, snapshot) if gap in concerned else gap for gap in self._gaps]
        self._gaps = [gap for gap in judged if gap is not None]

    def remove_ids(self, ids: Iterable[int]) -> None:
        """Remove ids that were found."""
        numbers = sorted(ids)
        if numbers:
            self._gaps = [
                replace(gap, first=first, last=last)
                for gap in self._gaps
                for first, last in find_missing_ids(
                    gap.first, gap.last, numbers[bisect_left(numbers, gap.first) : bisect_right(numbers, gap.last)]
                )
            ]


def _update_gap(gap: IdGap, now: float, snapshot: TransactionSnapshot | None) -> IdGap | None:
    """Return the gap to keep; ``None`` if no open transaction can fill it."""
    if snapshot is None:
        return None if now - gap.detected_at >= GAP_TIMEOUT else replace(gap, checked_at=now)
    if gap.xid_limit is None:
        return replace(
            gap, checked_at=now, xid_limit=snapshot.xmax if now - gap.detected_at >= SNAPSHOT_GRACE_SECONDS else None
        )
    return None if snapshot.xmin >= gap.xid_limit else replace(gap, checked_at=now)


def find_missing_ids(first: int, last: int, seen: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of ids from ``first`` to ``last`` that are not in ``seen``, as first and last id.

    ``seen`` is in rising order and within these bounds.
    """
    for number in seen:
        if number > first:
            yield first, number - 1
        first = number + 1
    if first <= last:
        yield first, last
