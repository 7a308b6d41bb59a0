"""Repeat calls while a database is unavailable or locked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from django.db import Error, connections

from signalbox.core import clock, loggers

if TYPE_CHECKING:
    from collections.abc import Callable

logger = loggers.get_logger("worker")

T = TypeVar("T")

FIRST_RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 5.0


def retry_until_available(call: Callable[[], T], gives_up: Callable[[float], bool]) -> T | None:
    """Return the result of ``call``, which is repeated while the database is unavailable or locked.

    ``gives_up`` is called with the seconds since the first call. Return ``None`` when it returns true.
    """
    delay, started_at, logged = FIRST_RETRY_SECONDS, clock.monotonic(), False
    while True:
        try:
            return call()
        except Error as error:
            close_unusable_connections()
            if not logged:
                logger.warning("The database is unavailable or locked and is tried again: %s", error)
                logged = True
        if gives_up(clock.monotonic() - started_at):
            return None
        time.sleep(delay)
        delay = min(MAX_RETRY_SECONDS, delay * 2)


def try_once(call: Callable[[], T]) -> T | None:
    """Return the result of ``call``; ``None`` if the database is unavailable or locked."""
    try:
        return call()
    except Error as error:
        close_unusable_connections()
        logger.debug("The database is unavailable or locked: %s", error)
        return None


def close_unusable_connections() -> None:
    """Close the unusable connections of this thread. The next statement opens another."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.in_atomic_block:
            try:
                connection.close_if_unusable_or_obsolete()
            except Error:  # MySQL's driver raises if it is closed already
                connection.connection = None
