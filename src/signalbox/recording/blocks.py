"""The transactions that recording opens around an application's statement, so that it and its event commit together.

In autocommit the application sends no BEGIN and no COMMIT of its own: neither is in its query log.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from threading import get_ident, local
from typing import TYPE_CHECKING, Any

from django.db import Error, connections
from django.db.transaction import Atomic

from signalbox import buffer, departures, drivers

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper


class Block(Atomic):
    """An atomic block, which is given its connection. By itself it is one that Django would open."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection.alias, False, False)
        self._connection: Any = connection

    def __enter__(self) -> BaseDatabaseWrapper:  # type: ignore[override]
        super().__enter__()
        return self._connection  # type: ignore[no-any-return]


class Unseen:
    """An atomic block whose BEGIN, COMMIT and ROLLBACK are no statements of the application.

    Only where autocommit is on and no block is open. On SQLite it does no more of what ``Atomic`` does than such a
    block needs, for there the bookkeeping costs more than the statements.
    """

    __slots__ = ("_block", "_connection")

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection: Any = connection

    def __enter__(self) -> BaseDatabaseWrapper:
        connection = self._connection
        if connection.connection is None:
            connection.ensure_connection()  # what its opening runs is the application's
        # In an event loop it is Django's to refuse.
        if connection.autocommit and _begins_plainly(connection.__class__) and not departures.in_event_loop():
            self._block = None
            _begin(connection)
        else:
            self._block = Block(connection)
            with buffer.unlogged(connection):
                self._block.__enter__()
        buffer.open_for(connection).unseen = True
        return connection  # type: ignore[no-any-return]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection = self._connection
        found = buffer.of(connection)
        try:
            if self._block is not None:
                self._block.__exit__(kind, error, traceback)
            elif kind is None and found and not (connection.needs_rollback or connection.closed_in_transaction):
                _commit(connection, found)
            else:
                block = Block(connection)
                connection.atomic_blocks.append(block)
                block.__exit__(kind, error, traceback)
        finally:
            if found is not None:  # recording may have been switched off meanwhile
                found.unseen = False


@cache
def _begins_plainly(wrapper: type) -> bool:
    """Tell whether a BEGIN is all that begins a transaction, as on SQLite, while Python's driver stays as it is."""
    # By its module's name: a Python may have been built without SQLite's.
    begin = getattr(wrapper, "_start_transaction_under_autocommit", None)
    return getattr(begin, "__module__", "") == "django.db.backends.sqlite3.base"


def _begin(connection: Any) -> None:
    """Do what entering ``Atomic`` does."""
    if connection._thread_ident != get_ident():  # asking whether threads may share it takes a lock
        connection.validate_thread_sharing()
    connection.close_if_health_check_failed()
    if connection.connection is None:
        connection.ensure_connection()
    mode = getattr(connection, "transaction_mode", None)
    try:
        connection.connection.execute("BEGIN" if mode is None else f"BEGIN {mode}")
    except Exception:
        with connection.wrap_database_errors:
            raise
    connection.autocommit = False
    connection.commit_on_exit = connection.in_atomic_block = True
    connection.needs_rollback = False


def _commit(connection: Any, found: buffer.Buffer) -> None:
    """Do what leaving ``Atomic`` does where nothing has failed."""
    connection.in_atomic_block = False

    def finish() -> None:
        try:
            connection.connection.commit()
        except Exception:
            with connection.wrap_database_errors:
                raise

    try:
        found.end(finish)
    except BaseException:
        try:
            connection.rollback()
        except Error:  # the connection is beyond use
            connection.close()
        raise
    finally:
        if connection.connection is not None:
            connection.autocommit = True
            if departures.waiting():
                departures.drain()
    connection.errors_occurred = False
    if connection.run_on_commit:
        connection.run_and_clear_commit_hooks()


_storage: Any = getattr(connections._connections, "_storage", None)  # type: ignore[attr-defined]
if not isinstance(_storage, local):  # it is asgiref's own affair how connections are kept apart
    _storage = None


def connection_of(using: str) -> BaseDatabaseWrapper:
    """Return ``connections[using]``. In a thread without an event loop asgiref finds that out by an exception, which
    takes as long as all that is captured of a save."""
    if not departures.in_event_loop():
        found: BaseDatabaseWrapper | None = getattr(_storage, using, None)
        if found is not None:
            return found
    return connections[using]


def in_transaction(using: str, *, seen: bool = False) -> AbstractContextManager[BaseDatabaseWrapper]:
    """Make sure that an operation and its event commit together; the block is given the connection. ``seen`` says that
    Django itself begins and commits a transaction for the operation where none is open."""
    connection = connection_of(using)
    if drivers.in_transaction(connection):
        return nullcontext(connection)
    return Block(connection) if seen else Unseen(connection)
