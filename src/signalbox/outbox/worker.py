"""The loop of ``manage.py signalbox work``: threads that run deliveries, and a main thread that watches over them."""

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
from signalbox.outbox.execution import GRACE, Attempt, Watch, attempt, failed
from signalbox.outbox.queue import SECOND, Claimed, Claims, Result, aliases, now
from signalbox.outbox.registry import named
from signalbox.outbox.wakeup import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("signalbox")

T = TypeVar("T")

SHORTEST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks where the database does not tell of new deliveries; grows from the shortest one."""
LONGEST_PAUSE_LISTENING: Final = 5.0
MOST_AT_ONCE: Final = 100
"""Deliveries that one claim takes."""
AHEAD: Final = 1.0
"""Seconds of work that a claim takes, by what deliveries took so far: what is claimed, no other worker can run. What
takes longer than that to be begun is given back."""
TICK: Final = 0.25
"""Seconds between two looks of the main thread at what runs too long."""
PRUNE_EVERY: Final = 60.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

GIVEN_UP: Final = 75
"""Exit status after a receiver that did not end: sysexits' EX_TEMPFAIL, start me again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
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

    def __init__(self, options: Options, *, supervisor: int | None = None) -> None:
        self.options = options
        self._supervisor = supervisor
        """The process without which this one is to end."""
        self.claims: dict[str, Claims] = {}
        self._turns: Iterator[Claims] = cycle(())
        self.watch = Watch()
        self.stopping = threading.Event()
        self.reload = False
        self.done = 0
        """Attempts that this worker made."""
        self._asked = 0
        """How often it was told to end; asked twice, it waits for nothing."""
        self._failed = False
        self._taken = 0
        """Deliveries that threads took to run them."""
        self._stuck: set[int | None] = set()
        """Threads with a receiver that does not end."""
        self._ready: deque[Claimed] = deque()
        self._held: dict[tuple[str, int], Claimed] = {}
        """What is claimed, running or not, and has to be renewed."""
        self._returning = False
        """Whether something is on its way back to the database, where it is not due yet."""
        self._renewed: dict[str, float] = {}
        """When the leases in each database were last renewed."""
        self._lock = threading.Lock()
        self._claiming = threading.Lock()
        self._idle = 0
        self._seconds = 0.05
        """What a delivery took lately, until it was written what became of it: a moving average."""
        self._something = threading.Event()
        self._listens = False
        self._away: dict[str, tuple[float, float]] = {}
        """Databases that could not be asked: when to ask again, and how long to wait if that fails too."""

    # ------------------------------------------------------------ the main thread

    def run(self) -> int:
        """Work until told to stop; return the exit status."""
        self.claims = {alias: Claims(alias, self.options.queues) for alias in self._databases()}
        self._turns = cycle(self.claims.values())
        self._renewed = dict.fromkeys(self.claims, time.monotonic())
        waiting = Waiting(list(self.claims))
        handlers = {signal.SIGTERM: self._terminate, signal.SIGINT: self._terminate, signal.SIGHUP: self._hang_up}
        if self._supervisor is not None:  # Ctrl-C reaches both, and who supervises passes it on
            handlers[signal.SIGINT] = lambda: None
        try:
            with waiting.signals(handlers):
                return self._watch_over(waiting)
        finally:
            waiting.close()
            connections.close_all()

    def _databases(self) -> list[str]:
        if self.options.databases:
            return list(self.options.databases)
        return aliases()

    def stop(self) -> None:
        """End: begin nothing any more, let what runs come to its end."""
        self.stopping.set()
        self._something.set()

    # Handlers set plain values alone: an event has a lock, which the thread that they interrupt may hold.

    def _terminate(self) -> None:
        self._asked += 1

    def _hang_up(self) -> None:
        self.reload = True
        self._asked += 1

    def _told_to_end(self) -> bool:
        return bool(self._asked) or (self._supervisor is not None and os.getppid() != self._supervisor)

    def _watch_over(self, waiting: Waiting) -> int:
        threads = [
            threading.Thread(target=self._work, args=(waiting,), name=f"signalbox-{n}", daemon=True)
            for n in range(self.options.threads)
        ]
        for thread in threads:
            thread.start()
        pruned = time.monotonic()
        until: float | None = None
        while any(thread.is_alive() for thread in threads):
            waiting.listen()
            self._listens = waiting.listens()
            if waiting.wait(TICK):
                self._something.set()
            if self._told_to_end():
                self.stop()
            moment = time.monotonic()
            self._interrupt_late()
            self._give_back(AHEAD)
            self._renew()
            if moment - pruned >= PRUNE_EVERY:
                pruned = moment
                self._prune()
            if self.stopping.is_set():
                until = until or moment + self.options.grace
                self._give_back()
                ended = all(not thread.is_alive() or thread.ident in self._stuck for thread in threads)
                if ended or self._asked > 1 or moment > until:
                    break
        self._give_back()  # a thread may have claimed something just before it ended
        if self._held:
            logger.error("%d deliveries did not end; others run them when their lease is over.", len(self._held))
        if any(thread.is_alive() for thread in threads):
            return GIVEN_UP
        return 1 if self._failed or (self._away and (self.options.once or self.options.burst)) else 0

    def _interrupt_late(self) -> None:
        for running in list(self.watch.attempts.values()):
            late = running.late()
            if late > GRACE:
                self._give_up(running)
            elif late > 0:
                running.interrupt()

    def _give_up(self, running: Attempt) -> None:
        """Write down that a receiver does not end, not even when interrupted, and end the process around it."""
        if running.thread in self._stuck:
            return
        self._stuck.add(running.thread)
        claimed = running.claimed
        durable = named(claimed.receiver, claimed.signal, claimed.sender)
        logger.critical("%s does not end (delivery %d): this worker ends instead.", claimed.receiver, claimed.id)
        if durable is not None:
            result = failed(
                claimed, durable, f"TimedOut: it took longer than {durable.timeout:g} seconds, and did not end"
            )
            self._surely(lambda: self.claims[claimed.alias].settle(claimed, result), patience=5)
        self._let_go(claimed)
        self.stop()

    def _renew(self) -> None:
        """Extend the leases of what is held.

        A database that is away, or locked, is tried again at the next tick: leases do not wait for it.
        """
        for claims in self.claims.values():
            if self._unrenewed(claims.alias) < conf.get().LEASE / 3:
                continue
            self._once(partial(self._renew_in, claims))

    def _unrenewed(self, alias: str) -> float:
        """Return for how many seconds the leases in a database have not been renewed."""
        return time.monotonic() - self._renewed.get(alias, 0.0)

    def _renew_in(self, claims: Claims) -> None:
        moment = time.monotonic()
        held = [one for one in list(self._held.values()) if one.alias == claims.alias]
        if held:
            lost = claims.renew(held)
            taken = sorted(one.id for one in held if one.id in lost and self._holds(one))  # not what was just finished
            if taken:
                logger.warning("Deliveries %s took this worker for dead, and are run by another.", taken)
        self._renewed[claims.alias] = moment

    def _holds(self, one: Claimed) -> bool:
        return self._held.get((one.alias, one.id)) is one

    def _let_go(self, one: Claimed) -> None:
        """Hold ``one`` no longer; a later claim of the same delivery stays."""
        if self._holds(one):
            del self._held[one.alias, one.id]

    def _give_back(self, waited: float = 0.0) -> None:
        """Give back what has waited here so many seconds for a thread: another worker may be idle."""
        left = []
        before = time.monotonic() - waited
        with self._lock:
            while self._ready and self._ready[0].claimed <= before:
                left.append(self._ready.popleft())
                self._let_go(left[-1])
            self._returning = bool(left)
        for alias, claims in self.claims.items():
            mine = [one for one in left if one.alias == alias]
            if mine:
                self._once(partial(claims.release, mine))
        self._returning = False

    def _prune(self) -> None:
        for claims in self.claims.values():
            while not self.stopping.is_set() and not self._told_to_end() and (self._once(claims.prune) or 0) >= 1000:
                time.sleep(0.05)  # a purge must not keep SQLite's write lock to itself

    # ------------------------------------------------------------ the threads

    def _work(self, waiting: Waiting) -> None:
        following: Claimed | None = None
        try:
            while True:
                one = following or self._next()
                following = None
                if one is None:
                    return
                if self._begin(one):
                    following = self._run(one)
        except BaseException:
            logger.exception("A worker's thread failed.")
            self._failed = True
            self.stop()
        finally:
            connections.close_all()
            waiting.wake()

    def _begin(self, one: Claimed) -> bool:
        """Count the attempt, if that was not done with the claim or the delivery before."""
        if one.started:
            return True
        if self._surely(lambda: self.claims[one.alias].start(one)):
            one.started = True
            one.attempts += 1
            return True
        self._let_go(one)
        return False

    def _run(self, one: Claimed) -> Claimed | None:
        """Run ``one``; return what this thread runs next, if that is known and counted already."""
        began = time.monotonic()
        result = attempt(one, self.watch)
        self.done += 1
        following = None
        if self.options.once:
            self.stop()
        else:
            following = self._pop(one.alias)
        self._settle(one, result, following)
        self._seconds += 0.2 * (time.monotonic() - began - self._seconds)
        self._let_go(one)
        if following is None or following.started:
            return following
        self._let_go(following)
        return None

    def _settle(self, one: Claimed, result: Result, following: Claimed | None) -> None:
        begun = following is not None and following.started
        ahead = None if begun else following
        answer = self._surely(lambda: self.claims[one.alias].settle(one, result, ahead))
        settled, started = answer or (False, False)
        if not settled:
            logger.warning(
                "%s has run (delivery %d), but its lease was over: another worker runs it too.", one.receiver, one.id
            )
        if ahead is not None and started:
            ahead.started = True
            ahead.attempts += 1

    def _pop(self, alias: str) -> Claimed | None:
        """Return the next of what is claimed already, of this database."""
        with self._lock:
            if self.stopping.is_set() or not self._ready or self._ready[0].alias != alias:
                return None
            return self._ready.popleft()

    def _next(self) -> Claimed | None:
        """Return the next delivery to run, waiting for one; ``None`` when this worker is to end."""
        self._idle += 1
        try:
            with self._claiming:
                pause = SHORTEST_PAUSE
                while not self.stopping.is_set() and not (self.options.once and self._taken):
                    with self._lock:
                        if self._ready:
                            self._taken += 1
                            return self._ready.popleft()
                        returning = self._returning
                    self._something.clear()
                    if self._claim():
                        continue
                    if (self.options.once or self.options.burst) and not returning:
                        self.stop()
                        break
                    self._something.wait(self._until_next(pause))
                    longest = LONGEST_PAUSE_LISTENING if self._listens else LONGEST_PAUSE
                    pause = SHORTEST_PAUSE if self._something.is_set() else min(longest, pause * 2)
                return None
        finally:
            self._idle -= 1

    def _until_next(self, pause: float) -> float:
        wakes = [wake for claims in self.claims.values() if (wake := self._once(claims.next_wake)) is not None]
        return min([pause, *(max(0.001, (wake - now()) / SECOND) for wake in wakes if wake > now())])

    def _claim(self) -> bool:
        """Claim what is due, as much as can be run soon; return whether there was any."""
        begin = 1 if self.options.once else max(1, self._idle)
        limit = begin
        if not self.options.once:
            limit = max(begin, min(MOST_AT_ONCE, int(AHEAD * self.options.threads / max(self._seconds, 0.001))))
        found = False
        for _ in self.claims:
            claims = next(self._turns)  # a database with much to do must not make the others wait
            for one in self._claim_in(claims, limit, begin):
                found = True
                self._held[one.alias, one.id] = one
                with self._lock:
                    self._ready.append(one)
            if found:
                break
        return found

    def _claim_in(self, claims: Claims, limit: int, begin: int) -> list[Claimed]:
        """Claim in one database; one that is away is left alone for a while, and does not hold up the others."""
        again, pause = self._away.get(claims.alias, (0.0, 0.1))
        if time.monotonic() < again:
            return []
        try:
            if self._unrenewed(claims.alias) > conf.get().LEASE / 2:  # it was away: keep what runs here, then look
                self._renew_in(claims)
            found = claims.claim(limit, begin, [number for alias, number in list(self._held) if alias == claims.alias])
        except Error as error:
            _close_broken()
            if claims.alias not in self._away:
                logger.warning("Database %r is away or locked, and is tried again: %s", claims.alias, error)
            self._away[claims.alias] = (time.monotonic() + pause, min(5.0, pause * 2))
            return []
        if self._away.pop(claims.alias, None):
            logger.info("Database %r is back.", claims.alias)
        return found

    # ------------------------------------------------------------ a database that is away, or locked

    def _surely(self, call: Callable[[], T], *, patience: float | None = None) -> T | None:
        """Return what ``call`` returns, calling it again while the database is away or locked.

        ``None`` if it still was when the worker was told to end, or after ``patience`` seconds.
        """
        pause, began, told = 0.05, time.monotonic(), False
        while True:
            try:
                return call()
            except Error as error:
                _close_broken()
                if not told:
                    logger.warning("The database is away or locked, and is tried again: %s", error)
                    told = True
            waited = time.monotonic() - began
            if (self.stopping.is_set() and waited > 5) or (patience is not None and waited > patience):
                return None
            time.sleep(pause)
            pause = min(5.0, pause * 2)

    def _once(self, call: Callable[[], T]) -> T | None:
        """Return what ``call`` returns; ``None`` if the database is away or locked just now."""
        try:
            return call()
        except Error as error:
            _close_broken()
            logger.debug("The database is away or locked: %s", error)
            return None


