"""Each database's own way: how it takes rows, in as few round trips as it has, and what its errors mean.

Statements go to the driver's own cursor: the application's query log, its ``assertNumQueries`` and its execute
wrappers see the application's statements alone, and building 15 parameters per event through Django's cursor would
cost more than the insert.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError

from signalbox.pipeline.batches import (
    DELIVERY_COLUMNS,
    DELIVERY_TABLE,
    EVENT_COLUMNS,
    EVENT_TABLE,
    NOTIFY_CHANNEL,
    TABLE_COLUMNS,
    TRACE_COLUMNS,
    TRACE_TABLE,
)
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.pipeline.batches import Batch, TableRow


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return True if Django has a transaction open, whose COMMIT writes what is recorded now."""
    if connection.in_atomic_block:
        return True
    closed = connection.connection is None  # then ``autocommit`` says what was, not what will be
    return not (connection.get_autocommit() if closed else connection.autocommit)


def has_foreign_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return True if a transaction is open that Django does not know of: a raw BEGIN, psycopg's ``transaction()``.

    Ask only where ``in_transaction()`` is False. MariaDB has to be asked by a statement; MySQL cannot be asked.
    """
    raw: Any = connection.connection
    if raw is None:
        return False
    match connection.vendor:
        case "sqlite":
            return bool(raw.in_transaction)
        case "postgresql":
            return _get_transaction_status(connection) in (_ACTIVE, _INTRANS, _INERROR)
        case "mysql" if getattr(connection, "mysql_is_mariadb", False):
            with connection.wrap_database_errors, raw.cursor() as cursor:
                cursor.execute("SELECT @@in_transaction")
                return bool(cursor.fetchone()[0])
    return False


@contextmanager
def begin_immediate(connection: Any) -> Iterator[None]:
    """Make SQLite take its write lock when the block begins a transaction.

    A transaction that reads first and writes later fails with "database is locked" without waiting for its turn.
    """
    if connection.vendor != "sqlite" or getattr(connection, "transaction_mode", "") is not None:
        yield
        return
    connection.transaction_mode = "IMMEDIATE"
    try:
        yield
    finally:
        connection.transaction_mode = None


def write(connection: BaseDatabaseWrapper, batch: Batch, *, nested: bool) -> None:
    """Write all rows of ``batch`` or none: within the open transaction if ``nested``, else in one of its own.

    Raises the driver's own errors. Rows that need not outlive a crash of the server do not wait for the disk, where the
    database can be asked for that.
    """
    is_ephemeral = not (nested or batch.requires_durability())
    match connection.vendor:
        case "sqlite":
            with relaxed_durability(connection) if is_ephemeral else nullcontext():
                _write_sqlite(connection, batch, nested)
        case "postgresql":
            _write_postgresql(connection, batch, nested, is_ephemeral=is_ephemeral)
        case _:
            _write_mysql(connection, batch, nested)


def _iter_inserts(batch: Batch) -> Iterable[tuple[str, Sequence[tuple[str, str]], Sequence[TableRow]]]:
    if batch.events:
        yield EVENT_TABLE, EVENT_COLUMNS, batch.events
    if batch.traces:
        yield TRACE_TABLE, TRACE_COLUMNS, batch.traces
    if batch.deliveries:
        yield DELIVERY_TABLE, DELIVERY_COLUMNS, batch.deliveries


def _format_column_names(columns: Sequence[tuple[str, str]], quote: str = '"') -> str:
    return ", ".join(f"{quote}{name}{quote}" for name, _ in columns)


_UPDATE_EVENT_SQL: Final = (
    "UPDATE {table} SET duration = {p}, errors = {p}, data = {p} WHERE trace_id = {p} AND span = {p}"
)
_UPDATE_TRACE_SQL: Final = (
    f"UPDATE {TRACE_TABLE} SET duration = {{p}}, status = {{p}}, events = {{p}}, errors = {{p}}, rolled_back = {{p}}, "
    "data = {p} WHERE trace_id = {p} AND time = {p}"
)
_SQLITE_INSERT_SQL: Final = {
    table: f"INSERT INTO {table} ({_format_column_names(columns)}) VALUES ({', '.join('?' * len(columns))})"
    for table, columns in TABLE_COLUMNS.items()
}
_SQLITE_STATEMENTS: Final = (
    _SQLITE_INSERT_SQL[EVENT_TABLE],
    _SQLITE_INSERT_SQL[TRACE_TABLE],
    _UPDATE_EVENT_SQL.format(table=EVENT_TABLE, p="?"),
    _SQLITE_INSERT_SQL[DELIVERY_TABLE],
    _UPDATE_TRACE_SQL.format(p="?"),
)
"""The statements for the parts of a batch, in their order."""


def _write_sqlite(connection: BaseDatabaseWrapper, batch: Batch, nested: bool) -> None:
    database: Any = connection.connection
    if nested and not database.in_transaction:  # the driver begins one before it writes, not before a savepoint
        database.execute("BEGIN")
    statements = [(sql, rows) for sql, rows in zip(_SQLITE_STATEMENTS, batch, strict=True) if rows]
    if not nested and not database.in_transaction:
        # The write lock at once: a transaction that reads first and writes later fails without waiting for its turn.
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


_POSTGRESQL_MAX_VALUES_ROWS: Final = 5
"""Up to so many rows are written out one by one, more as one JSON document: planning what takes a document apart costs
the server as much as five rows do, and less than parsing the values of more."""


_CURSOR_ATTRIBUTE: Final = "_signalbox_cursor"
"""On the driver's connection: the cursor that writes. Making one takes psycopg a third of the time of using it."""


