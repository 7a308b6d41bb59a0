"""Views of deliveries: the list with the state of the queue, one delivery, and the actions of operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.http import require_GET, require_POST

from signalbox import models
from signalbox.dashboard.access import dashboard_view, is_storable_id, require_permission
from signalbox.dashboard.delivery_actions import ACTIONS, CHANGE_PERMISSION, describe_result, redirect_to_list
from signalbox.dashboard.delivery_filter import DeliveryFilter, get_alias
from signalbox.dashboard.delivery_rows import AttemptRow
from signalbox.dashboard.forms import ReplayForm
from signalbox.dashboard.htmx import retarget
from signalbox.dashboard.links import get_delivery_url
from signalbox.models import Attempt, Delivery, Event, Trace
from signalbox.outbox import blocking, health, manual_changes, queue, unknown_receivers
from signalbox.queries import delivery_groups, trace_deliveries
from signalbox.queries.status import get_workers
from signalbox.queries.timeline_filter import TEXT_PARAM
from signalbox.queries.trace_rows import select_trace_rows

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from signalbox.outbox.worker_registry import RegisteredWorker
    from signalbox.queries.delivery_groups import DeliveryGroup

PAGE_SIZE: Final = 50
"""Number of deliveries on one page."""

MAX_OPEN_GROUPS: Final = 20
"""Number of groups that can be open."""

NO_GROUP: Final = "none"
"""Value of the parameter ``open`` if no group is open."""

TILE_NAMES: Final = ("due", "waiting", "running", "retrying", "dead")
"""The states that are counted if a filter is used."""

STATE_TABS: Final = ("", "due", "waiting", "running", "retrying", "dead", "done", "discarded")
"""The states that have a tab; the empty one is for all deliveries."""


def get_event_deliveries(event: Event) -> list[Delivery]:
    """Return the deliveries of an event, from the event's database."""
    return list(Delivery.objects.using(event._state.db).filter(trace_id=event.trace_id, span=event.span).order_by("id"))


@dashboard_view
@require_GET
def deliveries(request: HttpRequest) -> HttpResponse:
    """Show deliveries in groups, and the state of the queue; for htmx only that part of the page."""
    part = request.headers.get("HX-Target") == "queue"
    context = _build_queue_context(request, request.GET)
    if part and context["delivery_filter"].tokens.error:
        response = render(request, "signalbox/parts/delivery_filter_error.html", context | {"is_list_kept": True})
        return retarget(response, "#filter-error", "outerHTML")
    if not part and context["can_change"]:
        context["replay_form"] = ReplayForm()
        context["result_text"] = describe_result(request.GET.get("result", ""))
    return render(request, "signalbox/parts/queue.html" if part else "signalbox/deliveries.html", context)


def _build_queue_context(request: HttpRequest, params: Any) -> dict[str, Any]:
    alias = get_alias(params)
    delivery_filter = DeliveryFilter.parse(params, alias)
    found = delivery_filter.find()
    if delivery_filter.is_list:
        context = _build_list_context(found, params)
    else:
        context = _build_group_context(found, params, delivery_filter.state)
    waiting = [delivery.pk for rows in context["rows"] for delivery in rows if delivery.state == Delivery.PENDING]
    state = delivery_filter.state
    open_keys = params.get("open", "")
    workers = _get_workers(alias)
    return context | {
        "active_page": "deliveries",
        "aliases": queue.get_delivery_databases(),
        "alias": alias,
        "state": state,
        "state_tabs": [
            (name, delivery_filter.build_state_query_string(name), _is_current(name, delivery_filter))
            for name in STATE_TABS
        ],
        "delivery_filter": delivery_filter,
        "is_part": request.headers.get("HX-Target") == "queue",
        "counts": delivery_groups.count_states(delivery_filter.find_in_all_states())
        if delivery_filter.tokens.has_others
        else None,
        "health": health.get_health(alias),
        "unknown_receivers": unknown_receivers.find_unknown_receivers(alias),
        "count_limit": unknown_receivers.MAX_COUNTED,
        "open_keys": open_keys,
        "tile_names": TILE_NAMES,
        "workers": workers,
        "alive_count": sum(worker.is_alive for worker in workers or ()),
        "lost_count": sum(not worker.is_alive for worker in workers or ()),
        "filter_fields": [
            ("using", alias),
            (TEXT_PARAM, delivery_filter.tokens.text),
            ("view", "list" if delivery_filter.is_list else ""),
            ("open", open_keys),
        ],
        "waits_for": blocking.find_blocking_deliveries(alias, waiting),
        "now": queue.now_us(),
        "can_change": request.user.has_perm(CHANGE_PERMISSION),
        "query_string": delivery_filter.build_query_string(),
        "poll_query_string": delivery_filter.build_query_string(open=open_keys),
    }


def _is_current(state: str, delivery_filter: DeliveryFilter) -> bool:
    """Return whether the tab of ``state`` is the one that is shown."""
    tokens = delivery_filter.tokens
    return tokens.state == state and bool(state or not (tokens.has_states or tokens.error))


