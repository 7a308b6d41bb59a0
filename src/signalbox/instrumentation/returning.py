"""The keys of the rows that a bulk statement changed: from its filter, from RETURNING, or from a SELECT before it.

The statement is executed by Django. Where the database has RETURNING, the compiler of this one statement adds it at the
end, if that is safe: on PostgreSQL a query of the catalogue finds out whether rules, row security or missing privileges
would change what the statement does. Where it is not safe only the number of rows is known. A statement of ours that
fails neither keeps the application's statement from being sent nor aborts its transaction.
"""

from __future__ import annotations

import weakref
from contextlib import closing
from contextvars import ContextVar
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from uuid import UUID

from django.db import DatabaseError, connections, transaction
from django.db.models import IntegerField, QuerySet, UUIDField
from django.db.models.constants import OnConflict
from django.db.models.expressions import Col
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import CURSOR, MULTI, ROW_COUNT
from django.db.models.sql.where import AND

from signalbox import conf
from signalbox.core import interrupts
from signalbox.instrumentation import patching
from signalbox.pipeline import backends, unit_of_work
from signalbox.pipeline.backends.base import without_query_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, Model

    from signalbox.pipeline.backends.postgresql import PostgreSQLBackend

    StatementKind = Literal["insert", "update", "delete"]

FETCH_SIZE: Final = 2_000
"""Rows that are fetched at once."""

# Why the keys of a statement's rows are unknown, as events have it under "keys_unknown".
COUNT_ONLY: Final = 'BULK = "count"'
RULES: Final = "rules"
ROW_SECURITY: Final = "row security"
COLUMN_PRIVILEGES: Final = "column privileges"
NO_TABLE: Final = "not a table"
NO_TRANSACTION: Final = "no transaction"
NOT_SUPPORTED: Final = "not supported"
NOT_READABLE: Final = "not readable"
CONCURRENT_CHANGE: Final = "concurrent change"


