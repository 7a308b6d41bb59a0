"""Queries of the timeline. They read ranges of keys, newest first, without COUNT or OFFSET on a whole table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from django.db import router
from django.db.models import Count, QuerySet

from signalbox.core.tracing import SYSTEM_KINDS
from signalbox.models import Error, Event, Trace
from signalbox.queries import trace_summary
from signalbox.queries.errors import count_trace_errors
from signalbox.queries.events import load_client_addresses
from signalbox.queries.related_names import load_current_names
from signalbox.queries.timeline_filter import TimelineFilter
from signalbox.queries.trace_rows import select_trace_rows
from signalbox.queries.trace_summary import SUMMARY_FIELDS, TraceSummary
from signalbox.queries.window_search import DEFAULT_BUDGET, Windows, get_id_bounds

PAGE_SIZE: Final = 40
"""Traces on one page of the timeline."""

FETCH_SIZE: Final = 400
"""Maximum number of events that one statement of a search reads."""

SEARCH_BUDGET: Final = DEFAULT_BUDGET
"""Seconds after which a search stops and returns how far it came."""

NEAR_IDS: Final = 20_000
"""Keys near an event in which other events of its trace are searched."""

MAX_PREVIEW_EVENTS: Final = 100
"""Maximum number of events of a trace whose line counts all of them."""

MAX_TRACE_ROWS: Final = 500
"""Maximum number of rows of traces that one statement reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelinePage:
    """One page of the timeline."""

    summaries: list[TraceSummary]
    next_cursor: int | None
    """Where the next page begins; ``None`` at the end of the table."""
    is_complete: bool
    """Whether the page is full, or the table was read to its end; False if ``SEARCH_BUDGET`` was used up."""
    searched_until: int | None
    """Where an incomplete search stopped: a time in microseconds."""
    has_system: bool
    """Whether there are events, and all of them are of traces of the system that are left out."""
    newest_id: int | None
    """The greatest key of an event that the first page may show. The next pages need it."""


class _SearchResult(NamedTuple):
    summaries: dict[str, TraceSummary]
    next_cursor: int | None
    is_complete: bool
    searched_until: int | None
    newest_id: int | None


def get_timeline_page(
    timeline_filter: TimelineFilter, before: int | None = None, size: int = PAGE_SIZE, *, newest_id: int | None = None
) -> TimelinePage:
    """Return the traces of the newest events that ``timeline_filter`` finds, below the key ``before``.

    A trace that an earlier page has shown is left out. ``newest_id`` is that of the first page: a trace with newer
    events was not on it because of them.
    """
    found = _search(timeline_filter, before, size, newest_id)
    lines = list(found.summaries.values())
    _load_details(lines, keep_highlights=bool(timeline_filter))
    _load_highlights(lines)
    lines.sort(key=_get_order, reverse=True)
    return TimelinePage(
        summaries=lines,
        next_cursor=found.next_cursor,
        is_complete=found.is_complete,
        searched_until=found.searched_until,
        has_system=not lines and timeline_filter.is_quiet and Event.objects.exists(),
        newest_id=found.newest_id,
    )


def _search(timeline_filter: TimelineFilter, before: int | None, size: int, newest_id: int | None) -> _SearchResult:
    first_id, below = get_id_bounds(timeline_filter.event_filter, before)
    if before is None:
        newest_id = below - 1
    given = timeline_filter.event_filter
    windows = Windows(
        first_id, below, budget=SEARCH_BUDGET, is_indexed=given.is_indexed, reads_traces=given.reads_traces
    )
    matching = timeline_filter.select(Event.objects.all())
    lines: dict[str, TraceSummary] = {}
    skipped: set[str] = set()
    while windows.has_more:
        first, last = windows.start_statement()
        query = matching.filter(windows.to_q(first, last)).exclude(trace_id__in=skipped)
        rows = list(query.values_list(*SUMMARY_FIELDS)[:FETCH_SIZE])
        found = {row[1] for row in rows} - lines.keys()
        already_shown = _find_already_shown(timeline_filter, before, newest_id, found)
        for row in rows:
            if row[1] in already_shown:
                continue
            line = lines.get(row[1])
            if line is None:
                if len(lines) == size:
                    return _SearchResult(lines, row[0] + 1, True, None, newest_id)
                line = lines[row[1]] = TraceSummary(row[1])
            line.add_event(row)
            line.match_count += 1
        is_full = len(rows) == FETCH_SIZE
        windows.finish_statement(rows[-1][0] if is_full else first, is_window_done=not is_full)
        if is_full and len({row[1] for row in rows}) <= size // 4:  # do not read only events of a very large trace
            skipped |= {row[1] for row in rows}
            # An index leads to far more rows than the statement returns.
            windows.is_indexed, matching = False, matching.order_by("-id")
        if windows.cursor > first_id and windows.is_over_budget:
            reached = rows[-1][2] if rows else get_time_at(windows.cursor)
            if reached is None:  # the table has no older events
                break
            return _SearchResult(lines, windows.cursor, False, reached, newest_id)
    return _SearchResult(lines, None, True, None, newest_id)


