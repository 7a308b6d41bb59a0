"""The values that the page suggests for tokens of a filter: names of the project, and those of the newest events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from django.apps import apps
from django.db import connections

from signalbox.core import receivers
from signalbox.core.event import Outcome
from signalbox.instrumentation import recording_state
from signalbox.models import Trace
from signalbox.outbox import manual_changes, registry
from signalbox.queries import filter_names, timeline
from signalbox.queries.delivery_filters import DELIVERY_TOKEN_NAMES, STATE
from signalbox.queries.filter_language import TOKEN_NAMES, TokenName
from signalbox.queries.filters import SIGNAL_GROUPS

RECENT_TRACES: Final = 500
"""Number of the newest traces whose paths are suggested."""

MAX_VALUES: Final = 1_000
"""Maximum number of values of one token. Values of the project come first."""

DURATIONS: Final = ("10ms", "50ms", "100ms", "500ms", "1s")

TIMES: Final = {
    "15m": "15 minutes ago",
    "1h": "an hour ago",
    "6h": "6 hours ago",
    "1d": "a day ago",
    "7d": "a week ago",
}

Sources = Mapping[str, Callable[[], Iterable[tuple[str, str]]]]
"""Functions that return the values of a token with their labels, by its name."""

STATUSES: Final = ("5xx", "4xx", "3xx", "2xx", "failed", "ok")


def get_suggestions() -> list[dict[str, Any]]:
    """Return the tokens with their description, operators and values, each with a label that may be empty.

    No statement reads a whole table: names are those of the process, and of the newest 3,000 events.
    """
    recent = timeline.get_recent_names()
    sources: Sources = {
        "signal": lambda: _unlabelled(sorted({*filter_names.get_project_signals(), *recent["signal"]})),
        "group": lambda: _unlabelled(SIGNAL_GROUPS),
        "model": lambda: _unlabelled([*_list_models(), *recent["sender"]]),
        "object": lambda: timeline.get_recent_objects().items(),
        "receiver": _list_receivers,
        "error": lambda: [("*", "any exception")],
        "outcome": lambda: _unlabelled(Outcome),
        "took": lambda: _unlabelled(DURATIONS),
        "actor": lambda: _unlabelled(recent["actor_label"]),
        "path": lambda: _unlabelled(_list_recent_paths()),
        "status": lambda: _unlabelled(STATUSES),
        "kind": lambda: _unlabelled(filter_names.TRACE_KINDS),
        "database": lambda: _unlabelled(connections),
        "since": TIMES.items,
        "until": TIMES.items,
    }
    return _describe(TOKEN_NAMES, sources)


def get_delivery_suggestions() -> list[dict[str, Any]]:
    """Return the tokens of the page "Deliveries", as ``get_suggestions()`` does for those of the timeline."""
    durable = registry.get_durable_receivers()
    sources: Sources = {
        STATE: lambda: _unlabelled(manual_changes.STATES),
        "receiver": lambda: [(name.rpartition(".")[2], name) for name in sorted(durable)],
        "error": lambda: [("*", "any exception")],
        "signal": lambda: _unlabelled(sorted(registry.get_subscribed_signals())),
        "model": lambda: _unlabelled(_list_models()),
        "object": lambda: timeline.get_recent_objects().items(),
        "database": lambda: _unlabelled(connections),
        "since": TIMES.items,
        "until": TIMES.items,
    }
    return _describe(DELIVERY_TOKEN_NAMES, sources)


def _describe(names: Mapping[str, TokenName], sources: Sources) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "operator": known.operators[0],
            "description": known.description,
            "values": list(dict(sources[name]()).items())[:MAX_VALUES] if name in sources else [],
        }
        for name, known in names.items()
    ]


def _unlabelled(values: Iterable[Any]) -> list[tuple[str, str]]:
    return [(str(value), "") for value in values]


def _list_models() -> list[str]:
    return sorted(model._meta.label for model in apps.get_models(include_auto_created=True))


def _list_receivers() -> list[tuple[str, str]]:
    """Return the receivers that are connected in this process and the durable ones: last part and full name."""
    names = set(registry.get_durable_receivers())
    for signal in recording_state.get_recorded_signals():
        connected = receivers.get_connected_receivers(signal)
        names |= {receivers.get_name(one.receiver) for one in connected if one.receiver is not None}
    return [(name.rpartition(".")[2], name) for name in sorted(names) if name]


def _list_recent_paths() -> list[str]:
    """Return the paths of the newest requests, without query strings, the most recent first."""
    rows = Trace.objects.order_by("-id").values_list("kind", "name")[:RECENT_TRACES]
    paths = [name.partition(" ")[2].partition("?")[0] for kind, name in rows if kind == "request"]
    return list(dict.fromkeys(path for path in paths if path.startswith("/")))
