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
from django.db.models import AutoField, IntegerField, QuerySet
from django.db.models.constants import OnConflict
from django.db.models.sql import InsertQuery, Query
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import MULTI, ROW_COUNT

from signalbox.instrumentation.autocommit import connection_of
from signalbox.pipeline import unit_of_work

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, Model

    Kind = Literal["insert", "update", "delete"]

AT_ONCE: Final = 2_000
"""Rows that are fetched at once."""


class Wanted:
    """Columns of a model's rows that the next statements of one kind are to return."""

    __slots__ = ("every", "fields", "first", "kind", "model", "most", "number", "rows")

    def __init__(
        self,
        kind: Kind,
        model: type[Model],
        fields: Sequence[Field[Any, Any]],
        *,
        every: bool,
        first: bool,
        most: int | None,
    ) -> None:
        self.kind = kind
        self.first = first
        """Whether an update is to tell what the rows held before it."""
        self.every = every
        """Whether inserts that ignore no conflict are wanted as well: all their rows go in."""
        self.model = model
        self.fields = fields
        self.most = most
        """How many rows are kept; all of them if ``None``."""
        self.number = 0
        """How many came back."""
        self.rows: list[Sequence[Any]] | None = None
        """What came back; ``None`` if no statement of this kind could be asked."""

    def take(self, rows: Sequence[Sequence[Any]]) -> None:
        """Keep ``rows``, as many as are wanted."""
        if self.rows is None:
            self.rows = []
        self.number += len(rows)
        self.rows.extend(rows if self.most is None else rows[: max(0, self.most - len(self.rows))])


_wanted: ContextVar[Wanted | None] = ContextVar("signalbox_wanted", default=None)


class _Asking:
    """A block, which a generator would make three times as dear."""

    __slots__ = ("_token", "wanted")

    def __init__(self, wanted: Wanted | None) -> None:
        self.wanted = wanted

    def __enter__(self) -> Any:
        self._token = _wanted.set(self.wanted)
        return self.wanted

    def __exit__(self, *_: object) -> None:
        _wanted.reset(self._token)


def asking(
    kind: Kind,
    model: type[Model],
    fields: Sequence[Field[Any, Any]],
    *,
    every: bool = False,
    first: bool = False,
    most: int | None = None,
) -> AbstractContextManager[Wanted]:
    """Let the block's statements of ``kind`` on ``model`` return ``fields``, which lie in its own table."""
    return _Asking(Wanted(kind, model, fields, every=every, first=first, most=most))


def asking_nothing() -> AbstractContextManager[None]:
    """Let the block's statements return nothing more than they would: they are not those that were meant."""
    return _Asking(None)


