"""Records bulk operations, for which Django sends no signals, and deletes that load no objects.

The operations are ``bulk_create``, ``bulk_update`` and ``update``. Each has one event with the model, the fields, the
number of rows and their keys, which is written in the transaction of the operation.
"""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import django
from django.db import connections
from django.db.models import AutoField, Model, QuerySet
from django.db.models.sql import DeleteQuery, UpdateQuery

from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import (
    bulk_events,
    bulk_update_rows,
    model_metadata,
    patching,
    returning_request,
    row_state,
)
from signalbox.instrumentation.autocommit import ensure_transaction, leaving_after_interrupt
from signalbox.instrumentation.bulk_events import (
    add_event,
    build_row_event,
    encode_keys,
    get_keys,
    get_related_keys,
    get_unknown_reason,
    log_errors,
    record_operation,
    record_whole_rows,
)
from signalbox.instrumentation.bulk_values import encode_update, get_new_keys, get_new_pk_values
from signalbox.pipeline import backends, processors
from signalbox.serialization.diff import RowChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Rollbackable
    from signalbox.instrumentation.model_metadata import ModelMetadata

suppressed_model: ContextVar[type[Model] | None] = ContextVar("signalbox_suppressed_model", default=None)
"""The model whose statements have no bulk events, as the event of an outer operation contains them."""

_originals: dict[str, Any] = {}
"""The predecessors of the replaced methods of ``QuerySet``, by name."""
_original_update_batch: Any
_original_delete_batch: Any
_record_rows = False
_subscribed_only: frozenset[str] = frozenset()
"""Operations that are recorded only for the senders that an event processor wants."""


def install(names: frozenset[str], *, subscribed_only: frozenset[str] = frozenset(), rows: bool) -> None:
    """Record bulk operations.

    Args:
        names: The names of the operations; those of signals are ignored.
        subscribed_only: Those of ``names`` that are recorded only for the senders that an event processor wants.
        rows: Record an event with its changes for each row.
    """
    global _record_rows, _subscribed_only, _original_update_batch, _original_delete_batch
    _record_rows, _subscribed_only = rows, subscribed_only
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
    """Restore the classes."""
    for attribute in _originals:
        patching.uninstall(QuerySet, attribute)
    patching.uninstall(UpdateQuery, "update_batch")
    patching.uninstall(DeleteQuery, "delete_batch")


class suppress_bulk_events:  # noqa: N801 - a class, as ``@contextmanager`` is three times slower here
    """Record no bulk events of ``model`` in the block. None records those of every model."""

    __slots__ = ("_model", "_token")

    def __init__(self, model: type[Model] | None) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._token = suppressed_model.set(self._model)

    def __exit__(self, *_: object) -> None:
        suppressed_model.reset(self._token)


def _is_suppressed(operation: str, metadata: ModelMetadata) -> bool:
    """Return True if the operation on the model has no event here."""
    return (
        not metadata.is_recorded
        or suppressed_model.get() is metadata.concrete_model
        or (operation in _subscribed_only and not processors.wants(operation, metadata.label))
    )


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
    if _is_suppressed("bulk_create", metadata) or not objs:
        return _originals["bulk_create"](self, objs, *options, **kwargs)
    objects = list(objs)
    if not objects:
        return _originals["bulk_create"](self, objects, *options, **kwargs)
    self._for_write = True
    returns_rows = _record_rows and ignore_conflicts
    fields = list(metadata.concrete_model._meta.local_concrete_fields) if returns_rows else metadata.pk_fields
    max_rows = None if returns_rows else bulk_events.MAX_RECORDED_KEYS
    django_begins = _django_begins_transaction(self, objects, batch_size)
    fails_late = not django_begins and not backends.in_transaction(connections[self.db])
    with (
        row_state.restoring_inserted(metadata, objects) if fails_late else nullcontext(),
        leaving_after_interrupt(self.db),
        ensure_transaction(self.db, metadata.label, "bulk_create", begun_by_django=django_begins) as connection,
        returning_request.request_returning("insert", self.model, fields, max_rows=max_rows) as requested,
    ):
        created = _originals["bulk_create"](self, objects, *options, **kwargs)
        with log_errors("bulk_create", metadata):
            if ignore_conflicts:
                _record_partial_create(metadata, connection, objects, requested)
            else:
                _record_create(metadata, connection, objects, update_conflicts)
    return created


