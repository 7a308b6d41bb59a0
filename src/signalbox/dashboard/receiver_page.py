"""The page of one receiver: its connections, its recent runs, its deliveries and the findings about it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from signalbox import conf
from signalbox.core import receivers
from signalbox.dashboard import formats, graph
from signalbox.dashboard.access import dashboard_view
from signalbox.dashboard.not_found import render_not_found
from signalbox.outbox import queue, registry
from signalbox.outbox.durable_receiver import DurableReceiver
from signalbox.queries.receiver_activity import read_deliveries, summarize_runs
from signalbox.queries.recent_sends import BUDGET_SECONDS, read_recent_sends
from signalbox.queries.signal_listeners import Listener, build_durable_listener, build_listener
from signalbox.serialization.configured_redactor import get_redactor

MAX_NAME_LENGTH: Final = 1_000
"""Maximum number of characters of a name in the query string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """The connection of the receiver to one signal and sender."""

    signal: str
    listener: Listener
    function: Any
    durable: DurableReceiver | None = None
    """Its options, if it is durable."""


class DurableOptionTexts(NamedTuple):
    """The options of one subscription of a durable receiver, as texts."""

    signal: str
    sender: str
    retries: int
    backoff: str
    key: str
    timeout: str
    on_dead: str
    queue: str


def _describe_options(connection: Connection, durable: DurableReceiver) -> DurableOptionTexts:
    key = receivers.get_name(durable.key) if callable(durable.key) else durable.key or _("none")
    return DurableOptionTexts(
        signal=connection.signal,
        sender=connection.listener.sender or "",
        retries=durable.retries,
        backoff=receivers.get_name(durable.backoff)
        if callable(durable.backoff)
        else formats.format_duration(round(durable.backoff * 1_000_000)),
        key=key,
        timeout=_("none") if durable.timeout is None else formats.format_duration(round(durable.timeout * 1_000_000)),
        on_dead=durable.on_dead,
        queue=durable.queue,
    )


def find_connections(name: str) -> list[Connection]:
    """Return the connections of every receiver with this dotted name. Closures of one function share a name."""
    found = [
        Connection(signal=signal_name, listener=build_listener(connected), function=connected.receiver)
        for signal_name, signal in graph.get_signals().items()
        for connected in receivers.get_connected_receivers(signal)
        if connected.receiver is not None and receivers.get_name(connected.receiver) == name
    ]
    found += [
        Connection(
            signal=signal,
            listener=build_durable_listener(durable.function, sender),
            function=durable.function,
            durable=durable,
        )
        for signal, sender, durable in registry.get_subscriptions()
        if durable.name == name
    ]
    return found


@dashboard_view
@require_GET
def receiver(request: HttpRequest) -> HttpResponse:
    """Show one receiver by its dotted name."""
    started = time.monotonic()
    name = get_name(request)
    connections = find_connections(name)
    # A durable receiver runs in a worker, as an attempt of a delivery and not within a send.
    signals = sorted({connection.signal for connection in connections if connection.durable is None})
    runs = summarize_runs(name, read_recent_sends(signals if connections else None))
    deliveries = read_deliveries(name, budget_seconds=BUDGET_SECONDS - (time.monotonic() - started))
    if not (name and (connections or runs.total.calls or deliveries)):
        text = _("No receiver of this process has this name, and it is not in the newest events and deliveries.")
        return render_not_found(request, _("Unknown receiver"), text, name)
    functions = {connection.listener.location: connection.function for connection in connections}
    show_source = conf.get().DASHBOARD.SHOW_SOURCE
    return render(
        request,
        "signalbox/receiver.html",
        {
            "active_page": "map",
            "name": name,
            "connections": connections,
            "locations": [location for location in functions if location] or [runs.total.location],
            "has_sends": bool(signals or runs.total.calls),
            "durable_options": [
                _describe_options(connection, connection.durable) for connection in connections if connection.durable
            ],
            "is_async": any(connection.listener.is_async for connection in connections),
            "is_django": receivers.is_in_django(name),
            "runs": runs,
            "deliveries": deliveries,
            "now": queue.now_us(),
            "excerpts": [
                (location, excerpt)
                for location, function in functions.items()
                if show_source and (excerpt := graph.get_source_excerpt(function))
            ],
        },
    )


@dashboard_view
@require_GET
def findings(request: HttpRequest) -> HttpResponse:
    """Return the findings of the doctor about one receiver, the most severe first."""
    from signalbox.doctor import examine

    started = time.monotonic()
    name = get_name(request)
    locations = {connection.listener.location for connection in find_connections(name)} - {""}
    shown_name = get_redactor().redact_text(name)
    found = [one for one in examine() if one.receiver in (name, shown_name) or one.location in locations]
    context = {
        "findings": found,
        "seconds": time.monotonic() - started,
        "source": conf.get().DASHBOARD.SHOW_SOURCE,
        "is_for_receiver": True,
    }
    return render(request, "signalbox/parts/findings.html", context)


def get_name(request: HttpRequest) -> str:
    """Return the parameter ``name``."""
    return request.GET.get("name", "").strip()[:MAX_NAME_LENGTH]
