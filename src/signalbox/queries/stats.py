"""Counts and times of the newest events: how often each signal was sent, how long each receiver ran."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from signalbox.core.receiver_stats import CallTotals, ReceiverStats
from signalbox.models import Trace, to_datetime
from signalbox.queries.filters import EventFilter
from signalbox.queries.window_search import EventSearch

DEFAULT_LIMIT: Final = 10_000
"""Default number of events that are read. It takes about a second, regardless of the table's size."""

MAX_TRACES: Final = 1000
"""Maximum number of traces that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalStats:
    """Counts of one signal."""

    signal: str
    """Its name."""
    outcomes: dict[str, int]
    """Number of events by outcome, without outcomes that did not occur."""
    errors: int
    """Exceptions that its receivers raised."""

    @property
    def events(self) -> int:
        """Events of every outcome."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class EventStats:
    """Statistics of the newest events."""

    events: int
    """Number of events that were read."""
    first: dt.datetime | None
    """When the earliest of them was sent; ``None`` if there are none."""
    last: dt.datetime | None
    """When the latest of them was sent."""
    is_complete: bool
    """Whether these are all events that match."""
    searched_until: int | None
    """Where the search stopped because its budget was used up: a time in microseconds."""
    signals: tuple[SignalStats, ...]
    """The most frequent first."""
    receivers: tuple[ReceiverStats, ...]
    """By total time, the greatest first."""


def compute_stats(
    event_filter: EventFilter | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    using: str | None = None,
    budget: float | None = None,
    report: Callable[[int, float], object] | None = None,
) -> EventStats:
    """Return the statistics of the newest ``limit`` events that match.

    ``budget`` and ``report`` are those of ``EventSearch``.
    """
    times: list[int] = []
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    errors: Counter[str] = Counter()
    totals: defaultdict[tuple[str, str], CallTotals] = defaultdict(CallTotals)
    search = EventSearch(
        event_filter or EventFilter(),
        limit=limit + 1,
        using=using,
        budget=budget,
        columns=("time", "signal", "outcome", "errors", "data__receivers"),
        report=report,
    )
    complete = True
    for number, (time, signal, outcome, failed, receivers) in enumerate(search):
        if number == limit:
            complete = False
            break
        times.append(time)
        outcomes[signal][outcome] += 1
        errors[signal] += failed
        for call in receivers or ():
            totals[signal, call["name"]].add_call(call)
    return EventStats(
        events=len(times),
        first=to_datetime(min(times)) if times else None,
        last=to_datetime(max(times)) if times else None,
        is_complete=complete and not search.is_cut_off,
        searched_until=search.get_reached_time() if search.is_cut_off else None,
        signals=tuple(
            SignalStats(signal=signal, outcomes=dict(sorted(counts.items())), errors=errors[signal])
            for signal, counts in sorted(outcomes.items(), key=lambda item: (-item[1].total(), item[0]))
        ),
        receivers=tuple(
            sorted(
                (found_totals.build_stats(*names) for names, found_totals in totals.items()),
                key=lambda receiver: (-receiver.total_us, receiver.receiver, receiver.signal),
            )
        ),
    )


def count_signals_in_traces(since: int | None, *, using: str | None = None) -> Counter[str]:
    """Return how often the signals that are counted per trace were sent, by the traces that ended at or after ``since``
    (µs since the epoch), at most the newest ``MAX_TRACES`` of them."""
    counted: Counter[str] = Counter()
    rows = Trace.objects.using(using).order_by("-id").values_list("time", "duration", "data__send_counts")[:MAX_TRACES]
    for time, duration, counts in rows:
        if since is not None and time + (duration or 0) < since:
            continue
        for signal, models in (counts or {}).items():
            counted[signal] += sum(models.values())
    return counted
