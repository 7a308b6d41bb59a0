"""Operations for which Django sends nothing: bulk_create, bulk_update, update and the deletes that load no object.

Each is one event with the model, the fields, how many rows and which, written in the operation's own transaction.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final

import django
from django.db import connections
from django.db.models import AutoField, QuerySet
from django.db.models.sql import DeleteQuery, UpdateQuery

from signalbox.core import tracing
from signalbox.core.event import UNKNOWN, PendingEvent
from signalbox.instrumentation import model_metadata, returning, row_state
from signalbox.instrumentation.autocommit import in_transaction
from signalbox.pipeline import unit_of_work
from signalbox.serialization import encoder
from signalbox.serialization.diff import RowChange, choice_labels, untold
from signalbox.serialization.expressions import NO_ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.core.event import Rollbackable
    from signalbox.instrumentation.model_metadata import Plan

logger = logging.getLogger("signalbox")

MOST_KEYS: Final = 10_000
"""Keys that one event tells; of a larger operation it tells these, and the number of all."""

inside: ContextVar[type[Model] | None] = ContextVar("signalbox_bulk", default=None)
"""The model of which an operation is under way that tells of its inner ones itself."""

_originals: dict[str, Any] = {
    name: QuerySet.__dict__[name] for name in ("bulk_create", "bulk_update", "update", "_raw_delete")
}
_original_update_batch: Any = UpdateQuery.update_batch
_original_delete_batch: Any = DeleteQuery.delete_batch
_rows = False


def install(names: frozenset[str], *, rows: bool) -> None:
    """Record the operations among ``names``; ``rows`` makes one event of each row, with its changes."""
    global _rows
    _rows = rows
    replacements: dict[str, tuple[str, Any]] = {
        "bulk_create": ("bulk_create", _bulk_create),
        "bulk_update": ("bulk_update", _bulk_update),
        "update": ("update", _update),
        "bulk_delete": ("_raw_delete", _raw_delete),
    }
    for name, (attribute, replacement) in replacements.items():
        if name in names:
            wrapped: Any = replacement
            setattr(QuerySet, attribute, update_wrapper(wrapped, _originals[attribute]))
    if "update" in names:
        UpdateQuery.update_batch = _update_batch  # type: ignore[method-assign]
    if "bulk_delete" in names:
        DeleteQuery.delete_batch = _delete_batch  # type: ignore[method-assign]


def uninstall() -> None:
    """Leave the classes as Django made them."""
    for attribute, original in _originals.items():
        setattr(QuerySet, attribute, original)
    UpdateQuery.update_batch = _original_update_batch  # type: ignore[method-assign]
    DeleteQuery.delete_batch = _original_delete_batch  # type: ignore[method-assign]


class telling:  # noqa: N801 - a block, which a generator would make three times as dear
    """Keep the block's operations on ``model``, and on no other, from making events: who does them tells of them."""

    __slots__ = ("_model", "_token")

    def __init__(self, model: type[Model] | None) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._token = inside.set(self._model)

    def __exit__(self, *_: object) -> None:
        inside.reset(self._token)


def _silent(plan: Plan) -> bool:
    """Tell whether an operation on the plan's model makes no event."""
    return not plan.recorded or inside.get() is plan.concrete


# ------------------------------------------------------------------ the operations


def _bulk_create(
    self: Any,
    objs: Any,
    batch_size: int | None = None,
    ignore_conflicts: bool = False,
    update_conflicts: bool = False,
    update_fields: Any = None,
    unique_fields: Any = None,
) -> Any:
    plan = model_metadata.of(self.model)
    how = (batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields)
    if _silent(plan) or not objs:
        return _originals["bulk_create"](self, objs, *how)
    objects = list(objs)
    self._for_write = True
    whole = _rows and ignore_conflicts
    fields = list(plan.concrete._meta.local_concrete_fields) if whole else plan.pks
    seen = _begins(self, objects, batch_size)
    with in_transaction(self.db, seen=seen) as connection, returning.asking("insert", self.model, fields) as wanted:
        made = _originals["bulk_create"](self, objects, *how)
        with _guarded("bulk_create", plan):
            if ignore_conflicts:
                _created_in_part(plan, connection, objects, wanted)
            elif objects:
                _created(plan, connection, objects, update_conflicts)
    return made