def able(kind: Kind, connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the database returns rows of statements of ``kind``: MariaDB does of inserts and deletes."""
    if kind == "insert":
        return connection.features.can_return_rows_from_bulk_insert
    if connection.vendor == "mysql":
        return kind == "delete" and bool(getattr(connection, "mysql_is_mariadb", False))
    return connection.vendor == "postgresql" or connection.features.can_return_columns_from_insert


# ------------------------------------------------------------------ the statements

_original_update: Any = SQLUpdateCompiler.execute_sql
_original_execute: Any = SQLCompiler.execute_sql
_original_insert: Any = QuerySet._insert  # type: ignore[attr-defined]


def install() -> None:
    """Let statements return rows while somebody asks."""
    SQLUpdateCompiler.execute_sql = _update  # type: ignore[method-assign]
    SQLDeleteCompiler.execute_sql = _delete  # type: ignore[method-assign]
    QuerySet._insert = _insert  # type: ignore[attr-defined]


def uninstall() -> None:
    """Leave the classes as Django made them."""
    SQLUpdateCompiler.execute_sql = _original_update  # type: ignore[method-assign]
    if "execute_sql" in SQLDeleteCompiler.__dict__:
        del SQLDeleteCompiler.execute_sql
    QuerySet._insert = _original_insert  # type: ignore[attr-defined]


def _update(self: Any, result_type: Any) -> Any:
    wanted = _asked(self, "update", result_type)
    if wanted is None:
        return _original_update(self, result_type)
    # Django updates a parent's table by a statement of its own, having selected the keys itself.
    told_late = wanted.first and not _lists(self, wanted)
    if self.query.related_updates or told_late or not able("update", self.connection):
        found = _selected(self, wanted)
        number = _original_update(self, result_type)
        wanted.take(found)
        return number
    return (_listed(self, wanted) if _lists(self, wanted) else _returned(self, wanted)) or 0


def _delete(self: Any, result_type: Any = None, *args: Any, **kwargs: Any) -> Any:
    wanted = _asked(self, "delete", result_type)
    if wanted is None:
        return _original_execute(self, result_type, *args, **kwargs)
    # MariaDB's DELETE from several tables has no RETURNING.
    if not able("delete", self.connection) or (self.connection.vendor == "mysql" and not self.single_alias):
        found = _selected(self, wanted)
        number = _original_execute(self, result_type, *args, **kwargs)
        wanted.take(found)
        return number
    return _listed(self, wanted) if self.single_alias and _lists(self, wanted) else _returned(self, wanted)


def _asked(compiler: Any, kind: Kind, result_type: Any) -> Wanted | None:
    wanted = _wanted.get()
    if wanted is None or wanted.kind != kind or result_type != ROW_COUNT:
        return None
    return wanted if compiler.query.model._meta.concrete_model is wanted.model else None


def _lists(compiler: Any, wanted: Wanted) -> bool:
    """Tell whether the rows are to be listed before the statement: on SQLite, where there may be many."""
    return wanted.most is not None and compiler.connection.vendor == "sqlite"


def _listed(compiler: Any, wanted: Wanted) -> int | None:
    """Take SQLite's write lock, list the rows that the statement is about to change, and execute it; return their
    number, ``None`` for a statement that can match nothing.

    The application's query log holds its own statement alone.
    """
    sql, params = _compiled(compiler)
    if not sql:
        wanted.take([])
        return None
    connection = compiler.connection
    quote = connection.ops.quote_name
    table = quote(wanted.model._meta.db_table)
    columns = [quote(str(field.column)) for field in wanted.fields]
    try:
        where, where_params = compiler.compile(compiler.query.where)
    except FullResultSet:
        where, where_params = "1", ()
    lock(connection, wanted.model)
    with connection.wrap_database_errors, closing(connection.create_cursor()) as lister:
        listing = f"SELECT {', '.join(columns)} FROM {table} WHERE {where} LIMIT {wanted.most}"  # noqa: S608 - as above
        if len(columns) == 1 and _integral(wanted.fields[0]):  # as one text: rows by the thousand are dear
            listing = f"SELECT json_group_array({columns[0]}) FROM ({listing})"  # noqa: S608 - as above
            lister.execute(listing, tuple(where_params))
            rows: list[Any] = list(zip(json.loads(lister.fetchone()[0]), strict=True))
        else:
            lister.execute(listing, tuple(where_params))
            rows = lister.fetchall()
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        number: int = cursor.rowcount
    wanted.take(_converted(compiler, wanted, rows))
    return number


def lock(connection: Any, model: type[Model]) -> None:
    """Take SQLite's write lock in the open transaction, so that it may read first and write then: it would fail at once
    if somebody else had written in between. Other databases lock the rows that are read."""
    if connection.vendor != "sqlite":
        return
    quote = connection.ops.quote_name
    table, column = quote(model._meta.db_table), quote(str(model._meta.pk_fields[0].column))
    connection.ensure_connection()
    with connection.wrap_database_errors, closing(connection.create_cursor()) as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = {column} WHERE 0")  # noqa: S608 - Django's own names


def _integral(field: Any) -> bool:
    """Tell whether the field's values are whole numbers, which need no reading."""
    while field.remote_field is not None:
        field = field.target_field
    return isinstance(field, IntegerField) and type(field).__module__.startswith("django.")


def _compiled(compiler: Any) -> tuple[str, Any]:
    """Return the statement with its parameters; an empty one if it can match nothing."""
    try:
        sql, params = compiler.as_sql()
    except EmptyResultSet:
        return "", ()
    return sql, params


def _selected(compiler: Any, wanted: Wanted) -> list[Sequence[Any]]:
    """Return the rows that the statement is about to change, locked where the database does so on its own."""
    query = compiler.query.chain(klass=Query)
    query.get_initial_alias()
    query.select_related = False
    query.clear_ordering(force=True)
    query.extra = {}
    query.select = ()
    query.add_fields([field.name for field in wanted.fields])
    vendor = compiler.connection.vendor
    # PostgreSQL locks no rows of outer joins and groups.
    alone = sum(map(bool, query.alias_refcount.values())) == 1 and not query.distinct and query.group_by is None
    query.select_for_update = vendor == "mysql" or (vendor == "postgresql" and alone)
    with unit_of_work.without_query_logging(compiler.connection):
        rows: Iterable[Sequence[Sequence[Any]]] = query.get_compiler(compiler.using).execute_sql(MULTI)
        found = [row for part in rows for row in part]
    return _converted(compiler, wanted, found)


def _returned(compiler: Any, wanted: Wanted) -> int | None:
    """Execute the statement with RETURNING; return the number of rows, ``None`` for one that can match nothing."""
    sql, params = _compiled(compiler)
    if not sql:
        wanted.take([])
        return None
    connection = compiler.connection
    quote = connection.ops.quote_name
    # MariaDB knows no table within RETURNING, the others would take a column of a joined one.
    prefix = "" if connection.vendor == "mysql" else f"{quote(wanted.model._meta.db_table)}."
    columns = ", ".join(prefix + quote(str(field.column)) for field in wanted.fields)
    number = 0
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} RETURNING {columns}", params)
        while rows := cursor.fetchmany(AT_ONCE):
            number += len(rows)
            wanted.take(_converted(compiler, wanted, rows))
    if wanted.rows is None:
        wanted.take([])
    return number


