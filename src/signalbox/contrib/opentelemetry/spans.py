"""The current span of OpenTelemetry, and spans for sends, receivers and deliveries."""

from __future__ import annotations

from contextvars import Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django.core.signals import setting_changed
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import DefaultGetter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import signalbox
from signalbox import conf
from signalbox.core import observers, receivers, tracing
from signalbox.core.tracing import SpanContext
from signalbox.outbox.deliveries import Disposition
from signalbox.outbox.payload import TRACE_CONTEXT_KEY
from signalbox.outbox.stored_traceback import format_traceback
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from signalbox.core.event import PendingEvent
    from signalbox.outbox.deliveries import AttemptResult, LeasedDelivery

SUPPRESSING_KEYS: Final = ("suppress_instrumentation", context._SUPPRESS_INSTRUMENTATION_KEY)
"""Keys of the context that suppress spans, as OpenTelemetry's own instrumentations check them."""

MAX_STATE_CHARS: Final = 512
"""Maximum length of a ``tracestate`` that is stored (W3C Trace Context, 3.3.1.5)."""

FLUSH_MILLISECONDS: Final = 5_000
"""Milliseconds for which the end of a worker process waits for the export of its spans."""

_propagator: Final = TraceContextTextMapPropagator()


def get_span_context() -> SpanContext | None:
    """Return the identity of the current span, or None."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    state = found.trace_state.to_header() if found.trace_state else ""
    return SpanContext(
        trace_id=trace.format_trace_id(found.trace_id),
        span_id=trace.format_span_id(found.span_id),
        is_sampled=found.trace_flags.sampled,
        state=state if len(state) <= MAX_STATE_CHARS else "",
    )


@dataclass(slots=True)
class _StartedSpan:
    """A span that is the current one."""

    span: Span
    token: Token[Context]
    """Restores the context before the span."""
    other: Context
    """The context of other work while the span is current, and that of the span while it is paused."""

    def switch(self) -> None:
        """Make the span current, or other work if the span is current."""
        current = context.get_current()
        context.attach(self.other)
        self.other = current


def _start_span(
    name: str, kind: SpanKind, attributes: dict[str, Any], links: list[Link] | None = None
) -> _StartedSpan | None:
    """Start a span and make it the current one. Return None if spans are suppressed, as within an exporter."""
    if any(context.get_value(key) for key in SUPPRESSING_KEYS):
        return None
    tracer = trace.get_tracer("signalbox", signalbox.__version__)
    span = tracer.start_span(name, kind=kind, attributes=attributes, links=links)
    before = context.get_current()
    return _StartedSpan(span, context.attach(trace.set_span_in_context(span)), before)


def _end_span(started: _StartedSpan | None, outcome: str, error: str = "", traceback: str | None = None) -> None:
    """End a span. ``error`` is the text ``Type: message`` of an exception, without secrets; empty if there is none."""
    if started is None:
        return
    span = started.span
    context.detach(started.token)
    span.set_attribute("signalbox.outcome", outcome)
    if error:
        kind, _, message = error.partition(": ")
        attributes = {"exception.type": kind, "exception.message": message}
        if traceback:
            attributes["exception.stacktrace"] = traceback
        span.add_event("exception", attributes)
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, error))
    span.end()


class SendObserver(observers.Observer):
    """Starts a span for each send with receivers, and one for each receiver."""

    def start_send(self, event: PendingEvent) -> _StartedSpan | None:
        """Start the span of a send."""
        attributes = {"signalbox.signal": event.signal, "signalbox.sender": event.sender, "signalbox.span": event.span}
        return _start_span(f"send {event.signal}", SpanKind.INTERNAL, attributes)

    def finish_send(self, started: _StartedSpan | None, event: PendingEvent, error: BaseException | None) -> None:
        """End the span of a send. It failed if it raises an exception; its receivers have spans of their own."""
        _end_span(started, "ok" if error is None and not event.errors else "failed", _describe(error))

    def start_receiver(self, event: PendingEvent, receiver: Any) -> _StartedSpan | None:
        """Start the span of a receiver."""
        name = receivers.get_code_location(receiver).name
        attributes = {
            "signalbox.signal": event.signal,
            "signalbox.sender": event.sender,
            "signalbox.receiver": name,
        }
        return _start_span(f"receive {name}", SpanKind.INTERNAL, attributes)

    def pause_receiver(self, started: _StartedSpan | None) -> None:
        """Restore the span of other work."""
        if started is not None:
            started.switch()

    resume_receiver = pause_receiver

    def finish_receiver(self, started: _StartedSpan | None, error: BaseException | None) -> None:
        """End the span of a receiver."""
        traceback = None if error is None else format_traceback(error)
        _end_span(started, "ok" if error is None else "failed", _describe(error), traceback)


def _describe(error: BaseException | None) -> str:
    return "" if error is None else encoder.format_exception(error, redactor=get_redactor())


class DeliveryObserver(observers.Observer):
    """Starts a span for each attempt of a delivery, with a link to the span that caused it."""

    def start_attempt(self, delivery: LeasedDelivery) -> _StartedSpan | None:
        """Start the span of an attempt."""
        attributes = {
            "messaging.system": "signalbox",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": delivery.queue,
            "messaging.consumer.group.name": delivery.receiver,
            "messaging.message.id": str(delivery.id),
            "signalbox.signal": delivery.signal,
            "signalbox.sender": delivery.sender,
            "signalbox.receiver": delivery.receiver,
            "signalbox.attempt": delivery.attempts,
            "signalbox.trace_id": delivery.trace_id,
        }
        return _start_span(f"process {delivery.receiver}", SpanKind.CONSUMER, attributes, get_links(delivery))

    def finish_attempt(
        self, started: _StartedSpan | None, delivery: LeasedDelivery, result: AttemptResult, seconds: float
    ) -> None:
        """End the span of an attempt. The text of its exception has no secrets."""
        is_error = result.disposition in (Disposition.RETRY, Disposition.DEAD)
        _end_span(started, result.disposition.value, result.error if is_error else "", result.traceback)

    def on_worker_end(self) -> None:
        """Export the spans that the SDK keeps. It does so itself at the end of other processes."""
        flush: Any = getattr(trace.get_tracer_provider(), "force_flush", None)  # the API has no such method
        if flush is not None:
            flush(FLUSH_MILLISECONDS)


def get_links(delivery: LeasedDelivery) -> list[Link]:
    """Return a link to the span that caused ``delivery``, nothing if it is unknown."""
    headers = delivery.payload.get(TRACE_CONTEXT_KEY)
    if not isinstance(headers, dict):
        return []
    carrier = {str(name): str(value) for name, value in headers.items()}
    found = trace.get_current_span(_propagator.extract(carrier, Context(), DefaultGetter())).get_span_context()
    return [Link(found)] if found.is_valid else []


_sends: Final = SendObserver()
_deliveries: Final = DeliveryObserver()


def install() -> None:
    """Use the current span from now on, and start spans of deliveries, and of sends if ``SEND_SPANS`` is on."""
    tracing.get_span_context = get_span_context
    observers.install(_deliveries)
    apply_setting()
    setting_changed.connect(_on_setting_changed, dispatch_uid="signalbox.contrib.opentelemetry")


def uninstall() -> None:
    """Stop to use the current span and to start spans."""
    tracing.get_span_context = None
    observers.uninstall(_deliveries)
    observers.uninstall(_sends)
    setting_changed.disconnect(dispatch_uid="signalbox.contrib.opentelemetry")


def apply_setting() -> None:
    """Start spans of sends, or stop to, as ``SEND_SPANS`` says."""
    if conf.get().SEND_SPANS:
        observers.install(_sends)
    else:
        observers.uninstall(_sends)


def _on_setting_changed(setting: str, **_: Any) -> None:
    if setting == "SIGNALBOX":
        apply_setting()
