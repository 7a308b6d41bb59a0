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
from signalbox.dashboard import deliveries, formats, permissions
from signalbox.dashboard import graph as maps
from signalbox.dashboard.access import dashboard_view
from signalbox.dashboard.links import get_object_url
from signalbox.dashboard.waterfall import build_rows as as_tree
from signalbox.dashboard.waterfall import build_waterfall
from signalbox.outbox import queue
from signalbox.queries import object_page
from signalbox.queries import timeline as timeline_pages
from signalbox.queries.events import get_event as find_event
from signalbox.queries.export import event_to_dict
from signalbox.queries.revert import RevertError
from signalbox.queries.revert import revert as put_back
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
    asked = TimelineQuery.parse(request.GET)
    before = _parse_id(request, "before")
    position = timeline_pages.Position.at_end() if before is None else None
    found = timeline_pages.get_timeline_page(asked, before)
    about: dict[str, Any] = {
        "page": found,
        "asked": asked,
        "before": before,
        "position": position,
    }
    if request.headers.get("HX-Target") == "more":
        return render(request, "signalbox/parts/more.html", about)
    if request.headers.get("HX-Target") == "found":
        return render(request, "signalbox/parts/found.html", about)
    return render(
        request,
        "signalbox/timeline.html",
        about
        | {
            "here": "timeline",
            "kinds": TRACE_KINDS,
            "groups": timeline_pages.GROUP_ORDER,
            "outcomes": [*(outcome.value for outcome in Outcome), ERRORS_OUTCOME],
            "ranges": TIME_RANGES,
            "strip_seconds": HISTOGRAM_SECONDS,
            "strip_step": HISTOGRAM_STEP_SECONDS,
        },
    )


@dashboard_view
@require_GET
def live(request: HttpRequest) -> HttpResponse:
    """Return the lines of which something is new since the page's position.

    - 204: nothing is new.
    - 200: lines, and the position after them.
    - 204 with the event ``behind``: more is new than one answer holds. The page is to ask for its list anew, which
      brings a position of its own; until then the answer stays the same.

    With ``count=1``, for a page that is paused: JSON, how many ``traces`` are new, and whether there are ``more``,
    which were not counted; it need not ask again then. Nothing is rendered, and the position stays.
    """
    asked = TimelineQuery.parse(request.GET)
    position = timeline_pages.Position.parse(request.GET.get("position", ""))
    found = timeline_pages.get_live_update(position)
    if request.GET.get("count"):
        fresh = found.trace_ids[-timeline_pages.MAX_LIVE_TRACES :]
        number = (
            len(timeline_pages.count_matches(fresh, asked, found.position.event_id)) if asked and fresh else len(fresh)
        )
        return JsonResponse({"traces": number, "more": found.is_behind})
    if found.is_behind:
        return HttpResponse(status=204, headers={"HX-Trigger": "behind"})
    if not found.trace_ids:
        return HttpResponse(status=204)
    lines = timeline_pages.get_trace_summaries(found.trace_ids[::-1], asked, found.position.event_id)
    about = {"lines": lines, "position": found.position, "asked": asked}
    return render(request, "signalbox/parts/live.html", about)


