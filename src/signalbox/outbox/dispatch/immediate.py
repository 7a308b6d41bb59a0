"""The engine for development: what is due runs in the process that caused it, right after the commit."""

from __future__ import annotations

import logging
import threading

from django.db import connections

from signalbox.outbox.execution import attempt
from signalbox.outbox.queue import Claims

logger = logging.getLogger("signalbox")

_running = threading.local()


def run_due(alias: str) -> None:
    """Run what is due in the database ``alias``; failures are logged, and wait for the next occasion."""
    if getattr(_running, "now", False) or connections[alias].in_atomic_block:
        return  # what receivers cause is run by the loop below
    _running.now = True
    try:
        claims = Claims(alias)
        while found := claims.claim(1, begin=1):
            for one in found:
                claims.settle(one, attempt(one))
    except Exception:
        logger.exception("Deliveries could not be run.")
    finally:
        _running.now = False
