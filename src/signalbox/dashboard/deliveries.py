"""The deliveries' page: how the queue gets on, and what an operator may do about it."""

from __future__ import annotations

from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_GET, require_POST

from signalbox.core.text import sanitize_text
from signalbox.dashboard.access import dashboard_view
from signalbox.dashboard.forms import ReplayForm
from signalbox.dashboard.links import get_delivery_url
from signalbox.models import Delivery, Event, Trace
from signalbox.outbox import health, operations, queue

CHANGE_PERMISSION: Final = "signalbox.change_delivery"

PAGE_SIZE: Final = 50
"""Deliveries on one page."""

BULK_ACTION_LIMIT: Final = 1_000
"""Deliveries that one press of a button changes at most."""

STATE_TABS: Final = ("", "due", "running", "retrying", "dead", "done", "discarded")
"""The states that are asked for, all of them first."""

ACTIONS: Final = {"retry": operations.retry, "discard": operations.discard}


def get_event_deliveries(event: Event) -> list[Delivery]:
    """Return the deliveries that were made for an event: they stand where it stands."""
    return list(Delivery.objects.using(event._state.db).filter(trace_id=event.trace_id, span=event.span).order_by("id"))


def _get_alias(params: Any) -> str:
    """Return the database that is asked for, by default the router's choice."""
    alias: str = params.get("using") or queue.get_deliveries_database()
    if alias not in queue.get_delivery_databases():
        raise Http404(f"There are no deliveries in {alias!r}.")
    return alias


@dashboard_view
@require_GET
def deliveries(request: HttpRequest) -> HttpResponse:
    """Show deliveries, newest first, and how the queue gets on; to htmx the list and the figures alone."""
    part = request.headers.get("HX-Target") == "queue"
    context = _build_queue_context(request, request.GET)
    if not part and context["can_change"]:
        context["replay_form"] = ReplayForm()
    return render(request, "signalbox/parts/queue.html" if part else "signalbox/deliveries.html", context)


def _build_queue_context(request: HttpRequest, params: Any) -> dict[str, Any]:
    alias = _get_alias(params)
    state = params.get("state", "")
    if state not in STATE_TABS:
        raise Http404(f"{state!r} is no state of a delivery.")
    receiver = sanitize_text(params.get("receiver", "")).strip()[:200]
    found = operations.filter_deliveries(alias, state=state, receiver=receiver)
    before = params.get("before", "")
    if before.isascii() and before.isdigit() and len(before) < 19:
        found = found.filter(id__lt=int(before))
    rows = list(found[: PAGE_SIZE + 1])
    return {
        "active_page": "deliveries",
        "aliases": queue.get_delivery_databases(),
        "alias": alias,
        "state": state,
        "state_tabs": STATE_TABS,
        "receiver": receiver,
        "deliveries": rows[:PAGE_SIZE],
        "next_cursor": rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None,
        "health": health.get_health(alias),
        "count_limit": health.MAX_COUNTED,
        "now": queue.now_us(),
        "can_change": request.user.has_perm(CHANGE_PERMISSION),
        "query_string": _build_query_string(alias, state, receiver),
    }


@dashboard_view
@require_GET
def delivery(request: HttpRequest, delivery_id: int) -> HttpResponse:
    """Show one delivery: what it is for, how often it was tried, what it waits for."""
    alias = _get_alias(request.GET)
    delivery = Delivery.objects.using(alias).filter(id=delivery_id).first()
    if delivery is None:
        raise Http404("There is no such delivery.")
    blocking_delivery = None
    if delivery.partition_id is not None:
        partition = Delivery.objects.using(alias).filter(partition_id=delivery.partition_id)
        blocking_delivery = partition.filter(id__lt=delivery.id).order_by("id").first()
    traces = Trace.objects.using(alias).filter(trace_id=delivery.trace_id, kind="task").order_by("id")
    return render(
        request,
        "signalbox/delivery.html",
        {
            "active_page": "deliveries",
            "delivery": delivery,
            "alias": alias,
            "event": Event.objects.using(alias)
            .filter(trace_id=delivery.trace_id, span=delivery.span)
            .order_by("id")
            .first(),
            "blocking_delivery": blocking_delivery,
            "traces": [trace for trace in traces[:PAGE_SIZE] if trace.data.get("delivery") == delivery.id],
            "now": queue.now_us(),
            "can_change": request.user.has_perm(CHANGE_PERMISSION),
        },
    )


@dashboard_view
@require_POST
def replay(request: HttpRequest) -> HttpResponse:
    """Send past events to a receiver once more, or count them."""
    if not request.user.has_perm(CHANGE_PERMISSION):
        raise PermissionDenied
    alias = _get_alias(request.POST)
    form = ReplayForm(request.POST)
    context: dict[str, Any] = {"replay_form": form, "is_replay_open": True}
    if form.is_valid():
        if "count" not in request.POST:
            form.replay(alias)
            query_string = _build_query_string(alias, "", form.cleaned_data["receiver"])
            return HttpResponseRedirect(f"{reverse('signalbox:deliveries')}?{query_string}")
        context["replay_count"] = form.replay(alias, dry_run=True)
    queue_context = _build_queue_context(request, {"using": alias})
    return render(request, "signalbox/deliveries.html", queue_context | context, status=200 if form.is_valid() else 400)


def _build_query_string(alias: str, state: str, receiver: str) -> str:
    using = "" if alias == queue.get_deliveries_database() else alias
    params = {"using": using, "state": state, "receiver": receiver}
    return urlencode({name: value for name, value in params.items() if value})


@dashboard_view
@require_POST
def change(request: HttpRequest) -> HttpResponse:
    """Try one delivery again or let it go, or every dead one that the page shows."""
    if not request.user.has_perm(CHANGE_PERMISSION):
        raise PermissionDenied
    alias = _get_alias(request.POST)
    apply_action = ACTIONS.get(request.POST.get("action", ""))
    selection, state, receiver = (request.POST.get(name, "") for name in ("id", "state", "receiver"))
    if apply_action is None or not ((selection.isascii() and selection.isdigit()) or selection == "dead"):
        raise Http404("There is no such action.")
    if selection == "dead":
        found = operations.filter_deliveries(alias, state="dead", receiver=receiver)[:BULK_ACTION_LIMIT]
    else:
        found = Delivery.objects.using(alias).filter(id=int(selection))
    rows = list(found)
    apply_action(rows, alias)
    if rows and "from_detail" in request.POST:
        return HttpResponseRedirect(get_delivery_url(rows[0]))
    query_string = _build_query_string(alias, state, receiver)
    url = reverse("signalbox:deliveries")
    return HttpResponseRedirect(f"{url}?{query_string}" if query_string else url)
