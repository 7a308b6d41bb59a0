"""Tools for a project's own tests: what was sent, what was recorded, and which receivers stay quiet.

None of them needs the database; ``assert_sent``, ``assert_not_sent`` and ``quiet`` do not even need recording.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from reprlib import Repr
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.dispatch import Signal

from signalbox.core import catalog
from signalbox.core.event import PendingEvent
from signalbox.instrumentation import install, signal_arguments
from signalbox.instrumentation import signals as signal_patches
from signalbox.serialization import diff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.core.event import Actor, Outcome
    from signalbox.models import Delivery

ANY: Final[Any] = ...
"""Stands for every sender."""


# ------------------------------------------------------------------ what was recorded


class RecordedEvent:
    """One event, as far as it has come: while its transaction is open, its outcome is not known."""

    def __init__(self, event: PendingEvent) -> None:
        self._event = event

    @property
    def signal(self) -> str:
        """The signal's name as it is stored: ``"post_save"``, ``"shop.signals.order_paid"``, ``"bulk_create"``."""
        return self._event.signal

    @property
    def sender(self) -> str:
        """The sender's label: ``"shop.Order"`` for a model, a dotted name for another class."""
        return self._event.sender

    @property
    def object_key(self) -> str:
        """The primary key of the object it is about, as text; empty if it is about none."""
        return self._event.key

    @property
    def object_label(self) -> str:
        """What that object calls itself."""
        return self._event.label

    @property
    def actor(self) -> Actor | None:
        """Who did it, if that was known."""
        return self._event.actor

    @property
    def outcome(self) -> Outcome | None:
        """What became of it; ``None`` while that is open, and for a change whose transaction was committed."""
        return self._event.outcome

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments of the send, as they are stored: bounded, and without secrets."""
        args = self._event.args
        return json.loads(args) if isinstance(args, str) else args or {}

    @property
    def changes(self) -> Mapping[str, Any]:
        """Fields of the row: ``[old, new]`` for an update, the value for what was created or deleted."""
        change = self._event.change
        return {} if change is None else diff.describe(change)[1]

    @property
    def receivers(self) -> list[str]:
        """The dotted names of the receivers that ran, in their order."""
        return [run.location.name for run in self._event.receiver_calls or ()]

    @property
    def errors(self) -> list[str]:
        """What receivers raised, as ``Type: message``."""
        return [run.error for run in self._event.receiver_calls or () if run.error is not None]

    def __repr__(self) -> str:
        about = f" {self.object_label or self.object_key}".rstrip()
        return f"<{self.signal} from {self.sender or None}{about}>"


class RecordedEvents(Sequence[RecordedEvent]):
    """The events of a block, in the order in which they began."""

    def __init__(self, events: list[PendingEvent]) -> None:
        self._events = events

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...

    @overload
    def __getitem__(self, index: slice) -> RecordedEvents: ...

    def __getitem__(self, index: int | slice) -> RecordedEvent | RecordedEvents:
        if isinstance(index, slice):
            return RecordedEvents(self._events[index])
        return RecordedEvent(self._events[index])

    def filter(self, signal: Signal | str | None = None, sender: Any = ANY) -> RecordedEvents:
        """Return the events of ``signal`` (itself, or its name) and of ``sender`` (a class, or its label)."""
        names = None if signal is None else {signal} if isinstance(signal, str) else {_get_signal_name(signal)}
        label = (
            ANY if sender is ANY else sender if isinstance(sender, str) else signal_arguments.get_sender_label(sender)
        )
        return RecordedEvents(
            [
                draft
                for draft in self._events
                if (names is None or draft.signal in names) and (label is ANY or draft.sender == label)
            ]
        )

    @property
    def signals(self) -> list[str]:
        """The names of the signals, one for each event."""
        return [draft.signal for draft in self._events]

    def __repr__(self) -> str:
        return f"RecordedEvents({list(self)!r})"


@contextmanager
def capture_events() -> Iterator[RecordedEvents]:
    """Collect the events of the block, those of every thread, as they are recorded::

        with record() as events:
            order.save()
        assert events.of("post_save", Order)[0].changes == {"status": ["open", "paid"]}

    What the setting ``SIGNALBOX`` leaves out is not there. Raises ``RuntimeError`` if nothing is recorded at all.
    """
    if not install.is_recording():
        raise RuntimeError(
            "Nothing is recorded: signalbox.stop_recording() was called. Call signalbox.start_recording() first."
        )
    drafts: list[PendingEvent] = []
    original: Any = PendingEvent.__init__

    def collecting_init(self: PendingEvent, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        drafts.append(self)

    # Every event begins here, wherever it is written in the end; outside of the block that costs nothing.
    PendingEvent.__init__ = collecting_init  # type: ignore[method-assign]
    try:
        yield RecordedEvents(drafts)
    finally:
        PendingEvent.__init__ = original  # type: ignore[method-assign]


# ------------------------------------------------------------------ what was sent


class Send(NamedTuple):
    """One send of a signal."""

    sender: Any
    """The sender itself."""
    args: dict[str, Any]
    """The arguments themselves."""


@contextmanager
def assert_sent(signal: Signal, /, *, sender: Any = ANY, times: int | None = None, **args: Any) -> Iterator[list[Send]]:
    """Check that ``signal`` is sent in the block::

        with assert_sent(post_save, sender=Order, created=True, times=1) as sends:
            Order.objects.create()
        sends[0].args["instance"]

    ``sender`` is the sender or its label (``"shop.Order"``), ``args`` are arguments that the send must carry; both
    stand for any if they are left out. ``times`` is how often, at least once if it is left out. The sends that fit are
    in the list. Raises ``AssertionError``, which tells of the sends that did not fit; ``TypeError`` if ``signal`` is
    no signal. An exception that leaves the block goes on unchecked.
    """
    with _capture_sends(signal) as every:
        fitting: list[Send] = []
        yield fitting
    fitting.extend(send for send in every if not _find_differences(send, sender, args))
    if len(fitting) == times or (times is None and fitting):
        return
    wanted = "at least once" if times is None else _format_count(times)
    raise AssertionError(
        f"{_get_signal_name(signal)}{_format_expectation(sender, args)} was expected to be sent {wanted}, "
        f"but was sent {_format_count(len(fitting))}.{_format_sends(signal, every, sender, args)}"
    )


@contextmanager
def assert_not_sent(signal: Signal, /, *, sender: Any = ANY, **args: Any) -> Iterator[None]:
    """Check that ``signal`` is not sent in the block, from ``sender`` and with ``args`` where they are given.

    Raises as ``assert_sent`` does.
    """
    with _capture_sends(signal) as every:
        yield
    fitting = [send for send in every if not _find_differences(send, sender, args)]
    if fitting:
        shown = "".join(f"\n  {_format_send(send)}" for send in fitting[:MAX_SHOWN])
        raise AssertionError(
            f"{_get_signal_name(signal)}{_format_expectation(sender, args)} was expected not to be sent, "
            f"but was sent {_format_count(len(fitting))}:{shown}"
        )


@contextmanager
def _capture_sends(signal: Signal) -> Iterator[list[Send]]:
    """Note every send of ``signal``, around whatever else watches it; no receiver is connected."""
    _check_signal(signal)
    every: list[Send] = []

    def wrap(inner: Callable[..., Any]) -> Callable[..., Any]:
        def send(sender: Any, **named: Any) -> Any:
            every.append(Send(sender, named))
            return inner(sender, **named)  # of an asynchronous way, what is to be awaited

        return markcoroutinefunction(send) if iscoroutinefunction(inner) else send

    state = vars(signal)
    before = {method: state.get(method) for method in signal_patches.SEND_METHODS}
    ours = {method: wrap(getattr(signal, method)) for method in signal_patches.SEND_METHODS}
    state.update(ours)
    try:
        yield every
    finally:
        for method, own in ours.items():
            if state.get(method) is own:  # else recording was installed anew meanwhile
                if before[method] is None:
                    del state[method]
                else:
                    state[method] = before[method]


def _check_signal(signal: object) -> None:
    if not isinstance(signal, Signal):
        raise TypeError(f"{_format_value(signal)} is no signal; a django.dispatch.Signal was expected, as post_save.")


def _get_signal_name(signal: Signal) -> str:
    known = install.get_recorded_signals().get(signal)
    if known is not None:
        return known
    for entry in catalog.BUILTIN_SIGNALS.values():
        if entry.path and catalog.import_signal(entry) is signal:
            return entry.name
    return "The signal"


def _find_differences(send: Send, sender: Any, args: Mapping[str, Any]) -> list[str]:
    """Say in what ``send`` differs from what was expected."""
    differences = []
    if not _matches_sender(send.sender, sender):
        differences.append(f"sender is {_format_sender(send.sender)}")
    for name, value in args.items():
        if name not in send.args:
            differences.append(f"no argument {name}")
        elif not _is_equal(send.args[name], value):
            differences.append(f"{name} is {_format_value(send.args[name])}")
    return differences


def _matches_sender(sent: Any, expected: Any) -> bool:
    if expected is ANY or sent is expected:
        return True
    return isinstance(expected, str) and (
        _is_equal(sent, expected) or signal_arguments.get_sender_label(sent) == expected
    )


def _is_equal(value: Any, expected: Any) -> bool:
    return value is expected or bool(value == expected)


MAX_SHOWN: Final = 10
"""Sends that a message tells."""

_repr = Repr()
_repr.maxother = _repr.maxstring = 80


def _format_value(value: Any) -> str:
    return _repr.repr(value)


def _format_sender(sender: Any) -> str:
    return signal_arguments.get_sender_label(sender) or "None"


def _format_count(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{number} times")


def _format_expectation(sender: Any, args: Mapping[str, Any]) -> str:
    words = "" if sender is ANY else f" from {sender if isinstance(sender, str) else _format_sender(sender)}"
    if args:
        words += " with " + ", ".join(f"{name}={_format_value(value)}" for name, value in args.items())
    return words


def _format_send(send: Send) -> str:
    args = ", ".join(f"{name}={_format_value(value)}" for name, value in send.args.items())
    return f"from {_format_sender(send.sender)}" + (f" with {args}" if args else "")


def _format_sends(signal: Signal, all_sends: list[Send], sender: Any, args: Mapping[str, Any]) -> str:
    if not all_sends:
        return (
            f" No {_get_signal_name(signal)} was sent at all."
            if _get_signal_name(signal) != "The signal"
            else " It was not sent at all."
        )
    lines = []
    for send in all_sends[:MAX_SHOWN]:
        misfits = _find_differences(send, sender, args)
        lines.append(f"\n  {_format_send(send)}" + (f"  [{'; '.join(misfits)}]" if misfits else ""))
    if len(all_sends) > MAX_SHOWN:
        lines.append(f"\n  and {len(all_sends) - MAX_SHOWN} more")
    return "\nIt was sent:" + "".join(lines)


# ------------------------------------------------------------------ receivers that stay quiet


@contextmanager
def mute_receivers(*targets: Signal | Callable[..., Any]) -> Iterator[None]:
    """Keep receivers from running in the block: those of a signal, or one receiver of whatever signals::

        with quiet(post_save, send_invoice):
            Order.objects.create()

    Signals are still sent, and recorded; nothing is disconnected, so that everything is as before afterwards, also
    what was connected meanwhile. It holds for every thread, and blocks may stand within each other.
    Raises ``TypeError`` if one of ``what`` is neither a signal nor callable, or if there is none.
    """
    signals = [one for one in targets if isinstance(one, Signal)]
    silent = [one for one in targets if not isinstance(one, Signal)]
    if not targets:
        raise TypeError("quiet() was given nothing; signals or receivers were expected: quiet(post_save).")
    for one in silent:
        if not callable(one):
            raise TypeError(f"quiet() was given {_format_value(one)}; a signal or a receiver was expected.")
    original: Any = Signal._live_receivers

    def live_receivers(self: Signal, sender: Any) -> Any:
        if any(self is signal for signal in signals):
            return [], []
        found = original(self, sender)
        return tuple(
            [one for one in part if not any(_is_same_receiver(one, hushed) for hushed in silent)] for part in found
        )

    Signal._live_receivers = live_receivers  # type: ignore[method-assign]
    try:
        yield
    finally:
        Signal._live_receivers = original  # type: ignore[method-assign]


def _is_same_receiver(receiver: Any, muted: Any) -> bool:
    """Tell whether both are the same receiver; a method is made anew each time that it is asked for."""
    if isinstance(receiver, MethodType) and isinstance(muted, MethodType):
        return receiver.__self__ is muted.__self__ and receiver.__func__ is muted.__func__
    return receiver is muted


__all__ = [
    "RecordedEvent",
    "RecordedEvents",
    "Send",
    "assert_not_sent",
    "assert_sent",
    "mute_receivers",
    "capture_events",
]


# ------------------------------------------------------------------ durable receivers


def run_deliveries(*receivers: str, using: str | None = None, limit: int = 1000) -> list[Delivery]:
    """Run what waits for durable receivers, in the order of its events, and return what was run::

        order.save()
        [delivery] = run_deliveries()

    Times don't matter: a retry is run at once. ``receivers`` are dotted names; others are left alone. What receivers
    cause in turn is run as well. A receiver's error is raised, and its delivery waits on; ``RuntimeError`` is raised
    after ``limit`` deliveries, for receivers that cause each other. This one needs the database.
    """
    from signalbox.outbox import run_pending  # its models can be imported when the apps are there

    return run_pending.run_deliveries(*receivers, using=using, limit=limit)