def _django_begins_transaction(queryset: Any, objects: list[Any], batch_size: int | None) -> bool:
    """Return True if Django itself opens a transaction for ``bulk_create()``.

    Before Django 6.0 it always does, from 6.0 on only for several statements.
    """
    if django.VERSION < (6, 0):
        return True
    instances: list[Any] = [one for one in objects if isinstance(one, Model)]
    keyed_count = sum(one._is_pk_set() for one in instances)
    if 0 < keyed_count < len(objects):
        return True
    fields = [field for field in queryset.model._meta.concrete_fields if not field.generated]
    if not keyed_count:
        fields = [field for field in fields if not isinstance(field, AutoField)]
    max_batch_size: int = max(connections[queryset.db].ops.bulk_batch_size(fields, objects), 1)
    return len(objects) > min(batch_size or max_batch_size, max_batch_size)


def _record_partial_create(
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    objects: list[Any],
    requested: returning_request.ReturningRequest,
) -> None:
    """Record the objects that were inserted. Their keys are unknown if the database does not return them."""
    if _record_rows and requested.rows is not None:
        record_whole_rows("bulk_create", metadata, connection, requested)
        return
    count = requested.row_count if requested.is_counted else len(objects)
    extra_args = {"ignore_conflicts": True, **get_unknown_reason(requested)}
    record_operation("bulk_create", metadata, connection, count, get_keys(metadata, requested), extra_args)


def _record_create(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, objects: list[Any], update_conflicts: bool
) -> None:
    keys: list[Any] | None = [one.pk for one in objects]
    if any(key is None for key in keys or ()):  # the database does not return keys of several rows (MySQL)
        keys = None
    rollbackable: Rollbackable | None = None
    if update_conflicts or keys is None:  # the values or the keys of the rows are unknown
        rollbackable = row_state.expire(objects)
    else:
        rollbackable = row_state.set_committed_state(metadata, objects)
    if _record_rows and not update_conflicts:
        for one in objects:
            change = RowChange(metadata.fields, None, row_state.copy_mutable_values(metadata, metadata.get_values(one)))
            add_event(
                build_row_event("bulk_create", metadata, connection, metadata.get_key(one), change, rollbackable),
                connection,
            )
            rollbackable = None  # the first event restores all instances
        return
    extra_args = {"update_conflicts": True} if update_conflicts else {}
    record_operation("bulk_create", metadata, connection, len(objects), keys, extra_args, rollbackable)


def _bulk_update(
    self: Any, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None, **kwargs: Any
) -> Any:
    metadata = model_metadata.get_metadata(self.model)
    if _is_suppressed("bulk_update", metadata) or not objs or not fields:
        return _originals["bulk_update"](self, objs, fields, batch_size, **kwargs)
    objects, names = list(objs), list(fields)
    if not objects:
        return _originals["bulk_update"](self, objects, names, batch_size, **kwargs)
    self._for_write = True
    with ensure_transaction(self.db, metadata.label, "bulk_update", begun_by_django=True) as connection:
        with suppress_bulk_events(metadata.concrete_model):
            row_count = _originals["bulk_update"](self, objects, names, batch_size, **kwargs)
        with log_errors("bulk_update", metadata):
            if row_count:
                _record_bulk_update(metadata, connection, objects, names, row_count)
    return row_count