def _build_list_context(found: QuerySet[Delivery], params: Any) -> dict[str, Any]:
    before = params.get("before", "")
    if is_storable_id(before):
        found = found.filter(id__lt=int(before))
    rows = list(found[: PAGE_SIZE + 1])
    deliveries = rows[:PAGE_SIZE]
    return {
        "deliveries": deliveries,
        "rows": [deliveries],
        "next_cursor": rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None,
    }


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group, with its newest deliveries if it is open."""

    group: DeliveryGroup
    is_open: bool
    toggle_keys: str
    """The parameter ``open`` of the link that opens or closes it."""
    deliveries: list[Delivery]


def _build_group_context(found: QuerySet[Delivery], params: Any, state: str) -> dict[str, Any]:
    """Return the groups. Those that the parameter names are open; without it all, if they are short."""
    grouped = delivery_groups.group_deliveries(found, state)
    keys = [group.key for group in grouped.groups]
    if "open" in params:
        opened = [key for key in params["open"].split(",") if key in keys][:MAX_OPEN_GROUPS]
    else:
        opened = keys if grouped.count <= PAGE_SIZE else keys[:1] if len(keys) == 1 else []
    shown = [delivery_id for group in grouped.groups if group.key in opened for delivery_id in group.ids[:PAGE_SIZE]]
    loaded = found.using(found.db).in_bulk(shown)
    rows = []
    for group, key in zip(grouped.groups, keys, strict=True):
        is_open = key in opened
        toggled = [other for other in opened if other != key] if is_open else [*opened, key]
        deliveries = [loaded[pk] for pk in group.ids[:PAGE_SIZE] if pk in loaded] if is_open else []
        rows.append(GroupRow(group, is_open, ",".join(toggled) or NO_GROUP, deliveries))
    return {"grouped": grouped, "group_rows": rows, "rows": [row.deliveries for row in rows], "page_size": PAGE_SIZE}


def _get_workers(alias: str) -> tuple[RegisteredWorker, ...] | None:
    """Return the workers of a database; ``None`` if its role may not read them or the table is missing."""
    if models.Worker._meta.db_table not in connections[alias].introspection.table_names():
        return None
    return get_workers(alias)


@dashboard_view
@require_GET
def delivery(request: HttpRequest, delivery_id: int) -> HttpResponse:
    """Show one delivery: its event, its attempts and the delivery that blocks it."""
    alias = get_alias(request.GET)
    delivery = Delivery.objects.using(alias).filter(id=delivery_id).first()
    if delivery is None:
        raise Http404(gettext("Delivery %(id)s does not exist, or was deleted.") % {"id": delivery_id})
    blocking_delivery = None
    if delivery.partition_id is not None:
        partition = Delivery.objects.using(alias).filter(partition_id=delivery.partition_id)
        blocking_delivery = partition.filter(id__lt=delivery.id).order_by("id").first()
    attempts = trace_deliveries.get_attempts(delivery.pk, alias, PAGE_SIZE + 1)
    tasks = Trace.objects.using(alias).filter(kind="task")
    newest_traces = select_trace_rows(tasks, delivery.trace_id, newest_first=True)
    traces = [trace for trace in newest_traces[:PAGE_SIZE] if trace.data.get("delivery") == delivery.pk][::-1]
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
            "attempts": _build_attempt_rows(delivery, attempts[-PAGE_SIZE:], traces),
            "traces": traces,
            "has_more_attempts": len(attempts) > PAGE_SIZE,
            "now": queue.now_us(),
            "can_change": request.user.has_perm(CHANGE_PERMISSION),
        },
    )


def _build_attempt_rows(delivery: Delivery, attempts: list[Attempt], traces: list[Trace]) -> list[AttemptRow]:
    """Return attempts, newest first, with the number of events that each has caused."""
    counts = {trace.data.get("fencing_token"): trace.events for trace in traces}
    return [
        AttemptRow(delivery=delivery, attempt=attempt, event_count=counts.get(attempt.fencing_token))
        for attempt in reversed(attempts)
    ]


@dashboard_view
@require_POST
def replay(request: HttpRequest) -> HttpResponse:
    """Replay past events to a receiver, or count them."""
    require_permission(request.user, CHANGE_PERMISSION)
    alias = get_alias(request.POST)
    form = ReplayForm(request.POST)
    context: dict[str, Any] = {"replay_form": form, "is_replay_open": True}
    if form.is_valid():
        if "count" not in request.POST:
            form.replay(alias)
            created = DeliveryFilter.parse({"receiver": form.cleaned_data["receiver"]}, alias)
            return HttpResponseRedirect(f"{reverse('signalbox:deliveries')}?{created.build_query_string()}")
        context["replay_count"] = form.replay(alias, dry_run=True)
    queue_context = _build_queue_context(request, {"using": alias})
    return render(request, "signalbox/deliveries.html", queue_context | context, status=200 if form.is_valid() else 400)


@dashboard_view
@require_POST
def change(request: HttpRequest) -> HttpResponse:
    """Retry or discard one delivery."""
    require_permission(request.user, CHANGE_PERMISSION)
    alias = get_alias(request.POST)
    action = request.POST.get("action", "")
    delivery_id = request.POST.get("id", "")
    if action not in ACTIONS or not is_storable_id(delivery_id):
        raise Http404(gettext("Unknown action. Use retry or discard, with a delivery's id."))
    result = manual_changes.apply_to_each(ACTIONS[action], [int(delivery_id)], alias)
    found = Delivery.objects.using(alias).filter(pk=int(delivery_id)).first()
    if found is not None and "from_detail" in request.POST:
        return HttpResponseRedirect(get_delivery_url(found))
    return redirect_to_list(DeliveryFilter.parse(request.POST, alias), action, result, open=request.POST.get("open"))
