"""Execute one attempt of a delivery: rebuild the arguments, call the receiver, and return the result."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import async_to_sync, iscoroutinefunction
from django.db import connections

from signalbox import conf
from signalbox.core import clock, loggers, observers, tracing
from signalbox.core.attempt import AttemptOutcome
from signalbox.core.counted_errors import was_counted
from signalbox.core.tracing import Trace
from signalbox.models import Event
from signalbox.outbox import registry
from signalbox.outbox.arguments import NotRunnableHere, build_arguments
from signalbox.outbox.attempt_connections import discard_connection, is_in_transaction, reset_connections
from signalbox.outbox.deferral import build_deferred_result
from signalbox.outbox.deliveries import SUCCEEDED, AttemptResult, Disposition, LeasedDelivery
from signalbox.outbox.retry_or_dead_letter import build_dead_result, build_failure_result
from signalbox.outbox.stored_traceback import format_traceback
from signalbox.outbox.watchdog import TimeLimitExceeded, Watchdog
from signalbox.pipeline import exporter
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.error_description import describe_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalbox.core.raised_error import RaisedError
    from signalbox.outbox.durable_receiver import DurableReceiver

logger = loggers.get_logger("worker")

WORKER_LOST_ERROR: Final = "The worker died in each attempt, or lost its lease, and wrote nothing."


class ChainTooLong(RuntimeError):
    """The delivery ends a chain of more than ``DURABLE["MAX_CHAIN"]`` deliveries."""


@dataclass(frozen=True, kw_only=True)
class DeliveryContext:
    """The argument ``delivery`` of a durable receiver."""

    id: int
    """The idempotency key: the same in each attempt, and unique within one database."""
    attempt: int
    """1 for the first."""
    key: str
    """The ordering key."""
    trace_id: str
    """The trace in which the event happened."""
    span: int
    """The event's key within its trace."""
    alias: str
    """The database that holds the delivery and its event."""
    created: int
    """When the event was written, in microseconds since 1970."""

    @cached_property
    def event(self) -> Event | None:
        """The event, with its changes, actor and receivers; ``None`` if it was purged."""
        events = Event.objects.using(self.alias).filter(trace_id=self.trace_id, span=self.span)
        event: Event | None = events.order_by("id").first()
        return event


def load_receiver(delivery: LeasedDelivery) -> DurableReceiver:
    """Return the receiver of a delivery, after importing its module if necessary.

    Raises ``NotRunnableHere`` if this version of the code does not have it.
    """
    durable = registry.find_durable_receiver(delivery.receiver, delivery.signal, delivery.sender)
    if durable is not None:
        return durable
    reason = registry.import_receiver_module(delivery.receiver)
    durable = registry.find_durable_receiver(delivery.receiver, delivery.signal, delivery.sender)
    if durable is None:
        raise NotRunnableHere(f"{delivery.receiver} waits: {reason}")
    return durable


def check_chain(delivery: LeasedDelivery) -> None:
    """Check the length of the delivery's chain. Raises ``ChainTooLong``."""
    maximum = conf.get().DURABLE.MAX_CHAIN
    if delivery.chain_length > maximum:
        raise ChainTooLong(
            f"The receiver was not called: this is delivery {delivery.chain_length} of a chain, each caused by the "
            f'receiver of the one before, and DURABLE["MAX_CHAIN"] is {maximum}. A receiver that saves its own object '
            "causes itself: save only if a value differs, or use QuerySet.update(). Then retry the delivery. Raise "
            '"MAX_CHAIN" if the chain is intended.'
        )


