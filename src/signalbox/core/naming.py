"""Names of custom signals: given to ``track()``, or from the module that creates the signal."""

from __future__ import annotations

import linecache
import re
import sys
import weakref
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.dispatch import Signal
from django.utils.module_loading import import_string

from signalbox.core import catalog
from signalbox.core.text import fit_column

_tracked_names: weakref.WeakKeyDictionary[Signal, str] = weakref.WeakKeyDictionary()


recorded_names: weakref.WeakKeyDictionary[Signal, str] = weakref.WeakKeyDictionary()
"""The names under which custom signals are recorded."""


def find_signal(name: str) -> Signal | None:
    """Return the signal that is recorded as ``name``; ``None`` for a bulk operation.

    Raises ``ImportError`` if there is none.
    """
    entry = catalog.BUILTIN_SIGNALS.get(name)
    if entry is not None:
        return catalog.import_signal(entry) if entry.path else None
    for signal, recorded_name in recorded_names.items():
        if recorded_name == name:
            return signal
    imported = import_string(name)
    if not isinstance(imported, Signal):
        raise ImportError(f"{name} is not a signal.")
    return imported


def track(signal: Signal, name: str) -> None:
    """Name a signal that is not an attribute of a module of an installed app."""
    _tracked_names[signal] = name


def get_tracked_signals() -> dict[Signal, str]:
    """Return the signals that were named."""
    return dict(_tracked_names)


def get_sibling_signals(name: str) -> set[str]:
    """Return the dotted names of the signals in the module of ``name``."""
    module = name.rpartition(".")[0]
    members = vars(sys.modules[module]) if module in sys.modules else {}
    return {f"{module}.{member}" for member, value in list(members.items()) if isinstance(value, Signal)}


def get_known_signals() -> set[str]:
    """Return the names of Django's signals, of bulk operations, and of custom signals that are named or recorded."""
    return {*catalog.BUILTIN_SIGNALS, *_tracked_names.values(), *recorded_names.values()}


def is_known_signal(name: str) -> bool:
    """Return whether ``name`` is the name of a signal, or a dotted name in a module that is not imported yet."""
    if name in get_known_signals() or name in get_sibling_signals(name):
        return True
    module = name.rpartition(".")[0]
    return "." in module and module not in sys.modules and may_exist(module)


def may_exist(path: str) -> bool:
    """Return whether ``path`` is that of a module or a class, without importing anything."""
    parent, _, attribute = path.rpartition(".")
    if parent not in sys.modules:
        return "." in parent and may_exist(parent)
    if hasattr(sys.modules[parent], attribute):
        return True
    try:
        return find_spec(path) is not None
    except (ImportError, ValueError):  # the parent is not a package
        return False


def get_sorted_modules() -> list[tuple[str, Any]]:
    """Return the entries of ``sys.modules``, the outermost first. Libraries add objects that are not modules."""
    return sorted(sys.modules.copy().items(), key=lambda item: (item[0].count("."), item[0]))


def make_app_module_predicate() -> Callable[[str], bool]:
    """Return a predicate: does a module belong to an installed app?"""
    roots = {config.name for config in apps.get_app_configs() if config.name != "signalbox"}

    def is_app_module(module: str) -> bool:
        while module and module not in roots:
            module = module.rpartition(".")[0]
        return bool(module)

    return is_app_module


def get_signal_name(signal: Signal, bindings: Sequence[tuple[str, str]]) -> str:
    """Return the name of ``signal``.

    ``bindings`` are the modules and attributes that contain it, in the order of ``get_sorted_modules()``. The module
    that creates the signal gives the name, not one that imports it from there.
    """
    made = bindings if len(bindings) == 1 else [place for place in bindings if _is_assigned_in(*place)] or bindings
    return _tracked_names.get(signal) or fit_column(".".join(made[0]), 200)


def _is_assigned_in(module: str, attribute: str) -> bool:
    """Return whether the source of a module assigns ``attribute``."""
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return any(re.match(rf"{re.escape(attribute)}\s*(:[^=]*)?=[^=]", line) for line in linecache.getlines(path))
