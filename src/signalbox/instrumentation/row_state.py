"""The values a row had when it was last read or written, kept on the instance at next to no cost.

``Model.from_db`` is given the row's values as a list of its own: keeping a reference to it is all that loading pays.
The snapshot lives in ``instance._state``, which copies and pickles leave behind.
"""

from __future__ import annotations

import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import django
from django.db import connections, router
from django.db.models import Model
from django.db.models.base import ModelState
from django.db.models.fields.files import FieldFile
from django.db.models.query_utils import DeferredAttribute

from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata
from signalbox.pipeline import unit_of_work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from signalbox.instrumentation.model_metadata import ModelMetadata

ROW_ATTRIBUTE: Final = "_signalbox_row"
"""On ``instance._state``: the values of the concrete fields, in their order, ``UNKNOWN`` where they
were not read. A sequence that is shorter than the fields belongs to ``from_db`` and names its fields beside it."""

PRIVATE_ATTRIBUTES: Final = (ROW_ATTRIBUTE, "_signalbox_pre_save", "_signalbox_pre_delete", "_signalbox_post_save")
"""What recording keeps in ``instance._state``; none of it is pickled or copied."""


def pop_attribute(state: ModelState, name: str) -> Any:
    """Return what was kept in ``state`` under ``name``, ``None`` if nothing was, and forget it.

    Nowhere is ``state.__dict__`` asked for: that would make a dict for each instance, which Python otherwise spares.
    """
    found = getattr(state, name, None)
    if found is not None:
        delattr(state, name)
    return found


def get_known_row(metadata: ModelMetadata, state: ModelState) -> Any:
    """Return the row's known values in the order of the plan's fields; ``UNKNOWN`` if nothing was read."""
    row: Any = getattr(state, ROW_ATTRIBUTE, UNKNOWN)
    if type(row) is PartialRow:
        row = row.get_values(metadata)
        setattr(state, ROW_ATTRIBUTE, row)
    # A child that was given its parent's attributes has its state as well, and what is known there is another's row.
    return row if row is UNKNOWN or len(row) == metadata.field_count else UNKNOWN


def get_row_before_write(metadata: ModelMetadata, instance: Model, using: str) -> Any:
    """Return the known values of the row that a write of ``instance`` to the database ``using`` meets.

    What was read of another row is no help: an object whose key was changed, or that comes from another database. One
    that was read from a replica comes from the database that the routers say it is written to.
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
    """Return ``values`` as they can be kept: what is changed in place is copied."""
    if not metadata.mutable_positions:
        return values
    copied = list(values)
    for position in metadata.mutable_positions:
        if copied[position] is not None:
            copied[position] = _copy_value(copied[position])
    return tuple(copied) if type(values) is tuple else copied


def copy_mutable_partial(metadata: ModelMetadata, names: Sequence[str], values: Sequence[Any]) -> Sequence[Any]:
    """Return the same of a row of which these attributes were read; the values are in the order of the fields."""
    positions = _get_mutable_positions(metadata, tuple(names))
    if not positions:
        return values
    copied = list(values)
    for position in positions:
        copied[position] = _copy_value(copied[position])
    return copied


@lru_cache(1024)
def _get_mutable_positions(metadata: ModelMetadata, names: tuple[str, ...]) -> list[int]:
    """Return where among the values of ``names`` those stand that are changed in place."""
    read = [place for place, attname in enumerate(metadata.fields.attnames) if attname in names]
    return [position for position, place in enumerate(read) if place in metadata.mutable_positions]


def merge_written(known: Any, written: Sequence[Any]) -> Sequence[Any]:
    """Return the row as it is known after ``written`` was written over ``known``."""
    if known is UNKNOWN or type(written) is tuple:
        return written
    return [was if value is UNKNOWN else value for was, value in zip(known, written, strict=True)]


def _copy_value(value: Any) -> Any:
    """Return ``value`` as it is now: containers are copied, a file is its name, anything else is taken to stay."""
    if type(value) is dict and not value:  # in this order: a value of any other class may refuse to be true or false
        return {}
    if isinstance(value, dict):
        return {key: _copy_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy_value(item) for item in value] if value else []
    if isinstance(value, FieldFile):
        return str(value)
    return value.copy() if type(value) in (set, bytearray) else value


class PartialRow:
    """The values of a row that was read in part."""

    __slots__ = ("names", "raw_values")

    def __init__(self, names: Sequence[str], raw_values: Sequence[Any]) -> None:
        self.names = frozenset(names)
        self.raw_values = raw_values

    def get_values(self, metadata: ModelMetadata) -> list[Any]:
        """Return them in the order of the plan's fields."""
        read = iter(self.raw_values)
        return [next(read) if attname in self.names else UNKNOWN for attname in metadata.fields.attnames]


