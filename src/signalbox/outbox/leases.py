"""The deliveries that this process has leased: renew their leases and write their results."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from signalbox import conf
from signalbox.core import clock, loggers
from signalbox.core.attempt import AttemptOutcome
from signalbox.outbox.outages import retry_until_available, try_once
from signalbox.outbox.registry import find_durable_receiver
from signalbox.outbox.retry_or_dead_letter import build_failure_result
from signalbox.outbox.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalbox.outbox.deliveries import AttemptResult, LeasedDelivery
    from signalbox.outbox.queue import DeliveryQueue

logger = loggers.get_logger("worker")


class HeldLeases:
    """The leased deliveries of a process, running or not, and their running receivers."""

    def __init__(self) -> None:
        self.watchdog = Watchdog()
        self.deliveries: dict[tuple[str, int], LeasedDelivery] = {}
        """By alias and id."""
        self.last_renewed: dict[str, float] = {}
        """When the leases in each database were last renewed."""

    def add(self, delivery: LeasedDelivery) -> None:
        """Renew the lease of ``delivery`` from now on."""
        self.last_renewed.setdefault(delivery.alias, clock.monotonic())
        self.deliveries[delivery.alias, delivery.id] = delivery

    def holds(self, delivery: LeasedDelivery) -> bool:
        """Return whether the lease of ``delivery`` is renewed. A later lease of the same row is another one."""
        return self.deliveries.get((delivery.alias, delivery.id)) is delivery

    def drop(self, delivery: LeasedDelivery) -> bool:
        """Stop renewing the lease of ``delivery``; return whether it was held. A later lease of the row is kept."""
        if not self.holds(delivery):
            return False
        del self.deliveries[delivery.alias, delivery.id]
        return True

    def get_ids(self, alias: str) -> list[int]:
        """Return the ids of the deliveries that are held in the database ``alias``."""
        return [delivery_id for held_alias, delivery_id in list(self.deliveries) if held_alias == alias]

    def get_seconds_since_renewal(self, alias: str) -> float:
        """Return the number of seconds since the leases in a database were renewed."""
        return clock.monotonic() - self.last_renewed.get(alias, 0.0)

    def renew_due(self, delivery_queue: DeliveryQueue) -> None:
        """Extend the leases in one database if a third of their time has passed.

        A database that is unavailable or locked is tried again at the next call.
        """
        if self.get_seconds_since_renewal(delivery_queue.alias) >= conf.get().DURABLE.LEASE / 3:
            try_once(partial(self.renew, delivery_queue))

    def renew(self, delivery_queue: DeliveryQueue) -> None:
        """Extend the leases in one database. Raises ``django.db.Error`` if it is unavailable or locked."""
        now = clock.monotonic()
        alias = delivery_queue.alias
        deliveries = [delivery for delivery in list(self.deliveries.values()) if delivery.alias == alias]
        if deliveries:
            lost_ids = delivery_queue.renew_leases(deliveries)
            # A delivery that has just ended has no lease either, so the row decides whether another worker has it.
            taken = delivery_queue.find_taken([delivery for delivery in deliveries if delivery.id in lost_ids])
            if taken:
                logger.warning("The leases of the deliveries %s have expired, and another worker runs them.", taken)
        self.last_renewed[alias] = now

    def settle(
        self,
        delivery_queue: DeliveryQueue,
        delivery: LeasedDelivery,
        result: AttemptResult,
        next_delivery: LeasedDelivery | None = None,
        *,
        gives_up: Callable[[float], bool],
    ) -> tuple[bool, bool]:
        """Write ``result``, count the attempt of ``next_delivery``, and stop renewing the lease of ``delivery``.

        Return for each delivery whether this process still had it. While the database is unavailable or locked, the
        call is repeated until ``gives_up`` returns true for the seconds since the first one.
        """
        counts = retry_until_available(lambda: delivery_queue.complete(delivery, result, next_delivery), gives_up)
        self.drop(delivery)
        if counts is None:
            logger.warning(
                "%s has run (delivery %d), but its result could not be written: it runs again when its lease expires.",
                delivery.receiver,
                delivery.id,
                extra=loggers.describe_delivery(delivery),
            )
            return False, False
        if not counts[0] and self._was_taken(delivery_queue, delivery):
            logger.warning(
                "%s has run (delivery %d), but its lease had expired: another worker runs it too.",
                delivery.receiver,
                delivery.id,
                extra=loggers.describe_delivery(delivery),
            )
        if next_delivery is not None and counts[1]:
            next_delivery.attempt_started = True
            next_delivery.attempts += 1
        return counts

    @staticmethod
    def _was_taken(delivery_queue: DeliveryQueue, delivery: LeasedDelivery) -> bool:
        return bool(try_once(partial(delivery_queue.find_taken, [delivery])))


def build_unending_result(delivery: LeasedDelivery) -> AttemptResult | None:
    """Return the result for a receiver that does not end after its timeout; ``None`` if this code does not have it."""
    durable = find_durable_receiver(delivery.receiver, delivery.signal, delivery.sender)
    if durable is None:
        return None
    error = f"TimeLimitExceeded: it took longer than {durable.timeout:g} seconds, and did not end"
    return build_failure_result(delivery, durable, error, outcome=AttemptOutcome.TIMED_OUT)
