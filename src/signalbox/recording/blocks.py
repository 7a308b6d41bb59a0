"""The transactions that recording opens around an application's statement, so that it and its event commit together.

In autocommit the application sends no BEGIN and no COMMIT of its own: neither is in its query log.
"""

from __future__ import annotations

from contextlib import nullcontext
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


class Unseen(Block):
    """An atomic block whose BEGIN, COMMIT and ROLLBACK are no statements of the application.

    Only where autocommit is on and no block is open. On SQLite it does no more of what ``Atomic`` does than such a
    block needs, for there the bookkeeping costs more than the statements.
    """

    def __enter__(self) -> BaseDatabaseWrapper:  # type: ignore[override]
        connection = self._connection
        connection.ensure_connection()  # what its opening runs is the application's
        self._brief = connection.autocommit and _begins_plainly(connection)
        if self._brief:
            _begin(connection)
        else:
            with buffer.unlogged(connection):
                super().__enter__()
        buffer.open_for(connection).unseen = True
        return connection  # type: ignore[no-any-return]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection = self._connection
        found = buffer.of(connection)
        try:
            if not self._brief:
                super().__exit__(kind, error, traceback)
            elif kind is None and found and not (connection.needs_rollback or connection.closed_in_transaction):
                _commit(connection, found)
            else:
                connection.atomic_blocks.append(self)
                super().__exit__(kind, error, traceback)
        finally:
            if found is not None:  # recording may have been switched off meanwhile
                found.unseen = False


def _begins_plainly(connection: Any) -> bool:
    """Tell whether a BEGIN is all that begins a transaction, as on SQLite, while Python's driver stays as it is."""
    # By its module's name: a Python may have been built without SQLite's.
    begin = getattr(type(connection), "_start_transaction_under_autocommit", None)
    return getattr(begin, "__module__", "") == "django.db.backends.sqlite3.base"


def _begin(connection: Any) -> None:
    """Do what entering ``Atomic`` does."""
    connection.validate_thread_sharing()
    connection.close_if_health_check_failed()
    if connection.connection is None:
        connection.ensure_connection()
    mode = getattr(connection, "transaction_mode", None)
    with connection.wrap_database_errors:
        connection.connection.execute("BEGIN" if mode is None else f"BEGIN {mode}")
    connection.autocommit = False
    connection.commit_on_exit = connection.in_atomic_block = True
    connection.needs_rollback = False


def _commit(connection: Any, found: buffer.Buffer) -> None:
    """Do what leaving ``Atomic`` does where nothing has failed."""
    connection.in_atomic_block = False

    def finish() -> None:
        with connection.wrap_database_errors:
            connection.connection.commit()

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


def in_transaction(using: str, *, seen: bool = False) -> AbstractContextManager[BaseDatabaseWrapper]:
    """Make sure that an operation and its event commit together; the block is given the connection. ``seen`` says that
    Django itself begins and commits a transaction for the operation where none is open."""
    connection = connections[using]
    if drivers.in_transaction(connection):
        return nullcontext(connection)
    return Block(connection) if seen else Unseen(connection)
