"""Asks the catalogue of PostgreSQL whether a statement may return columns of a table.

Rules, row security or missing privileges would change what a statement with RETURNING does.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, cast

from django.db import DatabaseError

from signalbox.core import interrupts
from signalbox.instrumentation import catalogue_answers
from signalbox.instrumentation.returning_request import (
    COLUMN_PRIVILEGES,
    NO_TABLE,
    NOT_READABLE,
    ROW_SECURITY,
    RULES,
)
from signalbox.pipeline import backends
from signalbox.pipeline.backends.postgresql import IDLE, INERROR, INTRANS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.pipeline.backends.postgresql import PostgreSQLBackend


_CATALOGUE_SQL: Final = (
    "SELECT c.oid, c.relkind IN ('r', 'p'), c.relhasrules, pg_catalog.row_security_active(c.oid), "
    "pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c WHERE "
)
"""The properties of a table on which RETURNING depends."""
_RULES_SQL: Final = "SELECT count(*) FROM pg_catalog.pg_rewrite WHERE ev_class = %s"
"""Number of rules. ``relhasrules`` stays true after the last rule is dropped, until the table is vacuumed."""
_PRIVILEGES_SQL: Final = (
    "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attname = ANY(%s) "
    "AND pg_catalog.has_column_privilege(attrelid, attnum, 'SELECT')"
)


def get_obstacle(connection: BaseDatabaseWrapper, table: str, columns: tuple[str, ...]) -> str:
    """Return the reason why statements on ``table`` must not return ``columns``, an empty string if they may.

    The catalogue is asked once for each table and columns in a transaction or savepoint.
    """
    key = (table, columns, getattr(connection, "schema_name", None))
    return catalogue_answers.get_answer(connection, key, lambda: _ask_catalogue(connection, table, columns))


def _ask_catalogue(connection: Any, table: str, columns: Sequence[str]) -> str:
    """Return the obstacle of a table from the catalogue, an empty string if there is none."""
    names = connection.ops.quote_name(table)[1:-1].split('"."')
    if len(names) == 1:
        condition, params = "c.oid = pg_catalog.to_regclass(%s)", [f'"{names[0]}"']
    else:
        condition = "c.relname = %s AND c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)"
        params = [names[-1], names[0]]
    try:
        connection.ensure_connection()
        return _find_obstacle(connection, _query(connection, _CATALOGUE_SQL + condition, params), columns)
    except Exception as error:  # noqa: BLE001 - the statement is executed in any case
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


def _query(connection: Any, sql: str, params: Sequence[Any]) -> Any:
    """Return the first row of a query, within a savepoint if a transaction is open.

    Raises the driver's errors, and ``DatabaseError`` if a query can't be sent now.
    """
    raw, is_psycopg3 = connection.connection, hasattr(connection.Database, "ClientCursor")
    status = int(raw.info.transaction_status)
    if status not in (IDLE, INTRANS) or (is_psycopg3 and raw.pgconn.pipeline_status):
        raise DatabaseError("The transaction has failed, or a pipeline is open.")
    with closing(cast("PostgreSQLBackend", backends.get_backend(connection)).create_cursor()) as cursor:
        try:
            if status == IDLE:  # nothing is in the transaction that this may begin
                cursor.execute(sql, params)
                return cursor.fetchone()
            # psycopg2 keeps only the last result of a message.
            release = "; RELEASE SAVEPOINT signalbox" if is_psycopg3 else ""
            cursor.execute(f"SAVEPOINT signalbox; {sql}{release}", params)
            if is_psycopg3:
                cursor.nextset()
            row = cursor.fetchone()
            if not is_psycopg3:
                cursor.execute("RELEASE SAVEPOINT signalbox")
        except BaseException:
            if status == IDLE:
                # A statement that an interrupt has left in progress can't be rolled back.
                if int(raw.info.transaction_status) in (INTRANS, INERROR):
                    raw.rollback()
            elif backends.is_transaction_aborted(connection):
                cursor.execute("ROLLBACK TO SAVEPOINT signalbox; RELEASE SAVEPOINT signalbox")
            raise
    return row
