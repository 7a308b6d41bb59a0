"""A worker: threads of one process that acquire deliveries and run their receivers."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Final

from django.db import Error, connections

from signalbox import conf
from signalbox.core import clock, loggers
from signalbox.outbox.claiming import MAX_RUN_LENGTH
from signalbox.outbox.deliveries import Run
from signalbox.outbox.execution import execute
from signalbox.outbox.leases import HeldLeases, build_unending_result
from signalbox.outbox.outages import close_unusable_connections, retry_until_available, try_once
from signalbox.outbox.queue import DeliveryQueue, get_delivery_databases
from signalbox.outbox.upkeep import Upkeep, run_upkeep
from signalbox.outbox.wakeup import Notifier
from signalbox.outbox.worker_registry import WorkerRegistration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from signalbox.outbox.deliveries import AttemptResult, LeasedDelivery
    from signalbox.outbox.watchdog import RunningAttempt

logger = loggers.get_logger("worker")

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

RELEASE_RETRY_SECONDS: Final = 2.0
"""Seconds for which a release is retried. After that, the deliveries are run when their leases expire."""

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
    """Whether to end when no delivery is due, and none is running that others of its key wait for."""
    grace: float = 30.0
    """Seconds that running deliveries have to end after the worker was asked to end."""
    upkeep: Upkeep | None = None
    """Work that a thread of its own does until the event is set, unless the worker ends by itself."""


class Worker:
    """The worker of a process."""

    def __init__(self, options: WorkerOptions, *, supervisor_pid: int | None = None) -> None:
        self.options = options
        self._supervisor_pid = supervisor_pid
        """The worker ends if this process is no longer its parent."""
        self.delivery_queues: dict[str, DeliveryQueue] = {}
        self._queue_rotation: Iterator[DeliveryQueue] = cycle(())
        self.leases = HeldLeases()
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
        self._prefetched: deque[Run] = deque()
        self._running: dict[int, Run] = {}
        """The run of each thread, by its id."""
        self._lock = threading.Lock()
        """Guards the runs of this worker and the deliveries that wait in them."""
        self._release_lock = threading.Lock()
        """Held while deliveries are released. They are neither held by this worker nor due in the database yet."""
        self._acquire_lock = threading.Lock()
        self._poll_lock = threading.Lock()
        """Held by the one idle thread that polls. The others wait for it."""
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
        notifier = Notifier(list(self.delivery_queues))
        registration = WorkerRegistration(self.delivery_queues, self.options.queues, self.options.threads)
        handlers = {
            signal.SIGTERM: self._on_terminate,
            signal.SIGINT: self._on_terminate,
            signal.SIGHUP: self._on_hangup,
        }
        if self._supervisor_pid is not None:  # Ctrl-C reaches both processes, and the supervisor forwards it
            handlers[signal.SIGINT] = lambda: None
        try:
            upkeep = None if self._ends_by_itself else self.options.upkeep
            with notifier.handle_signals(handlers), registration, run_upkeep(upkeep):
                return self._monitor_threads(notifier, registration)
        finally:
            notifier.close()
            connections.close_all()

    @property
    def _ends_by_itself(self) -> bool:
        return self.options.once or self.options.burst

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

    def _monitor_threads(self, notifier: Notifier, registration: WorkerRegistration) -> int:
        threads = [
            threading.Thread(target=self._run_thread, args=(notifier,), name=f"signalbox-{n}", daemon=True)
            for n in range(self.options.threads)
        ]
        for thread in threads:
            thread.start()
        deadline: float | None = None
        while any(thread.is_alive() for thread in threads):
            registration.beat_if_due()
            notifier.listen()
            self._is_listening = notifier.is_listening()
            if notifier.wait(TICK_SECONDS):
                self._work_available.set()
            if self._should_stop():
                self.stop()
            now = clock.monotonic()
            self.leases.watchdog.interrupt_overdue(self._abandon)
            self._release_prefetched(PREFETCH_SECONDS)
            for delivery_queue in self.delivery_queues.values():
                self.leases.renew_due(delivery_queue)
            if self.stopping.is_set():
                deadline = deadline or now + self.options.grace
                self._release_prefetched()
                ended = all(not thread.is_alive() or thread.ident in self._stuck_threads for thread in threads)
                if ended or self._stop_requests > 1 or now > deadline:
                    break
        self._release_prefetched()  # a thread may have leased deliveries just before it ended
        if self.leases.deliveries:
            logger.error(
                "%d deliveries did not end; others run them when their leases have expired.",
                len(self.leases.deliveries),
            )
        if any(thread.is_alive() for thread in threads):
            return EXIT_STUCK_RECEIVER
        return 1 if self._thread_failed or (self._unavailable and (self.options.once or self.options.burst)) else 0

    def _abandon(self, running_attempt: RunningAttempt) -> None:
        """Record that a receiver does not end even when interrupted, and end this process."""
        if running_attempt.thread_id in self._stuck_threads:
            return
        self._stuck_threads.add(running_attempt.thread_id)
        delivery = running_attempt.delivery
        logger.critical(
            "%s does not end (delivery %d), so this worker exits.",
            delivery.receiver,
            delivery.id,
            extra=loggers.describe_delivery(delivery),
        )
        result = build_unending_result(delivery)
        if result is not None:
            delivery_queue = self.delivery_queues[delivery.alias]
            self.leases.settle(delivery_queue, delivery, result, gives_up=lambda waited: waited > 5)
        self.leases.drop(delivery)
        self.stop()

    def _release_prefetched(self, min_wait_seconds: float = 0.0) -> None:
        """Release deliveries that were leased and not started within ``min_wait_seconds``."""
        acquired_before = clock.monotonic() - min_wait_seconds
        with self._release_lock:
            released: list[LeasedDelivery] = []
            with self._lock:
                while self._prefetched and self._prefetched[0].delivery.acquired_at <= acquired_before:
                    run = self._prefetched.popleft()
                    released += [run.delivery, *run.waiting]
                for run in self._running.values():
                    if run.waiting and run.waiting[0].acquired_at <= acquired_before:
                        released += run.waiting
                        run.waiting.clear()
            self._release(released)

    def _release_waiting(self, run: Run, *others: LeasedDelivery) -> None:
        """Release ``others`` and what waits in ``run``. Another thread's release of these has ended on return."""
        with self._release_lock:
            with self._lock:
                released = [*others, *run.waiting]
                run.waiting.clear()
            self._release(released)

    def _release(self, released: Sequence[LeasedDelivery]) -> None:
        """Stop renewing the leases of ``released`` and make them due. ``_release_lock`` is held."""
        for delivery in released:
            self.leases.drop(delivery)
        for alias in {delivery.alias for delivery in released}:
            deliveries = [delivery for delivery in released if delivery.alias == alias]
            delivery_queue = self.delivery_queues[alias]
            # A deadlock or a locked table must not keep them leased until their leases expire.
            retry_until_available(
                partial(delivery_queue.release, deliveries), gives_up=lambda waited: waited > RELEASE_RETRY_SECONDS
            )

    # ------------------------------------------------------------ the threads

    def _run_thread(self, notifier: Notifier) -> None:
        try:
            run = self._get_next()
            while run is not None:
                run = self._run_delivery(run) or self._get_next()
        except BaseException:
            logger.exception("A worker's thread failed.")
            self._thread_failed = True
            self.stop()
        finally:
            connections.close_all()
            notifier.wake_up()

    def _run_delivery(self, run: Run) -> Run | None:
        """Run the first delivery of ``run``; return the run that this thread continues with, if it has one."""
        delivery = run.delivery
        if not self._start_attempt(delivery):
            self._end_run(run)
            return None
        started_at = clock.monotonic()
        result = execute(delivery, self.leases.watchdog)
        self.attempts_made += 1
        if self.options.once:
            self.stop()
        if result.ends_partition:
            self._release_waiting(run)  # while this delivery is leased, no other worker can acquire them
        next_run = self._choose_next(run, result)
        completed = self._settle(delivery, result, next_run)
        self._average_seconds += 0.2 * (clock.monotonic() - started_at - self._average_seconds)
        if next_run is run:
            if completed and run.delivery.attempt_started:
                return run
            self._end_run(run)  # another worker has the lease of this delivery or of the next one
            return None
        self._end_run(run, settled=True)
        if next_run is not None:
            with self._lock:
                self._running[threading.get_ident()] = next_run
        return next_run

    def _start_attempt(self, delivery: LeasedDelivery) -> bool:
        """Count the attempt, unless that was done with the lease or with the result of the previous delivery.

        Return whether this worker still has the delivery.
        """
        if delivery.attempt_started:
            return True
        delivery_queue = self.delivery_queues[delivery.alias]
        if retry_until_available(lambda: delivery_queue.start_attempt(delivery), self._gives_up):
            delivery.attempt_started = True
            delivery.attempts += 1
            return True
        return False

    def _gives_up(self, waited: float) -> bool:
        return self.stopping.is_set() and waited > 5

    def _choose_next(self, run: Run, result: AttemptResult) -> Run | None:
        """Return ``run`` with its next delivery, or the next prefetched run of the same database, or neither."""
        alias = run.delivery.alias
        with self._lock:
            if self.stopping.is_set():
                return None
            if run.waiting and result.leaves_partition:
                run.delivery = run.waiting.popleft()
                return run
            if not self._prefetched or self._prefetched[0].delivery.alias != alias:
                return None
            return self._prefetched.popleft()

    def _settle(self, delivery: LeasedDelivery, result: AttemptResult, next_run: Run | None) -> bool:
        """Write ``result`` and start the attempt of the next delivery; return whether this worker had the first."""
        to_start = None if next_run is None or next_run.delivery.attempt_started else next_run.delivery
        delivery_queue = self.delivery_queues[delivery.alias]
        return self.leases.settle(delivery_queue, delivery, result, to_start, gives_up=self._gives_up)[0]

    def _end_run(self, run: Run, *, settled: bool = False) -> None:
        """Release what waits in ``run``, and its delivery unless it is settled."""
        with self._lock:
            self._running.pop(threading.get_ident(), None)
            is_empty = settled and not run.waiting
        if not is_empty:
            self._release_waiting(run, *([] if settled else [run.delivery]))

    def _get_next(self) -> Run | None:
        """Wait for the next run and return it; ``None`` if this worker must end."""
        self._idle_threads += 1
        try:
            if run := self._take():
                return run
            self._work_available.set()  # the thread that polls looks whether a burst has ended
            with self._poll_lock:
                poll_seconds = MIN_POLL_SECONDS
                while not self._is_ending():
                    self._work_available.clear()
                    if run := self._take():
                        return run
                    if self.options.once or (self.options.burst and not self._has_work()):
                        self.stop()
                        break
                    self._work_available.wait(self._get_seconds_until_next_check(poll_seconds))
                    max_seconds = MAX_POLL_LISTENING_SECONDS if self._is_listening else MAX_POLL_SECONDS
                    is_available = self._work_available.is_set()
                    poll_seconds = MIN_POLL_SECONDS if is_available else min(max_seconds, poll_seconds * 2)
                return None
        finally:
            self._idle_threads -= 1

    def _is_ending(self) -> bool:
        """Return whether this worker starts no more deliveries."""
        return self.stopping.is_set() or bool(self.options.once and self._started_count)

    def _take(self) -> Run | None:
        """Return a prefetched run, or one that is acquired now; ``None`` if there is none."""
        with self._acquire_lock:
            if self._is_ending() or not (self._prefetched or self._acquire()):
                return None
            with self._lock:
                if not self._prefetched:  # the main thread has released them
                    return None
                run = self._running[threading.get_ident()] = self._prefetched.popleft()
                self._started_count += 1
                if self._prefetched:
                    self._work_available.set()
                return run

    def _has_work(self) -> bool:
        """Return whether a burst must go on: a delivery runs here, or may become due when another one ends."""
        if self.leases.deliveries or self._release_lock.locked():  # in this order: a release drops the lease first
            return True
        return any(try_once(delivery_queue.has_work) for delivery_queue in self.delivery_queues.values())

    def _get_seconds_until_next_check(self, poll_seconds: float) -> float:
        waits = [
            try_once(delivery_queue.get_seconds_until_next_check) for delivery_queue in self.delivery_queues.values()
        ]
        return min([poll_seconds, *(max(0.001, seconds) for seconds in waits if seconds is not None)])

    def _acquire(self) -> bool:
        """Lease due deliveries, as many as can be started soon; return whether there were any."""
        start_count = 1 if self.options.once else max(1, self._idle_threads)
        limit = start_count
        if not self.options.once:
            limit = max(
                start_count,
                min(MAX_BATCH_SIZE, int(PREFETCH_SECONDS * self.options.threads / max(self._average_seconds, 0.001))),
            )
        for _ in self.delivery_queues:
            delivery_queue = next(self._queue_rotation)  # one database with many deliveries must not delay the others
            runs = self._acquire_in(delivery_queue, limit, start_count)
            with self._lock:
                for run in runs:
                    for delivery in (run.delivery, *run.waiting):
                        self.leases.add(delivery)
                self._prefetched += runs
            if runs:
                return True
        return False

    def _acquire_in(self, delivery_queue: DeliveryQueue, limit: int, start_count: int) -> list[Run]:
        """Lease deliveries in one database. An unavailable one is skipped for a while and does not delay the others."""
        alias = delivery_queue.alias
        retry_at, delay = self._unavailable.get(alias, (0.0, 0.1))
        if clock.monotonic() < retry_at:
            return []
        deliveries: list[LeasedDelivery] = []
        followers: dict[int, list[LeasedDelivery]] = {}
        try:
            if self.leases.get_seconds_since_renewal(alias) > conf.get().DURABLE.LEASE / 2:
                self.leases.renew(delivery_queue)  # it was unavailable: keep the running deliveries first
            held_ids = self.leases.get_ids(alias)
            deliveries = delivery_queue.acquire(limit, start_count, held_ids)
            if deliveries and not self.options.once:
                room = max(limit - len(deliveries), min(limit, MAX_RUN_LENGTH) - 1)
                followers = delivery_queue.lease_followers(deliveries, room, held_ids)
        except Error as error:
            close_unusable_connections()
            if alias not in self._unavailable:
                logger.warning("Database %r is unavailable or locked and is tried again: %s", alias, error)
            self._unavailable[alias] = (clock.monotonic() + delay, min(5.0, delay * 2))
        else:
            if self._unavailable.pop(alias, None):
                logger.info("Database %r is available again.", alias)
        return [Run(delivery=delivery, waiting=deque(followers.get(delivery.id, ()))) for delivery in deliveries]