class ReturningRequest:
    """Columns of a model's rows that the next statements of one kind are to return."""

    __slots__ = (
        "before_update",
        "count_only",
        "fields",
        "include_plain_inserts",
        "is_counted",
        "kind",
        "max_rows",
        "model",
        "row_count",
        "rows",
        "unknown_reason",
    )

    def __init__(
        self,
        kind: StatementKind,
        model: type[Model],
        fields: Sequence[Field[Any, Any]],
        *,
        include_plain_inserts: bool,
        before_update: bool,
        count_only: bool,
        max_rows: int | None,
    ) -> None:
        self.kind = kind
        self.before_update = before_update
        """Whether the values before an update are wanted, as it changes them."""
        self.count_only = count_only
        """Whether only the number of rows is wanted, also of statements for which Django does not ask for it."""
        self.include_plain_inserts = include_plain_inserts
        """Whether inserts that ignore no conflict are wanted as well: they insert all their rows."""
        self.model = model
        self.fields = fields
        self.max_rows = max_rows
        """How many rows are kept; all of them if ``None``."""
        self.row_count = 0
        """How many rows the statements changed, as the database counted them."""
        self.is_counted = True
        """Whether the database counted the rows of all statements."""
        self.rows: list[Sequence[Any]] | None = None
        """The rows; ``None`` if there was no statement, or if they are unknown."""
        self.unknown_reason = ""
        """Why the rows are unknown."""

    def count_rows(self, row_count: Any) -> None:
        """Add the number of rows that a statement changed, as the database driver returned it."""
        if isinstance(row_count, int) and row_count >= 0:
            self.row_count += row_count
        else:
            self.is_counted = False

    def add_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Keep ``rows``, at most as many as are wanted."""
        if self.unknown_reason:
            return
        if self.rows is None:
            self.rows = []
        self.rows.extend(rows)
        if self.max_rows is not None:
            del self.rows[self.max_rows :]

    def needs_rows(self) -> bool:
        """Return whether another row would be kept."""
        if self.unknown_reason:
            return False
        return self.max_rows is None or self.rows is None or len(self.rows) < self.max_rows

    def mark_unknown(self, reason: str) -> None:
        """Forget the rows: those of one statement are unknown for ``reason``."""
        self.rows = None
        self.unknown_reason = self.unknown_reason or reason


_current_request: ContextVar[ReturningRequest | None] = ContextVar("signalbox_returning_request", default=None)


class _ReturningContext:
    """A block with a request. A generator would take three times as long."""

    __slots__ = ("_token", "requested")

    def __init__(self, requested: ReturningRequest | None) -> None:
        self.requested = requested

    def __enter__(self) -> Any:
        self._token = _current_request.set(self.requested)
        return self.requested

    def __exit__(self, *_: object) -> None:
        _current_request.reset(self._token)


def request_returning(
    kind: StatementKind,
    model: type[Model],
    fields: Sequence[Field[Any, Any]],
    *,
    include_plain_inserts: bool = False,
    before_update: bool = False,
    count_only: bool = False,
    max_rows: int | None = None,
) -> AbstractContextManager[ReturningRequest]:
    """Return a block whose statements of ``kind`` on ``model`` return ``fields``, which are columns of its own table.

    Args:
        kind: The kind of the statements.
        model: The concrete model.
        fields: The fields.
        include_plain_inserts: Whether inserts that ignore no conflicts are wanted as well.
        before_update: Whether the values before an update are wanted.
        count_only: Whether only the number of rows is wanted.
        max_rows: How many rows are kept at most; all if ``None``.
    """
    return _ReturningContext(
        ReturningRequest(
            kind,
            model,
            fields,
            include_plain_inserts=include_plain_inserts,
            before_update=before_update,
            count_only=count_only,
            max_rows=max_rows,
        )
    )


def suspend_returning() -> AbstractContextManager[None]:
    """Return a block whose statements return no more than they would without a request around it."""
    return _ReturningContext(None)


# ------------------------------------------------------------------ the statements

_original_update: Any
_original_execute: Any
_original_insert: Any
"""What the methods were when recording was installed."""


def install() -> None:
    """Let statements return rows while somebody asks."""
    global _original_update, _original_execute, _original_insert
    _original_update = patching.install(SQLUpdateCompiler, "execute_sql", _update)
    _original_execute = patching.install(SQLDeleteCompiler, "execute_sql", _delete)
    _original_insert = patching.install(QuerySet, "_insert", _insert)


def uninstall() -> None:
    """Leave the classes as Django made them."""
    patching.uninstall(SQLUpdateCompiler, "execute_sql")
    patching.uninstall(SQLDeleteCompiler, "execute_sql")
    patching.uninstall(QuerySet, "_insert")


def _update(self: Any, result_type: Any, *args: Any, **kwargs: Any) -> Any:
    requested = _get_matching_request(self, "update", result_type)
    if requested is None:
        return _original_update(self, result_type, *args, **kwargs)
    return _execute(self, requested, lambda result_type: _original_update(self, result_type, *args, **kwargs)) or 0


def _delete(self: Any, result_type: Any = MULTI, *args: Any, **kwargs: Any) -> Any:
    requested = _get_matching_request(self, "delete", result_type)
    if requested is None:
        return _original_execute(self, result_type, *args, **kwargs)
    return _execute(self, requested, lambda result_type: _original_execute(self, result_type, *args, **kwargs))


def _get_matching_request(compiler: Any, kind: StatementKind, result_type: Any) -> ReturningRequest | None:
    requested = _current_request.get()
    if requested is None or requested.kind != kind or (result_type != ROW_COUNT and not requested.count_only):
        return None
    return requested if compiler.query.model._meta.concrete_model is requested.model else None


def _execute(compiler: Any, requested: ReturningRequest, execute: Callable[[Any], Any]) -> Any:
    """Execute an update or delete by ``execute(result_type)`` and return the number of rows.

    The number is what the database returns without RETURNING as well; ``None`` for a statement that matches nothing.
    """
    connection, query = compiler.connection, compiler.query
    if requested.count_only:
        row_count = execute(ROW_COUNT)
        requested.count_rows(row_count or 0)
        return row_count
    named = _get_named_keys(requested, query)
    if named is not None and len(named) <= 1:
        return _execute_and_compare(requested, execute, lambda: named, CONCURRENT_CHANGE)
    if conf.get().BULK == "count":
        return _execute_and_compare(requested, execute, lambda: named, COUNT_ONLY)
    if _selects_keys_itself(compiler, requested):
        return _execute_and_compare(requested, execute, lambda: _get_named_keys(requested, query), CONCURRENT_CHANGE)
    can_return = _supports_returning(compiler, requested.kind)
    can_select = connection.vendor == "mysql" or (can_return and requested.before_update)
    reason = get_returning_obstacle(connection, requested.model, requested.fields)
    if not can_return and not can_select:
        reason = NOT_SUPPORTED
    if reason:
        return _execute_and_compare(requested, execute, lambda: named, reason)
    if can_select and (requested.before_update or not can_return):
        return _select_and_execute(compiler, requested, execute)
    return _execute_returning(compiler, requested, execute)


def _supports_returning(compiler: Any, kind: StatementKind) -> bool:
    """Return whether the database has RETURNING for the statement.

    MariaDB has it for deletes from one table and for inserts.
    """
    connection = compiler.connection
    if connection.vendor == "mysql":
        return kind == "delete" and bool(getattr(connection, "mysql_is_mariadb", False)) and compiler.single_alias
    return connection.vendor in ("postgresql", "sqlite") and bool(connection.features.can_return_columns_from_insert)


def _selects_keys_itself(compiler: Any, requested: ReturningRequest) -> bool:
    """Return whether Django selects the keys before an update and filters by them.

    It does so for fields of a parent's table, and on MySQL and MariaDB for filters across tables.
    """
    query = compiler.query
    if requested.kind != "update" or requested.before_update or not _asks_for_key(requested):
        return False
    if query.related_updates:
        return True
    if compiler.connection.features.update_can_self_select:
        return False
    query.get_initial_alias()
    return bool(query.count_active_tables() > 1)


def _execute_and_compare(
    requested: ReturningRequest, execute: Callable[[Any], Any], get_keys: Callable[[], list[Any] | None], reason: str
) -> Any:
    """Execute the statement as it is. Its rows are those with the keys of its filter if there are as many rows."""
    row_count = execute(ROW_COUNT)
    requested.count_rows(row_count or 0)
    if row_count:
        keys = get_keys()
        if keys is not None and len(keys) == row_count:
            requested.add_rows((key,) for key in keys)
        else:
            requested.mark_unknown(reason)
    else:
        requested.add_rows(())
    return row_count


def _select_and_execute(compiler: Any, requested: ReturningRequest, execute: Callable[[Any], Any]) -> Any:
    """Select the rows, locked, and execute the statement."""
    rows = _select_rows(compiler, requested)
    row_count = execute(ROW_COUNT)
    requested.count_rows(row_count or 0)
    if rows is None:
        requested.mark_unknown(NOT_READABLE if compiler.connection.in_atomic_block else NO_TRANSACTION)
    elif len(rows) > (row_count or 0):
        requested.mark_unknown(CONCURRENT_CHANGE)
    else:
        _add_raw_rows(compiler, requested, rows)
    return row_count


def _execute_returning(compiler: Any, requested: ReturningRequest, execute: Callable[[Any], Any]) -> Any:
    """Execute the statement with RETURNING at its end."""
    connection = compiler.connection
    quote = connection.ops.quote_name
    # MariaDB knows no table within RETURNING. The others would take a column of a joined one.
    prefix = "" if connection.vendor == "mysql" else f"{quote(requested.model._meta.db_table)}."
    returning = f"RETURNING {', '.join(prefix + quote(str(field.column)) for field in requested.fields)}"
    original_as_sql = compiler.as_sql

    def as_sql(*args: Any, **kwargs: Any) -> tuple[str, Any]:
        sql, params = original_as_sql(*args, **kwargs)
        return (f"{sql} {returning}" if sql else sql), params

    compiler.as_sql = as_sql
    try:
        cursor = execute(CURSOR)
    except DatabaseError as error:
        if not _is_returning_refused(connection, error):
            raise
        del compiler.as_sql
        return _execute_and_compare(requested, execute, lambda: None, NOT_SUPPORTED)
    finally:
        compiler.__dict__.pop("as_sql", None)
    if not hasattr(cursor, "fetchmany"):  # the statement could match nothing and was not sent
        requested.count_rows(cursor or 0)
        requested.add_rows(())
        return cursor
    try:
        row_count = _fetch(compiler, requested, cursor)
    finally:
        cursor.close()
    requested.count_rows(row_count)
    return row_count


def _fetch(compiler: Any, requested: ReturningRequest, cursor: Any) -> int:
    """Fetch the rows of a statement with RETURNING in chunks, and return the number of rows that it changed."""
    connection = compiler.connection
    if cursor.description is None:  # a comment at the end of the application's SQL
        requested.mark_unknown(NOT_READABLE)
        return int(cursor.rowcount)
    # SQLite counts the rows that are fetched. The others have counted them.
    is_counting = connection.vendor == "sqlite"
    try:
        requested.add_rows(())
        while is_counting or requested.needs_rows():
            rows = cursor.fetchmany(FETCH_SIZE)
            if not rows:
                break
            if requested.needs_rows():
                _add_raw_rows(compiler, requested, rows)
    except Exception as error:  # noqa: BLE001 - whatever fails here, the statement is executed
        interrupts.raise_if_interrupt(error)
        requested.mark_unknown(NOT_READABLE)
        if is_counting:
            cursor.close()  # ends the statement
            return int(connection.connection.execute("SELECT changes()").fetchone()[0])
    return int(cursor.rowcount)


_MARIADB_REFUSALS: Final = frozenset({1142, 1143})
"""MariaDB's errors of a missing privilege for a table and for a column. It has changed nothing."""