def get_time_at(event_id: int) -> int | None:
    """Return the time of the newest event up to this key, in microseconds; ``None`` if there is none."""
    found: int | None = Event.objects.filter(id__lte=event_id).order_by("-id").values_list("time", flat=True).first()
    return found


def _find_already_shown(
    timeline_filter: TimelineFilter, before: int | None, newest_id: int | None, trace_ids: set[str]
) -> set[str]:
    """Return the traces that an earlier page has shown, because of a newer event.

    It scans as many keys as one statement of a search: a trace with a longer pause is shown twice.
    """
    if before is None or not trace_ids:
        return set()
    near = (before, before + NEAR_IDS if newest_id is None else min(newest_id, before + NEAR_IDS))
    query = timeline_filter.select(Event.objects.filter(trace_id__in=trace_ids, id__range=near))
    return set(query.order_by().values_list("trace_id", flat=True).distinct())


def _get_order(summary: TraceSummary) -> tuple[int, int]:
    """Return what lines are sorted by: what they show. A transaction can write its events later than others."""
    return summary.shown_time, summary.last_event_id


def _load_highlights(summaries: Sequence[TraceSummary]) -> None:
    """Load the event that each line shows, and the data of its first row, with at most three queries for all lines."""
    ids = [line.highlight_id for line in summaries if line.highlight_id]
    by_id = {event.id: event for event in Event.objects.filter(id__in=ids).order_by()} if ids else {}
    load_client_addresses(by_id.values())
    load_current_names(by_id.values())
    for line in summaries:
        line.highlight = by_id.get(line.highlight_id)
    plain = {line.trace.id: line for line in summaries if line.trace and line.highlight is None}
    if plain:
        for row_id, data in Trace.objects.filter(id__in=plain).order_by().values_list("id", "data"):
            plain[row_id].view = str(data.get("view") or "")


def _load_details(summaries: Sequence[TraceSummary], *, keep_highlights: bool = False) -> None:
    """Load each line's rows and, of a small trace, all events.

    With ``keep_highlights``, the highlighted event stays one of those that a search found.
    """
    by_id = {line.trace_id: line for line in summaries}
    _load_trace_rows_and_events(summaries, by_id, keep_highlights=keep_highlights)
    _load_errors([line for line in summaries if line.errors])


def _load_errors(summaries: Sequence[TraceSummary]) -> None:
    """Load the groups of the errors of lines, and how many of them are muted."""
    if not summaries:
        return
    found = count_trace_errors(router.db_for_read(Error), [line.trace_id for line in summaries])
    for line in summaries:
        if line.trace_id in found:
            line.muted_errors, line.error_fingerprint = found[line.trace_id]


def _load_trace_rows_and_events(
    summaries: Sequence[TraceSummary], by_id: Mapping[str, TraceSummary], *, keep_highlights: bool
) -> None:
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
        line.seen_errors = line.seen_rolled_back = line.seen_changes = 0
    for row in _fetch_nearby_events(partial):
        line = by_id[row[1]]
        kept = line.highlight_id, line.highlight_rank
        line.add_event(row)
        if keep_highlights and kept[0]:
            line.highlight_id, line.highlight_rank = kept


