"""The values that a row had when it was last read or written, kept on the instance.

``Model.from_db`` keeps the values that it is given, with copies of those that can be changed in place. They are in
``instance._state``, which copies and pickles do not contain.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from django.db import connections, router
from django.db.models import Model
from django.db.models.base import ModelState
from django.db.models.fields.files import FieldFile
from django.db.models.query_utils import DeferredAttribute

from signalbox.core import interrupts
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata, patching
from signalbox.pipeline import unit_of_work
from signalbox.serialization.diff import is_expression

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from signalbox.instrumentation.model_metadata import ModelMetadata

ROW_ATTRIBUTE: Final = "_signalbox_row"
"""On ``instance._state``: the values of the concrete fields, in their order, ``UNKNOWN`` where they were not read.

A row that ``from_db`` read in part is a ``PartialRow``."""

PENDING_PRE_SAVE: Final = "_signalbox_pre_save"
"""On ``instance._state``: a ``pre_save`` before its write, as its event, or as its time if it had no receivers."""
PENDING_PRE_DELETE: Final = "_signalbox_pre_delete"
"""On ``instance._state``: the time of a ``pre_delete`` without receivers, in nanoseconds since the epoch."""
PENDING_POST_SAVE: Final = "_signalbox_post_save"
"""On ``instance._state``: the ``post_save`` event before its send."""

PRIVATE_ATTRIBUTES: Final = (ROW_ATTRIBUTE, PENDING_PRE_SAVE, PENDING_PRE_DELETE, PENDING_POST_SAVE)
"""Attributes on ``instance._state``. They are neither pickled nor copied."""


def pop_attribute(state: ModelState, name: str) -> Any:
    """Delete the attribute ``name`` of ``state`` and return its value, None if it had none.

    ``state.__dict__`` is not used: reading it would create a dict for each instance.
    """
    found = getattr(state, name, None)
    if found is not None:
        delattr(state, name)
    return found


def get_known_row(metadata: ModelMetadata, state: ModelState) -> Any:
    """Return the known values in the order of the concrete fields; ``UNKNOWN`` if nothing was read."""
    if not metadata.keeps_old_values:
        return UNKNOWN
    row: Any = getattr(state, ROW_ATTRIBUTE, UNKNOWN)
    if type(row) is PartialRow:
        row = row.get_values(metadata)
        setattr(state, ROW_ATTRIBUTE, row)
    # A child that got a copy of its parent's attributes has the parent's state, with a shorter row.
    return row if row is UNKNOWN or len(row) == metadata.field_count else UNKNOWN


def get_row_before_write(metadata: ModelMetadata, instance: Model, using: str) -> Any:
    """Return the known values of the row that a write of ``instance`` to the database ``using`` changes.

    Returns ``UNKNOWN`` if another row was read: the key was changed, or the object is from another database. An object
    from a replica counts as one from the database that the routers name for writing.
    """
    state = instance._state
    row = get_known_row(metadata, state)
    if row is UNKNOWN or (state.db != using and router.db_for_write(type(instance), instance=instance) != using):
        return UNKNOWN
    values = instance.__dict__
    for position, attname in metadata.pk_positions:
        mine = values.get(attname)
        if row[position] is not mine and row[position] != mine:
            return UNKNOWN
    return row


def copy_mutable_values(metadata: ModelMetadata, values: Sequence[Any]) -> Sequence[Any]:
    """Return ``values`` with copies of those that can be changed in place. ``values`` itself is not changed."""
    if not metadata.mutable_positions:
        return values
    copied = list(values)
    for position in metadata.mutable_positions:
        value = copied[position]
        if value is not None:
            copied[position] = copy_value(value)
    return tuple(copied) if type(values) is tuple else copied


def copy_mutable_partial(metadata: ModelMetadata, names: Sequence[str], values: Sequence[Any]) -> Sequence[Any]:
    """Return the values of the attributes ``names``, with copies of those that can be changed in place.

    ``values`` are in the order of the concrete fields.
    """
    if not metadata.mutable_positions:
        return tuple(values)
    copied = list(values)
    for position in _get_mutable_positions(metadata, names):
        copied[position] = copy_value(copied[position])
    return copied


def _get_mutable_positions(metadata: ModelMetadata, names: Sequence[str]) -> Sequence[int]:
    """Return the positions of mutable values among the values of ``names``."""
    key = tuple(names)
    positions = metadata.mutable_positions_by_names.get(key)
    if positions is None:
        read = [place for place, attname in enumerate(metadata.fields.attnames) if attname in key]
        positions = [position for position, place in enumerate(read) if place in metadata.mutable_positions]
        if len(metadata.mutable_positions_by_names) < MAX_CACHED_NAMES:
            metadata.mutable_positions_by_names[key] = positions
    return positions


MAX_CACHED_NAMES: Final = 100
"""Combinations of loaded fields that are cached for each model."""


def merge_written(known: Any, written: Sequence[Any]) -> Sequence[Any]:
    """Return the known values after ``written`` has replaced ``known``. ``UNKNOWN`` replaces nothing."""
    if known is UNKNOWN or type(written) is tuple:
        return written
    return [was if value is UNKNOWN else value for was, value in zip(known, written, strict=True)]


_IMMUTABLE_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes, complex})


def copy_value(value: Any) -> Any:
    """Return an independent copy of ``value``: of a container with its contents, of a file its name.

    Values of other classes are not copied. Returns ``UNKNOWN`` if the value's own code raises an exception.
    """
    kind = type(value)
    if kind in _IMMUTABLE_TYPES:
        return value
    if kind is dict and _IMMUTABLE_TYPES.issuperset(map(type, value.values())):
        return value.copy()
    if kind is list and _IMMUTABLE_TYPES.issuperset(map(type, value)):
        return value.copy()
    try:
        return _copy_nested(value)
    except Exception as error:  # noqa: BLE001 - the value's own class
        interrupts.raise_if_interrupt(error)
        return UNKNOWN


def _copy_nested(root: Any) -> Any:
    """Return a copy of ``root`` with copies of the dicts and lists in it, which may be shared or recursive."""
    copies: dict[int, Any] = {}
    pending: list[Any] = []

    def copy(value: Any) -> Any:
        if type(value) in _IMMUTABLE_TYPES:
            return value
        if isinstance(value, dict | list):
            if id(value) not in copies:
                copies[id(value)] = {} if isinstance(value, dict) else []
                pending.append(value)
            return copies[id(value)]
        if isinstance(value, FieldFile):
            return str(value)
        return value.copy() if type(value) in (set, bytearray) else value

    copied = copy(root)
    while pending:
        source = pending.pop()
        target = copies[id(source)]
        if isinstance(source, dict):
            for key, item in source.items():
                target[key] = copy(item)
        else:
            target.extend(map(copy, source))
    return copied


class PartialRow:
    """The values of a row that was read in part, with the names of their attributes."""

    __slots__ = ("names", "raw_values")

    def __init__(self, names: Sequence[str], raw_values: Sequence[Any]) -> None:
        self.names = tuple(names)
        self.raw_values = raw_values

    def get_values(self, metadata: ModelMetadata) -> list[Any]:
        """Return the values in the order of the concrete fields; ``UNKNOWN`` for those that were not read."""
        read = iter(self.raw_values)
        return [next(read) if attname in self.names else UNKNOWN for attname in metadata.fields.attnames]


class StateSavepoint:
    """Restores the known row of an instance if its write, or the write that it has read, is rolled back."""

    __slots__ = ("row", "state")

    def __init__(self, state: ModelState, row: Any) -> None:
        self.state = weakref.ref(state)
        self.row = row

    def restore(self) -> None:
        """Restore the known row of the instance."""
        state = self.state()
        if state is not None:
            setattr(state, ROW_ATTRIBUTE, self.row)

    def forget(self) -> None:
        """Mark the row of the instance as unknown."""
        state = self.state()
        if state is not None:
            setattr(state, ROW_ATTRIBUTE, UNKNOWN)

    def is_alive(self) -> bool:
        """Return True if the instance still exists."""
        return self.state() is not None


class BulkStateSavepoint:
    """Like ``StateSavepoint``, for all instances of a bulk operation."""

    __slots__ = ("rows", "states")

    def __init__(self, instances: Sequence[Model]) -> None:
        states = [instance._state for instance in instances]
        self.states = list(map(weakref.ref, states))
        self.rows = [getattr(state, ROW_ATTRIBUTE, UNKNOWN) for state in states]

    def restore(self) -> None:
        """Restore the known row of each instance."""
        for found, row in zip(self.states, self.rows, strict=True):
            state = found()
            if state is not None:
                setattr(state, ROW_ATTRIBUTE, row)

    def forget(self) -> None:
        """Mark the row of each instance as unknown."""
        for found in self.states:
            state = found()
            if state is not None:
                setattr(state, ROW_ATTRIBUTE, UNKNOWN)

    def is_alive(self) -> bool:
        """Return True if any of the instances still exists."""
        return any(state() is not None for state in self.states)


def set_committed_state(metadata: ModelMetadata, instances: Sequence[Model]) -> BulkStateSavepoint:
    """Keep the values of ``instances`` as their known rows. Returns a savepoint that restores the rows from before."""
    savepoint = BulkStateSavepoint(instances)
    for instance in instances:
        values = metadata.get_values(instance)
        setattr(
            instance._state,
            ROW_ATTRIBUTE,
            copy_mutable_values(metadata, values) if metadata.mutable_positions else values,
        )
    return savepoint


def expire(instances: Sequence[Model]) -> BulkStateSavepoint:
    """Mark the rows of ``instances`` as unknown. Returns a savepoint that restores them."""
    savepoint = BulkStateSavepoint(instances)
    for instance in instances:
        pop_attribute(instance._state, ROW_ATTRIBUTE)
    return savepoint


def restore_attributes(metadata: ModelMetadata, instance: Model, original_state: Mapping[str, Any]) -> None:
    """Remove values of the database from ``instance`` after the transaction of its write has failed.

    In autocommit the statement itself fails if a deferred constraint does not hold, and the instance gets no values.
    With a transaction, COMMIT fails after the statement has returned them.
    """
    state = instance.__dict__
    for attname in metadata.fields.attnames:
        value = original_state.get(attname, UNKNOWN)
        if attname in metadata.db_returning_attnames or is_expression(value):
            if value is UNKNOWN:
                state.pop(attname, None)
            else:
                state[attname] = value


@contextmanager
def restoring_inserted(metadata: ModelMetadata, objects: Sequence[Any]) -> Iterator[None]:
    """Restore what an insert sets on ``objects`` if the block raises an exception, as its transaction has failed.

    An insert sets values of the database, and the state of a saved row.
    """
    originals = [
        (
            one,
            {name: one.__dict__[name] for name in metadata.db_returning_attnames if name in one.__dict__},
            one._state.adding,
            one._state.db,
        )
        for one in objects
        if isinstance(one, Model)
    ]
    try:
        yield
    except BaseException:
        for one, values, adding, database in originals:
            restore_attributes(metadata, one, values)
            one._state.adding, one._state.db = adding, database
        raise


# ------------------------------------------------------------------ where Django reads rows


_original_refresh_from_db: Any
_original_fetch_many: Any
_original_getstate: Any


def install() -> None:
    """Keep the values of every row that is read."""
    global _original_refresh_from_db, _original_fetch_many, _original_getstate
    _share_attribute_names()
    patching.install_built(Model, "from_db", _build_from_db)
    _original_refresh_from_db = patching.install(Model, "refresh_from_db", _refresh_from_db)
    if hasattr(DeferredAttribute, "fetch_many"):  # Django 6.1
        _original_fetch_many = patching.install(DeferredAttribute, "fetch_many", _fetch_many)
    _original_getstate = patching.install(ModelState, "__getstate__", _getstate)


def _share_attribute_names() -> None:
    """Set the attributes on one state early.

    Python shares the names of attributes between instances if the first instances of a class have them. Otherwise each
    state needs a dict of its own, of 180 bytes.
    """
    state = ModelState()
    for name in PRIVATE_ATTRIBUTES:
        setattr(state, name, None)


def uninstall() -> None:
    """Restore the classes."""
    patching.uninstall(Model, "from_db")
    patching.uninstall(Model, "refresh_from_db")
    patching.uninstall(DeferredAttribute, "fetch_many")
    patching.uninstall(ModelState, "__getstate__")


def _build_from_db(layer: patching.Layer) -> Any:
    original = layer.original
    get_cached_metadata, get_metadata = model_metadata.get_cached_metadata, model_metadata.get_metadata

    def from_db(cls: type[Model], db: Any, field_names: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        if not layer.is_active:
            return original(cls, db, field_names, values, *args, **kwargs)
        metadata = get_cached_metadata(cls) or get_metadata(cls)
        if not metadata.keeps_old_values:
            return original(cls, db, field_names, values, *args, **kwargs)
        # Before the predecessor: __init__ and receivers of post_init may change mutable values.
        row: Any
        if len(values) != metadata.field_count:
            row = PartialRow(field_names, copy_mutable_partial(metadata, field_names, values))
        elif metadata.mutable_positions:
            row = copy_mutable_values(metadata, values)
        else:
            row = tuple(values)
        instance = original(cls, db, field_names, values, *args, **kwargs)
        instance._state._signalbox_row = row
        return instance

    return from_db


def _refresh_from_db(
    self: Model, using: Any = None, fields: Any = None, from_queryset: Any = None, *args: Any, **kwargs: Any
) -> Any:
    if fields is not None:
        fields = set(fields)
    if args or from_queryset is not None:  # an override may not know it
        args = (from_queryset, *args)
    is_full = from_queryset is None and fields is None
    read = None if is_full else _get_refreshed_names(self, fields, from_queryset)
    savepoint = StateSavepoint(self._state, getattr(self._state, ROW_ATTRIBUTE, UNKNOWN))
    result = _original_refresh_from_db(self, using, fields, *args, **kwargs)
    metadata = model_metadata.get_metadata(self.__class__)
    if not metadata.is_recorded or not metadata.keeps_old_values:
        return result
    values = metadata.get_values(self)
    if read is not None:
        known = get_row_before_write(metadata, self, str(self._state.db))
        if known is UNKNOWN:
            known = [UNKNOWN] * len(values)
        values = [
            new if name in read or attname in read else was
            for name, attname, was, new in zip(
                metadata.fields.names, metadata.fields.attnames, known, values, strict=True
            )
        ]
    setattr(self._state, ROW_ATTRIBUTE, copy_mutable_values(metadata, values))
    # The values that were read may be rolled back with the open transaction.
    if (
        self._state.db
        and (found := unit_of_work.get_unit_of_work(connections[self._state.db])) is not None
        and not found.is_empty()
    ):
        found.add_rollbackable(savepoint)
    return result


def _get_refreshed_names(instance: Model, fields: set[str] | None, queryset: Any) -> set[str]:
    """Return the names of the fields that ``refresh_from_db`` reads. Fields that the queryset defers are not read."""
    deferred = instance.get_deferred_fields()
    every = {name for field in instance._meta.concrete_fields for name in (field.name, field.attname)} - deferred
    names, deferring = (frozenset(), True) if queryset is None else queryset.query.deferred_loading
    if deferring:
        newly_deferred = {
            n for f in instance._meta.concrete_fields if {f.name, f.attname} & names for n in (f.name, f.attname)
        }
        return (every if fields is None else fields) - newly_deferred
    return fields or (every if deferred else set(names))


def _fetch_many(self: Any, instances: Any, *args: Any, **kwargs: Any) -> Any:
    attname = self.field.attname
    missing = [instance for instance in instances if attname not in instance.__dict__]
    result = _original_fetch_many(self, instances, *args, **kwargs)
    for instance in missing:
        metadata = model_metadata.get_metadata(instance.__class__)
        row = get_known_row(metadata, instance._state)
        if row is not UNKNOWN and attname in instance.__dict__ and attname in metadata.fields.attnames:
            row = list(row)
            row[metadata.fields.attnames.index(attname)] = copy_value(instance.__dict__[attname])
            setattr(instance._state, ROW_ATTRIBUTE, row)
    return result


def _getstate(self: ModelState) -> dict[str, Any]:
    state: dict[str, Any] = dict(_original_getstate(self) or {})
    for name in PRIVATE_ATTRIBUTES:
        state.pop(name, None)
    return state
