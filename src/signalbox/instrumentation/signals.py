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

from asgiref.sync import iscoroutinefunction
from django.dispatch import Signal
from django.dispatch.dispatcher import NO_RECEIVERS

from signalbox.core import interrupts, receivers, tracing
from signalbox.core.event import ReceiverCall
from signalbox.core.instance_layer import InstanceLayer
from signalbox.instrumentation import patching
from signalbox.pipeline.deliveries import DeliveryError
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalbox.core.event import PendingEvent

logger = logging.getLogger("signalbox")

SEND_METHODS: Final = patching.SEND_METHODS


class SignalHandler(Protocol):
    """How one signal's sends become events."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event of a send that begins, ``None`` if it is not recorded."""

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """The receivers have run; ``error`` is what left the send."""

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """It was sent, and nobody listens."""


_layers: dict[Signal, InstanceLayer] = {}


def record_sends(signal: Signal, handler: SignalHandler) -> None:
    """Record every send of ``signal``."""
    layer = _layers.setdefault(signal, InstanceLayer(signal))
    for name, method in _build_methods(signal, handler, layer).items():
        if _is_applicable(name):
            layer.replace(name, method)


def wrap_sends(signal: Signal, wrapper: Callable[[Any], Any]) -> None:
    """Apply ``wrapper`` to each send method of ``signal``, recorded or not."""
    layer = _layers.setdefault(signal, InstanceLayer(signal))
    for name in SEND_METHODS:
        if _is_applicable(name):
            layer.replace(name, wrapper(layer.get_current(name)))


def _is_applicable(name: str) -> bool:
    return patching.is_applicable(patching.get_patch(Signal, name), getattr(Signal, name, None))


def restore_sends(signal: Signal) -> None:
    """Restore the methods of ``signal``."""
    layer = _layers.get(signal)
    if layer is not None and layer.remove():
        del _layers[signal]


def _build_methods(signal: Signal, handler: SignalHandler, layer: InstanceLayer) -> dict[str, Any]:
    methods: dict[str, Any] = {
        "send": _build_send(signal, handler, "send"),
        "send_robust": _build_send(signal, handler, "send_robust"),
        "asend": _build_asend(signal, handler, "asend"),
        "asend_robust": _build_asend(signal, handler, "asend_robust"),
    }
    signal_class = type(signal)
    overridden = {
        name
        for name in methods
        if getattr(signal_class, name) is not getattr(Signal, name) or layer.is_replaced_by_others(name)
    }
    if not overridden:
        return methods
    return {
        name: _build_overridden_send(signal, handler, name, layer.get_original(name))
        if name in overridden
        else _build_delegated_send(signal, way, name)
        for name, way in methods.items()
    }