def _is_returning_refused(connection: BaseDatabaseWrapper, error: DatabaseError) -> bool:
    """Return whether the database refused RETURNING before it changed anything."""
    if connection.vendor == "sqlite":
        return "RETURNING is not available" in str(error)  # on virtual tables
    if connection.vendor == "mysql" and error.args:
        return error.args[0] in _MARIADB_REFUSALS and "SELECT" in str(error)
    return False


def _select_rows(compiler: Any, requested: ReturningRequest) -> list[Sequence[Any]] | None:
    """Return the rows that the statement is about to change, locked; ``None`` if they can't be selected."""
    connection = compiler.connection
    if not connection.in_atomic_block and connection.get_autocommit():  # the locks would end before the statement
        return None
    query = compiler.query.chain(klass=Query)
    query.get_initial_alias()
    query.select_related = False
    query.clear_ordering(force=True)
    query.extra = {}
    query.select = ()
    query.add_fields([field.name for field in requested.fields])
    if requested.max_rows is not None:
        query.set_limits(high=requested.max_rows)
    vendor = connection.vendor
    # PostgreSQL locks no rows of outer joins and groups.
    is_lockable = sum(map(bool, query.alias_refcount.values())) == 1 and not query.distinct and query.group_by is None
    query.select_for_update = vendor == "mysql" or (vendor == "postgresql" and is_lockable)

    def select() -> list[Sequence[Any]]:
        found: Iterable[Sequence[Sequence[Any]]] = query.get_compiler(compiler.using).execute_sql(MULTI)
        return [row for part in found for row in part]

    if not take_write_lock(connection, requested.model):
        return None
    rows: list[Sequence[Any]] | None = read(connection, select)
    return rows


