"""Learning from a bulk statement itself which rows it changed: RETURNING, where the database has it.

A SELECT before the write would cost a statement, could miss what is changed in between, and in SQLite's deferred
transactions fails at once when somebody else has written.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import QuerySet
from django.db.models.constants import OnConflict
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import ROW_COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, Model

    Kind = Literal["insert", "update", "delete"]


class Wanted:
    """Columns of a model's rows that the next statements of one kind are to return."""

    __slots__ = ("every", "fields", "kind", "model", "rows")

    def __init__(self, kind: Kind, model: type[Model], fields: Sequence[Field[Any, Any]], every: bool) -> None:
        self.kind = kind
        self.every = every
        """Whether inserts that ignore no conflict are wanted as well: all their rows go in."""
        self.model = model
        self.fields = fields
        self.rows: list[Sequence[Any]] | None = None
        """What came back; ``None`` if no statement of this kind could be asked."""


_wanted: ContextVar[Wanted | None] = ContextVar("signalbox_wanted", default=None)


@contextmanager
def asking(
    kind: Kind, model: type[Model], fields: Sequence[Field[Any, Any]], *, every: bool = False
) -> Iterator[Wanted]:
    """Let the block's statements of ``kind`` on ``model`` return ``fields``."""
    wanted = Wanted(kind, model, fields, every)
    token = _wanted.set(wanted)
    try:
        yield wanted
    finally:
        _wanted.reset(token)


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
    SQLDeleteCompiler.execute_sql = _delete  # type: ignore[method-assign,assignment]
    QuerySet._insert = _insert  # type: ignore[attr-defined]


def uninstall() -> None:
    """Leave the classes as Django made them."""
    SQLUpdateCompiler.execute_sql = _original_update  # type: ignore[method-assign]
    if "execute_sql" in SQLDeleteCompiler.__dict__:
        del SQLDeleteCompiler.execute_sql
    QuerySet._insert = _original_insert  # type: ignore[attr-defined]


def _update(self: Any, result_type: Any) -> Any:
    wanted = _asked(self, "update", result_type)
    if wanted is None or self.query.get_related_updates():
        return _original_update(self, result_type)
    return _returned(self, wanted) or 0


def _delete(self: Any, result_type: Any = None, *args: Any, **kwargs: Any) -> Any:
    wanted = _asked(self, "delete", result_type)
    if wanted is None:
        return _original_execute(self, result_type, *args, **kwargs)
    return _returned(self, wanted)


def _asked(compiler: Any, kind: Kind, result_type: Any) -> Wanted | None:
    wanted = _wanted.get()
    if wanted is None or wanted.kind != kind or result_type != ROW_COUNT:
        return None
    if compiler.query.model._meta.concrete_model is not wanted.model or not able(kind, compiler.connection):
        return None
    return wanted


def _returned(compiler: Any, wanted: Wanted) -> int | None:
    """Execute the statement with RETURNING; return the number of rows, ``None`` for one that can match nothing."""
    try:
        sql, params = compiler.as_sql()
    except EmptyResultSet:
        sql = ""
    if not sql:
        wanted.rows = wanted.rows or []
        return None
    connection = compiler.connection
    quote = connection.ops.quote_name
    table = wanted.model._meta.db_table
    prefix = "" if connection.vendor == "mysql" else f"{quote(table)}."
    columns = ", ".join(prefix + quote(str(field.column)) for field in wanted.fields)
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} RETURNING {columns}", params)
        rows: Any = cursor.fetchall()
    number = len(rows)
    converters = compiler.get_converters([field.get_col(table) for field in wanted.fields])
    if converters:
        rows = list(compiler.apply_converters(rows, converters))
    wanted.rows = [*(wanted.rows or ()), *rows] if wanted.rows else list(rows)
    return number


def _insert(
    self: Any, objs: Any, fields: Any, returning_fields: Any = None, *args: Any, on_conflict: Any = None, **kwargs: Any
) -> Any:
    """Insert as Django does; where conflicts are ignored, ask which rows went in."""
    wanted = _wanted.get()
    if wanted is None or wanted.kind != "insert" or self.model is not wanted.model or args:
        return _original_insert(self, objs, fields, returning_fields, *args, on_conflict=on_conflict, **kwargs)
    if on_conflict == OnConflict.IGNORE and not returning_fields and able("insert", connections[kwargs["using"]]):
        rows = _original_insert(self, objs, fields, list(wanted.fields), on_conflict=on_conflict, **kwargs)
        wanted.rows = [*(wanted.rows or ()), *rows]
        return []
    answer = _original_insert(self, objs, fields, returning_fields, on_conflict=on_conflict, **kwargs)
    if wanted.every:  # what MySQL ignores it does not tell: there, these are the rows that were asked for
        wanted.rows = [
            *(wanted.rows or ()),
            *(tuple(getattr(one, field.attname) for field in wanted.fields) for one in objs),
        ]
    return answer
