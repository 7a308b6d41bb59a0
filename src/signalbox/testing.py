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
from signalbox.core.event import Draft
from signalbox.instrumentation import install
from signalbox.instrumentation import signals as signal_patches
from signalbox.serialization import diff, signal_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.core.event import Actor, Outcome
    from signalbox.models import Delivery

ANY: Final[Any] = ...
"""Stands for every sender."""


# ------------------------------------------------------------------ what was recorded


class RecordedEvent:
    """One event, as far as it has come: while its transaction is open, its outcome is not known."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    @property
    def signal(self) -> str:
        """The signal's name as it is stored: ``"post_save"``, ``"shop.signals.order_paid"``, ``"bulk_create"``."""
        return self._draft.signal

    @property
    def sender(self) -> str:
        """The sender's label: ``"shop.Order"`` for a model, a dotted name for another class."""
        return self._draft.sender

    @property
    def object_key(self) -> str:
        """The primary key of the object it is about, as text; empty if it is about none."""
        return self._draft.key

    @property
    def object_label(self) -> str:
        """What that object calls itself."""
        return self._draft.label

    @property
    def actor(self) -> Actor | None:
        """Who did it, if that was known."""
        return self._draft.actor

    @property
    def outcome(self) -> Outcome | None:
        """What became of it; ``None`` while that is open, and for a change whose transaction was committed."""
        return self._draft.outcome

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments of the send, as they are stored: bounded, and without secrets."""
        args = self._draft.args
        return json.loads(args) if isinstance(args, str) else args or {}

    @property
    def changes(self) -> Mapping[str, Any]:
        """Fields of the row: ``[old, new]`` for an update, the value for what was created or deleted."""
        change = self._draft.change
        return {} if change is None else diff.describe(change)[1]

    @property
    def receivers(self) -> list[str]:
        """The dotted names of the receivers that ran, in their order."""
        return [run.site.name for run in self._draft.runs or ()]

    @property
    def errors(self) -> list[str]:
        """What receivers raised, as ``Type: message``."""
        return [run.error for run in self._draft.runs or () if run.error is not None]

    def __repr__(self) -> str:
        about = f" {self.object_label or self.object_key}".rstrip()
        return f"<{self.signal} from {self.sender or None}{about}>"


class RecordedEvents(Sequence[RecordedEvent]):
    """The events of a block, in the order in which they began."""

    def __init__(self, drafts: list[Draft]) -> None:
        self._drafts = drafts

    def __len__(self) -> int:
        return len(self._drafts)

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...

    @overload
    def __getitem__(self, index: slice) -> RecordedEvents: ...

    def __getitem__(self, index: int | slice) -> RecordedEvent | RecordedEvents:
        if isinstance(index, slice):
            return RecordedEvents(self._drafts[index])
        return RecordedEvent(self._drafts[index])

    def of(self, signal: Signal | str | None = None, sender: Any = ANY) -> RecordedEvents:
        """Return the events of ``signal`` (itself, or its name) and of ``sender`` (a class, or its label)."""
        names = None if signal is None else {signal} if isinstance(signal, str) else {_name(signal)}
        label = ANY if sender is ANY else sender if isinstance(sender, str) else signal_arguments.sender_label(sender)
        return RecordedEvents(
            [
                draft
                for draft in self._drafts
                if (names is None or draft.signal in names) and (label is ANY or draft.sender == label)
            ]
        )

    @property
    def signals(self) -> list[str]:
        """The names of the signals, one for each event."""
        return [draft.signal for draft in self._drafts]

    def __repr__(self) -> str:
        return f"RecordedEvents({list(self)!r})"


@contextmanager
def record() -> Iterator[RecordedEvents]:
    """Collect the events of the block, those of every thread, as they are recorded::

        with record() as events:
            order.save()
        assert events.of("post_save", Order)[0].changes == {"status": ["open", "paid"]}

    What the setting ``SIGNALBOX`` leaves out is not there. Raises ``RuntimeError`` if nothing is recorded at all.
    """
    if not install.installed():
        raise RuntimeError("Nothing is recorded: signalbox.uninstall() was called. Call signalbox.install() first.")
    drafts: list[Draft] = []
    original: Any = Draft.__init__

    def noted(self: Draft, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        drafts.append(self)

    # Every event begins here, wherever it is written in the end; outside of the block that costs nothing.
    Draft.__init__ = noted  # type: ignore[method-assign]
    try:
        yield RecordedEvents(drafts)
    finally:
        Draft.__init__ = original  # type: ignore[method-assign]


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
    with _watched(signal) as every:
        fitting: list[Send] = []
        yield fitting
    fitting.extend(send for send in every if not _misfits(send, sender, args))
    if len(fitting) == times or (times is None and fitting):
        return
    wanted = "at least once" if times is None else _times(times)
    raise AssertionError(
        f"{_name(signal)}{_described(sender, args)} was expected to be sent {wanted}, "
        f"but was sent {_times(len(fitting))}.{_told(signal, every, sender, args)}"
    )


@contextmanager
def assert_not_sent(signal: Signal, /, *, sender: Any = ANY, **args: Any) -> Iterator[None]:
    """Check that ``signal`` is not sent in the block, from ``sender`` and with ``args`` where they are given.

    Raises as ``assert_sent`` does.
    """
    with _watched(signal) as every:
        yield
    fitting = [send for send in every if not _misfits(send, sender, args)]
    if fitting:
        shown = "".join(f"\n  {_shown_send(send)}" for send in fitting[:MOST_SHOWN])
        raise AssertionError(
            f"{_name(signal)}{_described(sender, args)} was expected not to be sent, "
            f"but was sent {_times(len(fitting))}:{shown}"
        )


@contextmanager
def _watched(signal: Signal) -> Iterator[list[Send]]:
    """Note every send of ``signal``, around whatever else watches it; no receiver is connected."""
    _check(signal)
    every: list[Send] = []

    def noting(inner: Callable[..., Any]) -> Callable[..., Any]:
        def send(sender: Any, **named: Any) -> Any:
            every.append(Send(sender, named))
            return inner(sender, **named)  # of an asynchronous way, what is to be awaited

        return markcoroutinefunction(send) if iscoroutinefunction(inner) else send

    state = vars(signal)
    before = {method: state.get(method) for method in signal_patches.METHODS}
    ours = {method: noting(getattr(signal, method)) for method in signal_patches.METHODS}
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


def _check(signal: object) -> None:
    if not isinstance(signal, Signal):
        raise TypeError(f"{_shown(signal)} is no signal; a django.dispatch.Signal was expected, as post_save.")


def _name(signal: Signal) -> str:
    known = install.watched().get(signal)
    if known is not None:
        return known
    for entry in catalog.BUILTIN.values():
        if entry.path and catalog.signal(entry) is signal:
            return entry.name
    return "The signal"


def _misfits(send: Send, sender: Any, args: Mapping[str, Any]) -> list[str]:
    """Say in what ``send`` differs from what was expected."""
    differences = []
    if not _is_sender(send.sender, sender):
        differences.append(f"sender is {_shown_sender(send.sender)}")
    for name, value in args.items():
        if name not in send.args:
            differences.append(f"no argument {name}")
        elif not _equal(send.args[name], value):
            differences.append(f"{name} is {_shown(send.args[name])}")
    return differences


def _is_sender(sent: Any, expected: Any) -> bool:
    if expected is ANY or sent is expected:
        return True
    return isinstance(expected, str) and (_equal(sent, expected) or signal_arguments.sender_label(sent) == expected)


def _equal(value: Any, expected: Any) -> bool:
    return value is expected or bool(value == expected)


MOST_SHOWN: Final = 10
"""Sends that a message tells."""

_repr = Repr()
_repr.maxother = _repr.maxstring = 80


def _shown(value: Any) -> str:
    return _repr.repr(value)


def _shown_sender(sender: Any) -> str:
    return signal_arguments.sender_label(sender) or "None"


def _times(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{number} times")


def _described(sender: Any, args: Mapping[str, Any]) -> str:
    words = "" if sender is ANY else f" from {sender if isinstance(sender, str) else _shown_sender(sender)}"
    if args:
        words += " with " + ", ".join(f"{name}={_shown(value)}" for name, value in args.items())
    return words


def _shown_send(send: Send) -> str:
    args = ", ".join(f"{name}={_shown(value)}" for name, value in send.args.items())
    return f"from {_shown_sender(send.sender)}" + (f" with {args}" if args else "")


def _told(signal: Signal, every: list[Send], sender: Any, args: Mapping[str, Any]) -> str:
    if not every:
        return f" No {_name(signal)} was sent at all." if _name(signal) != "The signal" else " It was not sent at all."
    lines = []
    for send in every[:MOST_SHOWN]:
        misfits = _misfits(send, sender, args)
        lines.append(f"\n  {_shown_send(send)}" + (f"  [{'; '.join(misfits)}]" if misfits else ""))
    if len(every) > MOST_SHOWN:
        lines.append(f"\n  and {len(every) - MOST_SHOWN} more")
    return "\nIt was sent:" + "".join(lines)


# ------------------------------------------------------------------ receivers that stay quiet


@contextmanager
def quiet(*what: Signal | Callable[..., Any]) -> Iterator[None]:
    """Keep receivers from running in the block: those of a signal, or one receiver of whatever signals::

        with quiet(post_save, send_invoice):
            Order.objects.create()

    Signals are still sent, and recorded; nothing is disconnected, so that everything is as before afterwards, also
    what was connected meanwhile. It holds for every thread, and blocks may stand within each other.
    Raises ``TypeError`` if one of ``what`` is neither a signal nor callable, or if there is none.
    """
    signals = [one for one in what if isinstance(one, Signal)]
    silent = [one for one in what if not isinstance(one, Signal)]
    if not what:
        raise TypeError("quiet() was given nothing; signals or receivers were expected: quiet(post_save).")
    for one in silent:
        if not callable(one):
            raise TypeError(f"quiet() was given {_shown(one)}; a signal or a receiver was expected.")
    original: Any = Signal._live_receivers

    def live(self: Signal, sender: Any) -> Any:
        if any(self is signal for signal in signals):
            return [], []
        found = original(self, sender)
        return tuple([one for one in part if not any(_is(one, hushed) for hushed in silent)] for part in found)

    Signal._live_receivers = live  # type: ignore[method-assign]
    try:
        yield
    finally:
        Signal._live_receivers = original  # type: ignore[method-assign]


def _is(receiver: Any, hushed: Any) -> bool:
    """Tell whether both are the same receiver; a method is made anew each time that it is asked for."""
    if isinstance(receiver, MethodType) and isinstance(hushed, MethodType):
        return receiver.__self__ is hushed.__self__ and receiver.__func__ is hushed.__func__
    return receiver is hushed


__all__ = ["RecordedEvent", "RecordedEvents", "Send", "assert_not_sent", "assert_sent", "quiet", "record"]


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
