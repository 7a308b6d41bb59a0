"""MariaDB and MySQL."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from signalbox.pipeline import batches
from signalbox.pipeline.backends.base import (
    UPDATE_EVENT_SQL,
    UPDATE_TRACE_SQL,
    DatabaseBackend,
    format_column_names,
    iter_inserts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from signalbox.pipeline.batches import Batch

_ROW_ERRORS: Final = frozenset({1264, 1265, 1292, 1300, 1366, 1406, 1411, 1644, 3140, 3819, 3988, 4025})
"""Errors about values, constraints, what a trigger raises: most of them come as ``OperationalError``."""
_LOCK_TIMEOUT: Final = 1205
_DEADLOCK: Final = 1213
_ROLLBACK_ERRORS: Final = frozenset({_LOCK_TIMEOUT, _DEADLOCK})
"""Errors that end the transaction: a lock's timeout, by configuration, and a deadlock."""
_PERMISSION_ERRORS: Final = frozenset({1044, 1142, 1143})
"""Access denied: to the database, to a statement on a table, to a column."""
_MAX_INSERT_ROWS: Final = 500
"""Rows in one statement: 500 rows of 15 parameters remain far below the largest packet."""
_SAVE_LOCK_TIMEOUTS: Final = (
    "SET @signalbox_lock_wait = @@SESSION.lock_wait_timeout, "
    "@signalbox_row_lock_wait = @@SESSION.innodb_lock_wait_timeout, "
    "SESSION lock_wait_timeout = {table}, SESSION innodb_lock_wait_timeout = {row}"
)
_RESTORE_LOCK_TIMEOUTS: Final = (
    "SET SESSION lock_wait_timeout = @signalbox_lock_wait, SESSION innodb_lock_wait_timeout = @signalbox_row_lock_wait"
)


class MySQLBackend(DatabaseBackend):
    """MariaDB can be asked about its transaction by a statement, MySQL cannot. Both know whole seconds of waiting."""

    @property
    def _is_mariadb(self) -> bool:
        return bool(getattr(self.connection, "mysql_is_mariadb", False))

    def has_foreign_transaction(self) -> bool:
        if self.connection.connection is None or not self._is_mariadb:
            return False
        with self.connection.wrap_database_errors:
            return self._query_in_transaction()

    def _query_in_transaction(self) -> bool:
        with self.connection.connection.cursor() as cursor:
            cursor.execute("SELECT @@in_transaction")
            return bool(cursor.fetchone()[0])

    def is_transaction_alive(self, error: BaseException) -> bool:
        if self._is_mariadb:
            return self._query_in_transaction()
        return _get_code(error) not in (None, *_ROLLBACK_ERRORS)

    def write(
        self, batch: Batch, *, nested: bool, schema: str | None = None, lock_timeout: float | None = None
    ) -> None:
        statements = list(_iter_statements(batch))
        if not nested:
            before, undo, after = "START TRANSACTION", "ROLLBACK", "COMMIT"
        elif len(statements) > 1 and not batch.deliveries:
            before, undo, after = (
                "SAVEPOINT signalbox",
                "ROLLBACK TO SAVEPOINT signalbox",
                "RELEASE SAVEPOINT signalbox",
            )
        else:  # one statement is all or nothing; deliveries that fail make the whole transaction fail
            before = undo = after = ""
        prefix = restore = ""
        with self.connection.connection.cursor() as cursor:
            if lock_timeout is not None:
                row = max(1, math.ceil(lock_timeout))
                if self._is_mariadb:  # for one statement: the session keeps its own setting
                    table = math.ceil(lock_timeout)
                    prefix = f"SET STATEMENT lock_wait_timeout = {table}, innodb_lock_wait_timeout = {row} FOR "
                else:
                    cursor.execute(_SAVE_LOCK_TIMEOUTS.format(table=row, row=row))
                    restore = _RESTORE_LOCK_TIMEOUTS
            try:
                if before:
                    cursor.execute(before)
                try:
                    for sql, values in statements:
                        cursor.execute(prefix + sql, values)
                    if after:
                        cursor.execute(after)
                except BaseException:
                    if undo:
                        cursor.execute(undo)
                    raise
            finally:
                if restore:
                    cursor.execute(restore)

    def query_has_tables(self) -> bool:
        with self.connection.connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM information_schema.tables "
                "WHERE table_schema = database() AND table_name IN (%s, %s)",
                (batches.EVENT_TABLE, batches.TRACE_TABLE),
            )
            return bool(cursor.fetchone()[0] == 2)

    def query_missing_grants(self, schema: str | None = None) -> list[str]:
        missing = []
        with self.connection.connection.cursor() as cursor:
            for table, columns in batches.TABLE_COLUMNS.items():
                column = columns[0][0]
                for grant, sql in (
                    ("INSERT", f"EXPLAIN INSERT INTO {table} ({column}) VALUES (NULL)"),
                    ("UPDATE", f"EXPLAIN UPDATE {table} SET {column} = NULL WHERE id = 0"),
                    ("SELECT", f"EXPLAIN SELECT {column} FROM {table}"),
                ):
                    try:
                        cursor.execute(sql)
                    except self.connection.Database.Error as error:
                        if _get_code(error) not in _PERMISSION_ERRORS:
                            raise
                        missing.append(f"{grant} ON {table}")
        return missing

    def _is_row_error(self, error: BaseException) -> bool:
        return _get_code(error) in _ROW_ERRORS

    def is_conflict(self, error: BaseException) -> bool:
        return _get_code(error) == _DEADLOCK

    def is_lock_timeout(self, error: BaseException) -> bool:
        return _get_code(error) == _LOCK_TIMEOUT

    def is_permission_error(self, error: BaseException) -> bool:
        return _get_code(error) in _PERMISSION_ERRORS

    def is_commit_outcome_known(self, error: BaseException) -> bool:
        code = _get_code(error)
        return code is not None and 1000 <= code < 2000  # the client's own errors are 2000 to 2999


def _get_code(error: BaseException) -> int | None:
    """Return the number of an error of the server or the client; None if ``error`` has none."""
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else None


def _iter_statements(batch: Batch) -> Iterable[tuple[str, Sequence[Any]]]:
    for table, columns, rows in iter_inserts(batch):
        one = "(" + ", ".join(["%s"] * len(columns)) + ")"
        for start in range(0, len(rows), _MAX_INSERT_ROWS):
            part = rows[start : start + _MAX_INSERT_ROWS]
            head = f"INSERT INTO {table} ({format_column_names(columns, '`')}) VALUES "
            yield head + ", ".join([one] * len(part)), list(chain.from_iterable(part))
    for row in batch.event_updates:
        yield UPDATE_EVENT_SQL.format(table=batches.EVENT_TABLE, p="%s"), row
    for row in batch.trace_updates:
        yield UPDATE_TRACE_SQL.format(table=batches.TRACE_TABLE, p="%s"), row