def _build_postgresql_json_insert(table: str, columns: Sequence[tuple[str, str]]) -> str:
    picked = ", ".join(
        f"x->{i}" if kind == "jsonb" else f"x->>{i}" if kind == "text" else f"(x->>{i})::{kind}"
        for i, (_, kind) in enumerate(columns)
    )
    return (
        f"INSERT INTO {table} ({_format_column_names(columns)}) SELECT {picked} FROM jsonb_array_elements(%s::jsonb) x"
    )


_POSTGRESQL_JSON_INSERTS: Final = {
    table: _build_postgresql_json_insert(table, columns) for table, columns in TABLE_COLUMNS.items()
}
_POSTGRESQL_VALUES_INSERTS: Final = {
    table: f"INSERT INTO {table} ({_format_column_names(columns)}) VALUES" for table, columns in TABLE_COLUMNS.items()
}
_POSTGRESQL_UPDATE_EVENTS: Final = (
    f"UPDATE {EVENT_TABLE} e SET duration = (x->>0)::bigint, errors = (x->>1)::int, data = x->2 "
    "FROM jsonb_array_elements(%s::jsonb) x WHERE e.trace_id = x->>3 AND e.span = (x->>4)::bigint"
)


_POSTGRESQL_UPDATE_TRACES: Final = (
    f"UPDATE {TRACE_TABLE} t SET duration = (x->>0)::bigint, status = x->>1, events = (x->>2)::int, "
    "errors = (x->>3)::int, rolled_back = (x->>4)::int, data = x->5 "
    "FROM jsonb_array_elements(%s::jsonb) x WHERE t.trace_id = x->>6 AND t.time = (x->>7)::bigint"
)


def _rows_to_json(rows: Iterable[TableRow], data_index: int) -> str:
    """Return rows as one JSON text. The column at ``data_index`` is already JSON text."""
    texts = []
    for row in rows:
        before = encoder.dumps(row[:data_index])[:-1]
        after = encoder.dumps(row[data_index + 1 :])
        texts.append(f"{before},{row[data_index]}" + ("]" if after == "[]" else "," + after[1:]))
    return "[" + ",".join(texts) + "]"


def _build_postgresql_statements(batch: Batch, quote: Callable[[str], str]) -> Iterator[str]:
    for table, columns, rows in _iter_inserts(batch):
        if len(rows) > _POSTGRESQL_MAX_VALUES_ROWS:
            yield _POSTGRESQL_JSON_INSERTS[table].replace("%s", quote(_rows_to_json(rows, len(columns) - 1)))
        else:
            texts = (", ".join([_to_literal(value, quote) for value in row]) for row in rows)
            yield f"{_POSTGRESQL_VALUES_INSERTS[table]} ({'), ('.join(texts)})"
    if batch.event_updates:
        yield _POSTGRESQL_UPDATE_EVENTS.replace("%s", quote(_rows_to_json(batch.event_updates, 2)))
    if batch.trace_updates:
        yield _POSTGRESQL_UPDATE_TRACES.replace("%s", quote(_rows_to_json(batch.trace_updates, 5)))
    if batch.deliveries:
        yield f"NOTIFY {NOTIFY_CHANNEL}"


def _to_literal(value: Any, quote: Callable[[str], str]) -> str:
    if value is None:
        return "NULL"
    return str(value) if type(value) is int else quote(str(value))