def _converted(compiler: Any, wanted: Wanted, rows: Any) -> list[Sequence[Any]]:
    """Return rows as the fields read them."""
    if all(map(_integral, wanted.fields)):
        return list(rows)
    table = wanted.model._meta.db_table
    converters = compiler.get_converters([field.get_col(table) for field in wanted.fields])
    return list(compiler.apply_converters(rows, converters) if converters else rows)


def _insert(
    self: Any, objs: Any, fields: Any, returning_fields: Any = None, *args: Any, on_conflict: Any = None, **kwargs: Any
) -> Any:
    """Insert as Django does; where conflicts are ignored, ask which rows went in."""
    wanted = _wanted.get()
    if wanted is None or wanted.kind != "insert" or self.model is not wanted.model or args:
        return _original_insert(self, objs, fields, returning_fields, *args, on_conflict=on_conflict, **kwargs)
    if on_conflict == OnConflict.IGNORE and not returning_fields:
        connection = connection_of(kwargs["using"])
        if able("insert", connection):
            wanted.take(_inserted(self.model, objs, fields, connection, wanted))
            return []
    answer = _original_insert(self, objs, fields, returning_fields, on_conflict=on_conflict, **kwargs)
    if wanted.every:  # what MySQL ignores it does not tell: there, these are the rows that were asked for
        wanted.take(_asked_for(objs, wanted))
    return answer


def _inserted(
    model: type[Model], objs: Any, fields: Any, connection: BaseDatabaseWrapper, wanted: Wanted
) -> list[Sequence[Any]]:
    """Insert ``objs`` that are not there yet, and return the rows that went in.

    Django's own fetching takes it that one object makes one row, which a conflict denies.
    """
    query = InsertQuery(model, on_conflict=OnConflict.IGNORE)
    query.insert_values(fields, objs)
    compiler: Any = query.get_compiler(connection=connection)
    if wanted.every and _counts(connection, wanted):
        number = sum(cursor.rowcount for cursor in _executed(compiler, connection))
        if number == len(objs):
            return _asked_for(objs, wanted)
        return _converted(compiler, wanted, _newest(connection, wanted, number)) if number else []
    compiler.returning_fields = list(wanted.fields)
    rows = [row for cursor in _executed(compiler, connection) for row in cursor.fetchall()]
    return _converted(compiler, wanted, rows)


def _executed(compiler: Any, connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """Execute the statements of an insert; return the cursor after each."""
    with connection.cursor() as cursor:
        for sql, params in compiler.as_sql():
            cursor.execute(sql, params)
            yield cursor


def _asked_for(objs: Any, wanted: Wanted) -> list[Sequence[Any]]:
    """Return the rows of ``objs`` as they were asked for."""
    names = [field.attname for field in wanted.fields]
    get: Any = attrgetter(*names)
    return list(map(get, objs)) if len(names) > 1 else [(get(one),) for one in objs]


def _counts(connection: BaseDatabaseWrapper, wanted: Wanted) -> bool:
    """Tell whether the number of rows that went in says which: on SQLite RETURNING costs as much as the rows, and new
    ones have the highest keys, as Django declares its automatic keys ``AUTOINCREMENT``."""
    return connection.vendor == "sqlite" and isinstance(wanted.model._meta.pk, AutoField)


def _newest(connection: Any, wanted: Wanted, number: int) -> list[Any]:
    """Return the ``number`` rows that the last statement put in, oldest first. SQLite has one writer at a time."""
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in wanted.fields)
    table, key = quote(wanted.model._meta.db_table), quote(str(wanted.model._meta.pk_fields[0].column))
    sql = f"SELECT {columns} FROM {table} ORDER BY {key} DESC LIMIT {number}"  # noqa: S608 - Django's own names
    with connection.wrap_database_errors, closing(connection.create_cursor()) as cursor:
        cursor.execute(sql)
        return list(reversed(cursor.fetchall()))
