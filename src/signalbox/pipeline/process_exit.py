"""Writes pending events when the process ends, without waiting long for a database server."""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from django.apps import apps
from django.db import connections

from signalbox.core import loggers
from signalbox.pipeline import backends, dropped_events, pending, routing

if TYPE_CHECKING:
    from collections.abc import Callable

logger = loggers.get_logger("recording")

EXIT_TIMEOUT: Final = 1.2
"""Seconds for which the end of the process waits for a database server. Ending the interpreter takes time as well."""


class _ExitThread:
    """A thread that writes pending events when the process ends.

    A connection to a server that does not answer can block for minutes, and only another thread can give up waiting for
    it. The thread starts with the first event, because none can be started while the interpreter shuts down. It does
    not run during a fork, which warns in a process with several threads.
    """

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._is_exiting = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signalbox-exit", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._wake.wait()
        if not self._is_exiting:
            return
        try:
            _write_pending()
        except Exception as error:  # noqa: BLE001 - the process ends: no other code handles it
            logger.debug("Events could not be written as the process ends: %r", error)
        finally:
            self._done.set()

    def stop(self) -> None:
        """End the thread without writing."""
        self._wake.set()
        self._thread.join(EXIT_TIMEOUT)

    def write(self) -> bool:
        """Write pending events. Return False if that takes more than ``EXIT_TIMEOUT``."""
        self._is_exiting = True
        self._wake.set()
        return self._done.wait(EXIT_TIMEOUT)


_thread: _ExitThread | None = None
_is_prepared = False
"""Whether ``prepare()`` was called in this process, since the last fork."""
_writers: Final[list[Callable[[], None]]] = []


def register(write: Callable[[], None]) -> None:
    """Call ``write`` when the process ends."""
    _writers.append(write)


def prepare() -> None:
    """Start the thread that writes pending events when the process ends, unless it has been started."""
    global _thread, _is_prepared
    if _is_prepared or not apps.ready:
        return
    _is_prepared = True
    if not backends.get_backend(connections[routing.get_events_database()]).has_server:
        return  # nothing to wait for, and only this thread can use a database in memory
    with suppress(RuntimeError):  # no thread can be started here: the process ends as without one
        _thread = _ExitThread()


def stop_thread() -> None:
    """End the thread, if it runs. ``prepare()`` starts another."""
    global _thread, _is_prepared
    thread, _thread, _is_prepared = _thread, None, False
    if thread is not None:
        thread.stop()


def write_at_exit() -> None:
    """Write pending events, and log the number of those that are lost."""
    if not apps.models_ready:  # the set-up has failed, and its exception says why
        return
    thread = _thread
    if thread is None:
        _write_pending()
    elif not thread.write():
        logger.error("The database does not answer. The process ends without waiting for it.")
    lost = pending.get_lost_events()
    if lost:
        dropped_events.write_stats.add_dropped(dropped_events.DropReason.PROCESS_END, len(lost))
        logger.error(
            "Events that could not be written before the process ended are lost: %d. Durable receivers waited for %d.",
            len(lost),
            sum(map(routing.has_subscriber, lost)),
        )


def _write_pending() -> None:
    for write in _writers:
        write()


atexit.register(write_at_exit)


def _after_fork() -> None:
    global _thread, _is_prepared
    _thread, _is_prepared = None, False


os.register_at_fork(before=stop_thread, after_in_child=_after_fork)
