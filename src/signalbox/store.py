"""The only writer of events and traces: drafts to rows, rows to the database, in as few statements as it has.

Statements go to the driver's own cursor: the application's query log, its ``assertNumQueries`` and its execute
wrappers see the application's statements alone, and building 15 parameters per event through Django's cursor would
cost more than the insert.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError

from signalbox import encoding, keeping
from signalbox.changes import RowChange, choice_labels, describe
from signalbox.event import Draft, Outcome, ReceiverRun

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.context import Trace

logger = logging.getLogger("signalbox")

Row = tuple[Any, ...]
Described = tuple[str, dict[str, Any]]
T = TypeVar("T")

EVENT: Final = "signalbox_event"
EVENT_COLUMNS: Final = (
    ("time", "bigint"),
    ("trace_id", "text"),
    ("span", "bigint"),
    ("parent", "bigint"),
    ("signal", "text"),
    ("sender", "text"),
    ("object_key", "text"),
    ("object_label", "text"),
    ("actor_key", "text"),
    ("actor_label", "text"),
    ("database", "text"),
    ("outcome", "text"),
    ("duration", "bigint"),
    ("errors", "int"),
    ("data", "jsonb"),
)
_NAMES: Final = tuple(name for name, _ in EVENT_COLUMNS)
TRACE: Final = "signalbox_trace"
TRACE_COLUMNS: Final = (
    ("trace_id", "text"),
    ("kind", "text"),
    ("name", "text"),
    ("actor_key", "text"),
    ("actor_label", "text"),
    ("time", "bigint"),
    ("duration", "bigint"),
    ("status", "text"),
    ("events", "int"),
    ("errors", "int"),
    ("rolled_back", "int"),
    ("data", "jsonb"),
)
ENDED_COLUMNS: Final = (
    ("duration", "bigint"),
    ("status", "text"),
    ("events", "int"),
    ("errors", "int"),
    ("rolled_back", "int"),
    ("data", "jsonb"),
    ("trace_id", "text"),
    ("time", "bigint"),
)
DELIVERY: Final = "signalbox_delivery"
DELIVERY_COLUMNS: Final = (
    ("receiver", "text"),
    ("queue", "text"),
    ("order_key", "text"),
    ("lane", "bigint"),
    ("trace_id", "text"),
    ("span", "bigint"),
    ("signal", "text"),
    ("sender", "text"),
    ("object_key", "text"),
    ("database", "text"),
    ("due", "bigint"),
    ("wake", "bigint"),
    ("created", "bigint"),
    ("payload", "jsonb"),
)
CHANNEL: Final = "signalbox"
"""On which PostgreSQL tells waiting workers of new deliveries."""
LATE_COLUMNS: Final = (
    ("duration", "bigint"),
    ("errors", "int"),
    ("data", "jsonb"),
    ("trace_id", "text"),
    ("span", "bigint"),
)

LOOK_AGAIN: Final = 5.0
"""Seconds until a database without the tables is asked again: another process may have migrated it."""


@dataclass(slots=True)
class Tally:
    """What this process has written and lost."""

    written: int = 0
    dropped: int = 0
    failures: int = 0


tally = Tally()


class Deliverer(Protocol):
    """Makes the deliveries of events; the registry of durable receivers puts itself here when it has one."""

    def delivery_rows(self, draft: Draft) -> Sequence[Row]:
        """Return the deliveries of a committed event, in the order of ``DELIVERY_COLUMNS``."""

    def delivered(self, connection: BaseDatabaseWrapper) -> None:
        """Deliveries have been written, and wait for the commit of the transaction that is open, if one is."""


deliverer: Deliverer | None = None

keep_unchanged = True
"""Whether a save that changed nothing makes an event."""


class Batch(NamedTuple):
    """Rows to be written together."""

    events: Sequence[Row] = ()
    traces: Sequence[Row] = ()
    late: Sequence[Row] = ()
    deliveries: Sequence[Row] = ()
    ended: Sequence[Row] = ()
    """What completes the rows of traces that were written while they ran."""

    def __bool__(self) -> bool:
        return any(self)

    def apart(self) -> list[Batch]:
        """Return the rows one by one, the deliveries with their events."""
        awaited: dict[Row, list[Row]] = {}
        for row in self.deliveries:
            awaited.setdefault(row[4:6], []).append(row)
        return [
            *(Batch(traces=[row]) for row in self.traces),
            *(Batch(events=[row], deliveries=awaited.pop(row[1:3], ())) for row in self.events),
            *(Batch(late=[row]) for row in self.late),
            *(Batch(deliveries=rows) for rows in awaited.values()),
            *(Batch(ended=[row]) for row in self.ended),
        ]


def together(batches: Iterable[Batch]) -> Batch:
    """Return the rows of ``batches`` as one."""
    batches = list(batches)
    return (
        batches[0]
        if len(batches) == 1
        else Batch(*(list(chain.from_iterable(rows)) for rows in zip(*batches, strict=True)))
    )


# ------------------------------------------------------------------ drafts to rows


def batch_of(
    drafts: Iterable[Draft], *, traces: Sequence[Row] = (), late: Sequence[Row] = (), ended: Sequence[Row] = ()
) -> Batch:
    """Return what is to be written of ``drafts``, whose transaction commits unless they say otherwise: their events and
    the deliveries of these.

    Raises what making a delivery raises: an event may be dropped, a delivery may not.
    """
    if deliverer is None:
        return Batch(event_rows(drafts, Outcome.COMMITTED), traces, late, ended=ended)
    deliveries: list[Row] = []
    awaited = set()
    drafts = list(drafts)
    for draft in drafts:
        if made := deliverer.delivery_rows(draft):
            deliveries += made
            awaited.add(draft.span)
    return Batch(event_rows(drafts, Outcome.COMMITTED, awaited), traces, late, deliveries, ended)


def event_rows(drafts: Iterable[Draft], outcome: Outcome, awaited: Container[int] = ()) -> list[Row]:
    """Return the rows of ``drafts``; ``outcome`` is that of their transaction. A draft that can't be encoded is
    dropped, counted and logged: it must not take the others with it. ``awaited`` are the spans of events that have
    deliveries, and are kept even if they changed nothing."""
    rows = []
    keep = keeping.chosen()
    word = outcome.value
    for draft in drafts:
        try:
            described = None if draft.change is None else describe(draft.change)
            if not keep_unchanged and draft.span not in awaited and _unchanged(draft, described):
                continue
            row = event_row(draft, word, described)
            if keep is not None:
                text = keeping.judge(keep, dict(zip(_NAMES, row, strict=True)), row[-1])
                if text is None and draft.span not in awaited:
                    continue
                row = (*row[:-1], text or row[-1])
            rows.append(row)
        except Exception:  # values come from the application; whatever they do stays here
            tally.dropped += 1
            logger.exception("An event of %s could not be encoded and is dropped.", draft.signal)
    return rows


def _unchanged(draft: Draft, described: Described | None) -> bool:
    """Tell whether ``draft`` is of an update that changed nothing and whose receivers did not fail."""
    return described == ("changes", {}) and not draft.errors


def event_row(draft: Draft, outcome: str, described: Described | None = None) -> Row:
    """Return the row of ``draft``, in the order of ``EVENT_COLUMNS``; ``outcome`` is that of its transaction, and
    ``described`` what ``describe`` says of its change."""
    actor = draft.actor
    duration = draft.duration
    return (
        draft.time // 1000,
        draft.trace.id,
        draft.span,
        draft.parent,
        draft.signal,
        draft.sender,
        draft.key,
        draft.label,
        "" if actor is None else actor.key,
        "" if actor is None else actor.label,
        draft.using,
        settled(draft, outcome),
        None if duration is None else duration // 1000,
        draft.errors,
        data_text(draft, described),
    )


def settled(draft: Draft, outcome: str) -> str:
    """Return the outcome that is stored: a change is committed or rolled back, whatever its receivers did."""
    if draft.outcome is None:
        return outcome
    if draft.outcome is Outcome.ROLLED_BACK or outcome == "rolled_back":
        return "rolled_back"
    return outcome if draft.change is not None else draft.outcome.value


def data_text(draft: Draft, described: Described | None = None) -> str:
    """Return the JSON text of what has no column of its own."""
    text = ""
    args = draft.args
    if args is not None:  # the common save's arguments come as ready-made text
        text = f'"args":{args if type(args) is str else encoding.dumps(args)},'
    if draft.announced is not None:
        text += f'"announced":{draft.announced // 1000},'
    if described is not None and draft.change is not None:
        text += _fields_text(draft.change, described) + ","
    if draft.runs is not None:
        text += f'"receivers":{encoding.dumps([_run(run) for run in draft.runs])},'
    return f"{{{text[:-1]}}}"


def _run(run: ReceiverRun) -> dict[str, Any]:
    site, spent, error = run
    return {"name": site.name, "place": site.place, "us": None if spent is None else spent // 1000, "error": error}


def _fields_text(change: RowChange, described: Described) -> str:
    """Return what a row's change stores, as the inside of a JSON object: each value bounded and without secrets."""
    part, values = described
    fields = change.fields
    text = f'"{part}":{encoding.fields_text(values, special=fields.special, redactor=fields.redactor)}'
    if not fields.choices and not change.labels:
        return text
    labels = {**choice_labels(values, fields), **(change.labels or {})}
    return text if not labels else text + ',"labels":' + encoding.dumps(labels)


