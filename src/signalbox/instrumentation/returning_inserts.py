"""Records which rows an insert that ignores conflicts has inserted: from RETURNING, or from their number."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connections
from django.db.models import QuerySet
from django.db.models.constants import OnConflict
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLCompiler

from signalbox import conf
from signalbox.instrumentation import converted_rows, patching
from signalbox.instrumentation.returning_request import (
    COLUMN_PRIVILEGES,
    COUNT_ONLY,
    NOT_SUPPORTED,
    current_request,
)
from signalbox.instrumentation.statement_dialects import get_dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, Model

    from signalbox.instrumentation.returning_request import ReturningRequest

_original_insert: Any
"""The predecessor of the replaced method."""


def install() -> None:
    """Return rows of the inserts of each request."""
    global _original_insert
    _original_insert = patching.install(QuerySet, "_insert", _insert)


def uninstall() -> None:
    """Restore the class."""
    patching.uninstall(QuerySet, "_insert")


class _RawColumn:
    """A field whose column an insert returns as the driver returns it.

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
    """Insert as Django does. If conflicts are ignored, find out which rows were inserted."""
    requested = current_request.get()
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
            if not get_dialect(connection).is_returning_refused(error):
                raise
            reason = COLUMN_PRIVILEGES
        else:
            inserted = [row for row in found if row is not None]
            requested.count_rows(len(inserted))
            requested.add_rows(())
            converted_rows.add_converted_rows(SQLCompiler(Query(self.model), connection, None), requested, inserted)
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
    return get_dialect(connection).get_obstacle(connection, requested.model, requested.fields)


def _insert_and_count(
    model: type[Model], connection: BaseDatabaseWrapper, insert: Callable[[], Any]
) -> tuple[int | None, Any]:
    """Call ``insert()``. Return the number of inserted rows, None if it is unknown, and the result."""
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
    """Return the requested fields of inserted objects, None if the database has created a value."""
    names = [field.attname for field in requested.fields]
    get: Any = attrgetter(*names)
    rows: list[Sequence[Any]] = list(map(get, objs)) if len(names) > 1 else [(get(one),) for one in objs]
    if any(value is None or hasattr(value, "resolve_expression") for row in rows for value in row):
        return None
    return rows
