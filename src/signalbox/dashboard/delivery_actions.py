"""Views that retry or discard selected deliveries: the confirmation with their number, and the action."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext, ngettext
from django.views.decorators.http import require_POST

from signalbox.dashboard.access import dashboard_view, is_storable_id, require_permission
from signalbox.dashboard.delivery_filter import DeliveryFilter, get_alias
from signalbox.models import Delivery
from signalbox.outbox import manual_changes
from signalbox.queries import delivery_groups

if TYPE_CHECKING:
    from signalbox.outbox.manual_changes import ChangeResult

CHANGE_PERMISSION: Final = "signalbox.change_delivery"

MAX_SELECTED: Final = 2_000
"""Maximum number of deliveries that one action changes, as each takes a transaction of its own."""

MAX_LISTED: Final = 8
"""Number of receivers that the confirmation names."""

ACTIONS: Final = {"retry": manual_changes.retry, "discard": manual_changes.discard}

UNCHANGEABLE: Final = {"retry": ("done", "running"), "discard": ("done", "running", "discarded")}
"""States that an action does not change."""

_RESULT: Final = re.compile(r"(retry|discard)\.(\d{1,9})((?:\.[a-z]+-\d{1,9})*)")


@dashboard_view
@require_POST
def confirm(request: HttpRequest) -> HttpResponse:
    """Ask whether the selected deliveries are to be changed. The page contains their ids."""
    alias, action, delivery_filter = _parse_action(request)
    if delivery_filter.tokens.error:
        raise Http404(gettext("The filter is not valid: %(error)s") % {"error": delivery_filter.tokens.error})
    ids = _get_selected_ids(request.POST, delivery_filter)
    found = Delivery.objects.using(alias).in_bulk(ids[:MAX_SELECTED])
    states = {delivery_id: manual_changes.get_status(delivery) for delivery_id, delivery in found.items()}
    changeable = [one for one in ids[:MAX_SELECTED] if one in found and states[one] not in UNCHANGEABLE[action]]
    receivers = Counter(found[delivery_id].receiver for delivery_id in changeable)
    return render(
        request,
        "signalbox/confirm.html",
        {
            "active_page": "deliveries",
            "action": action,
            "alias": alias,
            "delivery_filter": delivery_filter,
            "list_query_string": delivery_filter.build_query_string(open=request.POST.get("open")),
            "open": request.POST.get("open", ""),
            "count": len(changeable),
            "ids": ",".join(map(str, changeable)),
            "unchangeable": len(found) - len(changeable),
            "omitted": max(len(ids) - MAX_SELECTED, 0),
            "limit": MAX_SELECTED,
            "receivers": receivers.most_common(MAX_LISTED),
            "other_receivers": max(len(receivers) - MAX_LISTED, 0),
            "states": Counter(states[delivery_id] for delivery_id in changeable).most_common(),
        },
    )


@dashboard_view
@require_POST
def apply(request: HttpRequest) -> HttpResponse:
    """Retry or discard exactly the confirmed deliveries, and report those that were finished in the meantime."""
    alias, action, delivery_filter = _parse_action(request)
    ids = request.POST.get("ids", "").split(",")
    if not all(map(is_storable_id, ids)) or len(ids) > MAX_SELECTED:
        text = gettext("The parameter ids is not valid. Use up to %(number)d ids, separated by commas.")
        raise Http404(text % {"number": MAX_SELECTED})
    result = manual_changes.apply_to_each(ACTIONS[action], list(dict.fromkeys(map(int, ids))), alias)
    return redirect_to_list(delivery_filter, action, result, open=request.POST.get("open"))


def _parse_action(request: HttpRequest) -> tuple[str, str, DeliveryFilter]:
    require_permission(request.user, CHANGE_PERMISSION)
    alias = get_alias(request.POST)
    action = request.POST.get("action", "")
    if action not in ACTIONS:
        raise Http404(gettext("Unknown action “%(name)s”. Use retry or discard.") % {"name": action})
    return alias, action, DeliveryFilter.parse(request.POST, alias)


def _get_selected_ids(params: Any, delivery_filter: DeliveryFilter) -> list[int]:
    """Return the ids of the selected deliveries and groups, or of all that match the filter, without duplicates."""
    ids = [int(text) for text in params.getlist("id") if is_storable_id(text)]
    keys = set(params.getlist("group"))
    if keys or params.get("all"):
        grouped = delivery_groups.group_deliveries(delivery_filter.find(), delivery_filter.state)
        ids += [one for group in grouped.groups if params.get("all") or group.key in keys for one in group.ids]
    return sorted(set(ids))


def redirect_to_list(
    delivery_filter: DeliveryFilter, action: str, result: ChangeResult, **params: str | None
) -> HttpResponseRedirect:
    """Redirect to the list, whose URL contains the numbers of ``result`` for the message."""
    counts = [f"{state}-{number}" for state, number in sorted(result.unchanged.items())]
    text = ".".join([action, str(result.changed), *counts])
    query_string = delivery_filter.build_query_string(**params, result=text)
    return HttpResponseRedirect(f"{reverse('signalbox:deliveries')}?{query_string}")


def describe_result(text: str) -> str:
    """Return the message for the parameter ``result``; empty if it is missing or not valid."""
    match = _RESULT.fullmatch(text)
    if match is None:
        return ""
    action, changed, rest = match[1], int(match[2]), match[3]
    if action == "retry":
        parts = [ngettext("%(count)d delivery is due again", "%(count)d deliveries are due again", changed)]
    else:
        parts = [ngettext("%(count)d delivery was discarded", "%(count)d deliveries were discarded", changed)]
    parts[0] %= {"count": changed}
    for state, number in (part.split("-") for part in rest.split(".") if part):
        parts.append(_describe_unchanged(state, int(number)))
    return "; ".join(parts) + "."


def _describe_unchanged(state: str, count: int) -> str:
    if state == "deleted":
        text = ngettext("%(count)d was deleted", "%(count)d were deleted", count)
    elif state == "running":
        text = ngettext("%(count)d is running", "%(count)d are running", count)
    elif state == "erased":
        text = ngettext("%(count)d has an erased payload", "%(count)d have an erased payload", count)
    elif state in manual_changes.STATES:
        text = ngettext("%(count)d was already %(state)s", "%(count)d were already %(state)s", count)
    else:
        return gettext("%(count)d were not changed") % {"count": count}
    return text % {"count": count, "state": state}
