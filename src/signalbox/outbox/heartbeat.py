"""Run single deliveries in the worker of a dispatcher. A thread renews their leases and enforces their timeouts."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final

from django.db import Error, connections

from signalbox import conf
from signalbox.outbox.execution import TIMEOUT_GRACE_SECONDS, RunningAttempt, Watchdog, build_failure_result, execute
from signalbox.outbox.queue import AttemptResult, DeliveryQueue, LeasedDelivery
from signalbox.outbox.registry import find_durable_receiver

logger = logging.getLogger("signalbox")

TICK_SECONDS: Final = 0.5
COMPLETION_RETRY_SECONDS: Final = 20.0
"""Seconds for which writing a result is retried. After that, the delivery runs again when its lease expires."""


def execute_by_id(alias: str, delivery_id: int) -> bool:
    """Run one delivery if it is due; return whether it ran. Messages may arrive late or twice."""
    delivery_queue = DeliveryQueue(alias)
    keeper = _get_keeper()
    if (alias, delivery_id) in keeper.leased:  # its lease may have expired, but it still runs here
        return False
    delivery = delivery_queue.acquire_by_id(delivery_id)
    if delivery is None:
        return False
    keeper.leased[alias, delivery_id] = delivery
    keeper.ensure_running()
    try:
        result = execute(delivery, keeper.watchdog)
    finally:
        keeper.drop_lease(delivery)
    if not _complete(delivery_queue, delivery, result):
        logger.warning("%s has run (delivery %d), but its lease had expired.", delivery.receiver, delivery_id)
    return True


def _complete(delivery_queue: DeliveryQueue, delivery: LeasedDelivery, result: AttemptResult) -> bool:
    started_at, pause = time.monotonic(), 0.1
    while True:
        try:
            return delivery_queue.complete(delivery, result)[0]
        except Error as error:
            if time.monotonic() - started_at > COMPLETION_RETRY_SECONDS:
                logger.warning("The result of delivery %d could not be written: %s", delivery.id, error)
                return False
            connections[delivery_queue.alias].close_if_unusable_or_obsolete()
            time.sleep(pause)
            pause = min(2.0, pause * 2)


class LeaseKeeper:
    """A thread that renews the leases of this process and interrupts receivers at their timeouts."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.watchdog = Watchdog()
        self.leased: dict[tuple[str, int], LeasedDelivery] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure_running(self) -> None:
        """Start the thread unless it runs. It ends when no delivery is leased."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="signalbox-lease-keeper", daemon=True)
                self._thread.start()

    def drop_lease(self, delivery: LeasedDelivery) -> bool:
        """Stop renewing the lease of ``delivery``; return whether it was held. A later lease of the row is kept."""
        key = (delivery.alias, delivery.id)
        if self.leased.get(key) is not delivery:
            return False
        del self.leased[key]
        return True

    def _run(self) -> None:
        last_renewed = time.monotonic()
        try:
            while True:
                time.sleep(TICK_SECONDS)
                with self._lock:
                    if not self.leased:
                        self._thread = None
                        return
                for running in list(self.watchdog.attempts.values()):
                    overrun = running.get_overrun_seconds()
                    if overrun > TIMEOUT_GRACE_SECONDS:
                        self._abandon(running)
                    elif overrun > 0:
                        running.interrupt()
                now = time.monotonic()
                if now - last_renewed >= conf.get().DURABLE.LEASE / 3 and self._renew_leases():
                    last_renewed = now
        finally:
            connections.close_all()

    def _renew_leases(self) -> bool:
        """Extend the leases of all deliveries; return whether that succeeded. If not, the next tick tries again."""
        renewed = True
        deliveries = list(self.leased.values())
        for alias in {delivery.alias for delivery in deliveries}:
            try:
                DeliveryQueue(alias).renew_leases([delivery for delivery in deliveries if delivery.alias == alias])
            except Error as error:
                renewed = False
                logger.warning("Leases could not be renewed: %s", error)
                connections[alias].close_if_unusable_or_obsolete()
        return renewed

    def _abandon(self, running_attempt: RunningAttempt) -> None:
        """Record that a receiver does not end. Its thread belongs to the dispatcher's worker and is not stopped."""
        delivery = running_attempt.delivery
        if not self.drop_lease(delivery):
            return
        logger.critical(
            "%s does not end (delivery %d), and holds a thread of its worker.", delivery.receiver, delivery.id
        )
        durable = find_durable_receiver(delivery.receiver, delivery.signal, delivery.sender)
        if durable is not None:
            error = f"TimeLimitExceeded: it took longer than {durable.timeout:g} seconds, and did not end"
            _complete(DeliveryQueue(delivery.alias), delivery, build_failure_result(delivery, durable, error))


_current_keeper: LeaseKeeper | None = None


def _get_keeper() -> LeaseKeeper:
    """Return the keeper of this process. A forked child needs its own, because threads are not forked."""
    global _current_keeper
    if _current_keeper is None or _current_keeper.pid != os.getpid():
        _current_keeper = LeaseKeeper()
    return _current_keeper
