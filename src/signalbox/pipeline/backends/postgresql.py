"""PostgreSQL, with psycopg or psycopg2.

The module is long because it has schemas and pipelines, which no other database has, besides what each database has.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.conf import settings
from django.db import DatabaseError

from signalbox.core import clock
from signalbox.core.event import UNKNOWN_SCHEMA
from signalbox.pipeline import batches
from signalbox.pipeline.backends.base import (
    SELECT_ERROR_KEYS_SQL,
    DatabaseBackend,
    Storage,
    TableSize,
    TransactionSnapshot,
    format_column_names,
    iter_inserts,
    without_query_logging,
)
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from signalbox.core.event import Schema
    from signalbox.pipeline.backends.base import Grant
    from signalbox.pipeline.batches import Batch, TableRow

DISABLE_SYNCHRONOUS_COMMIT_SQL: Final = "SET LOCAL synchronous_commit TO off"
"""The COMMIT of the open transaction does not wait for the disk."""

_ROW_ERRORS: Final = ("21", "22", "23", "44", "54", "P0")
"""Classes of SQLSTATE: cardinality, data, constraints, check options, limits of size, and errors of triggers."""
_CONFLICTS: Final = "40"
"""The class of SQLSTATE "transaction rollback"."""
_IN_FAILED_TRANSACTION: Final = "25P02"
_READ_ONLY_TRANSACTION: Final = "25006"
_LOCK_NOT_AVAILABLE: Final = "55P03"
_INSUFFICIENT_PRIVILEGE: Final = "42501"

IDLE, ACTIVE, INTRANS, INERROR = range(4)
"""libpq's PQTRANS_IDLE: no transaction is open; PQTRANS_ACTIVE: a command is in progress (psycopg's pipeline mode);
PQTRANS_INTRANS: a transaction is open; PQTRANS_INERROR: it has failed, and its COMMIT will be a ROLLBACK."""

_MAX_VALUES_ROWS: Final = 5
"""Up to 5 rows are written as VALUES, more as one JSON document. Planning the statement that splits a document costs
the server as much as five rows. Parsing the values of more rows costs more."""

_CURSOR_ATTRIBUTE: Final = "_signalbox_cursor"
"""Attribute of the driver's connection: the cursor that writes. Creating one takes a third of the time of a write."""

_SHORTEST_LOCK_TIMEOUT_MS: Final = 10
"""0 would disable the timeout. In normal operation too, other sessions hold locks for a moment."""
_SET_LOCK_TIMEOUT_SQL: Final = (
    "SELECT set_config('signalbox.lock_timeout', current_setting('lock_timeout'), true), "
    "set_config('lock_timeout', '{}', true)"
)
_RESTORE_LOCK_TIMEOUT_SQL: Final = "SELECT set_config('lock_timeout', current_setting('signalbox.lock_timeout'), true)"


