"""A project's own signals: every ``Signal`` found in the modules of its installed apps, and those that it names."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING

from django.apps import apps
from django.dispatch import Signal

from signalbox import catalog

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
    """Return the signals in modules that were imported since the last time, with their dotted names."""
    builtin = {id(signal) for signal in _builtin()}
    roots = tuple(config.name for config in apps.get_app_configs() if config.name != "signalbox")
    for module_name, module in sorted(list(sys.modules.items()), key=lambda item: (item[0].count("."), item[0])):
        if not module_name.startswith(roots) or not any(
            module_name == root or module_name.startswith(root + ".") for root in roots
        ):
            continue
        members = getattr(module, "__dict__", None)
        if members is None or _searched.get(module_name) == len(members):
            continue
        _searched[module_name] = len(members)
        for name, value in list(members.items()):
            if isinstance(value, Signal) and id(value) not in builtin:
                yield value, _named.get(value) or f"{module_name}.{name}"


def forget() -> None:
    """Look through all modules again next time."""
    _searched.clear()


def _builtin() -> Iterator[Signal]:
    for entry in catalog.BUILTIN.values():
        if entry.path and entry.path.rpartition(".")[0] in sys.modules:
            yield catalog.signal(entry)
