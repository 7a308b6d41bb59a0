"""Calls the receivers of a recorded send, measures their times, and records the exceptions that they raise."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

from signalbox.core import clock, observers, receivers, tracing
from signalbox.core.counted_errors import counts_errors, has_ended_trace, has_raised_before
from signalbox.core.event import ReceiverCall
from signalbox.core.raised_error import is_cancellation
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.error_description import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from django.dispatch import Signal

    from signalbox.core.event import PendingEvent, RunningReceiver


@counts_errors
def call_receivers(
    signal: Signal, sender: Any, named: dict[str, Any], event: PendingEvent, sync_receivers: list[Any], robust: bool
) -> list[tuple[Any, Any]]:
    """Call the receivers in the order of ``Signal.send``, measure their times, and return what it returns."""
    responses: list[tuple[Any, Any]] = []
    receiver_calls = event.receiver_calls = []
    span = event.span
    event_ns = _get_event_monotonic_ns(event)
    token = tracing.running_receiver.set((span, 0))
    try:
        for receiver in sync_receivers:
            if receiver_calls:
                # Another object for each receiver: a thread that the previous one started keeps its own.
                tracing.running_receiver.set((span, len(receiver_calls)))
            start_ns = clock.monotonic_ns()
            try:
                if observers.receivers:
                    with _Observed(event, receiver):
                        response = receiver(signal=signal, sender=sender, **named)
                else:
                    response = receiver(signal=signal, sender=sender, **named)
            except BaseException as error:
                receiver_calls.append(_build_failed_call(event, receiver, start_ns, event_ns, error))
                if not robust or not isinstance(error, Exception):
                    raise
                signal._log_robust_failure(receiver, error)  # type: ignore[attr-defined]
                responses.append((receiver, error))
            else:
                duration_ns = clock.monotonic_ns() - start_ns
                location = receivers.get_code_location(receiver)
                receiver_calls.append(ReceiverCall(location, duration_ns, None, False, start_ns - event_ns))
                responses.append((receiver, response))
    finally:
        tracing.running_receiver.reset(token)
    return responses


class _Observed:
    """A block in which one receiver runs, reported to the observers."""

    def __init__(self, event: PendingEvent, receiver: Any) -> None:
        self._event, self._receiver = event, receiver

    def __enter__(self) -> Self:
        self._started = observers.start(observers.receivers, "start_receiver", self._event, self._receiver)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        observers.finish(self._started, "finish_receiver", error)

    def resume(self) -> None:
        observers.finish(self._started, "resume_receiver")

    def pause(self) -> None:
        observers.finish(self._started, "pause_receiver")


class _Steps:
    """Awaits a receiver, and marks it as the running one in each step: from one wait to the next.

    Django 6.1 runs the receivers of a send concurrently in one context.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], running: RunningReceiver, observed: _Observed) -> None:
        self._coroutine, self._running, self._observed = coroutine, running, observed

    def __await__(self) -> Generator[Any, Any, Any]:
        run: Callable[[], Any] | None = partial(self._coroutine.send, None)
        while run is not None:
            before = tracing.running_receiver.get()
            tracing.running_receiver.set(self._running)
            try:
                waits_for = run()
            except StopIteration as end:
                return end.value
            finally:
                run = None  # it may refer to an exception, whose traceback refers to this frame
                tracing.running_receiver.set(before)
            self._observed.pause()
            try:
                run = partial(self._coroutine.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001 - the receiver gets it
                run = partial(self._coroutine.throw, error)
            self._observed.resume()


def _get_event_monotonic_ns(event: PendingEvent) -> int:
    """Return the monotonic time of ``event``. Its send may begin later: that of ``post_save`` follows the COMMIT."""
    return event.time - clock.now() + clock.monotonic_ns()


def _build_failed_call(
    event: PendingEvent, receiver: Any, start_ns: int, event_ns: int, error: BaseException, index: int | None = None
) -> ReceiverCall:
    """Return the call that raised ``error``, and count that with ``event`` unless nested work has counted it."""
    spent = clock.monotonic_ns() - start_ns
    location, redactor = receivers.get_code_location(receiver), get_redactor()
    text = encoder.format_exception(error, redactor=redactor)
    is_passed_through = is_cancellation(error) or has_raised_before(error) or has_ended_trace(error, event_ns)
    if not is_passed_through:
        event.add_error(describe_error(error, redactor=redactor, receiver=location.name, text=text))
    return ReceiverCall(location, spent, text, is_passed_through, start_ns - event_ns, index)


class TimedSignal:
    """Replaces a signal as ``self`` of Django's ``send``, whose asynchronous part differs by version."""

    def __init__(
        self, signal: Signal, event: PendingEvent, sync_receivers: list[Any], async_receivers: list[Any]
    ) -> None:
        self.receivers = True
        self.sender_receivers_cache: dict[Any, Any] = {}
        self._signal = signal
        self._receiver_calls = event.receiver_calls = []
        self._event = event
        self._event_ns = _get_event_monotonic_ns(event)
        self._timed_receivers = (
            [self._time_receiver(r, index) for index, r in enumerate(sync_receivers)],
            [self._time_async_receiver(r, index) for index, r in enumerate(async_receivers, len(sync_receivers))],
        )
        self._originals = {
            id(timed): receiver
            for timed, receiver in zip(
                (*self._timed_receivers[0], *self._timed_receivers[1]), (*sync_receivers, *async_receivers), strict=True
            )
        }

    def _live_receivers(self, sender: Any) -> tuple[list[Any], list[Any]]:
        return self._timed_receivers

    def _log_robust_failure(self, timed: Any, error: Exception) -> None:
        self._signal._log_robust_failure(self._originals[id(timed)], error)  # type: ignore[attr-defined]

    def _add_failed_call(self, receiver: Any, start_ns: int, error: BaseException, index: int) -> None:
        self._receiver_calls.append(_build_failed_call(self._event, receiver, start_ns, self._event_ns, error, index))

    def _time_receiver(self, receiver: Any, index: int) -> Callable[..., Any]:
        @counts_errors
        def timed(**named: Any) -> Any:
            start_ns = clock.monotonic_ns()
            token = tracing.running_receiver.set((self._event.span, index))
            try:
                with _Observed(self._event, receiver):
                    response = receiver(**{**named, "signal": self._signal})
            except BaseException as error:
                self._add_failed_call(receiver, start_ns, error, index)
                raise
            finally:
                tracing.running_receiver.reset(token)
            self._add_call(receiver, start_ns, index)
            return response

        return timed

    def _time_async_receiver(self, receiver: Any, index: int) -> Callable[..., Any]:
        @counts_errors
        async def timed(**named: Any) -> Any:
            async def call() -> Any:
                return await receiver(**{**named, "signal": self._signal})

            start_ns = clock.monotonic_ns()
            try:
                with _Observed(self._event, receiver) as observed:
                    response = await _Steps(call(), (self._event.span, index), observed)
            except BaseException as error:
                self._add_failed_call(receiver, start_ns, error, index)
                raise
            self._add_call(receiver, start_ns, index)
            return response

        return timed

    def _add_call(self, receiver: Any, start_ns: int, index: int) -> None:
        duration_ns = clock.monotonic_ns() - start_ns
        location = receivers.get_code_location(receiver)
        self._receiver_calls.append(ReceiverCall(location, duration_ns, None, False, start_ns - self._event_ns, index))

    def restore_receivers(self, responses: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Return the responses with the original receivers in place of the timed ones."""
        return [(self._originals[id(timed)], response) for timed, response in responses]


def send_through_django(
    original: Any,
    signal: Signal,
    sender: Any,
    named: dict[str, Any],
    event: PendingEvent,
    sync_receivers: list[Any],
    async_receivers: list[Any],
) -> list[tuple[Any, Any]]:
    """Call ``original``, a method of ``Signal``, with receivers whose times are measured."""
    timed = TimedSignal(signal, event, sync_receivers, async_receivers)
    return timed.restore_receivers(original(timed, sender, **named))
