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

    from signalbox.instrumentation.model_metadata import Plan

ATTRIBUTE: Final = "_signalbox_row"
"""On ``instance._state``: the values of the concrete fields, in their order, ``UNKNOWN`` where they
were not read. A sequence that is shorter than the fields belongs to ``from_db`` and names its fields beside it."""

PRIVATE: Final = (ATTRIBUTE, "_signalbox_announced", "_signalbox_condemned", "_signalbox_saved")
"""What recording keeps in ``instance._state``; none of it is pickled or copied."""


def take(state: ModelState, name: str) -> Any:
    """Return what was kept in ``state`` under ``name``, ``None`` if nothing was, and forget it.

    Nowhere is ``state.__dict__`` asked for: that would make a dict for each instance, which Python otherwise spares.
    """
    found = getattr(state, name, None)
    if found is not None:
        delattr(state, name)
    return found


def old(plan: Plan, state: ModelState) -> Any:
    """Return the row's known values in the order of the plan's fields; ``UNKNOWN`` if nothing was read."""
    row: Any = getattr(state, ATTRIBUTE, UNKNOWN)
    if type(row) is Partial:
        row = row.values(plan)
        setattr(state, ATTRIBUTE, row)
    # A child that was given its parent's attributes has its state as well, and what is known there is another's row.
    return row if row is UNKNOWN or len(row) == plan.size else UNKNOWN


def before(plan: Plan, instance: Model, using: str) -> Any:
    """Return the known values of the row that a write of ``instance`` to the database ``using`` meets.

    What was read of another row is no help: an object whose key was changed, or that comes from another database. One
    that was read from a replica comes from the database that the routers say it is written to.
    """
    state = instance._state
    row = old(plan, state)
    if row is UNKNOWN or (state.db != using and router.db_for_write(type(instance), instance=instance) != using):
        return UNKNOWN
    values = instance.__dict__
    for place, attname in plan.pk_places:
        mine = values.get(attname)
        if row[place] is not mine and row[place] != mine:
            return UNKNOWN
    return row


def keep(plan: Plan, values: Sequence[Any]) -> Sequence[Any]:
    """Return ``values`` as they can be kept: what is changed in place is copied."""
    if not plan.mutable:
        return values
    kept = list(values)
    for position in plan.mutable:
        if kept[position] is not None:
            kept[position] = _frozen(kept[position])
    return tuple(kept) if type(values) is tuple else kept


def keep_part(plan: Plan, names: Sequence[str], values: Sequence[Any]) -> Sequence[Any]:
    """Return the same of a row of which these attributes were read; the values are in the order of the fields."""
    places = _mutable_places(plan, tuple(names))
    if not places:
        return values
    kept = list(values)
    for position in places:
        kept[position] = _frozen(kept[position])
    return kept


@lru_cache(1024)
def _mutable_places(plan: Plan, names: tuple[str, ...]) -> list[int]:
    """Return where among the values of ``names`` those stand that are changed in place."""
    read = [place for place, attname in enumerate(plan.fields.attnames) if attname in names]
    return [position for position, place in enumerate(read) if place in plan.mutable]


def after_write(known: Any, written: Sequence[Any]) -> Sequence[Any]:
    """Return the row as it is known after ``written`` was written over ``known``."""
    if known is UNKNOWN or type(written) is tuple:
        return written
    return [was if value is UNKNOWN else value for was, value in zip(known, written, strict=True)]


def _frozen(value: Any) -> Any:
    """Return ``value`` as it is now: containers are copied, a file is its name, anything else is taken to stay."""
    if type(value) is dict and not value:  # in this order: a value of any other class may refuse to be true or false
        return {}
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_frozen(item) for item in value] if value else []
    if isinstance(value, FieldFile):
        return str(value)
    return value.copy() if type(value) in (set, bytearray) else value


class Partial:
    """The values of a row that was read in part."""

    __slots__ = ("names", "read")

    def __init__(self, names: Sequence[str], read: Sequence[Any]) -> None:
        self.names = frozenset(names)
        self.read = read

    def values(self, plan: Plan) -> list[Any]:
        """Return them in the order of the plan's fields."""
        read = iter(self.read)
        return [next(read) if attname in self.names else UNKNOWN for attname in plan.fields.attnames]


