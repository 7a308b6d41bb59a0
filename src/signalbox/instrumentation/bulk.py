"""Operations for which Django sends nothing: bulk_create, bulk_update, update and the deletes that load no object.

Each is one event with the model, the fields, how many rows and which, written in the operation's own transaction.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import django
from django.db import connections
from django.db.models import AutoField, QuerySet
from django.db.models.sql import DeleteQuery, UpdateQuery

from signalbox.core import interrupts, tracing
from signalbox.core.event import UNKNOWN, PendingEvent
from signalbox.instrumentation import model_metadata, patching, returning, row_state
from signalbox.instrumentation.autocommit import ensure_transaction
from signalbox.pipeline import unit_of_work
from signalbox.serialization import encoder
from signalbox.serialization.diff import RowChange, expression_text, get_choice_labels
from signalbox.serialization.expressions import NO_ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.core.event import Rollbackable
    from signalbox.instrumentation.model_metadata import ModelMetadata

logger = logging.getLogger("signalbox")

MAX_RECORDED_KEYS: Final = 10_000
"""Keys that one event tells; of a larger operation it tells these, and the number of all."""

suppressed_model: ContextVar[type[Model] | None] = ContextVar("signalbox_suppressed_model", default=None)
"""The model of which an operation is under way that tells of its inner ones itself."""

_originals: dict[str, Any] = {}
"""What the methods of ``QuerySet`` were when recording was installed, by name."""
_original_update_batch: Any
_original_delete_batch: Any
_record_rows = False


def install(names: frozenset[str], *, rows: bool) -> None:
    """Record the operations among ``names``; ``rows`` makes one event of each row, with its changes."""
    global _record_rows, _original_update_batch, _original_delete_batch
    _record_rows = rows
    replacements: dict[str, tuple[str, Any]] = {
        "bulk_create": ("bulk_create", _bulk_create),
        "bulk_update": ("bulk_update", _bulk_update),
        "update": ("update", _update),
        "bulk_delete": ("_raw_delete", _raw_delete),
    }
    for name, (attribute, replacement) in replacements.items():
        if name in names:
            _originals[attribute] = patching.install(QuerySet, attribute, replacement)
    if "update" in names:
        _original_update_batch = patching.install(UpdateQuery, "update_batch", _update_batch)
    if "bulk_delete" in names:
        _original_delete_batch = patching.install(DeleteQuery, "delete_batch", _delete_batch)


def uninstall() -> None:
    """Leave the classes as Django made them."""
    for attribute in _originals:
        patching.uninstall(QuerySet, attribute)
    patching.uninstall(UpdateQuery, "update_batch")
    patching.uninstall(DeleteQuery, "delete_batch")


class suppress_bulk_events:  # noqa: N801 - a block, which a generator would make three times as dear
    """Keep the block's operations on ``model``, and on no other, from making events: who does them tells of them."""

    __slots__ = ("_model", "_token")

    def __init__(self, model: type[Model] | None) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._token = suppressed_model.set(self._model)

    def __exit__(self, *_: object) -> None:
        suppressed_model.reset(self._token)


def _is_suppressed(metadata: ModelMetadata) -> bool:
    """Tell whether an operation on the plan's model makes no event."""
    return not metadata.is_recorded or suppressed_model.get() is metadata.concrete_model


# ------------------------------------------------------------------ the operations


