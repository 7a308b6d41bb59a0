"""Finds custom signals: every ``Signal`` in the modules of the installed apps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from signalbox.core import catalog, naming

if TYPE_CHECKING:
    from collections.abc import Iterator

_searched_modules: dict[str, int] = {}
"""Number of names in each module that was searched, by the name of the module."""


def find_new_signals() -> Iterator[tuple[Signal, str]]:
    """Yield the signals in modules that were imported since the last call, with their names."""
    builtin = {id(signal) for signal in _iter_builtin_signals()}
    found: dict[Signal, list[tuple[str, str]]] = {}
    for module_name, members in _iter_changed_modules():
        for name, value in list(members.items()):
            if isinstance(value, Signal) and id(value) not in builtin:
                found.setdefault(value, []).append((module_name, name))
    for signal, positions in found.items():
        yield signal, naming.get_signal_name(signal, positions)


def _iter_changed_modules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the modules of installed apps whose number of names has changed, with their names."""
    within = naming.make_app_module_predicate()
    for module_name, module in naming.get_sorted_modules():
        members = getattr(module, "__dict__", None) if within(module_name) else None
        if members is not None and _searched_modules.get(module_name) != len(members):
            _searched_modules[module_name] = len(members)
            yield module_name, members


def reset() -> None:
    """Search all modules again in the next call."""
    _searched_modules.clear()


def _iter_builtin_signals() -> Iterator[Signal]:
    for entry in catalog.BUILTIN_SIGNALS.values():
        if entry.path and entry.path.rpartition(".")[0] in sys.modules:
            yield catalog.import_signal(entry)
