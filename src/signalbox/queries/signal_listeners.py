"""The signals of the catalogue and of the project, with their receivers in this process."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import iscoroutinefunction
from django.apps import AppConfig
from django.dispatch import Signal

from signalbox.core import catalog, receivers
from signalbox.core.catalog import BUILTIN_SIGNALS, SignalInfo
from signalbox.queries.filters import EventFilter
from signalbox.queries.stats import DEFAULT_LIMIT, count_signals_in_traces
from signalbox.queries.window_search import EventSearch

if TYPE_CHECKING:
    from signalbox.core.receivers import ConnectedReceiver

UNKNOWN_SENDER: Final = "?"
"""A sender for which Django stores only an id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """A receiver that is connected to a signal."""

    name: str
    """Dotted name; empty for a dead one."""
    location: str
    """``file:line`` of its definition; empty if it has none."""
    sender: str | None
    """Its sender, as ``shop.Order``; ``None`` for every sender, ``?`` if Django stores only an id."""
    weak: bool
    """Whether the signal has only a weak reference to it: it is disconnected once it is garbage-collected."""
    dispatch_uid: str
    """Its ``dispatch_uid``; empty if it has none."""
    is_async: bool
    """Whether it is a coroutine function."""
    dead: bool
    """Whether it was connected weakly and has been collected."""
    durable: bool = False
    """Whether a worker runs it, after the commit: it is not connected, but registered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalListeners:
    """A signal and its receivers."""

    name: str
    """As in the events: ``post_save``, ``shop.signals.order_paid``."""
    info: SignalInfo | None
    """Its entry in the catalogue; ``None`` for a project's own signals."""
    is_recorded: bool
    """Whether its sends are recorded, or counted."""
    event_count: int
    """Its sends among the newest events."""
    listeners: tuple[Listener, ...]
    """In the order of their connection, the durable ones last."""

    @property
    def group(self) -> str:
        """Group of the catalogue."""
        return "custom" if self.info is None else self.info.group


def get_signal_listeners(
    custom_signals: Mapping[Signal, str],
    recorded_signals: Collection[str],
    event_filter: EventFilter | None = None,
    *,
    durable_receivers: Iterable[tuple[str, str | None, Callable[..., Any]]] = (),
    limit: int = DEFAULT_LIMIT,
    using: str | None = None,
) -> list[SignalListeners]:
    """Return the signals of the catalogue and of ``custom_signals``, with their receivers.

    ``custom_signals`` maps signals to their names, ``recorded_signals`` holds the names of recorded signals, and
    ``durable_receivers`` holds a signal's name, a sender (``None`` for any) and a receiver. ``signal`` and ``group`` of
    ``event_filter`` choose signals. Its other parts choose the events that are counted, the newest ``limit`` of them: a
    count over the whole table would read all of it. ``pre_init`` and ``post_init`` are counted by the traces of that
    time, and a ``pre_save`` or ``pre_delete`` without receivers by the event of its write.
    """
    event_filter = event_filter or EventFilter()
    counted: Counter[str] = Counter()
    oldest: int | None = None
    columns = ("signal", "data__pre_signal_time", "time")
    for name, pre_signal_time, time in EventSearch(
        _without_signals(event_filter), limit=limit, using=using, columns=columns
    ):
        counted[name] += 1
        oldest = time if oldest is None else min(oldest, time)
        counterpart = BUILTIN_SIGNALS[name].counterpart if name in BUILTIN_SIGNALS else None
        if pre_signal_time is not None and counterpart is not None:
            counted[counterpart] += 1
    counted.update(count_signals_in_traces(oldest, using=using))
    durable_listeners: defaultdict[str, list[Listener]] = defaultdict(list)
    for name, sender, receiver in durable_receivers:
        durable_listeners[name].append(build_durable_listener(receiver, sender))
    custom_by_name = {name: signal for signal, name in custom_signals.items() if name not in BUILTIN_SIGNALS}
    found: list[tuple[str, SignalInfo | None, Signal | None]] = [
        *((name, entry, _load_signal(entry)) for name, entry in BUILTIN_SIGNALS.items()),
        *((name, None, custom_by_name[name]) for name in sorted(custom_by_name)),
    ]
    listening = (
        SignalListeners(
            name=name,
            info=entry,
            is_recorded=name in recorded_signals,
            event_count=counted[name],
            listeners=(
                *(build_listener(one) for one in ([] if signal is None else receivers.get_connected_receivers(signal))),
                *durable_listeners[name],
            ),
        )
        for name, entry, signal in found
    )
    return [one for one in listening if event_filter.matches_signal(one.name, one.group)]


def _without_signals(event_filter: EventFilter) -> EventFilter:
    """Return the filter without what selects signals by their name and group."""
    excluded = event_filter.excluded
    if excluded is not None:
        excluded = replace(excluded, signal=(), group=()) or None
    return replace(event_filter, signal=(), group=(), excluded=excluded)


def _load_signal(info: SignalInfo) -> Signal | None:
    return catalog.import_signal(info) if info.path else None


def build_listener(connected: ConnectedReceiver) -> Listener:
    """Return the description of one entry in a signal's list of receivers."""
    receiver = connected.receiver
    return Listener(
        name="" if receiver is None else receivers.get_name(receiver),
        location="" if receiver is None else receivers.get_location(receiver),
        sender=None if connected.any_sender else _sender_label(connected.sender),
        weak=connected.weak,
        dispatch_uid="" if connected.dispatch_uid is None else _format_dispatch_uid(connected.dispatch_uid),
        is_async=connected.is_async,
        dead=receiver is None,
    )


def build_durable_listener(receiver: Callable[..., Any], sender: str | None) -> Listener:
    """Return the description of a subscription of a durable receiver."""
    return Listener(
        name=receivers.get_name(receiver),
        location=receivers.get_location(receiver),
        sender=sender,
        weak=False,
        dispatch_uid="",
        is_async=iscoroutinefunction(receiver),
        dead=False,
        durable=True,
    )


def _sender_label(sender: Any) -> str:
    """Return the label of a sender, as in its events."""
    if isinstance(sender, type):
        label = getattr(getattr(sender, "_meta", None), "label", None)
        return label if isinstance(label, str) else f"{sender.__module__}.{sender.__qualname__}"
    if isinstance(sender, AppConfig):
        return sender.name
    if isinstance(sender, str):
        return sender
    return UNKNOWN_SENDER if sender is None else f"{type(sender).__module__}.{type(sender).__qualname__}"


def _format_dispatch_uid(uid: object) -> str:
    """Return a ``dispatch_uid``, which may be any hashable object, as text without running its own methods."""
    return str(uid) if type(uid) in (str, int) else f"{type(uid).__module__}.{type(uid).__qualname__}"