class PostgreSQLBackend(DatabaseBackend):
    """Several statements in one message are one round trip, and one transaction where none is open."""

    # ------------------------------------------------------------ transactions

    def has_foreign_transaction(self) -> bool:
        raw = self.connection.connection
        return raw is not None and (not raw.autocommit or self._get_transaction_status() in (ACTIVE, INTRANS, INERROR))

    def is_pipeline_open(self) -> bool:
        libpq = getattr(self.connection.connection, "pgconn", None)  # psycopg's
        return libpq is not None and bool(libpq.pipeline_status)

    def is_transaction_aborted(self) -> bool:
        return self._get_transaction_status() == INERROR

    def is_transaction_alive(self, error: BaseException) -> bool:
        return self._get_transaction_status() == INTRANS

    def query_transaction_snapshot(self) -> TransactionSnapshot:
        self.connection.ensure_connection()
        return TransactionSnapshot(*self._fetch(_SNAPSHOT_SQL)[0])

    def _get_transaction_status(self) -> int:
        raw = self.connection.connection
        if raw is None:
            return INTRANS
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
        if "\0" in sql:  # it would end the message
            raise ValueError("The rows contain the character NUL, which PostgreSQL cannot store.")
        if self.is_pipeline_open():
            self._write_into_pipeline(statements, nested)
            return
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

    def _write_into_pipeline(self, statements: list[str], nested: bool) -> None:
        """Send ``statements`` one by one, as a pipeline forbids several in one message, and wait for their results."""
        with self.connection.connection.cursor() as cursor:
            try:
                for sql in statements:
                    cursor.execute(sql)
                cursor.execute("SELECT 1")
                cursor.fetchone()  # raises the error of any of them
            except BaseException:
                if nested and self.is_transaction_aborted():
                    cursor.execute("ROLLBACK TO SAVEPOINT signalbox")
                    cursor.execute("RELEASE SAVEPOINT signalbox")
                raise

    def query_error_keys(self, trace_ids: Sequence[str], schema: str | None = None) -> set[TableRow]:
        table = qualify(batches.ERROR_TABLE, schema)
        sql = SELECT_ERROR_KEYS_SQL.format(table=table, p=", ".join(["%s"] * len(trace_ids)))
        return set(self._fetch(sql, tuple(trace_ids)))

    def create_cursor(self) -> Any:
        """Return a cursor that can send several statements in one message, which server-side parameters forbid."""
        raw, driver = self.connection.connection, self.connection.Database
        return driver.ClientCursor(raw) if hasattr(driver, "ClientCursor") else raw.cursor()

    def _get_quote_function(self) -> Callable[[str], str]:
        """Return a function that quotes a text as a literal, with the functions of the driver.

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

    # ------------------------------------------------------------ schemas

    def resolve_schema(self) -> Schema:
        layout = self._get_layout()
        is_open = self._is_open()
        if layout is not None and layout.only is not None and (is_open or layout.expires > clock.monotonic()):
            return None
        if not is_open:
            return self._get_configured_path()
        if self.is_transaction_aborted() or self.is_pipeline_open():
            return UNKNOWN_SCHEMA
        if hasattr(self.connection, "schema_name"):  # django-tenants sets the search path with the next cursor
            if self._would_begin():
                return self._get_configured_path()
            with without_query_logging(self.connection):
                self.connection.cursor().close()
        found: str = self._fetch(_RESOLVE_SQL, (batches.EVENT_TABLE,))[0][0]
        return found

    def _is_open(self) -> bool:
        """Return True if statements can be sent. Django still has the driver's connection while it closes it."""
        raw = self.connection.connection
        return raw is not None and not raw.closed

    def _would_begin(self) -> bool:
        """Return True if a statement sent now would open a transaction."""
        return not self.connection.connection.autocommit and self._get_transaction_status() == IDLE

    def _fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of one statement, and leave the connection's transaction as it was.

        Between a COMMIT and the return to autocommit, and before ``SET TRANSACTION``, none may be open.
        """
        begins = self._would_begin()
        with self.connection.wrap_database_errors:
            with self.create_cursor() as cursor:
                cursor.execute(sql, parameters)
                rows: list[Any] = cursor.fetchall()
            if begins:
                self.connection.connection.rollback()
        return rows

    def _get_configured_path(self) -> tuple[str, ...] | None:
        """Return the search path that django-tenants is going to set; None for that of a new session."""
        schema = getattr(self.connection, "schema_name", None)
        if not isinstance(schema, str):
            return None
        public = str(getattr(settings, "PUBLIC_SCHEMA_NAME", "public"))
        return (schema, public) if getattr(self.connection, "include_public_schema", True) else (schema,)

    def get_target_schema(self, schema: Schema) -> str | None:
        layout = self._get_layout()
        if layout is None:
            raise LookupError
        candidates: tuple[str, ...]
        if isinstance(schema, str) and schema != UNKNOWN_SCHEMA:
            candidates = (schema,)
        elif layout.only is not None:
            return layout.only
        elif schema == UNKNOWN_SCHEMA:
            raise LookupError
        elif isinstance(schema, tuple):
            candidates = schema
        elif layout.previous is not None:  # the only one when the event was recorded
            candidates = (layout.previous,)
        else:
            candidates = self._get_default_path()
        for candidate in candidates:
            if candidate in layout.schemas:
                return candidate
        raise LookupError

    def _get_default_path(self) -> tuple[str, ...]:
        """Return the search path of a new session."""
        return tuple(self._fetch(_DEFAULT_PATH_SQL)[0][0])

    def has_tables_in_a_schema(self) -> bool | None:
        self.connection.ensure_connection()
        layout = self._get_layout()
        return layout is not None and bool(layout.schemas)

    def query_schemas(self) -> tuple[str | None, list[str]]:
        layout = self._get_layout()
        rows = self._fetch(_SCHEMA_SQL, (batches.EVENT_TABLE,))
        return rows[0][0] if rows else None, sorted(layout.schemas if layout is not None else ())

    def _get_layout(self) -> TableLayout | None:
        """Return the schemas that have the tables, or None if they can't be queried."""
        connection = self.connection
        key = (connection.alias, str(connection.settings_dict["NAME"]))
        known = _layouts.get(key)
        now = clock.monotonic()
        if known is not None and now < known.expires:
            return known
        if not self._is_open() or self.is_transaction_aborted() or self.is_pipeline_open():
            return known
        rows = self._fetch(_LAYOUT_SQL, (batches.EVENT_TABLE, batches.TRACE_TABLE) * 2)
        schemas = frozenset(name for name, has_tables in rows if has_tables)
        only = next(iter(schemas)) if len(schemas) == 1 else None
        if only not in (None, _PUBLIC) and len(rows) > 1:  # Django migrates other schemas too, such as other tenants'
            only = None
        previous = None if known is None else known.only or known.previous
        found = _layouts[key] = TableLayout(schemas, only, previous, now + LAYOUT_SECONDS)
        return found

    # ------------------------------------------------------------ tables

    def query_has_tables(self) -> bool:
        with self.create_cursor() as cursor:
            cursor.execute(
                "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL",
                (batches.EVENT_TABLE, batches.TRACE_TABLE),
            )
            return bool(cursor.fetchone()[0])

    def query_missing_grants(self, grants: Sequence[Grant]) -> list[Grant]:
        with self.create_cursor() as cursor:
            cursor.execute(
                "SELECT " + ", ".join(["has_table_privilege(to_regclass(%s), %s)"] * len(grants)),
                [value for grant in grants for value in (grant.table, grant.privilege)],
            )
            answers = cursor.fetchone()
        return [grant for grant, has in zip(grants, answers, strict=True) if has is False]

    def query_storage(self, tables: Sequence[str]) -> Storage:
        sizes = {}
        with self.create_cursor() as cursor:
            for table in tables:
                cursor.execute(_STORAGE_SQL, [table, table])
                sizes[table] = TableSize(*cursor.fetchone())
        return Storage(sizes)

    # ------------------------------------------------------------ errors

    def add_advice(self, error: BaseException) -> bool:
        if "statement pooling" not in str(error):  # pgbouncer's answer to a BEGIN
            return False
        error.add_note(
            "A pool in statement mode allows no transactions. Signalbox opens one for a write in autocommit, "
            'unless SIGNALBOX = {"AUTOCOMMIT": "after"} is set and the model has no durable receiver. Set it, or use '
            "a pool in transaction mode, which durable receivers need."
        )
        return True

    def get_first_error(self, error: BaseException, *, outside: BaseException | None) -> BaseException:
        if _get_sqlstate(error) != _IN_FAILED_TRANSACTION:
            return error
        earlier = error.__context__
        while earlier is not None and earlier is not outside:
            if isinstance(earlier, DatabaseError) and _get_sqlstate(earlier) not in ("", _IN_FAILED_TRANSACTION):
                return earlier
            earlier = earlier.__context__
        return error

    def _is_row_error(self, error: BaseException) -> bool:
        return _get_sqlstate(error).startswith(_ROW_ERRORS)

    def vacuum(self, tables: Sequence[str]) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(f"VACUUM (ANALYZE) {', '.join(tables)}")

    def is_conflict(self, error: BaseException) -> bool:
        return _get_sqlstate(error).startswith(_CONFLICTS)

    def is_lock_timeout(self, error: BaseException) -> bool:
        return _get_sqlstate(error) == _LOCK_NOT_AVAILABLE

    def is_refused_for_now(self, error: BaseException) -> bool:
        return _get_sqlstate(error) == _READ_ONLY_TRANSACTION

    def is_permission_error(self, error: BaseException) -> bool:
        return _get_sqlstate(error) == _INSUFFICIENT_PRIVILEGE

    def is_commit_outcome_known(self, error: BaseException) -> bool:
        return not self.connection.connection.closed


