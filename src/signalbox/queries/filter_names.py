"""Checks that the names in a filter exist in the project or in the recorded events."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Final, NamedTuple

from django.apps import apps
from django.db import connections
from django.db.models import QuerySet

from signalbox.core import naming
from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.instrumentation import recording_state
from signalbox.models import Event, Trace
from signalbox.outbox import registry
from signalbox.pipeline import recorded_operations
from signalbox.queries.filters import EventFilter, FilterError

TRACE_KINDS: Final = ("request", "command", "task", "test", "shell", "process", "custom")
"""The kinds of traces that Signalbox starts. ``signalbox.trace()`` accepts others."""


class _Names(NamedTuple):
    """The names that one part of a filter accepts."""

    expected: str
    """What an error says was expected."""
    get_known: Callable[[str], Iterable[str]]
    """Returns the names of the project that a name could mean."""
    find_recorded: Callable[[str, str | None], QuerySet[Event] | QuerySet[Trace]]
    """Returns the rows that have a name, in a database."""


def check_names(event_filter: EventFilter, *, using: str | None = None) -> None:
    """Raise ``FilterError`` with a suggestion if a name in ``event_filter`` is neither known nor recorded.

    Args:
        event_filter: Its signals, senders, kinds and databases are checked, and the model of its object.
        using: Alias of the database whose tables are read for a name that the project does not have, or None for the
            router's choice.
    """
    for field, name in _iter_names(event_filter):
        names = _NAMES[field]
        known = set(names.get_known(name))
        if name in known or _may_be_defined(name) or names.find_recorded(name, using).exists():
            continue
        close = get_close_matches(name, known, n=1)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise FilterError(field, name, f"{names.expected} was expected.{suggestion}")


def _iter_names(event_filter: EventFilter) -> Iterator[tuple[str, str]]:
    """Yield each name with the part of the filter that it is in."""
    for field in _NAMES:
        for name in getattr(event_filter, field):
            if "*" not in name:
                yield field, name
    for sender, _ in event_filter.object:
        if sender:
            yield "sender", sender
    if event_filter.excluded is not None:
        yield from _iter_names(event_filter.excluded)


def _may_be_defined(name: str) -> bool:
    """Return whether ``name`` is an object in a module, or could be in one that is not imported."""
    module, _, attribute = name.rpartition(".")
    if module in sys.modules:
        return hasattr(sys.modules[module], attribute)
    return "." in module and naming.may_exist(module)


def get_project_signals() -> Iterator[str]:
    """Yield the names of the signals that this process knows. A name may come twice."""
    yield from BUILTIN_SIGNALS
    yield from recorded_operations.OPERATIONS
    yield from recording_state.get_recorded_signals().values()
    yield from naming.get_tracked_signals().values()
    yield from registry.get_subscribed_signals()


def _get_known_signals(name: str) -> Iterator[str]:
    yield from get_project_signals()
    yield from naming.get_sibling_signals(name)


def _get_known_senders(name: str) -> Iterator[str]:
    for config in apps.get_app_configs():
        yield config.label
        yield config.name
    for model in apps.get_models(include_auto_created=True, include_swapped=True):
        yield model._meta.label


_NAMES: Final = {
    "signal": _Names(
        "the name of a signal of Django, of the project or of a recorded event",
        _get_known_signals,
        lambda name, using: EventFilter(signal=(name,)).apply(Event.objects.using(using)),
    ),
    "sender": _Names(
        "an installed app, a model as shop.Order or a recorded sender",
        _get_known_senders,
        lambda name, using: EventFilter(sender=(name,)).apply(Event.objects.using(using)),
    ),
    "kind": _Names(
        f"one of {', '.join(TRACE_KINDS)} or a recorded kind",
        lambda name: TRACE_KINDS,
        lambda name, using: Trace.objects.using(using).filter(kind=name),
    ),
    "database": _Names(
        "the alias of a database or a recorded alias",
        lambda name: tuple(connections),
        lambda name, using: EventFilter(database=(name,)).apply(Event.objects.using(using)),
    ),
}
