"""A durable receiver with its options, and the delay before its retries."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from signalbox.core import loggers
from signalbox.pipeline.errors import DeliveryError

logger = loggers.get_logger("outbox")

DEFAULT_BACKOFF_SECONDS: Final = 10.0
"""Seconds until the first retry."""

MAX_BACKOFF_SECONDS: Final = 3600.0
"""Maximum number of seconds before a retry."""

MAX_CUSTOM_BACKOFF_SECONDS: Final = 10 * 366 * 86_400.0
"""Maximum number of seconds that a ``backoff`` function may return. Columns and dates can store such times."""


class CannotBeDurable(DeliveryError, TypeError):
    """A receiver or an argument cannot be used in another process. The message has the reason."""


class DurableOptions(TypedDict, total=False):
    """The options of ``durable=True``."""

    retries: int
    backoff: float | Callable[[int], float]
    key: str | Callable[[Mapping[str, Any]], object] | None
    timeout: float | None
    on_dead: Literal["block", "skip"]
    queue: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DurableReceiver:
    """A durable receiver and its options."""

    name: str
    """Its dotted name, by which a worker finds it."""
    function: Callable[..., Any]
    parameter_names: frozenset[str]
    """Names of its parameters. Other arguments go into its ``**kwargs``."""
    retries: int = 8
    """Attempts after the first. When they are used up, the delivery is a dead letter."""
    backoff: float | Callable[[int], float] = DEFAULT_BACKOFF_SECONDS
    """Seconds until the first retry, doubled for each further one, with 25% jitter; or a function of the attempt."""
    key: str | Callable[[Mapping[str, Any]], object] | None = "pk"
    """The ordering key of its deliveries: the object (``"pk"``), a field or an argument, a function, or none."""
    timeout: float | None = 300.0
    """Maximum duration of an attempt in seconds."""
    on_dead: Literal["block", "skip"] = "block"
    """Whether a dead letter blocks later deliveries of its key."""
    queue: str = "default"
    """The queue of its deliveries. Workers may run only some queues."""

    def get_retry_delay(self, attempt: int) -> float:
        """Return the seconds to wait after the failure of ``attempt``, which is 1 or more. Errors are only logged."""
        backoff = self.backoff
        if callable(backoff):
            try:
                seconds = float(backoff(attempt))
                if math.isfinite(seconds):
                    return min(MAX_CUSTOM_BACKOFF_SECONDS, max(0.0, seconds))
                raise ValueError(f"{seconds} is not a number of seconds.")
            except BaseException:  # the receiver's error must be written, and the worker must go on
                if self.name not in _invalid_backoffs_logged:
                    _invalid_backoffs_logged.add(self.name)
                    logger.exception("The backoff of %s returned no valid time; the default is used.", self.name)
            backoff = DEFAULT_BACKOFF_SECONDS
        delay = min(MAX_BACKOFF_SECONDS, backoff * 2.0 ** min(attempt - 1, 32))
        return delay * random.uniform(0.75, 1.25)  # noqa: S311 - to keep retries apart, no secret


_invalid_backoffs_logged: Final[set[str]] = set()
"""Names of receivers whose invalid backoff was logged."""