def trace_row(trace: Trace) -> Row:
    """Return the row of ``trace``, in the order of ``TRACE_COLUMNS``."""
    actor = trace.actor()
    counted: dict[str, Any] = trace.counts
    counts = {
        signal: {model._meta.label: number for model, number in models.items()}
        for signal, models in counted.items()
        if models
    }
    return (
        trace.id,
        encoding.column(trace.kind, 16),
        encoding.column(trace.name, 200),
        "" if actor is None else actor.key,
        "" if actor is None else actor.label,
        trace.started // 1000,
        None if trace.duration is None else trace.duration // 1000,
        encoding.column(trace.status, 16),
        trace.events,
        trace.errors,
        trace.rolled_back,
        encoding.dumps({**trace.data, "counts": counts} if counts else trace.data),
    )


def late_row(draft: Draft) -> Row:
    """Return what is known of ``draft`` only after it was written, in the order of ``LATE_COLUMNS``."""
    duration = draft.duration
    described = None if draft.change is None else describe(draft.change)
    text = data_text(draft, described)
    if (keep := keeping.chosen()) is not None:  # what it added is to stay, whatever it says of keeping now
        row = event_row(draft, "committed", described)
        text = keeping.judge(keep, dict(zip(_NAMES, row, strict=True)), text) or text
    return (None if duration is None else duration // 1000, draft.errors, text, draft.trace.id, draft.span)


def ended_row(trace: Trace) -> Row:
    """Return what is known of ``trace`` only when it has ended, in the order of ``ENDED_COLUMNS``."""
    trace_id, *_, started, duration, status, events, errors, rolled_back, data = trace_row(trace)
    return (duration, status, events, errors, rolled_back, data, trace_id, started)


def trace_rows(traces: Iterable[Trace]) -> list[Row]:
    """Return the rows of ``traces`` that can be encoded."""
    return _encoded(trace_row, traces, "A trace")


def ended_rows(traces: Iterable[Trace]) -> list[Row]:
    """Return what completes the rows of ``traces``, of those that can be encoded."""
    return _encoded(ended_row, traces, "The end of a trace")


def late_rows(drafts: Iterable[Draft]) -> list[Row]:
    """Return the late rows of ``drafts`` that can be encoded."""
    return _encoded(late_row, drafts, "What came late of an event")


def _encoded(encode: Callable[[T], Row], things: Iterable[T], what: str) -> list[Row]:
    rows = []
    for thing in things:
        try:
            rows.append(encode(thing))
        except Exception:  # values come from the application; whatever they do stays here
            tally.dropped += 1
            logger.exception("%s could not be encoded and is dropped.", what)
    return rows


# ------------------------------------------------------------------ rows to the database


def write(connection: BaseDatabaseWrapper, batch: Batch, *, commit: bool = False) -> None:
    """Write ``batch`` in the transaction that is open on ``connection``, or in one of its own if none is.

    All of it is written or nothing, and a failure leaves the open transaction as it was, unless the database itself
    ends it (see ``survived``). Raises ``django.db.DatabaseError`` if the database refuses. ``commit`` lets the COMMIT
    go along, where ``takes_commit`` says that it can: after an error, ``ended`` tells whether it was the COMMIT's.
    """
    if connection.connection is None:
        connection.ensure_connection()
    with connection.wrap_database_errors:
        match connection.vendor:
            case "sqlite":
                _write_sqlite(connection, batch, in_transaction(connection))
            case "postgresql":
                _write_postgresql(connection, batch, in_transaction(connection), commit=commit)
            case _:
                _write_values(connection, batch, in_transaction(connection))
    tally.written += len(batch.events)
    if batch.deliveries and deliverer is not None:
        deliverer.delivered(connection)


def write_apart(connection: BaseDatabaseWrapper, batch: Batch) -> Iterator[tuple[Batch, Exception | None]]:
    """Write ``batch`` and yield what was written: all of it, unless the database refuses some of its rows. Then the
    others are written, and each that is refused is yielded with the error.

    Raises what is no fault of the rows: a database that is away, or a transaction that is lost.
    """
    parts = deque([[batch]])
    while parts:
        part = parts.popleft()
        whole = together(part)
        try:
            write(connection, whole)
        except Exception as error:
            if not refused(connection, error) or (in_transaction(connection) and not survived(connection, error)):
                raise
            if len(part) == 1:
                part = part[0].apart()
            if len(part) == 1:
                yield whole, error
            else:
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))
        else:
            yield whole, None


