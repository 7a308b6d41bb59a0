"""What the page reads of the tables: by key, newest first, never counting a table and never skipping rows by number."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self, TypeVar

from django.db import connections
from django.db.models import Count, F, IntegerField, Q, QuerySet, Value

from signalbox.core import labels
from signalbox.models import Event, Trace
from signalbox.queries import time_index
from signalbox.queries.timeline_query import ERRORS_ONLY, REQUEST_EXCEPTION_SIGNAL, TimelineQuery

EventOrTrace = TypeVar("EventOrTrace", Event, Trace)

PAGE_SIZE: Final = 40
"""Traces on one page of the timeline."""

FETCH_SIZE: Final = 400
"""Events that one statement of a search reads at most."""

SEARCH_WINDOWS: Final = (1_000, 20_000)
"""Keys that one statement of a search looks through where no index leads to what is looked for: at first, and at most.
Each statement looks through twice as many as the one before."""

SEARCH_BUDGET: Final = 0.06
"""Seconds after which a search rests and says how far it came."""

MAX_PREVIEW_EVENTS: Final = 100
"""Events up to which a trace's line shows what it is made of, all of it."""

RUNNING_TIMEOUT_US: Final = 3_600_000_000
"""Microseconds without an event after which a trace without a row is no longer said to run."""

MAX_ROWS_PER_TRACE: Final = 20
"""Rows of one trace that are read, the newest; there are more where a caller gives many requests the same id."""

MAX_TRACE_ROWS: Final = 500
"""Rows of traces that one statement reads for the lines of a page."""

MAX_LIVE_TRACES: Final = 100
"""Traces that one answer of the live timeline holds at most; where more are new, the page asks for its list anew."""

MAX_HISTOGRAM_EVENTS: Final = 20_000
"""Keys that the strip chart looks back over; a quarter of them where each one's data must be searched for a text."""


@dataclass(slots=True)
class TraceSummary:
    """A trace as one line of the timeline."""

    trace_id: str
    traces: list[Trace] = field(default_factory=list)
    """Its rows, the first to begin first: several where a request took up another's trace, none while it runs."""
    has_more_traces: bool = False
    """Whether it has more rows than were read."""
    last_event_id: int = 0
    """The newest of its events that were seen."""
    first_event_time: int = 0
    last_event_time: int = 0
    """When the newest of its events that were seen was sent, in microseconds."""
    signal_counts: Counter[str] = field(default_factory=Counter)
    """What of it was looked at, by signal."""
    seen_errors: int = 0
    seen_rolled_back: int = 0
    seen_actor: str = ""
    match_count: int = 0
    """How many of its events a search found, on this page."""

    @property
    def trace(self) -> Trace | None:
        """The row of the work that began the trace."""
        return self.traces[0] if self.traces else None

    @property
    def is_running(self) -> bool:
        """Whether its row is still to come, as far as can be told: it has none, and something happened of late."""
        return not self.traces and self.last_event_time > time.time_ns() // 1_000 - RUNNING_TIMEOUT_US

    @property
    def is_unfinished(self) -> bool:
        """Whether its row will hardly come: its process may have been killed."""
        return not self.traces and not self.is_running

    @property
    def kind(self) -> str:
        """Its kind; empty while it is not known."""
        return self.traces[0].kind if self.traces else ""

    @property
    def name(self) -> str:
        """What the work is called; while it runs, the signals that it has sent most."""
        if self.traces:
            return self.traces[0].name
        return ", ".join(labels.short_name(signal) for signal, _ in self.signal_counts.most_common(3)) or "no event yet"

    @property
    def actor(self) -> str:
        """Who did it."""
        return next((row.actor_label for row in self.traces if row.actor_label), self.seen_actor)

    @property
    def time(self) -> int:
        """When it began, in microseconds."""
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
        """How many receivers, operations and requests raised, as far as was looked."""
        crashed = sum(row.status == "500" for row in self.traces)
        return max(sum(row.errors for row in self.traces), crashed, self.seen_errors)

    @property
    def rolled_back(self) -> int:
        """How many of its events were undone."""
        return max(sum(row.rolled_back for row in self.traces), self.seen_rolled_back)

    @property
    def status(self) -> str:
        """Its status; ``running`` or ``unfinished`` where it has no row."""
        return self.traces[-1].status if self.traces else "running" if self.is_running else "unfinished"

    @property
    def tone(self) -> str:
        """Whether the status is good, bad or a warning, or what it is where it has no row; empty if there is none."""
        status = self.status
        if not self.traces:
            return status
        if status.startswith("5") or status == "failed":
            return "bad"
        return "warning" if status.startswith("4") else "good" if status else ""

    def count_groups(self) -> list[tuple[str, int]]:
        """Return how many events of each group were looked at, in the groups' order."""
        found: Counter[str] = Counter()
        for signal, number in self.signal_counts.items():
            found[labels.get_signal_group(signal)] += number
        return [(group, found[group]) for group in GROUP_ORDER if found[group]]

    def describe_groups(self) -> str:
        """Say what it is made of."""
        return ", ".join(f"{number} {group}" for group, number in self.count_groups()) or "no events"

    def get_bar_segments(self) -> list[tuple[str, str, str]]:
        """Return each group with its beginning and its width on a bar of 100."""
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

    def add_event(self, values: Sequence[Any]) -> None:
        """Count one event, given in the order of ``SUMMARY_FIELDS``."""
        event_id, _, time_us, signal, outcome, errors, actor = values
        self.last_event_id = max(self.last_event_id, event_id)
        self.first_event_time = min(self.first_event_time or time_us, time_us)
        self.last_event_time = max(self.last_event_time, time_us)
        self.signal_counts[signal] += 1
        self.seen_errors += errors or (signal == REQUEST_EXCEPTION_SIGNAL or outcome == "failed")
        self.seen_rolled_back += outcome == "rolled_back"
        self.seen_actor = self.seen_actor or actor


