"""Writes batches of rows to the database, and drops only the rows that it refuses."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from signalbox.pipeline import backends, deliveries
from signalbox.pipeline.batches import Batch, merge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper


logger = logging.getLogger("signalbox")

TABLE_CHECK_SECONDS: Final = 5.0
"""Seconds until a database without the tables is asked again: another process may have migrated it."""


@dataclass(slots=True)
class WriteStats:
    """What this process has written and lost."""

    written: int = 0
    dropped: int = 0
    failures: int = 0


write_stats = WriteStats()


# ------------------------------------------------------------------ rows to the database


def write(connection: BaseDatabaseWrapper, batch: Batch, *, nested: bool | None = None) -> None:
    """Write ``batch`` in the transaction that is open on ``connection``, or in one of its own if none is.

    All of it is written or nothing. A failure leaves the open transaction as it was, unless the database itself ends it
    (see ``DatabaseBackend.is_transaction_alive()``). ``nested`` says whether a transaction is open, where Django does not know.
    Raises ``django.db.DatabaseError`` if the database refuses.
    """
    if connection.connection is None or (connection.autocommit and not connection.in_atomic_block):
        connection.ensure_connection()  # there the database is forbidden, as pytest-django does where a test has none
    with connection.wrap_database_errors:
        backend = backends.get_backend(connection)
        backend.write(batch, nested=backend.in_transaction() if nested is None else nested)
    write_stats.written += len(batch.events)
    if batch.deliveries:
        deliveries.get_source().on_deliveries_written(connection)


def write_bisecting(connection: BaseDatabaseWrapper, batch: Batch) -> Iterator[tuple[Batch, Exception | None]]:
    """Write ``batch`` and yield what was written: all of it, unless the database refuses some of its rows. Then the
    others are written, and each that is refused is yielded with the error.

    Raises what is no fault of the rows: a database that is away, or a transaction that is lost.
    """
    parts = deque([[batch]])
    while parts:
        part = parts.popleft()
        whole = merge(part)
        try:
            write(connection, whole)
        except Exception as error:
            backend = backends.get_backend(connection)
            if not backend.is_row_error(error) or (
                backend.in_transaction() and not backend.is_transaction_alive(error)
            ):
                raise
            if len(part) == 1:
                part = part[0].split()
            if len(part) == 1:
                yield whole, error
            else:
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))
        else:
            yield whole, None


def count_dropped(batch: Batch, error: Exception) -> None:
    """Count and log one row that the database refuses."""
    write_stats.dropped += 1
    what = f"An event of {batch.events[0][4]}" if batch.events else "A trace" if batch.traces else "A part of an event"
    logger.error("%s could not be written and is dropped: %r", what, error)


# ------------------------------------------------------------------ are the tables there?

_table_checks: dict[tuple[str, str], float] = {}
"""By alias and database: infinity where the tables were found, else when to look again."""


def has_tables(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the tables stand in the database of ``connection``."""
    key = (connection.alias, str(connection.settings_dict["NAME"]))
    known = _table_checks.get(key)
    if known is not None and (known == _TABLES_FOUND or time.monotonic() < known):
        return known == _TABLES_FOUND
    connection.ensure_connection()
    with connection.wrap_database_errors:
        found = backends.get_backend(connection).query_has_tables()
    _table_checks[key] = _TABLES_FOUND if found else time.monotonic() + TABLE_CHECK_SECONDS
    return found


_TABLES_FOUND: Final = float("inf")


def clear_table_cache() -> None:
    """Look for the tables anew: a migration or a flush has run."""
    _table_checks.clear()
