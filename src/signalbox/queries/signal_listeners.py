"""The catalogue, with what listens to each signal in this process."""

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
from signalbox.models import Event
from signalbox.queries.filters import EventFilter
from signalbox.queries.stats import DEFAULT_LIMIT, count_signals_in_traces, filter_newest

if TYPE_CHECKING:
    from signalbox.core.receivers import ConnectedReceiver

UNKNOWN_SENDER: Final = "?"
"""A sender of which Django keeps nothing but an id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """A receiver that is connected to a signal."""

    name: str
    """Dotted name; empty for a dead one."""
    location: str
    """``file:line`` of its definition; empty where there is none."""
    sender: str | None
    """Whom it hears, as ``shop.Order``; ``None`` for every sender, ``?`` where Django keeps nothing but an id."""
    weak: bool
    """Whether the signal holds it by a weak reference: it stops listening when nothing else holds it."""
    dispatch_uid: str
    """What it was connected with to be connected once; empty if nothing."""
    is_async: bool
    """Whether it is a coroutine function."""
    dead: bool
    """Whether it was connected weakly and has been collected."""
    durable: bool = False
    """Whether a worker runs it, after the commit: it is not connected, but registered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalListeners:
    """A signal, and what listens to it."""

    name: str
    """As in the events: ``post_save``, ``shop.signals.order_paid``."""
    info: SignalInfo | None
    """What the catalogue says of it; ``None`` for a project's own signals."""
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
    """Return the signals of the catalogue and of ``custom_signals``, with what listens to each.

    ``custom_signals`` maps signals to their names, ``recorded_signals`` holds the names of recorded signals, and
    ``durable_receivers`` holds a signal's name, a sender (``None`` for any) and a receiver. ``signal`` and ``group`` of
    ``event_filter`` choose signals. Its other parts choose the events that are counted, the newest ``limit`` of them: a
    count over the whole table would read all of it. ``pre_init`` and ``post_init`` are counted by the traces of that
    time, and a ``pre_save`` or ``pre_delete`` without receivers by the event of its write.
    """
    event_filter = event_filter or EventFilter()
    counted: Counter[str] = Counter()
    oldest: int | None = None
    sends = filter_newest(Event.objects.using(using), replace(event_filter, signal=(), group=()), limit)
    for name, pre_signal_time, time in sends.values_list("signal", "data__pre_signal_time", "time"):
        counted[name] += 1
        oldest = time if oldest is None else min(oldest, time)
        counterpart = BUILTIN_SIGNALS[name].counterpart if name in BUILTIN_SIGNALS else None
        if pre_signal_time is not None and counterpart is not None:
            counted[counterpart] += 1
    counted.update(count_signals_in_traces(oldest, using=using))
    durable_listeners: defaultdict[str, list[Listener]] = defaultdict(list)
    for name, sender, receiver in durable_receivers:
        durable_listeners[name].append(_build_durable_listener(receiver, sender))
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
                *(
                    _build_listener(one)
                    for one in ([] if signal is None else receivers.get_connected_receivers(signal))
                ),
                *durable_listeners[name],
            ),
        )
        for name, entry, signal in found
    )
    return [one for one in listening if _matches(one, event_filter)]


def _matches(listeners: SignalListeners, event_filter: EventFilter) -> bool:
    return (not event_filter.signal or listeners.name in event_filter.signal) and (
        not event_filter.group or listeners.group in event_filter.group
    )


def _load_signal(info: SignalInfo) -> Signal | None:
    return catalog.import_signal(info) if info.path else None


def _build_listener(connected: ConnectedReceiver) -> Listener:
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


def _build_durable_listener(receiver: Callable[..., Any], sender: str | None) -> Listener:
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
    """Return what a sender is called, as its events call it."""
    if isinstance(sender, type):
        label = getattr(getattr(sender, "_meta", None), "label", None)
        return label if isinstance(label, str) else f"{sender.__module__}.{sender.__qualname__}"
    if isinstance(sender, AppConfig):
        return sender.name
    if isinstance(sender, str):
        return sender
    return UNKNOWN_SENDER if sender is None else f"{type(sender).__module__}.{type(sender).__qualname__}"


def _format_dispatch_uid(uid: object) -> str:
    """Return a ``dispatch_uid``, which may be any hashable object, without running what it brings along."""
    return str(uid) if type(uid) in (str, int) else f"{type(uid).__module__}.{type(uid).__qualname__}"
