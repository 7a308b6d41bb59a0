"""Columns of the tables, and batches of rows that are written together."""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from signalbox.core.event import PendingEvent

TableRow = tuple[Any, ...]

FLUSH_THRESHOLD: Final = 1000
"""Events that a trace or transaction keeps in memory until it ends. More are written before that."""
MAX_BATCH_ROWS: Final = 2_000
"""Maximum number of rows that are written together, to limit the memory of both sides."""

EVENT_TABLE: Final = "signalbox_event"
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
    ("is_system", "boolean"),
    ("data", "jsonb"),
)
"""Columns of ``models.Event`` in the order of ``serializer.build_event_row()``, with their types on PostgreSQL."""
TRACE_TABLE: Final = "signalbox_trace"
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
DELIVERY_TABLE: Final = "signalbox_delivery"
DELIVERY_COLUMNS: Final = (
    ("receiver", "text"),
    ("queue", "text"),
    ("ordering_key", "text"),
    ("partition_id", "bigint"),
    ("trace_id", "text"),
    ("span", "bigint"),
    ("signal", "text"),
    ("sender", "text"),
    ("object_key", "text"),
    ("database", "text"),
    ("run_at", "bigint"),
    ("next_check_at", "bigint"),
    ("created", "bigint"),
    ("payload", "jsonb"),
    ("chain_length", "int"),
)
ERROR_TABLE: Final = "signalbox_error"
ERROR_COLUMNS: Final = (
    ("trace_id", "text"),
    ("span", "bigint"),
    ("position", "int"),
    ("fingerprint", "text"),
    ("time", "bigint"),
    ("exception", "text"),
    ("message", "text"),
    ("file", "text"),
    ("line", "int"),
    ("function", "text"),
    ("receiver", "text"),
    ("data", "jsonb"),
)
"""Columns of ``models.Error`` that the pipeline writes, in the order of ``serializer.build_error_rows()``."""
EPHEMERAL_SIGNALS: Final = frozenset({"request_started", "request_finished", "connection_created"})
"""Signals whose events contain only the fact of the send: see ``Batch.requires_durability``."""
RowKey: TypeAlias = tuple[str, int, bool]
"""Identifier of a row: its trace's id, its span or start time, and whether it updates an event."""


def _get_indexes(columns: Sequence[tuple[str, str]], *names: str) -> tuple[int, ...]:
    return tuple([name for name, _ in columns].index(name) for name in names)


_EVENT_TRACE, _EVENT_SPAN, _EVENT_SIGNAL = _get_indexes(EVENT_COLUMNS, "trace_id", "span", "signal")
_TRACE_ID, _TRACE_TIME = _get_indexes(TRACE_COLUMNS, "trace_id", "time")
_DELIVERY_TRACE, _DELIVERY_SPAN = _get_indexes(DELIVERY_COLUMNS, "trace_id", "span")
_ERROR_TRACE, _ERROR_SPAN, _ERROR_POSITION = _get_indexes(ERROR_COLUMNS, "trace_id", "span", "position")
NOTIFY_CHANNEL: Final = "signalbox"
"""Channel of PostgreSQL's NOTIFY for new deliveries."""
TABLE_COLUMNS: Final = {
    EVENT_TABLE: EVENT_COLUMNS,
    TRACE_TABLE: TRACE_COLUMNS,
    DELIVERY_TABLE: DELIVERY_COLUMNS,
    ERROR_TABLE: ERROR_COLUMNS,
}


class Batch(NamedTuple):
    """Rows to be written together."""

    events: Sequence[TableRow] = ()
    traces: Sequence[TableRow] = ()
    event_updates: Sequence[TableRow] = ()
    deliveries: Sequence[TableRow] = ()
    trace_updates: Sequence[TableRow] = ()
    """Updates of traces that were written before they finished."""
    pending: Sequence[PendingEvent] = ()
    """The events of ``events``, in their order, if an event processor needs them after the commit."""
    errors: Sequence[TableRow] = ()
    """The exceptions that are counted with the events, and those with which the traces ended."""

    def __bool__(self) -> bool:
        return any(self)

    def requires_durability(self) -> bool:
        """Return True if a crash of the server must not lose the rows.

        These are deliveries, and events that are not only about the start or end of a request or connection.
        """
        return bool(self.deliveries) or any(row[_EVENT_SIGNAL] not in EPHEMERAL_SIGNALS for row in self.events)

    def iter_keys(self) -> Iterator[RowKey]:
        """Yield the identifier of each row, except deliveries. An update ends with the values that identify it."""
        yield from ((row[_TRACE_ID], row[_TRACE_TIME], False) for row in self.traces)
        yield from ((row[-2], row[-1], False) for row in self.trace_updates)
        yield from ((row[_EVENT_TRACE], row[_EVENT_SPAN], False) for row in self.events)
        yield from ((row[-2], row[-1], True) for row in self.event_updates)

    def describe(self) -> str:
        """Return a name for a batch of one row, for a message."""
        if self.events:
            return f"An event of {self.events[0][_EVENT_SIGNAL]}"
        return "A trace" if self.traces else "An update of an event or trace"

    def split(self) -> list[Batch]:
        """Return a batch for each row. The deliveries and errors are with their events."""
        deliveries: dict[TableRow, list[TableRow]] = {}
        for row in self.deliveries:
            deliveries.setdefault((row[_DELIVERY_TRACE], row[_DELIVERY_SPAN]), []).append(row)
        errors: dict[TableRow, list[TableRow]] = {}
        for row in self.errors:
            errors.setdefault((row[_ERROR_TRACE], row[_ERROR_SPAN]), []).append(row)
        return [
            *(Batch(traces=[row], errors=errors.pop((row[_TRACE_ID], None), ())) for row in self.traces),
            *(
                Batch(
                    events=[row],
                    deliveries=deliveries.pop((row[_EVENT_TRACE], row[_EVENT_SPAN]), ()),
                    pending=[event] if event else (),
                    errors=errors.pop((row[_EVENT_TRACE], row[_EVENT_SPAN]), ()),
                )
                for row, event in zip_longest(self.events, self.pending)
            ),
            *(Batch(event_updates=[row], errors=errors.pop((row[-2], row[-1]), ())) for row in self.event_updates),
            *(Batch(deliveries=rows) for rows in deliveries.values()),
            *(Batch(trace_updates=[row], errors=errors.pop((row[-2], None), ())) for row in self.trace_updates),
        ]


def get_error_key(row: TableRow) -> TableRow:
    """Return the trace id, the span and the position of a row of ``ERROR_COLUMNS``. Other errors have another key."""
    return (row[_ERROR_TRACE], row[_ERROR_SPAN], row[_ERROR_POSITION])


def merge(batches: Iterable[Batch]) -> Batch:
    """Return the rows of ``batches`` as one batch."""
    batches = list(batches)
    return (
        batches[0]
        if len(batches) == 1
        else Batch(*(list(chain.from_iterable(rows)) for rows in zip(*batches, strict=True)))
    )
