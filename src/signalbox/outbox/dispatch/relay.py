"""The relay of an engine: marks what is due as sent until T, commits, then publishes. What was lost is sent after T.

The order matters: a message that is published before its mark is committed can be run and marked in the wrong order,
and a mark without a message costs nothing but T.
"""

from __future__ import annotations

import logging
import signal
import time
from importlib import import_module
from typing import TYPE_CHECKING, Final

from django.db import Error, connections

from signalbox import conf
from signalbox.outbox.queue import SECOND_US, DeliveryQueue, get_delivery_databases, now_us
from signalbox.outbox.wakeup import Notifier

if TYPE_CHECKING:
    from signalbox.outbox.worker import WorkerOptions

logger = logging.getLogger("signalbox")

MAX_IN_FLIGHT: Final = 1000
"""Messages of a queue that are out at a time: the queue is in the database, and the broker's stays short."""
DISPATCH_BATCH_SIZE: Final = 200
MIN_POLL_SECONDS: Final = 0.02
MAX_POLL_SECONDS: Final = 0.5
PRUNE_INTERVAL_SECONDS: Final = 60.0

_MODULES: Final = {"celery": "celery", "tasks": "django_tasks"}
"""The module of each engine."""


class Relay:
    """Hands deliveries over to an engine."""

    def __init__(self, options: WorkerOptions, dispatcher: str) -> None:
        self.options = options
        self.publish = import_module(f"signalbox.outbox.dispatch.{_MODULES[dispatcher]}").publish
        self.stopping = False
        self.reload = False
        self.published_count = 0
        self._remaining_capacity: dict[str, int] = {}
        """Messages that each database may send before it is counted again what is out."""
        self._full_queues: dict[str, list[str]] = {}
        """Queues of each database that may have no more."""

    def run(self) -> int:
        """Relay until told to stop; return the exit status."""
        names = self.options.databases or get_delivery_databases()
        every = [DeliveryQueue(alias, self.options.queues) for alias in names]
        waiting = Notifier([claims.alias for claims in every])
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self._on_hangup}
        pause, trouble, pruned = MIN_POLL_SECONDS, 0.0, time.monotonic()
        try:
            with waiting.handle_signals(handlers):
                while not self.stopping:
                    waiting.listen()
                    try:
                        found = sum(self._relay_database(claims) for claims in every)
                        if time.monotonic() - pruned > PRUNE_INTERVAL_SECONDS:
                            pruned = time.monotonic()
                            for claims in every:
                                claims.prune()
                        trouble = 0.0
                    except Exception as error:  # noqa: BLE001 - each broker has its own errors; all of them may pass
                        self._close_unusable_connections()
                        log = logger.debug if trouble else logger.warning
                        log("Deliveries could not be handed over, which is tried again: %r", error)
                        trouble = min(5.0, trouble * 2 or 0.1)
                        waiting.wait(trouble)
                        continue
                    if not found and (self.options.once or self.options.burst):
                        return 0
                    if found or waiting.wait(pause):
                        pause = MIN_POLL_SECONDS
                    else:
                        pause = min(MAX_POLL_SECONDS, pause * 2)
            return 0
        finally:
            waiting.close()
            connections.close_all()

    def _relay_database(self, delivery_queue: DeliveryQueue) -> int:
        """Hand over what is due in one database, as much as may be under way; return how many."""
        until = now_us() + int(conf.get().REDISPATCH * SECOND_US)
        if (
            self._full_queues.get(delivery_queue.alias)
            or self._remaining_capacity.get(delivery_queue.alias, 0) < DISPATCH_BATCH_SIZE
        ):
            out = delivery_queue.count_in_flight(until)
            self._full_queues[delivery_queue.alias] = [
                queue for queue, number in out.items() if number > MAX_IN_FLIGHT - DISPATCH_BATCH_SIZE
            ]
            self._remaining_capacity[delivery_queue.alias] = MAX_IN_FLIGHT - max(
                (number for queue, number in out.items() if queue not in self._full_queues[delivery_queue.alias]),
                default=0,
            )
        found = delivery_queue.dispatch(DISPATCH_BATCH_SIZE, until, self._full_queues[delivery_queue.alias])
        self._remaining_capacity[delivery_queue.alias] -= len(found)
        if found:
            try:
                self.publish(delivery_queue.alias, found)
            except Exception:
                delivery_queue.recall([number for number, _ in found], until)
                raise
            self.published_count += len(found)
        return len(found)

    def stop(self) -> None:
        """Hand over nothing any more."""
        self.stopping = True

    def _on_hangup(self) -> None:
        self.reload = True
        self.stop()

    @staticmethod
    def _close_unusable_connections() -> None:
        for connection in connections.all(initialized_only=True):
            try:
                connection.close_if_unusable_or_obsolete()
            except Error:
                connection.connection = None
