"""Values that are passed from a send to the tables."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from signalbox.core.raised_error import RaisedError
    from signalbox.core.receivers import CodeLocation
    from signalbox.core.tracing import Trace
    from signalbox.serialization.diff import RowChange


ERASED_COLUMNS_KEY: Final = "erased"
"""In an event's data: the names of the columns whose texts were erased. The text could also be a real value."""


class Outcome(StrEnum):
    """The result of an event."""

    COMMITTED = "committed"
    """Its change is in the database."""
    ROLLED_BACK = "rolled_back"
    """Its change was undone, by a savepoint or with the whole transaction."""
    FAILED = "failed"
    """A receiver or the operation raised an exception, without a change to commit."""
    SENT = "sent"
    """It was sent, without a change to commit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """The user, or the name, that performs the work."""

    key: str
    """The user's primary key as text; empty if the actor is not a user."""
    label: str
    """The user's name, or what was given to ``set_actor``."""


class ReceiverCall(NamedTuple):
    """One receiver's run for one event."""

    location: CodeLocation
    """Its name and place."""
    duration_ns: int | None
    """Duration in nanoseconds; ``None`` if the signal's own ``send`` could not be measured."""
    error: str | None
    """The exception that it raised, as ``Type: message``; ``None`` if it returned."""
    is_passed_through: bool = False
    """Whether this exception was raised elsewhere: by nested work, which has counted it, or to cancel the receiver."""
    start_ns: int | None = None
    """Nanoseconds from the time of its event to its beginning; ``None`` if the send could not be measured."""
    position: int | None = None
    """Position among the receivers of its send; ``None`` if that is its position in the list of calls."""

    @property
    def has_raised(self) -> bool:
        """Whether it raised an exception itself."""
        return self.error is not None and not self.is_passed_through


RunningReceiver: TypeAlias = tuple[int, int | None]
"""The receiver that is running: the span of its event, and its position among the receivers of its send.

The position is ``None`` if it is unknown, or if the receiver is durable. It is a plain tuple, because one is built for
each recorded receiver.
"""


class TransactionEnd(NamedTuple):
    """The end of a transaction in which events were recorded, or a rollback to one of its savepoints."""

    transaction_id: int
    """The span of the first event of the transaction."""
    database: str
    outcome: Outcome
    """``COMMITTED`` or ``ROLLED_BACK``."""
    time: int
    """Nanoseconds since the epoch: when the COMMIT or ROLLBACK had returned."""
    event_count: int | None
    """Number of events that it committed or rolled back; ``None`` if it is unknown."""
    is_savepoint: bool = False
    """Whether only a savepoint was rolled back, and the transaction continued."""


class Unknown:
    """The old value of a field that was written without having been read."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


class Rollbackable(Protocol):
    """The row state of an instance, which is restored if its change is rolled back."""

    def restore(self) -> None:
        """Restore the row state that the instance had before."""

    def forget(self) -> None:
        """Mark the row state as unknown, as the outcome of its change is unknown."""

    def is_alive(self) -> bool:
        """Return True if the instance still exists."""


Schema: TypeAlias = str | tuple[str, ...] | None
"""The schema of the tables of an event on PostgreSQL.

None where only one schema has the tables, and on other databases. A tuple is a search path: the connection was not open
when the event was recorded. ``UNKNOWN_SCHEMA`` could not be resolved.
"""
UNKNOWN_SCHEMA: Final = ""


NO_ERRORS: Final[list[RaisedError]] = []
"""The errors of an event without any. It is shared, so use ``PendingEvent.add_error()``."""


class PendingEvent:
    """An event that is not written yet.

    Mutable on purpose: a row's event is captured when the row is written and completed when its receivers have run;
    values are kept as they are and only encoded when the event is written. Building a frozen value for each step
    took longer than the rest of the capture.
    """

    __slots__ = (
        "actor",
        "args",
        "caused_by",
        "change",
        "duration",
        "errors",
        "extra",
        "is_admitted",
        "is_late",
        "is_passed_through",
        "key",
        "label",
        "observed",
        "outbox_arguments",
        "outcome",
        "parent",
        "parent_receiver",
        "pre_signal_time",
        "raised_errors",
        "receiver_calls",
        "rollbackable",
        "schema",
        "sender",
        "signal",
        "span",
        "time",
        "trace",
        "transaction_id",
        "using",
        "written_to",
    )

    def __init__(
        self, time: int, trace: Trace, running: RunningReceiver | None, signal: str, sender: str, using: str
    ) -> None:
        self.time = time
        """Nanoseconds since the epoch."""
        self.trace = trace
        self.span: int = trace.next_span()
        self.parent: int | None = None
        """The span of the event in whose receiver this one happened."""
        self.parent_receiver: int | None = None
        """The position of that receiver."""
        if running is not None:
            self.parent, self.parent_receiver = running
        self.transaction_id: int | None = None
        """The span of the first event of its transaction; ``None`` if it is in none."""
        self.signal = signal
        self.sender = sender
        self.using = using
        self.actor: Actor | None = trace.get_actor()
        self.key = ""
        self.label = ""
        self.outcome: Outcome | None = None
        """Set if it is known before the transaction ends."""
        self.args: Mapping[str, Any] | str | None = None
        """JSON-able arguments, or their JSON text if many events share it."""
        self.change: RowChange | None = None
        """The old and the new row. Changes are computed when the event is written."""
        self.pre_signal_time: int | None = None
        """When the signal before the write was sent, if it had no receivers: nanoseconds since the epoch."""
        self.duration: int | None = None
        """Nanoseconds the send took."""
        self.errors = 0
        self.is_passed_through = False
        """Whether it reports an exception that was counted before, such as that of a receiver."""
        self.is_late = False
        """Whether it was not written with its change, as the table was locked."""
        self.extra: dict[str, Any] | None = None
        """Data that event processors add."""
        self.is_admitted: bool | None = None
        """Whether the event processors allow it; ``None`` until they are called."""
        self.caused_by: Collection[tuple[int, str]] = ()
        """Methods of a project's event processors that were running when the event was recorded."""
        self.observed: Any = None
        """What observers have started for the send of the event."""
        self.receiver_calls: list[ReceiverCall] | None = None
        self.raised_errors: list[RaisedError] = NO_ERRORS
        """The exceptions that are counted with it: those that its receivers raised, or the one that it reports."""
        self.rollbackable: Rollbackable | None = None
        self.outbox_arguments: Mapping[str, Any] | None = None
        """Arguments for durable receivers, if the event's own data is not sufficient."""
        self.schema: Schema = None
        self.written_to = ""
        """Alias of the database that it was written to; empty while it is pending."""

    def add_error(self, error: RaisedError) -> None:
        """Count an exception with this event and its trace."""
        if self.raised_errors is NO_ERRORS:
            self.raised_errors = []
        self.raised_errors.append(error)
        self.errors += 1
        self.trace.errors += 1
