"""A worker: threads of one process that acquire deliveries and run their receivers."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Final, TypeVar

from django.db import Error, connections

from signalbox import conf
from signalbox.outbox.execution import TIMEOUT_GRACE_SECONDS, RunningAttempt, Watchdog, build_failure_result, execute
from signalbox.outbox.queue import (
    SECOND_US,
    AttemptResult,
    DeliveryQueue,
    LeasedDelivery,
    get_delivery_databases,
    now_us,
)
from signalbox.outbox.registry import find_durable_receiver
from signalbox.outbox.wakeup import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("signalbox")

T = TypeVar("T")

MIN_POLL_SECONDS: Final = 0.02

MAX_POLL_SECONDS: Final = 1.0
"""Maximum poll interval if the database sends no notifications. The interval grows from the minimum."""

MAX_POLL_LISTENING_SECONDS: Final = 5.0

MAX_BATCH_SIZE: Final = 100
"""Maximum number of deliveries that one query leases."""

PREFETCH_SECONDS: Final = 1.0
"""Seconds of work that one query leases, estimated from recent deliveries. Deliveries that are not started within that
time are released, because no other worker can run them."""

TICK_SECONDS: Final = 0.25
"""Seconds between two checks of the main thread for receivers that exceed their timeouts."""

PRUNE_INTERVAL_SECONDS: Final = 60.0

_HANDLED_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

EXIT_STUCK_RECEIVER: Final = 75
"""Exit status if a receiver did not end: EX_TEMPFAIL of sysexits, so that the worker is restarted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """The options of a worker."""

    threads: int = 1
    """Number of deliveries that run at the same time."""
    queues: tuple[str, ...] = ()
    """Queues whose deliveries it runs; if empty, all."""
    databases: tuple[str, ...] = ()
    """Databases whose deliveries it runs; if empty, all that have the table."""
    once: bool = False
    """Whether to end after one delivery, or if none is due."""
    burst: bool = False
    """Whether to end when no delivery is due."""
    grace: float = 30.0
    """Seconds that running deliveries have to end after the worker was asked to end."""


