"""The line of one trace in the timeline: its rows, and sums over the events that were read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db.models import Case, IntegerField, Value, When

from signalbox.core import display_names
from signalbox.models import Event, Trace
from signalbox.queries.event_errors import ERRORS_ONLY, has_error
from signalbox.queries.event_summary import CHANGE_SIGNALS

RUNNING_TIMEOUT_US: Final = 3_600_000_000
"""Microseconds without an event after which a trace without a row counts as unfinished."""

MAX_ROWS_PER_TRACE: Final = 20
"""Maximum number of rows of one trace that are read, the newest. Many requests may share one id."""


@dataclass(slots=True)
class TraceSummary:
    """A trace as one line of the timeline."""

    trace_id: str
    traces: list[Trace] = field(default_factory=list)
    """Its rows, by start: several if a request continued another's trace, none while it runs."""
    has_more_traces: bool = False
    """Whether it has more rows than were read."""
    last_event_id: int = 0
    """Key of the newest event that was read."""
    first_event_time: int = 0
    last_event_time: int = 0
    """Time of the newest event that was read, in microseconds."""
    signal_counts: Counter[str] = field(default_factory=Counter)
    """Number of events that were read, by signal."""
    seen_errors: int = 0
    has_failed: bool = False
    """Whether an event of it failed, with an exception that may have been counted elsewhere."""
    muted_errors: int = 0
    """Number of its errors whose groups are muted."""
    error_fingerprint: str = ""
    """The group of its first error that is not muted; empty if no error is stored."""
    seen_rolled_back: int = 0
    seen_actor: str = ""
    match_count: int = 0
    """How many of its events a search found, on this page."""
    highlight_id: int = 0
    """Key of the event that says most about it, of those that were read: see ``rank_highlight()``. 0 without one."""
    highlight_rank: int = 0
    seen_changes: int = 0
    """Number of changes among the events that were read."""
    highlight: Event | None = None
    """The event itself, if it was loaded."""
    view: str = ""
    """Name of the view of a request without such an event, if it was loaded."""

    @property
    def shown_time(self) -> int:
        """Time of its newest event, in microseconds: the timeline is in this order. Without events, its end."""
        return self.last_event_time or self.time + (self.duration or 0)

    @property
    def other_changes(self) -> int:
        """Number of changes beside the highlighted event; 0 if not all events were read."""
        if self.signal_counts.total() < self.events:
            return 0
        return self.seen_changes - (self.highlight is not None and self.highlight.signal in CHANGE_SIGNALS)

    @property
    def trace(self) -> Trace | None:
        """The row of the request, command or task that began the trace."""
        return self.traces[0] if self.traces else None

    @property
    def is_running(self) -> bool:
        """Whether it probably runs: it has no row, and its last event is recent."""
        return not self.traces and self.last_event_time > time.time_ns() // 1_000 - RUNNING_TIMEOUT_US

    @property
    def is_unfinished(self) -> bool:
        """Whether it probably never finished: its process may have been killed."""
        return not self.traces and not self.is_running

    @property
    def kind(self) -> str:
        """Its kind; empty while it is not known."""
        return self.traces[0].kind if self.traces else ""

    @property
    def name(self) -> str:
        """Its name; while it runs, the signals that it has sent most."""
        if self.traces:
            return self.traces[0].name
        return (
            ", ".join(display_names.short_name(signal) for signal, _ in self.signal_counts.most_common(3))
            or "no event yet"
        )

    @property
    def actor(self) -> str:
        """Label of its actor; empty if it has none."""
        return next((row.actor_label for row in self.traces if row.actor_label), self.seen_actor)

    @property
    def time(self) -> int:
        """Its start, in microseconds."""
        return min(row.time for row in self.traces) if self.traces else self.first_event_time

    @property
    def duration(self) -> int | None:
        """Microseconds from its beginning to its end."""
        ends = [row.time + row.duration for row in self.traces if row.duration is not None]
        return max(ends) - self.time if ends else None

    @property
    def events(self) -> int:
        """How many events it holds."""
        return max(sum(row.events for row in self.traces), self.signal_counts.total())

    @property
    def errors(self) -> int:
        """Number of exceptions that were raised, in the rows and events that were read. Each is counted once."""
        crashed = sum(row.status == "500" for row in self.traces)
        return max(sum(row.errors for row in self.traces), crashed, self.has_failed, self.seen_errors)

    @property
    def has_open_errors(self) -> bool:
        """Whether it has an error that is not muted."""
        return self.errors > self.muted_errors

    @property
    def rolled_back(self) -> int:
        """Number of its events that were rolled back."""
        return max(sum(row.rolled_back for row in self.traces), self.seen_rolled_back)

    @property
    def status(self) -> str:
        """Its status; ``running`` or ``unfinished`` if it has no row."""
        return self.traces[-1].status if self.traces else "running" if self.is_running else "unfinished"

    @property
    def tone(self) -> str:
        """``good``, ``bad`` or ``warning``; the status if it has no row; empty without a status."""
        status = self.status
        if not self.traces:
            return status
        if status.startswith("5") or status == "failed":
            return "bad"
        return "warning" if status.startswith("4") else "good" if status else ""

    def count_groups(self) -> list[tuple[str, int]]:
        """Return the number of events of each group that were read, in ``GROUP_ORDER``."""
        found: Counter[str] = Counter()
        for signal, number in self.signal_counts.items():
            found[display_names.get_signal_group(signal)] += number
        return [(group, found[group]) for group in GROUP_ORDER if found[group]]

    def describe_groups(self) -> str:
        """Return the numbers of events by group as text."""
        return ", ".join(f"{number} {group}" for group, number in self.count_groups()) or "no events"

    def get_bar_segments(self) -> list[tuple[str, str, str]]:
        """Return each group with its start and width, in percent of the bar."""
        found, left = [], 0.0
        total = self.signal_counts.total() or 1
        for group, number in self.count_groups():
            width = 100 * number / total
            found.append((group, f"{left:.2f}", f"{width:.2f}"))
            left += width
        return found

    def set_traces(self, traces: Sequence[Trace]) -> None:
        """Set its rows, given by rising keys: the newest ``MAX_ROWS_PER_TRACE`` of them."""
        self.has_more_traces = len(traces) > MAX_ROWS_PER_TRACE
        self.traces = sorted(traces[-MAX_ROWS_PER_TRACE:], key=lambda row: (row.time, row.id))

    def add_fetched_event(self, event: Event) -> None:
        """Count one event that was read with all columns."""
        self.add_event((*(getattr(event, name) for name in SUMMARY_COLUMNS), has_error(event)))

    def add_event(self, values: Sequence[Any]) -> None:
        """Count one event, given in the order of ``SUMMARY_FIELDS``."""
        event_id, _, time_us, signal, outcome, errors, actor, is_error = values
        self.last_event_id = max(self.last_event_id, event_id)
        self.first_event_time = min(self.first_event_time or time_us, time_us)
        self.last_event_time = max(self.last_event_time, time_us)
        self.signal_counts[signal] += 1
        # A failed write reports the exception that a request or a command then counts.
        self.has_failed = self.has_failed or bool(is_error)
        self.seen_errors += errors
        self.seen_rolled_back += outcome == "rolled_back"
        self.seen_changes += signal in CHANGE_SIGNALS
        rank = rank_highlight(signal, bool(errors or is_error))
        # Events come newest first: of the same rank, the first of the trace is kept, which caused the others.
        if rank and (rank > self.highlight_rank or (rank == self.highlight_rank and event_id < self.highlight_id)):
            self.highlight_id, self.highlight_rank = event_id, rank
        self.seen_actor = self.seen_actor or actor


HIGHLIGHT_RANKS: Final[Mapping[str, int]] = {"auth": 4, "custom": 2, "task": 1}


def rank_highlight(signal: str, is_error: bool) -> int:
    """Return how much an event says about its trace: errors most, then logins, changes, custom signals; 0 nothing."""
    if is_error:
        return 5
    if signal in CHANGE_SIGNALS:
        return 3
    if signal in ("pre_save", "pre_delete"):  # the event of the write follows
        return 1
    return HIGHLIGHT_RANKS.get(display_names.get_signal_group(signal), 0)


GROUP_ORDER: Final = ("model", "bulk", "auth", "custom", "task", "management", "database", "request", "test")
"""The groups of signals, in the order of the page."""

SUMMARY_COLUMNS: Final = ("id", "trace_id", "time", "signal", "outcome", "errors", "actor_label")

SUMMARY_FIELDS: Final = (
    *SUMMARY_COLUMNS,
    Case(When(ERRORS_ONLY, then=Value(1)), default=Value(0), output_field=IntegerField()),
)
