"""The interface through which the pipeline uses a database.

Statements go to the driver's own cursor. The application's query log, its ``assertNumQueries()`` and its execute
wrappers show the application's statements only, and Django's cursor would take longer to bind the parameters of an
event than the server takes to insert it.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError

from signalbox.pipeline import batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Schema
    from signalbox.pipeline.batches import Batch, TableRow

UPDATE_TRACE_SQL: Final = (
    "UPDATE {table} SET kind = {p}, name = {p}, duration = {p}, status = {p}, events = {p}, errors = {p}, "
    "rolled_back = {p}, data = {p} WHERE trace_id = {p} AND time = {p}"
)


SELECT_ERROR_KEYS_SQL: Final = "SELECT trace_id, span, position FROM {table} WHERE trace_id IN ({p})"


class Grant(NamedTuple):
    """What a role may do with a table."""

    privilege: str
    """``SELECT``, ``INSERT``, ``UPDATE`` or ``DELETE``."""
    table: str
    column: str
    """Name of a column of the table."""

    def __str__(self) -> str:
        return f"{self.privilege} ON {self.table}"


class TableSize(NamedTuple):
    """The size of one table."""

    rows: int | None
    """Number of rows, estimated; None if the database has no estimate."""
    bytes: int | None
    """Bytes on disk, with indexes; None if the database has no such number for one table."""


class Storage(NamedTuple):
    """The sizes of the tables in one database."""

    tables: dict[str, TableSize]
    """By name."""
    file_bytes: int | None = None
    """Bytes of the whole database, if it is one file."""


class TransactionSnapshot(NamedTuple):
    """The range of a database's open transactions. Their numbers rise in the order of their start."""

    xmin: int
    """Number of the oldest open transaction."""
    xmax: int
    """Number of the next transaction."""


