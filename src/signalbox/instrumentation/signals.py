"""Watching sends: a signal's own ``send`` is replaced on the instance, and disturbs none.

No receiver is connected, so ``has_listeners()``, fast deletes and the order of receivers stay as they are; the answer
of ``send()`` names the original receivers; a signal that is not watched costs nothing.
"""

from __future__ import annotations

import inspect
import logging
from contextvars import ContextVar
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.dispatch import Signal
from django.dispatch.dispatcher import NO_RECEIVERS

from signalbox.core import receivers, tracing
from signalbox.core.event import ReceiverCall
from signalbox.instrumentation import model_metadata
from signalbox.outbox import registry
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalbox.core.event import PendingEvent

logger = logging.getLogger("signalbox")

METHODS: Final = ("send", "send_robust", "asend", "asend_robust")


class Capture(Protocol):
    """How one signal's sends become events."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event of a send that begins, ``None`` if it is not recorded."""

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """The receivers have run; ``error`` is what left the send."""

    def unheard(self, sender: Any, named: dict[str, Any]) -> None:
        """It was sent, and nobody listens."""


def watch(signal: Signal, capture: Capture) -> None:
    """Record every send of ``signal``."""
    signal.__dict__.update(_methods(signal, capture))


def bound(signal: Signal, hook: Callable[[Any], Any]) -> None:
    """Let ``hook`` stand around every way of sending ``signal``, recorded or not."""
    for method in METHODS:
        inner = getattr(signal, method)
        outer = hook(inner)
        signal.__dict__[method] = markcoroutinefunction(outer) if iscoroutinefunction(inner) else outer


def unwatch(signal: Signal) -> None:
    """Leave ``signal`` as Django made it."""
    for name in METHODS:
        signal.__dict__.pop(name, None)


def _methods(signal: Signal, capture: Capture) -> dict[str, Any]:
    ways: dict[str, Any] = {
        "send": _sync(signal, capture, "send"),
        "send_robust": _sync(signal, capture, "send_robust"),
        "asend": _async(signal, capture, "asend"),
        "asend_robust": _async(signal, capture, "asend_robust"),
    }
    kind = type(signal)
    overridden = {name for name in ways if getattr(kind, name) is not getattr(Signal, name)}
    if not overridden:
        return ways
    return {
        name: _overriding(signal, capture, name) if name in overridden else _delegated(signal, way, name)
        for name, way in ways.items()
    }


