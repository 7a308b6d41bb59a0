"""Records when the transactions of a connection end. The time of a COMMIT is known only after its events are written.

So it is stored with the row of the trace, which is written later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.core import clock
from signalbox.core.event import Outcome, TransactionEnd

if TYPE_CHECKING:
    from signalbox.core.event import PendingEvent


class OpenTransaction:
    """A transaction in which an event was recorded."""

    __slots__ = ("_database", "_trace", "id", "is_trimmed")

    def __init__(self, event: PendingEvent, database: str) -> None:
        self.id = event.span
        """The span of its first event."""
        self._trace = event.trace
        self._database = database
        self.is_trimmed = False
        """Whether some of its events are not in memory any more, so that their number is unknown."""

    def record_end(self, outcome: Outcome, event_count: int, *, is_savepoint: bool = False) -> None:
        """Record in the trace that this transaction, or one of its savepoints, ended now."""
        count = None if self.is_trimmed and not is_savepoint else event_count
        end = TransactionEnd(self.id, self._database, outcome, clock.now(), count, is_savepoint)
        self._trace.add_transaction_end(end)
