"""Records a row where it is written, so that row and event commit together.

``post_save`` is sent after a save in autocommit is committed, so an event that is built then could be lost. The event
is built in ``Model._save_table``, inside the transaction. The send adds its receivers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import django
from django.db import connections
from django.db.models import Model
from django.db.models.deletion import Collector

from signalbox.core import interrupts, loggers, tracing
from signalbox.core.event import UNKNOWN, Outcome, PendingEvent
from signalbox.instrumentation import autocommit, bulk, model_metadata, patching, related_labels, row_state
from signalbox.instrumentation.row_state import PENDING_POST_SAVE, PENDING_PRE_DELETE, PENDING_PRE_SAVE
from signalbox.pipeline import backends, exporter, processors, unit_of_work
from signalbox.serialization.diff import NON_EXPRESSION_TYPES, RowChange, is_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.instrumentation.model_metadata import ModelMetadata

logger = loggers.get_logger("recording")

POST_SAVE_ARGS: Final = {
    (created, raw): f'{{"created":{created},"raw":{raw},"update_fields":null}}'
    for created in ("true", "false")
    for raw in ("true", "false")
}

UNSENT_DELETE_ARGS: Final = '{"unsent":true}'
"""Arguments of a delete for which Django sent nothing."""

LEAVES_STALE_VALUES: Final = django.VERSION < (6, 0)
"""True if an update leaves expressions, and values that the database computed before, on the instance."""

_original_save_table: Any
_original_delete: Any
_original_has_signal_listeners: Any
"""The predecessors of the replaced methods."""


_record_all_saves = _record_all_deletes = False
"""False if only models with a durable receiver are recorded."""


def install(*, saves: bool, deletes: bool) -> None:
    """Record saves and deletes.

    Args:
        saves: Record all saves. Otherwise only those of models with a durable receiver.
        deletes: The same for deletes.
    """
    global _record_all_saves, _record_all_deletes
    global _original_save_table, _original_delete, _original_has_signal_listeners
    _record_all_saves, _record_all_deletes = saves, deletes
    if saves or processors.may_want("post_save"):
        _original_save_table = patching.install(Model, "_save_table", _save_table)
    wants_deletes = processors.may_want("post_delete")
    if deletes or wants_deletes:
        _original_delete = patching.install(Collector, "delete", _delete)
    if wants_deletes:
        _original_has_signal_listeners = patching.install(Collector, "_has_signal_listeners", _has_signal_listeners)


def uninstall() -> None:
    """Restore the classes."""
    patching.uninstall(Model, "_save_table")
    patching.uninstall(Collector, "delete")
    patching.uninstall(Collector, "_has_signal_listeners")


def _has_signal_listeners(self: Collector, model: type[Model], *args: Any, **kwargs: Any) -> bool:
    """Return True for models with a durable receiver of ``post_delete`` too: Django then sends it for each object."""
    found: bool = _original_has_signal_listeners(self, model, *args, **kwargs)
    return found or (
        processors.wants("post_delete", model._meta.label) and model_metadata.get_metadata(model).is_recorded
    )


def _save_table(
    self: Model,
    raw: bool = False,
    cls: Any = None,
    force_insert: Any = False,
    force_update: bool = False,
    using: Any = None,
    update_fields: Any = None,
    **kwargs: Any,
) -> Any:
    metadata = model_metadata.get_metadata(self.__class__)
    if (
        cls is not metadata.concrete_model
        or not metadata.is_recorded
        or not (_record_all_saves or processors.wants("post_save", metadata.label))
    ):
        return _original_save_table(self, raw, cls, force_insert, force_update, using, update_fields, **kwargs)
    connection = connections[using]
    if backends.in_transaction(connection):
        return _save_row(self, metadata, raw, cls, force_insert, force_update, connection, update_fields, kwargs)
    original_state = self.__dict__.copy()
    try:
        with (
            autocommit.leaving_after_interrupt(using),
            autocommit.ensure_transaction(using, metadata.label, "post_save"),
        ):
            return _save_row(self, metadata, raw, cls, force_insert, force_update, connection, update_fields, kwargs)
    except BaseException:
        row_state.restore_attributes(metadata, self, original_state)
        raise


def _save_row(
    self: Model,
    metadata: ModelMetadata,
    raw: bool,
    cls: Any,
    force_insert: Any,
    force_update: bool,
    connection: BaseDatabaseWrapper,
    update_fields: Any,
    kwargs: dict[str, Any],
) -> Any:
    using = connection.alias
    uow = unit_of_work.get_or_attach(connection)
    # Django 6 replaces expressions on the instance by the values that the database returns.
    before = () if LEAVES_STALE_VALUES else metadata.get_values(self)
    try:
        updated = _original_save_table(self, raw, cls, force_insert, force_update, using, update_fields, **kwargs)
    except BaseException:
        _record_failed_pre_save(self, metadata, using)
        raise
    try:
        _record_save(self, metadata, uow, before, bool(updated), raw, connection, update_fields)
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A save of %s could not be recorded.", metadata.label)
    return updated


def _record_save(
    instance: Model,
    metadata: ModelMetadata,
    uow: unit_of_work.UnitOfWork,
    values_before: Sequence[Any],
    updated: bool,
    raw: bool,
    connection: BaseDatabaseWrapper,
    update_fields: Any,
) -> None:
    state = instance._state
    pre_save = row_state.pop_attribute(state, PENDING_PRE_SAVE)
    if type(pre_save) is PendingEvent and pre_save.outcome is None:
        pre_save.key = pre_save.key or metadata.get_key(instance)
        uow.add(pre_save)
    known_row = row_state.get_row_before_write(metadata, instance, connection.alias) if updated else UNKNOWN
    written = _get_written_values(metadata, instance, values_before, updated, update_fields)
    if raw and metadata.concrete_model._meta.parents:
        written = _mask_parent_values(metadata, written)
    labels = (
        related_labels.get_foreign_key_labels(metadata, state, known_row, written, connection)
        if metadata.foreign_keys
        else None
    )
    row = RowChange(metadata.fields, known_row if updated else None, written, labels)
    event = tracing.build_event("post_save", metadata.label, connection.alias)
    set_object(event, metadata, instance, connection)
    if type(pre_save) is int:
        event.pre_signal_time = pre_save
    event.change = row
    event.duration = 0  # unless receivers run
    if update_fields is None:
        event.args = POST_SAVE_ARGS["false" if updated else "true", "true" if raw else "false"]
    else:
        event.args = {"created": not updated, "raw": raw, "update_fields": sorted(update_fields)}
    event.rollbackable = row_state.StateSavepoint(state, getattr(state, row_state.ROW_ATTRIBUTE, UNKNOWN))
    new_row = row_state.merge_written(known_row, written)
    if LEAVES_STALE_VALUES:
        new_row = _mask_stale_values(new_row, metadata.generated_positions if updated else ())
    if metadata.keeps_old_values:
        setattr(state, row_state.ROW_ATTRIBUTE, new_row)
    setattr(state, PENDING_POST_SAVE, event)
    uow.add(event)


def _mask_stale_values(row: Sequence[Any], generated: Sequence[int]) -> Sequence[Any]:
    """Return ``row`` with ``UNKNOWN`` for values that the database computed and did not return.

    An expression stays on the instance, and the next save evaluates it again.
    """
    if not generated and NON_EXPRESSION_TYPES.issuperset(map(type, row)):
        return row
    return [UNKNOWN if position in generated or is_expression(value) else value for position, value in enumerate(row)]


def _record_failed_pre_save(instance: Model, metadata: ModelMetadata, using: str) -> None:
    """Record the ``pre_save`` of a save that failed as a separate event."""
    try:
        pre_save = row_state.pop_attribute(instance._state, PENDING_PRE_SAVE)
        if type(pre_save) is int:
            pre_save = build_pre_save_event(metadata, instance, using, pre_save)
        if pre_save is not None and pre_save.outcome is None:
            pre_save.outcome = Outcome.FAILED
            exporter.enqueue(pre_save)
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A failed save of %s could not be recorded.", metadata.label)


def build_pre_save_event(metadata: ModelMetadata, instance: Model, using: str, sent_at: int) -> PendingEvent:
    """Return the event of a ``pre_save`` that was sent at ``sent_at``, in nanoseconds since the epoch."""
    event = tracing.build_event("pre_save", metadata.label, using, sent_at)
    event.key = metadata.get_key(instance)
    event.duration = 0
    return event


def set_object(
    event: PendingEvent, metadata: ModelMetadata, instance: Model, connection: BaseDatabaseWrapper | None
) -> None:
    """Set the event's object to ``instance``."""
    event.key = metadata.get_key(instance)
    if metadata.has_str:
        event.label = metadata.get_label(instance, connection)