def _begins(queryset: Any, objects: list[Any], batch_size: int | None) -> bool:
    """Tell whether Django itself begins a transaction for a bulk creation: from 6.0 on for several statements alone."""
    if django.VERSION < (6, 0):
        return True
    keyed = sum(one._is_pk_set() for one in objects)
    if 0 < keyed < len(objects):
        return True
    fields = [field for field in queryset.model._meta.concrete_fields if not field.generated]
    if not keyed:
        fields = [field for field in fields if not isinstance(field, AutoField)]
    most: int = max(connections[queryset.db].ops.bulk_batch_size(fields, objects), 1)
    return len(objects) > min(batch_size or most, most)


def _created_in_part(plan: Plan, connection: BaseDatabaseWrapper, objects: list[Any], wanted: returning.Wanted) -> None:
    """Tell of the objects that were not there yet, as far as the database says which."""
    if _rows and wanted.rows is not None:
        _tell_whole_rows("bulk_create", plan, connection, wanted)
        return
    keys = None if wanted.rows is None else _keys(plan, wanted.rows)
    count = len(objects) if keys is None else len(keys)
    _operation("bulk_create", plan, connection, count, keys, {"ignore_conflicts": True})


def _created(plan: Plan, connection: BaseDatabaseWrapper, objects: list[Any], update_conflicts: bool) -> None:
    keys: list[Any] | None = [one.pk for one in objects]
    if any(key is None for key in keys or ()):  # the database tells no keys of many rows (MySQL)
        keys = None
    note: Rollbackable | None = None
    if update_conflicts or keys is None:  # nobody knows what the rows hold, or which they are
        note = row_state.forget(objects)
    else:
        note = row_state.remember(plan, objects)
    if _rows and not update_conflicts:
        for one in objects:
            change = RowChange(plan.fields, None, row_state.keep(plan, plan.values(one)))
            _add(_row_draft("bulk_create", plan, connection, plan.key(one), change, note), connection)
            note = None  # one for all of them
        return
    told = {"update_conflicts": True} if update_conflicts else {}
    _operation("bulk_create", plan, connection, len(objects), keys, told, note)


def _bulk_update(self: Any, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None) -> Any:
    plan = model_metadata.of(self.model)
    if _silent(plan) or not objs or not fields:
        return _originals["bulk_update"](self, objs, fields, batch_size)
    objects, names = list(objs), list(fields)
    self._for_write = True
    with in_transaction(self.db, seen=True) as connection:
        with telling(plan.concrete):
            number = _originals["bulk_update"](self, objects, names, batch_size)
        with _guarded("bulk_update", plan):
            if number:
                _updated(plan, connection, objects, names, number)
    return number


def _updated(plan: Plan, connection: BaseDatabaseWrapper, objects: list[Any], names: list[str], number: int) -> None:
    keys = list(dict.fromkeys(one.pk for one in objects))
    stored: dict[Any, Sequence[Any]] = {}
    if number != len(objects) or number != len(keys):  # some are not there any more, or are meant twice
        # Which of two objects with one key the database took depends on how it was asked: the row itself says.
        stored = _stored(plan, connection, keys, names)
        objects = [one for one in objects if one.pk in stored]
        keys = list(stored)
    told: set[Any] = set()
    note: Rollbackable | None = row_state.Memories(objects)
    for one in objects:
        known = row_state.before(plan, one, connection.alias)
        values = stored[one.pk] if stored else plan.values(one)
        written = row_state.keep(plan, _only(plan, values, names))
        setattr(one._state, row_state.ATTRIBUTE, row_state.after_write(known, written))
        if _rows and one.pk not in told:
            told.add(one.pk)
            change = RowChange(plan.fields, known, written)
            _add(_row_draft("bulk_update", plan, connection, plan.key(one), change, note), connection)
            note = None  # one for all of them
    if not _rows:
        _operation("bulk_update", plan, connection, number, keys, {"fields": names}, note)


def _stored(
    plan: Plan, connection: BaseDatabaseWrapper, keys: list[Any], names: Sequence[str]
) -> dict[Any, Sequence[Any]]:
    """Return those of ``keys`` that the table holds, in their order, with their rows as far as ``names`` go."""
    rows = _table(plan, connection)
    fields = {plan.concrete._meta.get_field(name).name for name in names} | plan.fields.primary
    places = [place for place, name in enumerate(plan.fields.names) if name in fields]
    attnames = [plan.fields.attnames[place] for place in places]
    found: dict[Any, Sequence[Any]] = {}
    for start in range(0, len(keys), 500):
        part = rows.filter(pk__in=keys[start : start + 500]).values_list("pk", *attnames)
        with unit_of_work.without_query_logging(connection):
            found.update({key: _spread(plan, places, values) for key, *values in part})
    return {key: found[key] for key in keys if key in found}


