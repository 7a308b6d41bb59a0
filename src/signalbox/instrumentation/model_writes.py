"""Rows recorded where they are written, so that row and event commit together.

``post_save`` is sent after an autocommit save has been committed: an event made there could be lost, or stand for a
row that never was. So the event is made in ``Model._save_table``, inside the transaction, and completed by the send.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import django
from django.db import connections
from django.db.models import Model
from django.db.models.deletion import Collector

from signalbox.core import interrupts, tracing
from signalbox.core.event import UNKNOWN, Outcome, PendingEvent
from signalbox.instrumentation import autocommit, bulk, model_metadata, patching, row_state
from signalbox.pipeline import backends, deliveries, exporter, unit_of_work
from signalbox.serialization.diff import NON_EXPRESSION_TYPES, RowChange, is_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.instrumentation.model_metadata import ModelMetadata

logger = logging.getLogger("signalbox")

PENDING_PRE_SAVE: Final = "_signalbox_pre_save"
"""On ``instance._state``: the ``pre_save`` that waits for its write; its event, or its time if nobody heard it."""
PENDING_PRE_DELETE: Final = "_signalbox_pre_delete"
"""The same of a ``pre_delete`` that nobody heard."""
PENDING_POST_SAVE: Final = "_signalbox_post_save"
"""On ``instance._state``: the ``post_save`` event that waits for its send."""

POST_SAVE_ARGS: Final = {
    (created, raw): f'{{"created":{created},"raw":{raw},"update_fields":null}}'
    for created in ("true", "false")
    for raw in ("true", "false")
}

UNSENT_DELETE_ARGS: Final = '{"unsent":true}'
"""Arguments of a delete for which Django sent nothing."""

LEAVES_STALE_VALUES: Final = django.VERSION < (6, 0)
"""Whether an update leaves expressions on the instance, and what the database had computed before it."""

_original_save_table: Any
_original_delete: Any
_original_has_signal_listeners: Any
"""What the methods were when recording was installed."""


_record_all_saves = _record_all_deletes = False
"""Whether all are recorded, or those alone that durable receivers wait for."""


def install(*, saves: bool, deletes: bool) -> None:
    """Record rows that are saved and deleted, and those in any case that durable receivers wait for."""
    global _record_all_saves, _record_all_deletes
    global _original_save_table, _original_delete, _original_has_signal_listeners
    _record_all_saves, _record_all_deletes = saves, deletes
    subscribed = deliveries.get_source().get_subscribed_signals()
    if saves or "post_save" in subscribed:
        _original_save_table = patching.install(Model, "_save_table", _save_table)
    if deletes or "post_delete" in subscribed:
        _original_delete = patching.install(Collector, "delete", _delete)
    if "post_delete" in subscribed:
        _original_has_signal_listeners = patching.install(Collector, "_has_signal_listeners", _has_signal_listeners)


def uninstall() -> None:
    """Leave the classes as Django made them."""
    patching.uninstall(Model, "_save_table")
    patching.uninstall(Collector, "delete")
    patching.uninstall(Collector, "_has_signal_listeners")


def _has_signal_listeners(self: Collector, model: type[Model], *args: Any, **kwargs: Any) -> bool:
    """A durable receiver of ``post_delete`` hears of each object, as a connected one does: of its model's objects they
    are not deleted unseen."""
    found: bool = _original_has_signal_listeners(self, model, *args, **kwargs)
    return found or (
        deliveries.get_source().has_subscriber("post_delete", model._meta.label)
        and model_metadata.get_metadata(model).is_recorded
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
        or not (_record_all_saves or deliveries.get_source().has_subscriber("post_save", metadata.label))
    ):
        return _original_save_table(self, raw, cls, force_insert, force_update, using, update_fields, **kwargs)
    connection = connections[using]
    if backends.in_transaction(connection):
        return _save_row(self, metadata, raw, cls, force_insert, force_update, connection, update_fields, kwargs)
    original_state = self.__dict__.copy()
    try:
        with autocommit.ensure_transaction(using, metadata.label, "post_save"):
            return _save_row(self, metadata, raw, cls, force_insert, force_update, connection, update_fields, kwargs)
    except BaseException as error:
        if interrupts.is_interrupt(error):
            autocommit.leave_autocommit_block(connection)
        _restore_attributes(self, metadata, original_state)
        raise


def _restore_attributes(instance: Model, metadata: ModelMetadata, original_state: dict[str, Any]) -> None:
    """Take from ``instance`` what the database has told it of a row that it then refused: its COMMIT comes after the
    statement, which would have failed by itself where a deferred constraint does not hold."""
    state = instance.__dict__
    for attname in metadata.fields.attnames:
        value = original_state.get(attname, UNKNOWN)
        if attname in metadata.db_returning_attnames or is_expression(value):
            if value is UNKNOWN:
                state.pop(attname, None)
            else:
                state[attname] = value


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
    before = (
        () if LEAVES_STALE_VALUES else metadata.get_values(self)
    )  # Django 6 replaces expressions by what the database returns
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
    labels = _get_related_labels(metadata, state, known_row, written, connection) if metadata.foreign_keys else None
    row = RowChange(metadata.fields, known_row if updated else None, written, labels)
    event = PendingEvent(
        tracing.now(),
        tracing.get_current_trace(),
        tracing.running_span.get(),
        "post_save",
        metadata.label,
        connection.alias,
    )
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
    """Return what is known of a row of whose new values the database told none. An expression stays on the instance,
    and the next save writes what it makes of it then."""
    if not generated and NON_EXPRESSION_TYPES.issuperset(map(type, row)):
        return row
    return [UNKNOWN if position in generated or is_expression(value) else value for position, value in enumerate(row)]


def _get_related_labels(
    metadata: ModelMetadata, state: Any, known: Any, written: Sequence[Any], connection: BaseDatabaseWrapper
) -> dict[str, dict[str, str]] | None:
    """Return what the objects are called that changed foreign keys point at, where they are loaded: without a query."""
    cached = state.__dict__.get("fields_cache")
    if not cached:
        return None
    labels = {}
    for cache_name in metadata.foreign_keys.keys() & cached.keys():
        position, field = metadata.foreign_keys[cache_name]
        target = cached[cache_name]
        key = written[position]
        if target is None or key is UNKNOWN or (known is not UNKNOWN and known[position] == key):
            continue
        label = model_metadata.get_metadata(target.__class__).get_label(target, connection)
        if label:
            labels[field] = {str(key): label}
    return labels or None


def _record_failed_pre_save(instance: Model, metadata: ModelMetadata, using: str) -> None:
    """The write failed: its ``pre_save`` makes an event of its own."""
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
    event = PendingEvent(
        sent_at, tracing.get_current_trace(), tracing.running_span.get(), "pre_save", metadata.label, using
    )
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
    """Return the values that were written; ``UNKNOWN`` where a field was not."""
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


def _delete(self: Collector, *args: Any, **kwargs: Any) -> Any:
    """Record the delete for which Django sends nothing: one object that nobody listens to and nothing points at."""
    single = _get_single_instance(self)
    if single is None:
        return _original_delete(self, *args, **kwargs)
    metadata, instance = single
    key = instance.pk
    try:
        with autocommit.ensure_transaction(self.using, metadata.label, "post_delete") as connection:
            return _delete_row(metadata, instance, connection, partial(_original_delete, self, *args, **kwargs))
    except BaseException:
        instance.pk = key  # as above: Django takes it away before the COMMIT
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
    """Return the event of a row that is about to be deleted, or just was."""
    event = PendingEvent(
        tracing.now(),
        tracing.get_current_trace(),
        tracing.running_span.get(),
        "post_delete",
        metadata.label,
        connection.alias,
    )
    set_object(event, metadata, instance, connection)
    event.pre_signal_time = row_state.pop_attribute(instance._state, PENDING_PRE_DELETE)
    known_row = row_state.get_row_before_write(metadata, instance, connection.alias)
    if known_row is UNKNOWN:
        known_row = _get_fallback_row(metadata, instance)
    event.change = RowChange(metadata.fields, known_row, None)
    return event


def _get_fallback_row(metadata: ModelMetadata, instance: Model) -> Sequence[Any]:
    """Return what an instance without a snapshot tells of its row: all it carries if it is a copy, else its key."""
    values = metadata.get_values(instance)
    state = instance._state
    if metadata.keeps_old_values and not state.adding and row_state.get_known_row(metadata, state) is UNKNOWN:
        return row_state.copy_mutable_values(metadata, values)
    positions = dict(metadata.pk_positions)
    return [value if position in positions else UNKNOWN for position, value in enumerate(values)]
