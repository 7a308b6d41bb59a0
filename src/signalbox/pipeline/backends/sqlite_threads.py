"""Keeps the writes of pending events apart from transactions of other threads on the same SQLite file.

A transaction that reads before it writes fails at its first write with "database is locked", without waiting, if
another connection is writing, or in WAL mode has written since (https://www.sqlite.org/isolation.html). Pending events
are written after each request. Without this module they would break transactions that succeed without Signalbox.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from signalbox.core import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

MAX_WAIT: Final = 2.0
"""Seconds that the beginning of a transaction waits for a write of pending events. Such a write takes milliseconds,
unless it waits for other transactions or another process holds the lock of the file."""

POLL_INTERVAL: Final = 0.001
"""Seconds between two looks at the transactions of other connections."""


class FileUsers:
    """The connections of this process to one file.

    Attributes:
        lock: It is held while pending events are written, and while a transaction begins.
        connections: The connections.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # an event processor may begin a transaction while pending events are written
        self.connections: weakref.WeakSet[BaseDatabaseWrapper] = weakref.WeakSet()


_users_by_file: dict[str, FileUsers] = {}


def get_users(connection: BaseDatabaseWrapper) -> FileUsers:
    """Return the connections to the file of ``connection``, which is now one of them."""
    name = str(connection.settings_dict["NAME"])
    users = _users_by_file.get(name) or _users_by_file.setdefault(name, FileUsers())
    if connection not in users.connections:
        with users.lock:
            users.connections.add(connection)
    return users


def begin(connection: BaseDatabaseWrapper, do_begin: Callable[[], None]) -> None:
    """Begin a transaction by calling ``do_begin``, after the current write of pending events."""
    lock = get_users(connection).lock
    is_locked = lock.acquire(timeout=MAX_WAIT)
    try:
        do_begin()
    finally:
        if is_locked:
            lock.release()


@contextmanager
def excluding_transactions(connection: BaseDatabaseWrapper, max_wait: float = 0.0) -> Iterator[bool]:
    """Return a block in which no transaction begins. It yields whether no other connection has one.

    It waits up to ``max_wait`` seconds for the transactions that other connections have.
    """
    users = get_users(connection)
    with users.lock:
        give_up_at = clock.monotonic() + max_wait
        while (is_used := _is_used_by_others(users, connection)) and clock.monotonic() < give_up_at:
            time.sleep(POLL_INTERVAL)
        yield not is_used


def _is_used_by_others(users: FileUsers, connection: BaseDatabaseWrapper) -> bool:
    return any(other is not connection and _is_in_transaction(other) for other in list(users.connections))


def _is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    raw: Any = connection.connection
    try:
        return raw is not None and bool(raw.in_transaction)
    except sqlite3.ProgrammingError:  # its thread has closed it meanwhile
        return False


def _after_fork() -> None:
    """Create new locks in a forked child, because a thread of the parent may hold one."""
    _users_by_file.clear()


os.register_at_fork(after_in_child=_after_fork)
