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
"""Seconds between two looks where the database does not tell of new deliveries; grows from the shortest one."""

MAX_POLL_LISTENING_SECONDS: Final = 5.0

MAX_BATCH_SIZE: Final = 100
"""Deliveries that one claim takes."""

PREFETCH_SECONDS: Final = 1.0
"""Seconds of work that a claim takes, by what deliveries took so far: what is claimed, no other worker can run. What
takes longer than that to be begun is given back."""

TICK_SECONDS: Final = 0.25
"""Seconds between two looks of the main thread at what runs too long."""

PRUNE_INTERVAL_SECONDS: Final = 60.0

_HANDLED_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

EXIT_STUCK_RECEIVER: Final = 75
"""Exit status after a receiver that did not end: sysexits' EX_TEMPFAIL, start me again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """How a worker works."""

    threads: int = 1
    """Deliveries that run at the same time."""
    queues: tuple[str, ...] = ()
    """Queues that it works for; none: all."""
    databases: tuple[str, ...] = ()
    """Databases whose deliveries it runs; none: every one that holds any."""
    once: bool = False
    """End after one delivery, or if none is due."""
    burst: bool = False
    """End when none is due."""
    grace: float = 30.0
    """Seconds that running deliveries are given to end when the worker is told to."""


class Worker:
    """A process's worker."""

    def __init__(self, options: WorkerOptions, *, supervisor_pid: int | None = None) -> None:
        self.options = options
        self._supervisor_pid = supervisor_pid
        """The process without which this one is to end."""
        self.delivery_queues: dict[str, DeliveryQueue] = {}
        self._queue_rotation: Iterator[DeliveryQueue] = cycle(())
        self.watchdog = Watchdog()
        self.stopping = threading.Event()
        self.reload = False
        self.attempts_made = 0
        """Attempts that this worker made."""
        self._stop_requests = 0
        """How often it was told to end; asked twice, it waits for nothing."""
        self._thread_failed = False
        self._started_count = 0
        """Deliveries that threads took to run them."""
        self._stuck_threads: set[int | None] = set()
        """Threads with a receiver that does not end."""
        self._prefetched: deque[LeasedDelivery] = deque()
        self._leased: dict[tuple[str, int], LeasedDelivery] = {}
        """What is claimed, running or not, and has to be renewed."""
        self._releasing = False
        """Whether something is on its way back to the database, where it is not due yet."""
        self._last_renewed: dict[str, float] = {}
        """When the leases in each database were last renewed."""
        self._lock = threading.Lock()
        self._acquire_lock = threading.Lock()
        self._idle_threads = 0
        self._average_seconds = 0.05
        """What a delivery took lately, until it was written what became of it: a moving average."""
        self._work_available = threading.Event()
        self._is_listening = False
        self._unavailable: dict[str, tuple[float, float]] = {}
        """Databases that could not be asked: when to ask again, and how long to wait if that fails too."""

    # ------------------------------------------------------------ the main thread

    def run(self) -> int:
        """Work until told to stop; return the exit status."""
        self.delivery_queues = {alias: DeliveryQueue(alias, self.options.queues) for alias in self._get_databases()}
        self._queue_rotation = cycle(self.delivery_queues.values())
        self._last_renewed = dict.fromkeys(self.delivery_queues, time.monotonic())
        waiting = Notifier(list(self.delivery_queues))
        handlers = {
            signal.SIGTERM: self._on_terminate,
            signal.SIGINT: self._on_terminate,
            signal.SIGHUP: self._on_hangup,
        }
        if self._supervisor_pid is not None:  # Ctrl-C reaches both, and who supervises passes it on
            handlers[signal.SIGINT] = lambda: None
        try:
            with waiting.handle_signals(handlers):
                return self._monitor_threads(waiting)
        finally:
            waiting.close()
            connections.close_all()

    def _get_databases(self) -> list[str]:
        if self.options.databases:
            return list(self.options.databases)
        return get_delivery_databases()

    def stop(self) -> None:
        """End: begin nothing any more, let what runs come to its end."""
        self.stopping.set()
        self._work_available.set()

    # Handlers set plain values alone: an event has a lock, which the thread that they interrupt may hold.

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
        pruned = time.monotonic()
        until: float | None = None
        while any(thread.is_alive() for thread in threads):
            notifier.listen()
            self._is_listening = notifier.is_listening()
            if notifier.wait(TICK_SECONDS):
                self._work_available.set()
            if self._should_stop():
                self.stop()
            moment = time.monotonic()
            self._interrupt_overdue()
            self._release_prefetched(PREFETCH_SECONDS)
            self._renew_leases()
            if moment - pruned >= PRUNE_INTERVAL_SECONDS:
                pruned = moment
                self._prune()
            if self.stopping.is_set():
                until = until or moment + self.options.grace
                self._release_prefetched()
                ended = all(not thread.is_alive() or thread.ident in self._stuck_threads for thread in threads)
                if ended or self._stop_requests > 1 or moment > until:
                    break
        self._release_prefetched()  # a thread may have claimed something just before it ended
        if self._leased:
            logger.error("%d deliveries did not end; others run them when their lease is over.", len(self._leased))
        if any(thread.is_alive() for thread in threads):
            return EXIT_STUCK_RECEIVER
        return 1 if self._thread_failed or (self._unavailable and (self.options.once or self.options.burst)) else 0

    def _interrupt_overdue(self) -> None:
        for running in list(self.watchdog.attempts.values()):
            late = running.get_overrun_seconds()
            if late > TIMEOUT_GRACE_SECONDS:
                self._abandon(running)
            elif late > 0:
                running.interrupt()

    def _abandon(self, running_attempt: RunningAttempt) -> None:
        """Write down that a receiver does not end, not even when interrupted, and end the process around it."""
        if running_attempt.thread_id in self._stuck_threads:
            return
        self._stuck_threads.add(running_attempt.thread_id)
        claimed = running_attempt.delivery
        durable = find_durable_receiver(claimed.receiver, claimed.signal, claimed.sender)
        logger.critical("%s does not end (delivery %d): this worker ends instead.", claimed.receiver, claimed.id)
        if durable is not None:
            result = build_failure_result(
                claimed, durable, f"TimedOut: it took longer than {durable.timeout:g} seconds, and did not end"
            )
            self._retry_until_available(
                lambda: self.delivery_queues[claimed.alias].complete(claimed, result), timeout=5
            )
        self._drop_lease(claimed)
        self.stop()

    def _renew_leases(self) -> None:
        """Extend the leases of what is held.

        A database that is away, or locked, is tried again at the next tick: leases do not wait for it.
        """
        for claims in self.delivery_queues.values():
            if self._get_seconds_since_renewal(claims.alias) < conf.get().LEASE / 3:
                continue
            self._try_once(partial(self._renew_leases_in, claims))

    def _get_seconds_since_renewal(self, alias: str) -> float:
        """Return for how many seconds the leases in a database have not been renewed."""
        return time.monotonic() - self._last_renewed.get(alias, 0.0)

    def _renew_leases_in(self, delivery_queue: DeliveryQueue) -> None:
        moment = time.monotonic()
        held = [one for one in list(self._leased.values()) if one.alias == delivery_queue.alias]
        if held:
            lost = delivery_queue.renew_leases(held)
            taken = sorted(
                one.id for one in held if one.id in lost and self._is_leased(one)
            )  # not what was just finished
            if taken:
                logger.warning("Deliveries %s took this worker for dead, and are run by another.", taken)
        self._last_renewed[delivery_queue.alias] = moment

    def _is_leased(self, delivery: LeasedDelivery) -> bool:
        return self._leased.get((delivery.alias, delivery.id)) is delivery

    def _drop_lease(self, delivery: LeasedDelivery) -> None:
        """Hold ``one`` no longer; a later claim of the same delivery stays."""
        if self._is_leased(delivery):
            del self._leased[delivery.alias, delivery.id]

    def _release_prefetched(self, min_wait_seconds: float = 0.0) -> None:
        """Give back what has waited here so many seconds for a thread: another worker may be idle."""
        left = []
        before = time.monotonic() - min_wait_seconds
        with self._lock:
            while self._prefetched and self._prefetched[0].acquired_at <= before:
                left.append(self._prefetched.popleft())
                self._drop_lease(left[-1])
            self._releasing = bool(left)
        for alias, claims in self.delivery_queues.items():
            mine = [one for one in left if one.alias == alias]
            if mine:
                self._try_once(partial(claims.release, mine))
        self._releasing = False

    def _prune(self) -> None:
        for claims in self.delivery_queues.values():
            while (
                not self.stopping.is_set() and not self._should_stop() and (self._try_once(claims.prune) or 0) >= 1000
            ):
                time.sleep(0.05)  # a purge must not keep SQLite's write lock to itself

    # ------------------------------------------------------------ the threads

    def _run_thread(self, notifier: Notifier) -> None:
        following: LeasedDelivery | None = None
        try:
            while True:
                one = following or self._get_next()
                following = None
                if one is None:
                    return
                if self._start_attempt(one):
                    following = self._run_delivery(one)
        except BaseException:
            logger.exception("A worker's thread failed.")
            self._thread_failed = True
            self.stop()
        finally:
            connections.close_all()
            notifier.wake_up()

    def _start_attempt(self, delivery: LeasedDelivery) -> bool:
        """Count the attempt, if that was not done with the claim or the delivery before."""
        if delivery.attempt_started:
            return True
        if self._retry_until_available(lambda: self.delivery_queues[delivery.alias].start_attempt(delivery)):
            delivery.attempt_started = True
            delivery.attempts += 1
            return True
        self._drop_lease(delivery)
        return False

    def _run_delivery(self, delivery: LeasedDelivery) -> LeasedDelivery | None:
        """Run ``one``; return what this thread runs next, if that is known and counted already."""
        began = time.monotonic()
        result = execute(delivery, self.watchdog)
        self.attempts_made += 1
        following = None
        if self.options.once:
            self.stop()
        else:
            following = self._pop_prefetched(delivery.alias)
        self._complete(delivery, result, following)
        self._average_seconds += 0.2 * (time.monotonic() - began - self._average_seconds)
        self._drop_lease(delivery)
        if following is None or following.attempt_started:
            return following
        self._drop_lease(following)
        return None

    def _complete(self, delivery: LeasedDelivery, result: AttemptResult, next_delivery: LeasedDelivery | None) -> None:
        begun = next_delivery is not None and next_delivery.attempt_started
        ahead = None if begun else next_delivery
        answer = self._retry_until_available(
            lambda: self.delivery_queues[delivery.alias].complete(delivery, result, ahead)
        )
        settled, started = answer or (False, False)
        if not settled:
            logger.warning(
                "%s has run (delivery %d), but its lease was over: another worker runs it too.",
                delivery.receiver,
                delivery.id,
            )
        if ahead is not None and started:
            ahead.attempt_started = True
            ahead.attempts += 1

    def _pop_prefetched(self, alias: str) -> LeasedDelivery | None:
        """Return the next of what is claimed already, of this database."""
        with self._lock:
            if self.stopping.is_set() or not self._prefetched or self._prefetched[0].alias != alias:
                return None
            return self._prefetched.popleft()

    def _get_next(self) -> LeasedDelivery | None:
        """Return the next delivery to run, waiting for one; ``None`` when this worker is to end."""
        self._idle_threads += 1
        try:
            with self._acquire_lock:
                pause = MIN_POLL_SECONDS
                while not self.stopping.is_set() and not (self.options.once and self._started_count):
                    with self._lock:
                        if self._prefetched:
                            self._started_count += 1
                            return self._prefetched.popleft()
                        returning = self._releasing
                    self._work_available.clear()
                    if self._acquire():
                        continue
                    if (self.options.once or self.options.burst) and not returning:
                        self.stop()
                        break
                    self._work_available.wait(self._get_seconds_until_next_check(pause))
                    longest = MAX_POLL_LISTENING_SECONDS if self._is_listening else MAX_POLL_SECONDS
                    pause = MIN_POLL_SECONDS if self._work_available.is_set() else min(longest, pause * 2)
                return None
        finally:
            self._idle_threads -= 1

    def _get_seconds_until_next_check(self, poll_seconds: float) -> float:
        wakes = [
            wake
            for claims in self.delivery_queues.values()
            if (wake := self._try_once(claims.get_next_check_at)) is not None
        ]
        return min([poll_seconds, *(max(0.001, (wake - now_us()) / SECOND_US) for wake in wakes if wake > now_us())])

    def _acquire(self) -> bool:
        """Claim what is due, as much as can be run soon; return whether there was any."""
        begin = 1 if self.options.once else max(1, self._idle_threads)
        limit = begin
        if not self.options.once:
            limit = max(
                begin,
                min(MAX_BATCH_SIZE, int(PREFETCH_SECONDS * self.options.threads / max(self._average_seconds, 0.001))),
            )
        found = False
        for _ in self.delivery_queues:
            claims = next(self._queue_rotation)  # a database with much to do must not make the others wait
            for one in self._acquire_in(claims, limit, begin):
                found = True
                self._leased[one.alias, one.id] = one
                with self._lock:
                    self._prefetched.append(one)
            if found:
                break
        return found

    def _acquire_in(self, delivery_queue: DeliveryQueue, limit: int, start_count: int) -> list[LeasedDelivery]:
        """Claim in one database; one that is away is left alone for a while, and does not hold up the others."""
        again, pause = self._unavailable.get(delivery_queue.alias, (0.0, 0.1))
        if time.monotonic() < again:
            return []
        try:
            if (
                self._get_seconds_since_renewal(delivery_queue.alias) > conf.get().LEASE / 2
            ):  # it was away: keep what runs here, then look
                self._renew_leases_in(delivery_queue)
            found = delivery_queue.acquire(
                limit, start_count, [number for alias, number in list(self._leased) if alias == delivery_queue.alias]
            )
        except Error as error:
            _close_unusable_connections()
            if delivery_queue.alias not in self._unavailable:
                logger.warning("Database %r is away or locked, and is tried again: %s", delivery_queue.alias, error)
            self._unavailable[delivery_queue.alias] = (time.monotonic() + pause, min(5.0, pause * 2))
            return []
        if self._unavailable.pop(delivery_queue.alias, None):
            logger.info("Database %r is back.", delivery_queue.alias)
        return found

    # ------------------------------------------------------------ a database that is away, or locked

    def _retry_until_available(self, call: Callable[[], T], *, timeout: float | None = None) -> T | None:
        """Return what ``call`` returns, calling it again while the database is away or locked.

        ``None`` if it still was when the worker was told to end, or after ``patience`` seconds.
        """
        pause, began, told = 0.05, time.monotonic(), False
        while True:
            try:
                return call()
            except Error as error:
                _close_unusable_connections()
                if not told:
                    logger.warning("The database is away or locked, and is tried again: %s", error)
                    told = True
            waited = time.monotonic() - began
            if (self.stopping.is_set() and waited > 5) or (timeout is not None and waited > timeout):
                return None
            time.sleep(pause)
            pause = min(5.0, pause * 2)

    def _try_once(self, call: Callable[[], T]) -> T | None:
        """Return what ``call`` returns; ``None`` if the database is away or locked just now."""
        try:
            return call()
        except Error as error:
            _close_unusable_connections()
            logger.debug("The database is away or locked: %s", error)
            return None


def _close_unusable_connections() -> None:
    """Close this thread's connections that are of no use any more; the next statement opens another."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.in_atomic_block:
            try:
                connection.close_if_unusable_or_obsolete()
            except Error:  # MySQL's driver closes nothing twice
                connection.connection = None
