"""Scan a table in the order of its ids, in windows, and pass the rows that are due to a function that deletes them.

Ids rise in the order in which rows are written, and rows are written soon after their time. So the rows that are due
are at the beginning of the table, among rows that other rules keep. Each rule has a watermark in the database, and its
scan begins there. This is how the watermark moves:

- **It passes rows that are kept:** those of other rules, and events with an unfinished delivery. A rule that keeps rows
  for ever leaves many of them at the beginning, which are not read again.
- **It stops before the first row of its rule that is not due yet.** Rows that were written with an older time (after an
  outage, or at the end of a long transaction) have a greater id than this row. They are found when this row is due.
- **It stops before a row that is younger than an hour.** An open transaction may still commit a smaller id.
- **A row with a time in the future does not stop it.** One process with a wrong clock would stop it for years.
- **The scan goes further than the watermark.** It ends at a whole window of rows that are younger than an hour after
  the cutoff. So late rows are usually deleted at once.
- **Every seven days the whole table is scanned,** from the first to the last id. It finds what the watermark has
  passed: events whose deliveries have finished, traces whose events were deleted, rows from the future, and rows of a
  transaction that was open for more than an hour. So each row that is due is deleted at most seven days later.
- **A changed setting begins such a scan.** The watermark contains a digest of the whole setting, because one rule
  determines which rows another one keeps.

The watermark is stored after the rows before it were deleted. A scan that was killed continues from the stored one, and
deletes what is still there. Two scans of a rule at the same time delete the same rows, and each row only once. If one
overwrites the watermark of the other with an earlier one, rows are read again. A later one is only written by a scan
that has deleted the rows before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from signalbox.core import clock

if TYPE_CHECKING:
    from signalbox.retention.watermarks import Watermark

WINDOW_ROWS: Final = 900
"""Rows that one query reads. Other tables are searched by them: some versions of SQLite accept 999 parameters."""

HOUR_US: Final = 3_600_000_000

FUTURE_US: Final = 24 * HOUR_US
"""A row that is later than this from now was written by a process with a wrong clock."""

SAVE_SECONDS: Final = 1.0
"""Seconds between two writes of the watermark."""


class Row(Protocol):
    """A row of a window."""

    @property
    def id(self) -> int:
        """Its primary key."""

    @property
    def time(self) -> int:
        """The time that is compared with the cutoff, in microseconds since 1970."""


class Save(Protocol):
    """A function that stores a watermark."""

    def __call__(self, watermark: Watermark, *, completed: bool) -> object:
        """Store it. ``completed`` ends a scan of the whole table."""


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan(Generic[RowT]):
    """One scan of a table for one rule."""

    cutoff: int
    """Rows before this time (µs) are due."""
    now: int
    """The time of the purge (µs)."""
    read: Callable[[int, int], Sequence[RowT]]
    """Returns rows with ids above the first argument, in rising order, and at most as many as the second."""
    applies: Callable[[RowT], bool]
    """Whether the rule applies to a row."""
    delete: Callable[[list[RowT]], object]
    """Deletes rows that are due. It may return earlier if ``should_stop()`` is true."""
    save: Save
    """Stores the watermark."""
    should_stop: Callable[[], bool]
    """Called after each window. If it returns True, the scan ends, and its next run reads this window again."""
    report: Callable[[int], object]
    """Called after each window, with the last id that was scanned."""

    def run(self, watermark: Watermark | None) -> None:
        """Scan from the watermark; without one, scan the whole table."""
        cursor = 0 if watermark is None else watermark.scanned_to
        position = 0 if watermark is None else watermark.position
        is_full = watermark is None or watermark.is_full_scan
        is_blocked = cursor > position
        saved = clock.monotonic()
        ends = stops = False
        while not (ends or stops) and (rows := self.read(cursor, WINDOW_ROWS)):
            blocking = None if is_blocked else next((row for row in rows if self._blocks(row)), None)
            if due := [row for row in rows if row.time < self.cutoff and self.applies(row)]:
                self.delete(due)
            stops = self.should_stop()
            if not stops:
                cursor = rows[-1].id
                if blocking is not None:
                    is_blocked, position = True, max(position, blocking.id - 1)
                elif not is_blocked:
                    position = cursor
                ends = not is_full and all(row.time >= self.cutoff + HOUR_US for row in rows)
                self.report(cursor)
            if watermark is not None and clock.monotonic() - saved > SAVE_SECONDS:
                watermark.position, watermark.scanned_to = position, cursor
                self.save(watermark, completed=False)
                saved = clock.monotonic()
        if watermark is not None:
            watermark.position, watermark.scanned_to = position, cursor
            self.save(watermark, completed=is_full and not stops)

    def _blocks(self, row: RowT) -> bool:
        """Return whether the watermark stops before ``row``."""
        if row.time > self.now + FUTURE_US:
            return False
        return row.time >= self.now - HOUR_US or (row.time >= self.cutoff and self.applies(row))
