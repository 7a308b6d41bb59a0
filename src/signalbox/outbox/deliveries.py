"""The values that pass between the queue and its workers: leased deliveries and the results of attempts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from signalbox.core import clock
from signalbox.core.attempt import AttemptOutcome
from signalbox.core.raised_error import RaisedError


@dataclass(kw_only=True, slots=True)
class LeasedDelivery:
    """A delivery that this process may run."""

    id: int
    receiver: str
    queue: str
    ordering_key: str
    partition_id: int | None
    trace_id: str
    span: int
    signal: str
    sender: str
    object_key: str
    database: str
    attempts: int
    """Attempts so far, including the next one if ``attempt_started`` is true."""
    fencing_token: int
    created: int
    payload: dict[str, Any]
    alias: str
    """The database that holds the row."""
    chain_length: int = 1
    """Number of deliveries up to this one, each caused by the receiver of the one before."""
    deferred_since: int | None = None
    """Since when no worker's code can run it, in microseconds since the epoch."""
    attempt_started: bool = False
    """Whether the attempt is counted, which must happen before the receiver is called."""
    started: int | None = None
    """When its attempt began, in microseconds since the epoch; ``None`` until then."""
    acquired_at: float = field(default_factory=clock.monotonic)


@dataclass(eq=False, kw_only=True, slots=True)
class Run:
    """A leased delivery, and those of its partition that the same thread runs after it."""

    delivery: LeasedDelivery
    waiting: deque[LeasedDelivery] = field(default_factory=deque)
    """The next deliveries of the partition, in order. They are leased, and their attempts are not counted."""


class Disposition(Enum):
    """The kind of an attempt's result."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    DEFERRED = "deferred"
    """The receiver could not be loaded in this process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptResult:
    """The result of an attempt, to be written to its delivery."""

    disposition: Disposition
    error: str = ""
    traceback: str | None = None
    """The traceback of ``error``."""
    raised_error: RaisedError | None = None
    """The exception with which the attempt failed, unless a signal has counted it."""
    retry_delay: float = 0.0
    """Seconds to wait before the next attempt."""
    releases_partition: bool = False
    """Whether later deliveries of the key may run although this one is a dead letter."""
    ends_partition: bool = False
    """Whether the later deliveries of the key become dead letters too, for the same reason."""
    receiver_called: bool = True
    """Whether the receiver was called. If not, the attempt does not count."""
    outcome: AttemptOutcome = AttemptOutcome.FAILED
    """The outcome of the attempt, if the receiver was called."""
    ended: int | None = None
    """When the attempt ended, in microseconds since the epoch; ``None`` if it ends when the result is written."""

    @property
    def leaves_partition(self) -> bool:
        """Whether the next delivery of the partition may run."""
        return self.disposition is Disposition.DONE or self.releases_partition


SUCCEEDED: Final = AttemptResult(disposition=Disposition.DONE, outcome=AttemptOutcome.SUCCEEDED)
