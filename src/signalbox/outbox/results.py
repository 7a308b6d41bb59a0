"""Build the results of attempts that did not succeed: a retry, a dead letter, or another try by other code."""

from __future__ import annotations

from dataclasses import replace
from traceback import format_tb
from typing import TYPE_CHECKING, Final

from signalbox import conf
from signalbox.core import loggers
from signalbox.core.attempt import AttemptOutcome
from signalbox.core.clock import now_us
from signalbox.core.text import sanitize_text
from signalbox.outbox.database_clock import SECOND_US
from signalbox.outbox.deliveries import AttemptResult, Disposition
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from signalbox.core.raised_error import RaisedError
    from signalbox.outbox.deliveries import LeasedDelivery
    from signalbox.outbox.durable_receiver import DurableReceiver

logger = loggers.get_logger("worker")

DEFERRED_RETRY_SECONDS: Final = 30.0
"""Seconds until a delivery is tried again whose receiver this version of the code does not have."""

MAX_TRACEBACK_CHARS: Final = 8_000
"""Maximum length of a stored traceback."""

MAX_CHAINED_EXCEPTIONS: Final = 5
"""Maximum number of exceptions of a chain in a stored traceback."""


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


def format_traceback(error: BaseException) -> str:
    """Return the redacted traceback of ``error`` and its causes, the first cause first, truncated at the start."""
    redactor = get_redactor()
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < MAX_CHAINED_EXCEPTIONS:
        frames = "".join(format_tb(current.__traceback__))
        parts.insert(0, redactor.redact_text(frames) + encoder.format_exception(current, redactor=redactor))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    text = sanitize_text("\n\n".join(parts))
    return text if len(text) <= MAX_TRACEBACK_CHARS else "…" + text[-MAX_TRACEBACK_CHARS:]


def build_deferred_result(delivery: LeasedDelivery, reason: str) -> AttemptResult:
    """Return the result for a delivery that this code can't run: another try later, or a dead letter.

    The result is a dead letter if no worker could run the delivery for ``DURABLE["UNKNOWN_AFTER"]`` seconds.
    """
    unknown_after = conf.get().DURABLE.UNKNOWN_AFTER
    text = get_redactor().redact_text(sanitize_text(reason))[:300]
    if delivery.deferred_since is not None and now_us() - delivery.deferred_since >= unknown_after * SECOND_US:
        text = (
            f'{text}. No worker could run it for DURABLE["UNKNOWN_AFTER"], {unknown_after:g} seconds. Restore the name '
            "and retry the delivery, or discard it and replay its event to the new name."
        )
        return replace(build_dead_result(delivery, text), ends_partition=True)
    logger.warning("Delivery %d is deferred: %s", delivery.id, text, extra=loggers.describe_delivery(delivery))
    return AttemptResult(
        disposition=Disposition.DEFERRED, error=text, retry_delay=DEFERRED_RETRY_SECONDS, receiver_called=False
    )
