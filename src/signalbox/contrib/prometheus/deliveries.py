"""A collector of the deliveries in the database. It reads a limited number of rows, and caches the result."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from django.db import Error, connections
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from signalbox.core import clock, interrupts, loggers
from signalbox.outbox import health, queue
from signalbox.pipeline import backends

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric

logger = loggers.get_logger("telemetry")

CACHE_SECONDS: Final = 5.0
"""Seconds for which the figures are cached. Scrapes within that time send no further queries."""

QUERY_SECONDS: Final = 2.0
"""Seconds for which a scrape waits for a database server. Without an answer the figures are missing."""

MAX_RECEIVERS: Final = 200
"""Maximum number of receivers that are named. The others are counted as ``other``."""


class DeliveryCollector(Collector):
    """Collects the numbers of deliveries by state and receiver, and the age of the oldest due one.

    The figures come from the database, so they are the same in each process. Register it in a registry of your own if
    you use one: ``registry.register(DeliveryCollector())``. If a database is unavailable, its figures are missing.

    Args:
        cache_seconds: Seconds for which the figures are cached.
    """

    def __init__(self, cache_seconds: float = CACHE_SECONDS) -> None:
        self._cache_seconds = cache_seconds
        self.reset()
        _collectors.add(self)

    def reset(self) -> None:
        """Discard the figures, so that the next scrape queries the databases."""
        self._lock = threading.Lock()
        self._expires = 0.0
        self._figures = _Figures()
        self._query: _Query | None = None

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values. A registry asks for them when it has no database yet."""
        return _build_families()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with the figures of all databases. Wait at most ``QUERY_SECONDS`` for a server."""
        figures = self._get_figures()
        deliveries, oldest_due = _build_families()
        for (state, receiver), number in sorted(figures.counts.items()):
            deliveries.add_metric((state, receiver), number)
        if figures.oldest_due_seconds is not None:
            oldest_due.add_metric((), figures.oldest_due_seconds)
        return deliveries, oldest_due

    def _get_figures(self) -> _Figures:
        with self._lock:
            if self._query is None:
                if clock.monotonic() < self._expires:
                    return self._figures
                self._query = _Query()
                self._query.start()
            query = self._query
        if not query.wait():
            return _Figures()
        with self._lock:
            if self._query is query:
                self._query = None
                self._figures = query.figures
                self._expires = clock.monotonic() + self._cache_seconds
            return query.figures


class _Figures(NamedTuple):
    counts: Mapping[tuple[str, str], int] = {}
    """By state and receiver."""
    oldest_due_seconds: float | None = None
    """None if no database could be queried."""


class _Query:
    """A query of the figures. It has a thread of its own if a server may not answer."""

    def __init__(self) -> None:
        self.figures = _Figures()
        self._deadline = clock.monotonic() + QUERY_SECONDS
        self._is_done = threading.Event()
        self._has_warned = False

    def start(self) -> None:
        if _may_block():
            run = partial(copy_context().run, self._run)  # in the trace of the scrape, which is ignored
            threading.Thread(target=run, name="signalbox-metrics", daemon=True).start()
        else:
            self._run()

    def wait(self) -> bool:
        """Return True if the figures are known. Wait until the deadline."""
        is_done = self._is_done.wait(max(0.0, self._deadline - clock.monotonic()))
        if not is_done and not self._has_warned:
            self._has_warned = True
            logger.warning("Deliveries could not be counted within %g seconds.", QUERY_SECONDS)
        return is_done

    def _run(self) -> None:
        counts: Counter[tuple[str, str]] = Counter()
        ages = []
        opened = [connection for connection in connections.all() if connection.connection is None]
        try:
            for alias in queue.get_delivery_databases():
                try:
                    counts.update(health.count_by_receiver(alias))
                    ages.append(health.get_lag(alias).oldest_due_seconds)
                except Error as error:
                    logger.warning("The deliveries of %r could not be counted: %s", alias, error)
        except Exception as error:
            interrupts.raise_if_interrupt(error)
            logger.exception("Deliveries could not be counted.")
        finally:
            for connection in opened:  # a server of metrics starts a thread for each scrape
                connection.close()
            self.figures = _Figures(_limit_receivers(counts), max(ages, default=None))
            self._is_done.set()


def _may_block() -> bool:
    """Return True if a query may wait for a server that does not answer.

    In an open transaction, such as that of a test, only its own connection can read its rows.
    """
    every = connections.all()
    has_server = any(backends.get_backend(connection).has_server for connection in every)
    return has_server and not any(connection.in_atomic_block for connection in every)


def _limit_receivers(counts: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    named = set(sorted({receiver for _, receiver in counts})[:MAX_RECEIVERS])
    limited: Counter[tuple[str, str]] = Counter()
    for (state, receiver), number in counts.items():
        limited[state, receiver if receiver in named else "other"] += number
    return limited


def _build_families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "signalbox_deliveries", "Deliveries by state and receiver, at most 10,000.", labels=("state", "receiver")
        ),
        GaugeMetricFamily(
            "signalbox_oldest_due_delivery_age_seconds", "Seconds for which the oldest due delivery has been due."
        ),
    )


_collectors: weakref.WeakSet[DeliveryCollector] = weakref.WeakSet()


def _after_fork() -> None:
    """Give each collector a new lock in a forked child: a thread of the parent may have held it."""
    for collector in _collectors:
        collector.reset()


os.register_at_fork(after_in_child=_after_fork)


__all__ = ["DeliveryCollector"]
