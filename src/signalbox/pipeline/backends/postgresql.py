"""PostgreSQL, with psycopg or psycopg2."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from signalbox.pipeline import batches
from signalbox.pipeline.backends.base import DatabaseBackend, format_column_names, iter_inserts
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from signalbox.pipeline.batches import Batch, TableRow

DISABLE_SYNCHRONOUS_COMMIT_SQL: Final = "SET LOCAL synchronous_commit TO off"
"""The COMMIT of the open transaction does not wait for the disk."""

_ROW_ERRORS: Final = ("21", "22", "23", "44", "54", "P0")
"""Classes of SQLSTATE: cardinality, data, constraints, check options, limits of size, what a trigger raises."""
_CONFLICTS: Final = "40"
"""The class of SQLSTATE "transaction rollback"."""
_LOCK_NOT_AVAILABLE: Final = "55P03"
_INSUFFICIENT_PRIVILEGE: Final = "42501"

_ACTIVE, _INTRANS, _INERROR = 1, 2, 3
"""libpq's PQTRANS_ACTIVE: a command is in progress (psycopg's pipeline mode); PQTRANS_INTRANS: a transaction is open;
PQTRANS_INERROR: it has failed, and its COMMIT will be a ROLLBACK."""

_MAX_VALUES_ROWS: Final = 5
"""Up to so many rows are written out one by one, more as one JSON document: planning what takes a document apart costs
the server as much as five rows do, and less than parsing the values of more."""

_CURSOR_ATTRIBUTE: Final = "_signalbox_cursor"
"""On the driver's connection: the cursor that writes. Making one takes psycopg a third of the time of using it."""

_SHORTEST_LOCK_TIMEOUT_MS: Final = 10
"""0 would switch the timeout off. Other sessions hold locks for a moment also in normal operation."""
_SET_LOCK_TIMEOUT_SQL: Final = (
    "SELECT set_config('signalbox.lock_timeout', current_setting('lock_timeout'), true), "
    "set_config('lock_timeout', '{}', true)"
)
_RESTORE_LOCK_TIMEOUT_SQL: Final = "SELECT set_config('lock_timeout', current_setting('signalbox.lock_timeout'), true)"


class PostgreSQLBackend(DatabaseBackend):
    """Several statements in one message are one round trip, and one transaction where none is open."""

    # ------------------------------------------------------------ transactions

    def has_foreign_transaction(self) -> bool:
        return self.connection.connection is not None and self._get_transaction_status() in (
            _ACTIVE,
            _INTRANS,
            _INERROR,
        )

    def is_transaction_aborted(self) -> bool:
        return self._get_transaction_status() == _INERROR

    def is_transaction_alive(self, error: BaseException) -> bool:
        return self._get_transaction_status() == _INTRANS

    def _get_transaction_status(self) -> int:
        raw = self.connection.connection
        if raw is None:
            return _INTRANS
        libpq = raw.pgconn if hasattr(raw, "pgconn") else raw.info  # psycopg; psycopg2
        return int(libpq.transaction_status)

    # ------------------------------------------------------------ rows

    def write(
        self, batch: Batch, *, nested: bool, schema: str | None = None, lock_timeout: float | None = None
    ) -> None:
        statements = list(_iter_statements(batch, schema, self._get_quote_function()))
        if not (nested or batch.requires_durability()):
            statements.insert(0, DISABLE_SYNCHRONOUS_COMMIT_SQL)
        if lock_timeout is not None:
            milliseconds = max(_SHORTEST_LOCK_TIMEOUT_MS, round(lock_timeout * 1000))
            if nested:
                statements = [_SET_LOCK_TIMEOUT_SQL.format(milliseconds), *statements, _RESTORE_LOCK_TIMEOUT_SQL]
            else:
                statements.insert(0, f"SET LOCAL lock_timeout = {milliseconds}")
        if nested:
            statements = ["SAVEPOINT signalbox", *statements, "RELEASE SAVEPOINT signalbox"]
        sql = "; ".join(statements)
        if "\0" in sql:  # the message would end here
            raise ValueError("PostgreSQL's texts can't hold the character NUL.")
        kept: dict[str, Any] = getattr(self.connection.connection, "__dict__", {})  # psycopg2's have none
        cursor = kept.get(_CURSOR_ATTRIBUTE)
        if cursor is None:
            cursor = kept[_CURSOR_ATTRIBUTE] = self.create_cursor()
        try:
            cursor.execute(sql)
        except BaseException:
            if nested and self.is_transaction_aborted():  # this restores lock_timeout as well
                cursor.execute("ROLLBACK TO SAVEPOINT signalbox; RELEASE SAVEPOINT signalbox")
            raise

    def create_cursor(self) -> Any:
        """Return a cursor that takes several statements in one message, which server-side parameters forbid."""
        raw, driver = self.connection.connection, self.connection.Database
        return driver.ClientCursor(raw) if hasattr(driver, "ClientCursor") else raw.cursor()

    def _get_quote_function(self) -> Callable[[str], str]:
        """Return a function that makes a literal of a text, by the driver's own means.

        A driver that binds fifteen parameters for each row takes longer than the server takes to write the row.
        """
        raw, driver = self.connection.connection, self.connection.Database
        if hasattr(driver, "ClientCursor"):
            literal = driver.pq.Escaping(raw.pgconn).escape_literal

            def quoted(text: str) -> str:
                if "'" in text or "\\" in text:
                    return bytes(literal(text.encode())).decode()
                return f"'{text}'"  # nothing to escape: five times as fast

            return quoted

        def quote(text: str) -> str:
            adapted = driver.extensions.QuotedString(text)
            adapted.prepare(raw)
            return str(adapted.getquoted().decode())

        return quote

    # ------------------------------------------------------------ tables

    def query_has_tables(self) -> bool:
        with self.create_cursor() as cursor:
            cursor.execute(
                "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL",
                (batches.EVENT_TABLE, batches.TRACE_TABLE),
            )
            return bool(cursor.fetchone()[0])

    def query_missing_grants(self, schema: str | None = None) -> list[str]:
        pairs = [(grant, qualify(table, schema)) for table in batches.TABLE_COLUMNS for grant in _GRANTS]
        with self.create_cursor() as cursor:
            cursor.execute(
                "SELECT " + ", ".join(["has_table_privilege(to_regclass(%s), %s)"] * len(pairs)),
                [value for grant, table in pairs for value in (table, grant)],
            )
            answers = cursor.fetchone()
        return [f"{grant} ON {table}" for (grant, table), has in zip(pairs, answers, strict=True) if has is False]

    # ------------------------------------------------------------ errors

    def _is_row_error(self, error: BaseException) -> bool:
        return _get_sqlstate(error).startswith(_ROW_ERRORS)

    def is_conflict(self, error: BaseException) -> bool:
        return _get_sqlstate(error).startswith(_CONFLICTS)

    def is_lock_timeout(self, error: BaseException) -> bool:
        return _get_sqlstate(error) == _LOCK_NOT_AVAILABLE

    def is_permission_error(self, error: BaseException) -> bool:
        return _get_sqlstate(error) == _INSUFFICIENT_PRIVILEGE

    def is_commit_outcome_known(self, error: BaseException) -> bool:
        return not self.connection.connection.closed


