"""Gives every management command a trace, regardless of the RECORD setting.

The command of ``manage.py`` and its process have one trace. A command that other code calls has its own.
"""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from django.core.management.base import BaseCommand

from signalbox.core import tracing
from signalbox.instrumentation import patching, test_runs
from signalbox.instrumentation.test_runs import TESTCASES_MODULE
from signalbox.instrumentation.traces import traced

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_RUNNING_COMMANDS: Final = frozenset({"runserver", "testserver", "dbshell", "runserver_plus", "signalbox"})
"""Commands without a trace. Their requests have traces of their own."""

SHELL_COMMANDS: Final = frozenset({"shell", "shell_plus"})

_original_execute: Any
_original_run: Any

_process_command: ContextVar[BaseCommand | None] = ContextVar("signalbox_process_command", default=None)
"""The command that ``run_from_argv()`` is about to execute, such as that of ``manage.py``."""

_discover_signals: Callable[[], object] = tuple


def install(discover_signals: Callable[[], None]) -> None:
    """Give every management command, and every test of Django's runner, a trace.

    ``discover_signals`` is called before each command, to find signals in modules that the command has imported.
    """
    global _discover_signals, _original_execute, _original_run
    _discover_signals = discover_signals
    _original_run = patching.install(BaseCommand, "run_from_argv", _run_from_argv)
    _original_execute = patching.install(BaseCommand, "execute", _execute)
    if TESTCASES_MODULE in sys.modules:  # a process of a parallel run, which executes no command
        test_runs.install()


def uninstall() -> None:
    """Restore the classes."""
    patching.uninstall(BaseCommand, "run_from_argv")
    patching.uninstall(BaseCommand, "execute")
    if TESTCASES_MODULE in sys.modules:
        test_runs.uninstall()


def _run_from_argv(self: BaseCommand, argv: list[str]) -> Any:
    token = _process_command.set(self)
    try:
        return _original_run(self, argv)
    finally:
        _process_command.reset(token)


def _execute(self: BaseCommand, *args: Any, **options: Any) -> Any:
    name = type(self).__module__.rpartition(".")[2]
    _discover_signals()
    if TESTCASES_MODULE in sys.modules:  # `test` imports Django's test cases
        test_runs.install()
    if name in LONG_RUNNING_COMMANDS:
        return _original_execute(self, *args, **options)
    with traced("shell" if name in SHELL_COMMANDS else "command", name, is_process=_is_process_command(self)):
        return _original_execute(self, *args, **options)


def _is_process_command(command: BaseCommand) -> bool:
    """Return True if ``command`` is what the process was started for. A server may run commands in other threads."""
    return (
        _process_command.get() is command
        and tracing._current_trace.get() is None
        and threading.current_thread() is threading.main_thread()
    )
