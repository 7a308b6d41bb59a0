"""The pace of a purge: how many rows a transaction deletes, and how long the purge pauses for other writers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from django.db import DatabaseError

from signalbox.core import clock
from signalbox.pipeline import backends

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

T = TypeVar("T")

MIN_ROWS: Final = 25
MAX_ROWS: Final = 2000
FIRST_ROWS: Final = 100

AIM_SECONDS: Final = 0.02
"""Aim for the time of one transaction. On SQLite every writer of the site waits for it."""

PAUSE: Final = 25.0
"""Pause after some work, as a multiple of its time. So fewer than one write in twenty meet the purge, and the 95th
percentile of the site's writes stays the same."""
MIN_PAUSE_SECONDS: Final = 0.002
MAX_PAUSE_SECONDS: Final = 2.0
"""A purge that has waited for a lock for long does not pause for longer. A worker that is stopped waits for it."""

MAX_RETRIES: Final = 10
FIRST_RETRY_SECONDS: Final = 0.02


class Pace:
    """Adapts the number of rows of a transaction to the time that the last one took."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._resumed_at = clock.monotonic()
        self.rows = FIRST_ROWS
        """Rows of the next transaction."""

    def run(self, delete: Callable[[], T]) -> T:
        """Return the result of ``delete``, which deletes up to ``rows`` rows in one transaction, and pause."""
        started = clock.monotonic()
        result = self.retry(delete)
        seconds = clock.monotonic() - started
        factor = min(2.0, max(0.25, AIM_SECONDS / max(seconds, 1e-6)))
        self.rows = max(MIN_ROWS, min(MAX_ROWS, int(self.rows * factor)))
        self.pause()
        return result

    def retry(self, statement: Callable[[], T]) -> T:
        """Return the result of ``statement``.

        After a deadlock, or a lock that was not granted in time, it is called again with a growing delay. The error
        is raised after ten times.
        """
        delay = FIRST_RETRY_SECONDS
        for attempt in range(MAX_RETRIES + 1):
            try:
                return statement()
            except DatabaseError as error:
                backend = backends.get_backend(self._connection)
                is_temporary = backend.is_conflict(error) or backend.is_lock_timeout(error)
                if not is_temporary or attempt == MAX_RETRIES or self._connection.in_atomic_block:
                    raise
                time.sleep(delay)
                delay *= 2
        raise AssertionError("The last attempt returns or raises.")

    def pause(self) -> None:
        """Pause for a multiple of the time since the last pause."""
        seconds = (clock.monotonic() - self._resumed_at) * PAUSE
        time.sleep(min(MAX_PAUSE_SECONDS, max(MIN_PAUSE_SECONDS, seconds)))
        self._resumed_at = clock.monotonic()
