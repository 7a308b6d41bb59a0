"""Read the process: apps, models, signals and their connections, as frozen values.

Nothing is connected, imported or called. Modules are found in ``sys.modules``, receivers in the lists of the signals.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import Any, Final, Literal

from django.apps import AppConfig, apps
from django.conf import global_settings, settings
from django.core.handlers.base import BaseHandler
from django.db import models
from django.db.models.fields.reverse_related import ForeignObjectRel
from django.db.models.options import Options
from django.dispatch import Signal

from signalbox.core import catalog, naming
from signalbox.core.receivers import ConnectedReceiver, get_code, get_connected_receivers, get_name
from signalbox.doctor.runtime_model import App, Connection, Model, Parameter, Runtime, Sender


def read_runtime() -> Runtime:
    """Read the process as it is now."""
    from django.contrib.auth import get_user_model

    installed_apps = list(_iter_apps())
    signals, aliases = _find_signals(installed_apps)
    entries = [(signal, entry) for signal, label in signals for entry in _iter_connections(signal, label)]
    resolver = _SenderResolver(entry.connection for _, entry in entries)
    kept_by_debug_cache = (
        _find_kept_by_debug_cache([entry.connection for _, entry in entries]) if settings.DEBUG else frozenset[int]()
    )
    connections = tuple(_build_connection(entry, resolver, kept_by_debug_cache) for _, entry in entries)
    user_model = get_user_model()._meta.label if apps.is_installed("django.contrib.auth") else ""
    has_global_delete_receiver = any(
        c.signal in {"pre_delete", "post_delete"} and c.sender.kind == "any" for c in connections
    )
    return Runtime(
        debug=settings.DEBUG,
        asgi=bool(getattr(settings, "ASGI_APPLICATION", None)),
        apps=tuple(installed_apps),
        models={model._meta.label_lower: resolver.describe_model(model) for model in _get_models()},
        user_model=user_model,
        aliases=aliases,
        connections=connections,
        modules=frozenset(sys.modules),
        project_files=dict(_iter_project_files()),
        module_functions=dict(_iter_module_functions(installed_apps)),
        entry_points=frozenset(_iter_entry_points()),
        fast_deletable_models=tuple(_iter_fast_deletable_models(connections)) if has_global_delete_receiver else (),
    )


# Apps and modules


def _iter_apps() -> Iterator[App]:
    position = 0
    for position, config in enumerate(apps.get_app_configs()):
        path = real_path(config.path)
        yield App(
            label=config.label,
            module=config.name,
            path=path,
            is_project_app=not is_external(path),
            position=position,
            config_path=f"{type(config).__module__}.{type(config).__qualname__}",
        )
    package = (getattr(settings, "SETTINGS_MODULE", None) or "").partition(".")[0]
    installed = {config.name for config in apps.get_app_configs()}
    for directory in getattr(sys.modules.get(package), "__path__", ()) if package not in {"tests", "test"} else ():
        path = real_path(directory)
        if package not in installed and not is_external(path):
            yield App(label=package, module=package, path=path, is_project_app=True, position=position + 1)


@lru_cache(maxsize=4096)
def real_path(path: str) -> str:
    """Return ``path`` absolute and without symbolic links."""
    return os.path.realpath(path)


def is_external(path: str) -> bool:
    """Return True if a path is in ``site-packages``, the standard library or Signalbox itself."""
    parts = path.split(os.sep)
    own_package = real_path(os.path.dirname(os.path.dirname(__file__)))
    standard_library = real_path(sysconfig.get_path("stdlib"))
    return (
        "site-packages" in parts
        or "dist-packages" in parts
        or path.startswith((own_package, standard_library + os.sep))
    )


def _iter_app_modules(installed_apps: Iterable[App]) -> Iterator[tuple[str, ModuleType]]:
    prefixes = {app.module for app in installed_apps}
    imported: list[tuple[str, object]] = list(sys.modules.items())  # libraries add objects that are not modules
    for label, module in imported:
        parts = label.split(".")
        if isinstance(module, ModuleType) and any(".".join(parts[:i]) in prefixes for i in range(1, len(parts) + 1)):
            yield label, module


def _iter_project_files() -> Iterator[tuple[str, str]]:
    imported: list[tuple[str, object]] = list(sys.modules.items())
    for label, module in imported:
        path = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if (
            isinstance(path, str)
            and path.endswith(".py")
            and not is_external(path)
            and not is_external(real_path(path))
        ):
            yield label, real_path(path)


def _iter_module_functions(installed_apps: Iterable[App]) -> Iterator[tuple[str, tuple[str, int]]]:
    for label, module in _iter_app_modules(installed_apps):
        for attribute, value in list(vars(module).items()):
            if type(value) is FunctionType and value.__module__ == label:
                code = get_code(value)
                if code is not None:
                    yield f"{label}.{attribute}", (real_path(code.co_filename), code.co_firstlineno)


_CODE_SETTINGS: Final = frozenset(
    """AUTHENTICATION_BACKENDS CACHES DATABASE_ROUTERS LOGGING MIDDLEWARE ROOT_URLCONF STORAGES TASKS TEMPLATES
    WSGI_APPLICATION""".split()
)
"""Django's settings that name code. Others are not read, as reading a deprecated setting emits a warning."""


