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

from signalbox.serialization import encoder

_tracked: weakref.WeakKeyDictionary[Signal, str] = weakref.WeakKeyDictionary()


def track(signal: Signal, name: str) -> None:
    """Name a signal that no installed app's module holds."""
    _tracked[signal] = name


def tracked() -> dict[Signal, str]:
    """Return the signals that were named."""
    return dict(_tracked)


def beside(name: str) -> set[str]:
    """Return the dotted names of the signals in the module that ``name`` would be of."""
    module = name.rpartition(".")[0]
    members = vars(sys.modules[module]) if module in sys.modules else {}
    return {f"{module}.{member}" for member, value in list(members.items()) if isinstance(value, Signal)}


def modules() -> list[tuple[str, Any]]:
    """Return what is imported, by name, the outermost first; libraries put other things than modules there too."""
    return sorted(sys.modules.copy().items(), key=lambda item: (item[0].count("."), item[0]))


def within_apps() -> Callable[[str], bool]:
    """Return what tells whether a module is an installed app's."""
    roots = {config.name for config in apps.get_app_configs() if config.name != "signalbox"}

    def within(module: str) -> bool:
        while module and module not in roots:
            module = module.rpartition(".")[0]
        return bool(module)

    return within


def name(signal: Signal, places: Sequence[tuple[str, str]]) -> str:
    """Return what ``signal`` is called, which stands under these names in these modules, as ``modules()`` orders them.

    It is named after the module that makes it, not after one that imports it from there.
    """
    made = places if len(places) == 1 else [place for place in places if _makes(*place)] or places
    return _tracked.get(signal) or encoder.column(".".join(made[0]), 200)


def _makes(module: str, attribute: str) -> bool:
    """Tell whether the source of a module assigns ``attribute``."""
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return any(re.match(rf"{re.escape(attribute)}\s*(:[^=]*)?=[^=]", line) for line in linecache.getlines(path))
