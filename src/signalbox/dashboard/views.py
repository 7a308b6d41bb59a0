"""Views of the timeline, traces, events, objects, the map and the doctor, with the parts that htmx requests."""

from __future__ import annotations

import re
import time
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext
from django.views.decorators.http import require_GET, require_http_methods

from signalbox import conf
from signalbox.core import catalog
from signalbox.dashboard import deliveries, delivery_rows, formats, graph, histogram, permissions
from signalbox.dashboard.access import dashboard_view, is_storable_id, require_permission
from signalbox.dashboard.exports import EXPORT_PERMISSION
from signalbox.dashboard.htmx import retarget
from signalbox.dashboard.links import get_object_url
from signalbox.dashboard.trace_errors import get_trace_errors
from signalbox.dashboard.waterfall import build_rows, build_waterfall
from signalbox.outbox import queue
from signalbox.queries import filter_suggestions, live_updates, object_page, trace_deliveries, trace_summary
from signalbox.queries import revert as revert_queries
from signalbox.queries import timeline as timeline_queries
from signalbox.queries.events import get_event, load_client_addresses
from signalbox.queries.export_formats import FORMATS
from signalbox.queries.filters import EventFilter
from signalbox.queries.json_objects import event_to_dict
from signalbox.queries.related_names import load_current_names
from signalbox.queries.timeline_filter import TimelineFilter, clean_param, has_old_params

AXIS_CHOICES: Final = {"whole": True, "events": False}


def _parse_id(request: HttpRequest, name: str) -> int | None:
    """Return an id from the query string; ``None`` if it is missing or invalid."""
    text = request.GET.get(name, "")
    return int(text) if is_storable_id(text) else None


def _validate_trace_id(trace_id: str) -> str:
    """Return ``trace_id``; 404 if it is malformed."""
    if not re.fullmatch("[0-9a-f]{32}", trace_id):
        raise Http404(gettext("Invalid trace id. It has 32 hexadecimal digits in lower case."))
    return trace_id


@dashboard_view
@require_GET
def timeline(request: HttpRequest) -> HttpResponse:
    """Show traces, newest first; for htmx only the list.

    If the filter is not valid, htmx gets only the error, and the page keeps its list. Without htmx, the list is not
    filtered, and the page says so.
    """
    timeline_filter = TimelineFilter.parse(request.GET)
    target = request.headers.get("HX-Target")
    if timeline_filter.error and target:
        error_context = {"timeline_filter": timeline_filter, "is_list_kept": True}
        response = render(request, "signalbox/parts/filter_error.html", error_context)
        return retarget(response, "#filter-error", "outerHTML")
    if has_old_params(request.GET) and not target:
        return HttpResponseRedirect(f"{request.path}?{timeline_filter.query_string}")
    before = _parse_id(request, "before")
    position = live_updates.Position.at_end() if before is None else None
    context: dict[str, Any] = {
        "page": timeline_queries.get_timeline_page(timeline_filter, before, newest_id=_parse_id(request, "newest")),
        "timeline_filter": timeline_filter,
        "before": before,
        "position": position,
        "export_formats": FORMATS.values() if request.user.has_perm(EXPORT_PERMISSION) else (),
    }
    if target == "next-page":
        return render(request, "signalbox/parts/next_results.html", context)
    if target == "results":
        return render(request, "signalbox/parts/results.html", context | {"is_part": True})
    return render(
        request,
        "signalbox/timeline.html",
        context
        | {
            "active_page": "timeline",
            "histogram_minutes": histogram.RANGE_SECONDS // 60,
        },
    )


@dashboard_view
@require_GET
def live(request: HttpRequest) -> HttpResponse:
    """Return the rows of traces with new events since the page's position.

    - 204: no events since then.
    - 200: rows, the ids of traces that no longer match, and the position after them.
    - 204 with the event ``signalbox:reload``: there are more new traces than one response holds. The page fetches its
      list again, which includes a new position. Until then the response stays the same.

    With ``count=1``, for a paused page: JSON with ``trace_count``, the number of new traces, and ``has_more``, which is
    true if more are new than were counted; the page stops asking then. The position does not change.
    """
    timeline_filter = TimelineFilter.parse(request.GET)
    position = live_updates.Position.parse(request.GET.get("position", ""))
    update = live_updates.get_live_update(position)
    if request.GET.get("count"):
        trace_ids = update.trace_ids[-live_updates.MAX_LIVE_TRACES :]
        newest_event_id = update.position.event_id
        matches = timeline_queries.count_matches(trace_ids, timeline_filter, newest_event_id) if trace_ids else {}
        return JsonResponse({"trace_count": len(matches), "has_more": update.is_behind})
    if update.is_behind:
        return HttpResponse(status=204, headers={"HX-Trigger": "signalbox:reload"})
    if not update.trace_ids:
        return HttpResponse(status=204)
    newest_event_id = update.position.event_id
    summaries = timeline_queries.get_trace_summaries(update.trace_ids[::-1], timeline_filter, newest_event_id)
    context = {
        "summaries": summaries,
        "removed": timeline_queries.find_removed_traces(update.trace_ids, summaries, timeline_filter, newest_event_id),
        "position": update.position,
        "timeline_filter": timeline_filter,
    }
    return render(request, "signalbox/parts/live_update.html", context)


@dashboard_view
@require_GET
def suggestions(request: HttpRequest) -> JsonResponse:
    """Return the names of tokens, and values that are known for each of them, as JSON.

    With ``of=deliveries`` they are those of the page "Deliveries".
    """
    if request.GET.get("of") == "deliveries":
        return JsonResponse({"tokens": filter_suggestions.get_delivery_suggestions()})
    return JsonResponse({"tokens": filter_suggestions.get_suggestions()})


