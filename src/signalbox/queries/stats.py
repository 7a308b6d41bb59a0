"""Counts and times of the newest events: how often each signal was sent, how long each receiver ran."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import QuerySet

from signalbox.models import Event, Trace, to_datetime
from signalbox.queries.filters import EventFilter

DEFAULT_LIMIT: Final = 10_000
"""Events that are looked at, unless another number is asked for: a second's work, however large the table."""

MAX_TRACES: Final = 1000
"""Traces that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalStats:
    """How one signal did."""

    signal: str
    """Its name."""
    outcomes: dict[str, int]
    """Events by outcome; an outcome that did not occur is left out."""
    errors: int
    """Receivers that raised."""

    @property
    def events(self) -> int:
        """Events of every outcome."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverStats:
    """How one receiver of one signal did. Times are microseconds, over the runs that were timed."""

    signal: str
    """The signal's name."""
    receiver: str
    """Dotted name."""
    location: str
    """``file:line``, as recorded last."""
    calls: int
    """How often it ran."""
    errors: int
    """How often it raised."""
    total_us: int
    """All runs together."""
    median_us: int
    """What half of the runs took at most."""
    p95_us: int
    """What 95 of 100 runs took at most."""
    max_us: int
    """The longest run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventStats:
    """What the newest events tell."""

    events: int
    """Events that were looked at."""
    first: dt.datetime | None
    """When the earliest of them was sent; ``None`` if there are none."""
    last: dt.datetime | None
    """When the latest of them was sent."""
    is_complete: bool
    """Whether these are all the events that are wanted."""
    signals: tuple[SignalStats, ...]
    """The most frequent first."""
    receivers: tuple[ReceiverStats, ...]
    """Those that took most time together first."""


def compute_stats(
    event_filter: EventFilter | None = None, *, limit: int = DEFAULT_LIMIT, using: str | None = None
) -> EventStats:
    """Sum up the newest ``limit`` events that are wanted."""
    times: list[int] = []
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    errors: Counter[str] = Counter()
    calls: defaultdict[tuple[str, str], list[tuple[int | None, bool]]] = defaultdict(list)
    locations: dict[str, str] = {}
    found = filter_newest(Event.objects.using(using), event_filter or EventFilter(), limit + 1)
    rows = found.values_list("time", "signal", "outcome", "errors", "data__receivers")
    complete = True
    for number, (time, signal, outcome, failed, receivers) in enumerate(rows):
        if number == limit:
            complete = False
            break
        times.append(time)
        outcomes[signal][outcome] += 1
        errors[signal] += failed
        for call in receivers or ():
            calls[signal, call["name"]].append((call["duration_us"], call["error"] is not None))
            locations.setdefault(call["name"], call["location"])
    return EventStats(
        events=len(times),
        first=to_datetime(min(times)) if times else None,
        last=to_datetime(max(times)) if times else None,
        is_complete=complete,
        signals=tuple(
            SignalStats(signal=signal, outcomes=dict(sorted(counts.items())), errors=errors[signal])
            for signal, counts in sorted(outcomes.items(), key=lambda item: (-item[1].total(), item[0]))
        ),
        receivers=tuple(
            sorted(
                (
                    _build_receiver_stats(signal, name, locations[name], found_calls)
                    for (signal, name), found_calls in calls.items()
                ),
                key=lambda receiver: (-receiver.total_us, receiver.receiver, receiver.signal),
            )
        ),
    )


def _build_receiver_stats(
    signal: str, receiver: str, location: str, calls: Sequence[tuple[int | None, bool]]
) -> ReceiverStats:
    timed = sorted(us for us, _ in calls if us is not None)
    return ReceiverStats(
        signal=signal,
        receiver=receiver,
        location=location,
        calls=len(calls),
        errors=sum(failed for _, failed in calls),
        total_us=sum(timed),
        median_us=percentile(50, timed),
        p95_us=percentile(95, timed),
        max_us=timed[-1] if timed else 0,
    )


def percentile(percent: int, sorted_values: Sequence[int]) -> int:
    """Return the value that ``percent`` of 100 values, given in their order, do not exceed; 0 if there are none."""
    return sorted_values[-(-len(sorted_values) * percent // 100) - 1] if sorted_values else 0


def filter_newest(events: QuerySet[Event], event_filter: EventFilter, limit: int) -> QuerySet[Event]:
    """Return the newest ``limit`` of the ``events`` that are wanted."""
    return event_filter.apply(events).order_by("-id")[:limit]


def count_signals_in_traces(since: int | None, *, using: str | None = None) -> Counter[str]:
    """Return how often the signals that are counted per trace were sent, by the traces that ended at or after ``since``
    (µs since the epoch), at most the newest ``MAX_TRACES`` of them."""
    counted: Counter[str] = Counter()
    rows = Trace.objects.using(using).order_by("-id").values_list("time", "duration", "data__init_counts")[:MAX_TRACES]
    for time, duration, counts in rows:
        if since is not None and time + (duration or 0) < since:
            continue
        for signal, models in (counts or {}).items():
            counted[signal] += sum(models.values())
    return counted
