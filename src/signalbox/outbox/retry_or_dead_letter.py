"""Decide what follows an attempt that failed: a retry, or a dead letter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from signalbox.core import loggers
from signalbox.core.attempt import AttemptOutcome
from signalbox.outbox.deliveries import AttemptResult, Disposition

if TYPE_CHECKING:
    from signalbox.core.raised_error import RaisedError
    from signalbox.outbox.deliveries import LeasedDelivery
    from signalbox.outbox.durable_receiver import DurableReceiver

logger = loggers.get_logger("worker")


def build_failure_result(
    delivery: LeasedDelivery,
    durable: DurableReceiver,
    error: str,
    traceback: str | None = None,
    outcome: AttemptOutcome = AttemptOutcome.FAILED,
    raised_error: RaisedError | None = None,
) -> AttemptResult:
    """Return the result of a failed attempt: a retry, or a dead letter."""
    if delivery.attempts <= durable.retries:
        delay = durable.get_retry_delay(delivery.attempts)
        return AttemptResult(
            disposition=Disposition.RETRY,
            error=error,
            traceback=traceback,
            retry_delay=delay,
            outcome=outcome,
            raised_error=raised_error,
        )
    result = build_dead_result(delivery, error, releases_partition=durable.on_dead == "skip")
    return replace(result, traceback=traceback, receiver_called=True, outcome=outcome, raised_error=raised_error)


def build_dead_result(delivery: LeasedDelivery, error: str, *, releases_partition: bool = False) -> AttemptResult:
    """Return the result for a delivery whose receiver is not called any more."""
    logger.error(
        "%s for %s %s is a dead letter: %s",
        delivery.receiver,
        delivery.sender,
        delivery.object_key,
        error,
        extra=loggers.describe_delivery(delivery),
    )
    return AttemptResult(
        disposition=Disposition.DEAD, error=error, releases_partition=releases_partition, receiver_called=False
    )
