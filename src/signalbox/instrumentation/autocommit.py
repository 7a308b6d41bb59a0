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

from signalbox.pipeline import backends, exporter, unit_of_work

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper


class BorrowedAtomic(Atomic):
    """An atomic block, which is given its connection. By itself it is one that Django would open."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection.alias, False, False)
        self._connection: Any = connection

    def __enter__(self) -> BaseDatabaseWrapper:  # type: ignore[override]
        super().__enter__()
        return self._connection  # type: ignore[no-any-return]


class ImplicitTransaction:
    """An atomic block whose BEGIN, COMMIT and ROLLBACK are no statements of the application.

    Only where autocommit is on and no block is open. Where it is known how a transaction begins, it does no more of
    what ``Atomic`` does than such a block needs: on SQLite the bookkeeping costs more than BEGIN and COMMIT, and on
    PostgreSQL a message of its own for each of them doubles what a save costs.
    """

    __slots__ = ("_atomic", "_connection", "_pending_begin")

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection: Any = connection
        self._atomic: BorrowedAtomic | None = None
        self._pending_begin: _BeginWithFirstStatement | None = None

    def __enter__(self) -> BaseDatabaseWrapper:
        connection = self._connection
        if connection.connection is None:
            connection.ensure_connection()  # what its opening runs is the application's
        begin_strategy = _get_begin_strategy(connection)
        if begin_strategy is None:
            self._atomic = BorrowedAtomic(connection)
            with unit_of_work.without_query_logging(connection):
                self._atomic.__enter__()
        else:
            if connection._thread_ident != get_ident():  # asking whether threads may share it takes a lock
                connection.validate_thread_sharing()
            connection.close_if_health_check_failed()
            if connection.connection is None:
                connection.ensure_connection()
            self._pending_begin = begin_strategy(connection)
            connection.autocommit = False
            connection.commit_on_exit = connection.in_atomic_block = True
            connection.needs_rollback = False
        unit_of_work.get_or_attach(connection).is_implicit = True
        return connection  # type: ignore[no-any-return]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection = self._connection
        uow = unit_of_work.get_unit_of_work(connection)
        if self._pending_begin is not None:
            self._pending_begin.cancel()
        try:
            if self._atomic is not None:
                self._atomic.__exit__(kind, error, traceback)
            elif kind is None and uow and not (connection.needs_rollback or connection.closed_in_transaction):
                _commit(connection, uow)
            else:
                block = BorrowedAtomic(connection)
                connection.atomic_blocks.append(block)
                block.__exit__(kind, error, traceback)
        finally:
            if uow is not None:  # recording may have been switched off meanwhile
                uow.is_implicit = False


# ------------------------------------------------------------------ how a transaction begins


class _BeginWithFirstStatement:
    """PostgreSQL: BEGIN goes along with the first statement, in one message, and is none of the application's."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.execute_wrappers.append(self)

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if not self.cancel():  # another wrapper has sent a statement of its own before this one
            return execute(sql, params, many, context)
        connection, cursor = self._connection, context["cursor"].cursor
        takes_several = type(sql) is str and not many and isinstance(cursor, connection.Database.ClientCursor)
        if not takes_several or connection.queries_logged:  # Django logs what the driver has sent
            with connection.wrap_database_errors, backends.create_postgresql_cursor(connection) as own:
                own.execute("BEGIN")
            return execute(sql, params, many, context)
        answer = execute(f"BEGIN; {sql}", params, many, context)
        cursor.nextset()
        return answer

    def cancel(self) -> bool:
        """Wait no longer; tell whether nothing has begun: if nothing does, there is nothing to commit."""
        was_pending = self in self._connection.execute_wrappers
        if was_pending:
            self._connection.execute_wrappers.remove(self)
        return was_pending


def _begin_sqlite(connection: Any) -> None:
    """SQLite: it costs no round trip."""
    mode = getattr(connection, "transaction_mode", None)
    try:
        connection.connection.execute("BEGIN" if mode is None else f"BEGIN {mode}")
    except Exception:
        with connection.wrap_database_errors:
            raise


def _begin_mysql(connection: Any) -> None:
    """MariaDB and MySQL: turning autocommit off and on again would be two messages."""
    with connection.wrap_database_errors:
        connection.connection.begin()


def _get_begin_strategy(connection: Any) -> Callable[[Any], _BeginWithFirstStatement | None] | None:
    """Return what begins a transaction, where it is known."""
    if not connection.autocommit or exporter.in_event_loop():  # in an event loop it is Django's to refuse
        return None
    begin_strategy = _get_begin_strategy_for_class(connection.__class__)
    if begin_strategy is _BeginWithFirstStatement:
        raw = connection.connection
        if not raw.isolation_level is raw.read_only is raw.deferrable is None:  # then BEGIN is not all
            return None
    return begin_strategy


@cache
def _get_begin_strategy_for_class(wrapper: Any) -> Callable[[Any], _BeginWithFirstStatement | None] | None:
    """Return what begins a transaction on connections of this class, while Django's own methods do."""
    # By their modules' names: a Python may have been built without SQLite's.
    sqlite = getattr(wrapper, "_start_transaction_under_autocommit", None)
    if getattr(sqlite, "__module__", "") == "django.db.backends.sqlite3.base":
        return _begin_sqlite
    match getattr(getattr(wrapper, "_set_autocommit", None), "__module__", ""):
        case "django.db.backends.mysql.base":
            return _begin_mysql
        case "django.db.backends.postgresql.base" if hasattr(wrapper.Database, "ClientCursor"):  # psycopg2 has none
            return _BeginWithFirstStatement
    return None


# ------------------------------------------------------------------ how it ends


def _commit(connection: Any, uow: unit_of_work.UnitOfWork) -> None:
    """Do what leaving ``Atomic`` does where nothing has failed."""
    connection.in_atomic_block = False

    def finish() -> None:
        try:
            connection.connection.commit()
        except Exception:
            with connection.wrap_database_errors:
                raise

    try:
        uow.commit(finish, commit_only=True)
    except BaseException:
        try:
            connection.rollback()
        except Error:  # the connection is beyond use
            connection.close()
        raise
    finally:
        if connection.connection is not None:
            connection.autocommit = True
            if exporter.has_pending():
                exporter.flush()
    connection.errors_occurred = False
    if connection.run_on_commit:
        connection.run_and_clear_commit_hooks()


_connection_storage: Any = getattr(connections._connections, "_storage", None)  # type: ignore[attr-defined]
if not isinstance(_connection_storage, local):  # it is asgiref's own affair how connections are kept apart
    _connection_storage = None


def get_connection(using: str) -> BaseDatabaseWrapper:
    """Return ``connections[using]``. In a thread without an event loop asgiref finds that out by an exception, which
    takes as long as all that is captured of a save."""
    if not exporter.in_event_loop():
        uow: BaseDatabaseWrapper | None = getattr(_connection_storage, using, None)
        if uow is not None:
            return uow
    return connections[using]


def ensure_transaction(using: str, *, django_begins: bool = False) -> AbstractContextManager[BaseDatabaseWrapper]:
    """Make sure that an operation and its event commit together; the block is given the connection. ``seen`` says that
    Django itself begins and commits a transaction for the operation where none is open."""
    connection = get_connection(using)
    if backends.in_transaction(connection):
        return nullcontext(connection)
    return BorrowedAtomic(connection) if django_begins else ImplicitTransaction(connection)