@dashboard_view
@require_GET
def tree(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Return the events of a trace, to be shown below its row."""
    events, next_cursor = timeline_queries.get_trace_events(
        _validate_trace_id(trace_id), limit=timeline_queries.MAX_PREVIEW_EVENTS
    )
    load_client_addresses(events)
    load_current_names(events)
    context = {"rows": build_rows(events), "has_more": next_cursor is not None, "trace_id": trace_id}
    return render(request, "signalbox/parts/tree.html", context)


@dashboard_view
@require_GET
def trace(request: HttpRequest, trace_id: str) -> HttpResponse:
    """Show a trace as a waterfall."""
    after = _parse_id(request, "after") or 0
    events, next_cursor = timeline_queries.get_trace_events(_validate_trace_id(trace_id), after)
    summary = timeline_queries.get_trace_summary(trace_id)
    histories, has_more_deliveries = trace_deliveries.get_trace_deliveries(trace_id)
    if not events and not summary.traces and not histories:
        raise Http404(gettext("Trace %(id)s does not exist, or was deleted.") % {"id": trace_id})
    load_client_addresses(events)
    load_current_names(events)
    for event in events:
        summary.add_fetched_event(event)
    split = trace_deliveries.split_trace(events, trace_deliveries.get_trace_rows(trace_id), histories)
    axis_choice = AXIS_CHOICES.get(request.GET.get("axis", ""))
    waterfall = build_waterfall(split.events, split.traces, axis_choice, is_page=bool(after or next_cursor))
    is_purged = not (events or after or summary.traces)
    # Without its rows, the beginning of the trace is not known.
    origin = min(history.delivery.created for history in histories) if is_purged else summary.time
    section = delivery_rows.build_section(histories, split, origin, has_more=has_more_deliveries)
    trace_errors, has_more_errors = get_trace_errors(trace_id, sum(row.errors for row in summary.traces))
    return render(
        request,
        "signalbox/trace.html",
        {
            "summary": summary,
            "is_purged": is_purged,
            "trace_errors": trace_errors,
            "has_more_errors": has_more_errors,
            "waterfall": waterfall,
            "delivery_section": section if histories else None,
            "now": queue.now_us(),
            "groups": trace_summary.GROUP_ORDER,
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
        raise Http404(gettext("Event %(id)s does not exist, or was deleted.") % {"id": event_id})
    previous_event, next_event = timeline_queries.get_adjacent_events(event)
    load_client_addresses(filter(None, (previous_event, next_event)))
    load_current_names(filter(None, (event, previous_event, next_event)))
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
    """Show current and restored values, and on POST revert the event."""
    event = get_event(event_id)
    if event is None:
        raise Http404(gettext("Event %(id)s does not exist, or was deleted.") % {"id": event_id})
    permission = permissions.get_revert_permission(event)
    if permission is None:
        raise PermissionDenied
    require_permission(request.user, permission)
    params = request.POST if request.method == "POST" else request.GET
    options = {name: bool(params.get(name)) for name in ("event_values", "relations")}
    choices = {"use_newer_state": not options["event_values"], "restore_relations": options["relations"]}
    error_text = ""
    if request.method == "POST":
        try:
            revert_queries.revert(event, **choices)
        except revert_queries.RevertError as error:
            error_text = str(error)
        else:
            sender = (event.data.get("args") or {}).get("object") if event.signal == "m2m_changed" else event.sender
            return HttpResponseRedirect(get_object_url(str(sender), event.object_key))
    preview = revert_queries.preview_revert(event, **choices)
    status = 409 if error_text else 200
    context = {"event": event, "preview": preview, "options": options, "error": error_text or preview.error}
    return render(request, "signalbox/revert.html", context, status=status)


@dashboard_view
@require_GET
def object_history(request: HttpRequest) -> HttpResponse:
    """Show the events of one object and its state after one of them; for htmx only the state."""
    sender, key = clean_param(request.GET.get("sender", "")), clean_param(request.GET.get("key", ""))
    if not (sender and key):
        raise Http404(gettext("The parameters sender and key are required. Use a model label and a primary key."))
    before = _parse_id(request, "before")
    recorded_object = object_page.find_object(sender, key)
    events, next_cursor = recorded_object.get_events(before)
    purged_before = recorded_object.get_purged_before()
    if not events:
        text = gettext("The object has no recorded events. Check the parameters sender and key.")
        if purged_before:
            time_text = f"{purged_before:%Y-%m-%d %H:%M} UTC"
            text = f"{text} {gettext('Events before %(time)s were purged.') % {'time': time_text}}"
        raise Http404(text)
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
    load_client_addresses(events)
    load_current_names(events)
    version_ids = [event.id for event in reversed(events)]
    return render(
        request,
        "signalbox/object.html",
        context
        | {
            "events": events,
            "next_cursor": next_cursor,
            "purged_before": purged_before,
            "before": before,
            "model_filter": EventFilter(sender=(recorded_object.sender,)).to_text(),
            "version_ids": version_ids,
            "version_index": version_ids.index(selected_event.id),
        },
    )


@dashboard_view
@require_GET
def signal_map(request: HttpRequest) -> HttpResponse:
    """Show the connections of signals, senders and receivers."""
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
    """Show the page of the doctor. The findings are requested separately, as an examination takes a moment."""
    return render(request, "signalbox/doctor.html", {"active_page": "doctor"})


@dashboard_view
@require_GET
def findings(request: HttpRequest) -> HttpResponse:
    """Return the findings of the doctor, the most severe first."""
    from signalbox.doctor import examine

    started = time.monotonic()
    found = examine()
    return render(
        request,
        "signalbox/parts/findings.html",
        {"findings": found, "seconds": time.monotonic() - started, "source": conf.get().DASHBOARD.SHOW_SOURCE},
    )