class StateSavepoint:
    """Takes a snapshot back to what it was before a write, or a reading of one, that was then rolled back."""

    __slots__ = ("row", "state")

    def __init__(self, state: ModelState, row: Any) -> None:
        self.state = weakref.ref(state)
        self.row = row

    def restore(self) -> None:
        """Let the instance know the old row again."""
        state = self.state()
        if state is not None:
            setattr(state, ROW_ATTRIBUTE, self.row)

    def forget(self) -> None:
        """Mark the instance's row as unknown."""
        state = self.state()
        if state is not None:
            setattr(state, ROW_ATTRIBUTE, UNKNOWN)

    def is_alive(self) -> bool:
        """Return True if the instance still exists."""
        return self.state() is not None


class BulkStateSavepoint:
    """The same of the many instances that one bulk operation wrote."""

    __slots__ = ("rows", "states")

    def __init__(self, instances: Sequence[Model]) -> None:
        states = [instance._state for instance in instances]
        self.states = list(map(weakref.ref, states))
        self.rows = [getattr(state, ROW_ATTRIBUTE, UNKNOWN) for state in states]

    def restore(self) -> None:
        """Let each instance know its old row again."""
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
    """Note that ``instances`` are in the database as they are, and return how to forget it."""
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
    """Know nothing any more of the rows of ``instances``, and return how to know it again."""
    savepoint = BulkStateSavepoint(instances)
    for instance in instances:
        pop_attribute(instance._state, ROW_ATTRIBUTE)
    return savepoint


# ------------------------------------------------------------------ where Django reads rows

_originals: dict[tuple[type, str], Any] = {}


def install() -> None:
    """Note the values of every row that is read."""
    _patch(Model, "from_db", classmethod(_wrap_from_db(Model.__dict__["from_db"].__func__)))
    _patch(Model, "refresh_from_db", _wrap_refresh_from_db(Model.__dict__["refresh_from_db"]))
    if "fetch_many" in DeferredAttribute.__dict__:  # Django 6.1
        _patch(DeferredAttribute, "fetch_many", _wrap_fetch_many(DeferredAttribute.__dict__["fetch_many"]))
    _patch(ModelState, "__getstate__", _wrap_getstate(ModelState.__dict__.get("__getstate__")))


def uninstall() -> None:
    """Leave the classes as Django made them."""
    for (owner, name), original in _originals.items():
        if original is None:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
    _originals.clear()


def _patch(owner: type, name: str, replacement: Any) -> None:
    _originals[owner, name] = owner.__dict__.get(name)
    setattr(owner, name, replacement)


_EMPTY_DICT: Final[dict[str, Any]] = {}
"""What is kept of an empty dict: one for all, as nobody changes what is kept."""


FROM_DB_IS_SUPPORTED: Final = django.VERSION < (6, 2)
"""Whether Django's own ``from_db`` is known to do what stands below; a test compares them."""


def _wrap_from_db(original: Any) -> Any:
    known = model_metadata.get_cached_metadata

    def from_db(cls: type[Model], db: str | None, field_names: Any, values: Any, *, fetch_mode: Any = None) -> Model:
        metadata = known(cls)
        if metadata is None or type(values) is not list or len(values) != metadata.field_count:
            return _load_through_original(original, cls, db, field_names, values, fetch_mode)
        # What Django's own does with a whole row: its call would be half of what loading pays.
        new: Any = cls(*values)
        state = new._state
        state.adding = False
        state.db = db
        if fetch_mode is not None:
            state.fetch_mode = fetch_mode
        # ``values`` is a list of the row's own, which nobody reads afterwards: what is changed in place is copied
        # within it.
        for position in metadata.mutable_positions:
            value = values[position]
            if value is not None:
                values[position] = _EMPTY_DICT if type(value) is dict and not value else _copy_value(value)
        state._signalbox_row = values
        return new  # type: ignore[no-any-return]

    def from_db_with(
        cls: type[Model], db: str | None, field_names: Any, values: Any, *, fetch_mode: Any = None
    ) -> Model:
        return _load_through_original(original, cls, db, field_names, values, fetch_mode)

    return from_db if FROM_DB_IS_SUPPORTED and original.__module__ == Model.__module__ else from_db_with


