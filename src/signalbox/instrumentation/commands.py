"""Gives every management command a trace, regardless of the RECORD setting."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from django.core.management.base import BaseCommand

from signalbox.instrumentation import patching, test_runs
from signalbox.instrumentation.test_runs import TESTCASES_MODULE
from signalbox.instrumentation.traces import traced

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_RUNNING_COMMANDS: Final = frozenset({"runserver", "testserver", "dbshell", "runserver_plus", "signalbox"})
"""Commands whose work is that of others: requests have traces of their own."""

SHELL_COMMANDS: Final = frozenset({"shell", "shell_plus"})

_original_execute: Any

_discover_signals: Callable[[], object] = tuple


def install(discover_signals: Callable[[], None]) -> None:
    """Give every management command, and every test of Django's runner, a trace.

    ``discover_signals`` is called before each command, to find signals in modules that the command has imported.
    """
    global _discover_signals, _original_execute
    _discover_signals = discover_signals
    _original_execute = patching.install(BaseCommand, "execute", _execute)
    if TESTCASES_MODULE in sys.modules:  # a parallel run's process, which executes no command
        test_runs.install()


def uninstall() -> None:
    """Leave the classes as Django made them."""
    patching.uninstall(BaseCommand, "execute")
    if TESTCASES_MODULE in sys.modules:
        test_runs.uninstall()


def _execute(self: BaseCommand, *args: Any, **options: Any) -> Any:
    name = type(self).__module__.rpartition(".")[2]
    _discover_signals()
    if TESTCASES_MODULE in sys.modules:  # `test` brings Django's test cases
        test_runs.install()
    if name in LONG_RUNNING_COMMANDS:
        return _original_execute(self, *args, **options)
    with traced("shell" if name in SHELL_COMMANDS else "command", name):
        return _original_execute(self, *args, **options)
