"""Tools for a project's own tests: capture events, assert sends, mute receivers, run deliveries.

Only ``run_deliveries`` needs a database. ``assert_sent``, ``assert_not_sent`` and ``mute_receivers`` also work while
nothing is recorded. The module is longer than others because a project imports all test tools from here.
"""

from __future__ import annotations

import json
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from reprlib import Repr
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.dispatch import Signal

from signalbox import conf
from signalbox.core import catalog
from signalbox.instrumentation import install, signal_arguments
from signalbox.instrumentation import signals as signal_patches
from signalbox.pipeline import processors
from signalbox.serialization import diff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.core.event import Actor, Outcome, PendingEvent
    from signalbox.models import Delivery

_ANY: Final[Any] = ...
"""Default of parameters that match every sender."""


# ------------------------------------------------------------------ recorded events


class RecordedEvent:
    """One recorded event. Its attributes are complete when its receivers have run and its transaction has ended."""

    def __init__(self, event: PendingEvent) -> None:
        self._event = event

    @property
    def signal(self) -> str:
        """Name of the signal, such as ``"post_save"``, ``"shop.signals.order_paid"`` or ``"bulk_create"``."""
        return self._event.signal

    @property
    def sender(self) -> str:
        """Label of the sender, ``"shop.Order"`` for a model and a dotted name for another class."""
        return self._event.sender

    @property
    def object_key(self) -> str:
        """Primary key of the event's object, as text; empty without an object."""
        return self._event.key

    @property
    def object_label(self) -> str:
        """The object's ``str()``; empty without an object."""
        return self._event.label

    @property
    def actor(self) -> Actor | None:
        """The actor, with ``key`` and ``label``; ``None`` if unknown."""
        return self._event.actor

    @property
    def outcome(self) -> Outcome | None:
        """``rolled_back``, ``failed`` or ``sent``; ``None`` for a change that is committed or can still be."""
        return self._event.outcome

    @property
    def args(self) -> Mapping[str, Any]:
        """Arguments of the send as they are stored, as JSON values that are limited in size and have no secrets."""
        args = self._event.args
        return json.loads(args) if isinstance(args, str) else args or {}

    @property
    def changes(self) -> Mapping[str, Any]:
        """Changes by field name, ``[old, new]`` for an updated row and the value for a created or deleted row."""
        change = self._event.change
        return {} if change is None else diff.describe(change)[1]

    @property
    def receivers(self) -> list[str]:
        """Dotted names of the receivers that ran, in order."""
        return [run.location.name for run in self._event.receiver_calls or ()]

    @property
    def errors(self) -> list[str]:
        """Exceptions that its receivers raised, as ``"Type: message"``, without those of receivers of nested sends."""
        return [run.error for run in self._event.receiver_calls or () if run.error is not None and run.has_raised]

    def __repr__(self) -> str:
        about = f" {self.object_label or self.object_key}".rstrip()
        return f"<{self.signal} from {self.sender or None}{about}>"


class RecordedEvents(Sequence[RecordedEvent]):
    """Events of a block, in the order in which they started."""

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

    def filter(self, signal: Signal | str | None = None, sender: object = _ANY) -> RecordedEvents:
        """Return the events of a signal and a sender.

        Args:
            signal: The signal or its name; ``None`` for every signal.
            sender: The sender or its label; every sender by default.
        """
        names = None if signal is None else {signal} if isinstance(signal, str) else {_get_signal_name(signal)}
        label = (
            _ANY if sender is _ANY else sender if isinstance(sender, str) else signal_arguments.get_sender_label(sender)
        )
        return RecordedEvents(
            [
                event
                for event in self._events
                if (names is None or event.signal in names) and (label is _ANY or event.sender == label)
            ]
        )

    @property
    def signals(self) -> list[str]:
        """Name of the signal of each event."""
        return [event.signal for event in self._events]

    def __repr__(self) -> str:
        return f"RecordedEvents({list(self)!r})"