def _iter_entry_points() -> Iterator[str]:
    """Yield the dotted names in settings that name code and in settings that are not Django's."""
    for key in dir(settings):
        if key.isupper() and (key in _CODE_SETTINGS or not hasattr(global_settings, key)):
            yield from _iter_dotted_names(getattr(settings, key, None), 4)


def _iter_dotted_names(value: Any, depth: int) -> Iterator[str]:
    kind = type(value)  # isinstance() would evaluate a lazy object
    if issubclass(kind, str):
        if len(value) < 200 and all(part.isidentifier() for part in value.split(".")):
            yield value
    elif depth and issubclass(kind, dict):
        for inner in value.values():
            yield from _iter_dotted_names(inner, depth - 1)
    elif depth and issubclass(kind, list | tuple | set | frozenset):
        for inner in value:
            yield from _iter_dotted_names(inner, depth - 1)


# Signals and connections


def _find_signals(installed_apps: Iterable[App]) -> tuple[list[tuple[Signal, str]], dict[str, str]]:
    """Return the signals of imported modules and of classes of the apps, and the name of the signal by dotted path."""
    places: dict[int, list[tuple[str, str]]] = {}
    objects: dict[int, Signal] = {}
    builtin: dict[int, str] = {}
    for entry in catalog.BUILTIN_SIGNALS.values():
        module_name, _, attribute = entry.path.rpartition(".")
        # Modules are not imported here: django.test.signals connects twenty receivers.
        signal = getattr(sys.modules.get(module_name), attribute, None)
        if signal is not None:
            objects[id(signal)] = signal
            builtin[id(signal)] = entry.name
            places[id(signal)] = [(module_name, attribute)]
    for label, module in naming.get_sorted_modules():
        if isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                # By type(), as isinstance() would evaluate a lazy object.
                if issubclass(type(value), Signal):
                    objects[id(value)] = value
                    places.setdefault(id(value), []).append((label, attribute))
    for label, module in _iter_app_modules(installed_apps):
        for attribute, value in list(vars(module).items()):
            if type(value) is type and value.__module__ == label:
                for inner, value_of_class in list(vars(value).items()):
                    if issubclass(type(value_of_class), Signal):
                        objects[id(value_of_class)] = value_of_class
                        places.setdefault(id(value_of_class), []).append((label, f"{attribute}.{inner}"))
    is_app_module = naming.make_app_module_predicate()
    names = {
        key: builtin.get(key)
        or naming.get_signal_name(objects[key], [place for place in paths if is_app_module(place[0])] or paths)
        for key, paths in places.items()
    }
    aliases = {".".join(place): names[key] for key, paths in places.items() for place in paths}
    return [(signal, names[key]) for key, signal in objects.items()], aliases


@dataclass(frozen=True, slots=True)
class _SignalConnection:
    signal: str
    connection: ConnectedReceiver


def _iter_connections(signal: Signal, label: str) -> Iterator[_SignalConnection]:
    for entry in get_connected_receivers(signal):
        yield _SignalConnection(label, entry)


