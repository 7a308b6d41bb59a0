"""Writes batches of rows to the database, and drops only the rows that it refuses."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from signalbox.core import interrupts
from signalbox.pipeline import backends, deliveries
from signalbox.pipeline.batches import EVENT_TABLE, TRACE_TABLE, Batch, merge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper


logger = logging.getLogger("signalbox")

TABLE_CHECK_SECONDS: Final = 5.0
"""Seconds until a database without the tables is checked again, as another process may have migrated it."""


@dataclass(slots=True)
class WriteStats:
    """Numbers of events that this process has written and dropped, and of failed writes."""

    written: int = 0
    dropped: int = 0
    failures: int = 0


write_stats = WriteStats()


# ------------------------------------------------------------------ rows to the database


def write(connection: BaseDatabaseWrapper, batch: Batch, *, nested: bool | None = None) -> None:
    """Write ``batch`` in the transaction that is open on ``connection``, or in one of its own if none is.

    Either all rows are written or none. A failure leaves the open transaction as it was, unless the database itself
    ends it (see ``backends.is_transaction_alive``). ``nested`` says whether a transaction is open, if Django does not
    know. Raises ``django.db.DatabaseError`` if the database rejects the rows.
    """
    if connection.connection is None or (connection.autocommit and not connection.in_atomic_block):
        connection.ensure_connection()  # raises the error of pytest-django if a test may not use the database
    with connection.wrap_database_errors:
        backends.write(connection, batch, nested=backends.in_transaction(connection) if nested is None else nested)
    write_stats.written += len(batch.events)
    if batch.deliveries:
        deliveries.get_source().on_deliveries_written(connection)


def write_bisecting(connection: BaseDatabaseWrapper, batch: Batch) -> Iterator[tuple[Batch, Exception | None]]:
    """Write ``batch`` and yield it. If the database rejects some rows, yield the written parts, and each rejected row
    with its error.

    Errors that are not about the rows are raised: an unavailable database, or an aborted transaction.
    """
    parts = deque([[batch]])
    while parts:
        part = parts.popleft()
        whole = merge(part)
        try:
            write(connection, whole)
        except Exception as error:
            interrupts.raise_if_interrupt(error)
            if not backends.is_row_error(connection, error) or (
                backends.in_transaction(connection) and not backends.is_transaction_alive(connection, error)
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
    """Count and log one row that the database rejected."""
    write_stats.dropped += 1
    what = f"An event of {batch.events[0][4]}" if batch.events else "A trace" if batch.traces else "A part of an event"
    logger.error("%s could not be written and is dropped: %r", what, error)


# ------------------------------------------------------------------ tables

_table_checks: dict[tuple[str, str], float] = {}
"""By alias and database: infinity if the tables were found, otherwise the time of the next check."""


def has_tables(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the database of ``connection`` has Signalbox's tables."""
    key = (connection.alias, str(connection.settings_dict["NAME"]))
    known = _table_checks.get(key)
    if known is not None and (known == _TABLES_FOUND or time.monotonic() < known):
        return known == _TABLES_FOUND
    with connection.wrap_database_errors:
        found = _query_has_tables(connection)
    _table_checks[key] = _TABLES_FOUND if found else time.monotonic() + TABLE_CHECK_SECONDS
    return found


_TABLES_FOUND: Final = float("inf")


def clear_table_cache() -> None:
    """Check the tables again, because a migration or a flush has run."""
    _table_checks.clear()


def _query_has_tables(connection: BaseDatabaseWrapper) -> bool:
    connection.ensure_connection()
    raw: Any = connection.connection
    match connection.vendor:
        case "sqlite":
            sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)"
            return bool(raw.execute(sql, (EVENT_TABLE, TRACE_TABLE)).fetchone()[0] == 2)
        case "postgresql":
            with backends.create_postgresql_cursor(connection) as cursor:
                cursor.execute(
                    "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL", (EVENT_TABLE, TRACE_TABLE)
                )
                return bool(cursor.fetchone()[0])
        case _:
            with raw.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM information_schema.tables "
                    "WHERE table_schema = database() AND table_name IN (%s, %s)",
                    (EVENT_TABLE, TRACE_TABLE),
                )
                return bool(cursor.fetchone()[0] == 2)