def _started(capture: Capture, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
    try:
        return capture.start(sender, named)
    except registry.USER_ERRORS:  # what a durable receiver would lose, its sender must hear of
        raise
    except Exception:
        logger.exception("A send could not be recorded.")
        return None


def _finished(
    capture: Capture, draft: PendingEvent, named: dict[str, Any], began: int, error: BaseException | None
) -> None:
    try:
        draft.duration = perf_counter_ns() - began
        if draft.receiver_calls is not None:
            draft.errors = sum(run.error is not None for run in draft.receiver_calls)
            draft.trace.errors += draft.errors
        capture.finish(draft, named, error)
    except registry.USER_ERRORS:
        raise
    except Exception:
        logger.exception("A send could not be recorded.")


def _unheard(capture: Capture, sender: Any, named: dict[str, Any]) -> None:
    try:
        capture.unheard(sender, named)
    except registry.USER_ERRORS:
        raise
    except Exception:
        logger.exception("A send could not be recorded.")


def _sync(signal: Signal, capture: Capture, method: str) -> Callable[..., Any]:
    original = getattr(type(signal), method)
    robust = method == "send_robust"

    def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS:
            _unheard(capture, sender, named)
            return []
        listening, listening_async = signal._live_receivers(sender)
        if not listening and not listening_async:
            _unheard(capture, sender, named)
            return []
        draft = _started(capture, sender, named)
        if draft is None:
            answers: list[tuple[Any, Any]] = original(signal, sender, **named)
            return answers
        began = perf_counter_ns()
        failure: BaseException | None = None
        try:
            if listening_async:
                return _through_django(original, signal, sender, named, draft, listening, listening_async)
            return _run(signal, sender, named, draft, listening, robust)
        except BaseException as error:
            failure = error
            raise
        finally:
            _finished(capture, draft, named, began, failure)

    send.__name__ = method
    return send


def _run(
    signal: Signal, sender: Any, named: dict[str, Any], draft: PendingEvent, listening: list[Any], robust: bool
) -> list[tuple[Any, Any]]:
    """Do what ``Signal.send`` does, in its order and with its answers, and take the times."""
    answers: list[tuple[Any, Any]] = []
    runs = draft.receiver_calls = []
    token = tracing.running_span.set(draft.span)
    try:
        for receiver in listening:
            began = perf_counter_ns()
            try:
                response = receiver(signal=signal, sender=sender, **named)
            except BaseException as error:
                _note(runs, receiver, began, error)
                if not robust or not isinstance(error, Exception):
                    raise
                signal._log_robust_failure(receiver, error)  # type: ignore[attr-defined]
                answers.append((receiver, error))
            else:
                runs.append(ReceiverCall(receivers.get_code_location(receiver), perf_counter_ns() - began, None))
                answers.append((receiver, response))
    finally:
        tracing.running_span.reset(token)
    return answers


def _note(runs: list[ReceiverCall], receiver: Any, began: int, error: BaseException) -> None:
    spent = perf_counter_ns() - began
    runs.append(
        ReceiverCall(
            receivers.get_code_location(receiver),
            spent,
            encoder.exception_text(error, redactor=model_metadata.redactor()),
        )
    )


class _Timed:
    """Stands in for a signal within Django's own dispatch, whose asynchronous part differs by version."""

    def __init__(
        self, signal: Signal, draft: PendingEvent, sync_receivers: list[Any], async_receivers: list[Any]
    ) -> None:
        self.receivers = True
        self.sender_receivers_cache: dict[Any, Any] = {}
        self._signal = signal
        self._runs = draft.receiver_calls = []
        self._span = draft.span
        self._live = [self._timed(r) for r in sync_receivers], [self._timed_async(r) for r in async_receivers]
        self._originals = {
            id(timed): receiver
            for timed, receiver in zip(
                (*self._live[0], *self._live[1]), (*sync_receivers, *async_receivers), strict=True
            )
        }

    def _live_receivers(self, sender: Any) -> tuple[list[Any], list[Any]]:
        return self._live

    def _log_robust_failure(self, timed: Any, error: Exception) -> None:
        self._signal._log_robust_failure(self._originals[id(timed)], error)  # type: ignore[attr-defined]

    def _timed(self, receiver: Any) -> Callable[..., Any]:
        def timed(**named: Any) -> Any:
            began = perf_counter_ns()
            token = tracing.running_span.set(self._span)
            try:
                response = receiver(**{**named, "signal": self._signal})
            except BaseException as error:
                _note(self._runs, receiver, began, error)
                raise
            finally:
                tracing.running_span.reset(token)
            self._runs.append(ReceiverCall(receivers.get_code_location(receiver), perf_counter_ns() - began, None))
            return response

        return timed

    def _timed_async(self, receiver: Any) -> Callable[..., Any]:
        async def timed(**named: Any) -> Any:
            began = perf_counter_ns()
            before = tracing.running_span.get()
            tracing.running_span.set(self._span)
            try:
                response = await receiver(**{**named, "signal": self._signal})
            except BaseException as error:
                _note(self._runs, receiver, began, error)
                raise
            finally:
                # Not by token: Django 6.1 runs receivers concurrently in one context, and they end in any order.
                tracing.running_span.set(before)
            self._runs.append(ReceiverCall(receivers.get_code_location(receiver), perf_counter_ns() - began, None))
            return response

        return timed

    def answers(self, answers: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Return what ``send()`` answers, with the original receivers."""
        return [(self._originals[id(timed)], response) for timed, response in answers]


def _through_django(
    original: Any,
    signal: Signal,
    sender: Any,
    named: dict[str, Any],
    draft: PendingEvent,
    sync_receivers: list[Any],
    async_receivers: list[Any],
) -> list[tuple[Any, Any]]:
    timed = _Timed(signal, draft, sync_receivers, async_receivers)
    return timed.answers(original(timed, sender, **named))


def _async(signal: Signal, capture: Capture, method: str) -> Callable[..., Any]:
    original = getattr(type(signal), method)

    async def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS:
            _unheard(capture, sender, named)
            return []
        draft = _started(capture, sender, named)
        if draft is None:
            answers: list[tuple[Any, Any]] = await original(signal, sender, **named)
            return answers
        began = perf_counter_ns()
        failure: BaseException | None = None
        try:
            timed = _Timed(signal, draft, *signal._live_receivers(sender))
            return timed.answers(await original(timed, sender, **named))
        except BaseException as error:
            failure = error
            raise
        finally:
            _finished(capture, draft, named, began, failure)

    send.__name__ = method
    return send


# ------------------------------------------------------------------ signal classes with a ``send`` of their own

_whole: ContextVar[tuple[Signal, PendingEvent] | None] = ContextVar("signalbox_whole", default=None)
"""The signal whose class's own ``send`` is running, and its event."""


def _overriding(signal: Signal, capture: Capture, method: str) -> Callable[..., Any]:
    """Let a class's own ``send`` run as it is, heard or not, with whatever it takes. Receivers that it does not run by
    another of the signal's methods are told without their times."""
    original = getattr(type(signal), method)
    signature = inspect.signature(original)

    def begin(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[PendingEvent | None, dict[str, Any]]:
        try:
            told = dict(signature.bind(signal, *args, **named).arguments)
        except TypeError:  # it is the class's own to say what is wrong
            return None, {}
        del told[next(iter(told))]  # the signal itself
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                told |= told.pop(name, {})
        sender = told.pop("sender", None)
        draft = _started(capture, sender, told)
        if draft is not None:
            draft.receiver_calls = [
                ReceiverCall(receivers.get_code_location(entry.receiver), None, None)
                for entry in receivers.get_connected_receivers(signal)
                if entry.receiver is not None
            ]
        return draft, told

    def send(*args: Any, **named: Any) -> Any:
        draft, told = begin(args, named)
        if draft is None:
            return original(signal, *args, **named)
        with _Whole(signal, capture, draft, told):
            return original(signal, *args, **named)

    async def asend(*args: Any, **named: Any) -> Any:
        draft, told = begin(args, named)
        if draft is None:
            return await original(signal, *args, **named)
        with _Whole(signal, capture, draft, told):
            return await original(signal, *args, **named)

    chosen: Callable[..., Any] = asend if iscoroutinefunction(original) else send
    chosen.__name__ = method
    return chosen


class _Whole:
    """The block in which a class's own ``send`` runs."""

    def __init__(self, signal: Signal, capture: Capture, draft: PendingEvent, named: dict[str, Any]) -> None:
        self._signal, self._capture, self._draft, self._named = signal, capture, draft, named

    def __enter__(self) -> None:
        self._tokens = _whole.set((self._signal, self._draft)), tracing.running_span.set(self._draft.span)
        self._began = perf_counter_ns()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        whole, running = self._tokens
        _whole.reset(whole)
        tracing.running_span.reset(running)
        _finished(self._capture, self._draft, self._named, self._began, error)


def _delegated(signal: Signal, way: Callable[..., Any], method: str) -> Callable[..., Any]:
    """Let what a class's own ``send`` leaves to another method be one send with it; else it is one by itself."""
    original = getattr(Signal, method)
    robust = method == "send_robust"

    def send(sender: Any, **named: Any) -> Any:
        whole = _whole.get()
        if whole is None or whole[0] is not signal:
            return way(sender, **named)
        token = _whole.set(None)  # what receivers send is a send of its own
        try:
            listening, listening_async = signal._live_receivers(sender)
            if listening_async:
                return _through_django(original, signal, sender, named, whole[1], listening, listening_async)
            return _run(signal, sender, named, whole[1], listening, robust)
        finally:
            _whole.reset(token)

    async def asend(sender: Any, **named: Any) -> Any:
        whole = _whole.get()
        if whole is None or whole[0] is not signal:
            return await way(sender, **named)
        token = _whole.set(None)
        try:
            timed = _Timed(signal, whole[1], *signal._live_receivers(sender))
            return timed.answers(await original(timed, sender, **named))
        finally:
            _whole.reset(token)

    chosen: Callable[..., Any] = asend if iscoroutinefunction(original) else send
    chosen.__name__ = method
    return chosen