GROUP_ORDER: Final = ("model", "bulk", "auth", "custom", "task", "management", "database", "request", "test")
"""The groups of signals, in the order in which the page shows them."""

SUMMARY_FIELDS: Final = ("id", "trace_id", "time", "signal", "outcome", "errors", "actor_label")


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelinePage:
    """One page of the timeline."""

    summaries: list[TraceSummary]
    next_cursor: int | None
    """Where the next page begins; ``None`` at the end of the table."""
    is_complete: bool
    """Whether the page is full, or the table at its end; else the search rested."""
    searched_until: int | None
    """The time up to which was searched, in microseconds, where the search rested."""


class _SearchResult(NamedTuple):
    summaries: dict[str, TraceSummary]
    next_cursor: int | None
    is_complete: bool
    searched_until: int | None


def get_timeline_page(timeline_query: TimelineQuery, before: int | None = None, size: int = PAGE_SIZE) -> TimelinePage:
    """Return the traces of the newest events that ``timeline_query`` finds, below the key ``before``."""
    found = _search(timeline_query, before, size)
    lines = list(found.summaries.values())
    _load_details(lines)
    return TimelinePage(
        summaries=lines,
        next_cursor=found.next_cursor,
        is_complete=found.is_complete,
        searched_until=found.searched_until,
    )


def _search(timeline_query: TimelineQuery, before: int | None, size: int) -> _SearchResult:
    started_at = time.monotonic()
    floor, cursor = _get_id_bounds(timeline_query, before)
    matching = Event.objects.filter(timeline_query.to_q()).order_by("-id")
    lines: dict[str, TraceSummary] = {}
    large_trace_ids: set[str] = set()
    window, widest = SEARCH_WINDOWS
    while cursor > floor:
        bottom = floor if timeline_query.is_indexed and not large_trace_ids else max(floor, cursor - window)
        query = matching.filter(id__lt=cursor, id__gte=bottom)
        if large_trace_ids:
            query = query.exclude(trace_id__in=large_trace_ids)
        rows = list(query.values_list(*SUMMARY_FIELDS)[:FETCH_SIZE])
        shown_earlier = _find_already_shown(timeline_query, before, {row[1] for row in rows} - lines.keys())
        for row in rows:
            if row[1] in shown_earlier:
                continue
            line = lines.get(row[1])
            if line is None:
                if len(lines) == size:
                    return _SearchResult(lines, row[0] + 1, True, None)
                line = lines[row[1]] = TraceSummary(row[1])
            line.add_event(row)
            line.match_count += 1
        if len(rows) == FETCH_SIZE:
            cursor = rows[-1][0]
            if len({row[1] for row in rows}) <= size // 4:  # a trace of very many events would be all that is read
                large_trace_ids |= {row[1] for row in rows}
        else:
            cursor, window = bottom, min(2 * window, widest)
        if cursor > floor and time.monotonic() - started_at > SEARCH_BUDGET:
            reached = rows[-1][2] if rows else _get_time_at(cursor)
            if reached is None:  # nothing lies further back
                break
            return _SearchResult(lines, cursor, False, reached)
    return _SearchResult(lines, None, True, None)


