"""What a project's own signals are called: as ``track()`` says, else after the module that makes them."""

from __future__ import annotations

import linecache
import re
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from django.apps import apps
from django.dispatch import Signal

from signalbox.core.text import fit_column

_tracked_names: weakref.WeakKeyDictionary[Signal, str] = weakref.WeakKeyDictionary()


def track(signal: Signal, name: str) -> None:
    """Name a signal that no installed app's module holds."""
    _tracked_names[signal] = name


def get_tracked_signals() -> dict[Signal, str]:
    """Return the signals that were named."""
    return dict(_tracked_names)


def get_sibling_signals(name: str) -> set[str]:
    """Return the dotted names of the signals in the module that ``name`` would be of."""
    module = name.rpartition(".")[0]
    members = vars(sys.modules[module]) if module in sys.modules else {}
    return {f"{module}.{member}" for member, value in list(members.items()) if isinstance(value, Signal)}


def get_sorted_modules() -> list[tuple[str, Any]]:
    """Return what is imported, by name, the outermost first; libraries put other things than modules there too."""
    return sorted(sys.modules.copy().items(), key=lambda item: (item[0].count("."), item[0]))


def make_app_module_predicate() -> Callable[[str], bool]:
    """Return what tells whether a module is an installed app's."""
    roots = {config.name for config in apps.get_app_configs() if config.name != "signalbox"}

    def is_app_module(module: str) -> bool:
        while module and module not in roots:
            module = module.rpartition(".")[0]
        return bool(module)

    return is_app_module


def get_signal_name(signal: Signal, bindings: Sequence[tuple[str, str]]) -> str:
    """Return what ``signal`` is called, which stands under these names in these modules, as ``modules()`` orders them.

    It is named after the module that makes it, not after one that imports it from there.
    """
    made = bindings if len(bindings) == 1 else [place for place in bindings if _is_assigned_in(*place)] or bindings
    return _tracked_names.get(signal) or fit_column(".".join(made[0]), 200)


def _is_assigned_in(module: str, attribute: str) -> bool:
    """Tell whether the source of a module assigns ``attribute``."""
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return any(re.match(rf"{re.escape(attribute)}\s*(:[^=]*)?=[^=]", line) for line in linecache.getlines(path))
