"""SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from signalbox.pipeline import batches
from signalbox.pipeline.backends import sqlite_threads
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
    from collections.abc import Iterator, Sequence

    from signalbox.pipeline.backends.base import Grant
    from signalbox.pipeline.batches import Batch, TableRow

_BUSY_CODES: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class SQLiteBackend(DatabaseBackend):
    """SQLite has one write lock and no roles.

    The option ``timeout`` of the connection limits the time that a statement waits for the lock. It is not changed.
    """

    has_server = False
    has_concurrent_writers = False
    _journal_mode: tuple[Any, str] | None = None
    """The driver's connection and its journal mode. The query fails while the file is locked."""

    def has_foreign_transaction(self) -> bool:
        raw = self.connection.connection
        return raw is not None and bool(raw.in_transaction or raw.isolation_level is not None)

    def begin_immediate(self) -> AbstractContextManager[None]:
        # A transaction that reads before it writes fails with "database is locked" without waiting.
        is_deferred = getattr(self.connection, "transaction_mode", "") is None
        return self._begin_immediate() if is_deferred else nullcontext()

    @contextmanager
    def _begin_immediate(self) -> Iterator[None]:
        self.connection.transaction_mode = "IMMEDIATE"
        try:
            yield
        finally:
            self.connection.transaction_mode = None

    def excluding_transactions(self, max_wait: float = 0.0) -> AbstractContextManager[bool]:
        return sqlite_threads.excluding_transactions(self.connection, max_wait)

    def can_write_beside_readers(self) -> bool:
        self.connection.ensure_connection()
        return self._get_journal_mode() == "wal"

    def opens_transaction_with_savepoint(self) -> bool:
        # With autocommit off the driver begins a transaction before the first write.
        with self.connection.wrap_database_errors:
            return not self.connection.connection.in_transaction

    def is_transaction_alive(self, error: BaseException) -> bool:
        raw = self.connection.connection
        if raw.in_transaction:
            return True
        raw.execute("BEGIN")  # otherwise each following statement would be committed separately
        return False

    def write(
        self, batch: Batch, *, nested: bool, schema: str | None = None, lock_timeout: float | None = None
    ) -> None:
        is_ephemeral = not (nested or batch.requires_durability())
        with self.relaxed_durability() if is_ephemeral else nullcontext():
            self._write(batch, nested)

    def _write(self, batch: Batch, nested: bool) -> None:
        database = self.connection.connection
        if nested and not database.in_transaction:  # the driver begins one before it writes, not before a savepoint
            database.execute("BEGIN")
        statements = list(_iter_statements(batch))
        if not nested and not database.in_transaction:
            # Begin with the write lock, see ``begin_immediate()``.
            before, undo, after = "BEGIN IMMEDIATE", "ROLLBACK", "COMMIT"
        elif len(statements) == 1 and len(statements[0][1]) == 1:  # one statement is all or nothing by itself
            before = undo = after = ""
        else:
            before, undo, after = "SAVEPOINT signalbox", "ROLLBACK TO signalbox; RELEASE signalbox", "RELEASE signalbox"
        if before:
            database.execute(before)
        try:
            for sql, rows in statements:
                database.executemany(sql, rows)
            if after:
                database.execute(after)
        except BaseException:
            if undo and database.in_transaction:  # some errors end it
                for sql in undo.split("; "):
                    database.execute(sql)
            raise

    def query_error_keys(self, trace_ids: Sequence[str], schema: str | None = None) -> set[TableRow]:
        sql = SELECT_ERROR_KEYS_SQL.format(table=batches.ERROR_TABLE, p=", ".join("?" * len(trace_ids)))
        return set(self.connection.connection.execute(sql, tuple(trace_ids)).fetchall())

    @contextmanager
    def relaxed_durability(self) -> Iterator[None]:
        """Set ``synchronous`` to NORMAL for the block, in WAL mode. In the other modes the file could be damaged.

        Nothing changes in an open transaction.
        """
        connection = self.connection
        if connection.in_atomic_block:
            yield
            return
        connection.ensure_connection()
        raw = connection.connection
        with connection.wrap_database_errors:
            full = raw.execute("PRAGMA synchronous").fetchone()[0]
            relax = full >= 2 and not raw.in_transaction and self._get_journal_mode() == "wal"
            if relax:
                raw.execute("PRAGMA synchronous = 1")
        try:
            yield
        finally:
            if relax:
                with connection.wrap_database_errors:
                    raw.execute(f"PRAGMA synchronous = {full}")

    def _get_journal_mode(self) -> str:
        raw = self.connection.connection
        known = self._journal_mode
        if known is None or known[0] is not raw:
            known = self._journal_mode = (raw, raw.execute("PRAGMA journal_mode").fetchone()[0])
        return known[1]

    def query_has_tables(self) -> bool:
        sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)"
        names = (batches.EVENT_TABLE, batches.TRACE_TABLE)
        return bool(self.connection.connection.execute(sql, names).fetchone()[0] == 2)

    def query_missing_grants(self, grants: Sequence[Grant]) -> list[Grant]:
        return []

    def query_storage(self, tables: Sequence[str]) -> Storage:
        # SQLite optimizes only a single max() or min() of a query. The virtual table dbstat reads every page.
        raw = self.connection.connection
        sizes = {}
        for table in tables:
            bounds = f"(SELECT max(rowid) FROM {table}) - (SELECT min(rowid) FROM {table}) + 1"
            sizes[table] = TableSize(raw.execute(f"SELECT coalesce({bounds}, 0)").fetchone()[0], None)
        pages, page_size = (raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return Storage(sizes, pages * page_size)

    def _is_row_error(self, error: BaseException) -> bool:
        return "binding parameter" in str(error)

    def vacuum(self, tables: Sequence[str]) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("VACUUM")

    def is_lock_timeout(self, error: BaseException) -> bool:
        return _get_code(error) in _BUSY_CODES

    def is_refused_for_now(self, error: BaseException) -> bool:
        return _get_code(error) == sqlite3.SQLITE_READONLY

    def is_commit_outcome_known(self, error: BaseException) -> bool:
        return True


def _get_code(error: BaseException) -> int:
    """Return the primary code of an error, which is the low byte of its extended code."""
    code: int = getattr(error.__cause__, "sqlite_errorcode", 0)
    return code & 0xFF


@cache
def _build_insert(table: str, columns: Sequence[tuple[str, str]]) -> str:
    return f"INSERT INTO {table} ({format_column_names(columns)}) VALUES ({', '.join('?' * len(columns))})"


# An event is updated soon after it was written. The newest one of its trace is found first, by the index of the trace.
_UPDATE_EVENT_SQL: Final = (
    f"UPDATE {batches.EVENT_TABLE} SET duration = ?, errors = ?, data = ? WHERE id = (SELECT id FROM "
    f"{batches.EVENT_TABLE} WHERE trace_id = ? AND span = ? ORDER BY trace_id DESC, id DESC LIMIT 1)"
)


def _iter_statements(batch: Batch) -> Iterator[tuple[str, Sequence[TableRow]]]:
    for table, columns, rows in iter_inserts(batch):
        yield _build_insert(table, columns), rows
    if batch.event_updates:
        yield _UPDATE_EVENT_SQL, batch.event_updates
    if batch.trace_updates:
        yield UPDATE_TRACE_SQL.format(table=batches.TRACE_TABLE, p="?"), batch.trace_updates
