"""Many-to-many changes: which keys were added and removed, without the SELECT that an ``m2m_changed`` receiver costs.

While a manager works, the statements on its through table say which rows they wrote; where nobody listens, and Django
sends nothing for ``add()``, the event is made here.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from functools import lru_cache, update_wrapper
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.db import router
from django.db.models import QuerySet
from django.db.models.fields import related_descriptors
from django.db.models.fields.related_descriptors import ManyToManyDescriptor
from django.db.models.signals import m2m_changed

from signalbox.instrumentation import bulk, model_metadata, returning
from signalbox.instrumentation.autocommit import connection_of, in_transaction
from signalbox.pipeline import unit_of_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

logger = logging.getLogger("signalbox")


class Work:
    """One call of a manager that adds to or removes from a through table."""

    __slots__ = ("manager", "objects", "through", "wanted")

    def __init__(self, manager: Any, objects: Sequence[Any] = ()) -> None:
        self.manager = manager
        self.objects = objects
        """What the call was given."""
        self.through: type[Model] = manager.through
        self.wanted: returning.Wanted | None = None

    def keys(self) -> list[Any]:
        """Return the primary keys on the other side of the rows that were written."""
        if self.wanted is None or self.wanted.rows is None:  # there was nothing to write
            return []
        mine = self.manager.related_val[0]
        # A symmetrical relation removes both of its rows in one statement: the other side of each is what is told.
        found = list(dict.fromkeys(there if here == mine else here for here, there in self.wanted.rows))
        column = self.manager.target_field.target_field
        return found if column.primary_key else self._keys_of(found, column)

    def _keys_of(self, values: list[Any], column: Any) -> list[Any]:
        """Return the primary keys of the objects that hold ``values`` in ``column``, which the rows point at."""
        model = self.manager.model
        keys = {getattr(one, column.attname): one.pk for one in self.objects if isinstance(one, model)}
        if unknown := [value for value in values if value not in keys]:
            using = router.db_for_write(self.through, instance=self.manager.instance)
            objects: Any = QuerySet(model).using(using).filter(**{f"{column.name}__in": unknown})
            with unit_of_work.without_query_logging(connection_of(using)):
                keys |= dict(objects.values_list(column.attname, "pk"))
        return [keys.get(value, value) for value in values]


current: ContextVar[Work | None] = ContextVar("signalbox_m2m", default=None)
"""The call that is under way."""

METHODS: Final = ("_add_items", "_remove_items", "_clear_base", "clear")
"""``_clear_base`` came with Django 6.1; before, ``clear`` does the work itself."""

_original_factory: Any = related_descriptors.create_forward_many_to_many_manager
_record: Callable[[Any, list[Any], BaseDatabaseWrapper], None] | None = None


def install(record: Callable[[Any, list[Any], BaseDatabaseWrapper], None]) -> None:
    """Record changes; ``record(manager, keys, connection)`` makes the event of an ``add()`` that sent nothing."""
    global _record
    _record = record
    related_descriptors.create_forward_many_to_many_manager = _factory
    for made in _made():
        _wrap(made)


def uninstall() -> None:
    """Leave the managers as Django made them."""
    global _record
    _record = None
    related_descriptors.create_forward_many_to_many_manager = _original_factory
    for made in _made():
        for name in METHODS:
            original = getattr(made.__dict__.get(name), "signalbox_original", None)
            if original is not None:
                setattr(made, name, original)


def _factory(*args: Any, **kwargs: Any) -> Any:
    made = _original_factory(*args, **kwargs)
    _wrap(made)
    return made


def _made() -> Iterator[type]:
    """Return the manager classes that have been made so far; Django makes each when it is first asked for."""
    if not apps.models_ready:
        return
    for model in apps.get_models(include_auto_created=True, include_swapped=True):
        for descriptor in list(model.__dict__.values()):
            if isinstance(descriptor, ManyToManyDescriptor) and "related_manager_cls" in descriptor.__dict__:
                yield descriptor.__dict__["related_manager_cls"]


def _wrap(made: type) -> None:
    clearing = "_clear_base" if "_clear_base" in made.__dict__ else "clear"
    for name, wrapper in (("_add_items", _adding), ("_remove_items", _removing), (clearing, _clearing)):
        original = made.__dict__.get(name)
        if original is not None and not hasattr(original, "signalbox_original"):
            replacement: Any = update_wrapper(wrapper(original), original)
            replacement.signalbox_original = original
            setattr(made, name, replacement)


def _adding(original: Any) -> Any:
    def _add_items(self: Any, source_field_name: str, target_field_name: str, *objs: Any, **kwargs: Any) -> Any:
        # A symmetrical relation's mirrored rows are told with the first.
        if not objs or not _recorded(self) or source_field_name != self.source_field_name:
            with _silence(self):
                return original(self, source_field_name, target_field_name, *objs, **kwargs)
        using = kwargs.get("using") or router.db_for_write(self.through, instance=self.instance)
        with in_transaction(using) as connection, _Working(self, "insert", objs) as work:
            result = original(self, source_field_name, target_field_name, *objs, **kwargs)
            if _record is not None and not m2m_changed.has_listeners(self.through):
                try:
                    if keys := work.keys():
                        _record(self, keys, connection)
                except Exception:
                    logger.exception("A change of %s could not be recorded.", self.through)
            return result

    return _add_items


def _removing(original: Any) -> Any:
    def removing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _recorded(self):
            with _silence(self):
                return original(self, *args, **kwargs)
        with _Working(self, "delete"):
            return original(self, *args, **kwargs)

    return removing


def _silence(manager: Any) -> Any:
    """Return a block in which the rows of the manager's table make no events of their own."""
    return bulk.telling(manager.through._meta.concrete_model)


_clearing = _removing


def around_receivers(inner: Any) -> Any:
    """Let what receivers of ``m2m_changed`` do on the manager's table be told as everywhere: it is none of its work."""

    async def asend(sender: Any, **named: Any) -> Any:
        with bulk.telling(None), returning.asking_nothing():
            return await inner(sender, **named)

    def send(sender: Any, **named: Any) -> Any:
        with bulk.telling(None), returning.asking_nothing():
            return inner(sender, **named)

    return asend if iscoroutinefunction(inner) else send


def _recorded(manager: Any) -> bool:
    if model_metadata.said_of_relation(manager.through) == "exclude":
        return False
    return model_metadata.of(type(manager.instance)).recorded and model_metadata.of(manager.through).recorded


class _Working:
    """The block of a call, whose statements say which rows they wrote, and make no events of their own."""

    __slots__ = ("_asking", "_silence", "_token", "work")

    def __init__(self, manager: Any, kind: Any, objects: Sequence[Any] = ()) -> None:
        self.work = work = Work(manager, objects)
        ends = _ends(work.through, manager.source_field_name, manager.target_field_name)
        self._asking = returning.asking(kind, work.through, ends, every=True)
        self._silence = _silence(manager)

    def __enter__(self) -> Work:
        self._token = current.set(self.work)
        self._silence.__enter__()
        self.work.wanted = self._asking.__enter__()
        return self.work

    def __exit__(self, *_: object) -> None:
        self._asking.__exit__(None, None, None)
        self._silence.__exit__(None, None, None)
        current.reset(self._token)


@lru_cache(1024)
def _ends(through: type[Model], *names: str) -> list[Any]:
    """Return the foreign keys of a through table."""
    return [through._meta.get_field(name) for name in names]
