"""Operations for which Django sends nothing: bulk_create, bulk_update, update and the deletes that load no object.

Each is one event with the model, the fields, how many rows and which, written in the operation's own transaction.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from django.db import connections, transaction
from django.db.models import QuerySet
from django.db.models.sql import UpdateQuery

from signalbox import buffer, context
from signalbox.changes import RowChange
from signalbox.event import UNKNOWN, Draft
from signalbox.recording import plans, returning, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.recording.plans import Plan

logger = logging.getLogger("signalbox")

MOST_KEYS: Final = 10_000
"""Keys that one event tells; of a larger operation it tells these, and the number of all."""

inside: ContextVar[bool] = ContextVar("signalbox_bulk", default=False)
"""Whether an operation is under way that tells of its inner ones itself."""

_originals: dict[str, Any] = {
    name: QuerySet.__dict__[name] for name in ("bulk_create", "bulk_update", "update", "_raw_delete")
}
_original_update_batch: Any = UpdateQuery.update_batch
_rows = False


def install(names: frozenset[str], *, rows: bool) -> None:
    """Record the operations among ``names``; ``rows`` makes one event of each row, with its changes."""
    global _rows
    _rows = rows
    replacements = {
        "bulk_create": ("bulk_create", _bulk_create),
        "bulk_update": ("bulk_update", _bulk_update),
        "update": ("update", _update),
        "bulk_delete": ("_raw_delete", _raw_delete),
    }
    for name, (attribute, replacement) in replacements.items():
        if name in names:
            replacement.alters_data = True  # type: ignore[attr-defined]
            setattr(QuerySet, attribute, replacement)
    if "update" in names:
        UpdateQuery.update_batch = _update_batch  # type: ignore[method-assign]


def uninstall() -> None:
    """Leave the classes as Django made them."""
    for attribute, original in _originals.items():
        setattr(QuerySet, attribute, original)
    UpdateQuery.update_batch = _original_update_batch  # type: ignore[method-assign]


@contextmanager
def telling() -> Iterator[None]:
    """Keep the operations within the block from making events: their maker tells of them."""
    token = inside.set(True)
    try:
        yield
    finally:
        inside.reset(token)


@contextmanager
def in_transaction(using: str) -> Iterator[BaseDatabaseWrapper]:
    """Make sure that the operation and its event commit together."""
    connection = connections[using]
    if connection.in_atomic_block or not connection.get_autocommit():
        yield connection
        return
    with transaction.atomic(using=using, savepoint=False):
        yield connection


# ------------------------------------------------------------------ the operations


def _bulk_create(self: Any, objs: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
    plan = plans.of(self.model)
    if inside.get() or not plan.recorded:
        return _originals["bulk_create"](self, objs, *args, **kwargs)
    objects = list(objs)
    self._for_write = True
    with in_transaction(self.db) as connection, returning.asking("insert", self.model, plan.pks) as wanted:
        made = _originals["bulk_create"](self, objects, *args, **kwargs)
        with _guarded("bulk_create", plan):
            _created(plan, connection, objects, wanted, args, kwargs)
    return made


def _created(
    plan: Plan, connection: BaseDatabaseWrapper, objects: list[Any], wanted: returning.Wanted, args: Any, kwargs: Any
) -> None:
    ignoring = kwargs.get("ignore_conflicts") or (len(args) > 1 and args[1])
    memories = []
    if ignoring:
        keys = None if wanted.rows is None else _keys(plan, wanted.rows)
        count = len(objects) if keys is None else len(keys)
    else:
        keys = [one.pk for one in objects]
        count = len(objects)
        if any(key is None for key in keys):  # the database tells no keys of many rows (MySQL)
            keys = None
        else:
            for one in objects:
                memories.append(snapshots.remember(plan, one))
    if _rows and not ignoring:
        for one, memory in zip(objects, memories or [None] * len(objects), strict=True):
            change = RowChange(plan.fields, None, snapshots.keep(plan, plan.values(one)))
            _add(_row_draft("bulk_create", plan, connection, plan.key(one), change, memory), connection)
        return
    told: dict[str, Any] = {"count": count}
    if keys is None:
        told["keys"] = None
    if ignoring:
        told["ignore_conflicts"] = True
    if kwargs.get("update_conflicts"):
        told["update_conflicts"] = True
    _operation("bulk_create", plan, connection, count, keys, told, memories)


def _bulk_update(self: Any, objs: Iterable[Any], fields: Iterable[str], *args: Any, **kwargs: Any) -> Any:
    plan = plans.of(self.model)
    if inside.get() or not plan.recorded:
        return _originals["bulk_update"](self, objs, fields, *args, **kwargs)
    objects, names = list(objs), list(fields)
    self._for_write = True
    with in_transaction(self.db) as connection:
        before = [snapshots.old(plan, one._state) for one in objects]
        with telling():
            number = _originals["bulk_update"](self, objects, names, *args, **kwargs)
        with _guarded("bulk_update", plan):
            _updated(plan, connection, objects, names, before, number)
    return number


def _updated(
    plan: Plan,
    connection: BaseDatabaseWrapper,
    objects: list[Any],
    names: list[str],
    before: list[Any],
    number: int,
) -> None:
    if not number:
        return
    memories = []
    for one, known in zip(objects, before, strict=True):
        written = snapshots.keep(plan, _only(plan, plan.values(one), names))
        memory = snapshots.Memory(one._state, known)
        one._state.__dict__[snapshots.ATTRIBUTE] = snapshots.after_write(known, written)
        if _rows:
            change = RowChange(plan.fields, known, written)
            _add(_row_draft("bulk_update", plan, connection, plan.key(one), change, memory), connection)
        memories.append(memory)
    if not _rows:
        told = {"fields": names}
        _operation("bulk_update", plan, connection, number, [one.pk for one in objects], told, memories)


def _only(plan: Plan, values: Sequence[Any], names: Iterable[str]) -> list[Any]:
    """Return ``values`` with those of other fields than ``names`` unknown."""
    wanted = set(names)
    fields = plan.fields
    return [
        value if name in wanted or attname in wanted else UNKNOWN
        for name, attname, value in zip(fields.names, fields.attnames, values, strict=True)
    ]


def _update(self: Any, **kwargs: Any) -> Any:
    plan = plans.of(self.model)
    if inside.get() or not plan.recorded:
        return _originals["update"](self, **kwargs)
    self._for_write = True
    with in_transaction(self.db) as connection:
        if _rows:
            return _update_rows(self, plan, connection, kwargs)
        keys = None
        if not returning.able("update", connection) or _elsewhere(plan, kwargs):
            keys = _keys_of(self, connection)
        with returning.asking("update", plan.concrete, plan.pks) as wanted:
            number = _originals["update"](self, **kwargs)
        if wanted.rows is not None:
            keys = _keys(plan, wanted.rows)
        if number:
            with _guarded("update", plan):
                _operation("update", plan, connection, number, keys, {"values": _rendered(plan, kwargs)}, [])
        return number


def _elsewhere(plan: Plan, kwargs: dict[str, Any]) -> bool:
    """Tell whether one of the fields lies in a parent's table, which Django updates by a statement of its own."""
    meta = plan.concrete._meta
    return bool(meta.parents) and any(
        getattr(field, "model", None) is not plan.concrete
        for field in meta.get_fields()
        if field.name in kwargs or getattr(field, "attname", None) in kwargs
    )