@contextmanager
def capture_events() -> Iterator[RecordedEvents]:
    """Capture the events that are recorded in a block, in every thread::

        with capture_events() as events:
            order.save()
        assert events.filter("post_save", Order)[0].changes == {"status": ["open", "paid"]}

    Events that the setting ``SIGNALBOX`` excludes are not captured.

    Raises:
        RuntimeError: recording is stopped.
    """
    if not install.is_recording():
        if conf.is_disabled():
            raise RuntimeError(f"Nothing is recorded: {conf.DISABLED_VARIABLE} is set in the environment. Unset it.")
        raise RuntimeError(
            "Nothing is recorded: signalbox.stop_recording() was called. Call signalbox.start_recording() first."
        )
    capture = _Capture()
    processors.install(capture)
    try:
        yield RecordedEvents(capture.events)
    finally:
        processors.uninstall(capture)


class _Capture(processors.EventProcessor):
    """Collects the events that are recorded, in the order in which they started."""

    def __init__(self) -> None:
        self.events: list[PendingEvent] = []

    def on_event(self, event: PendingEvent) -> PendingEvent:
        """Collect ``event``. One that ended before another was buffered may have started after it."""
        insort(self.events, event, key=lambda one: (one.time, one.span))
        return event


# ------------------------------------------------------------------ sends


class Send(NamedTuple):
    """One send of a signal."""

    sender: object
    """The sender itself, not its label."""
    args: dict[str, Any]
    """The keyword arguments of the send."""


@contextmanager
def assert_sent(
    signal: Signal, /, *, sender: object = _ANY, times: int | None = None, **args: object
) -> Iterator[list[Send]]:
    """Assert that a signal is sent in a block::

        with assert_sent(post_save, sender=Order, created=True, times=1) as sends:
            Order.objects.create()
        sends[0].args["instance"]

    The list of matching sends is filled at the end of the block. An exception in the block skips the assertion.

    Args:
        signal: The signal.
        sender: The sender or its label (``"shop.Order"``); every sender by default.
        times: Number of matching sends; at least one by default.
        **args: Arguments of a matching send, compared with ``==``.

    Raises:
        AssertionError: the number of matching sends is wrong. The message lists the sends that happened.
        TypeError: ``signal`` is not a ``django.dispatch.Signal``.
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
def assert_not_sent(signal: Signal, /, *, sender: object = _ANY, **args: object) -> Iterator[None]:
    """Assert that a signal is not sent in a block. Parameters and errors are those of ``assert_sent``.

    Args:
        signal: The signal.
        sender: The sender or its label; every sender by default.
        **args: Arguments of a matching send; any arguments by default.

    Raises:
        AssertionError: a matching send happened.
        TypeError: ``signal`` is not a ``django.dispatch.Signal``.
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
    """Capture every send of ``signal``, without connecting a receiver."""
    _check_signal(signal)
    every: list[Send] = []

    def wrap(inner: Callable[..., Any]) -> Callable[..., Any]:
        def send(sender: Any, **named: Any) -> Any:
            every.append(Send(sender, named))
            return inner(sender, **named)  # of an asynchronous method, a coroutine

        return markcoroutinefunction(send) if iscoroutinefunction(inner) else send

    state = vars(signal)
    before = {method: state.get(method) for method in signal_patches.SEND_METHODS}
    ours = {method: wrap(getattr(signal, method)) for method in signal_patches.SEND_METHODS}
    state.update(ours)
    try:
        yield every
    finally:
        for method, own in ours.items():
            if state.get(method) is own:  # otherwise recording was started again in the block
                if before[method] is None:
                    del state[method]
                else:
                    state[method] = before[method]


def _check_signal(signal: object) -> None:
    if not isinstance(signal, Signal):
        raise TypeError(f"signal is {_format_value(signal)}. Expected a django.dispatch.Signal, such as post_save.")


def _get_signal_name(signal: Signal) -> str:
    known = install.get_recorded_signals().get(signal)
    if known is not None:
        return known
    for entry in catalog.BUILTIN_SIGNALS.values():
        if entry.path and catalog.import_signal(entry) is signal:
            return entry.name
    return "The signal"