_GRANTS: Final = ("INSERT", "UPDATE", "SELECT")
"""An update of an event also reads: its condition names columns."""


def _get_sqlstate(error: BaseException) -> str:
    cause = error.__cause__
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")  # psycopg; psycopg2


def qualify(table: str, schema: str | None) -> str:
    """Return the quoted name of ``table``, in ``schema`` if it is not None."""
    name = '"' + table.replace('"', '""') + '"'
    return name if schema is None else '"' + schema.replace('"', '""') + '".' + name


@lru_cache(maxsize=1024)
def _build_json_insert(table: str, schema: str | None, columns: Sequence[tuple[str, str]]) -> str:
    picked = ", ".join(
        f"x->{i}" if kind == "jsonb" else f"x->>{i}" if kind == "text" else f"(x->>{i})::{kind}"
        for i, (_, kind) in enumerate(columns)
    )
    return (
        f"INSERT INTO {qualify(table, schema)} ({format_column_names(columns)}) "
        f"SELECT {picked} FROM jsonb_array_elements("
    )


@lru_cache(maxsize=1024)
def _build_values_insert(table: str, schema: str | None, columns: Sequence[tuple[str, str]]) -> str:
    return f"INSERT INTO {qualify(table, schema)} ({format_column_names(columns)}) VALUES"


def _iter_statements(batch: Batch, schema: str | None, quote: Callable[[str], str]) -> Iterator[str]:
    for table, columns, rows in iter_inserts(batch):
        if len(rows) > _MAX_VALUES_ROWS:
            yield f"{_build_json_insert(table, schema, columns)}{quote(_rows_to_json(rows, len(columns) - 1))}::jsonb) x"
        else:
            texts = (", ".join([_to_literal(value, quote) for value in row]) for row in rows)
            yield f"{_build_values_insert(table, schema, columns)} ({'), ('.join(texts)})"
    if batch.event_updates:
        yield (
            f"UPDATE {qualify(batches.EVENT_TABLE, schema)} e SET duration = (x->>0)::bigint, errors = (x->>1)::int, "
            f"data = x->2 FROM jsonb_array_elements({quote(_rows_to_json(batch.event_updates, 2))}::jsonb) x "
            "WHERE e.trace_id = x->>3 AND e.span = (x->>4)::bigint"
        )
    if batch.trace_updates:
        yield (
            f"UPDATE {qualify(batches.TRACE_TABLE, schema)} t SET duration = (x->>0)::bigint, status = x->>1, "
            "events = (x->>2)::int, errors = (x->>3)::int, rolled_back = (x->>4)::int, data = x->5 "
            f"FROM jsonb_array_elements({quote(_rows_to_json(batch.trace_updates, 5))}::jsonb) x "
            "WHERE t.trace_id = x->>6 AND t.time = (x->>7)::bigint"
        )
    if batch.deliveries:
        yield f"NOTIFY {batches.NOTIFY_CHANNEL}"


def _rows_to_json(rows: Iterable[TableRow], data_index: int) -> str:
    """Return rows as one JSON text. The column at ``data_index`` is already JSON text."""
    texts = []
    for row in rows:
        before = encoder.dumps(row[:data_index])[:-1]
        after = encoder.dumps(row[data_index + 1 :])
        texts.append(f"{before},{row[data_index]}" + ("]" if after == "[]" else "," + after[1:]))
    return "[" + ",".join(texts) + "]"


def _to_literal(value: Any, quote: Callable[[str], str]) -> str:
    if value is None:
        return "NULL"
    return str(value) if type(value) is int else quote(str(value))