def _keys_of(queryset: Any, connection: BaseDatabaseWrapper) -> list[Any] | None:
    """Return the keys of the rows that a statement is about to change, locked where the database can."""
    try:
        found = queryset._chain().order_by()
        if connection.features.has_select_for_update and not found.query.distinct and not found.query.is_sliced:
            found = found.select_for_update(of=()) if found.query.select_related else found.select_for_update()
        return list(found.values_list("pk", flat=True))
    except (TypeError, NotImplementedError):  # a queryset that can be updated but not listed so: keys stay untold
        return None


def _rendered(plan: Plan, values: dict[str, Any]) -> dict[str, Any]:
    """Return what ``update()`` was given: keys for objects, the text of expressions, no secrets."""
    from signalbox import encoding

    redactor = plan.fields.redactor
    shown: dict[str, Any] = {}
    for given, value in values.items():
        name = plan.concrete._meta.get_field(given).name if given != "pk" else given
        if name in plan.fields.excluded:
            continue
        if name in plan.fields.secret or redactor.hides(name, value):
            shown[name] = redactor.mark
        elif hasattr(value, "resolve_expression"):
            shown[name] = {"expression": encoding.clean(str(value))[:500]}
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
    found = self._chain().order_by()
    if connection.features.has_select_for_update and not found.query.distinct:
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
    if inside.get() or not plan.recorded:
        return _originals["_raw_delete"](self, using)
    with in_transaction(using) as connection:
        fields = list(plan.concrete._meta.concrete_fields) if _rows else plan.pks
        keys = None
        if not returning.able("delete", connection):
            keys = _keys_of(self.using(using), connection)
        with returning.asking("delete", plan.concrete, fields) as wanted:
            number = _originals["_raw_delete"](self, using)
        if number:
            with _guarded("bulk_delete", plan):
                _deleted(plan, connection, number, keys, wanted)
    return number


