"""The page of one signal: its documentation, its receivers by sender, its recent sends and how it is recorded."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Final

from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from signalbox import conf
from signalbox.core import catalog, display_names
from signalbox.dashboard import graph
from signalbox.dashboard.access import dashboard_view
from signalbox.dashboard.not_found import render_not_found
from signalbox.dashboard.receiver_page import get_name
from signalbox.dashboard.recording_modes import get_recording_mode
from signalbox.queries.recent_sends import read_recent_sends
from signalbox.queries.signal_activity import count_senders_in_traces, summarize_senders
from signalbox.queries.stats import MAX_TRACES

SHOWN_SENDS: Final = 20
"""Number of recent sends on the page."""


@dashboard_view
@require_GET
def signal(request: HttpRequest) -> HttpResponse:
    """Show one signal by its name in the events."""
    name = get_name(request)
    entry = catalog.BUILTIN_SIGNALS.get(name)
    found = graph.get_signals().get(name) or _find_loaded_signal(name)
    [recent] = read_recent_sends([name])
    if entry is None and found is None and not recent.sends:
        text = _("It is not a signal of Django, of an imported module or of a recorded event.")
        return render_not_found(request, _("Unknown signal"), text, name)
    mode = get_recording_mode(name)
    totals = graph.collect_call_totals((send.signal, send.sender, send.calls) for send in recent.sends)
    edges = [] if found is None else list(graph.build_signal_edges(name, found, totals, include_source=False))
    edges += [edge for edge in graph.build_durable_edges(include_source=False) if edge.signal == name]
    edges.sort(key=lambda edge: (edge.sender != graph.ANY_SENDER, edge.sender, edge.receiver))
    senders = summarize_senders(recent.sends)
    counted = count_senders_in_traces(name) if mode.name == "counted" else []
    return render(
        request,
        "signalbox/signal.html",
        {
            "active_page": "map",
            "name": name,
            "group": display_names.get_signal_group(name),
            "info": entry,
            "arguments": [(key, text, key in entry.optional) for key, text in entry.args.items()] if entry else [],
            "mode": mode,
            "ignored_senders": conf.get().IGNORE if mode.name != "off" else (),
            "edges_by_sender": [(sender, list(of)) for sender, of in groupby(edges, key=lambda edge: edge.sender)],
            "edge_count": len(edges),
            "recent": recent,
            "sends": recent.sends[:SHOWN_SENDS],
            "senders": senders,
            "counted_senders": counted,
            "max_traces": MAX_TRACES,
        },
    )


def _find_loaded_signal(name: str) -> Signal | None:
    """Return the signal with this dotted name if its module has been imported."""
    module, _dot, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), "__dict__", {}).get(attribute)
    return found if isinstance(found, Signal) else None
