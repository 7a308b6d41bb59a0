"""The only writer of events and traces: drafts to rows, rows to the database."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from signalbox.core.event import Draft, Outcome, ReceiverRun
from signalbox.pipeline import backends, processors
from signalbox.pipeline.batches import EVENT, EVENT_COLUMNS, TRACE, Batch, Row, together
from signalbox.serialization import encoder
from signalbox.serialization.diff import RowChange, choice_labels, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.tracing import Trace

logger = logging.getLogger("signalbox")

Described = tuple[str, dict[str, Any]]
T = TypeVar("T")

_NAMES: Final = tuple(name for name, _ in EVENT_COLUMNS)

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

    def wants(self, signal: str, sender: str) -> bool:
        """Tell whether a durable receiver waits for ``signal`` from ``sender``."""

    def delivery_rows(self, draft: Draft) -> Sequence[Row]:
        """Return the deliveries of a committed event, in the order of ``DELIVERY_COLUMNS``."""

    def delivered(self, connection: BaseDatabaseWrapper) -> None:
        """Deliveries have been written, and wait for the commit of the transaction that is open, if one is."""


deliverer: Deliverer | None = None

keep_unchanged = True
"""Whether a save that changed nothing, and whose receivers did not fail, makes an event."""
UNCHANGED: Final[Described] = ("changes", {})


# ------------------------------------------------------------------ drafts to rows


def batch_of(
    drafts: Iterable[Draft],
    *,
    traces: Sequence[Row] = (),
    late: Sequence[Row] = (),
    ended: Sequence[Row] = (),
    lost: Callable[[Draft, Exception], None] | None = None,
) -> Batch:
    """Return what is to be written of ``drafts``, whose transaction commits unless they say otherwise: their events and
    the deliveries of these.

    Raises what making a delivery raises: an event may be dropped, a delivery may not. Where the change can't be taken
    back any more, ``lost`` is told instead.
    """
    if deliverer is None:
        return Batch(event_rows(drafts, Outcome.COMMITTED), traces, late, (), ended)
    deliveries: list[Row] = []
    awaited = set()
    drafts = list(drafts)
    for draft in drafts:
        try:
            made = deliverer.delivery_rows(draft)
        except Exception as error:
            if lost is None:
                raise
            lost(draft, error)
            continue
        if made:
            deliveries += made
            awaited.add(draft.span)
    return Batch(event_rows(drafts, Outcome.COMMITTED, awaited), traces, late, deliveries, ended)


def event_rows(drafts: Iterable[Draft], outcome: Outcome, awaited: Container[int] = ()) -> list[Row]:
    """Return the rows of ``drafts``; ``outcome`` is that of their transaction. A draft that can't be encoded is
    dropped, counted and logged: it must not take the others with it. ``awaited`` are the spans of events that have
    deliveries, and are kept even if they changed nothing."""
    rows = []
    keep = processors.chosen()
    word = outcome._value_  # ``value`` takes a call
    for draft in drafts:
        try:
            described = None if draft.change is None else describe(draft.change)
            if described == UNCHANGED and not keep_unchanged and not draft.errors and draft.span not in awaited:
                continue
            row = event_row(draft, word, described)
            if keep is not None:
                text = processors.judge(keep, dict(zip(_NAMES, row, strict=True)), row[-1])
                if text is None and draft.span not in awaited:
                    continue
                row = (*row[:-1], text or row[-1])
            rows.append(row)
        except Exception:  # values come from the application; whatever they do stays here
            tally.dropped += 1
            logger.exception("An event of %s could not be encoded and is dropped.", draft.signal)
    return rows


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
        text = f'"args":{args if type(args) is str else encoder.dumps(args)},'
    if draft.announced is not None:
        text += f'"announced":{draft.announced // 1000},'
    if described is not None and draft.change is not None:
        text += _fields_text(draft.change, described) + ","
    if draft.runs is not None:
        text += f'"receivers":{encoder.dumps([_run(run) for run in draft.runs])},'
    return f"{{{text[:-1]}}}"


def _run(run: ReceiverRun) -> dict[str, Any]:
    site, spent, error = run
    return {"name": site.name, "place": site.place, "us": None if spent is None else spent // 1000, "error": error}


def _fields_text(change: RowChange, described: Described) -> str:
    """Return what a row's change stores, as the inside of a JSON object: each value bounded and without secrets."""
    part, values = described
    fields = change.fields
    text = f'"{part}":{encoder.fields_text(values, special=fields.special, redactor=fields.redactor)}'
    if not fields.choices and not change.labels:
        return text
    labels = {**choice_labels(values, fields), **(change.labels or {})}
    return text if not labels else text + ',"labels":' + encoder.dumps(labels)


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
        encoder.column(trace.kind, 16),
        encoder.column(trace.name, 200),
        "" if actor is None else actor.key,
        "" if actor is None else actor.label,
        trace.started // 1000,
        None if trace.duration is None else trace.duration // 1000,
        encoder.column(trace.status, 16),
        trace.events,
        trace.errors,
        trace.rolled_back,
        encoder.dumps({**trace.data, "counts": counts} if counts else trace.data),
    )


def late_row(draft: Draft) -> Row:
    """Return what is known of ``draft`` only after it was written: duration, errors and data, with trace and span."""
    duration = draft.duration
    described = None if draft.change is None else describe(draft.change)
    text = data_text(draft, described)
    if (keep := processors.chosen()) is not None:  # what it added is to stay, whatever it says of keeping now
        row = event_row(draft, "committed", described)
        text = processors.judge(keep, dict(zip(_NAMES, row, strict=True)), text) or text
    return (None if duration is None else duration // 1000, draft.errors, text, draft.trace.id, draft.span)


def ended_row(trace: Trace) -> Row:
    """Return what is known of ``trace`` only when it has ended, with its id and time."""
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
    ends it (see ``drivers.survived``). Raises ``django.db.DatabaseError`` if the database refuses. ``commit`` lets the
    COMMIT go along, where ``drivers.takes_commit`` says that it can; after an error, ``drivers.ended`` tells whether it
    was the COMMIT's.
    """
    if connection.connection is None or (connection.autocommit and not connection.in_atomic_block):
        connection.ensure_connection()  # there the database is forbidden, as pytest-django does where a test has none
    with connection.wrap_database_errors:
        backends.write(connection, batch, commit=commit)
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
            if not backends.refused(connection, error) or (
                backends.in_transaction(connection) and not backends.survived(connection, error)
            ):
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
            with backends.postgresql_cursor(connection) as cursor:
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