def read(connection: BaseDatabaseWrapper, select: Callable[[], Any]) -> Any:
    """Return what ``select()`` returns, ``None`` if it fails.

    Its statements are kept out of the application's query log. It fails without an effect on the application's
    transaction. Errors that end the transaction are raised, as the application's own statement would raise them.
    """
    if connection.needs_rollback:
        return None
    try:
        with without_query_logging(connection):
            if connection.vendor == "postgresql" and backends.in_transaction(connection):
                with transaction.atomic(using=connection.alias):
                    return select()
            if connection.vendor == "postgresql" and backends.has_foreign_transaction(connection):
                return None
            return select()
    except Exception as error:
        if interrupts.is_interrupt(error) or (isinstance(error, DatabaseError) and _is_lock_error(connection, error)):
            raise
        return None


_MYSQL_LOCK_ERRORS: Final = frozenset({1205, 1213})
"""MySQL's errors of a lock that was not granted in time, and of a deadlock."""


def _is_lock_error(connection: BaseDatabaseWrapper, error: DatabaseError) -> bool:
    """Return whether MySQL may have rolled back the transaction: nothing more must be written as if it were open."""
    return connection.vendor == "mysql" and bool(error.args) and error.args[0] in _MYSQL_LOCK_ERRORS


def take_write_lock(connection: Any, model: type[Model]) -> bool:
    """Take SQLite's write lock in the open transaction before rows are read, and return whether that succeeded.

    A transaction that reads first and writes later fails at once if another one has written in between. Other databases
    lock the rows that are read. The lock is taken on the driver's connection, beside what instruments its cursors.
    """
    if connection.vendor != "sqlite" or unit_of_work.get_or_attach(connection).is_implicit:
        return True
    quote = connection.ops.quote_name
    table, column = quote(model._meta.db_table), quote(str(model._meta.pk_fields[0].column))
    try:
        connection.ensure_connection()
        connection.connection.execute(f"UPDATE {table} SET {column} = {column} WHERE 0")  # noqa: S608 - Django's names
    except Exception as error:  # noqa: BLE001 - whatever fails here, the statement is executed
        interrupts.raise_if_interrupt(error)
        return False
    return True


