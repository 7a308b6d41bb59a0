"""The columns of each table, and the rows that go into them together."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TableRow = tuple[Any, ...]

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
    ("data", "jsonb"),
)
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
)
EPHEMERAL_SIGNALS: Final = frozenset({"request_started", "request_finished", "connection_created"})
"""Signals whose events contain only the fact of the send: see ``Batch.requires_durability``."""
_SIGNAL_INDEX: Final = [name for name, _ in EVENT_COLUMNS].index("signal")
NOTIFY_CHANNEL: Final = "signalbox"
"""Channel of PostgreSQL's NOTIFY for new deliveries."""
TABLE_COLUMNS: Final = {EVENT_TABLE: EVENT_COLUMNS, TRACE_TABLE: TRACE_COLUMNS, DELIVERY_TABLE: DELIVERY_COLUMNS}


class Batch(NamedTuple):
    """Rows to be written together."""

    events: Sequence[TableRow] = ()
    traces: Sequence[TableRow] = ()
    event_updates: Sequence[TableRow] = ()
    deliveries: Sequence[TableRow] = ()
    trace_updates: Sequence[TableRow] = ()
    """Updates of traces that were written before they finished."""

    def __bool__(self) -> bool:
        return any(self)

    def requires_durability(self) -> bool:
        """Return True if a crash of the server must not lose it.

        That is a delivery, or an event that is not only about the start or end of a request or connection.
        """
        return bool(self.deliveries) or any(row[_SIGNAL_INDEX] not in EPHEMERAL_SIGNALS for row in self.events)

    def split(self) -> list[Batch]:
        """Return the rows one by one, the deliveries with their events."""
        deliveries: dict[TableRow, list[TableRow]] = {}
        for row in self.deliveries:
            deliveries.setdefault(row[4:6], []).append(row)
        return [
            *(Batch(traces=[row]) for row in self.traces),
            *(Batch(events=[row], deliveries=deliveries.pop(row[1:3], ())) for row in self.events),
            *(Batch(event_updates=[row]) for row in self.event_updates),
            *(Batch(deliveries=rows) for rows in deliveries.values()),
            *(Batch(trace_updates=[row]) for row in self.trace_updates),
        ]


def merge(batches: Iterable[Batch]) -> Batch:
    """Return the rows of ``batches`` as one."""
    batches = list(batches)
    return (
        batches[0]
        if len(batches) == 1
        else Batch(*(list(chain.from_iterable(rows)) for rows in zip(*batches, strict=True)))
    )
