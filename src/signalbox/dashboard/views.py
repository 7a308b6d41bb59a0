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
from signalbox.dashboard.access import page
from signalbox.dashboard.links import object_address
from signalbox.dashboard.waterfall import tree as as_tree
from signalbox.dashboard.waterfall import waterfall
from signalbox.outbox import queue
from signalbox.queries import object_page
from signalbox.queries import timeline as timeline_pages
from signalbox.queries.events import event as find_event
from signalbox.queries.export import event_record
from signalbox.queries.revert import RevertError
from signalbox.queries.revert import revert as put_back
from signalbox.queries.timeline_query import ERRORS, Asked, clean

STRIP_SECONDS: Final = 600
"""How far the strip chart goes back."""

STRIP_STEP: Final = 5
"""Seconds that one bar of the strip chart stands for."""

RANGES: Final = (("5m", "5 min"), ("15m", "15 min"), ("1h", "hour"), ("6h", "6 hours"), ("1d", "day"), ("7d", "week"))
"""Ranges of time that one press asks for."""

AXES: Final = {"whole": True, "events": False}

KINDS: Final = ("request", "command", "task", "work", "shell", "test", "process")


def _key(request: HttpRequest, name: str) -> int | None:
    """Return a key from the address, ``None`` where there is none or it is no key."""
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _existing(trace_id: str) -> str:
    """Return a trace's id from the address; 404 for what can be none."""
    if not re.fullmatch("[0-9a-f]{32}", trace_id):
        raise Http404("There is no such trace.")
    return trace_id


@page
@require_GET
def timeline(request: HttpRequest) -> HttpResponse:
    """Show traces, newest first; to htmx the list alone."""
    asked = Asked.read(request.GET)
    before = _key(request, "before")
    position = timeline_pages.Position.now() if before is None else None
    found = timeline_pages.page(asked, before)
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
            "kinds": KINDS,
            "groups": timeline_pages.GROUPS,
            "outcomes": [*(outcome.value for outcome in Outcome), ERRORS],
            "ranges": RANGES,
            "strip_seconds": STRIP_SECONDS,
            "strip_step": STRIP_STEP,
        },
    )


@page
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
    asked = Asked.read(request.GET)
    position = timeline_pages.Position.read(request.GET.get("position", ""))
    found = timeline_pages.news(position)
    if request.GET.get("count"):
        fresh = found.trace_ids[-timeline_pages.FRESH :]
        number = len(timeline_pages.matches(fresh, asked, found.position.event)) if asked and fresh else len(fresh)
        return JsonResponse({"traces": number, "more": found.behind})
    if found.behind:
        return HttpResponse(status=204, headers={"HX-Trigger": "behind"})
    if not found.trace_ids:
        return HttpResponse(status=204)
    lines = timeline_pages.lines_of(found.trace_ids[::-1], asked, found.position.event)
    about = {"lines": lines, "position": found.position, "asked": asked}
    return render(request, "signalbox/parts/live.html", about)