# ------------------------------------------------------------------ keys that the filter names


def _asks_for_key(requested: ReturningRequest) -> bool:
    """Return whether the primary key is all that is asked for, in one column."""
    return len(requested.fields) == 1 and requested.fields[0] is requested.model._meta.pk


def _get_named_keys(requested: ReturningRequest, query: Any) -> list[Any] | None:
    """Return the primary keys that the filter of ``query`` names, ``None`` if it names none.

    All rows that the statement changes are among them. Only whole numbers and UUIDs count: texts may be equal by the
    rules of a collation.
    """
    field: Any = requested.model._meta.pk
    if not _asks_for_key(requested):
        return None
    target = field
    while target.remote_field is not None:
        target = target.target_field
    if not isinstance(target, IntegerField | UUIDField) or not _is_djangos(target):
        return None
    return _find_named_keys(query.where, field)


def _find_named_keys(where: Any, field: Any) -> list[Any] | None:
    if where.connector != AND or where.negated:
        return None
    for condition in where.children:
        if hasattr(condition, "children"):
            keys = _find_named_keys(condition, field)
            if keys is not None:
                return keys
            continue
        left = getattr(condition, "lhs", None)
        if type(left) is not Col or left.target is not field or left.alias != field.model._meta.db_table:
            continue
        right = condition.rhs
        if condition.lookup_name == "exact":
            values: list[Any] = [right]
        elif condition.lookup_name == "in" and isinstance(right, list | tuple | set | frozenset):
            values = list(dict.fromkeys(value for value in right if value is not None))
        else:
            continue
        if all(type(value) is int or type(value) is UUID for value in values):
            return values
    return None


def _is_djangos(field: Any) -> bool:
    return type(field).__module__.startswith("django.")


def _is_integer_field(field: Any) -> bool:
    """Return whether the field's values are whole numbers, which need no conversion."""
    while field.remote_field is not None:
        field = field.target_field
    return isinstance(field, IntegerField) and _is_djangos(field)


def _add_raw_rows(compiler: Any, requested: ReturningRequest, rows: Any) -> None:
    """Keep rows of the database, as many as are wanted, as the fields read them."""
    if requested.max_rows is not None:
        rows = rows[: max(0, requested.max_rows - len(requested.rows or ()))]
    if not all(map(_is_integer_field, requested.fields)):
        table = requested.model._meta.db_table
        try:
            converters = compiler.get_converters([field.get_col(table) for field in requested.fields])
            rows = list(compiler.apply_converters(rows, converters)) if converters else rows
        except Exception as error:  # noqa: BLE001 - whatever fails here, the statement is executed
            interrupts.raise_if_interrupt(error)
            requested.mark_unknown(NOT_READABLE)
            return
    requested.add_rows(rows)


# ------------------------------------------------------------------ whether returning is safe


class _CatalogueAnswer:
    """What the catalogue said about a table, for as long as the unit of work keeps it.

    That is until the transaction ends or the savepoint is rolled back in which it was asked.
    """

    __slots__ = ("__weakref__", "obstacle", "savepoint")

    def __init__(self, obstacle: str, savepoint: str | None) -> None:
        self.obstacle = obstacle
        self.savepoint = savepoint

    def restore(self) -> None:
        """Do nothing: there is nothing to take back."""

    def forget(self) -> None:
        """Do nothing: there is nothing to take back."""

    def is_alive(self) -> bool:
        """Return True: the answer is needed until the transaction ends."""
        return True


_answers: weakref.WeakKeyDictionary[
    BaseDatabaseWrapper, weakref.WeakValueDictionary[tuple[Any, ...], _CatalogueAnswer]
] = weakref.WeakKeyDictionary()