def _record_bulk_update(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, objects: list[Any], field_names: list[str], number: int
) -> None:
    keys = list(dict.fromkeys(one.pk for one in objects))
    stored: dict[Any, Sequence[Any]] = {}
    if number != len(objects) or number != len(keys):  # some rows do not exist, or have several objects
        # Which of two objects with the same key was written depends on the statement, so the row is read.
        fetched = bulk_update_rows.fetch_rows(metadata, connection, keys, field_names)
        if fetched is None:
            unknown = {"fields": field_names, "keys_unknown": returning_request.NOT_READABLE}
            record_operation("bulk_update", metadata, connection, number, None, unknown, row_state.expire(objects))
            return
        stored = fetched
        objects = [one for one in objects if one.pk in stored]
        keys = list(stored)
    recorded_keys: set[Any] = set()
    rollbackable: Rollbackable | None = row_state.BulkStateSavepoint(objects)
    for one in objects:
        known = row_state.get_row_before_write(metadata, one, connection.alias)
        values = stored[one.pk] if stored else metadata.get_values(one)
        written = row_state.copy_mutable_values(metadata, _mask_other_fields(metadata, values, field_names))
        setattr(one._state, row_state.ROW_ATTRIBUTE, row_state.merge_written(known, written))
        if _record_rows and one.pk not in recorded_keys:
            recorded_keys.add(one.pk)
            change = RowChange(metadata.fields, known, written)
            add_event(
                build_row_event("bulk_update", metadata, connection, metadata.get_key(one), change, rollbackable),
                connection,
            )
            rollbackable = None  # the first event restores all instances
    if not _record_rows:
        record_operation("bulk_update", metadata, connection, number, keys, {"fields": field_names}, rollbackable)


def _mask_other_fields(metadata: ModelMetadata, values: Sequence[Any], field_names: Iterable[str]) -> list[Any]:
    """Return ``values`` with ``UNKNOWN`` for all fields but ``field_names`` and the primary key."""
    fields = metadata.fields
    requested = {*field_names, *fields.primary_key}
    return [
        value if name in requested or attname in requested else UNKNOWN
        for name, attname, value in zip(fields.names, fields.attnames, values, strict=True)
    ]


def _update(self: Any, **kwargs: Any) -> Any:
    metadata = model_metadata.get_metadata(self.model)
    query = self.query
    # Django raises errors for queries that it can't update.
    is_refused = query.is_sliced or query.combinator or query.distinct_fields
    if _is_suppressed("update", metadata) or is_refused or not kwargs:
        return _originals["update"](self, **kwargs)
    self._for_write = True
    with leaving_after_interrupt(self.db), ensure_transaction(self.db, metadata.label, "update") as connection:
        new_pk_values = get_new_pk_values(metadata, kwargs)
        if _record_rows and query.group_by is None and not new_pk_values:
            old_values = bulk_update_rows.read_before_update(self, metadata, connection, kwargs)
            if old_values is not None:
                return _update_rows(self, metadata, connection, kwargs, old_values)
        with returning_request.request_returning(
            "update",
            metadata.concrete_model,
            metadata.pk_fields,
            before_update=bool(new_pk_values),
            max_rows=bulk_events.MAX_RECORDED_KEYS,
        ) as requested:
            row_count = _originals["update"](self, **kwargs)
        if row_count:
            with log_errors("update", metadata):
                keys = get_keys(metadata, requested)
                extra_args = {
                    **encode_update(metadata, kwargs, query.annotations),
                    **get_unknown_reason(requested),
                }
                if new_pk_values:
                    new = get_new_keys(metadata, keys, new_pk_values)
                    extra_args["new_keys"] = None if new is None else encode_keys(metadata, new)
                record_operation("update", metadata, connection, row_count, keys, extra_args)
    return row_count


def _update_rows(
    self: Any,
    metadata: ModelMetadata,
    connection: BaseDatabaseWrapper,
    kwargs: dict[str, Any],
    old_values: dict[Any, Sequence[Any]],
) -> Any:
    """Update, read the new values, and record the changes of each row."""
    row_count = _originals["update"](self, **kwargs)
    if row_count:
        extra_args = encode_update(metadata, kwargs, self.query.annotations)
        bulk_update_rows.record_changed_rows(
            metadata, connection, bulk_update_rows.get_field_names(metadata, kwargs), old_values, extra_args
        )
    return row_count