def _write_postgresql(connection: BaseDatabaseWrapper, batch: Batch, nested: bool, *, is_ephemeral: bool) -> None:
    statements = list(_build_postgresql_statements(batch, _get_quote_function(connection)))
    if is_ephemeral:
        statements.insert(0, DISABLE_SYNCHRONOUS_COMMIT_SQL)
    if nested:
        statements = ["SAVEPOINT signalbox", *statements, "RELEASE SAVEPOINT signalbox"]
    sql = "; ".join(statements)
    if "\0" in sql:  # the message would end here
        raise ValueError("PostgreSQL's texts can't hold the character NUL.")
    kept: dict[str, Any] = getattr(connection.connection, "__dict__", {})  # psycopg2's have none
    cursor = kept.get(_CURSOR_ATTRIBUTE)
    if cursor is None:
        cursor = kept[_CURSOR_ATTRIBUTE] = create_postgresql_cursor(connection)
    # Several statements in one message are one round trip, and one transaction where none is open.
    try:
        cursor.execute(sql)
    except BaseException:
        if nested and is_transaction_aborted(connection):
            cursor.execute("ROLLBACK TO SAVEPOINT signalbox; RELEASE SAVEPOINT signalbox")
        raise


def _get_quote_function(connection: Any) -> Callable[[str], str]:
    """Return what makes a literal of a text, by the driver's own means: a driver that binds fifteen parameters for each
    row takes longer than the server takes to write it."""
    raw, driver = connection.connection, connection.Database
    if hasattr(driver, "ClientCursor"):
        literal = driver.pq.Escaping(raw.pgconn).escape_literal

        def quoted(text: str) -> str:
            if "'" in text or "\\" in text:
                return bytes(literal(text.encode())).decode()
            return f"'{text}'"  # nothing to escape: five times as fast

        return quoted

    def quote(text: str) -> str:
        quoted = driver.extensions.QuotedString(text)
        quoted.prepare(raw)
        return str(quoted.getquoted().decode())

    return quote


def create_postgresql_cursor(connection: Any) -> Any:
    """Return a cursor that takes several statements in one message, which the server's own parameters forbid."""
    raw, driver = connection.connection, connection.Database
    return driver.ClientCursor(raw) if hasattr(driver, "ClientCursor") else raw.cursor()


def _write_mysql(connection: BaseDatabaseWrapper, batch: Batch, nested: bool) -> None:
    raw: Any = connection.connection
    statements = list(_build_mysql_statements(batch))
    if not nested:
        before, undo, after = "START TRANSACTION", "ROLLBACK", "COMMIT"
    elif len(statements) > 1 and not batch.deliveries:  # one is all or nothing; deliveries take the transaction along
        before, undo, after = "SAVEPOINT signalbox", "ROLLBACK TO SAVEPOINT signalbox", "RELEASE SAVEPOINT signalbox"
    else:
        before = undo = after = ""
    with raw.cursor() as cursor:
        if before:
            cursor.execute(before)
        try:
            for sql, values in statements:
                cursor.execute(sql, values)
            if after:
                cursor.execute(after)
        except BaseException:
            if undo:
                cursor.execute(undo)
            raise


def _build_mysql_statements(batch: Batch) -> Iterable[tuple[str, Sequence[Any]]]:
    for table, columns, rows in _iter_inserts(batch):
        one = "(" + ", ".join(["%s"] * len(columns)) + ")"
        for start in range(0, len(rows), 500):  # 500 rows of 15 parameters stay far below the packet's limit
            part = rows[start : start + 500]
            head = f"INSERT INTO {table} ({_format_column_names(columns, '`')}) VALUES "
            yield head + ", ".join([one] * len(part)), list(chain.from_iterable(part))
    for row in batch.event_updates:
        yield _UPDATE_EVENT_SQL.format(table=EVENT_TABLE, p="%s"), row
    for row in batch.trace_updates:
        yield _UPDATE_TRACE_SQL.format(p="%s"), row


# ------------------------------------------------------------------ what need not be on the disk

DISABLE_SYNCHRONOUS_COMMIT_SQL: Final = "SET LOCAL synchronous_commit TO off"
"""PostgreSQL: let the open transaction's COMMIT not wait until it is on the disk."""

_journal_modes: WeakKeyDictionary[BaseDatabaseWrapper, tuple[Any, str]] = WeakKeyDictionary()
"""What SQLite's connections answered: to ask a file that is locked is an error."""