def _close_broken() -> None:
    """Close this thread's connections that are of no use any more; the next statement opens another."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.in_atomic_block:
            try:
                connection.close_if_unusable_or_obsolete()
            except Error:  # MySQL's driver closes nothing twice
                connection.connection = None


class Supervisor:
    """Starts workers, and starts them anew when they die."""

    def __init__(self, processes: int, options: Options) -> None:
        self.processes = processes
        self.options = options
        self.children: dict[int, float] = {}
        """Each worker's process, and when it began."""
        self.reload = False
        self._asked = 0
        """How often this process was told to end."""
        self._told: dict[int, int] = {}
        """How often each worker was."""
        self._finished = False
        self._pause = 1.0

    def run(self) -> int:
        """Supervise until told to stop."""
        waiting = Waiting([])
        handlers = {
            signal.SIGTERM: self._terminate,
            signal.SIGINT: self._terminate,
            signal.SIGHUP: self._hang_up,
            signal.SIGCHLD: lambda: None,
        }
        connections.close_all()
        try:
            with waiting.signals(handlers):
                self._supervise(waiting)
        finally:
            waiting.close()
        return 0

    def _supervise(self, waiting: Waiting) -> None:
        again = 0.0
        while True:
            if time.monotonic() >= again:
                while not self.stopping and len(self.children) < self.processes:
                    self._start()
            self._pass_on()
            if not (self.stopping and not self.children):
                waiting.wait(1.0)
            if self._reap():
                again = time.monotonic() + self._pause
            if (self.stopping or self.options.burst or self.options.once) and not self.children:
                return

    @property
    def stopping(self) -> bool:
        """Whether no worker is to be started any more."""
        return bool(self._asked) or self._finished

    def _start(self) -> None:
        supervisor = os.getpid()
        # A signal waits until the new process has put the handlers aside that it got from this one.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        number = os.fork()
        if number:
            self.children[number] = time.monotonic()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            status = Worker(self.options, supervisor=supervisor).run()
        finally:
            logging.shutdown()
            os._exit(status)

    def _pass_on(self) -> None:
        """Tell every worker to end as often as this process was told, also those that were started meanwhile."""
        for number in self.children:
            if self._told.get(number, 0) < self._asked:
                self._told[number] = self._asked
                os.kill(number, signal.SIGTERM)

    def _reap(self) -> bool:
        """Forget the workers that ended; return whether one died that nobody told to."""
        died = False
        for number, began in list(self.children.items()):
            ended, status = os.waitpid(number, os.WNOHANG)
            if not ended:
                continue
            del self.children[number]
            self._told.pop(number, None)
            finished = (self.options.burst or self.options.once) and status == 0
            if finished:
                self._finished = True
            elif not self.stopping:
                died = True
                quickly = time.monotonic() - began < 10
                self._pause = min(30.0, self._pause * 2) if quickly else 1.0
                logger.error("Worker %d ended with status %d and is replaced in %g s.", number, status, self._pause)
        return died

    # Handlers set plain values alone, see `Worker`.

    def _terminate(self) -> None:
        self._asked += 1

    def _hang_up(self) -> None:
        self.reload = True
        self._asked += 1
