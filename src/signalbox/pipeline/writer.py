"""Writes batches of rows to the database, and drops only the rows that the database rejects."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from signalbox.core import clock, interrupts, observers
from signalbox.pipeline import backends, batches, dropped_events, processors
from signalbox.pipeline.backends import Grant
from signalbox.pipeline.batches import Batch, get_error_key, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Schema
    from signalbox.pipeline.batches import TableRow

T = TypeVar("T")

# ------------------------------------------------------------------ rows to the database


def write(
    connection: BaseDatabaseWrapper,
    batch: Batch,
    *,
    nested: bool | None = None,
    schema: str | None = None,
    lock_timeout: float | None = None,
) -> None:
    """Write ``batch`` in the transaction that is open on ``connection``, or in a new one if none is open.

    Either all rows are written or none. A failure leaves the open transaction as it was, unless the database itself
    ends it (see ``DatabaseBackend.is_transaction_alive()``). ``nested`` says whether a transaction is open, if Django
    does not know. ``schema`` and ``lock_timeout`` are those of ``DatabaseBackend.write()``. Raises
    ``django.db.DatabaseError`` if the database rejects the rows.
    """
    is_nested = _write(connection, batch, nested=nested, schema=schema, lock_timeout=lock_timeout)
    processors.schedule_on_commit(connection, batch, is_nested=is_nested)


def _write(
    connection: BaseDatabaseWrapper,
    batch: Batch,
    *,
    nested: bool | None = None,
    schema: str | None,
    lock_timeout: float | None,
) -> bool:
    """Write ``batch`` without calling event processors. Return True if its transaction is still open."""
    if connection.connection is None or (connection.autocommit and not connection.in_atomic_block):
        connection.ensure_connection()  # raises the error of pytest-django if a test may not use the database
    with connection.wrap_database_errors:
        backend = backends.get_backend(connection)
        is_nested = backend.in_transaction() if nested is None else nested
        start_ns = clock.monotonic_ns() if observers.writes else 0
        backend.write(batch, nested=is_nested, schema=schema, lock_timeout=lock_timeout)
    if observers.writes:
        observers.notify(observers.writes, "on_write", batch, (clock.monotonic_ns() - start_ns) / 1e9)
    dropped_events.write_stats.written += len(batch.events)
    return is_nested


def write_bisecting(
    connection: BaseDatabaseWrapper, batch: Batch, *, schema: str | None = None, lock_timeout: float | None = None
) -> Iterator[tuple[Batch, Exception | None]]:
    """Write ``batch`` and yield it. If the database rejects some rows, yield the written parts, and each rejected row
    with its error.

    Event processors are called for a part after it was yielded, when the caller already knows that it is written.
    Errors that are not about the rows are raised: an unavailable database, or an aborted transaction.
    """
    parts = deque([[batch]])
    while parts:
        part = parts.popleft()
        whole = merge(part)
        try:
            is_nested = _write(connection, whole, schema=schema, lock_timeout=lock_timeout)
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
            processors.schedule_on_commit(connection, whole, is_nested=is_nested)


def filter_unwritten_errors(
    connection: BaseDatabaseWrapper, rows: list[TableRow], *, schema: str | None
) -> list[TableRow]:
    """Return the ``rows`` of errors that are not stored yet.

    An update can be written twice: after a COMMIT without an answer, and if a rollback follows it. Only its errors are
    inserted. Sends one statement if there are rows.
    """
    if not rows:
        return rows
    trace_ids = sorted({str(row[0]) for row in rows})
    with connection.wrap_database_errors:
        stored = backends.get_backend(connection).query_error_keys(trace_ids, schema)
    return [row for row in rows if get_error_key(row) not in stored]


RECORDING_GRANTS: Final = tuple(
    Grant(privilege, table, columns[0][0])
    for table, columns in batches.TABLE_COLUMNS.items()
    for privilege in ("INSERT", "UPDATE", "SELECT")
)
"""What recording needs. An update of an event also reads: its condition names columns."""


def get_missing_grants(connection: BaseDatabaseWrapper, grants: Sequence[Grant] = RECORDING_GRANTS) -> list[Grant]:
    """Return those of ``grants`` that the role of ``connection`` lacks. Their tables exist.

    Raises ``django.db.DatabaseError`` if the query fails.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return backends.get_backend(connection).query_missing_grants(grants)


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
    waiting: list[T] = []
    lists: dict[Schema, list[T]] = {}  # the backend is asked once for each schema
    for item in items:
        schema = get_schema(item)
        if schema not in lists:
            try:
                lists[schema] = groups.setdefault(backend.get_target_schema(schema), [])
            except LookupError:
                lists[schema] = waiting
        lists[schema].append(item)
    return groups, waiting
