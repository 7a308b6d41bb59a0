"""Learning from a bulk statement itself which rows it changed: RETURNING, where the database has it.

A SELECT before the write costs a statement, and could miss what is changed in between. It is what remains for MySQL's
updates, with the rows locked, and for the few statements that RETURNING doesn't go with. On SQLite it is several times
faster for many rows, and exact, as it comes after the write lock: in a deferred transaction, a write that follows a
SELECT would fail at once if somebody else has written.
"""

from __future__ import annotations

import json
from contextlib import closing
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db import connections
from django.db.models import AutoField, IntegerField, QuerySet
from django.db.models.constants import OnConflict
from django.db.models.sql import InsertQuery, Query
from django.db.models.sql.compiler import SQLDeleteCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import MULTI, ROW_COUNT

from signalbox.instrumentation import patching
from signalbox.pipeline import unit_of_work

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, Model

    StatementKind = Literal["insert", "update", "delete"]

FETCH_SIZE: Final = 2_000
"""Rows that are fetched at once."""


class ReturningRequest:
    """Columns of a model's rows that the next statements of one kind are to return."""

    __slots__ = ("before_update", "fields", "include_plain_inserts", "kind", "max_rows", "model", "row_count", "rows")

    def __init__(
        self,
        kind: StatementKind,
        model: type[Model],
        fields: Sequence[Field[Any, Any]],
        *,
        include_plain_inserts: bool,
        before_update: bool,
        max_rows: int | None,
    ) -> None:
        self.kind = kind
        self.before_update = before_update
        """Whether an update is to tell what the rows held before it."""
        self.include_plain_inserts = include_plain_inserts
        """Whether inserts that ignore no conflict are wanted as well: all their rows go in."""
        self.model = model
        self.fields = fields
        self.max_rows = max_rows
        """How many rows are kept; all of them if ``None``."""
        self.row_count = 0
        """How many came back."""
        self.rows: list[Sequence[Any]] | None = None
        """What came back; ``None`` if no statement of this kind could be asked."""

    def add_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """Keep ``rows``, as many as are wanted."""
        if self.rows is None:
            self.rows = []
        self.row_count += len(rows)
        self.rows.extend(rows if self.max_rows is None else rows[: max(0, self.max_rows - len(self.rows))])


_current_request: ContextVar[ReturningRequest | None] = ContextVar("signalbox_returning_request", default=None)


class _ReturningContext:
    """A block, which a generator would make three times as dear."""

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
    max_rows: int | None = None,
) -> AbstractContextManager[ReturningRequest]:
    """Let the block's statements of ``kind`` on ``model`` return ``fields``, which lie in its own table."""
    return _ReturningContext(
        ReturningRequest(
            kind,
            model,
            fields,
            include_plain_inserts=include_plain_inserts,
            before_update=before_update,
            max_rows=max_rows,
        )
    )


def suspend_returning() -> AbstractContextManager[None]:
    """Let the block's statements return nothing more than they would: they are not those that were meant."""
    return _ReturningContext(None)