def drop(part: Batch, error: Exception) -> None:
    """Count and log one row that the database refuses."""
    tally.dropped += 1
    what = f"An event of {part.events[0][4]}" if part.events else "A trace" if part.traces else "A part of an event"
    logger.error("%s could not be written and is dropped: %r", what, error)


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether what is written now waits for somebody's commit."""
    return connection.in_atomic_block or not connection.get_autocommit()


def _parts(batch: Batch) -> Iterable[tuple[str, Sequence[tuple[str, str]], Sequence[Row]]]:
    if batch.events:
        yield EVENT, EVENT_COLUMNS, batch.events
    if batch.traces:
        yield TRACE, TRACE_COLUMNS, batch.traces
    if batch.deliveries:
        yield DELIVERY, DELIVERY_COLUMNS, batch.deliveries


def _names(columns: Sequence[tuple[str, str]], quote: str = '"') -> str:
    return ", ".join(f"{quote}{name}{quote}" for name, _ in columns)


_LATE_SQL: Final = "UPDATE {table} SET duration = {p}, errors = {p}, data = {p} WHERE trace_id = {p} AND span = {p}"
_ENDED_SQL: Final = (
    f"UPDATE {TRACE} SET duration = {{p}}, status = {{p}}, events = {{p}}, errors = {{p}}, rolled_back = {{p}}, "
    "data = {p} WHERE trace_id = {p} AND time = {p}"
)
_SQLITE: Final = {
    table: f"INSERT INTO {table} ({_names(columns)}) VALUES ({', '.join('?' * len(columns))})"
    for table, columns in ((EVENT, EVENT_COLUMNS), (TRACE, TRACE_COLUMNS), (DELIVERY, DELIVERY_COLUMNS))
}
_SQLITE_LATE: Final = _LATE_SQL.format(table=EVENT, p="?")
_SQLITE_ENDED: Final = _ENDED_SQL.format(p="?")


