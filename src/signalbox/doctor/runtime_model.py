"""Frozen values that describe the process: apps, models, senders and connections."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

SenderKind: TypeAlias = Literal[
    "any", "unknown", "model", "app_config", "handler", "class", "module", "string", "instance"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class App:
    """One installed app, or the package of the settings module, which holds code as well."""

    label: str
    """Its label, as ``auth``."""
    module: str
    """Dotted name of its package."""
    path: str
    """Absolute directory of its package."""
    is_project_app: bool
    """Whether it is the project's code: not in ``site-packages``, the standard library or Signalbox."""
    position: int
    """Its index in ``INSTALLED_APPS``."""
    config_path: str = ""
    """Dotted path of its config class; empty if the app is not installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One model class."""

    label: str
    """Its label, such as ``shop.Order``."""
    path: str
    """Dotted path of the class."""
    abstract: bool
    """Whether it is abstract."""
    proxy: bool
    """Whether it is a proxy of another model."""
    concrete_model: str
    """Label of the model whose table it uses."""
    swapped: str
    """Label of the model that replaces it; empty if none does."""
    is_through: bool
    """Whether it is the table of a many-to-many field."""
    is_user: bool
    """Whether its instances may be users of this site: the user model, its proxies and children."""
    m2m_fields: tuple[str, ...]
    """Names of its own many-to-many fields."""
    to_one_accessors: frozenset[str]
    """Names of accessors to one object: foreign keys, and one-to-one fields from both sides."""
    to_many_accessors: frozenset[str]
    """Names of managers of related objects."""
    managers: frozenset[str]
    """Names of its managers."""
    primary_key_names: frozenset[str]
    """Names of its primary key, except ``pk``."""
    fields: tuple[str, ...]
    """Names of its fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sender:
    """The sender of a connection."""

    kind: SenderKind
    """``any``: every sender. ``unknown``: Django keeps only its id, and no object with that id was found."""
    name: str = ""
    """A label for models and app configs, a dotted path for classes, the text of a string; else the type's name."""
    model: Model | None = None
    """The model, if the sender is one."""
    has_models: bool = True
    """For an app config: whether it has models. Without models its migrate signals are never sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter of a receiver's signature."""

    name: str
    """Its name."""
    kind: Literal["positional", "keyword", "args", "kwargs"]
    """``positional``: can't be given by keyword. ``keyword``: can. ``args``: ``*args``. ``kwargs``: ``**kwargs``."""
    required: bool
    """Whether it has no default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """One entry in a signal's list of receivers."""

    signal: str
    """Short name of a built-in signal, dotted path of another."""
    receiver: str
    """Dotted name; empty when it has been collected."""
    module: str
    """The receiver's ``__module__``."""
    path: str
    """Absolute path of the file with its code; empty if unknown."""
    line: int
    """First line of its code, including decorators; 0 if unknown."""
    identity: tuple[int, ...]
    """Equal for two connections of the same receiver object. A bound method has the ids of its object and function."""
    sender: Sender
    """The sender."""
    sender_key: int
    """Equal for two connections to the same sender; 0 for any sender."""
    weak: bool
    """Whether the signal holds only a weak reference to it."""
    dispatch_uid: str
    """Its ``dispatch_uid`` as text; empty without one."""
    is_async: bool
    """Whether it is a coroutine function."""
    is_alive: bool
    """False when it has been collected."""
    kept_by_debug_cache: bool
    """Whether only a cache that Django fills under ``DEBUG`` keeps it alive."""
    parameters: tuple[Parameter, ...] | None
    """Its signature; ``None`` if unknown."""

    @property
    def ends_with_its_object(self) -> bool:
        """Whether it is a method that is disconnected when its object is deleted."""
        return self.weak and len(self.identity) > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """The process at one moment."""

    debug: bool
    """``settings.DEBUG``."""
    asgi: bool
    """Whether the site is configured for ASGI."""
    apps: tuple[App, ...]
    """Installed apps in order. The package of the settings module is last if it is not one of them."""
    models: Mapping[str, Model]
    """Every model that isn't abstract, by label in lower case."""
    user_model: str
    """Label of the model that ``AUTH_USER_MODEL`` names."""
    aliases: Mapping[str, str]
    """Name of the signal by each dotted path that leads to it."""
    connections: tuple[Connection, ...]
    """Every connection of every signal found."""
    modules: frozenset[str]
    """Names of the modules that are imported."""
    project_files: Mapping[str, str]
    """Absolute path of each imported module of the project, in an app or elsewhere."""
    module_functions: Mapping[str, tuple[str, int]]
    """Absolute path and first line of each function in the modules of the apps, by dotted path."""
    entry_points: frozenset[str]
    """Dotted names in the settings, such as the URLconf, middleware and backends."""
    fast_deletable_models: tuple[str, ...]
    """Labels of models that a receiver of every deletion excludes from fast deletes."""

    def find_app_by_path(self, path: str) -> App | None:
        """Return the app with the longest path that contains the file; ``None`` if there is none."""
        candidates = [app for app in self.apps if path.startswith(app.path + os.sep)]
        return max(candidates, key=lambda app: len(app.path), default=None)

    def find_app_by_name(self, name: str) -> App | None:
        """Return the app with the longest package that contains a dotted name; ``None`` if there is none."""
        candidates = [app for app in self.apps if name.startswith(f"{app.module}.")]
        return max(candidates, key=lambda app: len(app.module), default=None)