def _build_connection(
    entry: _SignalConnection, senders: _SenderResolver, kept_by_debug_cache: frozenset[int]
) -> Connection:
    connected = entry.connection
    code = None if connected.receiver is None else get_code(connected.receiver)
    return Connection(
        signal=entry.signal,
        receiver="" if connected.receiver is None else get_name(connected.receiver),
        module=_get_receiver_module(connected.receiver),
        path=real_path(code.co_filename) if code else "",
        line=code.co_firstlineno if code else 0,
        identity=_get_receiver_identity(connected.receiver),
        sender=senders.resolve(connected),
        sender_key=0 if connected.any_sender else hash(connected.sender_key),
        weak=connected.weak,
        dispatch_uid="" if connected.dispatch_uid is None else _format_dispatch_uid(connected.dispatch_uid),
        is_async=connected.is_async,
        is_alive=connected.receiver is not None,
        kept_by_debug_cache=id(connected.receiver) in kept_by_debug_cache,
        parameters=None if connected.receiver is None else _read_parameters(connected.receiver),
    )


def _get_receiver_module(receiver: Any) -> str:
    while isinstance(receiver, partial):
        receiver = receiver.func
    module = getattr(receiver, "__module__", None)
    return module if isinstance(module, str) else ""


def _get_receiver_identity(receiver: Any) -> tuple[int, ...]:
    if isinstance(receiver, MethodType):
        return (id(receiver.__self__), id(receiver.__func__))
    return (id(receiver),)


def _format_dispatch_uid(uid: object) -> str:
    return uid if isinstance(uid, str) else f"<{type(uid).__name__}>"


_PARAMETER_KINDS: Mapping[Any, Literal["positional", "keyword", "args", "kwargs"]] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "keyword",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_POSITIONAL: "args",
    inspect.Parameter.VAR_KEYWORD: "kwargs",
}


def _read_parameters(receiver: Any) -> tuple[Parameter, ...] | None:
    try:
        # The signature of the wrapper, as that is called.
        signature = inspect.signature(receiver, follow_wrapped=False)
    except (ValueError, TypeError):
        return None
    return tuple(
        Parameter(
            name=p.name,
            kind=_PARAMETER_KINDS[p.kind],
            required=p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD},
        )
        for p in signature.parameters.values()
    )


def _find_kept_by_debug_cache(entries: list[ConnectedReceiver]) -> frozenset[int]:
    """Return the ids of weakly connected functions that only Django's cache of signatures keeps alive.

    With ``DEBUG``, ``Signal.connect()`` calls ``func_accepts_kwargs()``, whose ``lru_cache`` holds its argument.
    Without ``DEBUG`` such a receiver would be collected.
    """
    suspects = {
        id(entry.receiver): entry.receiver
        for entry in entries
        if entry.weak and entry.receiver is not None and not _is_held_by_name(entry.receiver)
    }
    if not suspects:
        return frozenset()
    objects = tuple(suspects.values())
    held_ids: set[int] = set()
    for holder in gc.get_referrers(*objects):
        if (
            holder is suspects
            or holder is objects
            or isinstance(holder, FrameType | ConnectedReceiver)
            or _is_cache_key(holder)
        ):
            continue
        held_ids.update(id(value) for value in gc.get_referents(holder) if id(value) in suspects)
    return frozenset(suspects.keys() - held_ids)


def _is_held_by_name(receiver: Any) -> bool:
    """Return True if the receiver is found by its own name in its module, or is not a plain function."""
    if isinstance(receiver, MethodType):
        return True  # the cache holds the function, not the instance
    if not isinstance(receiver, FunctionType):
        return False
    target: Any = sys.modules.get(receiver.__module__)
    for part in receiver.__qualname__.split("."):
        target = inspect.getattr_static(target, part, None)
        if isinstance(target, staticmethod):
            target = target.__func__
    while target is not None and target is not receiver:
        target = getattr(target, "__wrapped__", None) if isinstance(target, FunctionType) else None
    return target is receiver


def _is_cache_key(holder: Any) -> bool:
    """Return True for a key of ``functools.lru_cache``: the function, then the flag ``remove_first``."""
    return type(holder) is tuple and len(holder) > 1 and isinstance(holder[-1], bool)


# Senders


def _get_models() -> list[type[models.Model]]:
    return apps.get_models(include_auto_created=True, include_swapped=True)


