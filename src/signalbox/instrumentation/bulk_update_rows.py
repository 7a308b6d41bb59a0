"""Reads the rows of bulk operations: old values before the statement, and new values after it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from django.db.models import QuerySet

from signalbox.instrumentation import row_reads
from signalbox.instrumentation.bulk_events import add_event, align_values, build_row_event, log_errors, record_operation
from signalbox.instrumentation.statement_dialects import get_dialect
from signalbox.serialization.diff import RowChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.instrumentation.model_metadata import ModelMetadata


def fetch_rows(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, keys: list[Any], field_names: Sequence[str]
) -> dict[Any, Sequence[Any]] | None:
    """Return the rows with ``keys`` in the table, by key, in the order of ``keys``. None if they can't be read.

    The rows have the values of ``field_names`` and of the primary key, and ``UNKNOWN`` elsewhere.
    """
    rows = _get_unfiltered_queryset(metadata, connection)
    fields = {metadata.concrete_model._meta.get_field(name).name for name in field_names} | metadata.fields.primary_key
    positions = [position for position, name in enumerate(metadata.fields.names) if name in fields]
    attnames = [metadata.fields.attnames[position] for position in positions]
    rows_by_key: dict[Any, Sequence[Any]] = {}
    for start in range(0, len(keys), 500):
        part = rows.filter(pk__in=keys[start : start + 500]).values_list("pk", *attnames)
        found = row_reads.read(connection, partial(list, part))
        if found is None:
            return None
        rows_by_key.update({key: align_values(metadata, positions, values) for key, *values in found})
    return {key: rows_by_key[key] for key in keys if key in rows_by_key}


def read_before_update(
    queryset: Any, metadata: ModelMetadata, connection: BaseDatabaseWrapper, kwargs: dict[str, Any]
) -> dict[Any, Sequence[Any]] | None:
    """Return the values that ``update()`` is about to replace, by key; None if they can't be read.

    The rows must be those that the statement changes. So they are locked, and PostgreSQL's rules and row security must
    not apply.
    """
    names = get_field_names(metadata, kwargs)
    if get_dialect(connection).get_obstacle(connection, metadata.concrete_model, metadata.pk_fields):
        return None
    # A subquery of keys, as PostgreSQL locks no rows of an outer join.
    rows = _get_unfiltered_queryset(metadata, connection).filter(pk__in=queryset._chain().order_by().values("pk"))
    return _read_locked(metadata, [rows], connection, names)


def read_before_batch(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, pk_list: Sequence[Any], field_names: list[str]
) -> dict[Any, Sequence[Any]] | None:
    """Return the values that a batch is about to replace, by key; None if they can't be read."""
    rows = _get_unfiltered_queryset(metadata, connection)
    parts = [rows.filter(pk__in=pk_list[start : start + 500]) for start in range(0, len(pk_list), 500)]
    return _read_locked(metadata, parts, connection, field_names)


def _read_locked(
    metadata: ModelMetadata,
    querysets: Iterable[QuerySet[Any]],
    connection: BaseDatabaseWrapper,
    field_names: list[str],
) -> dict[Any, Sequence[Any]] | None:
    """Lock the rows, and return the values of ``field_names`` by key; None if they can't be read."""
    if not row_reads.is_lock_kept(connection) or not get_dialect(connection).take_write_lock(
        connection, metadata.concrete_model
    ):
        return None

    def select() -> dict[Any, Sequence[Any]]:
        found: dict[Any, Sequence[Any]] = {}
        for rows in querysets:
            locked = rows.select_for_update() if connection.features.has_select_for_update else rows
            found.update({row[0]: row[1:] for row in locked.values_list("pk", *field_names)})
        return found

    values: dict[Any, Sequence[Any]] | None = row_reads.read(connection, select)
    return values


def _get_unfiltered_queryset(metadata: ModelMetadata, connection: BaseDatabaseWrapper) -> QuerySet[Any]:
    """Return all rows of the table. Managers of the model, such as the base manager, may hide some."""
    return QuerySet(metadata.concrete_model, using=connection.alias)


def get_field_names(metadata: ModelMetadata, values: dict[str, Any]) -> list[str]:
    """Return the names of the fields in ``values``, in the order of the model."""
    return [
        field.name
        for field in metadata.concrete_model._meta.concrete_fields
        if field.name in values or field.attname in values
    ]


def record_changed_rows(
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    field_names: list[str],
    old_values: dict[Any, Sequence[Any]],
    extra_args: dict[str, Any],
) -> None:
    """Add an event for each row with ``old_values`` that was updated.

    If the new values can't be read, one event has the keys and ``extra_args``.
    """
    with log_errors("update", metadata):
        positions = [metadata.fields.names.index(name) for name in field_names]
        old_keys = list(old_values)
        for start in range(0, len(old_keys), 500):
            keys = old_keys[start : start + 500]
            rows = _get_unfiltered_queryset(metadata, connection).filter(pk__in=keys).values_list("pk", *field_names)
            new = row_reads.read(connection, partial(list, rows))
            if new is None:
                left = old_keys[start:]
                record_operation("update", metadata, connection, len(left), left, extra_args)
                return
            for key, *values in new:
                change = RowChange(
                    metadata.fields,
                    align_values(metadata, positions, old_values[key]),
                    align_values(metadata, positions, values),
                )
                add_event(
                    build_row_event("update", metadata, connection, metadata.format_key(key), change, None), connection
                )