def _fetch_nearby_events(summaries: Sequence[TraceSummary]) -> list[Any]:
    """Return the newest events of these traces, ``SUMMARY_FIELDS`` of each."""
    least, greatest = min(line.last_event_id for line in summaries), max(line.last_event_id for line in summaries)
    near = NEAR_IDS
    if greatest - least <= 2 * near:
        # As many keys as one statement of a search: of a larger trace, some events are enough.
        query = Event.objects.filter(trace_id__in=[line.trace_id for line in summaries])
        query = query.filter(id__range=(least - near, greatest + near)).order_by("-id")
        return list(query.values_list(*SUMMARY_FIELDS)[: MAX_PREVIEW_EVENTS * PAGE_SIZE])
    # The lines are far apart: one statement for all would read the events between them.
    return [
        row
        for line in summaries
        for row in select_trace_rows(Event.objects.all(), line.trace_id, newest_first=True).values_list(
            *SUMMARY_FIELDS
        )[:MAX_PREVIEW_EVENTS]
    ]


def _fetch_traces(trace_ids: Iterable[str]) -> dict[str, list[Trace]]:
    """Return the newest rows of each trace: ``MAX_ROWS_PER_TRACE``, and one more if it exists."""
    found: dict[str, list[Trace]] = {}
    left = set(trace_ids)
    while left:
        rows = list(Trace.objects.filter(trace_id__in=left).defer("data").order_by()[:MAX_TRACE_ROWS])
        of_each: dict[str, list[Trace]] = {}
        for row in rows:
            of_each.setdefault(row.trace_id, []).append(row)
        if len(rows) < MAX_TRACE_ROWS:
            newest = -trace_summary.MAX_ROWS_PER_TRACE - 1
            return found | {trace_id: sorted(of, key=_get_id)[newest:] for trace_id, of in of_each.items()}
        # Many requests may share an id. That trace is read separately, to limit its rows.
        shared = max(of_each, key=lambda trace_id: len(of_each[trace_id]))
        found[shared] = _fetch_newest_traces(Trace.objects.defer("data"), shared)
        left.discard(shared)
    return found


def _fetch_newest_traces(queryset: QuerySet[Trace], trace_id: str) -> list[Trace]:
    newest = select_trace_rows(queryset, trace_id, newest_first=True)
    return list(newest[: trace_summary.MAX_ROWS_PER_TRACE + 1])[::-1]


def _get_id(trace: Trace) -> int:
    return trace.id


def get_newest_event_id() -> int:
    """Return the greatest key of an event; 0 if the table is empty."""
    return Event.objects.order_by("-id").values_list("id", flat=True).first() or 0


def get_trace_summaries(
    trace_ids: Sequence[str], timeline_filter: TimelineFilter, newest_event_id: int
) -> list[TraceSummary]:
    """Return the lines of these traces, in this order, without those that ``timeline_filter`` does not match.

    ``newest_event_id`` is the greatest key that was read.
    """
    found = count_matches(trace_ids, timeline_filter, newest_event_id) if trace_ids else {}
    lines = [
        TraceSummary(trace_id, last_event_id=newest_event_id, match_count=found[trace_id])
        for trace_id in trace_ids
        if trace_id in found
    ]
    if timeline_filter:
        _find_matching_highlights(lines, timeline_filter, newest_event_id)
    _load_details(lines, keep_highlights=bool(timeline_filter))
    _load_highlights(lines)
    lines.sort(key=_get_order, reverse=True)
    return lines


def _find_matching_highlights(
    summaries: Sequence[TraceSummary], timeline_filter: TimelineFilter, newest_event_id: int
) -> None:
    """Highlight an event that ``timeline_filter`` matches, as a search does."""
    by_id = {line.trace_id: line for line in summaries}
    near = _select_matches(list(by_id), timeline_filter, newest_event_id).order_by("-id")
    for row in near.values_list(*SUMMARY_FIELDS)[: MAX_PREVIEW_EVENTS * PAGE_SIZE] if by_id else ():
        seen = TraceSummary(row[1])
        seen.add_event(row)
        line = by_id[row[1]]
        if seen.highlight_rank >= line.highlight_rank and seen.highlight_id:
            line.highlight_id, line.highlight_rank = seen.highlight_id, seen.highlight_rank


def count_matches(trace_ids: Sequence[str], timeline_filter: TimelineFilter, newest_event_id: int) -> dict[str, int]:
    """Return the number of newest events that ``timeline_filter`` matches, by trace, without traces that it leaves out.

    It scans ``NEAR_IDS`` keys. Without a filter nothing is counted, and the numbers are 0.
    """
    if not timeline_filter:
        system = _find_system_traces(trace_ids, newest_event_id) if timeline_filter.is_quiet else set()
        return {trace_id: 0 for trace_id in trace_ids if trace_id not in system}
    near = _select_matches(trace_ids, timeline_filter, newest_event_id)
    return dict(near.order_by().values_list("trace_id").annotate(number=Count("id")))