def _only(plan: Plan, values: Sequence[Any], names: Iterable[str]) -> list[Any]:
    """Return ``values`` with those of other fields than ``names`` and the key unknown."""
    fields = plan.fields
    wanted = {*names, *fields.primary}
    return [
        value if name in wanted or attname in wanted else UNKNOWN
        for name, attname, value in zip(fields.names, fields.attnames, values, strict=True)
    ]


def _update(self: Any, **kwargs: Any) -> Any:
    plan = model_metadata.of(self.model)
    query = self.query
    # Django says itself what it can't update.
    if _silent(plan) or query.is_sliced or query.combinator or query.distinct_fields or not kwargs:
        return _originals["update"](self, **kwargs)
    self._for_write = True
    with in_transaction(self.db) as connection:
        renamed = _renamed(plan, kwargs)
        if _rows and query.group_by is None and not renamed:
            return _update_rows(self, plan, connection, kwargs)
        with returning.asking("update", plan.concrete, plan.pks, first=bool(renamed), most=MOST_KEYS) as wanted:
            number = _originals["update"](self, **kwargs)
        if number:
            with _guarded("update", plan):
                keys = None if wanted.rows is None else _keys(plan, wanted.rows)
                told = _told_values(plan, kwargs, query.annotations)
                if renamed:
                    new = _new_keys(plan, keys, renamed)
                    told["new_keys"] = None if new is None else _shown(plan, new)
                _operation("update", plan, connection, number, keys, told)
    return number


