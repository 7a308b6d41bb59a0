"""The dispatcher for development: due deliveries run in the process that caused them, right after the commit."""

from __future__ import annotations

import threading

from django.db import connections

from signalbox.core import loggers
from signalbox.outbox.execution import execute
from signalbox.outbox.queue import DeliveryQueue

logger = loggers.get_logger("worker")

_state = threading.local()


def run_due(alias: str) -> None:
    """Run due deliveries in the database ``alias``. Errors are logged, and the deliveries run at the next commit."""
    if getattr(_state, "active", False) or connections[alias].in_atomic_block:
        return  # deliveries that receivers cause are run by the loop below
    _state.active = True
    try:
        delivery_queue = DeliveryQueue(alias)
        while deliveries := delivery_queue.acquire(1, start_count=1):
            for delivery in deliveries:
                delivery_queue.complete(delivery, execute(delivery))
    except Exception:
        logger.exception("Deliveries could not be run.")
    finally:
        _state.active = False
