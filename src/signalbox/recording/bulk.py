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
from django.db.models.sql import UpdateQuery

from signalbox import buffer, context, encoding
from signalbox.changes import RowChange, untold
from signalbox.event import UNKNOWN, Draft
from signalbox.recording import plans, returning, snapshots
from signalbox.recording.blocks import in_transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.event import Note
    from signalbox.recording.plans import Plan

logger = logging.getLogger("signalbox")

MOST_KEYS: Final = 10_000
"""Keys that one event tells; of a larger operation it tells these, and the number of all."""

inside: ContextVar[type[Model] | None] = ContextVar("signalbox_bulk", default=None)
"""The model of which an operation is under way that tells of its inner ones itself."""

_originals: dict[str, Any] = {
    name: QuerySet.__dict__[name] for name in ("bulk_create", "bulk_update", "update", "_raw_delete")
}
_original_update_batch: Any = UpdateQuery.update_batch
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


def uninstall() -> None:
    """Leave the classes as Django made them."""
    for attribute, original in _originals.items():
        setattr(QuerySet, attribute, original)
    UpdateQuery.update_batch = _original_update_batch  # type: ignore[method-assign]


@contextmanager
def telling(model: type[Model]) -> Iterator[None]:
    """Keep the block's operations on ``model`` from making events: who does them tells of them."""
    token = inside.set(model)
    try:
        yield
    finally:
        inside.reset(token)


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
    plan = plans.of(self.model)
    how = (batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields)
    if _silent(plan) or not objs:
        return _originals["bulk_create"](self, objs, *how)
    objects = list(objs)
    self._for_write = True
    seen = _begins(self, objects, batch_size)
    with in_transaction(self.db, seen=seen) as connection, returning.asking("insert", self.model, plan.pks) as wanted:
        made = _originals["bulk_create"](self, objects, *how)
        with _guarded("bulk_create", plan):
            if ignore_conflicts:
                _created_in_part(plan, connection, objects, wanted)
            elif objects:
                _created(plan, connection, objects, update_conflicts)
    return made


def _begins(queryset: Any, objects: list[Any], batch_size: int | None) -> bool:
    """Tell whether Django itself begins a transaction for a bulk creation: from 6.1 on for several statements alone."""
    if django.VERSION < (6, 1):
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
    keys = None if wanted.rows is None else _keys(plan, wanted.rows)
    count = len(objects) if keys is None else len(keys)
    _operation("bulk_create", plan, connection, count, keys, {"ignore_conflicts": True})


def _created(plan: Plan, connection: BaseDatabaseWrapper, objects: list[Any], update_conflicts: bool) -> None:
    keys: list[Any] | None = [one.pk for one in objects]
    if any(key is None for key in keys or ()):  # the database tells no keys of many rows (MySQL)
        keys = None
    note: Note | None = None
    if update_conflicts or keys is None:  # nobody knows what the rows hold, or which they are
        note = snapshots.forget(objects)
    else:
        note = snapshots.remember(plan, objects)
    if _rows and not update_conflicts:
        for one in objects:
            change = RowChange(plan.fields, None, snapshots.keep(plan, plan.values(one)))
            _add(_row_draft("bulk_create", plan, connection, plan.key(one), change, note), connection)
            note = None  # one for all of them
        return
    told = {"update_conflicts": True} if update_conflicts else {}
    _operation("bulk_create", plan, connection, len(objects), keys, told, note)


def _bulk_update(self: Any, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None) -> Any:
    plan = plans.of(self.model)
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
    if number != len(objects):  # some are not there any more, or are meant twice
        there = _there(plan, connection, [one.pk for one in objects])
        objects = [one for one in objects if one.pk in there]
    keys = list(dict.fromkeys(one.pk for one in objects))
    note: Note | None = snapshots.Memories(objects)
    for one in objects:
        known = snapshots.before(plan, one, connection.alias)
        written = snapshots.keep(plan, _only(plan, plan.values(one), names))
        setattr(one._state, snapshots.ATTRIBUTE, snapshots.after_write(known, written))
        if _rows:
            change = RowChange(plan.fields, known, written)
            _add(_row_draft("bulk_update", plan, connection, plan.key(one), change, note), connection)
            note = None  # one for all of them
    if not _rows:
        _operation("bulk_update", plan, connection, number, keys, {"fields": names}, note)


def _there(plan: Plan, connection: BaseDatabaseWrapper, keys: list[Any]) -> set[Any]:
    """Return those of ``keys`` that the table holds."""
    rows = plan.concrete._base_manager.using(connection.alias)
    parts = [keys[start : start + 500] for start in range(0, len(keys), 500)]
    return {key for part in parts for key in rows.filter(pk__in=part).values_list("pk", flat=True)}


def _only(plan: Plan, values: Sequence[Any], names: Iterable[str]) -> list[Any]:
    """Return ``values`` with those of other fields than ``names`` and the key unknown."""
    fields = plan.fields
    wanted = {*names, *fields.primary}
    return [
        value if name in wanted or attname in wanted else UNKNOWN
        for name, attname, value in zip(fields.names, fields.attnames, values, strict=True)
    ]


def _update(self: Any, **kwargs: Any) -> Any:
    plan = plans.of(self.model)
    query = self.query
    # Django says itself what it can't update.
    if _silent(plan) or query.is_sliced or query.combinator or query.distinct_fields or not kwargs:
        return _originals["update"](self, **kwargs)
    self._for_write = True
    with in_transaction(self.db) as connection:
        if _rows and query.group_by is None:
            return _update_rows(self, plan, connection, kwargs)
        with returning.asking("update", plan.concrete, plan.pks, most=MOST_KEYS) as wanted:
            number = _originals["update"](self, **kwargs)
        if number:
            with _guarded("update", plan):
                keys = None if wanted.rows is None else _keys(plan, wanted.rows)
                _operation("update", plan, connection, number, keys, {"values": _rendered(plan, kwargs)})
    return number