class Memory:
    """Takes a snapshot back to what it was before a write, or a reading of one, that was then rolled back."""

    __slots__ = ("row", "state")

    def __init__(self, state: ModelState, row: Any) -> None:
        self.state = weakref.ref(state)
        self.row = row

    def take_back(self) -> None:
        """Let the instance know the old row again."""
        state = self.state()
        if state is not None:
            setattr(state, ATTRIBUTE, self.row)

    def alive(self) -> bool:
        """Tell whether the instance still exists."""
        return self.state() is not None


class Memories:
    """The same of the many instances that one bulk operation wrote."""

    __slots__ = ("rows", "states")

    def __init__(self, instances: Sequence[Model]) -> None:
        states = [instance._state for instance in instances]
        self.states = list(map(weakref.ref, states))
        self.rows = [getattr(state, ATTRIBUTE, UNKNOWN) for state in states]

    def take_back(self) -> None:
        """Let each instance know its old row again."""
        for found, row in zip(self.states, self.rows, strict=True):
            state = found()
            if state is not None:
                setattr(state, ATTRIBUTE, row)

    def alive(self) -> bool:
        """Tell whether any of the instances still exists."""
        return any(state() is not None for state in self.states)


def remember(plan: Plan, instances: Sequence[Model]) -> Memories:
    """Note that ``instances`` are in the database as they are, and return how to forget it."""
    memories = Memories(instances)
    for instance in instances:
        values = plan.values(instance)
        setattr(instance._state, ATTRIBUTE, keep(plan, values) if plan.mutable else values)
    return memories


def forget(instances: Sequence[Model]) -> Memories:
    """Know nothing any more of the rows of ``instances``, and return how to know it again."""
    memories = Memories(instances)
    for instance in instances:
        take(instance._state, ATTRIBUTE)
    return memories


# ------------------------------------------------------------------ where Django reads rows

_originals: dict[tuple[type, str], Any] = {}


def install() -> None:
    """Note the values of every row that is read."""
    _replace(Model, "from_db", classmethod(_from_db(Model.__dict__["from_db"].__func__)))
    _replace(Model, "refresh_from_db", _refresh_from_db(Model.__dict__["refresh_from_db"]))
    if "fetch_many" in DeferredAttribute.__dict__:  # Django 6.1
        _replace(DeferredAttribute, "fetch_many", _fetch_many(DeferredAttribute.__dict__["fetch_many"]))
    _replace(ModelState, "__getstate__", _getstate(ModelState.__dict__.get("__getstate__")))


def uninstall() -> None:
    """Leave the classes as Django made them."""
    for (owner, name), original in _originals.items():
        if original is None:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
    _originals.clear()


def _replace(owner: type, name: str, replacement: Any) -> None:
    _originals[owner, name] = owner.__dict__.get(name)
    setattr(owner, name, replacement)


_NO_ENTRIES: Final[dict[str, Any]] = {}
"""What is kept of an empty dict: one for all, as nobody changes what is kept."""


UNDERSTOOD: Final = django.VERSION < (6, 2)
"""Whether Django's own ``from_db`` is known to do what stands below; a test compares them."""


def _from_db(original: Any) -> Any:
    known = model_metadata.known

    def from_db(cls: type[Model], db: str | None, field_names: Any, values: Any, *, fetch_mode: Any = None) -> Model:
        plan = known(cls)
        if plan is None or type(values) is not list or len(values) != plan.size:
            return _read_otherwise(original, cls, db, field_names, values, fetch_mode)
        # What Django's own does with a whole row: its call would be half of what loading pays.
        new: Any = cls(*values)
        state = new._state
        state.adding = False
        state.db = db
        if fetch_mode is not None:
            state.fetch_mode = fetch_mode
        # ``values`` is a list of the row's own, which nobody reads afterwards: what is changed in place is copied
        # within it.
        for position in plan.mutable:
            value = values[position]
            if value is not None:
                values[position] = _NO_ENTRIES if type(value) is dict and not value else _frozen(value)
        state._signalbox_row = values
        return new  # type: ignore[no-any-return]

    def from_db_with(
        cls: type[Model], db: str | None, field_names: Any, values: Any, *, fetch_mode: Any = None
    ) -> Model:
        return _read_otherwise(original, cls, db, field_names, values, fetch_mode)

    return from_db if UNDERSTOOD and original.__module__ == Model.__module__ else from_db_with