class Worker:
    """The worker of a process."""

    def __init__(self, options: WorkerOptions, *, supervisor_pid: int | None = None) -> None:
        self.options = options
        self._supervisor_pid = supervisor_pid
        """The worker ends if this process is no longer its parent."""
        self.delivery_queues: dict[str, DeliveryQueue] = {}
        self._queue_rotation: Iterator[DeliveryQueue] = cycle(())
        self.watchdog = Watchdog()
        self.stopping = threading.Event()
        self.reload = False
        self.attempts_made = 0
        """Number of attempts that this worker has executed."""
        self._stop_requests = 0
        """How often it was asked to end. The second time, it ends immediately."""
        self._thread_failed = False
        self._started_count = 0
        """Number of prefetched deliveries that threads have taken."""
        self._stuck_threads: set[int | None] = set()
        """Ids of threads with a receiver that does not end."""
        self._prefetched: deque[LeasedDelivery] = deque()
        self._leased: dict[tuple[str, int], LeasedDelivery] = {}
        """Leased deliveries, running or not, whose leases must be renewed."""
        self._releasing = False
        """Whether deliveries are being released and are not due in the database yet."""
        self._last_renewed: dict[str, float] = {}
        """When the leases in each database were last renewed."""
        self._lock = threading.Lock()
        self._acquire_lock = threading.Lock()
        self._idle_threads = 0
        self._average_seconds = 0.05
        """Moving average of the seconds per delivery, including the time to write its result."""
        self._work_available = threading.Event()
        self._is_listening = False
        self._unavailable: dict[str, tuple[float, float]] = {}
        """Unavailable databases: when to retry each, and the delay after the next failure."""

    # ------------------------------------------------------------ the main thread

    def run(self) -> int:
        """Run deliveries until ``stop()`` or a signal; return the exit status."""
        self.delivery_queues = {alias: DeliveryQueue(alias, self.options.queues) for alias in self._get_databases()}
        self._queue_rotation = cycle(self.delivery_queues.values())
        self._last_renewed = dict.fromkeys(self.delivery_queues, time.monotonic())
        notifier = Notifier(list(self.delivery_queues))
        handlers = {
            signal.SIGTERM: self._on_terminate,
            signal.SIGINT: self._on_terminate,
            signal.SIGHUP: self._on_hangup,
        }
        if self._supervisor_pid is not None:  # Ctrl-C reaches both processes, and the supervisor forwards it
            handlers[signal.SIGINT] = lambda: None
        try:
            with notifier.handle_signals(handlers):
                return self._monitor_threads(notifier)
        finally:
            notifier.close()
            connections.close_all()

    def _get_databases(self) -> list[str]:
        if self.options.databases:
            return list(self.options.databases)
        return get_delivery_databases()

    def stop(self) -> None:
        """Start no more deliveries, and end when the running ones have ended."""
        self.stopping.set()
        self._work_available.set()

    # Handlers only set plain values: an event has a lock, which the interrupted thread may hold.

    def _on_terminate(self) -> None:
        self._stop_requests += 1

    def _on_hangup(self) -> None:
        self.reload = True
        self._stop_requests += 1

    def _should_stop(self) -> bool:
        return bool(self._stop_requests) or (self._supervisor_pid is not None and os.getppid() != self._supervisor_pid)

    def _monitor_threads(self, notifier: Notifier) -> int:
        threads = [
            threading.Thread(target=self._run_thread, args=(notifier,), name=f"signalbox-{n}", daemon=True)
            for n in range(self.options.threads)
        ]
        for thread in threads:
            thread.start()
        last_pruned = time.monotonic()
        deadline: float | None = None
        while any(thread.is_alive() for thread in threads):
            notifier.listen()
            self._is_listening = notifier.is_listening()
            if notifier.wait(TICK_SECONDS):
                self._work_available.set()
            if self._should_stop():
                self.stop()
            now = time.monotonic()
            self._interrupt_overdue()
            self._release_prefetched(PREFETCH_SECONDS)
            self._renew_leases()
            if now - last_pruned >= PRUNE_INTERVAL_SECONDS:
                last_pruned = now
                self._prune()
            if self.stopping.is_set():
                deadline = deadline or now + self.options.grace
                self._release_prefetched()
                ended = all(not thread.is_alive() or thread.ident in self._stuck_threads for thread in threads)
                if ended or self._stop_requests > 1 or now > deadline:
                    break
        self._release_prefetched()  # a thread may have leased deliveries just before it ended
        if self._leased:
            logger.error(
                "%d deliveries did not end; others run them when their leases have expired.", len(self._leased)
            )
        if any(thread.is_alive() for thread in threads):
            return EXIT_STUCK_RECEIVER
        return 1 if self._thread_failed or (self._unavailable and (self.options.once or self.options.burst)) else 0

    def _interrupt_overdue(self) -> None:
        for running in list(self.watchdog.attempts.values()):
            overrun = running.get_overrun_seconds()
            if overrun > TIMEOUT_GRACE_SECONDS:
                self._abandon(running)
            elif overrun > 0:
                running.interrupt()

    def _abandon(self, running_attempt: RunningAttempt) -> None:
        """Record that a receiver does not end even when interrupted, and end this process."""
        if running_attempt.thread_id in self._stuck_threads:
            return
        self._stuck_threads.add(running_attempt.thread_id)
        delivery = running_attempt.delivery
        durable = find_durable_receiver(delivery.receiver, delivery.signal, delivery.sender)
        logger.critical("%s does not end (delivery %d): this worker ends instead.", delivery.receiver, delivery.id)
        if durable is not None:
            error = f"TimeLimitExceeded: it took longer than {durable.timeout:g} seconds, and did not end"
            result = build_failure_result(delivery, durable, error)
            delivery_queue = self.delivery_queues[delivery.alias]
            self._retry_until_available(lambda: delivery_queue.complete(delivery, result), timeout=5)
        self._drop_lease(delivery)
        self.stop()

    def _renew_leases(self) -> None:
        """Extend the leases of all deliveries.

        A database that is unavailable or locked is tried again at the next tick and does not delay the others.
        """
        for delivery_queue in self.delivery_queues.values():
            if self._get_seconds_since_renewal(delivery_queue.alias) < conf.get().DURABLE.LEASE / 3:
                continue
            self._try_once(partial(self._renew_leases_in, delivery_queue))

    def _get_seconds_since_renewal(self, alias: str) -> float:
        """Return the number of seconds since the leases in a database were renewed."""
        return time.monotonic() - self._last_renewed.get(alias, 0.0)

    def _renew_leases_in(self, delivery_queue: DeliveryQueue) -> None:
        now = time.monotonic()
        deliveries = [delivery for delivery in list(self._leased.values()) if delivery.alias == delivery_queue.alias]
        if deliveries:
            lost_ids = delivery_queue.renew_leases(deliveries)
            # A delivery that has just been completed is not leased any more.
            lost = sorted(
                delivery.id for delivery in deliveries if delivery.id in lost_ids and self._is_leased(delivery)
            )
            if lost:
                logger.warning("The leases of the deliveries %s have expired, and another worker runs them.", lost)
        self._last_renewed[delivery_queue.alias] = now

    def _is_leased(self, delivery: LeasedDelivery) -> bool:
        return self._leased.get((delivery.alias, delivery.id)) is delivery

    def _drop_lease(self, delivery: LeasedDelivery) -> None:
        """Stop renewing the lease of ``delivery``. A later lease of the same row is kept."""
        if self._is_leased(delivery):
            del self._leased[delivery.alias, delivery.id]

    def _release_prefetched(self, min_wait_seconds: float = 0.0) -> None:
        """Release deliveries that were leased and not started within ``min_wait_seconds``."""
        released = []
        acquired_before = time.monotonic() - min_wait_seconds
        with self._lock:
            while self._prefetched and self._prefetched[0].acquired_at <= acquired_before:
                released.append(self._prefetched.popleft())
                self._drop_lease(released[-1])
            self._releasing = bool(released)
        for alias, delivery_queue in self.delivery_queues.items():
            deliveries = [delivery for delivery in released if delivery.alias == alias]
            if deliveries:
                self._try_once(partial(delivery_queue.release, deliveries))
        self._releasing = False

    def _prune(self) -> None:
        for delivery_queue in self.delivery_queues.values():
            while not self.stopping.is_set() and not self._should_stop():
                if (self._try_once(delivery_queue.prune) or 0) < 1000:
                    break
                time.sleep(0.05)  # other writers need SQLite's write lock too

    # ------------------------------------------------------------ the threads

    def _run_thread(self, notifier: Notifier) -> None:
        next_delivery: LeasedDelivery | None = None
        try:
            while True:
                delivery = next_delivery or self._get_next()
                next_delivery = None
                if delivery is None:
                    return
                if self._start_attempt(delivery):
                    next_delivery = self._run_delivery(delivery)
        except BaseException:
            logger.exception("A worker's thread failed.")
            self._thread_failed = True
            self.stop()
        finally:
            connections.close_all()
            notifier.wake_up()

    def _start_attempt(self, delivery: LeasedDelivery) -> bool:
        """Count the attempt, unless that was done with the lease or with the completion of the previous delivery."""
        if delivery.attempt_started:
            return True
        if self._retry_until_available(lambda: self.delivery_queues[delivery.alias].start_attempt(delivery)):
            delivery.attempt_started = True
            delivery.attempts += 1
            return True
        self._drop_lease(delivery)
        return False

    def _run_delivery(self, delivery: LeasedDelivery) -> LeasedDelivery | None:
        """Run ``delivery``; return the next one of this thread if its attempt is counted already."""
        started_at = time.monotonic()
        result = execute(delivery, self.watchdog)
        self.attempts_made += 1
        next_delivery = None
        if self.options.once:
            self.stop()
        else:
            next_delivery = self._pop_prefetched(delivery.alias)
        self._complete(delivery, result, next_delivery)
        self._average_seconds += 0.2 * (time.monotonic() - started_at - self._average_seconds)
        self._drop_lease(delivery)
        if next_delivery is None or next_delivery.attempt_started:
            return next_delivery
        self._drop_lease(next_delivery)
        return None

    def _complete(self, delivery: LeasedDelivery, result: AttemptResult, next_delivery: LeasedDelivery | None) -> None:
        is_started = next_delivery is not None and next_delivery.attempt_started
        to_start = None if is_started else next_delivery
        delivery_queue = self.delivery_queues[delivery.alias]
        written = self._retry_until_available(lambda: delivery_queue.complete(delivery, result, to_start))
        completed, started = written or (False, False)
        if not completed:
            logger.warning(
                "%s has run (delivery %d), but its lease had expired: another worker runs it too.",
                delivery.receiver,
                delivery.id,
            )
        if to_start is not None and started:
            to_start.attempt_started = True
            to_start.attempts += 1

    def _pop_prefetched(self, alias: str) -> LeasedDelivery | None:
        """Return the next prefetched delivery if it is of this database."""
        with self._lock:
            if self.stopping.is_set() or not self._prefetched or self._prefetched[0].alias != alias:
                return None
            return self._prefetched.popleft()

    def _get_next(self) -> LeasedDelivery | None:
        """Wait for the next delivery to run and return it; ``None`` if this worker must end."""
        self._idle_threads += 1
        try:
            with self._acquire_lock:
                poll_seconds = MIN_POLL_SECONDS
                while not self.stopping.is_set() and not (self.options.once and self._started_count):
                    with self._lock:
                        if self._prefetched:
                            self._started_count += 1
                            return self._prefetched.popleft()
                        is_releasing = self._releasing
                    self._work_available.clear()
                    if self._acquire():
                        continue
                    if (self.options.once or self.options.burst) and not is_releasing:
                        self.stop()
                        break
                    self._work_available.wait(self._get_seconds_until_next_check(poll_seconds))
                    max_seconds = MAX_POLL_LISTENING_SECONDS if self._is_listening else MAX_POLL_SECONDS
                    is_available = self._work_available.is_set()
                    poll_seconds = MIN_POLL_SECONDS if is_available else min(max_seconds, poll_seconds * 2)
                return None
        finally:
            self._idle_threads -= 1

    def _get_seconds_until_next_check(self, poll_seconds: float) -> float:
        times = [self._try_once(delivery_queue.get_next_check_at) for delivery_queue in self.delivery_queues.values()]
        now = now_us()
        return min([poll_seconds, *(max(0.001, (at - now) / SECOND_US) for at in times if at is not None and at > now)])

    def _acquire(self) -> bool:
        """Lease due deliveries, as many as can be started soon; return whether there were any."""
        start_count = 1 if self.options.once else max(1, self._idle_threads)
        limit = start_count
        if not self.options.once:
            limit = max(
                start_count,
                min(MAX_BATCH_SIZE, int(PREFETCH_SECONDS * self.options.threads / max(self._average_seconds, 0.001))),
            )
        found = False
        for _ in self.delivery_queues:
            delivery_queue = next(self._queue_rotation)  # one database with many deliveries must not delay the others
            for delivery in self._acquire_in(delivery_queue, limit, start_count):
                found = True
                self._leased[delivery.alias, delivery.id] = delivery
                with self._lock:
                    self._prefetched.append(delivery)
            if found:
                break
        return found

    def _acquire_in(self, delivery_queue: DeliveryQueue, limit: int, start_count: int) -> list[LeasedDelivery]:
        """Lease deliveries in one database. An unavailable one is skipped for a while and does not delay the others."""
        retry_at, delay = self._unavailable.get(delivery_queue.alias, (0.0, 0.1))
        if time.monotonic() < retry_at:
            return []
        try:
            if self._get_seconds_since_renewal(delivery_queue.alias) > conf.get().DURABLE.LEASE / 2:
                self._renew_leases_in(delivery_queue)  # it was unavailable: keep the running deliveries first
            held_ids = [delivery_id for alias, delivery_id in list(self._leased) if alias == delivery_queue.alias]
            deliveries = delivery_queue.acquire(limit, start_count, held_ids)
        except Error as error:
            _close_unusable_connections()
            if delivery_queue.alias not in self._unavailable:
                logger.warning(
                    "Database %r is unavailable or locked and is tried again: %s", delivery_queue.alias, error
                )
            self._unavailable[delivery_queue.alias] = (time.monotonic() + delay, min(5.0, delay * 2))
            return []
        if self._unavailable.pop(delivery_queue.alias, None):
            logger.info("Database %r is available again.", delivery_queue.alias)
        return deliveries

    # ------------------------------------------------------------ unavailable or locked databases

    def _retry_until_available(self, call: Callable[[], T], *, timeout: float | None = None) -> T | None:
        """Return the result of ``call``, which is repeated while the database is unavailable or locked.

        Return ``None`` after ``timeout`` seconds, or 5 seconds after the first call if the worker was asked to end.
        """
        delay, started_at, logged = 0.05, time.monotonic(), False
        while True:
            try:
                return call()
            except Error as error:
                _close_unusable_connections()
                if not logged:
                    logger.warning("The database is unavailable or locked and is tried again: %s", error)
                    logged = True
            waited = time.monotonic() - started_at
            if (self.stopping.is_set() and waited > 5) or (timeout is not None and waited > timeout):
                return None
            time.sleep(delay)
            delay = min(5.0, delay * 2)

    def _try_once(self, call: Callable[[], T]) -> T | None:
        """Return the result of ``call``; ``None`` if the database is unavailable or locked."""
        try:
            return call()
        except Error as error:
            _close_unusable_connections()
            logger.debug("The database is unavailable or locked: %s", error)
            return None


def _close_unusable_connections() -> None:
    """Close the unusable connections of this thread. The next statement opens another."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.in_atomic_block:
            try:
                connection.close_if_unusable_or_obsolete()
            except Error:  # MySQL's driver raises if it is closed already
                connection.connection = None