def _renamed(plan: Plan, values: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of the primary key that ``update()`` was given, by attribute."""
    return {
        field.attname: values[given]
        for field in plan.pks
        for given in (field.name, field.attname, *(("pk",) if len(plan.pks) == 1 else ()))
        if given in values
    }


def _new_keys(plan: Plan, keys: list[Any] | None, renamed: dict[str, Any]) -> list[Any] | None:
    """Return the keys that the rows with ``keys`` were given; ``None`` where only the database knows."""
    if keys is None or any(hasattr(value, "resolve_expression") for value in renamed.values()):
        return None
    given = {
        place: _plain(plan.pks[place], renamed[field.attname])
        for place, field in enumerate(plan.pks)
        if field.attname in renamed
    }
    if len(plan.pks) == 1:
        return [given[0]] * len(keys)
    return [tuple(given.get(place, part) for place, part in enumerate(key)) for key in keys]


def _plain(field: Any, value: Any) -> Any:
    """Return what a row holds that was given ``value``: of an object its key, of a text the number that it is of."""
    while field.is_relation:
        field = field.target_field
        if hasattr(value, "_meta"):
            value = getattr(value, field.attname)
    return field.to_python(value)


def _told_values(plan: Plan, values: dict[str, Any], annotations: Mapping[str, Any] = NO_ANNOTATIONS) -> dict[str, Any]:
    """Return what is told of the values that ``update()`` was given, with what choices are called."""
    rendered, plain = _rendered(plan, values, annotations)
    labels = choice_labels(plain, plan.fields)
    return {"values": rendered, "labels": labels} if labels else {"values": rendered}


def _rendered(
    plan: Plan, values: dict[str, Any], annotations: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``update()`` was given, as a save would tell it: keys for objects, what expressions are made of, no
    secrets; and what of it is a plain value."""
    redactor = plan.fields.redactor
    shown: dict[str, Any] = {}
    given_values: dict[str, Any] = {}
    for given, value in values.items():
        name = plan.concrete._meta.get_field(given).name if given != "pk" else given
        if name in plan.fields.excluded:
            continue
        if name in plan.fields.secret or redactor.hides(name, value):
            shown[name] = redactor.mark
        elif hasattr(value, "resolve_expression"):
            shown[name] = untold(value, plan.fields, annotations)
        else:
            given_values[name] = _written(plan, name, value)
    return {**shown, **encoder.encode_fields(given_values, redactor=redactor)}, given_values


def _written(plan: Plan, name: str, value: Any) -> Any:
    """Return what ``update()`` wrote of a field, as a save would tell it."""
    try:
        found = _plain(plan.concrete._meta.get_field(name), value)
    except Exception:  # noqa: BLE001 - the field's own code on a value that the database took
        found = getattr(value, "pk", value)
    to_text = plan.fields.to_text.get(name)
    return found if to_text is None else to_text(found)


def _update_rows(self: Any, plan: Plan, connection: BaseDatabaseWrapper, kwargs: dict[str, Any]) -> Any:
    """Update, and tell of each row what changed: the old values are read first, the new ones afterwards."""
    names = _names(plan, kwargs)
    returning.lock(connection, plan.concrete)
    # By key: PostgreSQL locks no rows of an outer join.
    found = _table(plan, connection).filter(pk__in=self._chain().order_by().values("pk"))
    old = _read(found, connection, names)
    number = _originals["update"](self, **kwargs)
    if number:
        _tell_changed_rows(plan, connection, names, old)
    return number


def _table(plan: Plan, connection: BaseDatabaseWrapper) -> QuerySet[Any]:
    """Return all rows of the plan's table: a model's managers, the base manager among them, may hide some."""
    return QuerySet(plan.concrete, using=connection.alias)


def _names(plan: Plan, values: dict[str, Any]) -> list[str]:
    """Return the names of the fields that ``values`` are of, in the model's order."""
    return [
        field.name for field in plan.concrete._meta.concrete_fields if field.name in values or field.attname in values
    ]


def _read(found: Any, connection: BaseDatabaseWrapper, names: list[str]) -> dict[Any, Sequence[Any]]:
    """Return these fields' values by key, their rows locked."""
    if connection.features.has_select_for_update:
        found = found.select_for_update()
    with unit_of_work.without_query_logging(connection):
        return {row[0]: row[1:] for row in found.values_list("pk", *names)}


def _tell_changed_rows(
    plan: Plan, connection: BaseDatabaseWrapper, names: list[str], old: dict[Any, Sequence[Any]]
) -> None:
    """Make one event of each row that held ``old`` values and was updated."""
    with _guarded("update", plan):
        places = [plan.fields.names.index(name) for name in names]
        for start in range(0, len(old), 500):
            keys = list(old)[start : start + 500]
            with unit_of_work.without_query_logging(connection):
                new = list(_table(plan, connection).filter(pk__in=keys).values_list("pk", *names))
            for key, *values in new:
                change = RowChange(plan.fields, _spread(plan, places, old[key]), _spread(plan, places, values))
                _add(_row_draft("update", plan, connection, plan.key_of(key), change, None), connection)


def _spread(plan: Plan, places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    spread: list[Any] = [UNKNOWN] * len(plan.fields.names)
    for place, value in zip(places, values, strict=True):
        spread[place] = value
    return spread


def _raw_delete(self: Any, using: str) -> Any:
    plan = model_metadata.of(self.model)
    if _silent(plan):
        return _originals["_raw_delete"](self, using)
    return _deleting(plan, using, lambda: _originals["_raw_delete"](self, using))


def _deleting(plan: Plan, using: str, delete: Callable[[], Any]) -> Any:
    with in_transaction(using) as connection:
        fields = list(plan.concrete._meta.local_concrete_fields) if _rows else [*plan.pks, *plan.ends]
        most = None if _rows else MOST_KEYS
        with returning.asking("delete", plan.concrete, fields, most=most) as wanted:
            number = delete()
        if number:
            with _guarded("bulk_delete", plan):
                _deleted(plan, connection, number, wanted)
    return number


def _deleted(plan: Plan, connection: BaseDatabaseWrapper, number: int, wanted: returning.Wanted) -> None:
    if not _rows or wanted.rows is None:
        keys = None if wanted.rows is None else _keys(plan, wanted.rows)
        _operation("bulk_delete", plan, connection, number, keys, _ends(plan, wanted))
        return
    _tell_whole_rows("bulk_delete", plan, connection, wanted)


def _tell_whole_rows(operation: str, plan: Plan, connection: BaseDatabaseWrapper, wanted: returning.Wanted) -> None:
    """Make one event of each row that a statement returned, as one that was created or deleted."""
    places = [plan.fields.attnames.index(field.attname) for field in wanted.fields]
    for values in wanted.rows or ():
        row = _spread(plan, places, values)
        key = tuple(row[place] for place, _ in plan.pk_places)
        change = RowChange(plan.fields, row, None) if operation == "bulk_delete" else RowChange(plan.fields, None, row)
        draft = _row_draft(operation, plan, connection, plan.key_of(key if len(key) > 1 else key[0]), change, None)
        _add(draft, connection)


def _ends(plan: Plan, wanted: returning.Wanted) -> dict[str, Any]:
    """Return the keys on both ends of a many-to-many relation's rows, by the foreign key's name."""
    if not plan.ends or wanted.rows is None:
        return {}
    columns = list(zip(*wanted.rows, strict=True))[len(plan.pks) :]
    return {
        "ends": {
            field.name: _shown(model_metadata.of(field.related_model), list(column))
            for field, column in zip(plan.ends, columns, strict=False)
        }
    }


def _delete_batch(self: Any, pk_list: Sequence[Any], using: str) -> Any:
    """Record what becomes of the rows of a many-to-many relation where somebody listens to every delete: Django loads
    them then, and sends nothing for them."""
    plan = model_metadata.of(self.get_meta().concrete_model)
    if not self.get_meta().auto_created or _silent(plan):
        return _original_delete_batch(self, pk_list, using)
    return _deleting(plan, using, lambda: _original_delete_batch(self, pk_list, using))


def _keys(plan: Plan, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the primary keys in ``rows`` of the key's columns: composite ones as tuples."""
    return [row[0] for row in rows] if len(plan.pks) == 1 else [tuple(row) for row in rows]


def _update_batch(self: Any, pk_list: Sequence[Any], values: dict[str, Any], using: str) -> Any:
    """Record what a delete does to rows that pointed at what it deleted (``SET_NULL`` and the like)."""
    plan = model_metadata.of(self.get_meta().concrete_model)
    if _silent(plan):
        return _original_update_batch(self, pk_list, values, using)
    with in_transaction(using) as connection:
        if _rows and not _renamed(plan, values):
            return _update_batch_rows(self, plan, connection, pk_list, values)
        result = _original_update_batch(self, pk_list, values, using)
        with _guarded("update", plan):
            _operation("update", plan, connection, len(pk_list), list(pk_list), _told_values(plan, values))
    return result


def _update_batch_rows(
    self: Any, plan: Plan, connection: BaseDatabaseWrapper, pk_list: Sequence[Any], values: dict[str, Any]
) -> Any:
    names = _names(plan, values)
    returning.lock(connection, plan.concrete)
    rows = _table(plan, connection)
    old: dict[Any, Sequence[Any]] = {}
    for start in range(0, len(pk_list), 500):
        old |= _read(rows.filter(pk__in=pk_list[start : start + 500]), connection, names)
    result = _original_update_batch(self, pk_list, values, connection.alias)
    _tell_changed_rows(plan, connection, names, old)
    return result


# ------------------------------------------------------------------ their events


@contextmanager
def _guarded(operation: str, plan: Plan) -> Iterator[None]:
    """Let nothing of the recording itself reach the application, whose rows are written."""
    try:
        yield
    except Exception:
        logger.exception("%s of %s could not be recorded.", operation, plan.label)


def _operation(
    operation: str,
    plan: Plan,
    connection: BaseDatabaseWrapper,
    count: int,
    keys: list[Any] | None,
    told: dict[str, Any],
    note: Rollbackable | None = None,
) -> None:
    """Make the one event of an operation on ``count`` rows, of which ``keys`` are the first; ``None`` if unknown."""
    if not count:
        return
    draft = PendingEvent(
        tracing.now(), tracing.get_current_trace(), tracing.running_span.get(), operation, plan.label, connection.alias
    )
    draft.duration = 0
    args: dict[str, Any] = {"count": count, **told, "keys": None}
    if keys is not None:
        shown = args["keys"] = _shown(plan, keys)
        if count > len(shown):
            args["keys_left_out"] = count - len(shown)
    draft.args = args
    draft.rollbackable = note
    _add(draft, connection)


def _shown(plan: Plan, keys: list[Any]) -> list[Any]:
    """Return keys as events tell them, as many as one event tells."""
    shown = keys[:MOST_KEYS]
    return shown if {*map(type, shown)} <= {int} and not plan.secret_pk else [plan.key_of(key) for key in shown]


def _row_draft(
    operation: str, plan: Plan, connection: BaseDatabaseWrapper, key: str, change: RowChange, note: Rollbackable | None
) -> PendingEvent:
    draft = PendingEvent(
        tracing.now(), tracing.get_current_trace(), tracing.running_span.get(), operation, plan.label, connection.alias
    )
    draft.duration = 0
    draft.key = key
    draft.change = change
    draft.rollbackable = note
    return draft


def _add(draft: PendingEvent, connection: BaseDatabaseWrapper) -> None:
    unit_of_work.get_or_attach(connection).add(draft)
