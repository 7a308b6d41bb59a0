"""Records the keys of the rows that a bulk update or delete changes: from its filter, RETURNING, or a SELECT before it.

Django executes the statement. If the database has RETURNING, the compiler of this statement adds it at the end, unless
that would change what the statement does. Then only the number of rows is known. A failing statement of Signalbox
neither prevents the application's statement nor aborts its transaction. Inserts are in `returning_inserts.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import DatabaseError
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLDeleteCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import CURSOR, MULTI, ROW_COUNT

from signalbox import conf
from signalbox.core import interrupts
from signalbox.instrumentation import converted_rows, patching, row_reads
from signalbox.instrumentation.filter_keys import get_named_keys, is_key_only
from signalbox.instrumentation.returning_request import (
    CONCURRENT_CHANGE,
    COUNT_ONLY,
    NO_TRANSACTION,
    NOT_READABLE,
    NOT_SUPPORTED,
    current_request,
)
from signalbox.instrumentation.statement_dialects import get_dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from signalbox.instrumentation.returning_request import ReturningRequest, StatementKind

FETCH_SIZE: Final = 2_000
"""Rows that are fetched at once."""

_original_update: Any
_original_execute: Any
"""The predecessors of the replaced methods."""


def install() -> None:
    """Return rows of the statements of each request."""
    global _original_update, _original_execute
    _original_update = patching.install(SQLUpdateCompiler, "execute_sql", _update)
    _original_execute = patching.install(SQLDeleteCompiler, "execute_sql", _delete)


def uninstall() -> None:
    """Restore the classes."""
    patching.uninstall(SQLUpdateCompiler, "execute_sql")
    patching.uninstall(SQLDeleteCompiler, "execute_sql")


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
    requested = current_request.get()
    if requested is None or requested.kind != kind or (result_type != ROW_COUNT and not requested.count_only):
        return None
    return requested if compiler.query.model._meta.concrete_model is requested.model else None


def _execute(compiler: Any, requested: ReturningRequest, execute: Callable[[Any], Any]) -> Any:
    """Execute an update or delete by ``execute(result_type)`` and return the number of rows.

    The number is the same as without RETURNING. It is None for a statement that Django does not send.
    """
    connection, query = compiler.connection, compiler.query
    if requested.count_only:
        row_count = execute(ROW_COUNT)
        requested.count_rows(row_count or 0)
        return row_count
    named = get_named_keys(requested, query)
    if named is not None and len(named) <= 1:
        return _execute_and_compare(requested, execute, lambda: named, CONCURRENT_CHANGE)
    if conf.get().BULK == "count":
        return _execute_and_compare(requested, execute, lambda: named, COUNT_ONLY)
    if _selects_keys_itself(compiler, requested):
        return _execute_and_compare(requested, execute, lambda: get_named_keys(requested, query), CONCURRENT_CHANGE)
    dialect = get_dialect(connection)
    can_return = dialect.can_return(compiler, requested.kind)
    can_select = dialect.selects_before or (can_return and requested.before_update)
    reason = dialect.get_obstacle(connection, requested.model, requested.fields)
    if not can_return and not can_select:
        reason = NOT_SUPPORTED
    if reason:
        return _execute_and_compare(requested, execute, lambda: named, reason)
    if can_select and (requested.before_update or not can_return):
        return _select_and_execute(compiler, requested, execute)
    return _execute_returning(compiler, requested, execute)


def _selects_keys_itself(compiler: Any, requested: ReturningRequest) -> bool:
    """Return True if Django selects the keys before an update and filters by them.

    It does so for fields of a parent's table, and on MySQL and MariaDB for filters across tables.
    """
    query = compiler.query
    if requested.kind != "update" or requested.before_update or not is_key_only(requested):
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
    """Execute the statement unchanged. Its keys are those of ``get_keys()`` if it changed as many rows.

    Otherwise they are unknown for ``reason``.
    """
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
        converted_rows.add_converted_rows(compiler, requested, rows)
    return row_count


def _execute_returning(compiler: Any, requested: ReturningRequest, execute: Callable[[Any], Any]) -> Any:
    """Execute the statement with RETURNING at its end."""
    connection = compiler.connection
    quote = connection.ops.quote_name
    prefix = f"{quote(requested.model._meta.db_table)}." if get_dialect(connection).qualifies_columns else ""
    returning = f"RETURNING {', '.join(prefix + quote(str(field.column)) for field in requested.fields)}"
    original_as_sql = compiler.as_sql

    def as_sql(*args: Any, **kwargs: Any) -> tuple[str, Any]:
        sql, params = original_as_sql(*args, **kwargs)
        return (f"{sql} {returning}" if sql else sql), params

    compiler.as_sql = as_sql
    try:
        cursor = execute(CURSOR)
    except DatabaseError as error:
        if not get_dialect(connection).is_returning_refused(error):
            raise
        del compiler.as_sql
        return _execute_and_compare(requested, execute, lambda: None, NOT_SUPPORTED)
    finally:
        compiler.__dict__.pop("as_sql", None)
    if not cursor:  # None or 0: the statement could match nothing and was not sent
        requested.count_rows(0)
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
    is_counting = get_dialect(connection).counts_fetched_rows
    try:
        requested.add_rows(())
        while is_counting or requested.needs_rows():
            rows = cursor.fetchmany(FETCH_SIZE)
            if not rows:
                break
            if requested.needs_rows():
                converted_rows.add_converted_rows(compiler, requested, rows)
    except Exception as error:  # noqa: BLE001 - the statement is executed in any case
        interrupts.raise_if_interrupt(error)
        requested.mark_unknown(NOT_READABLE)
        if is_counting:
            cursor.close()  # ends the statement
            return int(connection.connection.execute("SELECT changes()").fetchone()[0])
    return int(cursor.rowcount)


def _select_rows(compiler: Any, requested: ReturningRequest) -> list[Sequence[Any]] | None:
    """Lock and return the rows that the statement is about to change, None if they can't be selected."""
    connection = compiler.connection
    if not row_reads.is_lock_kept(connection):
        return None
    dialect = get_dialect(connection)
    query = compiler.query.chain(klass=Query)
    query.get_initial_alias()
    query.select_related = False
    query.clear_ordering(force=True)
    query.extra = {}
    query.select = ()
    query.add_fields([field.name for field in requested.fields])
    if requested.max_rows is not None:
        query.set_limits(high=requested.max_rows)
    query.select_for_update = dialect.can_lock(query)

    def select() -> list[Sequence[Any]]:
        found: Iterable[Sequence[Sequence[Any]]] = query.get_compiler(compiler.using).execute_sql(MULTI)
        return [row for part in found for row in part]

    if not dialect.take_write_lock(connection, requested.model):
        return None
    rows: list[Sequence[Any]] | None = row_reads.read(connection, select)
    return rows
