"""The commits and rollbacks that are stored with the rows of a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from signalbox.models import Trace


class TransactionEnd(NamedTuple):
    """A commit or a rollback, as it was recorded."""

    time: int
    """When it had ended, in microseconds since the epoch."""
    outcome: str
    database: str
    event_count: int | None
    """Number of events in the transaction; ``None`` if it was not counted."""
    is_savepoint: bool


class TransactionEnds(NamedTuple):
    """The ends of the transactions of some traces."""

    ends: list[TransactionEnd]
    """Those that are stored, in order of time."""
    total: int
    """Number of those that happened. A trace stores only the first ones."""


def get_transaction_ends(traces: Iterable[Trace]) -> TransactionEnds:
    """Return the ends of transactions that are stored with ``traces``."""
    ends: list[TransactionEnd] = []
    total = 0
    for trace in traces:
        data: Any = trace.data if isinstance(trace.data, Mapping) else {}
        stored = data.get("transactions") or ()
        total += data.get("transaction_count", len(stored))
        ends += [
            TransactionEnd(
                end["time_us"], end["outcome"], end["database"], end.get("events"), bool(end.get("savepoint"))
            )
            for end in stored
        ]
    return TransactionEnds(sorted(ends), total)