def _write_sqlite(connection: BaseDatabaseWrapper, batch: Batch, inside: bool) -> None:
    database: Any = connection.connection
    if inside and not database.in_transaction:  # the driver begins one before it writes, not before a savepoint
        database.execute("BEGIN")
    if not inside and not database.in_transaction:
        # The write lock at once: a transaction that reads first and writes later fails without waiting for its turn.
        before, undo, after = "BEGIN IMMEDIATE", "ROLLBACK", "COMMIT"
    elif sum(map(len, batch)) == 1:  # one statement is all or nothing by itself
        before = undo = after = ""
    else:
        before, undo, after = "SAVEPOINT signalbox", "ROLLBACK TO signalbox; RELEASE signalbox", "RELEASE signalbox"
    if before:
        database.execute(before)
    try:
        for table, _, rows in _parts(batch):
            database.executemany(_SQLITE[table], rows)
        if batch.late:
            database.executemany(_SQLITE_LATE, batch.late)
        if batch.ended:
            database.executemany(_SQLITE_ENDED, batch.ended)
        if after:
            database.execute(after)
    except BaseException:
        if undo and database.in_transaction:  # some errors end it
            for sql in undo.split("; "):
                database.execute(sql)
        raise


_POSTGRESQL_FEW: Final = 5
"""Up to so many rows are written out one by one, more as one JSON document: planning what takes a document apart costs
the server as much as five rows do, and less than parsing the values of more."""