class _SenderResolver:
    """Describes senders, and finds the objects of senders that Django keeps only by id."""

    def __init__(self, entries: Iterable[ConnectedReceiver]) -> None:
        self._through_ids = {
            id(field.remote_field.through) for model in _get_models() for field in model._meta.local_many_to_many
        }
        self._senders_by_id: dict[object, Any] = {}
        missing_ids = {entry.sender_key for entry in entries if not entry.any_sender and entry.sender is None}
        if missing_ids:
            for value in self._iter_candidates():
                if id(value) in missing_ids:
                    self._senders_by_id[id(value)] = value

    def _iter_candidates(self) -> Iterator[Any]:
        yield from apps.get_app_configs()
        for model in _get_models():
            yield from vars(model).values()
        for module in list(sys.modules.values()):
            yield from list(getattr(module, "__dict__", {}).values())

    def resolve(self, entry: ConnectedReceiver) -> Sender:
        if entry.any_sender:
            return Sender(kind="any")
        sender = self._senders_by_id.get(entry.sender_key) if entry.sender is None else entry.sender
        return Sender(kind="unknown") if sender is None else self.describe(sender)

    def describe(self, sender: Any) -> Sender:
        sender_type = type(sender)
        if isinstance(sender, type):
            path = f"{sender.__module__}.{sender.__qualname__}"
            if issubclass(sender, models.Model):
                return Sender(kind="model", name=sender._meta.label, model=self.describe_model(sender))
            return Sender(kind="handler" if issubclass(sender, BaseHandler) else "class", name=path)
        if issubclass(sender_type, AppConfig):
            return Sender(kind="app_config", name=sender.label, has_models=sender.models_module is not None)
        if sender_type is ModuleType:
            return Sender(kind="module", name=sender.__name__)
        if sender_type is str:
            return Sender(kind="string", name=sender)
        return Sender(kind="instance", name=f"{sender_type.__module__}.{sender_type.__qualname__}")

    def describe_model(self, model: type[models.Model]) -> Model:
        options = model._meta
        is_user = apps.is_installed("django.contrib.auth") and self._is_user(model)
        related = [] if options.abstract or options.swapped else list(_iter_relations(options))
        return Model(
            label=options.label,
            path=f"{model.__module__}.{model.__qualname__}",
            abstract=bool(options.abstract),
            proxy=bool(options.proxy),
            concrete_model=options.concrete_model._meta.label if options.concrete_model else options.label,
            swapped=options.swapped or "",
            is_through=id(model) in self._through_ids or bool(options.auto_created),
            is_user=is_user,
            m2m_fields=tuple(field.name for field in options.local_many_to_many),
            to_one_accessors=frozenset(name for name, to_many in related if not to_many),
            to_many_accessors=frozenset(name for name, to_many in related if to_many),
            managers=frozenset(manager.name for manager in options.managers),
            primary_key_names=frozenset() if options.abstract else frozenset({options.pk.name, options.pk.attname}),
            fields=tuple(field.name for field in options.local_fields)
            if options.abstract
            else tuple(f.name for f in options.fields),
        )

    @staticmethod
    def _is_user(model: type[models.Model]) -> bool:
        from django.contrib.auth import get_user_model

        return issubclass(model, get_user_model())


def _iter_relations(options: Options[models.Model]) -> Iterator[tuple[str, bool]]:
    """Yield the accessors to related objects, each with True if it leads to many."""
    for field in options.get_fields():
        if field.is_relation:
            name = field.get_accessor_name() if isinstance(field, ForeignObjectRel) else field.name
            if name:
                yield name, bool(field.one_to_many or field.many_to_many)


def _iter_fast_deletable_models(connections: Iterable[Connection]) -> Iterator[str]:
    """Yield the models that only a receiver of every deletion excludes from fast deletes."""
    labels_with_receiver = {c.sender.name for c in connections if c.signal in {"pre_delete", "post_delete"}}
    for model in _get_models():
        options = model._meta
        if options.label in labels_with_receiver or options.proxy or options.swapped or options.parents:
            continue
        if any(hasattr(field, "bulk_related_objects") for field in options.private_fields):
            continue
        related = (f for f in options.get_fields(include_hidden=True) if f.auto_created and not f.concrete)
        if all(getattr(f, "on_delete", models.DO_NOTHING) is models.DO_NOTHING for f in related if not f.many_to_many):
            yield options.label
