"""MariaDB and MySQL."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from django.db import NotSupportedError

from signalbox.pipeline import batches
from signalbox.pipeline.backends.base import (
    SELECT_ERROR_KEYS_SQL,
    UPDATE_TRACE_SQL,
    DatabaseBackend,
    Storage,
    TableSize,
    format_column_names,
    iter_inserts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from signalbox.pipeline.backends.base import Grant
    from signalbox.pipeline.batches import Batch, TableRow

_ROW_ERRORS: Final = frozenset({1264, 1265, 1292, 1300, 1366, 1406, 1411, 1644, 3140, 3819, 3988, 4025})
"""Errors about values, about constraints, and of triggers. Most of them are ``OperationalError``."""
_LOCK_TIMEOUT: Final = 1205
_DEADLOCK: Final = 1213
_ROLLBACK_ERRORS: Final = frozenset({_LOCK_TIMEOUT, _DEADLOCK})
"""Errors that end the transaction: a deadlock and, depending on the configuration, a lock timeout."""
_PERMISSION_ERRORS: Final = frozenset({1044, 1142, 1143})
"""Access denied: to the database, to a statement on a table, to a column."""
_READ_ONLY_ERRORS: Final = frozenset({1290, 1792, 1836})
"""The server, the transaction or the database is read-only. A replica refuses each write, with any grants."""
_REFUSED_FOR_NOW: Final = frozenset({1099, 1100, 1792})
"""The session has locked tables, but this one not or only for reading; the transaction is read-only."""
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


_GRANT_TESTS: Final = {
    "SELECT": "EXPLAIN SELECT {column} FROM {table}",
    "INSERT": "EXPLAIN INSERT INTO {table} ({column}) VALUES (NULL)",
    "UPDATE": "EXPLAIN UPDATE {table} SET {column} = NULL WHERE FALSE",
    "DELETE": "EXPLAIN DELETE FROM {table} WHERE FALSE",
}
"""A statement by privilege that is not executed, and that fails without it."""


class MySQLBackend(DatabaseBackend):
    """MariaDB has a statement that queries its transaction, MySQL has none. Their lock timeouts are whole seconds."""

    hides_tables = True

    @property
    def is_mariadb(self) -> bool:
        """Whether the server is MariaDB. Asks the server once if that is not known."""
        return bool(getattr(self.connection, "mysql_is_mariadb", False))

    def has_foreign_transaction(self) -> bool:
        raw = self.connection.connection
        if raw is None:
            return False
        if not raw.get_autocommit():
            return True
        if not self.is_mariadb:
            return False
        with self.connection.wrap_database_errors:
            return self._query_in_transaction()

    def _query_in_transaction(self) -> bool:
        with self.connection.connection.cursor() as cursor:
            cursor.execute("SELECT @@in_transaction")
            return bool(cursor.fetchone()[0])

    def is_transaction_alive(self, error: BaseException) -> bool:
        if self.is_mariadb:
            try:
                return self._query_in_transaction()
            except self.connection.Database.Error:  # the connection is lost
                return False
        return _get_code(error) not in (None, *_ROLLBACK_ERRORS)

    def write(
        self, batch: Batch, *, nested: bool, schema: str | None = None, lock_timeout: float | None = None
    ) -> None:
        statements = list(_iter_statements(batch))
        if nested and len(statements) > 1 and not batch.deliveries:
            before, undo, after = (
                "SAVEPOINT signalbox",
                "ROLLBACK TO SAVEPOINT signalbox",
                "RELEASE SAVEPOINT signalbox",
            )
        else:  # one statement is all or nothing; deliveries that fail make the whole transaction fail
            before = undo = after = ""
        prefix = restore = ""
        with nullcontext() if nested else self._transaction(), self.connection.connection.cursor() as cursor:
            if lock_timeout is not None:
                row = max(1, math.ceil(lock_timeout))
                if self.is_mariadb:  # for one statement: the session keeps its own setting
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the block in a transaction of its own.

        START TRANSACTION would release the tables that the application has locked with LOCK TABLES.
        """
        raw = self.connection.connection
        raw.autocommit(False)
        try:
            try:
                yield
            except BaseException:
                raw.rollback()
                raise
            raw.commit()
        finally:
            raw.autocommit(True)

    def query_error_keys(self, trace_ids: Sequence[str], schema: str | None = None) -> set[TableRow]:
        sql = SELECT_ERROR_KEYS_SQL.format(table=batches.ERROR_TABLE, p=", ".join(["%s"] * len(trace_ids)))
        with self.connection.connection.cursor() as cursor:
            cursor.execute(sql, tuple(trace_ids))
            return set(cursor.fetchall())

    def build_delete(self, table: str, ids: Sequence[int], condition: str = "") -> str:
        # Without the order, many of a table's ids make it read and lock the whole table. An index hint changes nothing.
        return f"{super().build_delete(table, ids, condition)} ORDER BY id LIMIT {len(ids)}"

    def query_has_tables(self) -> bool:
        with self.connection.connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM information_schema.tables "
                "WHERE table_schema = database() AND table_name IN (%s, %s)",
                (batches.EVENT_TABLE, batches.TRACE_TABLE),
            )
            return bool(cursor.fetchone()[0] == 2)

    def query_missing_grants(self, grants: Sequence[Grant]) -> list[Grant]:
        missing = []
        with self.connection.connection.cursor() as cursor:
            for grant in grants:
                try:
                    cursor.execute(_GRANT_TESTS[grant.privilege].format(table=grant.table, column=grant.column))
                except self.connection.Database.Error as error:
                    code = _get_code(error)
                    if code in _PERMISSION_ERRORS:
                        missing.append(grant)
                    elif code not in _READ_ONLY_ERRORS:
                        raise
        return missing

    def query_storage(self, tables: Sequence[str]) -> Storage:
        with self.connection.connection.cursor() as cursor:
            cursor.execute(
                "SELECT table_name, table_rows, data_length + index_length FROM information_schema.tables "
                f"WHERE table_schema = database() AND table_name IN ({', '.join(['%s'] * len(tables))})",
                tuple(tables),
            )
            return Storage({name: TableSize(rows, size) for name, rows, size in cursor.fetchall()})

    def _is_row_error(self, error: BaseException) -> bool:
        return _get_code(error) in _ROW_ERRORS

    vacuum_refusal = (
        "MariaDB and MySQL use the space of deleted rows for new ones. Only OPTIMIZE TABLE shrinks the file. It waits "
        "for open transactions and blocks new ones meanwhile. Run it yourself when the site is offline."
    )

    def vacuum(self, tables: Sequence[str]) -> None:
        raise NotSupportedError(self.vacuum_refusal)

    def is_conflict(self, error: BaseException) -> bool:
        return _get_code(error) == _DEADLOCK

    def is_lock_timeout(self, error: BaseException) -> bool:
        return _get_code(error) == _LOCK_TIMEOUT

    def is_refused_for_now(self, error: BaseException) -> bool:
        return _get_code(error) in _REFUSED_FOR_NOW

    def is_permission_error(self, error: BaseException) -> bool:
        return _get_code(error) in _PERMISSION_ERRORS

    def is_commit_outcome_known(self, error: BaseException) -> bool:
        code = _get_code(error)
        return code is not None and 1000 <= code < 2000  # the client's own errors are 2000 to 2999


def _get_code(error: BaseException) -> int | None:
    """Return the number of an error of the server or the client; None if ``error`` has none."""
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else None


# An event is updated soon after it was written. The newest one of its trace is found first, by the index of the trace.
_UPDATE_EVENT_SQL: Final = (
    f"UPDATE {batches.EVENT_TABLE} SET duration = %s, errors = %s, data = %s WHERE trace_id = %s AND span = %s "
    "ORDER BY trace_id DESC, id DESC LIMIT 1"
)


def _iter_statements(batch: Batch) -> Iterable[tuple[str, Sequence[Any]]]:
    for table, columns, rows in iter_inserts(batch):
        one = "(" + ", ".join(["%s"] * len(columns)) + ")"
        for start in range(0, len(rows), _MAX_INSERT_ROWS):
            part = rows[start : start + _MAX_INSERT_ROWS]
            head = f"INSERT INTO {table} ({format_column_names(columns, '`')}) VALUES "
            yield head + ", ".join([one] * len(part)), list(chain.from_iterable(part))
    for row in batch.event_updates:
        yield _UPDATE_EVENT_SQL, row
    for row in batch.trace_updates:
        yield UPDATE_TRACE_SQL.format(table=batches.TRACE_TABLE, p="%s"), row