def _bulk_create(
    self: Any,
    objs: Any,
    batch_size: int | None = None,
    ignore_conflicts: bool = False,
    update_conflicts: bool = False,
    update_fields: Any = None,
    unique_fields: Any = None,
    **kwargs: Any,
) -> Any:
    metadata = model_metadata.get_metadata(self.model)
    options = (batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields)
    if _is_suppressed(metadata) or not objs:
        return _originals["bulk_create"](self, objs, *options, **kwargs)
    objects = list(objs)
    self._for_write = True
    returns_rows = _record_rows and ignore_conflicts
    fields = list(metadata.concrete_model._meta.local_concrete_fields) if returns_rows else metadata.pk_fields
    max_rows = None if returns_rows else MAX_RECORDED_KEYS
    django_begins = _django_begins_transaction(self, objects, batch_size)
    with (
        ensure_transaction(self.db, metadata.label, "bulk_create", begun_by_django=django_begins) as connection,
        returning.request_returning("insert", self.model, fields, max_rows=max_rows) as requested,
    ):
        created = _originals["bulk_create"](self, objects, *options, **kwargs)
        with _log_errors("bulk_create", metadata):
            if ignore_conflicts:
                _record_partial_create(metadata, connection, objects, requested)
            elif objects:
                _record_create(metadata, connection, objects, update_conflicts)
    return created


def _django_begins_transaction(queryset: Any, objects: list[Any], batch_size: int | None) -> bool:
    """Tell whether Django itself begins a transaction for a bulk creation: from 6.0 on for several statements alone."""
    if django.VERSION < (6, 0):
        return True
    keyed_count = sum(one._is_pk_set() for one in objects)
    if 0 < keyed_count < len(objects):
        return True
    fields = [field for field in queryset.model._meta.concrete_fields if not field.generated]
    if not keyed_count:
        fields = [field for field in fields if not isinstance(field, AutoField)]
    max_batch_size: int = max(connections[queryset.db].ops.bulk_batch_size(fields, objects), 1)
    return len(objects) > min(batch_size or max_batch_size, max_batch_size)


def _record_partial_create(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, objects: list[Any], requested: returning.ReturningRequest
) -> None:
    """Tell of the objects that were not there yet, as far as the database says which."""
    if _record_rows and requested.rows is not None:
        _record_whole_rows("bulk_create", metadata, connection, requested)
        return
    count = requested.row_count if requested.is_counted else len(objects)
    extra_args = {"ignore_conflicts": True, **_get_unknown_reason(requested)}
    _record_operation("bulk_create", metadata, connection, count, _get_keys(metadata, requested), extra_args)


def _record_create(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, objects: list[Any], update_conflicts: bool
) -> None:
    keys: list[Any] | None = [one.pk for one in objects]
    if any(key is None for key in keys or ()):  # the database tells no keys of many rows (MySQL)
        keys = None
    rollbackable: Rollbackable | None = None
    if update_conflicts or keys is None:  # nobody knows what the rows hold, or which they are
        rollbackable = row_state.expire(objects)
    else:
        rollbackable = row_state.set_committed_state(metadata, objects)
    if _record_rows and not update_conflicts:
        for one in objects:
            change = RowChange(metadata.fields, None, row_state.copy_mutable_values(metadata, metadata.get_values(one)))
            _add_event(
                _build_row_event("bulk_create", metadata, connection, metadata.get_key(one), change, rollbackable),
                connection,
            )
            rollbackable = None  # one for all of them
        return
    extra_args = {"update_conflicts": True} if update_conflicts else {}
    _record_operation("bulk_create", metadata, connection, len(objects), keys, extra_args, rollbackable)


def _bulk_update(
    self: Any, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None, **kwargs: Any
) -> Any:
    metadata = model_metadata.get_metadata(self.model)
    if _is_suppressed(metadata) or not objs or not fields:
        return _originals["bulk_update"](self, objs, fields, batch_size, **kwargs)
    objects, names = list(objs), list(fields)
    self._for_write = True
    with ensure_transaction(self.db, metadata.label, "bulk_update", begun_by_django=True) as connection:
        with suppress_bulk_events(metadata.concrete_model):
            row_count = _originals["bulk_update"](self, objects, names, batch_size, **kwargs)
        with _log_errors("bulk_update", metadata):
            if row_count:
                _record_bulk_update(metadata, connection, objects, names, row_count)
    return row_count


