"""The delay before a retry: exponential with jitter, or as the ``backoff`` function of a receiver returns it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

from signalbox.core import loggers

logger = loggers.get_logger("outbox")

DEFAULT_BACKOFF_SECONDS: Final = 10.0
"""Seconds until the first retry."""

MAX_BACKOFF_SECONDS: Final = 3600.0
"""Maximum number of seconds before a retry."""

MAX_CUSTOM_BACKOFF_SECONDS: Final = 10 * 366 * 86_400.0
"""Maximum number of seconds that a ``backoff`` function may return. Columns and dates can store such times."""

MAX_DOUBLINGS: Final = 32
"""Retries after which the delay is not doubled any more, so that the number cannot overflow."""

JITTER: Final = 0.25
"""Fraction by which a delay is randomly shorter or longer, so that retries do not run at the same time."""

_invalid_backoffs_logged: Final[set[str]] = set()
"""Names of receivers whose invalid backoff was logged."""


def compute_retry_delay(backoff: float | Callable[[int], float], attempt: int, *, receiver_name: str) -> float:
    """Return the seconds to wait after the failure of ``attempt``, which is 1 or more.

    If the function ``backoff`` returns no valid time, this is logged once for each receiver, and the default is used.
    """
    if callable(backoff):
        try:
            seconds = float(backoff(attempt))
            if math.isfinite(seconds):
                return min(MAX_CUSTOM_BACKOFF_SECONDS, max(0.0, seconds))
            raise ValueError(f"{seconds} is not a number of seconds.")
        except BaseException:  # the receiver's error must be written, and the worker must go on
            if receiver_name not in _invalid_backoffs_logged:
                _invalid_backoffs_logged.add(receiver_name)
                logger.exception("The backoff of %s returned no valid time; the default is used.", receiver_name)
        backoff = DEFAULT_BACKOFF_SECONDS
    delay = min(MAX_BACKOFF_SECONDS, backoff * 2.0 ** min(attempt - 1, MAX_DOUBLINGS))
    return delay * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - to keep retries apart, no secret