def execute(delivery: LeasedDelivery, watchdog: Watchdog | None = None) -> AttemptResult:
    """Run the receiver of ``delivery`` and return the result, with the time at which it ended.

    Any exception of the receiver is a failed attempt, even ``SystemExit``. Only ``KeyboardInterrupt`` in the main
    thread is raised.
    """
    started, start_ns = clock.now_us(), clock.monotonic_ns()
    delivery.started = started
    observed = observers.start(observers.attempts, "start_attempt", delivery) if observers.attempts else None
    result = AttemptResult(disposition=Disposition.RETRY, error="KeyboardInterrupt")
    try:
        result = _execute(delivery, watchdog, start_ns)
    finally:
        spent_ns = clock.monotonic_ns() - start_ns
        if observed is not None:
            observers.finish(observed, "finish_attempt", delivery, result, spent_ns / 1e9)
    return replace(result, ended=started + spent_ns // 1000)


def _execute(delivery: LeasedDelivery, watchdog: Watchdog | None, start_ns: int) -> AttemptResult:
    try:
        durable = load_receiver(delivery)
        check_chain(delivery)
    except NotRunnableHere as error:
        return build_deferred_result(delivery, str(error))
    except ChainTooLong as error:
        result = build_dead_result(delivery, str(error), releases_partition=durable.on_dead == "skip")
        return replace(result, raised_error=_describe_error(delivery, error, start_ns))
    if delivery.attempts > durable.retries + 1:  # each attempt was counted at its start, and none wrote a result
        return replace(build_failure_result(delivery, durable, WORKER_LOST_ERROR), receiver_called=False)
    excluded = {connection for connection in connections.all(initialized_only=True) if is_in_transaction(connection)}
    try:
        call_receiver(delivery, durable, watchdog)
    except NotRunnableHere as error:
        return build_deferred_result(delivery, str(error))
    except TimeLimitExceeded as error:
        for connection in connections.all(initialized_only=True):  # it may have been in the middle of a statement
            if connection not in excluded:
                discard_connection(connection)
        return build_failure_result(
            delivery,
            durable,
            f"TimeLimitExceeded: it took longer than its timeout of {durable.timeout:g} seconds",
            outcome=AttemptOutcome.TIMED_OUT,
            raised_error=_describe_error(delivery, error, start_ns),
        )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        text, traceback = encoder.format_exception(error, redactor=get_redactor()), format_traceback(error)
        logger.warning(
            "%s failed (attempt %d).\n%s",
            delivery.receiver,
            delivery.attempts,
            traceback,
            extra=loggers.describe_delivery(delivery),
        )
        return build_failure_result(
            delivery, durable, text, traceback, raised_error=_describe_error(delivery, error, start_ns, text)
        )
    finally:
        reset_connections(excluded)
    return SUCCEEDED


def _describe_error(
    delivery: LeasedDelivery, error: BaseException, start_ns: int, text: str | None = None
) -> RaisedError | None:
    """Return what is recorded of the exception of an attempt, None if an event or a trace within it has counted it."""
    if was_counted(error, start_ns):
        return None
    return describe_error(error, redactor=get_redactor(), receiver=delivery.receiver, text=text)


def call_receiver(delivery: LeasedDelivery, durable: DurableReceiver, watchdog: Watchdog | None = None) -> None:
    """Call the receiver. Its exceptions are raised.

    Events that it causes belong to the trace of the delivery's event and have that event as their parent.
    """
    kwargs = build_arguments(delivery, durable)
    kwargs["delivery"] = DeliveryContext(
        id=delivery.id,
        attempt=delivery.attempts,
        key=delivery.ordering_key,
        trace_id=delivery.trace_id,
        span=delivery.span,
        alias=delivery.alias,
        created=delivery.created,
    )
    is_async = iscoroutinefunction(durable.function)
    target = async_to_sync(partial(_await_with_timeout, durable)) if is_async else durable.function
    watchdog = watchdog or Watchdog()
    with _trace_attempt(delivery), watchdog.watching(delivery, durable.timeout, is_async=is_async):
        target(**kwargs)


async def _await_with_timeout(durable: DurableReceiver, **kwargs: Any) -> None:
    """Await an asynchronous receiver until its timeout. Its event loop runs in a thread that is not interrupted.

    The watchdog's owner handles a receiver that blocks its loop or ignores the cancellation.
    """
    try:
        async with asyncio.timeout(durable.timeout) as limit:
            await durable.function(**kwargs)
    except TimeoutError:
        if limit.expired():
            raise TimeLimitExceeded from None
        raise


@contextmanager
def _trace_attempt(delivery: LeasedDelivery) -> Iterator[None]:
    trace = Trace("task", delivery.receiver, trace_id=delivery.trace_id)
    trace.chain_length = delivery.chain_length
    trace.data = {
        "delivery": delivery.id,
        "attempt": delivery.attempts,
        "span": delivery.span,
        "fencing_token": delivery.fencing_token,
        "first_span": f"{trace.first_span:016x}",
    }
    tracing.activate(trace)
    token = tracing.running_receiver.set((delivery.span, None))
    status = "failed"
    try:
        yield
        status = "ok"
    finally:
        tracing.running_receiver.reset(token)
        tracing.deactivate(trace)
        trace.send_counts.clear()  # loaded instances are not recorded, and a trace without events has no row
        exporter.finish_trace(trace, status)