def _get_id_bounds(timeline_query: TimelineQuery, before: int | None) -> tuple[int, int]:
    """Return the least key to look at, and the one to look below."""
    newest = get_newest_event_id()
    first, below = 0, newest + 1 if before is None else min(before, newest + 1)
    since, until = timeline_query.event_filter.since, timeline_query.event_filter.until
    if since is not None:
        first = _find_first_id(time_index.earliest_write_us(since)) or newest + 1
    if until is not None:
        below = min(below, _find_first_id(time_index.latest_write_us(until)) or newest + 1)
    return first, below


def _find_first_id(timestamp_us: int) -> int | None:
    return time_index.find_first_id(Event.objects.all(), time_index.WRITE_TIME_EXPRESSIONS[Event], timestamp_us)


def _get_time_at(event_id: int) -> int | None:
    found: int | None = Event.objects.filter(id__lte=event_id).order_by("-id").values_list("time", flat=True).first()
    return found


def _find_already_shown(timeline_query: TimelineQuery, before: int | None, trace_ids: set[str]) -> set[str]:
    """Return those traces that an earlier page has shown, by a newer event.

    It looks no further than one step of a search does: a trace with nothing in between for longer is shown twice.
    """
    if before is None or not trace_ids:
        return set()
    near = (before, before + SEARCH_WINDOWS[1])
    query = Event.objects.filter(timeline_query.to_q(), trace_id__in=trace_ids, id__range=near)
    return set(query.order_by().values_list("trace_id", flat=True).distinct())


def _load_details(summaries: Sequence[TraceSummary]) -> None:
    """Give each line its trace's rows and, where the trace is small, the whole of its events."""
    by_id = {line.trace_id: line for line in summaries}
    for trace_id, rows in _fetch_traces(by_id).items():
        by_id[trace_id].set_traces(rows)
    partial = [
        line
        for line in summaries
        if line.signal_counts.total() < (line.events if line.traces else MAX_PREVIEW_EVENTS)
        and line.events <= MAX_PREVIEW_EVENTS
    ]
    if not partial:
        return
    for line in partial:
        line.signal_counts.clear()
        line.seen_errors = line.seen_rolled_back = 0
    for row in _fetch_nearby_events(partial):
        by_id[row[1]].add_event(row)


def _fetch_nearby_events(summaries: Sequence[TraceSummary]) -> list[Any]:
    """Return the newest events of these traces, ``SUMMARY_FIELDS`` of each."""
    least, greatest = min(line.last_event_id for line in summaries), max(line.last_event_id for line in summaries)
    near = SEARCH_WINDOWS[1]
    if greatest - least <= 2 * near:
        # No further than one search goes: of a trace that is larger than it looks, a part will do.
        query = Event.objects.filter(trace_id__in=[line.trace_id for line in summaries])
        query = query.filter(id__range=(least - near, greatest + near)).order_by("-id")
        return list(query.values_list(*SUMMARY_FIELDS)[: MAX_PREVIEW_EVENTS * PAGE_SIZE])
    # Lines that a filter found far apart: one statement for all would read what lies between them.
    return [
        row
        for line in summaries
        for row in _order_trace_events(line.trace_id, "-").values_list(*SUMMARY_FIELDS)[:MAX_PREVIEW_EVENTS]
    ]


def _order_trace_events(trace_id: str, direction: str = "") -> QuerySet[Event]:
    """Return a trace's events in the order of their keys.

    With ``=`` and an order by the key alone, PostgreSQL reads the whole table in that order where it takes the trace
    for a large one; in the order of both it has the trace's index.
    """
    events = Event.objects.filter(trace_id__range=(trace_id, trace_id))
    return events.order_by(f"{direction}trace_id", f"{direction}id")


