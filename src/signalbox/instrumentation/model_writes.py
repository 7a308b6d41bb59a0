"""Rows recorded where they are written, so that row and event commit together.

``post_save`` is sent after an autocommit save has been committed: an event made there could be lost, or stand for a
row that never was. So the event is made in ``Model._save_table``, inside the transaction, and completed by the send.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import django
from django.db.models import Model
from django.db.models.deletion import Collector

from signalbox.core import tracing
from signalbox.core.event import UNKNOWN, PendingEvent, Outcome
from signalbox.instrumentation import autocommit, bulk, model_metadata, row_state
from signalbox.outbox import registry
from signalbox.pipeline import backends, exporter, unit_of_work
from signalbox.serialization.diff import PLAIN, RowChange, computed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.instrumentation.model_metadata import Plan

logger = logging.getLogger("signalbox")

ANNOUNCED: Final = "_signalbox_announced"
"""On ``instance._state``: the ``pre_save`` that waits for its write; its event, or its time if nobody heard it."""
CONDEMNED: Final = "_signalbox_condemned"
"""The same of a ``pre_delete`` that nobody heard."""
SAVED: Final = "_signalbox_saved"
"""On ``instance._state``: the ``post_save`` event that waits for its send."""

ARGS: Final = {
    (created, raw): f'{{"created":{created},"raw":{raw},"update_fields":null}}'
    for created in ("true", "false")
    for raw in ("true", "false")
}

UNSENT: Final = '{"unsent":true}'
"""Arguments of a delete for which Django sent nothing."""

STALE: Final = django.VERSION < (6, 0)
"""Whether an update leaves expressions on the instance, and what the database had computed before it."""

_original_save_table: Any = Model._save_table  # type: ignore[attr-defined]
_original_delete: Any = Collector.delete
_original_has_signal_listeners: Any = Collector._has_signal_listeners  # type: ignore[attr-defined]


_every_save = _every_delete = False
"""Whether all are recorded, or those alone that durable receivers wait for."""


def install(*, saves: bool, deletes: bool) -> None:
    """Record rows that are saved and deleted, and those in any case that durable receivers wait for."""
    global _every_save, _every_delete
    _every_save, _every_delete = saves, deletes
    awaited = registry.get_subscribed_signals()
    if saves or "post_save" in awaited:
        Model._save_table = _save_table  # type: ignore[attr-defined]
    if deletes or "post_delete" in awaited:
        Collector.delete = _delete  # type: ignore[method-assign]
    if "post_delete" in awaited:
        Collector._has_signal_listeners = _has_signal_listeners  # type: ignore[attr-defined]


def uninstall() -> None:
    """Leave the classes as Django made them."""
    Model._save_table = _original_save_table  # type: ignore[attr-defined]
    Collector.delete = _original_delete  # type: ignore[method-assign]
    Collector._has_signal_listeners = _original_has_signal_listeners  # type: ignore[attr-defined]


def _has_signal_listeners(self: Collector, model: type[Model]) -> bool:
    """A durable receiver of ``post_delete`` hears of each object, as a connected one does: of its model's objects they
    are not deleted unseen."""
    found: bool = _original_has_signal_listeners(self, model)
    return found or (registry.has_subscriber("post_delete", model._meta.label) and model_metadata.of(model).recorded)


def _save_table(
    self: Model,
    raw: bool = False,
    cls: Any = None,
    force_insert: Any = False,
    force_update: bool = False,
    using: Any = None,
    update_fields: Any = None,
) -> Any:
    plan = model_metadata.of(self.__class__)
    if (
        cls is not plan.concrete
        or not plan.recorded
        or not (_every_save or registry.has_subscriber("post_save", plan.label))
    ):
        return _original_save_table(self, raw, cls, force_insert, force_update, using, update_fields)
    connection = autocommit.connection_of(using)
    if backends.in_transaction(connection):
        open_buffer = unit_of_work.get_or_attach(connection)
        return _save_row(self, plan, open_buffer, raw, cls, force_insert, force_update, connection, update_fields)
    was = self.__dict__.copy()
    try:
        with autocommit.Unseen(connection):
            open_buffer = unit_of_work.get_or_attach(connection)
            return _save_row(self, plan, open_buffer, raw, cls, force_insert, force_update, connection, update_fields)
    except BaseException:
        _put_back(self, plan, was)
        raise


def _put_back(instance: Model, plan: Plan, was: dict[str, Any]) -> None:
    """Take from ``instance`` what the database has told it of a row that it then refused: its COMMIT comes after the
    statement, which would have failed by itself where a deferred constraint does not hold."""
    state = instance.__dict__
    for attname in plan.fields.attnames:
        value = was.get(attname, UNKNOWN)
        if attname in plan.returned or computed(value):
            if value is UNKNOWN:
                state.pop(attname, None)
            else:
                state[attname] = value


def _save_row(
    self: Model,
    plan: Plan,
    open_buffer: unit_of_work.UnitOfWork,
    raw: bool,
    cls: Any,
    force_insert: Any,
    force_update: bool,
    connection: BaseDatabaseWrapper,
    update_fields: Any,
) -> Any:
    using = connection.alias
    before = () if STALE else plan.values(self)  # Django 6 replaces expressions by what the database returns
    try:
        updated = _original_save_table(self, raw, cls, force_insert, force_update, using, update_fields)
    except BaseException:
        _announced_in_vain(self, plan, using)
        raise
    try:
        _capture(self, plan, open_buffer, before, bool(updated), raw, connection, update_fields)
    except Exception:
        logger.exception("A save of %s could not be recorded.", plan.label)
    return updated


def _capture(
    instance: Model,
    plan: Plan,
    open_buffer: unit_of_work.UnitOfWork,
    before: Sequence[Any],
    updated: bool,
    raw: bool,
    connection: BaseDatabaseWrapper,
    update_fields: Any,
) -> None:
    state = instance._state
    announced = row_state.take(state, ANNOUNCED)
    if type(announced) is PendingEvent and announced.outcome is None:
        announced.key = announced.key or plan.key(instance)
        open_buffer.add(announced)
    known = row_state.before(plan, instance, connection.alias) if updated else UNKNOWN
    written = _written(plan, instance, before, updated, update_fields)
    labels = _labels(plan, state, known, written, connection) if plan.foreign else None
    row = RowChange(plan.fields, known if updated else None, written, labels)
    draft = PendingEvent(
        tracing.now(),
        tracing.get_current_trace(),
        tracing.running_span.get(),
        "post_save",
        plan.label,
        connection.alias,
    )
    name(draft, plan, instance, connection)
    if type(announced) is int:
        draft.pre_signal_time = announced
    draft.change = row
    draft.duration = 0  # unless receivers run
    if update_fields is None:
        draft.args = ARGS["false" if updated else "true", "true" if raw else "false"]
    else:
        draft.args = {"created": not updated, "raw": raw, "update_fields": sorted(update_fields)}
    draft.rollbackable = row_state.Memory(state, getattr(state, row_state.ATTRIBUTE, UNKNOWN))
    row_now = row_state.after_write(known, written)
    if STALE:
        row_now = _without_stale(row_now, plan.generated if updated else ())
    setattr(state, row_state.ATTRIBUTE, row_now)
    setattr(state, SAVED, draft)
    open_buffer.add(draft)


def _without_stale(row: Sequence[Any], generated: Sequence[int]) -> Sequence[Any]:
    """Return what is known of a row of whose new values the database told none. An expression stays on the instance,
    and the next save writes what it makes of it then."""
    if not generated and PLAIN.issuperset(map(type, row)):
        return row
    return [UNKNOWN if place in generated or computed(value) else value for place, value in enumerate(row)]


def _labels(
    plan: Plan, state: Any, known: Any, written: Sequence[Any], connection: BaseDatabaseWrapper
) -> dict[str, dict[str, str]] | None:
    """Return what the objects are called that changed foreign keys point at, where they are loaded: without a query."""
    cached = state.__dict__.get("fields_cache")
    if not cached:
        return None
    labels = {}
    for cache_name in plan.foreign.keys() & cached.keys():
        place, field = plan.foreign[cache_name]
        target = cached[cache_name]
        key = written[place]
        if target is None or key is UNKNOWN or (known is not UNKNOWN and known[place] == key):
            continue
        label = model_metadata.of(target.__class__).label_of(target, connection)
        if label:
            labels[field] = {str(key): label}
    return labels or None


def _announced_in_vain(instance: Model, plan: Plan, using: str) -> None:
    """The write failed: its ``pre_save`` makes an event of its own."""
    try:
        announced = row_state.take(instance._state, ANNOUNCED)
        if type(announced) is int:
            announced = announcement(plan, instance, using, announced)
        if announced is not None and announced.outcome is None:
            announced.outcome = Outcome.FAILED
            exporter.enqueue(announced)
    except Exception:
        logger.exception("A failed save of %s could not be recorded.", plan.label)


def announcement(plan: Plan, instance: Model, using: str, time: int) -> PendingEvent:
    """Return the event of a ``pre_save`` that was sent at ``time``, in nanoseconds."""
    draft = PendingEvent(time, tracing.get_current_trace(), tracing.running_span.get(), "pre_save", plan.label, using)
    draft.key = plan.key(instance)
    draft.duration = 0
    return draft


def name(draft: PendingEvent, plan: Plan, instance: Model, connection: BaseDatabaseWrapper | None) -> None:
    """Let ``draft`` be about ``instance``."""
    draft.key = plan.key(instance)
    if plan.has_str:
        draft.label = plan.label_of(instance, connection)


def _written(plan: Plan, instance: Model, before: Sequence[Any], updated: bool, update_fields: Any) -> Sequence[Any]:
    """Return the values that were written; ``UNKNOWN`` where a field was not."""
    values = plan.values(instance)
    stale = STALE and updated and plan.generated
    if type(values) is tuple and (update_fields is None or not updated) and not stale:
        return row_state.keep(plan, values)
    fields = plan.fields
    names = None if update_fields is None or not updated else {*update_fields, *fields.primary}
    written = []
    for place, (name, attname, was, value) in enumerate(
        zip(fields.names, fields.attnames, before or values, values, strict=True)
    ):
        if place in plan.generated:
            written.append(UNKNOWN if stale else value)
        elif names is not None and name not in names and attname not in names:
            written.append(UNKNOWN)
        elif value is UNKNOWN and hasattr(was, "resolve_expression"):
            written.append(was)  # Django 6 defers what the database computed and could not return
        else:
            written.append(value)
    return row_state.keep(plan, written)


def _delete(self: Collector) -> Any:
    """Record the delete for which Django sends nothing: one object that nobody listens to and nothing points at."""
    alone = _alone(self)
    if alone is None:
        return _original_delete(self)
    plan, instance = alone
    key = instance.pk
    try:
        with autocommit.in_transaction(self.using) as connection:
            return _delete_row(self, plan, instance, connection)
    except BaseException:
        instance.pk = key  # as above: Django takes it away before the COMMIT
        raise


def _alone(collector: Collector) -> tuple[Plan, Model] | None:
    if len(collector.data) != 1:
        return None
    model, instances = next(iter(collector.data.items()))
    if len(instances) != 1:
        return None
    plan = model_metadata.of(model)
    instance = next(iter(instances))
    if not plan.recorded or not _every_delete or not collector.can_fast_delete(instance):
        return None
    return plan, instance


def _delete_row(collector: Collector, plan: Plan, instance: Model, connection: BaseDatabaseWrapper) -> Any:
    draft = None
    try:
        draft = deleted(instance, plan, connection)
        draft.args = UNSENT
    except Exception:
        logger.exception("A delete of %s could not be recorded.", plan.label)
    if plan.ends:
        with bulk.telling(plan.concrete):
            result = _original_delete(collector)
    else:
        result = _original_delete(collector)
    if draft is not None and result[0]:
        unit_of_work.get_or_attach(connection).add(draft)
    return result


def deleted(instance: Model, plan: Plan, connection: BaseDatabaseWrapper) -> PendingEvent:
    """Return the event of a row that is about to be deleted, or just was."""
    draft = PendingEvent(
        tracing.now(),
        tracing.get_current_trace(),
        tracing.running_span.get(),
        "post_delete",
        plan.label,
        connection.alias,
    )
    name(draft, plan, instance, connection)
    draft.pre_signal_time = row_state.take(instance._state, CONDEMNED)
    known = row_state.before(plan, instance, connection.alias)
    if known is UNKNOWN:
        known = _unread(plan, instance)
    draft.change = RowChange(plan.fields, known, None)
    return draft


def _unread(plan: Plan, instance: Model) -> Sequence[Any]:
    """Return what an instance without a snapshot tells of its row: all it carries if it is a copy, else its key."""
    values = plan.values(instance)
    state = instance._state
    if not state.adding and row_state.old(plan, state) is UNKNOWN:
        return row_state.keep(plan, values)
    places = dict(plan.pk_places)
    return [value if place in places else UNKNOWN for place, value in enumerate(values)]