class TableLayout(NamedTuple):
    """The schemas of a database that have the tables."""

    schemas: frozenset[str]
    only: str | None
    """The schema of every event, if there is only one."""
    previous: str | None
    """The last ``only``."""
    expires: float


LAYOUT_SECONDS: Final = 0.05
"""Seconds for which the layout is used. A second schema may get the tables meanwhile, and its events would be written
to the first one. A process that writes all the time spends less than a hundredth of its time on the question."""

_PUBLIC: Final = "public"

_layouts: dict[tuple[str, str], TableLayout] = {}
"""By alias and database."""

_LAYOUT_SQL: Final = (
    "SELECT n.nspname, bool_or(c.relname = %s) AND bool_or(c.relname = %s) "
    "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relname IN (%s, %s, 'django_migrations') AND c.relkind IN ('r', 'p', 'v', 'f') "
    "AND c.relpersistence <> 't' GROUP BY n.nspname"
)
_SNAPSHOT_SQL: Final = (
    "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s"
)
_RESOLVE_SQL: Final = (
    "SELECT coalesce((SELECT n.nspname::text FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)), "
    "current_schema()::text, current_setting('search_path'))"
)
"""The schema in which the name is found, otherwise the schema that would get a new table."""
_SCHEMA_SQL: Final = (
    "SELECT n.nspname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.oid = to_regclass(%s)"
)
_DEFAULT_PATH_SQL: Final = (
    "SELECT ARRAY(SELECT CASE name WHEN '$user' THEN current_user::text ELSE name END FROM ("
    "SELECT btrim(part, ' \"') AS name FROM unnest(string_to_array(reset_val, ',')) AS part) AS parts) "
    "FROM pg_catalog.pg_settings WHERE name = 'search_path'"
)