def _get_written_values(
    metadata: ModelMetadata, instance: Model, values_before: Sequence[Any], updated: bool, update_fields: Any
) -> Sequence[Any]:
    """Return the values that were written; ``UNKNOWN`` for fields that were not."""
    values = metadata.get_values(instance)
    stale = LEAVES_STALE_VALUES and updated and metadata.generated_positions
    if type(values) is tuple and (update_fields is None or not updated) and not stale:
        return row_state.copy_mutable_values(metadata, values)
    fields = metadata.fields
    names = None if update_fields is None or not updated else {*update_fields, *fields.primary_key}
    written = []
    for position, (name, attname, original_state, value) in enumerate(
        zip(fields.names, fields.attnames, values_before or values, values, strict=True)
    ):
        if position in metadata.generated_positions:
            written.append(UNKNOWN if stale else value)
        elif names is not None and name not in names and attname not in names:
            written.append(UNKNOWN)
        elif value is UNKNOWN and hasattr(original_state, "resolve_expression"):
            written.append(original_state)  # Django 6 defers what the database computed and could not return
        else:
            written.append(value)
    return row_state.copy_mutable_values(metadata, written)


def _mask_parent_values(metadata: ModelMetadata, written: Sequence[Any]) -> Sequence[Any]:
    """Return ``written`` with ``UNKNOWN`` for the parents' fields. A raw save writes only the row of the child."""
    own = {field.name for field in metadata.concrete_model._meta.local_concrete_fields}
    return [value if name in own else UNKNOWN for name, value in zip(metadata.fields.names, written, strict=True)]


