"""A project's own signals: every ``Signal`` found in the modules of its installed apps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from signalbox.core import catalog, naming

if TYPE_CHECKING:
    from collections.abc import Iterator

_searched: dict[str, int] = {}
"""Modules that have been looked through, with the number of names they held."""


def new_signals() -> Iterator[tuple[Signal, str]]:
    """Return the signals in modules that were imported since the last time, with their names."""
    builtin = {id(signal) for signal in _builtin()}
    found: dict[Signal, list[tuple[str, str]]] = {}
    for module_name, members in _modules():
        for name, value in list(members.items()):
            if isinstance(value, Signal) and id(value) not in builtin:
                found.setdefault(value, []).append((module_name, name))
    for signal, places in found.items():
        yield signal, naming.get_signal_name(signal, places)


def _modules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the modules of installed apps that hold something new."""
    within = naming.make_app_module_predicate()
    for module_name, module in naming.get_sorted_modules():
        members = getattr(module, "__dict__", None) if within(module_name) else None
        if members is not None and _searched.get(module_name) != len(members):
            _searched[module_name] = len(members)
            yield module_name, members


def forget() -> None:
    """Look through all modules again next time."""
    _searched.clear()


def _builtin() -> Iterator[Signal]:
    for entry in catalog.BUILTIN_SIGNALS.values():
        if entry.path and entry.path.rpartition(".")[0] in sys.modules:
            yield catalog.import_signal(entry)
