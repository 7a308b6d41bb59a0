"""Blocks database queries while application callbacks (``__str__``, event processors) run.

A callback runs in the middle of the application's work. A query of its own would be counted there, and one that fails
aborts PostgreSQL's open transaction.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, router

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from django.db.backends.base.base import BaseDatabaseWrapper

T = TypeVar("T")

_CURSOR_METHODS: Final[tuple[str, ...]] = ("cursor", "chunked_cursor")
_SAVED_ATTRIBUTES: Final[tuple[str, ...]] = (*_CURSOR_METHODS, "needs_rollback", "rollback_exc")
_BLOCKED_METHODS: Final[tuple[str, ...]] = (
    *_CURSOR_METHODS,
    "savepoint",
    "set_autocommit",
    "commit",
    "rollback",
    "close",
)
_TRANSACTION_STATE: Final[tuple[str, ...]] = ("in_atomic_block", "commit_on_exit", "needs_rollback", "rollback_exc")


class QueryForbidden(Exception):
    """A callback may not query the database."""

    def __str__(self) -> str:
        return super().__str__() or (type(self).__doc__ or "")


def call_without_queries(function: Callable[..., T], *args: Any, connection: BaseDatabaseWrapper | None) -> T:
    """Call ``function`` while queries raise ``QueryForbidden``, before they are counted or logged.

    ``connection`` is the one that the callback's object belongs to, if it is known. What Django sets after a failed
    query, such as ``needs_rollback``, is restored.
    """
    # Without routers, objects are read from their own or the default database. Looking for other connections is slow,
    # and one that this thread has not used yet has no open transaction.
    is_only = connection is not None and connection.alias == DEFAULT_DB_ALIAS and not router.routers
    blocked: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for one in connections.all(initialized_only=True) if connection is None or not is_only else [connection]:
            own: dict[str, Any] = one.__dict__
            blocked.append((own, {name: own[name] for name in _SAVED_ATTRIBUTES if name in own}))
            _block(one, _CURSOR_METHODS)
        return function(*args)
    finally:
        for own, saved in blocked:
            for name in _CURSOR_METHODS:
                own.pop(name, None)
            own.update(saved)


def call_isolated(function: Callable[..., T], *args: Any) -> T:
    """Call ``function`` while all connections of this thread raise ``QueryForbidden`` and keep their transactions.

    A callback that catches the error itself, such as one with a save, would otherwise have them rolled back.
    """
    blocked = []
    try:
        for connection in _iter_connections():
            own: dict[str, Any] = connection.__dict__
            saved = {name: own[name] for name in (*_BLOCKED_METHODS, *_TRANSACTION_STATE) if name in own}
            blocked.append((own, saved, list(connection.savepoint_ids), list(connection.atomic_blocks)))
            _block(connection, _BLOCKED_METHODS)
        return function(*args)
    finally:
        for own, saved, savepoints, blocks in blocked:
            for name in (*_BLOCKED_METHODS, *_TRANSACTION_STATE):
                own.pop(name, None)
            own.update(saved)
            own["savepoint_ids"][:], own["atomic_blocks"][:] = savepoints, blocks


def _iter_connections() -> Iterator[BaseDatabaseWrapper]:
    """Yield this thread's connection of each database, without opening it.

    A thread creates them when they are first used. The callback would get a connection that is not blocked.
    """
    for alias in connections:
        try:
            connection = connections[alias]
        except ImproperlyConfigured:  # its backend can't be imported, so that the callback can't query it either
            continue
        yield connection


_GUARDS: Final = (call_without_queries.__code__, call_isolated.__code__)


def _block(connection: BaseDatabaseWrapper, names: tuple[str, ...]) -> None:
    own = connection.__dict__
    for name in names:
        if type(own.get(name)) is not _Blocked:
            own[name] = _Blocked(_refuse, connection, name, own.get(name))


class _Blocked(partial[Any]):
    """A method of a connection that raises while a guarded callback runs."""


def _refuse(
    connection: BaseDatabaseWrapper, name: str, replaced: Callable[..., Any] | None, *args: Any, **kwargs: Any
) -> Any:
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_code in _GUARDS:
            raise QueryForbidden
        frame = frame.f_back
    # No callback is running: an exception of a signal handler struck before the guard was removed.
    if replaced is None:
        del connection.__dict__[name]
    else:
        connection.__dict__[name] = replaced
    return getattr(connection, name)(*args, **kwargs)