def supports_returning(kind: StatementKind, connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the database returns rows of statements of ``kind``: MariaDB does of inserts and deletes."""
    if kind == "insert":
        return connection.features.can_return_rows_from_bulk_insert
    if connection.vendor == "mysql":
        return kind == "delete" and bool(getattr(connection, "mysql_is_mariadb", False))
    return connection.vendor == "postgresql" or connection.features.can_return_columns_from_insert


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
    # Django updates a parent's table by a statement of its own, having selected the keys itself.
    needs_old_values = requested.before_update and not _should_list_first(self, requested)
    if self.query.related_updates or needs_old_values or not supports_returning("update", self.connection):
        rows = _select_rows(self, requested)
        row_count = _original_update(self, result_type, *args, **kwargs)
        requested.add_rows(rows)
        return row_count
    return (
        _list_and_execute(self, requested)
        if _should_list_first(self, requested)
        else _execute_returning(self, requested)
    ) or 0


def _delete(self: Any, result_type: Any = None, *args: Any, **kwargs: Any) -> Any:
    requested = _get_matching_request(self, "delete", result_type)
    if requested is None:
        return _original_execute(self, result_type, *args, **kwargs)
    # MariaDB's DELETE from several tables has no RETURNING.
    if not supports_returning("delete", self.connection) or (
        self.connection.vendor == "mysql" and not self.single_alias
    ):
        rows = _select_rows(self, requested)
        row_count = _original_execute(self, result_type, *args, **kwargs)
        requested.add_rows(rows)
        return row_count
    return (
        _list_and_execute(self, requested)
        if self.single_alias and _should_list_first(self, requested)
        else _execute_returning(self, requested)
    )


def _get_matching_request(compiler: Any, kind: StatementKind, result_type: Any) -> ReturningRequest | None:
    requested = _current_request.get()
    if requested is None or requested.kind != kind or result_type != ROW_COUNT:
        return None
    return requested if compiler.query.model._meta.concrete_model is requested.model else None


def _should_list_first(compiler: Any, requested: ReturningRequest) -> bool:
    """Tell whether the rows are to be listed before the statement: on SQLite, where there may be many."""
    return requested.max_rows is not None and compiler.connection.vendor == "sqlite"


def _list_and_execute(compiler: Any, requested: ReturningRequest) -> int | None:
    """Take SQLite's write lock, list the rows that the statement is about to change, and execute it; return their
    number, ``None`` for a statement that can match nothing.

    The application's query log holds its own statement alone.
    """
    sql, params = _compile(compiler)
    if not sql:
        requested.add_rows([])
        return None
    connection = compiler.connection
    quote = connection.ops.quote_name
    table = quote(requested.model._meta.db_table)
    columns = [quote(str(field.column)) for field in requested.fields]
    try:
        where, where_params = compiler.compile(compiler.query.where)
    except FullResultSet:
        where, where_params = "1", ()
    take_write_lock(connection, requested.model)
    with connection.wrap_database_errors, closing(connection.create_cursor()) as list_cursor:
        list_sql = f"SELECT {', '.join(columns)} FROM {table} WHERE {where} LIMIT {requested.max_rows}"  # noqa: S608 - as above
        if len(columns) == 1 and _is_integer_field(requested.fields[0]):  # as one text: rows by the thousand are dear
            list_sql = f"SELECT json_group_array({columns[0]}) FROM ({list_sql})"  # noqa: S608 - as above
            list_cursor.execute(list_sql, tuple(where_params))
            rows: list[Any] = list(zip(json.loads(list_cursor.fetchone()[0]), strict=True))
        else:
            list_cursor.execute(list_sql, tuple(where_params))
            rows = list_cursor.fetchall()
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        row_count: int = cursor.rowcount
    requested.add_rows(_convert_rows(compiler, requested, rows))
    return row_count


def take_write_lock(connection: Any, model: type[Model]) -> None:
    """Take SQLite's write lock in the open transaction, so that it may read first and write then: it would fail at once
    if somebody else had written in between. Other databases lock the rows that are read."""
    if connection.vendor != "sqlite":
        return
    quote = connection.ops.quote_name
    table, column = quote(model._meta.db_table), quote(str(model._meta.pk_fields[0].column))
    connection.ensure_connection()
    with connection.wrap_database_errors, closing(connection.create_cursor()) as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = {column} WHERE 0")  # noqa: S608 - Django's own names


def _is_integer_field(field: Any) -> bool:
    """Tell whether the field's values are whole numbers, which need no reading."""
    while field.remote_field is not None:
        field = field.target_field
    return isinstance(field, IntegerField) and type(field).__module__.startswith("django.")


def _compile(compiler: Any) -> tuple[str, Any]:
    """Return the statement with its parameters; an empty one if it can match nothing."""
    try:
        sql, params = compiler.as_sql()
    except EmptyResultSet:
        return "", ()
    return sql, params


def _select_rows(compiler: Any, requested: ReturningRequest) -> list[Sequence[Any]]:
    """Return the rows that the statement is about to change, locked where the database does so on its own."""
    query = compiler.query.chain(klass=Query)
    query.get_initial_alias()
    query.select_related = False
    query.clear_ordering(force=True)
    query.extra = {}
    query.select = ()
    query.add_fields([field.name for field in requested.fields])
    vendor = compiler.connection.vendor
    # PostgreSQL locks no rows of outer joins and groups.
    is_lockable = sum(map(bool, query.alias_refcount.values())) == 1 and not query.distinct and query.group_by is None
    query.select_for_update = vendor == "mysql" or (vendor == "postgresql" and is_lockable)
    with unit_of_work.without_query_logging(compiler.connection):
        rows: Iterable[Sequence[Sequence[Any]]] = query.get_compiler(compiler.using).execute_sql(MULTI)
        found = [row for part in rows for row in part]
    return _convert_rows(compiler, requested, found)


def _execute_returning(compiler: Any, requested: ReturningRequest) -> int | None:
    """Execute the statement with RETURNING; return the number of rows, ``None`` for one that can match nothing."""
    sql, params = _compile(compiler)
    if not sql:
        requested.add_rows([])
        return None
    connection = compiler.connection
    quote = connection.ops.quote_name
    # MariaDB knows no table within RETURNING, the others would take a column of a joined one.
    prefix = "" if connection.vendor == "mysql" else f"{quote(requested.model._meta.db_table)}."
    columns = ", ".join(prefix + quote(str(field.column)) for field in requested.fields)
    row_count = 0
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} RETURNING {columns}", params)
        while rows := cursor.fetchmany(FETCH_SIZE):
            row_count += len(rows)
            requested.add_rows(_convert_rows(compiler, requested, rows))
    if requested.rows is None:
        requested.add_rows([])
    return row_count


