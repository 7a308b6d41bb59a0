"""The engine for development: what is due runs in the process that caused it, right after the commit."""

from __future__ import annotations

import logging
import threading

from django.db import connections

from signalbox.outbox.execution import execute
from signalbox.outbox.queue import DeliveryQueue

logger = logging.getLogger("signalbox")

_state = threading.local()


def run_due(alias: str) -> None:
    """Run what is due in the database ``alias``; failures are logged, and wait for the next occasion."""
    if getattr(_state, "active", False) or connections[alias].in_atomic_block:
        return  # what receivers cause is run by the loop below
    _state.active = True
    try:
        claims = DeliveryQueue(alias)
        while found := claims.acquire(1, start_count=1):
            for one in found:
                claims.complete(one, execute(one))
    except Exception:
        logger.exception("Deliveries could not be run.")
    finally:
        _state.active = False
