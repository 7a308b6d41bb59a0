"""Writes batches of rows to the database, and drops only the rows that it refuses."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from signalbox.core import interrupts
from signalbox.pipeline import backends, deliveries
from signalbox.pipeline.backends import postgresql
from signalbox.pipeline.batches import Batch, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Schema

T = TypeVar("T")

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


def write(
    connection: BaseDatabaseWrapper,
    batch: Batch,
    *,
    nested: bool | None = None,
    schema: str | None = None,
    lock_timeout: float | None = None,
) -> None:
    """Write ``batch`` in the transaction that is open on ``connection``, or in one of its own if none is.

    Either all rows are written or none. A failure leaves the open transaction as it was, unless the database itself
    ends it (see ``DatabaseBackend.is_transaction_alive()``). ``nested`` says whether a transaction is open, if Django
    does not know. ``schema`` and ``lock_timeout`` are those of ``DatabaseBackend.write()``. Raises
    ``django.db.DatabaseError`` if the database rejects the rows.
    """
    if connection.connection is None or (connection.autocommit and not connection.in_atomic_block):
        connection.ensure_connection()  # raises the error of pytest-django if a test may not use the database
    with connection.wrap_database_errors:
        backend = backends.get_backend(connection)
        is_nested = backend.in_transaction() if nested is None else nested
        backend.write(batch, nested=is_nested, schema=schema, lock_timeout=lock_timeout)
    write_stats.written += len(batch.events)
    if batch.deliveries:
        deliveries.get_source().on_deliveries_written(connection)


def write_bisecting(
    connection: BaseDatabaseWrapper, batch: Batch, *, schema: str | None = None, lock_timeout: float | None = None
) -> Iterator[tuple[Batch, Exception | None]]:
    """Write ``batch`` and yield it. If the database rejects some rows, yield the written parts, and each rejected row
    with its error.

    Errors that are not about the rows are raised: an unavailable database, or an aborted transaction.
    """
    parts = deque([[batch]])
    while parts:
        part = parts.popleft()
        whole = merge(part)
        try:
            write(connection, whole, schema=schema, lock_timeout=lock_timeout)
        except Exception as error:
            interrupts.raise_if_interrupt(error)
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
    """Count and log one row that the database rejected."""
    write_stats.dropped += 1
    what = f"An event of {batch.events[0][4]}" if batch.events else "A trace" if batch.traces else "A part of an event"
    logger.error("%s could not be written and is dropped: %r", what, error)


_LOG_INTERVAL: Final = 60.0
"""Seconds between two messages about the same missing grant."""
_next_logs: dict[str, float] = {}
"""By alias: when a missing grant may be logged again."""


def count_denied(connection: BaseDatabaseWrapper, count: int, error: Exception) -> None:
    """Count events that the role of ``connection`` may not write, and log that at most once per minute."""
    write_stats.dropped += count
    now = time.monotonic()
    if now < _next_logs.get(connection.alias, 0):
        return
    _next_logs[connection.alias] = now + _LOG_INTERVAL
    logger.error(
        "Events of %r are dropped, as the database's role lacks a grant (logged once per minute): %s",
        connection.alias,
        error,
    )


def get_missing_grants(connection: BaseDatabaseWrapper) -> list[str]:
    """Return the grants that the role of ``connection`` lacks for the tables, such as ``INSERT ON signalbox_event``.

    Raises ``django.db.DatabaseError`` if the database can't be asked.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return backends.get_backend(connection).query_missing_grants()


# ------------------------------------------------------------------ schemas


def resolve_schema(connection: BaseDatabaseWrapper) -> Schema:
    """Return the schema that an event recorded now on ``connection`` belongs to. See ``PendingEvent.schema``."""
    return backends.get_backend(connection).resolve_schema()


def group_by_schema(
    connection: BaseDatabaseWrapper, items: Iterable[T], get_schema: Callable[[T], Schema]
) -> tuple[dict[str | None, list[T]], list[T]]:
    """Return ``items`` by the schema to write them to, and the items whose schema has no tables."""
    backend = backends.get_backend(connection)
    groups: dict[str | None, list[T]] = {}
    waiting = []
    for item in items:
        try:
            target = backend.get_target_schema(get_schema(item))
        except LookupError:
            waiting.append(item)
        else:
            groups.setdefault(target, []).append(item)
    return groups, waiting


# ------------------------------------------------------------------ tables

_table_checks: dict[tuple[str, str], float] = {}
"""By alias and database: infinity if the tables were found, otherwise the time of the next check."""


def has_tables(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the database of ``connection`` has Signalbox's tables."""
    backend = backends.get_backend(connection)
    in_schemas = backend.has_tables_in_a_schema()
    if in_schemas is not None:
        return in_schemas
    key = (connection.alias, str(connection.settings_dict["NAME"]))
    known = _table_checks.get(key)
    if known is not None and (known == _TABLES_FOUND or time.monotonic() < known):
        return known == _TABLES_FOUND
    connection.ensure_connection()
    with connection.wrap_database_errors:
        found = backend.query_has_tables()
    _table_checks[key] = _TABLES_FOUND if found else time.monotonic() + TABLE_CHECK_SECONDS
    return found


_TABLES_FOUND: Final = float("inf")


def clear_table_cache() -> None:
    """Check the tables again, because a migration or a flush has run."""
    _table_checks.clear()
    postgresql.clear_table_cache()