def _postgresql_sql(table: str, columns: Sequence[tuple[str, str]]) -> str:
    picked = ", ".join(
        f"x->{i}" if kind == "jsonb" else f"x->>{i}" if kind == "text" else f"(x->>{i})::{kind}"
        for i, (_, kind) in enumerate(columns)
    )
    return f"INSERT INTO {table} ({_names(columns)}) SELECT {picked} FROM jsonb_array_elements(%s::jsonb) x"


_POSTGRESQL: Final = {
    table: _postgresql_sql(table, columns)
    for table, columns in ((EVENT, EVENT_COLUMNS), (TRACE, TRACE_COLUMNS), (DELIVERY, DELIVERY_COLUMNS))
}
_POSTGRESQL_VALUES: Final = {
    table: f"INSERT INTO {table} ({_names(columns)}) VALUES"
    for table, columns in ((EVENT, EVENT_COLUMNS), (TRACE, TRACE_COLUMNS), (DELIVERY, DELIVERY_COLUMNS))
}
_POSTGRESQL_LATE: Final = (
    f"UPDATE {EVENT} e SET duration = (x->>0)::bigint, errors = (x->>1)::int, data = x->2 "
    "FROM jsonb_array_elements(%s::jsonb) x WHERE e.trace_id = x->>3 AND e.span = (x->>4)::bigint"
)


_POSTGRESQL_ENDED: Final = (
    f"UPDATE {TRACE} t SET duration = (x->>0)::bigint, status = x->>1, events = (x->>2)::int, "
    "errors = (x->>3)::int, rolled_back = (x->>4)::int, data = x->5 "
    "FROM jsonb_array_elements(%s::jsonb) x WHERE t.trace_id = x->>6 AND t.time = (x->>7)::bigint"
)


def _document(rows: Iterable[Row], data_at: int) -> str:
    """Return rows as one JSON text; the column at ``data_at`` is JSON text already and goes in as it is."""
    texts = []
    for row in rows:
        before = encoding.dumps(row[:data_at])[:-1]
        after = encoding.dumps(row[data_at + 1 :])
        texts.append(f"{before},{row[data_at]}" + ("]" if after == "[]" else "," + after[1:]))
    return "[" + ",".join(texts) + "]"


def _postgresql_statements(batch: Batch, quote: Callable[[str], str]) -> Iterator[str]:
    for table, columns, rows in _parts(batch):
        if len(rows) > _POSTGRESQL_FEW:
            yield _POSTGRESQL[table].replace("%s", quote(_document(rows, len(columns) - 1)))
        else:
            texts = (", ".join([_literal(value, quote) for value in row]) for row in rows)
            yield f"{_POSTGRESQL_VALUES[table]} ({'), ('.join(texts)})"
    if batch.late:
        yield _POSTGRESQL_LATE.replace("%s", quote(_document(batch.late, 2)))
    if batch.ended:
        yield _POSTGRESQL_ENDED.replace("%s", quote(_document(batch.ended, 5)))
    if batch.deliveries:
        yield f"NOTIFY {CHANNEL}"