def _deleted(
    plan: Plan, connection: BaseDatabaseWrapper, number: int, keys: list[Any] | None, wanted: returning.Wanted
) -> None:
    if wanted.rows is None:
        _operation("bulk_delete", plan, connection, number, keys, {}, [])
    elif _rows:
        places = [plan.fields.names.index(field.name) for field in plan.pks]
        for row in wanted.rows:
            key = _keys(plan, [[row[place] for place in places]])[0]
            change = RowChange(plan.fields, tuple(row), None)
            _add(_row_draft("bulk_delete", plan, connection, plan.key_of(key), change, None), connection)
    else:
        _operation("bulk_delete", plan, connection, number, _keys(plan, wanted.rows), {}, [])


def _keys(plan: Plan, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the primary keys in ``rows`` of the key's columns: composite ones as tuples."""
    return [row[0] for row in rows] if len(plan.pks) == 1 else [tuple(row) for row in rows]


def _update_batch(self: Any, pk_list: Sequence[Any], values: dict[str, Any], using: str) -> Any:
    """Record what a delete does to rows that pointed at what it deleted (``SET_NULL`` and the like)."""
    model = self.get_meta().concrete_model
    plan = plans.of(model)
    if inside.get() or not plan.recorded:
        return _original_update_batch(self, pk_list, values, using)
    with in_transaction(using) as connection:
        result = _original_update_batch(self, pk_list, values, using)
        with _guarded("update", plan):
            told = {"values": _rendered(plan, values)}
            _operation("update", plan, connection, len(pk_list), list(pk_list), told, [])
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
    memories: list[Any],
) -> None:
    if not count:
        return
    draft = Draft(context.now(), context.current(), context.running.get(), operation, plan.label, connection.alias)
    draft.duration = 0
    args: dict[str, Any] = {"count": count, **told}
    if keys is not None:
        shown = keys[:MOST_KEYS]
        args["keys"] = [plan.key_of(key) for key in shown] if plan.secret_pk else shown
        if len(keys) > MOST_KEYS:
            args["keys_left_out"] = len(keys) - MOST_KEYS
    draft.args = args
    if memories:
        draft.note = snapshots.Memories(memories)
    _add(draft, connection)


def _row_draft(
    operation: str, plan: Plan, connection: BaseDatabaseWrapper, key: str, change: RowChange, memory: Any
) -> Draft:
    draft = Draft(context.now(), context.current(), context.running.get(), operation, plan.label, connection.alias)
    draft.duration = 0
    draft.key = key
    draft.change = change
    draft.note = memory
    return draft


def _add(draft: Draft, connection: BaseDatabaseWrapper) -> None:
    open_buffer = buffer.of(connection)
    if open_buffer is not None:
        open_buffer.add(draft)