def _read_otherwise(
    original: Any, cls: type[Model], db: str | None, field_names: Any, values: Any, fetch_mode: Any
) -> Model:
    """Let ``original`` make the object of a row: one that was read in part, or the first of its model."""
    new: Model = original(cls, db, field_names, values, **({} if fetch_mode is None else {"fetch_mode": fetch_mode}))
    new._state._signalbox_row = _read_row(model_metadata.of(cls), field_names, values)  # type: ignore[attr-defined]
    return new


def _read_row(plan: Plan, names: Any, values: Any) -> Any:
    """Return what is kept of a row that was read in part, or comes as no list of its own."""
    if len(values) != plan.size:
        return Partial(names, keep_part(plan, names, values) if plan.mutable else values)
    return keep(plan, values)


def _refresh_from_db(original: Any) -> Any:
    def refresh_from_db(self: Model, using: Any = None, fields: Any = None, from_queryset: Any = None) -> None:
        if fields is not None:
            fields = set(fields)
        source = {} if from_queryset is None else {"from_queryset": from_queryset}  # an override may not know it
        whole = from_queryset is None and fields is None
        read = None if whole else _read(self, fields, from_queryset)
        memory = Memory(self._state, getattr(self._state, ATTRIBUTE, UNKNOWN))
        original(self, using, fields, **source)
        plan = model_metadata.of(self.__class__)
        if not plan.recorded:
            return
        values = plan.values(self)
        if read is not None:
            known = before(plan, self, str(self._state.db))
            if known is UNKNOWN:
                known = [UNKNOWN] * len(values)
            values = [
                new if name in read or attname in read else was
                for name, attname, was, new in zip(plan.fields.names, plan.fields.attnames, known, values, strict=True)
            ]
        setattr(self._state, ATTRIBUTE, keep(plan, values))
        # What was read may be a change of the open transaction, and go with it.
        if (
            self._state.db
            and (found := unit_of_work.get_unit_of_work(connections[self._state.db])) is not None
            and not found.is_empty()
        ):
            found.add_rollbackable(memory)

    refresh_from_db.alters_data = True  # type: ignore[attr-defined]
    return refresh_from_db


def _read(instance: Model, fields: set[str] | None, queryset: Any) -> set[str]:
    """Return names of the fields that ``refresh_from_db`` reads: what the queryset defers stays as it is."""
    deferred = instance.get_deferred_fields()
    every = {name for field in instance._meta.concrete_fields for name in (field.name, field.attname)} - deferred
    names, deferring = (frozenset(), True) if queryset is None else queryset.query.deferred_loading
    if deferring:
        put_off = {
            n for f in instance._meta.concrete_fields if {f.name, f.attname} & names for n in (f.name, f.attname)
        }
        return (every if fields is None else fields) - put_off
    return fields or (every if deferred else set(names))


def _fetch_many(original: Any) -> Any:
    def fetch_many(self: Any, instances: Any) -> None:
        attname = self.field.attname
        lacking = [instance for instance in instances if attname not in instance.__dict__]
        original(self, instances)
        for instance in lacking:
            plan = model_metadata.of(instance.__class__)
            row = old(plan, instance._state)
            if row is not UNKNOWN and attname in instance.__dict__ and attname in plan.fields.attnames:
                row = list(row)
                row[plan.fields.attnames.index(attname)] = _frozen(instance.__dict__[attname])
                setattr(instance._state, ATTRIBUTE, row)

    return fetch_many


def _getstate(original: Any) -> Any:
    def __getstate__(self: ModelState) -> dict[str, Any]:  # noqa: N807 - it becomes the class's
        state: dict[str, Any] = self.__dict__.copy() if original is None else original(self)
        for name in PRIVATE:
            state.pop(name, None)
        return state

    return __getstate__
