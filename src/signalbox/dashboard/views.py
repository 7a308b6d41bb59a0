"""The pages, and the parts of them that are fetched."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.utils.timezone import localtime
from django.views.decorators.http import require_GET, require_http_methods

from signalbox import conf, models
from signalbox.core import catalog
from signalbox.core.event import Outcome
from signalbox.dashboard import deliveries, formats, graph, permissions
from signalbox.dashboard.access import dashboard_view
from signalbox.dashboard.links import get_object_url
from signalbox.dashboard.waterfall import build_rows, build_waterfall
from signalbox.outbox import queue
from signalbox.queries import object_page
from signalbox.queries import revert as revert_queries
from signalbox.queries import timeline as timeline_queries
from signalbox.queries.events import get_event
from signalbox.queries.export import event_to_dict
from signalbox.queries.timeline_query import ERRORS_OUTCOME, TimelineQuery, clean_param

HISTOGRAM_SECONDS: Final = 600
"""How far the strip chart goes back."""

HISTOGRAM_STEP_SECONDS: Final = 5
"""Seconds that one bar of the strip chart stands for."""

TIME_RANGES: Final = (
    ("5m", "5 min"),
    ("15m", "15 min"),
    ("1h", "hour"),
    ("6h", "6 hours"),
    ("1d", "day"),
    ("7d", "week"),
)
"""Ranges of time that one press asks for."""

AXIS_CHOICES: Final = {"whole": True, "events": False}

TRACE_KINDS: Final = ("request", "command", "task", "custom", "shell", "test", "process")


def _parse_id(request: HttpRequest, name: str) -> int | None:
    """Return a key from the address, ``None`` where there is none or it is no key."""
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _validate_trace_id(trace_id: str) -> str:
    """Return a trace's id from the address; 404 for what can be none."""
    if not re.fullmatch("[0-9a-f]{32}", trace_id):
        raise Http404("There is no such trace.")
    return trace_id


@dashboard_view
@require_GET
def timeline(request: HttpRequest) -> HttpResponse:
    """Show traces, newest first; to htmx the list alone."""
    timeline_query = TimelineQuery.parse(request.GET)
    before = _parse_id(request, "before")
    position = timeline_queries.Position.at_end() if before is None else None
    context: dict[str, Any] = {
        "page": timeline_queries.get_timeline_page(timeline_query, before),
        "timeline_query": timeline_query,
        "before": before,
        "position": position,
    }
    if request.headers.get("HX-Target") == "next-page":
        return render(request, "signalbox/parts/next_results.html", context)
    if request.headers.get("HX-Target") == "results":
        return render(request, "signalbox/parts/results.html", context)
    return render(
        request,
        "signalbox/timeline.html",
        context
        | {
            "active_page": "timeline",
            "kinds": TRACE_KINDS,
            "groups": timeline_queries.GROUP_ORDER,
            "outcomes": [*(outcome.value for outcome in Outcome), ERRORS_OUTCOME],
            "time_ranges": TIME_RANGES,
            "histogram_seconds": HISTOGRAM_SECONDS,
        },
    )


@dashboard_view
@require_GET
def live(request: HttpRequest) -> HttpResponse:
    """Return the lines of which something is new since the page's position.

    - 204: nothing is new.
    - 200: lines, and the position after them.
    - 204 with the event ``signalbox:reload``: there are more new traces than one response holds. The page fetches its
      list again, which includes a new position. Until then the response stays the same.

    With ``count=1``, for a paused page: JSON with ``trace_count``, the number of new traces, and ``has_more``, which is
    true if more are new than were counted; the page stops asking then. The position does not change.
    """
    timeline_query = TimelineQuery.parse(request.GET)
    position = timeline_queries.Position.parse(request.GET.get("position", ""))
    update = timeline_queries.get_live_update(position)
    if request.GET.get("count"):
        trace_ids = update.trace_ids[-timeline_queries.MAX_LIVE_TRACES :]
        if timeline_query and trace_ids:
            newest_event_id = update.position.event_id
            trace_count = len(timeline_queries.count_matches(trace_ids, timeline_query, newest_event_id))
        else:
            trace_count = len(trace_ids)
        return JsonResponse({"trace_count": trace_count, "has_more": update.is_behind})
    if update.is_behind:
        return HttpResponse(status=204, headers={"HX-Trigger": "signalbox:reload"})
    if not update.trace_ids:
        return HttpResponse(status=204)
    summaries = timeline_queries.get_trace_summaries(update.trace_ids[::-1], timeline_query, update.position.event_id)
    context = {"summaries": summaries, "position": update.position, "timeline_query": timeline_query}
    return render(request, "signalbox/parts/live_update.html", context)


