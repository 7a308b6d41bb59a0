"""The newest sends of some signals, read within limits of number and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from signalbox.models import Event

MAX_SENDS: Final = 5_000
"""Maximum number of sends that are read of one signal."""

CHUNK_SIZE: Final = 500
"""Number of sends that one statement reads."""

BUDGET_SECONDS: Final = 2.0
"""Seconds after which no other statement begins."""


class RecentSend(NamedTuple):
    """One event, with the columns that the pages of receivers and signals need."""

    id: int
    time: int
    """Microseconds since 1970, UTC."""
    signal: str
    sender: str
    object_key: str
    object_label: str
    outcome: str
    errors: int
    duration: int | None
    """Microseconds."""
    calls: list[dict[str, Any]] | None
    """Its receivers, as in the event's data."""


@dataclass(slots=True)
class RecentSends:
    """The sends that were read of one signal, newest first."""

    signal: str | None
    """Name of the signal; ``None`` for the sends of every signal."""
    sends: list[RecentSend] = field(default_factory=list)
    is_complete: bool = False
    """Whether these are all recorded sends."""
    is_out_of_time: bool = False
    """Whether ``BUDGET_SECONDS`` ended before the limit of sends was reached."""

    @property
    def since(self) -> int | None:
        """Time of the oldest send that was read, in microseconds; ``None`` without any."""
        return min((send.time for send in self.sends), default=None)

    def read_chunk(self, size: int) -> None:
        """Read the next older sends."""
        events = Event.objects.order_by("-id")
        if self.signal is not None:
            # A range and an order by both columns make PostgreSQL use the index of the signal.
            events = Event.objects.filter(signal__range=(self.signal, self.signal)).order_by("-signal", "-id")
        if self.sends:
            events = events.filter(id__lt=self.sends[-1].id)
        columns = [*RecentSend._fields[:-1], "data__receivers"]
        rows = [RecentSend(*row) for row in events.values_list(*columns)[:size]]
        self.sends += rows
        self.is_complete = len(rows) < size


def read_recent_sends(
    signals: Sequence[str] | None, *, max_sends: int = MAX_SENDS, budget_seconds: float = BUDGET_SECONDS
) -> list[RecentSends]:
    """Return the newest sends of each signal.

    Args:
        signals: Names of signals; ``None`` for one result with the newest sends of every signal.
        max_sends: Maximum number of sends that are read of each signal.
        budget_seconds: Time after which no other statement begins. Each signal has at least one statement.
    """
    deadline = time.monotonic() + budget_seconds
    found = [RecentSends(None)] if signals is None else [RecentSends(signal) for signal in signals]
    unfinished = found
    while unfinished:
        for one in unfinished:
            one.is_out_of_time = bool(one.sends) and time.monotonic() > deadline
            if not one.is_out_of_time:
                one.read_chunk(min(CHUNK_SIZE, max_sends - len(one.sends)))
        unfinished = [
            one for one in unfinished if not (one.is_complete or one.is_out_of_time or len(one.sends) >= max_sends)
        ]
    return found