def _update_batch(self: Any, pk_list: Sequence[Any], values: dict[str, Any], using: str) -> Any:
    """Record updates of a cascade, as by ``SET_NULL``, on rows that refer to deleted rows."""
    metadata = model_metadata.get_metadata(self.get_meta().concrete_model)
    if _is_suppressed("update", metadata):
        return _original_update_batch(self, pk_list, values, using)
    with ensure_transaction(using, metadata.label, "update") as connection:
        names = bulk_update_rows.get_field_names(metadata, values)
        old_values = None
        if _record_rows and not get_new_pk_values(metadata, values):
            old_values = bulk_update_rows.read_before_batch(metadata, connection, pk_list, names)
        with returning_request.request_returning(
            "update", metadata.concrete_model, metadata.pk_fields, count_only=True
        ) as requested:
            result = _original_update_batch(self, pk_list, values, using)
        if not requested.row_count and requested.is_counted:
            return result
        if old_values is not None:
            bulk_update_rows.record_changed_rows(
                metadata, connection, names, old_values, encode_update(metadata, values)
            )
            return result
        with log_errors("update", metadata):
            keys: list[Any] | None = list(dict.fromkeys(pk_list))
            extra_args = encode_update(metadata, values)
            if requested.row_count != len(pk_list):
                keys, extra_args["keys_unknown"] = None, returning_request.CONCURRENT_CHANGE
            record_operation("update", metadata, connection, requested.row_count, keys, extra_args)
    return result


def _raw_delete(self: Any, using: str, *args: Any, **kwargs: Any) -> Any:
    metadata = model_metadata.get_metadata(self.model)
    if _is_suppressed("bulk_delete", metadata):
        return _originals["_raw_delete"](self, using, *args, **kwargs)
    return _delete_and_record(metadata, using, lambda: _originals["_raw_delete"](self, using, *args, **kwargs))


def _delete_batch(self: Any, pk_list: Sequence[Any], using: str, *args: Any, **kwargs: Any) -> Any:
    """Record deleted rows of a many-to-many relation that Django has loaded.

    It loads them if a receiver of deletes has no sender, and sends nothing for them.
    """
    metadata = model_metadata.get_metadata(self.get_meta().concrete_model)
    if not self.get_meta().auto_created or _is_suppressed("bulk_delete", metadata):
        return _original_delete_batch(self, pk_list, using, *args, **kwargs)
    return _delete_and_record(metadata, using, lambda: _original_delete_batch(self, pk_list, using, *args, **kwargs))


def _delete_and_record(metadata: ModelMetadata, using: str, delete: Callable[[], Any]) -> Any:
    with ensure_transaction(using, metadata.label, "bulk_delete") as connection:
        fields = (
            list(metadata.concrete_model._meta.local_concrete_fields)
            if _record_rows
            else [*metadata.pk_fields, *metadata.through_fields]
        )
        max_rows = None if _record_rows else bulk_events.MAX_RECORDED_KEYS
        with returning_request.request_returning(
            "delete", metadata.concrete_model, fields, max_rows=max_rows
        ) as requested:
            row_count = delete()
        if row_count:
            with log_errors("bulk_delete", metadata):
                _record_delete(metadata, connection, row_count, requested)
    return row_count


def _record_delete(
    metadata: ModelMetadata, connection: BaseDatabaseWrapper, number: int, requested: returning_request.ReturningRequest
) -> None:
    if not _record_rows or requested.rows is None:
        extra_args = {**get_related_keys(metadata, requested), **get_unknown_reason(requested)}
        keys = get_keys(metadata, requested)
        record_operation("bulk_delete", metadata, connection, number, keys, extra_args)
        return
    record_whole_rows("bulk_delete", metadata, connection, requested)