_CATALOGUE_SQL: Final = (
    "SELECT c.oid, c.relkind IN ('r', 'p'), c.relhasrules, pg_catalog.row_security_active(c.oid), "
    "pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c WHERE "
)
"""Whether statements on a relation may return columns: only of tables without rules and row security."""
_RULES_SQL: Final = "SELECT count(*) FROM pg_catalog.pg_rewrite WHERE ev_class = %s"
"""A table that has lost its rules is marked as one with rules until it is vacuumed."""
_PRIVILEGES_SQL: Final = (
    "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attname = ANY(%s) "
    "AND pg_catalog.has_column_privilege(attrelid, attnum, 'SELECT')"
)


def get_returning_obstacle(
    connection: BaseDatabaseWrapper, model: type[Model], fields: Sequence[Field[Any, Any]]
) -> str:
    """Return why statements on the table of ``model`` must not return ``fields``, an empty string if they may.

    On PostgreSQL the catalogue is asked, once for each table in a transaction or savepoint.
    """
    if connection.vendor != "postgresql":
        return ""
    columns = tuple(str(field.column) for field in fields)
    savepoints: list[str | None] = list(connection.savepoint_ids)  # a block without one has None
    savepoint = next((sid for sid in reversed(savepoints) if sid is not None), None)
    answers = _answers.setdefault(connection, weakref.WeakValueDictionary())
    key = (model._meta.db_table, columns, getattr(connection, "schema_name", None))
    answer = answers.get(key)
    if answer is None or answer.savepoint != savepoint:
        answer = _CatalogueAnswer(_ask_catalogue(connection, model._meta.db_table, columns), savepoint)
        if backends.in_transaction(connection):
            answers[key] = answer
            unit_of_work.get_or_attach(connection).add_rollbackable(answer)
    return answer.obstacle


def _ask_catalogue(connection: Any, table: str, columns: Sequence[str]) -> str:
    """Ask PostgreSQL's catalogue, in one message, with a savepoint where a transaction is open."""
    names = connection.ops.quote_name(table)[1:-1].split('"."')
    if len(names) == 1:
        condition, params = "c.oid = pg_catalog.to_regclass(%s)", [f'"{names[0]}"']
    else:
        condition = "c.relname = %s AND c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)"
        params = [names[-1], names[0]]
    try:
        connection.ensure_connection()
        return _find_obstacle(connection, _query(connection, _CATALOGUE_SQL + condition, params), columns)
    except Exception as error:  # noqa: BLE001 - whatever fails here, the statement is executed
        interrupts.raise_if_interrupt(error)
        return NOT_READABLE


def _find_obstacle(connection: Any, row: Any, columns: Sequence[str]) -> str:
    if row is None:
        return NO_TABLE
    oid, is_table, has_rules, has_row_security, is_readable = row
    if not is_table:
        return NO_TABLE
    if has_rules and _query(connection, _RULES_SQL, [oid])[0]:
        return RULES
    if has_row_security:
        return ROW_SECURITY
    if not is_readable and _query(connection, _PRIVILEGES_SQL, [oid, list(columns)])[0] < len(columns):
        return COLUMN_PRIVILEGES
    return ""


_IDLE, _INTRANS = 0, 2
"""libpq's PQTRANS_IDLE and PQTRANS_INTRANS."""


def _query(connection: Any, sql: str, params: Sequence[Any]) -> Any:
    """Return the first row of a query on PostgreSQL, which has no effect on an open transaction if it fails.

    Raises the driver's errors, and ``DatabaseError`` if a query can't be sent now.
    """
    raw, is_psycopg3 = connection.connection, hasattr(connection.Database, "ClientCursor")
    status = int(raw.info.transaction_status)
    if status not in (_IDLE, _INTRANS) or (is_psycopg3 and raw.pgconn.pipeline_status):
        raise DatabaseError("The transaction has failed, or a pipeline is open.")
    with closing(cast("PostgreSQLBackend", backends.get_backend(connection)).create_cursor()) as cursor:
        if status == _IDLE and raw.autocommit:
            cursor.execute(sql, params)
            return cursor.fetchone()
        try:
            # psycopg2 keeps only the last result of a message.
            release = "; RELEASE SAVEPOINT signalbox" if is_psycopg3 else ""
            cursor.execute(f"SAVEPOINT signalbox; {sql}{release}", params)
            if is_psycopg3:
                cursor.nextset()
            row = cursor.fetchone()
            if not is_psycopg3:
                cursor.execute("RELEASE SAVEPOINT signalbox")
        except BaseException:
            if backends.is_transaction_aborted(connection):
                cursor.execute("ROLLBACK TO SAVEPOINT signalbox; RELEASE SAVEPOINT signalbox")
            raise
    return row