@dashboard_view
@require_GET
def histogram(request: HttpRequest) -> JsonResponse:
    """Return events per step and group over the last minutes."""
    now = time.time()
    since = int(now - HISTOGRAM_SECONDS) * 1_000_000
    buckets = timeline_pages.get_histogram(TimelineQuery.parse(request.GET), since, HISTOGRAM_STEP_SECONDS * 1_000_000)
    begins = timeline_pages.get_histogram_start(since)
    return JsonResponse(
        {
            "now": now,
            "offset": (localtime(models.utc_now()).utcoffset() or timedelta()).total_seconds(),
            "seconds": HISTOGRAM_SECONDS,
            "step": HISTOGRAM_STEP_SECONDS,
            "groups": timeline_pages.GROUP_ORDER,
            "begins": begins and begins / 1_000_000,
            "buckets": [[moment // 1_000_000, group, number, errors] for moment, group, number, errors in buckets],
        }
    )


@dashboard_view
@require_GET
def suggestions(request: HttpRequest) -> HttpResponse:
    """Return what may be asked for, as lists for the filter's fields."""
    names = timeline_pages.get_recent_names()
    known = set(catalog.BUILTIN_SIGNALS)
    return render(
        request,
        "signalbox/parts/suggestions.html",
        {
            "signals": sorted(known | set(names["signal"])),
            "senders": names["sender"],
            "actors": names["actor_label"],
            "objects": timeline_pages.get_recent_objects(),
            "days": [localtime(models.utc_now()) - timedelta(days=days) for days in range(7)],
        },
    )


@dashboard_view
@require_GET
def tree(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Return a trace's events, as they stand below its line."""
    events, more = timeline_pages.get_trace_events(
        _validate_trace_id(trace_id), limit=timeline_pages.MAX_PREVIEW_EVENTS
    )
    return render(request, "signalbox/parts/tree.html", {"rows": as_tree(events), "more": more, "trace_id": trace_id})


@dashboard_view
@require_GET
def trace(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Show a trace as a waterfall."""
    after = _parse_id(request, "after") or 0
    events, more = timeline_pages.get_trace_events(_validate_trace_id(trace_id), after)
    line = timeline_pages.get_trace_summary(trace_id)
    part = bool(after or more or line.has_more_traces)
    if not events and not line.traces:
        raise Http404("There is no such trace.")
    for found in events:
        line.add_event(tuple(getattr(found, name) for name in timeline_pages.SUMMARY_FIELDS))
    return render(
        request,
        "signalbox/trace.html",
        {
            "line": line,
            "fall": build_waterfall(events, [] if part else line.traces, AXIS_CHOICES.get(request.GET.get("axis", ""))),
            "groups": timeline_pages.GROUP_ORDER,
            "after": after,
            "more": more,
        },
    )


@dashboard_view
@require_GET
def event(request: HttpRequest, event_id: int) -> HttpResponse:
    """Show one event."""
    found = find_event(event_id)
    if found is None:
        raise Http404("There is no such event.")
    earlier, later = timeline_pages.get_adjacent_events(found)
    return render(
        request,
        "signalbox/event.html",
        {
            "event": found,
            "trace_name": timeline_pages.get_trace_name(found.trace_id),
            "entry": catalog.BUILTIN_SIGNALS.get(found.signal),
            "deliveries": deliveries.get_event_deliveries(found),
            "now": queue.now_us(),
            "revertible": permissions.can_revert(request.user, found),
            "earlier": earlier,
            "later": later,
            "slowest": max((run.get("duration_us") or 0 for run in found.data.get("receivers") or ()), default=0),
            "raw": event_to_dict(found),
        },
    )


@dashboard_view
@require_http_methods(["GET", "POST"])
def revert(request: HttpRequest, event_id: int) -> HttpResponseBase:
    """Ask whether what an event changed is to be put back, and on POST put it back."""
    found = find_event(event_id)
    if found is None:
        raise Http404("There is no such event.")
    if not permissions.can_revert(request.user, found):
        raise PermissionDenied
    problem = ""
    if request.method == "POST":
        try:
            put_back(found)
        except RevertError as error:
            problem = str(error)
        else:
            return HttpResponseRedirect(get_object_url(found.sender, found.object_key))
    status = 409 if problem else 200
    return render(request, "signalbox/revert.html", {"event": found, "problem": problem}, status=status)


@dashboard_view
@require_GET
def object_history(request: HttpRequest) -> HttpResponse:
    """Show what happened to one object, and its state at a time; to htmx the state alone."""
    sender, key = clean_param(request.GET.get("sender", "")), clean_param(request.GET.get("key", ""))
    if not (sender and key):
        raise Http404("An object has a model and a key.")
    before = _parse_id(request, "before")
    subject = object_page.find_object(sender, key)
    events, older = subject.get_events(before)
    if not events:
        raise Http404("Nothing is recorded of this object.")
    at = _parse_id(request, "at")
    chosen = next((found for found in events if found.id == at), events[0])
    about = {
        "subject": subject,
        "label": next((found.object_label for found in events if found.object_label), key),
        "chosen": chosen,
        "state": subject.get_state(chosen),
        "touched": formats.get_changed_fields(chosen.data),
    }
    if request.headers.get("HX-Target") == "state":
        return render(request, "signalbox/parts/state.html", about)
    steps = [found.id for found in reversed(events)]
    return render(
        request,
        "signalbox/object.html",
        about | {"events": events, "older": older, "before": before, "steps": steps, "step": steps.index(chosen.id)},
    )


@dashboard_view
@require_GET
def signal_map(request: HttpRequest) -> HttpResponse:
    """Show what listens to what."""
    found = maps.build_edges(include_source=conf.get().SHOW_SOURCE)
    return render(
        request,
        "signalbox/map.html",
        {
            "here": "map",
            "edges": found,
            "drawn": maps.edges_to_json(found),
            "apps": sorted({edge.app_label for edge in found}),
            "looked_at": maps.MAX_EVENTS,
        },
    )


@dashboard_view
@require_GET
def doctor(request: HttpRequest) -> HttpResponse:
    """Show the doctor's page; the findings follow, as an examination takes a moment."""
    return render(request, "signalbox/doctor.html", {"here": "doctor"})


@dashboard_view
@require_GET
def findings(request: HttpRequest) -> HttpResponse:
    """Return what the doctor found, the worst first."""
    from signalbox.doctor import examine

    began = time.monotonic()
    found = examine()
    return render(
        request,
        "signalbox/parts/findings.html",
        {"findings": found, "seconds": time.monotonic() - began, "source": conf.get().SHOW_SOURCE},
    )
