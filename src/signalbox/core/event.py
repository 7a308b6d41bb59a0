"""Values that are passed from a send to the tables."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.core.receivers import CodeLocation
    from signalbox.core.tracing import Trace
    from signalbox.serialization.diff import RowChange


class Outcome(StrEnum):
    """The result of an event."""

    COMMITTED = "committed"
    """Its change is in the database."""
    ROLLED_BACK = "rolled_back"
    """Its change was undone, by a savepoint or with the whole transaction."""
    FAILED = "failed"
    """A receiver or the operation raised, and there was no change to commit."""
    SENT = "sent"
    """It was sent; there was nothing to commit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """Who did it."""

    key: str
    """The user's primary key as text; empty if the actor is not a user."""
    label: str
    """The user's name, or what was given to ``set_actor``."""


class ReceiverCall(NamedTuple):
    """One receiver's run for one event."""

    location: CodeLocation
    """Its name and place."""
    duration_ns: int | None
    """How long it ran; ``None`` where the signal's own ``send`` could not be looked into."""
    error: str | None
    """The exception that left it, as ``Type: message``; ``None`` if it returned."""


class Change(NamedTuple):
    """One field's old and new value; ``UNKNOWN`` where the old value was never read."""

    old: Any
    new: Any


class Unknown:
    """The old value of a field that was written without having been read."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


class Rollbackable(Protocol):
    """What a capture noted on an instance, to be taken back if its change is rolled back."""

    def restore(self) -> None:
        """Let the instance know again what it knew before."""

    def forget(self) -> None:
        """Mark what the instance knows as unknown: whether its change is committed cannot be seen."""

    def is_alive(self) -> bool:
        """Return True if the instance still exists."""


Schema: TypeAlias = str | tuple[str, ...] | None
"""The schema of the tables of an event on PostgreSQL.

None where only one schema has the tables, and on other databases. A tuple is a search path: the connection was not open
when the event was recorded. ``UNKNOWN_SCHEMA`` could not be resolved.
"""
UNKNOWN_SCHEMA: Final = ""


class PendingEvent:
    """An event that is not written yet.

    Mutable on purpose: a row's event is captured when the row is written and completed when its receivers have run;
    values are kept as they are and only encoded when the event is written. Building a frozen value for each step
    took longer than the rest of the capture.
    """

    __slots__ = (
        "actor",
        "args",
        "change",
        "duration",
        "errors",
        "is_late",
        "key",
        "label",
        "outbox_arguments",
        "outcome",
        "parent",
        "pre_signal_time",
        "receiver_calls",
        "rollbackable",
        "schema",
        "sender",
        "signal",
        "span",
        "time",
        "trace",
        "using",
        "written_to",
    )

    def __init__(self, time: int, trace: Trace, parent: int | None, signal: str, sender: str, using: str) -> None:
        self.time = time
        """Nanoseconds since the epoch."""
        self.trace = trace
        self.span: int = trace.next_span()
        self.parent = parent
        self.signal = signal
        self.sender = sender
        self.using = using
        self.actor: Actor | None = trace.get_actor()
        self.key = ""
        self.label = ""
        self.outcome: Outcome | None = None
        """Set where it is known before the transaction ends."""
        self.args: Mapping[str, Any] | str | None = None
        """JSON-able arguments, or their JSON text where it is the same for many events."""
        self.change: RowChange | None = None
        """The row as it was and as it is; what changed is computed when the event is written."""
        self.pre_signal_time: int | None = None
        """When the signal before the write was sent, if it had no receivers: nanoseconds since the epoch."""
        self.duration: int | None = None
        """Nanoseconds the send took."""
        self.errors = 0
        self.is_late = False
        """Whether it was not written with its change, as the table was locked."""
        self.receiver_calls: list[ReceiverCall] | None = None
        self.rollbackable: Rollbackable | None = None
        self.outbox_arguments: Mapping[str, Any] | None = None
        """Arguments for durable receivers, if the event's own data is not sufficient."""
        self.schema: Schema = None
        self.written_to = ""
        """Alias of the database that it was written to; empty while it is pending."""
