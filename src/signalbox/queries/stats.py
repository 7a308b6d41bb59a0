"""Counts and times of the newest events: how often each signal was sent, how long each receiver ran."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import QuerySet

from signalbox.models import Event, Trace, moment
from signalbox.queries.filters import Filter

WINDOW: Final = 10_000
"""Events that are looked at, unless another number is asked for: a second's work, however large the table."""

TRACES: Final = 1000
"""Traces that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalCounts:
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
class ReceiverTimes:
    """How one receiver of one signal did. Times are microseconds, over the runs that were timed."""

    signal: str
    """The signal's name."""
    receiver: str
    """Dotted name."""
    place: str
    """``file:line``, as recorded last."""
    runs: int
    """How often it ran."""
    errors: int
    """How often it raised."""
    total: int
    """All runs together."""
    median: int
    """What half of the runs took at most."""
    p95: int
    """What 95 of 100 runs took at most."""
    longest: int
    """The longest run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What the newest events tell."""

    events: int
    """Events that were looked at."""
    first: dt.datetime | None
    """When the earliest of them was sent; ``None`` if there are none."""
    last: dt.datetime | None
    """When the latest of them was sent."""
    complete: bool
    """Whether these are all the events that are wanted."""
    signals: tuple[SignalCounts, ...]
    """The most frequent first."""
    receivers: tuple[ReceiverTimes, ...]
    """Those that took most time together first."""


def stats(wanted: Filter | None = None, *, limit: int = WINDOW, using: str | None = None) -> Statistics:
    """Sum up the newest ``limit`` events that are wanted."""
    times: list[int] = []
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    errors: Counter[str] = Counter()
    runs: defaultdict[tuple[str, str], list[tuple[int | None, bool]]] = defaultdict(list)
    places: dict[str, str] = {}
    found = recent(Event.objects.using(using), wanted or Filter(), limit + 1)
    rows = found.values_list("time", "signal", "outcome", "errors", "data__receivers")
    complete = True
    for number, (time, signal, outcome, failed, receivers) in enumerate(rows):
        if number == limit:
            complete = False
            break
        times.append(time)
        outcomes[signal][outcome] += 1
        errors[signal] += failed
        for run in receivers or ():
            runs[signal, run["name"]].append((run["us"], run["error"] is not None))
            places.setdefault(run["name"], run["place"])
    return Statistics(
        events=len(times),
        first=moment(min(times)) if times else None,
        last=moment(max(times)) if times else None,
        complete=complete,
        signals=tuple(
            SignalCounts(signal=signal, outcomes=dict(sorted(counts.items())), errors=errors[signal])
            for signal, counts in sorted(outcomes.items(), key=lambda item: (-item[1].total(), item[0]))
        ),
        receivers=tuple(
            sorted(
                (_times(signal, name, places[name], found_runs) for (signal, name), found_runs in runs.items()),
                key=lambda receiver: (-receiver.total, receiver.receiver, receiver.signal),
            )
        ),
    )


def _times(signal: str, receiver: str, place: str, runs: Sequence[tuple[int | None, bool]]) -> ReceiverTimes:
    timed = sorted(us for us, _ in runs if us is not None)
    return ReceiverTimes(
        signal=signal,
        receiver=receiver,
        place=place,
        runs=len(runs),
        errors=sum(failed for _, failed in runs),
        total=sum(timed),
        median=of_hundred(50, timed),
        p95=of_hundred(95, timed),
        longest=timed[-1] if timed else 0,
    )


def of_hundred(share: int, ordered: Sequence[int]) -> int:
    """Return the value that ``share`` of 100 values, given in their order, do not exceed; 0 if there are none."""
    return ordered[-(-len(ordered) * share // 100) - 1] if ordered else 0


def recent(events: QuerySet[Event], wanted: Filter, limit: int) -> QuerySet[Event]:
    """Return the newest ``limit`` of the ``events`` that are wanted."""
    return wanted.apply(events).order_by("-id")[:limit]


def counted_in_traces(since: int | None, *, using: str | None = None) -> Counter[str]:
    """Return how often the signals that are counted per trace were sent, by the traces that ended at or after ``since``
    (µs since the epoch), at most the newest ``TRACES`` of them."""
    counted: Counter[str] = Counter()
    rows = Trace.objects.using(using).order_by("-id").values_list("time", "duration", "data__counts")[:TRACES]
    for time, duration, counts in rows:
        if since is not None and time + (duration or 0) < since:
            continue
        for signal, models in (counts or {}).items():
            counted[signal] += sum(models.values())
    return counted
