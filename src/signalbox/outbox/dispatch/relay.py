"""The relay marks due deliveries as dispatched until a time, commits, and then publishes messages for them.

A delivery whose message was lost is dispatched again at that time. The order matters: a delivery that is published
before the commit could finish before its mark is written. A mark without a message only delays the delivery.
"""

from __future__ import annotations

import signal
from importlib import import_module
from typing import TYPE_CHECKING, Final

from django.db import connections

from signalbox import conf
from signalbox.core import loggers
from signalbox.outbox.outages import close_unusable_connections
from signalbox.outbox.queue import SECOND_US, DeliveryQueue, get_delivery_databases, now_us
from signalbox.outbox.upkeep import run_upkeep
from signalbox.outbox.wakeup import Notifier
from signalbox.outbox.worker_registry import WorkerRegistration

if TYPE_CHECKING:
    from signalbox.outbox.worker import WorkerOptions

logger = loggers.get_logger("worker")

MAX_IN_FLIGHT: Final = 1000
"""Maximum number of unprocessed messages per queue. The backlog stays in the database."""
DISPATCH_BATCH_SIZE: Final = 200
MIN_POLL_SECONDS: Final = 0.02
MAX_POLL_SECONDS: Final = 0.5

_MODULES: Final = {"celery": "celery", "tasks": "django_tasks"}
"""The module of each dispatcher."""


class Relay:
    """Publishes due deliveries to a dispatcher."""

    def __init__(self, options: WorkerOptions, dispatcher: str) -> None:
        self.options = options
        self.publish = import_module(f"signalbox.outbox.dispatch.{_MODULES[dispatcher]}").publish
        self.stopping = False
        self.reload = False
        self.published_count = 0
        self._remaining_capacity: dict[str, int] = {}
        """Messages that each database may send before unprocessed ones are counted again."""
        self._full_queues: dict[str, list[str]] = {}
        """Queues of each database that have reached ``MAX_IN_FLIGHT``."""

    def run(self) -> int:
        """Relay until ``stop()`` is called; return the exit status."""
        aliases = self.options.databases or get_delivery_databases()
        delivery_queues = [DeliveryQueue(alias, self.options.queues) for alias in aliases]
        notifier = Notifier(list(aliases))
        registration = WorkerRegistration(aliases, self.options.queues, threads=0)
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self._on_hangup}
        upkeep = None if self.options.once or self.options.burst else self.options.upkeep
        poll_seconds, error_delay = MIN_POLL_SECONDS, 0.0
        try:
            with notifier.handle_signals(handlers), registration, run_upkeep(upkeep):
                while not self.stopping:
                    registration.beat_if_due()
                    notifier.listen()
                    try:
                        count = sum(self._relay_database(delivery_queue) for delivery_queue in delivery_queues)
                        error_delay = 0.0
                    except Exception as error:  # noqa: BLE001 - each broker has its own errors, which may be temporary
                        close_unusable_connections()
                        log = logger.debug if error_delay else logger.warning
                        log("Deliveries could not be published and are tried again: %r", error)
                        error_delay = min(5.0, error_delay * 2 or 0.1)
                        notifier.wait(error_delay)
                        continue
                    if not count and (self.options.once or self.options.burst):
                        return 0
                    if count or notifier.wait(poll_seconds):
                        poll_seconds = MIN_POLL_SECONDS
                    else:
                        poll_seconds = min(MAX_POLL_SECONDS, poll_seconds * 2)
            return 0
        finally:
            notifier.close()
            connections.close_all()

    def _relay_database(self, delivery_queue: DeliveryQueue) -> int:
        """Publish due deliveries of one database, up to ``MAX_IN_FLIGHT`` per queue; return how many."""
        alias = delivery_queue.alias
        redispatch_at = now_us() + int(conf.get().DURABLE.REDISPATCH * SECOND_US)
        if self._full_queues.get(alias) or self._remaining_capacity.get(alias, 0) < DISPATCH_BATCH_SIZE:
            in_flight = delivery_queue.count_in_flight(redispatch_at)
            full = [queue for queue, count in in_flight.items() if count > MAX_IN_FLIGHT - DISPATCH_BATCH_SIZE]
            busiest = max((count for queue, count in in_flight.items() if queue not in full), default=0)
            self._full_queues[alias] = full
            self._remaining_capacity[alias] = MAX_IN_FLIGHT - busiest
        deliveries = delivery_queue.dispatch(DISPATCH_BATCH_SIZE, redispatch_at, self._full_queues[alias])
        self._remaining_capacity[alias] -= len(deliveries)
        if deliveries:
            try:
                self.publish(alias, deliveries)
            except Exception:
                delivery_queue.recall([delivery_id for delivery_id, _ in deliveries], redispatch_at)
                raise
            self.published_count += len(deliveries)
        return len(deliveries)

    def stop(self) -> None:
        """Stop publishing."""
        self.stopping = True

    def _on_hangup(self) -> None:
        self.reload = True
        self.stop()
