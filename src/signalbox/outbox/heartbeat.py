"""What an engine's worker needs to run a delivery: its lease renewed and its timeout kept, whatever else it does."""

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
"""Seconds for which a database that is away is asked to take the outcome; then it is run again after its lease."""


def execute_by_id(alias: str, delivery_id: int) -> bool:
    """Run the delivery of this id, if it is to be run now; return whether it was. A message may come late or twice."""
    claims = DeliveryQueue(alias)
    keeper = _get_keeper()
    if (alias, delivery_id) in keeper.leased:  # its lease may be over, but it runs here
        return False
    claimed = claims.acquire_by_id(delivery_id)
    if claimed is None:
        return False
    keeper.leased[alias, delivery_id] = claimed
    keeper.ensure_running()
    try:
        result = execute(claimed, keeper.watchdog)
    finally:
        keeper.drop_lease(claimed)
    if not _complete(claims, claimed, result):
        logger.warning("%s has run (delivery %d), but its lease was over.", claimed.receiver, delivery_id)
    return True


def _complete(delivery_queue: DeliveryQueue, delivery: LeasedDelivery, result: AttemptResult) -> bool:
    began, pause = time.monotonic(), 0.1
    while True:
        try:
            return delivery_queue.complete(delivery, result)[0]
        except Error as error:
            if time.monotonic() - began > COMPLETION_RETRY_SECONDS:
                logger.warning("The outcome of delivery %d could not be written: %s", delivery.id, error)
                return False
            connections[delivery_queue.alias].close_if_unusable_or_obsolete()
            time.sleep(pause)
            pause = min(2.0, pause * 2)


class LeaseKeeper:
    """A thread that renews the leases of this process, and interrupts what runs too long."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.watchdog = Watchdog()
        self.leased: dict[tuple[str, int], LeasedDelivery] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure_running(self) -> None:
        """Let the thread run as long as something is held."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="signalbox-keeper", daemon=True)
                self._thread.start()

    def drop_lease(self, delivery: LeasedDelivery) -> bool:
        """Hold ``claimed`` no longer, a later claim of the same delivery stays; return whether it was held."""
        key = (delivery.alias, delivery.id)
        if self.leased.get(key) is not delivery:
            return False
        del self.leased[key]
        return True

    def _run(self) -> None:
        renewed = time.monotonic()
        try:
            while True:
                time.sleep(TICK_SECONDS)
                with self._lock:
                    if not self.leased:
                        self._thread = None
                        return
                for running in list(self.watchdog.attempts.values()):
                    late = running.get_overrun_seconds()
                    if late > TIMEOUT_GRACE_SECONDS:
                        self._abandon(running)
                    elif late > 0:
                        running.interrupt()
                moment = time.monotonic()
                if moment - renewed >= conf.get().LEASE / 3 and self._renew_leases():
                    renewed = moment
        finally:
            connections.close_all()

    def _renew_leases(self) -> bool:
        """Extend the leases of what is held; return whether all were: if not, it is tried again at the next tick."""
        renewed = True
        held = list(self.leased.values())
        for alias in {one.alias for one in held}:
            try:
                DeliveryQueue(alias).renew_leases([one for one in held if one.alias == alias])
            except Error as error:
                renewed = False
                logger.warning("Leases could not be renewed: %s", error)
                connections[alias].close_if_unusable_or_obsolete()
        return renewed

    def _abandon(self, running_attempt: RunningAttempt) -> None:
        """Write down that a receiver does not end; its thread belongs to the engine, and is left to it."""
        claimed = running_attempt.delivery
        if not self.drop_lease(claimed):
            return
        logger.critical(
            "%s does not end (delivery %d), and holds a thread of its worker.", claimed.receiver, claimed.id
        )
        durable = find_durable_receiver(claimed.receiver, claimed.signal, claimed.sender)
        if durable is not None:
            error = f"TimedOut: it took longer than {durable.timeout:g} seconds, and did not end"
            _complete(DeliveryQueue(claimed.alias), claimed, build_failure_result(claimed, durable, error))


_current_keeper: LeaseKeeper | None = None


def _get_keeper() -> LeaseKeeper:
    """Return this process's keeper: a child that was forked has no thread of its parent's."""
    global _current_keeper
    if _current_keeper is None or _current_keeper.pid != os.getpid():
        _current_keeper = LeaseKeeper()
    return _current_keeper
