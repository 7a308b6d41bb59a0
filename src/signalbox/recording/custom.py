"""A project's own signals: every ``Signal`` found in the modules of its installed apps, and those that it names."""

from __future__ import annotations

import linecache
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.dispatch import Signal

from signalbox import catalog, encoding

if TYPE_CHECKING:
    from collections.abc import Iterator

_named: weakref.WeakKeyDictionary[Signal, str] = weakref.WeakKeyDictionary()
"""Signals that were given a name with ``track()``."""

_searched: dict[str, int] = {}
"""Modules that have been looked through, with the number of names they held."""


def track(signal: Signal, name: str) -> None:
    """Name a signal that no installed app's module holds."""
    _named[signal] = name


def named() -> dict[Signal, str]:
    """Return the signals that were named."""
    return dict(_named)


def new_signals() -> Iterator[tuple[Signal, str]]:
    """Return the signals in modules that were imported since the last time, with their dotted names.

    A signal is named after the module that makes it, not after one that imports it from there.
    """
    builtin = {id(signal) for signal in _builtin()}
    found: dict[Signal, list[tuple[str, str]]] = {}
    for module_name, members in _modules():
        for name, value in list(members.items()):
            if isinstance(value, Signal) and id(value) not in builtin:
                found.setdefault(value, []).append((module_name, name))
    for signal, places in found.items():
        made = places if len(places) == 1 else [place for place in places if _makes(*place)] or places
        yield signal, _named.get(signal) or encoding.column(".".join(made[0]), 200)


def _modules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the modules of installed apps that hold something new."""
    roots = tuple(config.name for config in apps.get_app_configs() if config.name != "signalbox")
    for module_name, module in sorted(sys.modules.copy().items(), key=lambda item: (item[0].count("."), item[0])):
        inside = any(module_name == root or module_name.startswith(f"{root}.") for root in roots)
        members = getattr(module, "__dict__", None) if inside else None
        if members is not None and _searched.get(module_name) != len(members):
            _searched[module_name] = len(members)
            yield module_name, members


def _makes(module_name: str, name: str) -> bool:
    """Tell whether the source of a module assigns ``name``."""
    path = getattr(sys.modules.get(module_name), "__file__", None) or ""
    return any(re.match(rf"{re.escape(name)}\s*(:[^=]*)?=[^=]", line) for line in linecache.getlines(path))


def forget() -> None:
    """Look through all modules again next time."""
    _searched.clear()


def _builtin() -> Iterator[Signal]:
    for entry in catalog.BUILTIN.values():
        if entry.path and entry.path.rpartition(".")[0] in sys.modules:
            yield catalog.signal(entry)
