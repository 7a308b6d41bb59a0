"""The clocks that deliveries use: the host's for the time that a delivery is due, the database's for leases.

Leases are compared by several machines, so one clock decides: that of the database. SQLite has none of its own, and
its file is used by one machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from signalbox.core import clock
from signalbox.core.clock import now_us

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

SECOND_US: Final = 1_000_000
READING_SECONDS: Final = 10.0
"""Seconds for which a reading of a database's clock is continued with this machine's monotonic clock."""

_CLOCK_SQL: Final = {
    "postgresql": "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    "mysql": "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
}
_readings: dict[str, tuple[int, float]] = {}
"""By alias: the database's time in microseconds, and the monotonic time at which it was read."""


def get_lease_time(connection: BaseDatabaseWrapper) -> int:
    """Return the time of the database's clock in microseconds since the epoch; on SQLite, that of the host.

    Raises ``django.db.Error`` if the database is unavailable.
    """
    sql = _CLOCK_SQL.get(connection.vendor)
    if sql is None:
        return now_us()
    database_us, read_at = _readings.get(connection.alias, (0, 0.0))
    now = clock.monotonic()
    if not database_us or not 0 <= now - read_at < READING_SECONDS:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            database_us = int(cursor.fetchone()[0])
        # The time of the answer is taken: a clock that is a little late ends no lease too early.
        now = read_at = clock.monotonic()
        _readings[connection.alias] = (database_us, read_at)
    return database_us + int((now - read_at) * SECOND_US)


def get_due_time(connection: BaseDatabaseWrapper) -> int:
    """Return the time until which deliveries are due: that of the host or of the database, whichever is later.

    Sites write the time of their own clock into a new delivery. Raises ``django.db.Error`` if the database is
    unavailable.
    """
    return max(now_us(), get_lease_time(connection))
