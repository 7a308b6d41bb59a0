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
    about = _build_queue_context(request, request.GET)
    if not part and about["may_change"]:
        about["replay"] = ReplayForm()
    return render(request, "signalbox/parts/queue.html" if part else "signalbox/deliveries.html", about)


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
        "here": "deliveries",
        "aliases": queue.get_delivery_databases(),
        "alias": alias,
        "state": state,
        "tabs": STATE_TABS,
        "receiver": receiver,
        "deliveries": rows[:PAGE_SIZE],
        "older": rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None,
        "health": health.get_health(alias),
        "most": health.MAX_COUNTED,
        "now": queue.now_us(),
        "may_change": request.user.has_perm(CHANGE_PERMISSION),
        "query": urlencode({key: value for key, value in _build_query_params(alias, state, receiver).items() if value}),
    }


@dashboard_view
@require_GET
def delivery(request: HttpRequest, delivery_id: int) -> HttpResponse:
    """Show one delivery: what it is for, how often it was tried, what it waits for."""
    alias = _get_alias(request.GET)
    one = Delivery.objects.using(alias).filter(id=delivery_id).first()
    if one is None:
        raise Http404("There is no such delivery.")
    ahead = None
    if one.partition_id is not None:
        partition = Delivery.objects.using(alias).filter(partition_id=one.partition_id)
        ahead = partition.filter(id__lt=one.id).order_by("id").first()
    traces = Trace.objects.using(alias).filter(trace_id=one.trace_id, kind="task").order_by("id")
    return render(
        request,
        "signalbox/delivery.html",
        {
            "here": "deliveries",
            "one": one,
            "alias": alias,
            "event": Event.objects.using(alias).filter(trace_id=one.trace_id, span=one.span).order_by("id").first(),
            "ahead": ahead,
            "traces": [trace for trace in traces[:PAGE_SIZE] if trace.data.get("delivery") == one.id],
            "now": queue.now_us(),
            "may_change": request.user.has_perm(CHANGE_PERMISSION),
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
    about: dict[str, Any] = {"replay": form, "opened": True}
    if form.is_valid():
        if "count" not in request.POST:
            form.replay(alias)
            narrowed = _build_query_params(alias, "", form.cleaned_data["receiver"])
            query = urlencode({key: value for key, value in narrowed.items() if value})
            return HttpResponseRedirect(f"{reverse('signalbox:deliveries')}?{query}")
        about["counted"] = form.replay(alias, dry_run=True)
    shown = _build_queue_context(request, {"using": alias})
    return render(request, "signalbox/deliveries.html", shown | about, status=200 if form.is_valid() else 400)


def _build_query_params(alias: str, state: str, receiver: str) -> dict[str, str]:
    return {"using": "" if alias == queue.get_deliveries_database() else alias, "state": state, "receiver": receiver}


@dashboard_view
@require_POST
def change(request: HttpRequest) -> HttpResponse:
    """Try one delivery again or let it go, or every dead one that the page shows."""
    if not request.user.has_perm(CHANGE_PERMISSION):
        raise PermissionDenied
    alias = _get_alias(request.POST)
    act = ACTIONS.get(request.POST.get("action", ""))
    chosen, state, receiver = (request.POST.get(name, "") for name in ("id", "state", "receiver"))
    if act is None or not ((chosen.isascii() and chosen.isdigit()) or chosen == "dead"):
        raise Http404("There is no such action.")
    if chosen == "dead":
        found = operations.filter_deliveries(alias, state="dead", receiver=receiver)[:BULK_ACTION_LIMIT]
    else:
        found = Delivery.objects.using(alias).filter(id=int(chosen))
    rows = list(found)
    act(rows, alias)
    if rows and "one" in request.POST:
        return HttpResponseRedirect(get_delivery_url(rows[0]))
    narrowed = {key: value for key, value in _build_query_params(alias, state, receiver).items() if value}
    address = reverse("signalbox:deliveries")
    return HttpResponseRedirect(f"{address}?{urlencode(narrowed)}" if narrowed else address)
