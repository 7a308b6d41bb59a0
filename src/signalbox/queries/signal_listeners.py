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
from signalbox.core.catalog import BUILTIN, Entry
from signalbox.models import Event
from signalbox.queries.filters import Filter
from signalbox.queries.stats import WINDOW, counted_in_traces, recent

if TYPE_CHECKING:
    from signalbox.core.receivers import Connected

UNKNOWN: Final = "?"
"""A sender of which Django keeps nothing but an id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """A receiver that is connected to a signal."""

    name: str
    """Dotted name; empty for a dead one."""
    place: str
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
class Listening:
    """A signal, and what listens to it."""

    name: str
    """As in the events: ``post_save``, ``shop.signals.order_paid``."""
    entry: Entry | None
    """What the catalogue says of it; ``None`` for a project's own signals."""
    recorded: bool
    """Whether its sends are recorded, or counted."""
    events: int
    """Its sends among the newest events."""
    listeners: tuple[Listener, ...]
    """In the order of their connection, the durable ones last."""

    @property
    def group(self) -> str:
        """Group of the catalogue."""
        return "custom" if self.entry is None else self.entry.group


def signals(
    custom: Mapping[Signal, str],
    recorded: Collection[str],
    wanted: Filter | None = None,
    *,
    durable: Iterable[tuple[str, str | None, Callable[..., Any]]] = (),
    limit: int = WINDOW,
    using: str | None = None,
) -> list[Listening]:
    """Return every signal of the catalogue, and those of ``custom`` that are none of Django's, with what listens to it.

    What recording and deliveries know is given: ``custom`` maps signals to their names, ``recorded`` holds the names
    of those that are recorded, ``durable`` tells signal, sender (``None``: any) and receiver. Of ``wanted``, ``signal``
    and ``group`` choose signals; the rest chooses the events that are counted, the newest ``limit`` of them, as a count
    over the whole table would read all of it. ``pre_init`` and ``post_init`` are counted as the traces of that time
    counted them; a ``pre_save`` or ``pre_delete`` that nobody heard, where its write tells of it.
    """
    wanted = wanted or Filter()
    counted: Counter[str] = Counter()
    oldest: int | None = None
    sends = recent(Event.objects.using(using), replace(wanted, signal=(), group=()), limit)
    for name, announced, time in sends.values_list("signal", "data__announced", "time"):
        counted[name] += 1
        oldest = time if oldest is None else min(oldest, time)
        partner = BUILTIN[name].partner if name in BUILTIN else None
        if announced is not None and partner is not None:
            counted[partner] += 1
    counted.update(counted_in_traces(oldest, using=using))
    later: defaultdict[str, list[Listener]] = defaultdict(list)
    for name, sender, receiver in durable:
        later[name].append(_durable(receiver, sender))
    own = {name: signal for signal, name in custom.items() if name not in BUILTIN}
    found: list[tuple[str, Entry | None, Signal | None]] = [
        *((name, entry, _signal(entry)) for name, entry in BUILTIN.items()),
        *((name, None, own[name]) for name in sorted(own)),
    ]
    listening = (
        Listening(
            name=name,
            entry=entry,
            recorded=name in recorded,
            events=counted[name],
            listeners=(
                *(_listener(one) for one in ([] if signal is None else receivers.connected(signal))),
                *later[name],
            ),
        )
        for name, entry, signal in found
    )
    return [one for one in listening if _chosen(one, wanted)]


def _chosen(one: Listening, wanted: Filter) -> bool:
    return (not wanted.signal or one.name in wanted.signal) and (not wanted.group or one.group in wanted.group)


def _signal(entry: Entry) -> Signal | None:
    return catalog.signal(entry) if entry.path else None


def _listener(connected: Connected) -> Listener:
    receiver = connected.receiver
    return Listener(
        name="" if receiver is None else receivers.name(receiver),
        place="" if receiver is None else receivers.place(receiver),
        sender=None if connected.any_sender else _label(connected.sender),
        weak=connected.weak,
        dispatch_uid="" if connected.dispatch_uid is None else _text(connected.dispatch_uid),
        is_async=connected.is_async,
        dead=receiver is None,
    )


def _durable(receiver: Callable[..., Any], sender: str | None) -> Listener:
    return Listener(
        name=receivers.name(receiver),
        place=receivers.place(receiver),
        sender=sender,
        weak=False,
        dispatch_uid="",
        is_async=iscoroutinefunction(receiver),
        dead=False,
        durable=True,
    )


def _label(sender: Any) -> str:
    """Return what a sender is called, as its events call it."""
    if isinstance(sender, type):
        label = getattr(getattr(sender, "_meta", None), "label", None)
        return label if isinstance(label, str) else f"{sender.__module__}.{sender.__qualname__}"
    if isinstance(sender, AppConfig):
        return sender.name
    if isinstance(sender, str):
        return sender
    return UNKNOWN if sender is None else f"{type(sender).__module__}.{type(sender).__qualname__}"


def _text(uid: object) -> str:
    """Return a ``dispatch_uid``, which may be any hashable object, without running what it brings along."""
    return str(uid) if type(uid) in (str, int) else f"{type(uid).__module__}.{type(uid).__qualname__}"