def _find_differences(send: Send, sender: Any, args: Mapping[str, Any]) -> list[str]:
    """Return the differences between a send and the expectation, as texts."""
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
    if expected is _ANY or sent is expected:
        return True
    return isinstance(expected, str) and (
        _is_equal(sent, expected) or signal_arguments.get_sender_label(sent) == expected
    )


def _is_equal(value: Any, expected: Any) -> bool:
    return value is expected or bool(value == expected)


MAX_SHOWN: Final = 10
"""Maximum number of sends in a message."""

_repr = Repr()
_repr.maxother = _repr.maxstring = 80


def _format_value(value: Any) -> str:
    return _repr.repr(value)


def _format_sender(sender: Any) -> str:
    return signal_arguments.get_sender_label(sender) or "None"


def _format_count(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{number} times")


def _format_expectation(sender: Any, args: Mapping[str, Any]) -> str:
    words = "" if sender is _ANY else f" from {sender if isinstance(sender, str) else _format_sender(sender)}"
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


# ------------------------------------------------------------------ muted receivers


@contextmanager
def mute_receivers(*targets: Signal | Callable[..., object]) -> Iterator[None]:
    """Do not call receivers in a block: those of a signal, or one receiver of any signal::

        with mute_receivers(post_save, send_invoice):
            Order.objects.create()

    Signals are still sent and recorded, and nothing is disconnected. It applies to every thread. Blocks can be nested.

    Args:
        *targets: Signals and receivers.

    Raises:
        TypeError: a target is neither a signal nor callable, or no target is given.
    """
    signals = [one for one in targets if isinstance(one, Signal)]
    silent = [one for one in targets if not isinstance(one, Signal)]
    if not targets:
        raise TypeError(
            "mute_receivers() was given nothing; signals or receivers were expected: mute_receivers(post_save)."
        )
    for one in silent:
        if not callable(one):
            raise TypeError(f"mute_receivers() was given {_format_value(one)}; a signal or a receiver was expected.")
    original: Any = Signal._live_receivers

    def live_receivers(self: Signal, sender: Any) -> Any:
        if any(self is signal for signal in signals):
            return [], []
        found = original(self, sender)
        return tuple(
            [one for one in part if not any(_is_same_receiver(one, muted) for muted in silent)] for part in found
        )

    Signal._live_receivers = live_receivers  # type: ignore[method-assign]
    try:
        yield
    finally:
        Signal._live_receivers = original  # type: ignore[method-assign]


def _is_same_receiver(receiver: Any, muted: Any) -> bool:
    """Return True if both are the same receiver. Each access to a method creates a new bound method."""
    if isinstance(receiver, MethodType) and isinstance(muted, MethodType):
        return receiver.__self__ is muted.__self__ and receiver.__func__ is muted.__func__
    return receiver is muted


# ------------------------------------------------------------------ durable receivers


def run_deliveries(*receivers: str, using: str | None = None, limit: int = 1000) -> list[Delivery]:
    """Run pending deliveries in the order of their events, and return those that ran::

        order.save()
        [delivery] = run_deliveries()

    A delivery that is not due yet runs too, and so do deliveries that receivers cause. It needs the database. In a
    ``TestCase``, deliveries of the open transaction run as well.

    Args:
        *receivers: Dotted names of durable receivers; deliveries of all receivers by default.
        using: Alias of the database; by default every database that the test has used.
        limit: Maximum number of deliveries.

    Raises:
        RuntimeError: ``limit`` is exceeded, because receivers cause each other's deliveries, or a delivery waits for a
            dead letter. An exception of a receiver is raised too, and its delivery stays pending.
    """
    from signalbox.outbox import run_pending  # models can be imported only when the apps are ready

    return run_pending.run_deliveries(*receivers, using=using, limit=limit)


__all__ = [
    "RecordedEvent",
    "RecordedEvents",
    "Send",
    "assert_not_sent",
    "assert_sent",
    "capture_events",
    "mute_receivers",
    "run_deliveries",
]