@dashboard_view
@require_GET
def histogram(request: HttpRequest) -> JsonResponse:
    """Return events per step and group over the last minutes."""
    now = time.time()
    since = int(now - HISTOGRAM_SECONDS) * 1_000_000
    buckets = timeline_queries.get_histogram(
        TimelineQuery.parse(request.GET), since, HISTOGRAM_STEP_SECONDS * 1_000_000
    )
    start = timeline_queries.get_histogram_start(since)
    return JsonResponse(
        {
            "now": now,
            "utc_offset_seconds": (localtime(models.utc_now()).utcoffset() or timedelta()).total_seconds(),
            "range_seconds": HISTOGRAM_SECONDS,
            "step_seconds": HISTOGRAM_STEP_SECONDS,
            "groups": timeline_queries.GROUP_ORDER,
            "start": start and start / 1_000_000,
            "buckets": [[time_us // 1_000_000, group, number, errors] for time_us, group, number, errors in buckets],
        }
    )


@dashboard_view
@require_GET
def suggestions(request: HttpRequest) -> HttpResponse:
    """Return what may be asked for, as lists for the filter's fields."""
    names = timeline_queries.get_recent_names()
    return render(
        request,
        "signalbox/parts/suggestions.html",
        {
            "signals": sorted({*catalog.BUILTIN_SIGNALS, *names["signal"]}),
            "senders": names["sender"],
            "actors": names["actor_label"],
            "objects": timeline_queries.get_recent_objects(),
            "recent_days": [localtime(models.utc_now()) - timedelta(days=days) for days in range(7)],
        },
    )


@dashboard_view
@require_GET
def tree(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Return a trace's events, as they stand below its line."""
    events, next_cursor = timeline_queries.get_trace_events(
        _validate_trace_id(trace_id), limit=timeline_queries.MAX_PREVIEW_EVENTS
    )
    context = {"rows": build_rows(events), "has_more": next_cursor is not None, "trace_id": trace_id}
    return render(request, "signalbox/parts/tree.html", context)


@dashboard_view
@require_GET
def trace(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Show a trace as a waterfall."""
    after = _parse_id(request, "after") or 0
    events, next_cursor = timeline_queries.get_trace_events(_validate_trace_id(trace_id), after)
    summary = timeline_queries.get_trace_summary(trace_id)
    is_partial = bool(after or next_cursor or summary.has_more_traces)
    if not events and not summary.traces:
        raise Http404("There is no such trace.")
    for event in events:
        summary.add_event(tuple(getattr(event, name) for name in timeline_queries.SUMMARY_FIELDS))
    return render(
        request,
        "signalbox/trace.html",
        {
            "summary": summary,
            "waterfall": build_waterfall(
                events, [] if is_partial else summary.traces, AXIS_CHOICES.get(request.GET.get("axis", ""))
            ),
            "groups": timeline_queries.GROUP_ORDER,
            "after": after,
            "next_cursor": next_cursor,
        },
    )


@dashboard_view
@require_GET
def event(request: HttpRequest, event_id: int) -> HttpResponse:
    """Show one event."""
    event = get_event(event_id)
    if event is None:
        raise Http404("There is no such event.")
    previous_event, next_event = timeline_queries.get_adjacent_events(event)
    return render(
        request,
        "signalbox/event.html",
        {
            "event": event,
            "trace_name": timeline_queries.get_trace_name(event.trace_id),
            "signal_info": catalog.BUILTIN_SIGNALS.get(event.signal),
            "deliveries": deliveries.get_event_deliveries(event),
            "now": queue.now_us(),
            "can_revert": permissions.can_revert(request.user, event),
            "previous_event": previous_event,
            "next_event": next_event,
            "max_duration_us": max(
                (call.get("duration_us") or 0 for call in event.data.get("receivers") or ()), default=0
            ),
            "event_dict": event_to_dict(event),
        },
    )


@dashboard_view
@require_http_methods(["GET", "POST"])
def revert(request: HttpRequest, event_id: int) -> HttpResponseBase:
    """Ask whether what an event changed is to be put back, and on POST put it back."""
    event = get_event(event_id)
    if event is None:
        raise Http404("There is no such event.")
    if not permissions.can_revert(request.user, event):
        raise PermissionDenied
    error_text = ""
    if request.method == "POST":
        try:
            revert_queries.revert(event)
        except revert_queries.RevertError as error:
            error_text = str(error)
        else:
            return HttpResponseRedirect(get_object_url(event.sender, event.object_key))
    status = 409 if error_text else 200
    return render(request, "signalbox/revert.html", {"event": event, "error": error_text}, status=status)


@dashboard_view
@require_GET
def object_history(request: HttpRequest) -> HttpResponse:
    """Show what happened to one object, and its state at a time; to htmx the state alone."""
    sender, key = clean_param(request.GET.get("sender", "")), clean_param(request.GET.get("key", ""))
    if not (sender and key):
        raise Http404("An object has a model and a key.")
    before = _parse_id(request, "before")
    recorded_object = object_page.find_object(sender, key)
    events, next_cursor = recorded_object.get_events(before)
    if not events:
        raise Http404("Nothing is recorded of this object.")
    event_id = _parse_id(request, "event")
    selected_event = next((event for event in events if event.id == event_id), events[0])
    context = {
        "recorded_object": recorded_object,
        "label": next((event.object_label for event in events if event.object_label), key),
        "selected_event": selected_event,
        "state": recorded_object.get_state(selected_event),
        "changed_fields": formats.get_changed_fields(selected_event.data),
    }
    if request.headers.get("HX-Target") == "state":
        return render(request, "signalbox/parts/state.html", context)
    version_ids = [event.id for event in reversed(events)]
    return render(
        request,
        "signalbox/object.html",
        context
        | {
            "events": events,
            "next_cursor": next_cursor,
            "before": before,
            "version_ids": version_ids,
            "version_index": version_ids.index(selected_event.id),
        },
    )


@dashboard_view
@require_GET
def signal_map(request: HttpRequest) -> HttpResponse:
    """Show what listens to what."""
    edges = graph.build_edges(include_source=conf.get().DASHBOARD.SHOW_SOURCE)
    return render(
        request,
        "signalbox/map.html",
        {
            "active_page": "map",
            "edges": edges,
            "edges_json": graph.edges_to_json(edges),
            "apps": sorted({edge.app_label for edge in edges}),
            "event_limit": graph.MAX_EVENTS,
        },
    )


@dashboard_view
@require_GET
def doctor(request: HttpRequest) -> HttpResponse:
    """Show the doctor's page; the findings follow, as an examination takes a moment."""
    return render(request, "signalbox/doctor.html", {"active_page": "doctor"})


@dashboard_view
@require_GET
def findings(request: HttpRequest) -> HttpResponse:
    """Return what the doctor found, the worst first."""
    from signalbox.doctor import examine

    started = time.monotonic()
    found = examine()
    return render(
        request,
        "signalbox/parts/findings.html",
        {"findings": found, "seconds": time.monotonic() - started, "source": conf.get().DASHBOARD.SHOW_SOURCE},
    )
