"""Records which keys a many-to-many manager adds and removes, without the SELECT of an ``m2m_changed`` receiver.

Within a call of a manager, the statements on its through table return the rows that they wrote. Django sends nothing
for ``add()`` without receivers, so its event is built here.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from functools import lru_cache, partial, update_wrapper
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.db import connections, router
from django.db.models import QuerySet
from django.db.models.fields import related_descriptors
from django.db.models.fields.related_descriptors import ManyToManyDescriptor
from django.db.models.signals import m2m_changed

from signalbox.core import interrupts, loggers
from signalbox.instrumentation import bulk, model_metadata, patching, returning_request, row_reads
from signalbox.instrumentation.autocommit import ensure_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

logger = loggers.get_logger("recording")


class M2MOperation:
    """One call of a manager that adds to or removes from a through table."""

    __slots__ = ("manager", "objects", "requested", "through")

    def __init__(self, manager: Any, objects: Sequence[Any] = ()) -> None:
        self.manager = manager
        self.objects = objects
        """The arguments of the call: objects or their keys."""
        self.through: type[Model] = manager.through
        self.requested: returning_request.ReturningRequest | None = None

    def get_changed_keys(self) -> list[Any] | None:
        """Return the related primary keys of the rows that were written, None if they are unknown."""
        requested = self.requested
        column = self.manager.target_field.target_field
        if requested is not None and requested.unknown_reason:
            related_values = self._get_given_values()
            if related_values is None:
                return None
        elif requested is None or requested.rows is None:  # no statement was needed
            return []
        else:
            own_value = self.manager.related_val[0]
            # A symmetrical relation removes both of its rows in one statement: the other side of each is recorded.
            related_values = list(dict.fromkeys(there if here == own_value else here for here, there in requested.rows))
        return related_values if column.primary_key else self._get_keys_for(related_values, column)

    def _get_given_values(self) -> list[Any] | None:
        """Return the related values that ``remove()`` deleted, if it deleted one row for each of its arguments.

        Returns None otherwise. An automatic through table has each pair of objects once.
        """
        requested, manager = self.requested, self.manager
        if requested is None or requested.kind != "delete" or not self.through._meta.auto_created:
            return None
        field, model = manager.target_field, manager.model
        given = {
            field.get_foreign_related_value(one)[0] if isinstance(one, model) else field.target_field.to_python(one)
            for one in self.objects
        }
        is_complete = requested.is_counted and 0 < requested.row_count == len(given)
        return list(given) if is_complete and not getattr(manager, "symmetrical", False) else None

    def get_unknown_arguments(self) -> dict[str, Any]:
        """Return the arguments of an event with unknown keys: the number of rows, None if unknown, and the reason."""
        requested = self.requested
        if requested is None:
            return {}
        reason = requested.unknown_reason or returning_request.NOT_READABLE
        return {"count": requested.row_count if requested.is_counted else None, "keys_unknown": reason}

    def _get_keys_for(self, values: list[Any], column: Any) -> list[Any] | None:
        """Return the primary keys of the objects that have ``values`` in ``column``, the target of the rows.

        Returns None if they can't be read.
        """
        model = self.manager.model
        keys = {getattr(one, column.attname): one.pk for one in self.objects if isinstance(one, model)}
        if unknown := [value for value in values if value not in keys]:
            using = router.db_for_write(self.through, instance=self.manager.instance)
            objects: Any = QuerySet(model).using(using).filter(**{f"{column.name}__in": unknown})
            found = row_reads.read(connections[using], partial(dict, objects.values_list(column.attname, "pk")))
            if found is None:
                return None
            keys |= found
        return [keys.get(value, value) for value in values]


current_operation: ContextVar[M2MOperation | None] = ContextVar("signalbox_m2m_operation", default=None)
"""The running call of a manager."""

PATCHED_METHODS: Final = ("_add_items", "_remove_items", "_clear_base", "clear")
"""Methods that are replaced. Before Django 6.1, ``clear`` is replaced, as there is no ``_clear_base``."""

_original_factory: Any
_replacements: weakref.WeakKeyDictionary[type, dict[str, weakref.ref[Any]]] = weakref.WeakKeyDictionary()
"""The replaced methods, by the class of the manager and the name."""
_record_add: Callable[[Any, M2MOperation, list[Any] | None, BaseDatabaseWrapper], None] | None = None


def install(record_add: Callable[[Any, M2MOperation, list[Any] | None, BaseDatabaseWrapper], None]) -> None:
    """Record changes. ``record_add()`` records an ``add()`` for which Django has sent nothing."""
    global _record_add, _original_factory
    _record_add = record_add
    _original_factory = patching.install(
        related_descriptors, "create_forward_many_to_many_manager", _create_manager_class
    )
    for manager_class in _iter_manager_classes():
        _wrap_manager(manager_class)


def uninstall() -> None:
    """Restore the managers."""
    global _record_add
    _record_add = None
    patching.uninstall(related_descriptors, "create_forward_many_to_many_manager")
    for manager_class in list(_replacements):
        _unwrap_manager(manager_class)


def _create_manager_class(*args: Any, **kwargs: Any) -> Any:
    manager_class = _original_factory(*args, **kwargs)
    _wrap_manager(manager_class)
    return manager_class


def _iter_manager_classes() -> Iterator[type]:
    """Yield the manager classes that exist. Django creates each when it is first used."""
    if not apps.models_ready:
        return
    for model in apps.get_models(include_auto_created=True, include_swapped=True):
        for descriptor in list(model.__dict__.values()):
            if isinstance(descriptor, ManyToManyDescriptor) and "related_manager_cls" in descriptor.__dict__:
                yield descriptor.__dict__["related_manager_cls"]


def _wrap_manager(manager_class: type) -> None:
    if manager_class in _replacements:  # a wrapper of another library on top stays in place
        return
    replacements = _replacements[manager_class] = {}
    clear_method = "_clear_base" if "_clear_base" in manager_class.__dict__ else "clear"
    for name, wrapper in (("_add_items", _wrap_add), ("_remove_items", _wrap_remove), (clear_method, _wrap_clear)):
        original = manager_class.__dict__.get(name)
        if original is not None and patching.is_manager_method_applicable(name, original):
            replacement: Any = update_wrapper(wrapper(original), original)
            replacements[name] = weakref.ref(replacement)
            setattr(manager_class, name, replacement)


def _unwrap_manager(manager_class: type) -> None:
    """Restore the methods. Below a wrapper of another library they stay, and only call the originals."""
    replacements = _replacements[manager_class]
    for name, reference in list(replacements.items()):
        replacement: Any = reference()
        if replacement is None or manager_class.__dict__.get(name) is replacement:
            if replacement is not None:
                setattr(manager_class, name, replacement.__wrapped__)
            del replacements[name]
    if not replacements:
        del _replacements[manager_class]


def _wrap_add(original: Any) -> Any:
    def _add_items(self: Any, source_field_name: str, target_field_name: str, *objs: Any, **kwargs: Any) -> Any:
        record_add = _record_add
        if record_add is None:  # recording has stopped, and another library keeps this wrapper
            return original(self, source_field_name, target_field_name, *objs, **kwargs)
        # The mirrored rows of a symmetrical relation belong to the event of the first call.
        if not objs or not _is_recorded(self) or source_field_name != self.source_field_name:
            with _suppress_bulk_events(self):
                return original(self, source_field_name, target_field_name, *objs, **kwargs)
        using = kwargs.get("using") or router.db_for_write(self.through, instance=self.instance)
        label = self.through._meta.label
        with (
            ensure_transaction(using, label, "m2m_changed") as connection,
            _OperationContext(self, "insert", objs) as operation,
        ):
            result = original(self, source_field_name, target_field_name, *objs, **kwargs)
            if not m2m_changed.has_listeners(self.through):
                try:
                    keys = operation.get_changed_keys()
                    if keys is None or keys:
                        record_add(self, operation, keys, connection)
                except Exception as error:
                    interrupts.raise_if_interrupt(error)
                    logger.exception("A change of %s could not be recorded.", self.through)
            return result

    return _add_items


def _wrap_remove(original: Any) -> Any:
    def removing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _record_add is None:
            return original(self, *args, **kwargs)
        if not _is_recorded(self):
            with _suppress_bulk_events(self):
                return original(self, *args, **kwargs)
        with _OperationContext(self, "delete", args[2:]):  # the names of two fields come before the objects
            return original(self, *args, **kwargs)

    return removing


def _suppress_bulk_events(manager: Any) -> Any:
    """Return a block in which statements on the manager's table have no bulk events."""
    return bulk.suppress_bulk_events(manager.through._meta.concrete_model)