def _load_through_original(
    original: Any, cls: type[Model], db: str | None, field_names: Any, values: Any, fetch_mode: Any
) -> Model:
    """Let ``original`` make the object of a row: one that was read in part, or the first of its model."""
    new: Model = original(cls, db, field_names, values, **({} if fetch_mode is None else {"fetch_mode": fetch_mode}))
    new._state._signalbox_row = _build_row(model_metadata.get_metadata(cls), field_names, values)  # type: ignore[attr-defined]
    return new


def _build_row(metadata: ModelMetadata, names: Any, values: Any) -> Any:
    """Return what is kept of a row that was read in part, or comes as no list of its own."""
    if len(values) != metadata.field_count:
        return PartialRow(
            names, copy_mutable_partial(metadata, names, values) if metadata.mutable_positions else values
        )
    return copy_mutable_values(metadata, values)


def _wrap_refresh_from_db(original: Any) -> Any:
    def refresh_from_db(self: Model, using: Any = None, fields: Any = None, from_queryset: Any = None) -> None:
        if fields is not None:
            fields = set(fields)
        source = {} if from_queryset is None else {"from_queryset": from_queryset}  # an override may not know it
        is_full = from_queryset is None and fields is None
        read = None if is_full else _get_refreshed_names(self, fields, from_queryset)
        savepoint = StateSavepoint(self._state, getattr(self._state, ROW_ATTRIBUTE, UNKNOWN))
        original(self, using, fields, **source)
        metadata = model_metadata.get_metadata(self.__class__)
        if not metadata.is_recorded:
            return
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
        # What was read may be a change of the open transaction, and go with it.
        if (
            self._state.db
            and (found := unit_of_work.get_unit_of_work(connections[self._state.db])) is not None
            and not found.is_empty()
        ):
            found.add_rollbackable(savepoint)

    refresh_from_db.alters_data = True  # type: ignore[attr-defined]
    return refresh_from_db


def _get_refreshed_names(instance: Model, fields: set[str] | None, queryset: Any) -> set[str]:
    """Return names of the fields that ``refresh_from_db`` reads: what the queryset defers stays as it is."""
    deferred = instance.get_deferred_fields()
    every = {name for field in instance._meta.concrete_fields for name in (field.name, field.attname)} - deferred
    names, deferring = (frozenset(), True) if queryset is None else queryset.query.deferred_loading
    if deferring:
        newly_deferred = {
            n for f in instance._meta.concrete_fields if {f.name, f.attname} & names for n in (f.name, f.attname)
        }
        return (every if fields is None else fields) - newly_deferred
    return fields or (every if deferred else set(names))


def _wrap_fetch_many(original: Any) -> Any:
    def fetch_many(self: Any, instances: Any) -> None:
        attname = self.field.attname
        missing = [instance for instance in instances if attname not in instance.__dict__]
        original(self, instances)
        for instance in missing:
            metadata = model_metadata.get_metadata(instance.__class__)
            row = get_known_row(metadata, instance._state)
            if row is not UNKNOWN and attname in instance.__dict__ and attname in metadata.fields.attnames:
                row = list(row)
                row[metadata.fields.attnames.index(attname)] = _copy_value(instance.__dict__[attname])
                setattr(instance._state, ROW_ATTRIBUTE, row)

    return fetch_many


def _wrap_getstate(original: Any) -> Any:
    def __getstate__(self: ModelState) -> dict[str, Any]:  # noqa: N807 - it becomes the class's
        state: dict[str, Any] = self.__dict__.copy() if original is None else original(self)
        for name in PRIVATE_ATTRIBUTES:
            state.pop(name, None)
        return state

    return __getstate__