def find_removed_traces(
    trace_ids: Sequence[str], summaries: Sequence[TraceSummary], timeline_filter: TimelineFilter, newest_event_id: int
) -> list[str]:
    """Return the changed traces that a live page must no longer show: with the row of its end, a trace may not match.

    ``summaries`` are the lines that ``get_trace_summaries()`` has returned for ``trace_ids``. A trace with events that
    it did not search is not among those returned.
    """
    excluded = timeline_filter.event_filter.excluded
    if excluded is None or not excluded.reads_traces:
        return []
    shown = {line.trace_id for line in summaries}
    left = [trace_id for trace_id in trace_ids if trace_id not in shown]
    older = Event.objects.filter(trace_id__in=left, id__lte=newest_event_id - NEAR_IDS).order_by()
    unknown = set(older.values_list("trace_id", flat=True).distinct()) if left else set()
    return [trace_id for trace_id in left if trace_id not in unknown]


def _find_system_traces(trace_ids: Sequence[str], newest_event_id: int) -> set[str]:
    """Return those of ``trace_ids`` whose newest events are of the system, or which have only a row of the system."""
    rows = Trace.objects.filter(trace_id__in=trace_ids, kind__in=SYSTEM_KINDS).order_by()
    system = set(rows.values_list("trace_id", flat=True).distinct()[: len(trace_ids)])  # many rows may share an id
    near = Event.objects.filter(trace_id__in=trace_ids, id__gt=newest_event_id - NEAR_IDS).order_by()
    by_kind = set(near.values_list("trace_id", "is_system").distinct())
    shown = {trace_id for trace_id, is_system in by_kind if not is_system}
    return (system | {trace_id for trace_id, is_system in by_kind if is_system}) - shown


def _select_matches(trace_ids: Sequence[str], timeline_filter: TimelineFilter, newest_event_id: int) -> QuerySet[Event]:
    return Event.objects.filter(timeline_filter.to_q(), trace_id__in=trace_ids, id__gt=newest_event_id - NEAR_IDS)


# ------------------------------------------------------------------ one trace, event or object


def get_trace_summary(trace_id: str) -> TraceSummary:
    """Return the line of a trace, with the data of its rows, and without its events."""
    line = TraceSummary(trace_id)
    line.set_traces(_fetch_newest_traces(Trace.objects.all(), trace_id))
    return line


def get_trace_name(trace_id: str) -> str:
    """Return the name of a trace; empty while it runs."""
    line = TraceSummary(trace_id)
    line.set_traces(_fetch_newest_traces(Trace.objects.defer("data"), trace_id))
    return line.trace.name if line.trace else ""


def get_trace_events(trace_id: str, after: int = 0, limit: int = 500) -> tuple[list[Event], int | None]:
    """Return a trace's events above the key ``after``, by rising keys, and ``after`` of the next page."""
    rows = list(select_trace_rows(Event.objects.filter(id__gt=after), trace_id)[: limit + 1])
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def get_object_events(
    sender: str, key: str, before: int | None = None, limit: int = 100
) -> tuple[list[Event], int | None]:
    """Return the events of an object below the key ``before``, newest first, and ``before`` of the next page."""
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


# ------------------------------------------------------------------ the latest events


def get_recent_names(scanned: int = 3000) -> dict[str, list[str]]:
    """Return the signals, senders and actors of the latest events."""
    newest = get_newest_event_id()
    found: dict[str, list[str]] = {}
    for name in ("signal", "sender", "actor_label"):
        query = Event.objects.filter(id__gt=newest - scanned).order_by().values_list(name, flat=True).distinct()
        found[name] = sorted(value for value in query if value)
    return found


def get_recent_objects(scanned: int = 3000, limit: int = 200) -> dict[str, str]:
    """Return the objects of the latest events, newest first: ``{"shop.Order:17": label}``."""
    query = Event.objects.filter(id__gt=get_newest_event_id() - scanned).exclude(object_key="").order_by("-id")
    found: dict[str, str] = {}
    for sender, key, label in query.values_list("sender", "object_key", "object_label").iterator():
        found.setdefault(f"{sender}:{key}", label)
        if len(found) == limit:
            break
    return found