_wrap_clear = _wrap_remove


def wrap_m2m_changed(inner: Any) -> Any:
    """Return a replacement of ``inner`` in which receivers' own statements on the manager's table are recorded."""

    async def asend(sender: Any, **named: Any) -> Any:
        with bulk.suppress_bulk_events(None), returning_request.suspend_returning():
            return await inner(sender, **named)

    def send(sender: Any, **named: Any) -> Any:
        with bulk.suppress_bulk_events(None), returning_request.suspend_returning():
            return inner(sender, **named)

    return asend if iscoroutinefunction(inner) else send


def _is_recorded(manager: Any) -> bool:
    if model_metadata.get_m2m_policy(manager.through) == "exclude":
        return False
    return (
        model_metadata.get_metadata(type(manager.instance)).is_recorded
        and model_metadata.get_metadata(manager.through).is_recorded
    )


class _OperationContext:
    """The block of a call of a manager. Its statements return the rows that they wrote, and have no bulk events."""

    __slots__ = ("_returning_context", "_suppression", "_token", "operation")

    def __init__(self, manager: Any, kind: Any, objects: Sequence[Any] = ()) -> None:
        self.operation = operation = M2MOperation(manager, objects)
        ends = _get_foreign_keys(operation.through, manager.source_field_name, manager.target_field_name)
        self._returning_context = returning_request.request_returning(
            kind, operation.through, ends, include_plain_inserts=True
        )
        self._suppression = _suppress_bulk_events(manager)

    def __enter__(self) -> M2MOperation:
        self._token = current_operation.set(self.operation)
        self._suppression.__enter__()
        self.operation.requested = self._returning_context.__enter__()
        return self.operation

    def __exit__(self, *_: object) -> None:
        self._returning_context.__exit__(None, None, None)
        self._suppression.__exit__(None, None, None)
        current_operation.reset(self._token)


@lru_cache(1024)
def _get_foreign_keys(through: type[Model], *names: str) -> list[Any]:
    """Return the foreign keys of a through table."""
    return [through._meta.get_field(name) for name in names]
