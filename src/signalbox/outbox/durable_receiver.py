"""A durable receiver with its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from signalbox.outbox.retry_delay import DEFAULT_BACKOFF_SECONDS, compute_retry_delay
from signalbox.pipeline.delivery_errors import DeliveryError


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
        return compute_retry_delay(self.backoff, attempt, receiver_name=self.name)
