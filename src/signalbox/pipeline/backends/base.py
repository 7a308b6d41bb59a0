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
from typing import TYPE_CHECKING, Any, Final

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError

from signalbox.pipeline import batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Schema
    from signalbox.pipeline.batches import Batch, TableRow

UPDATE_EVENT_SQL: Final = (
    "UPDATE {table} SET duration = {p}, errors = {p}, data = {p} WHERE trace_id = {p} AND span = {p}"
)
UPDATE_TRACE_SQL: Final = (
    "UPDATE {table} SET duration = {p}, status = {p}, events = {p}, errors = {p}, rolled_back = {p}, "
    "data = {p} WHERE trace_id = {p} AND time = {p}"
)


class DatabaseBackend(ABC):
    """What the pipeline needs of the database behind one connection.

    Methods that send a statement need an open connection and raise the driver's own errors, unless they say otherwise.
    Methods that take an error expect one of ``django.db``.
    """

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
        is_closed = connection.connection is None  # then ``autocommit`` says what was, not what will be
        return not (connection.get_autocommit() if is_closed else connection.autocommit)

    def has_foreign_transaction(self) -> bool:
        """Return True if a transaction is open that Django does not know of, such as after a raw BEGIN.

        Ask only where ``in_transaction()`` is False. Raises ``django.db.DatabaseError`` where a statement is needed
        and fails.
        """
        return False

    def is_pipeline_open(self) -> bool:
        """Return True if the driver sends statements without waiting for results (psycopg's pipeline mode)."""
        return False

    def begin_immediate(self) -> AbstractContextManager[None]:
        """Return a block in which a transaction that begins takes the database's write lock, where it has one."""
        return nullcontext()

    def opens_transaction_with_savepoint(self) -> bool:
        """Return True if a SAVEPOINT sent now would open the transaction, and its RELEASE would commit it."""
        return False

    def is_transaction_aborted(self) -> bool:
        """Return True if the database has given up the open transaction: its COMMIT will be a ROLLBACK."""
        return False

    @abstractmethod
    def is_transaction_alive(self, error: BaseException) -> bool:
        """Return True if the open transaction still exists after ``error``.

        Databases end it themselves on a deadlock, a full disk, or where a trigger says so. Statements that follow are
        then in another transaction, which must not be committed.
        """

    # ------------------------------------------------------------ rows

    @abstractmethod
    def write(
        self, batch: Batch, *, nested: bool, schema: str | None = None, lock_timeout: float | None = None
    ) -> None:
        """Write all rows of ``batch`` or none.

        ``nested`` writes in the open transaction, otherwise in a transaction of its own. ``schema`` names the schema of
        the tables; None leaves the names unqualified. ``lock_timeout`` is the number of seconds to wait for a lock;
        0 is the shortest time that the database knows, and None keeps the session's setting. Rows that need not
        survive a crash of the server do not wait for the disk, where the database has such an option.
        """

    def relaxed_durability(self) -> AbstractContextManager[None]:
        """Return a block in which commits do not wait for the disk, where that is safe and set for a connection."""
        return nullcontext()

    # ------------------------------------------------------------ schemas

    def resolve_schema(self) -> Schema:
        """Return the schema that an event recorded now belongs to, by one statement where that is needed."""
        return None

    def get_target_schema(self, schema: Schema) -> str | None:
        """Return the schema to write an event of ``schema`` to.

        Raises ``LookupError`` if that schema has no tables, so that the event must wait.
        """
        return None

    def has_tables_in_a_schema(self) -> bool | None:
        """Return whether any schema has the tables, or None if the database knows no schemas."""
        return None

    # ------------------------------------------------------------ tables

    @abstractmethod
    def query_has_tables(self) -> bool:
        """Return True if the database has the tables of events and traces."""

    @abstractmethod
    def query_missing_grants(self, schema: str | None = None) -> list[str]:
        """Return the grants that the role of the connection lacks, such as ``INSERT ON signalbox_event``."""

    # ------------------------------------------------------------ errors

    def add_advice(self, error: BaseException) -> bool:
        """Add a note to an error of the application's statement if recording has caused it. Return True if it has."""
        return False

    def get_first_error(self, error: BaseException, *, outside: BaseException | None) -> BaseException:
        """Return the error that made the transaction reject further statements, if ``error`` is such a rejection.

        It is looked for among the exceptions during whose handling ``error`` was raised, up to ``outside``, the
        exception that was being handled when the transaction began. Returns ``error`` itself if there is none.
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