def _convert_rows(compiler: Any, requested: ReturningRequest, rows: Any) -> list[Sequence[Any]]:
    """Return rows as the fields read them."""
    if all(map(_is_integer_field, requested.fields)):
        return list(rows)
    table = requested.model._meta.db_table
    converters = compiler.get_converters([field.get_col(table) for field in requested.fields])
    return list(compiler.apply_converters(rows, converters) if converters else rows)


def _insert(
    self: Any, objs: Any, fields: Any, returning_fields: Any = None, *args: Any, on_conflict: Any = None, **kwargs: Any
) -> Any:
    """Insert as Django does; where conflicts are ignored, ask which rows went in."""
    requested = _current_request.get()
    if requested is None or requested.kind != "insert" or self.model is not requested.model or args:
        return _original_insert(self, objs, fields, returning_fields, *args, on_conflict=on_conflict, **kwargs)
    if on_conflict == OnConflict.IGNORE and not returning_fields:
        connection = connections[kwargs["using"]]
        if supports_returning("insert", connection):
            requested.add_rows(_insert_ignoring_conflicts(self.model, objs, fields, connection, requested))
            return []
    answer = _original_insert(self, objs, fields, returning_fields, on_conflict=on_conflict, **kwargs)
    if (
        requested.include_plain_inserts
    ):  # what MySQL ignores it does not tell: there, these are the rows that were asked for
        requested.add_rows(_get_requested_rows(objs, requested))
    return answer


def _insert_ignoring_conflicts(
    model: type[Model], objs: Any, fields: Any, connection: BaseDatabaseWrapper, requested: ReturningRequest
) -> list[Sequence[Any]]:
    """Insert ``objs`` that are not there yet, and return the rows that went in.

    Django's own fetching takes it that one object makes one row, which a conflict denies.
    """
    query = InsertQuery(model, on_conflict=OnConflict.IGNORE)
    query.insert_values(fields, objs)
    compiler: Any = query.get_compiler(connection=connection)
    if requested.include_plain_inserts and _can_infer_inserted_rows(connection, requested):
        row_count = sum(cursor.rowcount for cursor in _execute_insert(compiler, connection))
        if row_count == len(objs):
            return _get_requested_rows(objs, requested)
        return (
            _convert_rows(compiler, requested, _select_newest_rows(connection, requested, row_count))
            if row_count
            else []
        )
    compiler.returning_fields = list(requested.fields)
    rows = [row for cursor in _execute_insert(compiler, connection) for row in cursor.fetchall()]
    return _convert_rows(compiler, requested, rows)


def _execute_insert(compiler: Any, connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """Execute the statements of an insert; return the cursor after each."""
    with connection.cursor() as cursor:
        for sql, params in compiler.as_sql():
            cursor.execute(sql, params)
            yield cursor


def _get_requested_rows(objs: Any, requested: ReturningRequest) -> list[Sequence[Any]]:
    """Return the rows of ``objs`` as they were asked for."""
    names = [field.attname for field in requested.fields]
    get: Any = attrgetter(*names)
    return list(map(get, objs)) if len(names) > 1 else [(get(one),) for one in objs]


def _can_infer_inserted_rows(connection: BaseDatabaseWrapper, requested: ReturningRequest) -> bool:
    """Tell whether the number of rows that went in says which: on SQLite RETURNING costs as much as the rows, and new
    ones have the highest keys, as Django declares its automatic keys ``AUTOINCREMENT``."""
    return connection.vendor == "sqlite" and isinstance(requested.model._meta.pk, AutoField)


def _select_newest_rows(connection: Any, requested: ReturningRequest, row_count: int) -> list[Any]:
    """Return the ``row_count`` rows that the last statement inserted, oldest first. SQLite has one writer at a time."""
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in requested.fields)
    table, key = quote(requested.model._meta.db_table), quote(str(requested.model._meta.pk_fields[0].column))
    sql = f"SELECT {columns} FROM {table} ORDER BY {key} DESC LIMIT {row_count}"  # noqa: S608 - Django's own names
    with connection.wrap_database_errors, closing(connection.create_cursor()) as cursor:
        cursor.execute(sql)
        return list(reversed(cursor.fetchall()))