@page
@require_GET
def strip(request: HttpRequest) -> JsonResponse:
    """Return events per step and group over the last minutes."""
    now = time.time()
    since = int(now - STRIP_SECONDS) * 1_000_000
    buckets = timeline_pages.strip(Asked.read(request.GET), since, STRIP_STEP * 1_000_000)
    begins = timeline_pages.strip_begins(since)
    return JsonResponse(
        {
            "now": now,
            "offset": (localtime(models.now()).utcoffset() or timedelta()).total_seconds(),
            "seconds": STRIP_SECONDS,
            "step": STRIP_STEP,
            "groups": timeline_pages.GROUPS,
            "begins": begins and begins / 1_000_000,
            "buckets": [[moment // 1_000_000, group, number, errors] for moment, group, number, errors in buckets],
        }
    )


@page
@require_GET
def suggestions(request: HttpRequest) -> HttpResponse:
    """Return what may be asked for, as lists for the filter's fields."""
    names = timeline_pages.recent_names()
    known = set(catalog.BUILTIN)
    return render(
        request,
        "signalbox/parts/suggestions.html",
        {
            "signals": sorted(known | set(names["signal"])),
            "senders": names["sender"],
            "actors": names["actor_label"],
            "objects": timeline_pages.recent_objects(),
            "days": [localtime(models.now()) - timedelta(days=days) for days in range(7)],
        },
    )


@page
@require_GET
def tree(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Return a trace's events, as they stand below its line."""
    events, more = timeline_pages.trace_events(_existing(trace_id), most=timeline_pages.SMALL)
    return render(request, "signalbox/parts/tree.html", {"rows": as_tree(events), "more": more, "trace_id": trace_id})


@page
@require_GET
def trace(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Show a trace as a waterfall."""
    after = _key(request, "after") or 0
    events, more = timeline_pages.trace_events(_existing(trace_id), after)
    line = timeline_pages.line_of(trace_id)
    part = bool(after or more or line.more)
    if not events and not line.rows:
        raise Http404("There is no such trace.")
    for found in events:
        line.take(tuple(getattr(found, name) for name in timeline_pages.SEEN))
    return render(
        request,
        "signalbox/trace.html",
        {
            "line": line,
            "fall": waterfall(events, [] if part else line.rows, AXES.get(request.GET.get("axis", ""))),
            "groups": timeline_pages.GROUPS,
            "after": after,
            "more": more,
        },
    )


@page
@require_GET
def event(request: HttpRequest, event_id: int) -> HttpResponse:
    """Show one event."""
    found = find_event(event_id)
    if found is None:
        raise Http404("There is no such event.")
    earlier, later = timeline_pages.neighbours(found)
    return render(
        request,
        "signalbox/event.html",
        {
            "event": found,
            "trace_name": timeline_pages.name_of(found.trace_id),
            "entry": catalog.BUILTIN.get(found.signal),
            "deliveries": deliveries.of_event(found),
            "now": queue.now_us(),
            "revertible": permissions.may_revert(request.user, found),
            "earlier": earlier,
            "later": later,
            "slowest": max((run.get("us") or 0 for run in found.data.get("receivers") or ()), default=0),
            "raw": event_record(found),
        },
    )


@page
@require_http_methods(["GET", "POST"])
def revert(request: HttpRequest, event_id: int) -> HttpResponseBase:
    """Ask whether what an event changed is to be put back, and on POST put it back."""
    found = find_event(event_id)
    if found is None:
        raise Http404("There is no such event.")
    if not permissions.may_revert(request.user, found):
        raise PermissionDenied
    problem = ""
    if request.method == "POST":
        try:
            put_back(found)
        except RevertError as error:
            problem = str(error)
        else:
            return HttpResponseRedirect(object_address(found.sender, found.object_key))
    status = 409 if problem else 200
    return render(request, "signalbox/revert.html", {"event": found, "problem": problem}, status=status)


@page
@require_GET
def history_of_object(request: HttpRequest) -> HttpResponse:
    """Show what happened to one object, and its state at a time; to htmx the state alone."""
    sender, key = clean(request.GET.get("sender", "")), clean(request.GET.get("key", ""))
    if not (sender and key):
        raise Http404("An object has a model and a key.")
    before = _key(request, "before")
    subject = object_page.find(sender, key)
    events, older = subject.events(before)
    if not events:
        raise Http404("Nothing is recorded of this object.")
    at = _key(request, "at")
    chosen = next((found for found in events if found.id == at), events[0])
    about = {
        "subject": subject,
        "label": next((found.object_label for found in events if found.object_label), key),
        "chosen": chosen,
        "state": subject.state(chosen),
        "touched": formats.touched(chosen.data),
    }
    if request.headers.get("HX-Target") == "state":
        return render(request, "signalbox/parts/state.html", about)
    steps = [found.id for found in reversed(events)]
    return render(
        request,
        "signalbox/object.html",
        about | {"events": events, "older": older, "before": before, "steps": steps, "step": steps.index(chosen.id)},
    )


@page
@require_GET
def signal_map(request: HttpRequest) -> HttpResponse:
    """Show what listens to what."""
    found = maps.edges(source=conf.get().SHOW_SOURCE)
    return render(
        request,
        "signalbox/map.html",
        {
            "here": "map",
            "edges": found,
            "drawn": maps.as_json(found),
            "apps": sorted({edge.app for edge in found}),
            "looked_at": maps.EVENTS,
        },
    )


@page
@require_GET
def doctor(request: HttpRequest) -> HttpResponse:
    """Show the doctor's page; the findings follow, as an examination takes a moment."""
    return render(request, "signalbox/doctor.html", {"here": "doctor"})


@page
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