_STORAGE_SQL: Final = (
    "SELECT sum(CASE WHEN pg_relation_size(c.oid) = 0 THEN 0 "
    "WHEN pg_stat_get_live_tuples(c.oid) > 0 THEN pg_stat_get_live_tuples(c.oid) "
    "WHEN c.reltuples >= 0 THEN c.reltuples::bigint END)::bigint, "
    "sum(pg_total_relation_size(c.oid))::bigint "
    "FROM (SELECT to_regclass(%s)::oid UNION SELECT relid FROM pg_partition_tree(to_regclass(%s))) parts (relid) "
    "JOIN pg_catalog.pg_class c ON c.oid = parts.relid WHERE c.relkind = 'r'"
)
"""Rows and bytes of a table with its partitions. Without statistics, as after a crash, the planner's number is used."""


def clear_table_cache() -> None:
    """Query again which schemas have the tables."""
    _layouts.clear()


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
            document = quote(_rows_to_json(rows, _get_json_index(columns)))
            yield f"{_build_json_insert(table, schema, columns)}{document}::jsonb) x"
        else:
            texts = (", ".join([_to_literal(value, quote) for value in row]) for row in rows)
            yield f"{_build_values_insert(table, schema, columns)} ({'), ('.join(texts)})"
    if len(batch.event_updates) == 1:
        yield _build_event_update(qualify(batches.EVENT_TABLE, schema), batch.event_updates[0], quote)
    elif batch.event_updates:
        yield (
            f"UPDATE {qualify(batches.EVENT_TABLE, schema)} e SET duration = (x->>0)::bigint, errors = (x->>1)::int, "
            f"data = x->2 FROM jsonb_array_elements({quote(_rows_to_json(batch.event_updates, 2))}::jsonb) x "
            "WHERE e.trace_id = x->>3 AND e.span = (x->>4)::bigint"
        )
    if batch.trace_updates:
        yield (
            f"UPDATE {qualify(batches.TRACE_TABLE, schema)} t SET kind = x->>0, name = x->>1, "
            "duration = (x->>2)::bigint, status = x->>3, events = (x->>4)::int, errors = (x->>5)::int, "
            "rolled_back = (x->>6)::int, data = x->7 "
            f"FROM jsonb_array_elements({quote(_rows_to_json(batch.trace_updates, 7))}::jsonb) x "
            "WHERE t.trace_id = x->>8 AND t.time = (x->>9)::bigint"
        )
    if batch.deliveries:
        yield f"NOTIFY {batches.NOTIFY_CHANNEL}"


RECENT_IDS: Final = 1_000
"""Newest ids among which an event is searched that is updated. Its trace can have very many older ones."""


def _build_event_update(table: str, row: TableRow, quote: Callable[[str], str]) -> str:
    """Return the UPDATE of one event, which was usually written just before.

    The index of the trace contains the id, so a least id limits what is read. In the order of the ids, PostgreSQL reads
    all events of the trace and sorts them.
    """
    duration, errors, data, trace_id, span = (_to_literal(value, quote) for value in row)
    found = f"SELECT id FROM {table} WHERE trace_id = {trace_id} AND span = {span}"
    recent = f"id > (SELECT max(id) FROM {table}) - {RECENT_IDS}"
    return (
        f"UPDATE {table} SET duration = {duration}, errors = {errors}, data = {data} "
        f"WHERE id = COALESCE(({found} AND {recent} LIMIT 1), ({found} LIMIT 1))"
    )


@lru_cache(maxsize=64)
def _get_json_index(columns: Sequence[tuple[str, str]]) -> int:
    return [kind for _, kind in columns].index("jsonb")


def _rows_to_json(rows: Iterable[TableRow], data_index: int) -> str:
    """Return rows as one JSON text. The column at ``data_index`` is already JSON text."""
    texts = []
    for row in rows:
        before, after = row[:data_index], row[data_index + 1 :]
        values = [encoder.dumps_columns(before)[1:-1], row[data_index]]
        if after:
            values.append(encoder.dumps_columns(after)[1:-1])
        texts.append(f"[{','.join(values)}]")
    return f"[{','.join(texts)}]"


def _to_literal(value: Any, quote: Callable[[str], str]) -> str:
    if value is None:
        return "NULL"
    return str(value) if type(value) is int else quote(str(value))
