"""Build the results of attempts that failed: a retry, or a dead letter."""

from __future__ import annotations

from dataclasses import replace
from traceback import format_tb
from typing import TYPE_CHECKING, Final

from signalbox.core import loggers
from signalbox.core.attempt import AttemptOutcome
from signalbox.core.text import sanitize_text
from signalbox.outbox.deliveries import AttemptResult, Disposition
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from signalbox.core.raised_error import RaisedError
    from signalbox.outbox.deliveries import LeasedDelivery
    from signalbox.outbox.durable_receiver import DurableReceiver

logger = loggers.get_logger("worker")

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