@contextmanager
def relaxed_durability(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Commit without waiting for the disk within the block, on SQLite in WAL mode.

    In other modes a crash could damage the file. An open transaction and other databases are not affected. PostgreSQL
    has ``DISABLE_SYNCHRONOUS_COMMIT_SQL`` for the same purpose.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    connection.ensure_connection()
    raw: Any = connection.connection
    with connection.wrap_database_errors:
        full = raw.execute("PRAGMA synchronous").fetchone()[0]
        relax = full >= 2 and not raw.in_transaction and _get_journal_mode(connection) == "wal"
        if relax:
            raw.execute("PRAGMA synchronous = 1")
    try:
        yield
    finally:
        if relax:
            with connection.wrap_database_errors:
                raw.execute(f"PRAGMA synchronous = {full}")


def _get_journal_mode(connection: BaseDatabaseWrapper) -> str:
    raw: Any = connection.connection
    known = _journal_modes.get(connection)
    if known is None or known[0] is not raw:
        known = _journal_modes[connection] = (raw, raw.execute("PRAGMA journal_mode").fetchone()[0])
    return known[1]


# ------------------------------------------------------------------ what does an error mean?

_POSTGRESQL_ROW_ERRORS: Final = ("21", "22", "23", "44", "54", "P0")
"""Classes of SQLSTATE: cardinality, data, constraints, check options, limits of size, what a trigger raises."""
_MYSQL_ROW_ERRORS: Final = frozenset({1264, 1265, 1292, 1300, 1366, 1406, 1411, 1644, 3140, 3819, 3988, 4025})
"""Errors about values, constraints, what a trigger raises: most of them come as ``OperationalError``."""


def is_row_error(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Tell whether ``error`` is about a row: the database takes others. Else it is away, or busy, or has no table."""
    if isinstance(error, DataError | IntegrityError | ValueError | OverflowError):  # the last two are a driver's own
        return True
    if not isinstance(error, DatabaseError | InterfaceError):
        return False
    match connection.vendor:
        case "sqlite":
            return "binding parameter" in str(error)
        case "postgresql":
            return str(getattr(error.__cause__, "sqlstate", "")).startswith(_POSTGRESQL_ROW_ERRORS)
        case "mysql":
            return bool(error.args) and error.args[0] in _MYSQL_ROW_ERRORS
    return False


_MYSQL_DEADLOCK: Final = 1213


def is_conflict(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Return True if the transaction lost against another one: a serialization failure or a deadlock.

    The application expects such an error from its own statements, and may run the transaction again.
    """
    match connection.vendor:
        case "postgresql":  # class 40, "Transaction Rollback"
            return str(getattr(error.__cause__, "sqlstate", "")).startswith("40")
        case "mysql":
            return bool(error.args) and error.args[0] == _MYSQL_DEADLOCK
    return False


_ACTIVE, _INTRANS, _INERROR = 1, 2, 3
"""libpq's PQTRANS_ACTIVE: a command is in progress (psycopg's pipeline mode); PQTRANS_INTRANS: a transaction is open;
PQTRANS_INERROR: it has failed, and its COMMIT will be a ROLLBACK."""
_MYSQL_ROLLBACK_ERRORS: Final = frozenset({1205, 1213})
"""Errors that end MySQL's transaction: a lock's timeout, by configuration, and a deadlock."""


def _get_transaction_status(connection: BaseDatabaseWrapper) -> int:
    raw: Any = connection.connection
    if raw is None:
        return _INTRANS
    libpq = raw.pgconn if hasattr(raw, "pgconn") else raw.info  # psycopg; psycopg2
    return int(libpq.transaction_status)


def is_transaction_aborted(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether PostgreSQL has given up the open transaction: its COMMIT will be a ROLLBACK."""
    return connection.vendor == "postgresql" and _get_transaction_status(connection) == _INERROR


def is_sqlite_transaction_open(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether SQLite has a transaction open: with autocommit off the driver begins one before the first write."""
    raw: Any = connection.connection
    with connection.wrap_database_errors:
        return bool(raw.in_transaction)


def is_transaction_alive(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Tell whether the open transaction is still there after ``error``: databases end it themselves on a deadlock, a
    full disk, or where a trigger says so. What comes after it is then in a transaction that must not be committed."""
    raw: Any = connection.connection
    match connection.vendor:
        case "sqlite":
            if raw.in_transaction:
                return True
            raw.execute("BEGIN")  # else each of the application's next statements would be committed by itself
            return False
        case "postgresql":
            return _get_transaction_status(connection) == _INTRANS
        case "mysql" if getattr(connection, "mysql_is_mariadb", False):
            with raw.cursor() as cursor:
                cursor.execute("SELECT @@in_transaction")
                return bool(cursor.fetchone()[0])
    return bool(error.args) and error.args[0] not in _MYSQL_ROLLBACK_ERRORS


def is_commit_outcome_known(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Tell whether ``error`` is the database's answer to a COMMIT; else nobody here can know what became of it."""
    raw: Any = connection.connection
    match connection.vendor:
        case "sqlite":
            return True
        case "postgresql":
            return not raw.closed
        case "mysql":  # the client's own errors stand between 2000 and 2999
            return bool(error.args) and 1000 <= error.args[0] < 2000
    return not isinstance(error, OperationalError | InterfaceError)