def _literal(value: Any, quote: Callable[[str], str]) -> str:
    if value is None:
        return "NULL"
    return str(value) if type(value) is int else quote(str(value))


def _write_postgresql(connection: BaseDatabaseWrapper, batch: Batch, inside: bool, *, commit: bool) -> None:
    statements = list(_postgresql_statements(batch, _quoting(connection)))
    if inside:
        statements = ["SAVEPOINT signalbox", *statements, "RELEASE SAVEPOINT signalbox"]
    if commit:
        statements.append("COMMIT")
    sql = "; ".join(statements)
    if "\0" in sql:  # the message would end here
        raise ValueError("PostgreSQL's texts can't hold the character NUL.")
    # Several statements in one message are one round trip, and one transaction where none is open.
    with _postgresql_cursor(connection) as cursor:
        try:
            cursor.execute(sql)
        except BaseException:
            if inside and aborted(connection):
                cursor.execute("ROLLBACK TO SAVEPOINT signalbox; RELEASE SAVEPOINT signalbox")
            raise


def _quoting(connection: Any) -> Callable[[str], str]:
    """Return what makes a literal of a text, by the driver's own means: a driver that binds fifteen parameters for each
    row takes longer than the server takes to write it."""
    raw, driver = connection.connection, connection.Database
    if hasattr(driver, "ClientCursor"):
        literal = driver.pq.Escaping(raw.pgconn).escape_literal
        return lambda text: bytes(literal(text.encode())).decode()

    def quote(text: str) -> str:
        quoted = driver.extensions.QuotedString(text)
        quoted.prepare(raw)
        return str(quoted.getquoted().decode())

    return quote


def _postgresql_cursor(connection: Any) -> Any:
    """Return a cursor that takes several statements in one message, which the server's own parameters forbid."""
    raw, driver = connection.connection, connection.Database
    return driver.ClientCursor(raw) if hasattr(driver, "ClientCursor") else raw.cursor()