class DatabaseBackend(ABC):
    """Operations of the pipeline on the database of one connection.

    Methods that send a statement need an open connection and raise the driver's own errors, unless they say otherwise.
    Methods that take an error expect one of ``django.db``.
    """

    has_server: ClassVar[bool] = True
    """Whether the database is a server, which may not answer."""
    hides_tables: ClassVar[bool] = False
    """Whether a table is not listed if the role has no grant for it."""
    has_concurrent_writers: ClassVar[bool] = True
    """Whether several transactions can write at a time, so that a smaller id can become visible after a greater one."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = weakref.ref(connection)  # it owns the backend

    @property
    def connection(self) -> Any:
        """Django's connection. Raises ``ReferenceError`` if it no longer exists."""
        connection = self._connection()
        if connection is None:
            raise ReferenceError("The connection no longer exists.")
        return connection

    # ------------------------------------------------------------ transactions

    def in_transaction(self) -> bool:
        """Return True if Django has a transaction open, whose COMMIT commits what is written now."""
        connection = self.connection
        if connection.in_atomic_block:
            return True
        is_closed = connection.connection is None  # ``autocommit`` is then that of the previous connection
        return not (connection.get_autocommit() if is_closed else connection.autocommit)

    def has_foreign_transaction(self) -> bool:
        """Return True if a transaction is open that Django does not know of, such as after a raw BEGIN.

        The same if the next statement opens one, as the application has switched off autocommit without Django.
        Call it only if ``in_transaction()`` is False. Raises ``django.db.DatabaseError`` if a statement is needed and
        fails.
        """
        return False

    def is_pipeline_open(self) -> bool:
        """Return True if the driver sends statements without waiting for results (psycopg's pipeline mode)."""
        return False

    def begin_immediate(self) -> AbstractContextManager[None]:
        """Return a block in which a transaction begins with the write lock of the database, if it has one."""
        return nullcontext()

    def excluding_transactions(self, max_wait: float = 0.0) -> AbstractContextManager[bool]:
        """Return a block that yields whether a write in it can't make a transaction of another thread fail.

        It waits up to ``max_wait`` seconds for such transactions.
        """
        return nullcontext(True)

    def can_write_beside_readers(self) -> bool:
        """Return True if a write can be committed while another transaction has read."""
        return True

    def opens_transaction_with_savepoint(self) -> bool:
        """Return True if a SAVEPOINT sent now would open the transaction, and its RELEASE would commit it."""
        return False

    def is_transaction_aborted(self) -> bool:
        """Return True if the database has aborted the open transaction. Its COMMIT will be a ROLLBACK."""
        return False

    @abstractmethod
    def is_transaction_alive(self, error: BaseException) -> bool:
        """Return True if the open transaction still exists after ``error``.

        A database ends it on a deadlock, on a full disk, or if a trigger requires it. Statements that follow are then
        in another transaction, which must not be committed.
        """

    def query_transaction_snapshot(self) -> TransactionSnapshot | None:
        """Return which transactions are open, or None if the database does not show them to every role.

        Opens the connection if necessary. Raises an error of ``django.db``.
        """
        return None

    # ------------------------------------------------------------ rows

    @abstractmethod
    def write(
        self, batch: Batch, *, nested: bool, schema: str | None = None, lock_timeout: float | None = None
    ) -> None:
        """Write all rows of ``batch`` or none.

        Rows that need not survive a crash of the server do not wait for the disk, if the database has such an option.

        Args:
            batch: The rows.
            nested: Whether to write in the open transaction. Otherwise a transaction is opened.
            schema: The schema of the tables. None leaves the names unqualified.
            lock_timeout: Seconds to wait for a lock. 0 is the shortest time that the database supports, and None keeps
                the setting of the session.
        """

    @abstractmethod
    def query_error_keys(self, trace_ids: Sequence[str], schema: str | None = None) -> set[TableRow]:
        """Return the keys of stored errors of ``trace_ids``: trace id, span and position."""

    def relaxed_durability(self) -> AbstractContextManager[None]:
        """Return a block in which commits do not wait for the disk, if the database supports that safely."""
        return nullcontext()

    def build_delete(self, table: str, ids: Sequence[int], condition: str = "") -> str:
        """Return a statement that deletes those of the rows ``ids`` that meet ``condition``, and locks no other row."""
        # Numbers in the text: some versions of SQLite accept only 999 parameters.
        conditions = f" AND {condition}" if condition else ""
        return f"DELETE FROM {table} WHERE id IN ({', '.join(map(str, ids))}){conditions}"

    # ------------------------------------------------------------ schemas

    def resolve_schema(self) -> Schema:
        """Return the schema that an event recorded now belongs to, by one statement if necessary."""
        return None

    def get_target_schema(self, schema: Schema) -> str | None:
        """Return the schema to write an event of ``schema`` to.

        Raises ``LookupError`` if that schema has no tables, so that the event stays pending.
        """
        return None

    def has_tables_in_a_schema(self) -> bool | None:
        """Return True if any schema has the tables, or None if the database has no schemas."""
        return None

    def query_schemas(self) -> tuple[str | None, list[str]]:
        """Return the schema in which the table of events is found, and the names of all schemas that have the tables.

        The first is None, and the list empty, if there is none or the database has no schemas.
        """
        return None, []

    # ------------------------------------------------------------ tables

    @abstractmethod
    def query_has_tables(self) -> bool:
        """Return True if the database has the tables of events and traces."""

    @abstractmethod
    def query_missing_grants(self, grants: Sequence[Grant]) -> list[Grant]:
        """Return those of ``grants`` that the role of the connection lacks. Its tables exist."""

    vacuum_refusal: ClassVar[str] = ""
    """Why ``vacuum()`` is not supported; empty if it is."""

    @abstractmethod
    def vacuum(self, tables: Sequence[str]) -> None:
        """Make the space of deleted rows available, with the locks that docs/retention.md names.

        Raises ``django.db.NotSupportedError`` if it is not supported.
        """

    @abstractmethod
    def query_storage(self, tables: Sequence[str]) -> Storage:
        """Return the sizes of existing ``tables``, from statistics and without reading rows."""

    # ------------------------------------------------------------ errors

    def add_advice(self, error: BaseException) -> bool:
        """Add a note to an error of the application's statement if recording has caused it. Return True if it has."""
        return False

    def get_first_error(self, error: BaseException, *, outside: BaseException | None) -> BaseException:
        """Return the error that made the transaction reject further statements, if ``error`` is such a rejection.

        Searches the exceptions during whose handling ``error`` was raised, up to ``outside``. This is the exception
        that was being handled when the transaction began. Returns ``error`` itself if none is found.
        """
        return error

    def is_row_error(self, error: BaseException) -> bool:
        """Return True if ``error`` is about a row, so that the database accepts other rows."""
        return isinstance(error, DataError | IntegrityError | ValueError | OverflowError) or (
            isinstance(error, DatabaseError | InterfaceError) and self._is_row_error(error)
        )

    def _is_row_error(self, error: BaseException) -> bool:
        return False

    def is_conflict(self, error: BaseException) -> bool:
        """Return True if the transaction lost against another one: a serialization failure or a deadlock.

        The application expects such an error from its own statements, and may run the transaction again.
        """
        return False

    def is_lock_timeout(self, error: BaseException) -> bool:
        """Return True if a lock was not granted in time."""
        return False

    def is_refused_for_now(self, error: BaseException) -> bool:
        """Return True if the transaction or the session refuses writes: it is read-only, or has locked other tables."""
        return False

    def is_permission_error(self, error: BaseException) -> bool:
        """Return True if the role lacks a grant."""
        return False

    def is_commit_outcome_known(self, error: BaseException) -> bool:
        """Return True if ``error`` is the database's answer to a COMMIT. Otherwise it may have been committed."""
        return not isinstance(error, OperationalError | InterfaceError)


def iter_inserts(batch: Batch) -> Iterable[tuple[str, Sequence[tuple[str, str]], Sequence[TableRow]]]:
    """Yield the table, the columns and the rows of each part of ``batch`` that is inserted."""
    if batch.events:
        yield batches.EVENT_TABLE, batches.EVENT_COLUMNS, batch.events
    if batch.traces:
        yield batches.TRACE_TABLE, batches.TRACE_COLUMNS, batch.traces
    if batch.deliveries:
        yield batches.DELIVERY_TABLE, batches.DELIVERY_COLUMNS, batch.deliveries
    if batch.errors:
        yield batches.ERROR_TABLE, batches.ERROR_COLUMNS, batch.errors


@cache
def format_column_names(columns: Sequence[tuple[str, str]], quote: str = '"') -> str:
    """Return the quoted names of ``columns``, as a list in SQL."""
    return ", ".join(f"{quote}{name}{quote}" for name, _ in columns)


def without_query_logging(connection: Any) -> AbstractContextManager[None]:
    """Hide the statements of the block from the application's query log and execute wrappers."""
    return (
        _without_query_logging(connection)
        if connection.queries_logged or connection.execute_wrappers
        else nullcontext()
    )


@contextmanager
def _without_query_logging(connection: Any) -> Iterator[None]:
    original = connection.queries_log, connection.execute_wrappers, connection.force_debug_cursor
    connection.queries_log, connection.execute_wrappers, connection.force_debug_cursor = deque(maxlen=0), [], False
    try:
        yield
    finally:
        connection.queries_log, connection.execute_wrappers, connection.force_debug_cursor = original
