"""Why events are dropped, and the numbers of events that this process has written and dropped."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from signalbox.core import clock, loggers, observers

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.pipeline.batches import Batch

logger = loggers.get_logger("recording")


class DropReason(StrEnum):
    """Why events are dropped: the values are keys of the JSON of ``signalbox status``."""

    REJECTED = "rejected"
    """The database rejects the row: it is too large, or a constraint or a trigger refuses it."""
    MISSING_GRANT = "missing_grant"
    """The role of the database lacks a grant."""
    LOCK_TIMEOUT = "lock_timeout"
    """A table was locked for longer than ``LOCK_TIMEOUT``, in a transaction that Django does not know of."""
    DATABASE_ERROR = "database_error"
    """Another error of the database, within the transaction of the change."""
    NOT_ENCODABLE = "not_encodable"
    """A value raised an exception when it was encoded."""
    MISSING_TABLE = "missing_table"
    """The tables did not exist, and the queue of pending events was full."""
    QUEUE_FULL = "queue_full"
    """The database was unavailable or locked, and the queue of pending events was full."""
    PROCESS_END = "process_end"
    """The process ended while the database was unavailable."""


@dataclass(slots=True)
class WriteStats:
    """Numbers of events that this process has written and dropped, and of failed writes."""

    written: int = 0
    failures: int = 0
    dropped_by_reason: dict[DropReason, int] = field(default_factory=dict)
    dropped_at: float | None = None
    """Time of the last drop, of the monotonic clock; None if no event was dropped."""
    next_grant_logs: dict[str, float] = field(default_factory=dict)
    """By alias: when a missing grant may be logged again, of the monotonic clock."""

    @property
    def dropped(self) -> int:
        """Number of dropped events."""
        return sum(list(self.dropped_by_reason.values()))

    def add_dropped(self, reason: DropReason, count: int = 1) -> None:
        """Count events that are dropped, and report them to the observers."""
        self.dropped_by_reason[reason] = self.dropped_by_reason.get(reason, 0) + count
        self.dropped_at = clock.monotonic()
        if observers.writes:
            observers.notify(observers.writes, "on_dropped", count, reason)

    def add_failure(self) -> None:
        """Count a write that failed, and report it to the observers."""
        self.failures += 1
        if observers.writes:
            observers.notify(observers.writes, "on_write_failed")


write_stats = WriteStats()


def count_dropped(batch: Batch, error: Exception) -> None:
    """Count and log one row that the database rejected."""
    write_stats.add_dropped(DropReason.REJECTED)
    logger.error("%s could not be written and is dropped: %r", batch.describe(), error)


LOG_INTERVAL_SECONDS: Final = 60.0
"""Seconds between two messages about the same missing grant."""


def count_denied(connection: BaseDatabaseWrapper, count: int, error: Exception) -> None:
    """Count events that the role of ``connection`` may not write, and log that at most once per minute."""
    write_stats.add_dropped(DropReason.MISSING_GRANT, count)
    now = clock.monotonic()
    if now < write_stats.next_grant_logs.get(connection.alias, 0):
        return
    write_stats.next_grant_logs[connection.alias] = now + LOG_INTERVAL_SECONDS
    logger.error(
        "Events of %r are dropped, as the database's role lacks a grant (logged once per minute): %s",
        connection.alias,
        error,
    )