# ------------------------------------------------------------------ inserts


class _RawColumn:
    """A field whose column an insert returns as the driver has it.

    Up to Django 6.0 an insert of one object that returns nothing, because of a conflict, can't be converted.
    """

    def __init__(self, field: Field[Any, Any]) -> None:
        self._field = field

    def __getattr__(self, name: str) -> Any:
        return getattr(self._field, name)

    def get_col(self, *_: Any, **__: Any) -> None:
        """Return no expression, so that nothing is converted."""


def _insert(
    self: Any, objs: Any, fields: Any, returning_fields: Any = None, *args: Any, on_conflict: Any = None, **kwargs: Any
) -> Any:
    """Insert as Django does. Where conflicts are ignored, find out which rows were inserted."""
    requested = _current_request.get()
    if (
        requested is None
        or requested.kind != "insert"
        or self.model._meta.concrete_model is not requested.model._meta.concrete_model
        or args
    ):
        return _original_insert(self, objs, fields, returning_fields, *args, on_conflict=on_conflict, **kwargs)
    insert = partial(_original_insert, self, objs, fields, on_conflict=on_conflict, **kwargs)
    if on_conflict != OnConflict.IGNORE or returning_fields:
        answer = insert(returning_fields=returning_fields)
        if requested.include_plain_inserts:
            requested.count_rows(len(objs))
            requested.add_rows(_get_requested_rows(objs, requested) or ())
        return answer
    connection = connections[kwargs.get("using") or self.db]
    reason = _get_insert_obstacle(connection, requested)
    if not reason:
        try:
            found = insert(returning_fields=list(map(_RawColumn, requested.fields)))
        except DatabaseError as error:
            if not _is_returning_refused(connection, error):
                raise
            reason = COLUMN_PRIVILEGES
        else:
            inserted = [row for row in found if row is not None]
            requested.count_rows(len(inserted))
            requested.add_rows(())
            _add_raw_rows(SQLCompiler(Query(self.model), connection, None), requested, inserted)
            return []
    row_count, answer = _insert_and_count(self.model, connection, insert)
    requested.count_rows(row_count)
    rows = _get_requested_rows(objs, requested) if row_count == len(objs) else None
    if row_count == 0:
        requested.add_rows(())
    elif rows is None:
        requested.mark_unknown(reason)
    else:
        requested.add_rows(rows)
    return answer


def _get_insert_obstacle(connection: BaseDatabaseWrapper, requested: ReturningRequest) -> str:
    if conf.get().BULK == "count":
        return COUNT_ONLY
    if not connection.features.can_return_rows_from_bulk_insert:
        return NOT_SUPPORTED
    return get_returning_obstacle(connection, requested.model, requested.fields)


def _insert_and_count(
    model: type[Model], connection: BaseDatabaseWrapper, insert: Callable[[], Any]
) -> tuple[int | None, Any]:
    """Insert by ``insert()``, and return the number of inserted rows, ``None`` if it is unknown, and the result."""
    head = f"INTO {connection.ops.quote_name(model._meta.db_table)} "
    counts: list[int] = []

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if "INSERT" in sql and head in sql:
            counts.append(context["cursor"].rowcount)
        return result

    with connection.execute_wrapper(count):
        answer = insert()
    return (counts[0] if len(counts) == 1 else None), answer


def _get_requested_rows(objs: Any, requested: ReturningRequest) -> list[Sequence[Any]] | None:
    """Return the requested fields of objects that were all inserted; ``None`` if the database made their values."""
    names = [field.attname for field in requested.fields]
    get: Any = attrgetter(*names)
    rows: list[Sequence[Any]] = list(map(get, objs)) if len(names) > 1 else [(get(one),) for one in objs]
    if any(value is None or hasattr(value, "resolve_expression") for row in rows for value in row):
        return None
    return rows