def _delete(self: Collector, *args: Any, **kwargs: Any) -> Any:
    """Record the delete of a single object for which Django sends nothing: no receivers, no related objects."""
    single = _get_single_instance(self)
    if single is None:
        return _original_delete(self, *args, **kwargs)
    metadata, instance = single
    key = instance.pk
    try:
        with (
            autocommit.leaving_after_interrupt(self.using),
            autocommit.ensure_transaction(self.using, metadata.label, "post_delete") as connection,
        ):
            return _delete_row(metadata, instance, connection, partial(_original_delete, self, *args, **kwargs))
    except BaseException:
        instance.pk = key  # Django sets it to None before the COMMIT
        raise


def _get_single_instance(collector: Collector) -> tuple[ModelMetadata, Model] | None:
    if len(collector.data) != 1:
        return None
    model, instances = next(iter(collector.data.items()))
    if len(instances) != 1:
        return None
    metadata = model_metadata.get_metadata(model)
    instance = next(iter(instances))
    if not metadata.is_recorded or not _record_all_deletes or not collector.can_fast_delete(instance):
        return None
    return metadata, instance


def _delete_row(
    metadata: ModelMetadata,
    instance: Model,
    connection: BaseDatabaseWrapper,
    delete: Callable[[], Any],
) -> Any:
    event = None
    try:
        event = build_delete_event(instance, metadata, connection)
        event.args = UNSENT_DELETE_ARGS
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A delete of %s could not be recorded.", metadata.label)
    if metadata.through_fields:
        with bulk.suppress_bulk_events(metadata.concrete_model):
            result = delete()
    else:
        result = delete()
    if event is not None and result[0]:
        unit_of_work.get_or_attach(connection).add(event)
    return result


def build_delete_event(instance: Model, metadata: ModelMetadata, connection: BaseDatabaseWrapper) -> PendingEvent:
    """Return the event of a row that is about to be deleted, or that was just deleted."""
    event = tracing.build_event("post_delete", metadata.label, connection.alias)
    set_object(event, metadata, instance, connection)
    event.pre_signal_time = row_state.pop_attribute(instance._state, PENDING_PRE_DELETE)
    known_row = row_state.get_row_before_write(metadata, instance, connection.alias)
    if known_row is UNKNOWN:
        known_row = _get_fallback_row(metadata, instance)
    event.change = RowChange(metadata.fields, known_row, None)
    return event


def _get_fallback_row(metadata: ModelMetadata, instance: Model) -> Sequence[Any]:
    """Return the row of an instance without a known row: all values of a copy, otherwise only the key."""
    values = metadata.get_values(instance)
    state = instance._state
    if metadata.keeps_old_values and not state.adding and row_state.get_known_row(metadata, state) is UNKNOWN:
        return row_state.copy_mutable_values(metadata, values)
    positions = dict(metadata.pk_positions)
    return [value if position in positions else UNKNOWN for position, value in enumerate(values)]
