"""Decide how long a delivery waits whose receiver this version of the code does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from signalbox import conf
from signalbox.core import loggers
from signalbox.core.clock import now_us
from signalbox.core.text import sanitize_text
from signalbox.outbox.database_clock import SECOND_US
from signalbox.outbox.deliveries import AttemptResult, Disposition
from signalbox.outbox.retry_or_dead_letter import build_dead_result
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from signalbox.outbox.deliveries import LeasedDelivery

logger = loggers.get_logger("worker")

DEFERRED_RETRY_SECONDS: Final = 30.0
"""Seconds until a delivery is tried again whose receiver this version of the code does not have."""


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