def _fetch_traces(trace_ids: Iterable[str]) -> dict[str, list[Trace]]:
    """Return the newest rows of each trace, ``MAX_ROWS_PER_TRACE`` of them and one more where there are more."""
    found: dict[str, list[Trace]] = {}
    left = set(trace_ids)
    while left:
        rows = list(Trace.objects.filter(trace_id__in=left).defer("data").order_by()[:MAX_TRACE_ROWS])
        of_each: dict[str, list[Trace]] = {}
        for row in rows:
            of_each.setdefault(row.trace_id, []).append(row)
        if len(rows) < MAX_TRACE_ROWS:
            return found | {
                trace_id: sorted(of, key=_get_id)[-MAX_ROWS_PER_TRACE - 1 :] for trace_id, of in of_each.items()
            }
        # A caller that gives everybody the same id would have all of its rows read: it is asked for by itself.
        shared = max(of_each, key=lambda trace_id: len(of_each[trace_id]))
        found[shared] = _fetch_newest_traces(Trace.objects.defer("data"), shared)
        left.discard(shared)
    return found


def _fetch_newest_traces(queryset: QuerySet[Trace], trace_id: str) -> list[Trace]:
    return list(queryset.filter(trace_id=trace_id).order_by("-id")[: MAX_ROWS_PER_TRACE + 1])[::-1]


def _get_id(trace: Trace) -> int:
    return trace.id


def get_newest_event_id() -> int:
    """Return the greatest key of an event, 0 where there is none."""
    return Event.objects.order_by("-id").values_list("id", flat=True).first() or 0


# ------------------------------------------------------------------ what is new


