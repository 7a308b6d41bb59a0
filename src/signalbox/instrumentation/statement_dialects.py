# ruff: noqa: D102 - the base class documents the methods
"""The differences between databases in how bulk statements return and lock rows, with one class for each database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from signalbox.core import interrupts
from signalbox.instrumentation import catalogue_answers, postgresql_catalogue
from signalbox.instrumentation.returning_request import NO_TABLE
from signalbox.pipeline import backends, unit_of_work
from signalbox.pipeline.backends.mysql import MySQLBackend
from signalbox.pipeline.backends.postgresql import PostgreSQLBackend
from signalbox.pipeline.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db import DatabaseError
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, Model

    from signalbox.instrumentation.returning_request import StatementKind


class StatementDialect:
    """The behaviour of a database without RETURNING."""

    selects_before: bool = False
    """Rows are selected before a statement that can't return them."""
    qualifies_columns: bool = True
    """Columns in RETURNING need the name of their table, as a joined table may have a column of the same name."""
    counts_fetched_rows: bool = False
    """The rows of a statement with RETURNING are counted while they are fetched."""
    aborts_on_error: bool = False
    """A failed statement aborts the open transaction, so that reads need a savepoint."""

    def can_return(self, compiler: Any, kind: StatementKind) -> bool:
        """Return True if the database has RETURNING for the statement of ``compiler``."""
        return False

    def is_returning_refused(self, error: DatabaseError) -> bool:
        """Return True if the database refused RETURNING before it changed anything."""
        return False

    def is_lock_error(self, error: DatabaseError) -> bool:
        """Return True if the database may have rolled back the transaction, as a lock was not granted."""
        return False

    def can_lock(self, query: Any) -> bool:
        """Return True if a SELECT of ``query`` can lock its rows."""
        return False

    def take_write_lock(self, connection: Any, model: type[Model]) -> bool:
        """Take a lock on the whole database if it has no locks on rows. Return False on failure."""
        return True

    def get_obstacle(
        self, connection: BaseDatabaseWrapper, model: type[Model], fields: Sequence[Field[Any, Any]]
    ) -> str:
        """Return the reason why statements on the table of ``model`` must not return ``fields``, or an empty string."""
        return ""


class PostgreSQLDialect(StatementDialect):
    """The behaviour of PostgreSQL."""

    aborts_on_error = True

    def can_return(self, compiler: Any, kind: StatementKind) -> bool:
        return bool(compiler.connection.features.can_return_columns_from_insert)

    def can_lock(self, query: Any) -> bool:
        # It locks no rows of outer joins and groups.
        is_single = sum(map(bool, query.alias_refcount.values())) == 1
        return is_single and not query.distinct and query.group_by is None

    def get_obstacle(
        self, connection: BaseDatabaseWrapper, model: type[Model], fields: Sequence[Field[Any, Any]]
    ) -> str:
        columns = tuple(str(field.column) for field in fields)
        return postgresql_catalogue.get_obstacle(connection, model._meta.db_table, columns)


class MySQLDialect(StatementDialect):
    """The behaviour of MySQL and MariaDB. MariaDB has RETURNING for inserts and for deletes from one table."""

    selects_before = True
    qualifies_columns = False

    def can_return(self, compiler: Any, kind: StatementKind) -> bool:
        backend = backends.get_backend(compiler.connection)
        is_mariadb = isinstance(backend, MySQLBackend) and backend.is_mariadb
        return kind == "delete" and is_mariadb and bool(compiler.single_alias)

    def is_returning_refused(self, error: DatabaseError) -> bool:
        return bool(error.args) and error.args[0] in _REFUSALS and "SELECT" in str(error)

    def is_lock_error(self, error: DatabaseError) -> bool:
        return bool(error.args) and error.args[0] in _LOCK_ERRORS

    def can_lock(self, query: Any) -> bool:
        return True


_REFUSALS: Final = frozenset({1142, 1143})
"""Errors of MariaDB: a privilege for a table or for a column is missing. Nothing was changed."""
_LOCK_ERRORS: Final = frozenset({1205, 1213})
"""Errors of MySQL: a lock was not granted in time, or there was a deadlock."""


class SQLiteDialect(StatementDialect):
    """The behaviour of SQLite."""

    counts_fetched_rows = True

    def can_return(self, compiler: Any, kind: StatementKind) -> bool:
        return bool(compiler.connection.features.can_return_columns_from_insert)

    def is_returning_refused(self, error: DatabaseError) -> bool:
        return "RETURNING is not available" in str(error)  # on virtual tables

    def take_write_lock(self, connection: Any, model: type[Model]) -> bool:
        # A transaction that reads first and writes later fails at once if another one has written in between. The lock
        # is taken on the driver's connection, so that libraries that instrument cursors do not see it.
        if unit_of_work.get_or_attach(connection).is_implicit:
            return True
        quote = connection.ops.quote_name
        table, column = quote(model._meta.db_table), quote(str(model._meta.pk_fields[0].column))
        try:
            connection.ensure_connection()
            connection.connection.execute(f"UPDATE {table} SET {column} = {column} WHERE 0")  # noqa: S608 - Django's names
        except Exception as error:  # noqa: BLE001 - the statement is executed in any case
            interrupts.raise_if_interrupt(error)
            return False
        return True

    def get_obstacle(
        self, connection: BaseDatabaseWrapper, model: type[Model], fields: Sequence[Field[Any, Any]]
    ) -> str:
        # With RETURNING, a statement on a view without triggers does nothing. Without it, the statement fails.
        table = model._meta.db_table
        return catalogue_answers.get_answer(
            connection, (table,), lambda: NO_TABLE if _is_sqlite_view(connection, table) else ""
        )


_SQLITE_VIEW_SQL: Final = (
    "SELECT count(*) FROM (SELECT name, type FROM sqlite_master UNION ALL SELECT name, type FROM sqlite_temp_master) "
    "WHERE type = 'view' AND name = ? COLLATE NOCASE"
)


def _is_sqlite_view(connection: Any, table: str) -> bool:
    """Return True if a view has this name, or if that is unknown."""
    try:
        connection.ensure_connection()
        row = connection.connection.execute(_SQLITE_VIEW_SQL, (connection.ops.quote_name(table)[1:-1],)).fetchone()
    except Exception as error:  # noqa: BLE001 - the statement is executed in any case
        interrupts.raise_if_interrupt(error)
        return True
    return bool(row[0])


_NO_RETURNING: Final = StatementDialect()
_DIALECTS: Final[dict[type[backends.DatabaseBackend], StatementDialect]] = {
    PostgreSQLBackend: PostgreSQLDialect(),
    MySQLBackend: MySQLDialect(),
    SQLiteBackend: SQLiteDialect(),
}


def get_dialect(connection: BaseDatabaseWrapper) -> StatementDialect:
    """Return the dialect of a connection."""
    return _DIALECTS.get(type(backends.get_backend(connection)), _NO_RETURNING)
