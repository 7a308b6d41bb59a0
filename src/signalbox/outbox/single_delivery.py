"""Run single deliveries in the worker of a dispatcher. A thread renews their leases and enforces their timeouts."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from django.db import connections

from signalbox.core import loggers
from signalbox.outbox.execution import execute
from signalbox.outbox.leases import HeldLeases, build_unending_result
from signalbox.outbox.queue import DeliveryQueue

if TYPE_CHECKING:
    from signalbox.outbox.watchdog import RunningAttempt

logger = loggers.get_logger("worker")

TICK_SECONDS: Final = 0.5
COMPLETION_RETRY_SECONDS: Final = 20.0
"""Seconds for which writing a result is retried. After that, the delivery runs again when its lease expires."""


def execute_by_id(alias: str, delivery_id: int) -> bool:
    """Run one delivery if it is due; return whether it ran. Messages may arrive late or twice."""
    delivery_queue = DeliveryQueue(alias)
    keeper = _get_keeper()
    is_held = (alias, delivery_id) in keeper.leases.deliveries  # if its lease has expired, it still runs here
    delivery = delivery_queue.acquire_by_id(delivery_id, takes_expired=not is_held)
    if delivery is None:
        return False
    keeper.leases.add(delivery)
    keeper.ensure_running()
    try:
        result = execute(delivery, keeper.leases.watchdog)
    except BaseException:
        keeper.leases.drop(delivery)
        raise
    keeper.leases.settle(delivery_queue, delivery, result, gives_up=_gives_up)
    return True


def _gives_up(waited: float) -> bool:
    return waited > COMPLETION_RETRY_SECONDS


class LeaseKeeper:
    """A thread that renews the leases of this process and interrupts receivers at their timeouts."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.leases = HeldLeases()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure_running(self) -> None:
        """Start the thread unless it runs. It ends when no delivery is leased."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="signalbox-lease-keeper", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                time.sleep(TICK_SECONDS)
                with self._lock:
                    if not self.leases.deliveries:
                        self._thread = None
                        self.leases.last_renewed.clear()
                        return
                self.leases.watchdog.interrupt_overdue(self._abandon)
                for alias in {alias for alias, _ in list(self.leases.deliveries)}:
                    self.leases.renew_due(DeliveryQueue(alias))
        finally:
            connections.close_all()

    def _abandon(self, running_attempt: RunningAttempt) -> None:
        """Record that a receiver does not end. Its thread belongs to the dispatcher's worker and is not stopped."""
        delivery = running_attempt.delivery
        if not self.leases.drop(delivery):
            return
        logger.critical(
            "%s does not end (delivery %d), and occupies a thread of its worker.",
            delivery.receiver,
            delivery.id,
            extra=loggers.describe_delivery(delivery),
        )
        result = build_unending_result(delivery)
        if result is not None:
            self.leases.settle(DeliveryQueue(delivery.alias), delivery, result, gives_up=_gives_up)


_current_keeper: LeaseKeeper | None = None


def _get_keeper() -> LeaseKeeper:
    """Return the keeper of this process. A forked child needs its own, because threads are not forked."""
    global _current_keeper
    if _current_keeper is None or _current_keeper.pid != os.getpid():
        _current_keeper = LeaseKeeper()
    return _current_keeper
