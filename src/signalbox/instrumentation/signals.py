"""Records the sends of a signal by replacing ``send`` and its variants on the instance.

No receiver is connected, so ``has_listeners()``, fast deletes and the order of receivers do not change. ``send()``
returns the original receivers. Signals that are not recorded are not changed.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from asgiref.sync import iscoroutinefunction
from django.dispatch import Signal
from django.dispatch.dispatcher import NO_RECEIVERS

from signalbox.core import clock, interrupts, loggers, observers, receivers, tracing
from signalbox.core.counted_errors import collect_raised_errors, raised_errors
from signalbox.core.event import ReceiverCall
from signalbox.core.instance_layer import InstanceLayer
from signalbox.instrumentation import patches, patching
from signalbox.instrumentation.receiver_calls import (
    TimedSignal,
    call_receivers,
    send_through_django,
)
from signalbox.pipeline.delivery_errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalbox.core.event import PendingEvent

logger = loggers.get_logger("recording")

SEND_METHODS: Final = patches.SEND_METHODS


class SignalHandler(Protocol):
    """Builds events from the sends of one signal."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event of a send that starts, None if it is not recorded."""

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Finish the event after the receivers have run. ``error`` is the exception that the send raises, or None."""

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Record a send without receivers."""


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
        event = handler.start(sender, named)
    except DeliveryError:  # the sender must know that a durable receiver will not run
        raise
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A send could not be recorded.")
        return None
    if observers.sends and event is not None:
        event.observed = observers.start(observers.sends, "start_send", event)
    return event


def _finish_event(
    handler: SignalHandler, event: PendingEvent, named: dict[str, Any], start_ns: int, error: BaseException | None
) -> None:
    try:
        event.duration = clock.monotonic_ns() - start_ns
        if event.observed is not None:
            observed, event.observed = event.observed, None
            observers.finish(observed, "finish_send", event, error)
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
        if getattr(type(signal), method) is not original:  # replaced after recording started, as by unittest.mock
            replaced: list[tuple[Any, Any]] = _bind_replacement(signal, handler, method)(sender=sender, **named)
            return replaced
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
        is_outermost = collect_raised_errors()
        start_ns = clock.monotonic_ns()
        failure: BaseException | None = None
        try:
            if async_receivers:
                return send_through_django(original, signal, sender, named, event, sync_receivers, async_receivers)
            return call_receivers(signal, sender, named, event, sync_receivers, robust)
        except BaseException as error:
            failure = error
            raise
        finally:
            if is_outermost:
                raised_errors.set(None)
            _finish_event(handler, event, named, start_ns, failure)
            failure = None  # its traceback refers to this frame: a reference cycle

    send.__name__ = method
    return send


def _build_asend(signal: Signal, handler: SignalHandler, method: str) -> Callable[..., Any]:
    original = getattr(type(signal), method)

    async def send(sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        if getattr(type(signal), method) is not original:
            replaced: list[tuple[Any, Any]] = await _bind_replacement(signal, handler, method)(sender=sender, **named)
            return replaced
        if not signal.receivers or signal.sender_receivers_cache.get(sender) is NO_RECEIVERS:
            _handle_no_receivers(handler, sender, named)
            return []
        event = _start_event(handler, sender, named)
        if event is None:
            responses: list[tuple[Any, Any]] = await original(signal, sender, **named)
            return responses
        is_outermost = collect_raised_errors()
        start_ns = clock.monotonic_ns()
        failure: BaseException | None = None
        try:
            timed = TimedSignal(signal, event, *signal._live_receivers(sender))
            return timed.restore_receivers(await original(timed, sender, **named))
        except BaseException as error:
            failure = error
            raise
        finally:
            if is_outermost:
                raised_errors.set(None)
            _finish_event(handler, event, named, start_ns, failure)
            failure = None  # its traceback refers to this frame: a reference cycle

    send.__name__ = method
    return send


# ------------------------------------------------------------------ subclasses that override ``send``


def _bind_replacement(signal: Signal, handler: SignalHandler, method: str) -> Callable[..., Any]:
    """Return a recorded form of the method that the class of ``signal`` has now."""
    found = getattr(type(signal), method)
    bound = found.__get__(signal, type(signal)) if hasattr(found, "__get__") else found
    return _build_overridden_send(signal, handler, method, bound)


_outer_send: ContextVar[tuple[Signal, PendingEvent] | None] = ContextVar("signalbox_outer_send", default=None)
"""The signal of a subclass whose ``send`` is running, and its event."""


def _build_overridden_send(
    signal: Signal, handler: SignalHandler, method: str, original: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a replacement of ``original``: the ``send`` of a subclass, or of another library on the signal.

    ``original`` is called in any case, with all of its arguments. Receivers are recorded without their times if it
    does not call them through another method of the signal.
    """
    signature = inspect.signature(original)

    def begin(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[PendingEvent | None, dict[str, Any]]:
        try:
            arguments = dict(signature.bind(*args, **named).arguments)
        except TypeError:  # ``original`` raises its own error
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
    """The block in which the ``send`` of a subclass runs."""

    def __init__(self, signal: Signal, handler: SignalHandler, event: PendingEvent, named: dict[str, Any]) -> None:
        self._signal, self._handler, self._event, self._named = signal, handler, event, named

    def __enter__(self) -> None:
        self._is_outermost = collect_raised_errors()
        self._tokens = (
            _outer_send.set((self._signal, self._event)),
            tracing.running_receiver.set((self._event.span, None)),
        )
        self._start_ns = clock.monotonic_ns()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        outer, running = self._tokens
        _outer_send.reset(outer)
        tracing.running_receiver.reset(running)
        if self._is_outermost:
            raised_errors.set(None)
        _finish_event(self._handler, self._event, self._named, self._start_ns, error)


def _build_delegated_send(signal: Signal, fallback: Callable[..., Any], method: str) -> Callable[..., Any]:
    """Return a replacement of ``method`` that belongs to the same send if the ``send`` of a subclass calls it.

    Called by other code, it does the same as ``fallback``.
    """
    original = getattr(Signal, method)
    robust = method == "send_robust"

    def send(sender: Any, **named: Any) -> Any:
        outer = _outer_send.get()
        if outer is None or outer[0] is not signal:
            return fallback(sender, **named)
        token = _outer_send.set(None)  # sends by receivers are separate sends
        try:
            sync_receivers, async_receivers = signal._live_receivers(sender)
            if async_receivers:
                return send_through_django(original, signal, sender, named, outer[1], sync_receivers, async_receivers)
            return call_receivers(signal, sender, named, outer[1], sync_receivers, robust)
        finally:
            _outer_send.reset(token)

    async def asend(sender: Any, **named: Any) -> Any:
        outer = _outer_send.get()
        if outer is None or outer[0] is not signal:
            return await fallback(sender, **named)
        token = _outer_send.set(None)
        try:
            timed = TimedSignal(signal, outer[1], *signal._live_receivers(sender))
            return timed.restore_receivers(await original(timed, sender, **named))
        finally:
            _outer_send.reset(token)

    replacement: Callable[..., Any] = asend if iscoroutinefunction(original) else send
    replacement.__name__ = method
    return replacement