def takes_commit(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the COMMIT of the open transaction can go along with what is written last, in one round trip.

    The driver has to see for itself then that nothing is left to commit: psycopg does, psycopg2 does not. A server that
    has said something meanwhile may be gone: then the COMMIT goes alone, so that its fate is known.
    """
    driver: Any = getattr(connection, "Database", None)
    if connection.vendor != "postgresql" or not hasattr(driver, "ClientCursor") or _status(connection) != _INTRANS:
        return False
    raw: Any = connection.connection
    return not _readable(raw.fileno())


def _readable(descriptor: int) -> bool:
    """Tell whether something has arrived on a socket."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _write_values(connection: BaseDatabaseWrapper, batch: Batch, inside: bool) -> None:
    raw: Any = connection.connection
    statements = list(_values_statements(batch))
    if not inside:
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


def _values_statements(batch: Batch) -> Iterable[tuple[str, Sequence[Any]]]:
    for table, columns, rows in _parts(batch):
        one = "(" + ", ".join(["%s"] * len(columns)) + ")"
        for start in range(0, len(rows), 500):  # 500 rows of 15 parameters stay far below the packet's limit
            part = rows[start : start + 500]
            head = f"INSERT INTO {table} ({_names(columns, '`')}) VALUES "
            yield head + ", ".join([one] * len(part)), list(chain.from_iterable(part))
    for row in batch.late:
        yield _LATE_SQL.format(table=EVENT, p="%s"), row
    for row in batch.ended:
        yield _ENDED_SQL.format(p="%s"), row


# ------------------------------------------------------------------ what does an error mean?

_REFUSED_BY_POSTGRESQL: Final = ("21", "22", "23", "44", "54", "P0")
"""Classes of SQLSTATE: cardinality, data, constraints, check options, limits of size, what a trigger raises."""
_REFUSED_BY_MYSQL: Final = frozenset({1264, 1265, 1292, 1300, 1366, 1406, 1411, 1644, 3140, 3819, 3988, 4025})
"""Errors about values, constraints, what a trigger raises: most of them come as ``OperationalError``."""


def refused(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
    """Tell whether ``error`` is about a row: the database takes others. Else it is away, or busy, or has no table."""
    if isinstance(error, DataError | IntegrityError | ValueError | OverflowError):  # the last two are a driver's own
        return True
    if not isinstance(error, DatabaseError | InterfaceError):
        return False
    match connection.vendor:
        case "sqlite":
            return "binding parameter" in str(error)
        case "postgresql":
            return str(getattr(error.__cause__, "sqlstate", "")).startswith(_REFUSED_BY_POSTGRESQL)
        case "mysql":
            return bool(error.args) and error.args[0] in _REFUSED_BY_MYSQL
    return False


_IDLE, _INTRANS, _INERROR = 0, 2, 3
"""libpq's PQTRANS_IDLE: no transaction is open; PQTRANS_INTRANS: one is; PQTRANS_INERROR: it has failed, and its COMMIT
will be a ROLLBACK."""
_ENDED_BY_MYSQL: Final = frozenset({1205, 1213})
"""Errors that end MySQL's transaction: a lock's timeout, by configuration, and a deadlock."""


def _status(connection: BaseDatabaseWrapper) -> int:
    raw: Any = connection.connection
    return _INTRANS if raw is None else int(raw.info.transaction_status)


def aborted(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether PostgreSQL has given up the open transaction: its COMMIT will be a ROLLBACK."""
    return connection.vendor == "postgresql" and _status(connection) == _INERROR


def ended(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether PostgreSQL has ended the open transaction, or is gone, where a COMMIT went along with a write."""
    return _status(connection) not in (_INTRANS, _INERROR)


def begun(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether SQLite has a transaction open: with autocommit off the driver begins one before the first write."""
    raw: Any = connection.connection
    with connection.wrap_database_errors:
        return bool(raw.in_transaction)


def survived(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
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
            return _status(connection) == _INTRANS
        case "mysql" if getattr(connection, "mysql_is_mariadb", False):
            with raw.cursor() as cursor:
                cursor.execute("SELECT @@in_transaction")
                return bool(cursor.fetchone()[0])
    return bool(error.args) and error.args[0] not in _ENDED_BY_MYSQL


def answered(connection: BaseDatabaseWrapper, error: BaseException) -> bool:
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


# ------------------------------------------------------------------ are the tables there?

_ready: dict[tuple[str, str], float] = {}
"""By alias and database: infinity where the tables were found, else when to look again."""


def ready(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether the tables stand in the database of ``connection``."""
    key = (connection.alias, str(connection.settings_dict["NAME"]))
    known = _ready.get(key)
    if known is not None and (known == _FOUND or time.monotonic() < known):
        return known == _FOUND
    with connection.wrap_database_errors:
        found = _has_tables(connection)
    _ready[key] = _FOUND if found else time.monotonic() + LOOK_AGAIN
    return found


_FOUND: Final = float("inf")


def forget() -> None:
    """Look for the tables anew: a migration or a flush has run."""
    _ready.clear()


def _has_tables(connection: BaseDatabaseWrapper) -> bool:
    connection.ensure_connection()
    raw: Any = connection.connection
    match connection.vendor:
        case "sqlite":
            sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)"
            return bool(raw.execute(sql, (EVENT, TRACE)).fetchone()[0] == 2)
        case "postgresql":
            with _postgresql_cursor(connection) as cursor:
                cursor.execute("SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL", (EVENT, TRACE))
                return bool(cursor.fetchone()[0])
        case _:
            with raw.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM information_schema.tables "
                    "WHERE table_schema = database() AND table_name IN (%s, %s)",
                    (EVENT, TRACE),
                )
                return bool(cursor.fetchone()[0] == 2)