def _rendered(plan: Plan, values: dict[str, Any]) -> dict[str, Any]:
    """Return what ``update()`` was given: keys for objects, what expressions are made of, no secrets."""
    redactor = plan.fields.redactor
    shown: dict[str, Any] = {}
    for given, value in values.items():
        name = plan.concrete._meta.get_field(given).name if given != "pk" else given
        if name in plan.fields.excluded:
            continue
        if name in plan.fields.secret or redactor.hides(name, value):
            shown[name] = redactor.mark
        elif hasattr(value, "resolve_expression"):
            shown[name] = untold(value, plan.fields)
        elif hasattr(value, "_meta"):
            shown[name] = encoding.safe(value.pk, redactor=redactor)
        else:
            shown[name] = encoding.safe(value, redactor=redactor)
    return shown


def _update_rows(self: Any, plan: Plan, connection: BaseDatabaseWrapper, kwargs: dict[str, Any]) -> Any:
    """Update, and tell of each row what changed: the old values are read first, the new ones afterwards."""
    names = [
        field.name for field in plan.concrete._meta.concrete_fields if field.name in kwargs or field.attname in kwargs
    ]
    # By key: PostgreSQL locks no rows of an outer join.
    found = plan.concrete._base_manager.using(connection.alias).filter(pk__in=self._chain().order_by().values("pk"))
    if connection.features.has_select_for_update:
        found = found.select_for_update()
    old = {row[0]: row[1:] for row in found.values_list("pk", *names)}
    number = _originals["update"](self, **kwargs)
    if not number:
        return number
    with _guarded("update", plan):
        places = [plan.fields.names.index(name) for name in names]
        for start in range(0, len(old), 500):
            keys = list(old)[start : start + 500]
            new = plan.concrete._base_manager.using(connection.alias).filter(pk__in=keys).values_list("pk", *names)
            for key, *values in new:
                change = RowChange(plan.fields, _spread(plan, places, old[key]), _spread(plan, places, values))
                _add(_row_draft("update", plan, connection, plan.key_of(key), change, None), connection)
    return number


def _spread(plan: Plan, places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    spread: list[Any] = [UNKNOWN] * len(plan.fields.names)
    for place, value in zip(places, values, strict=True):
        spread[place] = value
    return spread


def _raw_delete(self: Any, using: str) -> Any:
    plan = plans.of(self.model)
    if _silent(plan):
        return _originals["_raw_delete"](self, using)
    with in_transaction(using) as connection:
        fields = list(plan.concrete._meta.local_concrete_fields) if _rows else plan.pks
        most = None if _rows else MOST_KEYS
        with returning.asking("delete", plan.concrete, fields, most=most) as wanted:
            number = _originals["_raw_delete"](self, using)
        if number:
            with _guarded("bulk_delete", plan):
                _deleted(plan, connection, number, wanted)
    return number


def _deleted(plan: Plan, connection: BaseDatabaseWrapper, number: int, wanted: returning.Wanted) -> None:
    if not _rows or wanted.rows is None:
        keys = None if wanted.rows is None else _keys(plan, wanted.rows)
        _operation("bulk_delete", plan, connection, number, keys, {})
        return
    places = [plan.fields.attnames.index(field.attname) for field in wanted.fields]
    for values in wanted.rows:
        row = _spread(plan, places, values)
        key = tuple(row[place] for place, _ in plan.pk_places)
        change = RowChange(plan.fields, row, None)
        draft = _row_draft("bulk_delete", plan, connection, plan.key_of(key if len(key) > 1 else key[0]), change, None)
        _add(draft, connection)


def _keys(plan: Plan, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the primary keys in ``rows`` of the key's columns: composite ones as tuples."""
    return [row[0] for row in rows] if len(plan.pks) == 1 else [tuple(row) for row in rows]


def _update_batch(self: Any, pk_list: Sequence[Any], values: dict[str, Any], using: str) -> Any:
    """Record what a delete does to rows that pointed at what it deleted (``SET_NULL`` and the like)."""
    plan = plans.of(self.get_meta().concrete_model)
    if _silent(plan):
        return _original_update_batch(self, pk_list, values, using)
    with in_transaction(using) as connection:
        result = _original_update_batch(self, pk_list, values, using)
        with _guarded("update", plan):
            _operation("update", plan, connection, len(pk_list), list(pk_list), {"values": _rendered(plan, values)})
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
    note: Note | None = None,
) -> None:
    """Make the one event of an operation on ``count`` rows, of which ``keys`` are the first; ``None`` if unknown."""
    if not count:
        return
    draft = Draft(context.now(), context.current(), context.running.get(), operation, plan.label, connection.alias)
    draft.duration = 0
    args: dict[str, Any] = {"count": count, **told, "keys": None}
    if keys is not None:
        shown = keys[:MOST_KEYS]
        args["keys"] = shown if {*map(type, shown)} <= {int} else [plan.key_of(key) for key in shown]
        if count > len(shown):
            args["keys_left_out"] = count - len(shown)
    draft.args = args
    draft.note = note
    _add(draft, connection)


def _row_draft(
    operation: str, plan: Plan, connection: BaseDatabaseWrapper, key: str, change: RowChange, note: Note | None
) -> Draft:
    draft = Draft(context.now(), context.current(), context.running.get(), operation, plan.label, connection.alias)
    draft.duration = 0
    draft.key = key
    draft.change = change
    draft.note = note
    return draft


def _add(draft: Draft, connection: BaseDatabaseWrapper) -> None:
    buffer.open_for(connection).add(draft)