def _record_bulk_update(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, objects: list[Any], field_names: list[str], number: int
) -> None:
    keys = list(dict.fromkeys(one.pk for one in objects))
    stored: dict[Any, Sequence[Any]] = {}
    if number != len(objects) or number != len(keys):  # some are not there any more, or are meant twice
        # Which of two objects with one key the database took depends on how it was asked: the row itself says.
        fetched = _fetch_rows(metadata, connection, keys, field_names)
        if fetched is None:
            unknown = {"fields": field_names, "keys_unknown": returning.NOT_READABLE}
            _record_operation("bulk_update", metadata, connection, number, None, unknown, row_state.expire(objects))
            return
        stored = fetched
        objects = [one for one in objects if one.pk in stored]
        keys = list(stored)
    extra_args: set[Any] = set()
    rollbackable: Rollbackable | None = row_state.BulkStateSavepoint(objects)
    for one in objects:
        known = row_state.get_row_before_write(metadata, one, connection.alias)
        values = stored[one.pk] if stored else metadata.get_values(one)
        written = row_state.copy_mutable_values(metadata, _mask_other_fields(metadata, values, field_names))
        setattr(one._state, row_state.ROW_ATTRIBUTE, row_state.merge_written(known, written))
        if _record_rows and one.pk not in extra_args:
            extra_args.add(one.pk)
            change = RowChange(metadata.fields, known, written)
            _add_event(
                _build_row_event("bulk_update", metadata, connection, metadata.get_key(one), change, rollbackable),
                connection,
            )
            rollbackable = None  # one for all of them
    if not _record_rows:
        _record_operation("bulk_update", metadata, connection, number, keys, {"fields": field_names}, rollbackable)


def _fetch_rows(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, keys: list[Any], field_names: Sequence[str]
) -> dict[Any, Sequence[Any]] | None:
    """Return those of ``keys`` that the table holds, in their order, with their rows as far as ``field_names`` go.

    ``None`` if they can't be read.
    """
    rows = _get_unfiltered_queryset(metadata, connection)
    fields = {metadata.concrete_model._meta.get_field(name).name for name in field_names} | metadata.fields.primary_key
    positions = [position for position, name in enumerate(metadata.fields.names) if name in fields]
    attnames = [metadata.fields.attnames[position] for position in positions]
    rows_by_key: dict[Any, Sequence[Any]] = {}
    for start in range(0, len(keys), 500):
        part = rows.filter(pk__in=keys[start : start + 500]).values_list("pk", *attnames)
        found = returning.read(connection, partial(list, part))
        if found is None:
            return None
        rows_by_key.update({key: _align_values(metadata, positions, values) for key, *values in found})
    return {key: rows_by_key[key] for key in keys if key in rows_by_key}


def _mask_other_fields(metadata: ModelMetadata, values: Sequence[Any], field_names: Iterable[str]) -> list[Any]:
    """Return ``values`` with those of other fields than ``names`` and the key unknown."""
    fields = metadata.fields
    requested = {*field_names, *fields.primary_key}
    return [
        value if name in requested or attname in requested else UNKNOWN
        for name, attname, value in zip(fields.names, fields.attnames, values, strict=True)
    ]


def _update(self: Any, **kwargs: Any) -> Any:
    metadata = model_metadata.get_metadata(self.model)
    query = self.query
    # Django says itself what it can't update.
    if _is_suppressed(metadata) or query.is_sliced or query.combinator or query.distinct_fields or not kwargs:
        return _originals["update"](self, **kwargs)
    self._for_write = True
    with ensure_transaction(self.db, metadata.label, "update") as connection:
        new_pk_values = _get_new_pk_values(metadata, kwargs)
        if _record_rows and query.group_by is None and not new_pk_values:
            old_values = _read_before_update(self, metadata, connection, kwargs)
            if old_values is not None:
                return _update_rows(self, metadata, connection, kwargs, old_values)
        with returning.request_returning(
            "update",
            metadata.concrete_model,
            metadata.pk_fields,
            before_update=bool(new_pk_values),
            max_rows=MAX_RECORDED_KEYS,
        ) as requested:
            row_count = _originals["update"](self, **kwargs)
        if row_count:
            with _log_errors("update", metadata):
                keys = _get_keys(metadata, requested)
                extra_args = {
                    **_encode_update(metadata, kwargs, query.annotations),
                    **_get_unknown_reason(requested),
                }
                if new_pk_values:
                    new = _get_new_keys(metadata, keys, new_pk_values)
                    extra_args["new_keys"] = None if new is None else _encode_keys(metadata, new)
                _record_operation("update", metadata, connection, row_count, keys, extra_args)
    return row_count


