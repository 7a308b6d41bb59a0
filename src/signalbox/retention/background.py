"""The purge of the workers: once an hour (``watermarks.INTERVAL_US``), in one worker of all that share a database."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from signalbox import conf
from signalbox.core import clock, loggers
from signalbox.retention import rules, watermarks
from signalbox.retention.purging import Purge, PurgeProgress, get_candidate_databases, has_tables

logger = loggers.get_logger("worker")

FIRST_CHECK_SECONDS: Final = 1.0
CHECK_SECONDS: Final = 60.0
"""Seconds between two checks whether a purge is due."""
RENEW_SECONDS: Final = 60.0


def purge_hourly(stopping: threading.Event, databases: Collection[str] = ()) -> None:
    """Purge when it is due, until ``stopping`` is set. A failure is logged, and the purge is tried again later.

    Args:
        stopping: Ends the purge after its current transaction.
        databases: Aliases of the databases; if empty, all that have the tables and are not excluded by a router.
    """
    delay = FIRST_CHECK_SECONDS
    while not stopping.wait(delay):
        delay = CHECK_SECONDS
        for alias in (databases or get_candidate_databases()) if _has_rules() else ():
            try:
                purge_if_due(alias, stopping)
            except Exception as error:  # noqa: BLE001 - a failed purge must not end the worker
                logger.error("Database %r could not be purged and is purged later: %s", alias, error)
        connections.close_all()


def _has_rules() -> bool:
    return any(days is not None for days in conf.get().RETENTION.values())


def purge_if_due(alias: str, stopping: threading.Event) -> bool:
    """Purge a database if its purge is due and no other worker does it. Return whether this worker did.

    A purge that was stopped, or has failed, is due when the lease has expired.
    """
    if stopping.is_set() or not has_tables(alias) or not watermarks.take_lease(alias):
        return False
    started = clock.now_us()
    purge = Purge(alias, should_stop=stopping.is_set, on_progress=_LeaseRenewal(alias))
    try:
        purge.apply_rules(rules.load())
    except ImproperlyConfigured as error:
        logger.error("The event log is not purged: %s", error)
    if not stopping.is_set():
        watermarks.end_lease(alias, started)
    if total := sum(purge.deleted.values()):
        logger.info("%d rows of %r were purged: %s", total, alias, purge.deleted)
    return True


class _LeaseRenewal:
    """Renews the lease while the purge makes progress."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._renewed_at = clock.monotonic()

    def __call__(self, progress: PurgeProgress) -> None:
        if clock.monotonic() - self._renewed_at > RENEW_SECONDS:
            self._renewed_at = clock.monotonic()
            watermarks.renew_lease(self._alias)
