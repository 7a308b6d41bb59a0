"""Watching sends: a signal's own ``send`` is replaced on the instance, and disturbs none.

No receiver is connected, so ``has_listeners()``, fast deletes and the order of receivers stay as they are; the answer
of ``send()`` names the original receivers; a signal that is not watched costs nothing.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.dispatch import Signal
from django.dispatch.dispatcher import NO_RECEIVERS

from signalbox import context, encoding, receivers
from signalbox.delivery import registry
from signalbox.event import ReceiverRun
from signalbox.recording import plans

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalbox.event import Draft

logger = logging.getLogger("signalbox")

Answers: TypeAlias = list[tuple[Any, Any]]

METHODS: Final = ("send", "send_robust", "asend", "asend_robust")


class Capture(Protocol):
    """How one signal's sends become events."""

    def start(self, sender: Any, named: dict[str, Any]) -> Draft | None:
        """Return the event of a send that begins, ``None`` if it is not recorded."""

    def finish(self, draft: Draft, named: dict[str, Any], error: BaseException | None) -> None:
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
    kind = type(signal)
    return {
        "send": _sync(signal, capture, "send", plain=kind.send is Signal.send),
        "send_robust": _sync(signal, capture, "send_robust", plain=kind.send_robust is Signal.send_robust),
        "asend": _async(signal, capture, "asend", plain=kind.asend is Signal.asend),
        "asend_robust": _async(signal, capture, "asend_robust", plain=kind.asend_robust is Signal.asend_robust),
    }


def _started(capture: Capture, sender: Any, named: dict[str, Any]) -> Draft | None:
    try:
        return capture.start(sender, named)
    except registry.REFUSALS:  # what a durable receiver would lose, its sender must hear of
        raise
    except Exception:
        logger.exception("A send could not be recorded.")
        return None


def _finished(capture: Capture, draft: Draft, named: dict[str, Any], began: int, error: BaseException | None) -> None:
    try:
        draft.duration = perf_counter_ns() - began
        if draft.runs is not None:
            draft.errors = sum(run.error is not None for run in draft.runs)
            draft.trace.errors += draft.errors
        capture.finish(draft, named, error)
    except registry.REFUSALS:
        raise
    except Exception:
        logger.exception("A send could not be recorded.")


def _unheard(capture: Capture, sender: Any, named: dict[str, Any]) -> None:
    try:
        capture.unheard(sender, named)
    except registry.REFUSALS:
        raise
    except Exception:
        logger.exception("A send could not be recorded.")


def _sync(signal: Signal, capture: Capture, method: str, *, plain: bool) -> Callable[..., Any]:
    original = getattr(type(signal), method)
    robust = method == "send_robust"

    def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS:
            _unheard(capture, sender, named)
            return []
        listening, listening_async = signal._live_receivers(sender)
        if not listening and not listening_async and plain:
            _unheard(capture, sender, named)
            return []
        draft = _started(capture, sender, named)
        if draft is None:
            answers: list[tuple[Any, Any]] = original(signal, sender, **named)
            return answers
        began = perf_counter_ns()
        failure: BaseException | None = None
        try:
            if not plain:
                return cast("Answers", _whole(original, signal, sender, named, draft))
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
    signal: Signal, sender: Any, named: dict[str, Any], draft: Draft, listening: list[Any], robust: bool
) -> list[tuple[Any, Any]]:
    """Do what ``Signal.send`` does, in its order and with its answers, and take the times."""
    answers: list[tuple[Any, Any]] = []
    runs = draft.runs = []
    token = context.running.set(draft.span)
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
                runs.append(ReceiverRun(receivers.site(receiver), perf_counter_ns() - began, None))
                answers.append((receiver, response))
    finally:
        context.running.reset(token)
    return answers


def _note(runs: list[ReceiverRun], receiver: Any, began: int, error: BaseException) -> None:
    spent = perf_counter_ns() - began
    runs.append(ReceiverRun(receivers.site(receiver), spent, encoding.exception_text(error, redactor=plans.redactor())))


def _whole(original: Any, signal: Signal, sender: Any, named: dict[str, Any], draft: Draft) -> Any:
    """Let a signal class with a ``send`` of its own run as it is: its receivers are told, without their times."""
    draft.runs = [
        ReceiverRun(receivers.site(entry.receiver), None, None)
        for entry in receivers.connected(signal)
        if entry.receiver is not None
    ]
    token = context.running.set(draft.span)
    try:
        return original(signal, sender, **named)
    finally:
        context.running.reset(token)


class _Timed:
    """Stands in for a signal within Django's own dispatch, whose asynchronous part differs by version."""

    def __init__(self, signal: Signal, draft: Draft, sync_receivers: list[Any], async_receivers: list[Any]) -> None:
        self.receivers = True
        self.sender_receivers_cache: dict[Any, Any] = {}
        self._signal = signal
        self._runs = draft.runs = []
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
            token = context.running.set(self._span)
            try:
                response = receiver(**{**named, "signal": self._signal})
            except BaseException as error:
                _note(self._runs, receiver, began, error)
                raise
            finally:
                context.running.reset(token)
            self._runs.append(ReceiverRun(receivers.site(receiver), perf_counter_ns() - began, None))
            return response

        return timed

    def _timed_async(self, receiver: Any) -> Callable[..., Any]:
        async def timed(**named: Any) -> Any:
            began = perf_counter_ns()
            before = context.running.get()
            context.running.set(self._span)
            try:
                response = await receiver(**{**named, "signal": self._signal})
            except BaseException as error:
                _note(self._runs, receiver, began, error)
                raise
            finally:
                # Not by token: Django 6.1 runs receivers concurrently in one context, and they end in any order.
                context.running.set(before)
            self._runs.append(ReceiverRun(receivers.site(receiver), perf_counter_ns() - began, None))
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
    draft: Draft,
    sync_receivers: list[Any],
    async_receivers: list[Any],
) -> list[tuple[Any, Any]]:
    timed = _Timed(signal, draft, sync_receivers, async_receivers)
    return timed.answers(original(timed, sender, **named))


def _async(signal: Signal, capture: Capture, method: str, *, plain: bool) -> Callable[..., Any]:
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
            if not plain:
                return cast("Answers", await _whole(original, signal, sender, named, draft))
            timed = _Timed(signal, draft, *signal._live_receivers(sender))
            return timed.answers(await original(timed, sender, **named))
        except BaseException as error:
            failure = error
            raise
        finally:
            _finished(capture, draft, named, began, failure)

    send.__name__ = method
    return send
