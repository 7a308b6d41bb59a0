"""Views of errors: their groups, the errors of one group, and the actions of operators."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlencode

from django.db import router
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.http import require_GET, require_POST

from signalbox.core import actors
from signalbox.core.event import Actor
from signalbox.dashboard.access import dashboard_view, is_storable_id, require_permission
from signalbox.dashboard.links import add_error_alias
from signalbox.dashboard.source_excerpt import get_excerpt
from signalbox.models import Delivery, Error, ErrorState
from signalbox.outbox import queue
from signalbox.queries import errors as error_queries
from signalbox.queries.error_states import ACTIONS, StateConflictError, change_state
from signalbox.queries.timeline_filter import clean_param

CHANGE_PERMISSION: Final = "signalbox.change_errorstate"

STATE_TABS: Final = (*error_queries.STATES, "all")

ALL_STATES: Final = "all"
"""The value of ``state`` that selects every group."""


def get_alias(params: Any) -> str:
    """Return the requested database alias, by default that of the router; 404 for other databases."""
    alias: str = params.get("using") or router.db_for_read(Error)
    aliases = queue.get_delivery_databases()
    if alias not in aliases:
        text = gettext("Unknown database “%(name)s”. Use one of: %(names)s.")
        raise Http404(text % {"name": alias, "names": ", ".join(aliases)})
    return alias


@dashboard_view
@require_GET
def errors(request: HttpRequest) -> HttpResponse:
    """Show groups of errors, those with the newest errors first; for htmx only that part of the page."""
    part = request.headers.get("HX-Target") == "errors"
    context = _build_list_context(request)
    return render(request, "signalbox/parts/errors.html" if part else "signalbox/errors.html", context)


def _build_list_context(request: HttpRequest) -> dict[str, Any]:
    alias = get_alias(request.GET)
    state = request.GET.get("state") or ErrorState.OPEN
    if state not in STATE_TABS:
        text = gettext("Unknown state “%(name)s”. Use one of: %(names)s.")
        raise Http404(text % {"name": state, "names": ", ".join(STATE_TABS)})
    text = clean_param(request.GET.get("text", "")).strip()
    before = request.GET.get("before", "")
    page = error_queries.get_error_page(
        alias,
        state="" if state == ALL_STATES else state,
        text=text,
        before=int(before) if is_storable_id(before) else None,
    )
    params = {"using": "" if alias == router.db_for_read(Error) else alias, "text": text}
    return {
        "active_page": "errors",
        "aliases": queue.get_delivery_databases(),
        "alias": alias,
        "page": page,
        "state": state,
        "state_tabs": STATE_TABS,
        "text": text,
        "before": before,
        "max_errors": error_queries.MAX_ERRORS,
        "window_days": error_queries.WINDOW_DAYS,
        "base_query": urlencode({name: value for name, value in params.items() if value}),
        "can_change": request.user.has_perm(CHANGE_PERMISSION),
    }


def _find_group(alias: str, fingerprint: str) -> error_queries.ErrorGroup:
    if not re.fullmatch("[0-9a-f]{32}", fingerprint):
        raise Http404(gettext("Invalid fingerprint. It has 32 hexadecimal digits in lower case."))
    group = error_queries.find_group(alias, fingerprint)
    if group is None:
        raise Http404(gettext("No error has the fingerprint %(id)s, or it was deleted.") % {"id": fingerprint})
    return group


@dashboard_view
@require_GET
def error(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """Show a group of errors: its newest error, and the list of them."""
    return _render_group(request, get_alias(request.GET), fingerprint)


def _render_group(
    request: HttpRequest, alias: str, fingerprint: str, *, conflict: str = "", status: int = 200
) -> HttpResponse:
    group = _find_group(alias, fingerprint)
    before = request.GET.get("before", "")
    rows, next_cursor = error_queries.get_group_errors(
        alias, fingerprint, int(before) if is_storable_id(before) else None
    )
    delivery_ids = {row.delivery_id for row in rows if row.delivery_id is not None}
    context = {
        "active_page": "errors",
        "alias": alias,
        "using": "" if alias == router.db_for_read(Error) else alias,
        "group": group,
        "excerpt": get_excerpt(group.newest.file, group.newest.line),
        "errors": rows,
        "deliveries": Delivery.objects.using(alias).in_bulk(delivery_ids),
        "next_cursor": next_cursor,
        "window_days": error_queries.WINDOW_DAYS,
        "conflict": conflict,
        "can_change": request.user.has_perm(CHANGE_PERMISSION),
    }
    return render(request, "signalbox/error.html", context, status=status)


@dashboard_view
@require_GET
def findings(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """Return what the doctor reports about the receiver of a group. An examination takes a moment."""
    from signalbox.doctor import examine

    group = _find_group(get_alias(request.GET), fingerprint)
    receiver = group.newest.receiver
    found = [finding for finding in examine() if receiver and finding.receiver == receiver]
    return render(request, "signalbox/parts/error_findings.html", {"findings": found})


@dashboard_view
@require_POST
def change(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """Resolve, mute or reopen a group of errors, unless another operator has changed it since the page was loaded."""
    require_permission(request.user, CHANGE_PERMISSION)
    alias = get_alias(request.POST)
    _find_group(alias, fingerprint)
    state, version = ACTIONS.get(request.POST.get("action", "")), request.POST.get("version", "")
    if state is None or not is_storable_id(version):
        text = gettext("Unknown action. Use one of: %(names)s, with the version of the page.")
        raise Http404(text % {"names": ", ".join(ACTIONS)})
    actor = actors.actor_from_user(request.user) or Actor(key="", label="")
    try:
        change_state(alias, fingerprint, state, actor, version=int(version))
    except StateConflictError as conflict:
        return _render_group(request, alias, fingerprint, conflict=str(conflict), status=409)
    url = reverse("signalbox:errors") if "from_list" in request.POST else reverse("signalbox:error", args=[fingerprint])
    return HttpResponseRedirect(add_error_alias(url, alias))