def _start_event(handler: SignalHandler, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
    try:
        return handler.start(sender, named)
    except DeliveryError:  # what a durable receiver would lose, its sender must hear of
        raise
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A send could not be recorded.")
        return None


def _finish_event(
    handler: SignalHandler, event: PendingEvent, named: dict[str, Any], start_ns: int, error: BaseException | None
) -> None:
    try:
        event.duration = perf_counter_ns() - start_ns
        if event.receiver_calls is not None:
            event.errors = sum(run.error is not None for run in event.receiver_calls)
            event.trace.errors += event.errors
        handler.finish(event, named, error)
    except DeliveryError:
        raise
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A send could not be recorded.")


def _handle_no_receivers(handler: SignalHandler, sender: Any, named: dict[str, Any]) -> None:
    try:
        handler.handle_no_receivers(sender, named)
    except DeliveryError:
        raise
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A send could not be recorded.")


def _build_send(signal: Signal, handler: SignalHandler, method: str) -> Callable[..., Any]:
    original = getattr(type(signal), method)
    robust = method == "send_robust"

    def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS:
            _handle_no_receivers(handler, sender, named)
            return []
        sync_receivers, async_receivers = signal._live_receivers(sender)
        if not sync_receivers and not async_receivers:
            _handle_no_receivers(handler, sender, named)
            return []
        event = _start_event(handler, sender, named)
        if event is None:
            responses: list[tuple[Any, Any]] = original(signal, sender, **named)
            return responses
        start_ns = perf_counter_ns()
        failure: BaseException | None = None
        try:
            if async_receivers:
                return _send_through_django(original, signal, sender, named, event, sync_receivers, async_receivers)
            return _call_receivers(signal, sender, named, event, sync_receivers, robust)
        except BaseException as error:
            failure = error
            raise
        finally:
            _finish_event(handler, event, named, start_ns, failure)

    send.__name__ = method
    return send


def _call_receivers(
    signal: Signal, sender: Any, named: dict[str, Any], event: PendingEvent, sync_receivers: list[Any], robust: bool
) -> list[tuple[Any, Any]]:
    """Do what ``Signal.send`` does, in its order and with its answers, and take the times."""
    responses: list[tuple[Any, Any]] = []
    receiver_calls = event.receiver_calls = []
    token = tracing.running_span.set(event.span)
    try:
        for receiver in sync_receivers:
            start_ns = perf_counter_ns()
            try:
                response = receiver(signal=signal, sender=sender, **named)
            except BaseException as error:
                _record_receiver_error(receiver_calls, receiver, start_ns, error)
                if not robust or not isinstance(error, Exception):
                    raise
                signal._log_robust_failure(receiver, error)  # type: ignore[attr-defined]
                responses.append((receiver, error))
            else:
                receiver_calls.append(
                    ReceiverCall(receivers.get_code_location(receiver), perf_counter_ns() - start_ns, None)
                )
                responses.append((receiver, response))
    finally:
        tracing.running_span.reset(token)
    return responses


def _record_receiver_error(
    receiver_calls: list[ReceiverCall], receiver: Any, start_ns: int, error: BaseException
) -> None:
    spent = perf_counter_ns() - start_ns
    receiver_calls.append(
        ReceiverCall(
            receivers.get_code_location(receiver),
            spent,
            encoder.format_exception(error, redactor=get_redactor()),
        )
    )


class _TimedSignal:
    """Stands in for a signal within Django's own dispatch, whose asynchronous part differs by version."""

    def __init__(
        self, signal: Signal, event: PendingEvent, sync_receivers: list[Any], async_receivers: list[Any]
    ) -> None:
        self.receivers = True
        self.sender_receivers_cache: dict[Any, Any] = {}
        self._signal = signal
        self._receiver_calls = event.receiver_calls = []
        self._span = event.span
        self._timed_receivers = (
            [self._time_receiver(r) for r in sync_receivers],
            [self._time_async_receiver(r) for r in async_receivers],
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

    def _time_receiver(self, receiver: Any) -> Callable[..., Any]:
        def timed(**named: Any) -> Any:
            start_ns = perf_counter_ns()
            token = tracing.running_span.set(self._span)
            try:
                response = receiver(**{**named, "signal": self._signal})
            except BaseException as error:
                _record_receiver_error(self._receiver_calls, receiver, start_ns, error)
                raise
            finally:
                tracing.running_span.reset(token)
            self._receiver_calls.append(
                ReceiverCall(receivers.get_code_location(receiver), perf_counter_ns() - start_ns, None)
            )
            return response

        return timed

    def _time_async_receiver(self, receiver: Any) -> Callable[..., Any]:
        async def timed(**named: Any) -> Any:
            start_ns = perf_counter_ns()
            previous_span = tracing.running_span.get()
            tracing.running_span.set(self._span)
            try:
                response = await receiver(**{**named, "signal": self._signal})
            except BaseException as error:
                _record_receiver_error(self._receiver_calls, receiver, start_ns, error)
                raise
            finally:
                # Not by token: Django 6.1 runs receivers concurrently in one context, and they end in any order.
                tracing.running_span.set(previous_span)
            self._receiver_calls.append(
                ReceiverCall(receivers.get_code_location(receiver), perf_counter_ns() - start_ns, None)
            )
            return response

        return timed

    def restore_receivers(self, responses: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Return what ``send()`` answers, with the original receivers."""
        return [(self._originals[id(timed)], response) for timed, response in responses]


def _send_through_django(
    original: Any,
    signal: Signal,
    sender: Any,
    named: dict[str, Any],
    event: PendingEvent,
    sync_receivers: list[Any],
    async_receivers: list[Any],
) -> list[tuple[Any, Any]]:
    timed = _TimedSignal(signal, event, sync_receivers, async_receivers)
    return timed.restore_receivers(original(timed, sender, **named))


def _build_asend(signal: Signal, handler: SignalHandler, method: str) -> Callable[..., Any]:
    original = getattr(type(signal), method)

    async def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS:
            _handle_no_receivers(handler, sender, named)
            return []
        event = _start_event(handler, sender, named)
        if event is None:
            responses: list[tuple[Any, Any]] = await original(signal, sender, **named)
            return responses
        start_ns = perf_counter_ns()
        failure: BaseException | None = None
        try:
            timed = _TimedSignal(signal, event, *signal._live_receivers(sender))
            return timed.restore_receivers(await original(timed, sender, **named))
        except BaseException as error:
            failure = error
            raise
        finally:
            _finish_event(handler, event, named, start_ns, failure)

    send.__name__ = method
    return send


# ------------------------------------------------------------------ signal classes with a ``send`` of their own

_outer_send: ContextVar[tuple[Signal, PendingEvent] | None] = ContextVar("signalbox_outer_send", default=None)
"""The signal whose class's own ``send`` is running, and its event."""


def _build_overridden_send(
    signal: Signal, handler: SignalHandler, method: str, original: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a replacement of a class's own ``send``, or of one that another library has put on the signal.

    It runs as it is, with or without receivers, with whatever it takes. Receivers that it does not call by another of
    the signal's methods are recorded without their times.
    """
    signature = inspect.signature(original)

    def begin(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[PendingEvent | None, dict[str, Any]]:
        try:
            arguments = dict(signature.bind(*args, **named).arguments)
        except TypeError:  # it is the class's own to say what is wrong
            return None, {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        sender = arguments.pop("sender", None)
        event = _start_event(handler, sender, arguments)
        if event is not None:
            event.receiver_calls = [
                ReceiverCall(receivers.get_code_location(entry.receiver), None, None)
                for entry in receivers.get_connected_receivers(signal)
                if entry.receiver is not None
            ]
        return event, arguments

    def send(*args: Any, **named: Any) -> Any:
        event, arguments = begin(args, named)
        if event is None:
            return original(*args, **named)
        with _OuterSend(signal, handler, event, arguments):
            return original(*args, **named)

    async def asend(*args: Any, **named: Any) -> Any:
        event, arguments = begin(args, named)
        if event is None:
            return await original(*args, **named)
        with _OuterSend(signal, handler, event, arguments):
            return await original(*args, **named)

    replacement: Callable[..., Any] = asend if iscoroutinefunction(original) else send
    replacement.__name__ = method
    return replacement


class _OuterSend:
    """The block in which a class's own ``send`` runs."""

    def __init__(self, signal: Signal, handler: SignalHandler, event: PendingEvent, named: dict[str, Any]) -> None:
        self._signal, self._handler, self._event, self._named = signal, handler, event, named

    def __enter__(self) -> None:
        self._tokens = _outer_send.set((self._signal, self._event)), tracing.running_span.set(self._event.span)
        self._start_ns = perf_counter_ns()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        outer, running = self._tokens
        _outer_send.reset(outer)
        tracing.running_span.reset(running)
        _finish_event(self._handler, self._event, self._named, self._start_ns, error)


def _build_delegated_send(signal: Signal, fallback: Callable[..., Any], method: str) -> Callable[..., Any]:
    """Let what a class's own ``send`` leaves to another method be one send with it; else it is one by itself."""
    original = getattr(Signal, method)
    robust = method == "send_robust"

    def send(sender: Any, **named: Any) -> Any:
        outer = _outer_send.get()
        if outer is None or outer[0] is not signal:
            return fallback(sender, **named)
        token = _outer_send.set(None)  # what receivers send is a send of its own
        try:
            sync_receivers, async_receivers = signal._live_receivers(sender)
            if async_receivers:
                return _send_through_django(original, signal, sender, named, outer[1], sync_receivers, async_receivers)
            return _call_receivers(signal, sender, named, outer[1], sync_receivers, robust)
        finally:
            _outer_send.reset(token)

    async def asend(sender: Any, **named: Any) -> Any:
        outer = _outer_send.get()
        if outer is None or outer[0] is not signal:
            return await fallback(sender, **named)
        token = _outer_send.set(None)
        try:
            timed = _TimedSignal(signal, outer[1], *signal._live_receivers(sender))
            return timed.restore_receivers(await original(timed, sender, **named))
        finally:
            _outer_send.reset(token)

    replacement: Callable[..., Any] = asend if iscoroutinefunction(original) else send
    replacement.__name__ = method
    return replacement