class PositionGap(NamedTuple):
    """Keys that were passed and not there: their transaction may still be open."""

    table: int
    """0 for events, 1 for traces."""
    first: int
    last: int
    detected_at: int
    """When they were missed, in seconds."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a live page has read. It travels in the page, so that the server keeps nothing."""

    event_id: int
    trace_row_id: int
    gaps: tuple[PositionGap, ...] = ()

    @classmethod
    def at_end(cls) -> Self:
        """Return the position at the end of the tables, with what is missing before it: where a transaction is open,
        keys will come that lie below the greatest."""
        ends: list[int] = []
        gaps: list[PositionGap] = []
        now = int(time.time())
        for table, rows in enumerate((Event.objects.all(), Trace.objects.all())):
            # SQLite has one writer at a time: nothing comes there below the greatest key.
            look_back = 1 if connections[rows.db].vendor == "sqlite" else GAP_LOOKBACK_IDS
            keys = list(rows.order_by("-id").values_list("id", flat=True)[:look_back])[::-1]
            ends.append(keys[-1] if keys else 0)
            if look_back > 1 and keys:
                # The table's beginning is known only where it was reached.
                first = keys[0] if len(keys) == look_back else 1
                gaps += _subtract_ids(PositionGap(table, first, keys[-1], now), keys)[-MAX_POSITION_GAPS:]
        return cls(ends[0], ends[1], tuple(gaps[-MAX_POSITION_GAPS:]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that ``text`` says, the end of the tables where it says none."""
        try:
            keys, *gaps = (
                [_parse_id(part) for part in parts.split(".")] for parts in text.split("~")[: MAX_POSITION_GAPS + 1]
            )
            event, trace = keys
            missing = tuple(PositionGap(*gap) for gap in gaps)
        except (ValueError, TypeError):
            return cls.at_end()
        return cls(event, trace, missing) if all(gap.table in (0, 1) for gap in missing) else cls.at_end()

    def __str__(self) -> str:
        return "~".join([f"{self.event_id}.{self.trace_row_id}", *(".".join(map(str, gap)) for gap in self.gaps)])


def _parse_id(text: str) -> int:
    """Return a number that every database takes for a key."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(text)
    return int(text)


MAX_POSITION_GAPS: Final = 20
"""Gaps that a position remembers, the newest first."""

POSITION_GAP_TIMEOUT: Final = 60
"""Seconds after which a gap is taken for one that stays: its transaction was rolled back."""


GAP_LOOKBACK_IDS: Final = 1_000
"""Keys among which a page that is opened looks for gaps."""

MAX_UPDATE_ROWS: Final = 2_000
"""Rows of each table that one look for news reads."""


class LiveUpdate(NamedTuple):
    """What is new since a position."""

    trace_ids: list[str]
    """The traces of which something is new, the newest last."""
    position: Position
    """The position after them."""
    is_behind: bool
    """Whether more is new than one look reads or one answer holds: the list is to be asked for anew."""


def get_live_update(position: Position) -> LiveUpdate:
    """Return what is new since ``position``.

    One statement, which finds nothing where nothing is new. A key's order is not the order of commits: keys that are
    missing are looked for again.
    """
    conditions = [Q(id__gt=position.event_id), Q(id__gt=position.trace_row_id)]
    for gap in position.gaps:
        conditions[gap.table] |= Q(id__range=(gap.first, gap.last))
    events, traces = (
        _take_lowest_ids(queryset.filter(condition), MAX_UPDATE_ROWS)
        .annotate(table=Value(table, output_field=IntegerField()))
        .values_list("table", "id", "trace_id")
        for table, (queryset, condition) in enumerate(
            zip((Event.objects.all(), Trace.objects.all()), conditions, strict=True)
        )
    )
    rows = sorted(events.union(traces, all=True))
    now = int(time.time())
    after: list[int] = []
    gaps: list[PositionGap] = []
    behind = False
    for table, before in enumerate((position.event_id, position.trace_row_id)):
        keys = [key for found, key, _ in rows if found == table]
        behind |= len(keys) == MAX_UPDATE_ROWS
        after.append(max([before, *keys]))
        gaps += _update_gaps(table, before, [gap for gap in position.gaps if gap.table == table], keys, now)
    newest: dict[str, int] = {}
    for _, key, trace_id in rows:
        newest.pop(trace_id, None)
        newest[trace_id] = key
    reached = Position(after[0], after[1], tuple(sorted(gaps, key=lambda gap: gap.detected_at)[-MAX_POSITION_GAPS:]))
    return LiveUpdate(list(newest), reached, behind or len(newest) > MAX_LIVE_TRACES)


def _take_lowest_ids(queryset: QuerySet[EventOrTrace], limit: int) -> QuerySet[EventOrTrace]:
    """Return the ``limit`` rows with the least keys, so that they can be part of a union."""
    least = queryset.order_by("id")[:limit]
    if connections[queryset.db].features.supports_slicing_ordering_in_compound:
        return least
    return queryset.model._base_manager.using(queryset.db).filter(id__in=least.values("id")).order_by()


def _update_gaps(
    table: int, before: int, gaps: Iterable[PositionGap], keys: Sequence[int], now: int
) -> list[PositionGap]:
    """Return the gaps that stay open and those that ``keys``, in rising order, leave beyond ``before``."""
    found = []
    for gap in gaps:
        if now - gap.detected_at <= POSITION_GAP_TIMEOUT:
            inside = [key for key in keys if gap.first <= key <= gap.last]
            found += _subtract_ids(gap, inside)
    above = [key for key in keys if key > before]
    return found + (_subtract_ids(PositionGap(table, before + 1, above[-1], now), above) if above else [])


def _subtract_ids(gap: PositionGap, ids: Iterable[int]) -> list[PositionGap]:
    """Return what is left of ``gap`` without ``ids``."""
    found, first = [], gap.first
    for key in ids:
        if key > first:
            found.append(gap._replace(first=first, last=key - 1))
        first = key + 1
    if first <= gap.last:
        found.append(gap._replace(first=first))
    return found


def get_trace_summaries(
    trace_ids: Sequence[str], timeline_query: TimelineQuery, newest_event_id: int
) -> list[TraceSummary]:
    """Return the lines of these traces, in this order, without those in which ``timeline_query`` finds nothing;
    ``newest_event_id`` is the greatest key that was seen."""
    found: Mapping[str, int] = dict.fromkeys(trace_ids, 0)
    if timeline_query and trace_ids:
        found = count_matches(trace_ids, timeline_query, newest_event_id)
    lines = [
        TraceSummary(trace_id, last_event_id=newest_event_id, match_count=found[trace_id])
        for trace_id in trace_ids
        if trace_id in found
    ]
    _load_details(lines)
    return lines


def count_matches(trace_ids: Sequence[str], timeline_query: TimelineQuery, newest_event_id: int) -> dict[str, int]:
    """Return the number of newest events that ``timeline_query`` matches, by trace; traces without any are left out.

    It reads no more ids than one step of a search does.
    """
    near = Event.objects.filter(
        timeline_query.to_q(), trace_id__in=trace_ids, id__gt=newest_event_id - SEARCH_WINDOWS[1]
    )
    return dict(near.order_by().values_list("trace_id").annotate(number=Count("id")))


# ------------------------------------------------------------------ one trace, one event, one object


def get_trace_summary(trace_id: str) -> TraceSummary:
    """Return the line of a trace, with the data of its rows, and without its events."""
    line = TraceSummary(trace_id)
    line.set_traces(_fetch_newest_traces(Trace.objects.all(), trace_id))
    return line


def get_trace_name(trace_id: str) -> str:
    """Return what the work of a trace is called; empty while it runs."""
    line = TraceSummary(trace_id)
    line.set_traces(_fetch_newest_traces(Trace.objects.defer("data"), trace_id))
    return line.trace.name if line.trace else ""


def get_trace_events(trace_id: str, after: int = 0, limit: int = 500) -> tuple[list[Event], int | None]:
    """Return a trace's events beyond the key ``after``, in the order of their keys, and where the next ones begin."""
    rows = list(_order_trace_events(trace_id).filter(id__gt=after)[: limit + 1])
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def get_object_events(
    sender: str, key: str, before: int | None = None, limit: int = 100
) -> tuple[list[Event], int | None]:
    """Return the events of an object below the key ``before``, newest first, and where the next ones begin."""
    query = Event.objects.filter(sender=sender, object_key=key)
    if before is not None:
        query = query.filter(id__lt=before)
    rows = list(query.order_by("-id")[: limit + 1])
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def get_adjacent_events(event: Event) -> tuple[Event | None, Event | None]:
    """Return the events of the same object before and after ``event``."""
    if not event.object_key:
        return None, None
    same = Event.objects.filter(sender=event.sender, object_key=event.object_key)
    earlier = same.filter(id__lt=event.id).order_by("-id").first()
    return earlier, same.filter(id__gt=event.id).order_by("id").first()


# ------------------------------------------------------------------ sums over the latest events


def get_histogram(timeline_query: TimelineQuery, since: int, step: int) -> list[tuple[int, str, int, int]]:
    """Return ``(time, group, events, errors)`` of each step since ``since``; all times in microseconds."""
    floor = get_newest_event_id() - (
        MAX_HISTOGRAM_EVENTS // 4 if timeline_query.event_filter.text else MAX_HISTOGRAM_EVENTS
    )
    query = Event.objects.filter(timeline_query.to_q(), id__gt=floor, time__gte=since).order_by()
    rows = query.annotate(bucket=F("time") - F("time") % step).values_list("bucket", "signal")
    found: Counter[tuple[int, str]] = Counter()
    failed: Counter[tuple[int, str]] = Counter()
    for bucket, signal, number, errors in rows.annotate(number=Count("id"), failed=Count("id", filter=ERRORS_ONLY)):
        found[bucket, labels.get_signal_group(signal)] += number
        failed[bucket, labels.get_signal_group(signal)] += errors
    return [(bucket, group, number, failed[bucket, group]) for (bucket, group), number in sorted(found.items())]


def get_histogram_start(since: int) -> int | None:
    """Return the time before which the strip does not look, where its limit is the reason, in microseconds."""
    reached = _get_time_at(get_newest_event_id() - MAX_HISTOGRAM_EVENTS)
    return reached if reached is not None and reached > since else None


def get_recent_names(scanned: int = 3000) -> dict[str, list[str]]:
    """Return the signals, senders and actors of the latest events."""
    newest = get_newest_event_id()
    found: dict[str, list[str]] = {}
    for name in ("signal", "sender", "actor_label"):
        query = Event.objects.filter(id__gt=newest - scanned).order_by().values_list(name, flat=True).distinct()
        found[name] = sorted(value for value in query if value)
    return found


def get_recent_objects(scanned: int = 3000, limit: int = 200) -> dict[str, str]:
    """Return the objects of the latest events, the newest first: how each is asked for, and what it is called."""
    query = Event.objects.filter(id__gt=get_newest_event_id() - scanned).exclude(object_key="").order_by("-id")
    found: dict[str, str] = {}
    for sender, key, label in query.values_list("sender", "object_key", "object_label").iterator():
        found.setdefault(f"{sender}:{key}", label)
        if len(found) == limit:
            break
    return found