def _get_new_pk_values(metadata: ModelMetadata, values: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of the primary key that ``update()`` was given, by attribute."""
    return {
        field.attname: values[given]
        for field in metadata.pk_fields
        for given in (field.name, field.attname, *(("pk",) if len(metadata.pk_fields) == 1 else ()))
        if given in values
    }


def _get_new_keys(metadata: ModelMetadata, keys: list[Any] | None, new_pk_values: dict[str, Any]) -> list[Any] | None:
    """Return the keys that the rows with ``keys`` were given; ``None`` where only the database knows."""
    if keys is None or any(hasattr(value, "resolve_expression") for value in new_pk_values.values()):
        return None
    given = {
        position: _to_field_value(metadata.pk_fields[position], new_pk_values[field.attname])
        for position, field in enumerate(metadata.pk_fields)
        if field.attname in new_pk_values
    }
    if len(metadata.pk_fields) == 1:
        return [given[0]] * len(keys)
    return [tuple(given.get(position, part) for position, part in enumerate(key)) for key in keys]


def _to_field_value(field: Any, value: Any) -> Any:
    """Return what a row holds that was given ``value``: of an object its key, of a text the number that it is of."""
    while field.is_relation:
        field = field.target_field
        if hasattr(value, "_meta"):
            value = getattr(value, field.attname)
    return field.to_python(value)


def _encode_update(
    metadata: ModelMetadata, values: dict[str, Any], annotations: Mapping[str, Any] = NO_ANNOTATIONS
) -> dict[str, Any]:
    """Return what is told of the values that ``update()`` was given, with what choices are called."""
    rendered, plain = _encode_update_values(metadata, values, annotations)
    labels = get_choice_labels(plain, metadata.fields)
    return {"values": rendered, "labels": labels} if labels else {"values": rendered}


def _encode_update_values(
    metadata: ModelMetadata, values: dict[str, Any], annotations: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``update()`` was given, as a save would tell it: keys for objects, what expressions are made of, no
    secrets; and what of it is a plain value."""
    redactor = metadata.fields.redactor
    encoded: dict[str, Any] = {}
    given_values: dict[str, Any] = {}
    for given, value in values.items():
        name = metadata.concrete_model._meta.get_field(given).name if given != "pk" else given
        if name in metadata.fields.excluded:
            continue
        if name in metadata.fields.secret or redactor.should_redact(name, value):
            encoded[name] = redactor.placeholder
        elif hasattr(value, "resolve_expression"):
            encoded[name] = expression_text(value, metadata.fields, annotations)
        else:
            given_values[name] = _get_written_value(metadata, name, value)
    return {**encoded, **encoder.encode_fields(given_values, redactor=redactor)}, given_values


def _get_written_value(metadata: ModelMetadata, name: str, value: Any) -> Any:
    """Return what ``update()`` wrote of a field, as a save would tell it."""
    try:
        rows_by_key = _to_field_value(metadata.concrete_model._meta.get_field(name), value)
    except Exception as error:  # noqa: BLE001 - the field's own code on a value that the database took
        interrupts.raise_if_interrupt(error)
        rows_by_key = getattr(value, "pk", value)
    to_text = metadata.fields.to_text.get(name)
    return rows_by_key if to_text is None else to_text(rows_by_key)


def _read_before_update(
    self: Any, metadata: ModelMetadata, connection: BaseDatabaseWrapper, kwargs: dict[str, Any]
) -> dict[Any, Sequence[Any]] | None:
    """Return the values that ``update()`` is about to replace, by key; ``None`` if they can't be read.

    What is read must be what the statement changes, so the rows are locked, and PostgreSQL's rules and row security
    must not apply.
    """
    names = _get_field_names(metadata, kwargs)
    if returning.get_returning_obstacle(connection, metadata.concrete_model, metadata.pk_fields):
        return None
    # By key: PostgreSQL locks no rows of an outer join.
    rows = _get_unfiltered_queryset(metadata, connection).filter(pk__in=self._chain().order_by().values("pk"))
    return _read_locked(metadata, [rows], connection, names)


def _update_rows(
    self: Any,
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    kwargs: dict[str, Any],
    old_values: dict[Any, Sequence[Any]],
) -> Any:
    """Update, and record of each row what changed: the new values are read afterwards."""
    row_count = _originals["update"](self, **kwargs)
    if row_count:
        extra_args = _encode_update(metadata, kwargs, self.query.annotations)
        _record_changed_rows(metadata, connection, _get_field_names(metadata, kwargs), old_values, extra_args)
    return row_count


def _get_unfiltered_queryset(metadata: ModelMetadata, connection: BaseDatabaseWrapper) -> QuerySet[Any]:
    """Return all rows of the plan's table: a model's managers, the base manager among them, may hide some."""
    return QuerySet(metadata.concrete_model, using=connection.alias)


def _get_field_names(metadata: ModelMetadata, values: dict[str, Any]) -> list[str]:
    """Return the names of the fields that ``values`` are of, in the model's order."""
    return [
        field.name
        for field in metadata.concrete_model._meta.concrete_fields
        if field.name in values or field.attname in values
    ]


def _read_locked(
    metadata: ModelMetadata,
    querysets: Iterable[QuerySet[Any]],
    connection: BaseDatabaseWrapper,
    field_names: list[str],
) -> dict[Any, Sequence[Any]] | None:
    """Return these fields' values by key, their rows locked; ``None`` if they can't be read."""
    if not connection.in_atomic_block and connection.get_autocommit():  # the locks would end before the statement
        return None
    if not returning.take_write_lock(connection, metadata.concrete_model):
        return None

    def select() -> dict[Any, Sequence[Any]]:
        found: dict[Any, Sequence[Any]] = {}
        for rows in querysets:
            locked = rows.select_for_update() if connection.features.has_select_for_update else rows
            found.update({row[0]: row[1:] for row in locked.values_list("pk", *field_names)})
        return found

    values: dict[Any, Sequence[Any]] | None = returning.read(connection, select)
    return values


def _record_changed_rows(
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    field_names: list[str],
    old_values: dict[Any, Sequence[Any]],
    extra_args: dict[str, Any],
) -> None:
    """Make one event of each row that held ``old_values`` and was updated.

    If the new values can't be read, one event has the keys and ``extra_args``.
    """
    with _log_errors("update", metadata):
        positions = [metadata.fields.names.index(name) for name in field_names]
        old_keys = list(old_values)
        for start in range(0, len(old_keys), 500):
            keys = old_keys[start : start + 500]
            rows = _get_unfiltered_queryset(metadata, connection).filter(pk__in=keys).values_list("pk", *field_names)
            new = returning.read(connection, partial(list, rows))
            if new is None:
                left = old_keys[start:]
                _record_operation("update", metadata, connection, len(left), left, extra_args)
                return
            for key, *values in new:
                change = RowChange(
                    metadata.fields,
                    _align_values(metadata, positions, old_values[key]),
                    _align_values(metadata, positions, values),
                )
                _add_event(
                    _build_row_event("update", metadata, connection, metadata.format_key(key), change, None), connection
                )


def _align_values(metadata: ModelMetadata, positions: Sequence[int], values: Sequence[Any]) -> list[Any]:
    aligned: list[Any] = [UNKNOWN] * len(metadata.fields.names)
    for position, value in zip(positions, values, strict=True):
        aligned[position] = value
    return aligned


def _raw_delete(self: Any, using: str, *args: Any, **kwargs: Any) -> Any:
    metadata = model_metadata.get_metadata(self.model)
    if _is_suppressed(metadata):
        return _originals["_raw_delete"](self, using, *args, **kwargs)
    return _delete_and_record(metadata, using, lambda: _originals["_raw_delete"](self, using, *args, **kwargs))


def _delete_and_record(metadata: ModelMetadata, using: str, delete: Callable[[], Any]) -> Any:
    with ensure_transaction(using, metadata.label, "bulk_delete") as connection:
        fields = (
            list(metadata.concrete_model._meta.local_concrete_fields)
            if _record_rows
            else [*metadata.pk_fields, *metadata.through_fields]
        )
        max_batch_size = None if _record_rows else MAX_RECORDED_KEYS
        with returning.request_returning(
            "delete", metadata.concrete_model, fields, max_rows=max_batch_size
        ) as requested:
            row_count = delete()
        if row_count:
            with _log_errors("bulk_delete", metadata):
                _record_delete(metadata, connection, row_count, requested)
    return row_count


def _record_delete(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, number: int, requested: returning.ReturningRequest
) -> None:
    if not _record_rows or requested.rows is None:
        extra_args = {**_get_related_keys(metadata, requested), **_get_unknown_reason(requested)}
        keys = _get_keys(metadata, requested)
        _record_operation("bulk_delete", metadata, connection, number, keys, extra_args)
        return
    _record_whole_rows("bulk_delete", metadata, connection, requested)


def _record_whole_rows(
    operation: str, metadata: ModelMetadata, connection: BaseDatabaseWrapper, requested: returning.ReturningRequest
) -> None:
    """Make one event of each row that a statement returned, as one that was created or deleted."""
    positions = [metadata.fields.attnames.index(field.attname) for field in requested.fields]
    for values in requested.rows or ():
        row = _align_values(metadata, positions, values)
        key = tuple(row[position] for position, _ in metadata.pk_positions)
        change = (
            RowChange(metadata.fields, row, None)
            if operation == "bulk_delete"
            else RowChange(metadata.fields, None, row)
        )
        event = _build_row_event(
            operation, metadata, connection, metadata.format_key(key if len(key) > 1 else key[0]), change, None
        )
        _add_event(event, connection)


def _get_related_keys(metadata: ModelMetadata, requested: returning.ReturningRequest) -> dict[str, Any]:
    """Return the keys on both ends of a many-to-many relation's rows, by the foreign key's name."""
    if not metadata.through_fields or requested.rows is None:
        return {}
    columns = list(zip(*requested.rows, strict=True))[len(metadata.pk_fields) :]
    return {
        "related_keys": {
            field.name: _encode_keys(model_metadata.get_metadata(field.related_model), list(column))
            for field, column in zip(metadata.through_fields, columns, strict=False)
        }
    }


def _delete_batch(self: Any, pk_list: Sequence[Any], using: str, *args: Any, **kwargs: Any) -> Any:
    """Record what becomes of the rows of a many-to-many relation where somebody listens to every delete: Django loads
    them then, and sends nothing for them."""
    metadata = model_metadata.get_metadata(self.get_meta().concrete_model)
    if not self.get_meta().auto_created or _is_suppressed(metadata):
        return _original_delete_batch(self, pk_list, using, *args, **kwargs)
    return _delete_and_record(metadata, using, lambda: _original_delete_batch(self, pk_list, using, *args, **kwargs))


def _get_keys(metadata: ModelMetadata, requested: returning.ReturningRequest) -> list[Any] | None:
    """Return the primary keys of the rows, composite ones as tuples; ``None`` if they are unknown."""
    if requested.rows is None:
        return None
    size = len(metadata.pk_fields)
    return [row[0] for row in requested.rows] if size == 1 else [tuple(row[:size]) for row in requested.rows]


def _get_unknown_reason(requested: returning.ReturningRequest) -> dict[str, str]:
    """Return why the keys are unknown, as an argument of the event; nothing if they are known."""
    return {"keys_unknown": requested.unknown_reason} if requested.unknown_reason else {}


def _update_batch(self: Any, pk_list: Sequence[Any], values: dict[str, Any], using: str) -> Any:
    """Record what a delete does to rows that pointed at what it deleted (``SET_NULL`` and the like)."""
    metadata = model_metadata.get_metadata(self.get_meta().concrete_model)
    if _is_suppressed(metadata):
        return _original_update_batch(self, pk_list, values, using)
    with ensure_transaction(using, metadata.label, "update") as connection:
        names = _get_field_names(metadata, values)
        old_values = None
        if _record_rows and not _get_new_pk_values(metadata, values):
            old_values = _read_before_batch(metadata, connection, pk_list, names)
        with returning.request_returning(
            "update", metadata.concrete_model, metadata.pk_fields, count_only=True
        ) as requested:
            result = _original_update_batch(self, pk_list, values, using)
        if not requested.row_count and requested.is_counted:
            return result
        if old_values is not None:
            _record_changed_rows(metadata, connection, names, old_values, _encode_update(metadata, values))
            return result
        with _log_errors("update", metadata):
            keys: list[Any] | None = list(dict.fromkeys(pk_list))
            extra_args = _encode_update(metadata, values)
            if requested.row_count != len(pk_list):
                keys, extra_args["keys_unknown"] = None, returning.CONCURRENT_CHANGE
            _record_operation("update", metadata, connection, requested.row_count, keys, extra_args)
    return result


def _read_before_batch(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, pk_list: Sequence[Any], field_names: list[str]
) -> dict[Any, Sequence[Any]] | None:
    """Return the values that a batch is about to replace, by key; ``None`` if they can't be read."""
    rows = _get_unfiltered_queryset(metadata, connection)
    parts = [rows.filter(pk__in=pk_list[start : start + 500]) for start in range(0, len(pk_list), 500)]
    return _read_locked(metadata, parts, connection, field_names)


# ------------------------------------------------------------------ their events


@contextmanager
def _log_errors(operation: str, metadata: ModelMetadata) -> Iterator[None]:
    """Let nothing of the recording itself reach the application, whose rows are written."""
    try:
        yield
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("%s of %s could not be recorded.", operation, metadata.label)


def _record_operation(
    operation: str,
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    count: int,
    keys: list[Any] | None,
    extra_args: dict[str, Any],
    rollbackable: Rollbackable | None = None,
) -> None:
    """Make the one event of an operation on ``count`` rows, of which ``keys`` are the first; ``None`` if unknown."""
    if not count:
        return
    event = PendingEvent(
        tracing.now(),
        tracing.get_current_trace(),
        tracing.running_span.get(),
        operation,
        metadata.label,
        connection.alias,
    )
    event.duration = 0
    args: dict[str, Any] = {"count": count, **extra_args, "keys": None}
    if keys is not None:
        encoded = args["keys"] = _encode_keys(metadata, keys)
        if count > len(encoded):
            args["omitted_keys"] = count - len(encoded)
    event.args = args
    event.rollbackable = rollbackable
    _add_event(event, connection)


def _encode_keys(metadata: ModelMetadata, keys: list[Any]) -> list[Any]:
    """Return keys as events tell them, as many as one event tells."""
    encoded = keys[:MAX_RECORDED_KEYS]
    return (
        encoded
        if {*map(type, encoded)} <= {int} and not metadata.has_secret_pk
        else [metadata.format_key(key) for key in encoded]
    )


def _build_row_event(
    operation: str,
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    key: str,
    change: RowChange,
    rollbackable: Rollbackable | None,
) -> PendingEvent:
    event = PendingEvent(
        tracing.now(),
        tracing.get_current_trace(),
        tracing.running_span.get(),
        operation,
        metadata.label,
        connection.alias,
    )
    event.duration = 0
    event.key = key
    event.change = change
    event.rollbackable = rollbackable
    return event


def _add_event(event: PendingEvent, connection: BaseDatabaseWrapper) -> None:
    unit_of_work.get_or_attach(connection).add(event)
