"""What an engine's worker needs to run a delivery: its lease renewed and its timeout kept, whatever else it does."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final

from django.db import Error, connections

from signalbox import conf
from signalbox.outbox.execution import GRACE, Attempt, Watch, attempt, failed
from signalbox.outbox.queue import Claimed, Claims, Result
from signalbox.outbox.registry import named

logger = logging.getLogger("signalbox")

TICK: Final = 0.5
PATIENCE: Final = 20.0
"""Seconds for which a database that is away is asked to take the outcome; then it is run again after its lease."""


def run_one(alias: str, number: int) -> bool:
    """Run the delivery of this id, if it is to be run now; return whether it was. A message may come late or twice."""
    claims = Claims(alias)
    keeper = _keeper()
    if (alias, number) in keeper.held:  # its lease may be over, but it runs here
        return False
    claimed = claims.claim_one(number)
    if claimed is None:
        return False
    keeper.held[alias, number] = claimed
    keeper.begin()
    try:
        result = attempt(claimed, keeper.watch)
    finally:
        keeper.let_go(claimed)
    if not _settle(claims, claimed, result):
        logger.warning("%s has run (delivery %d), but its lease was over.", claimed.receiver, number)
    return True


def _settle(claims: Claims, claimed: Claimed, result: Result) -> bool:
    began, pause = time.monotonic(), 0.1
    while True:
        try:
            return claims.settle(claimed, result)[0]
        except Error as error:
            if time.monotonic() - began > PATIENCE:
                logger.warning("The outcome of delivery %d could not be written: %s", claimed.id, error)
                return False
            connections[claims.alias].close_if_unusable_or_obsolete()
            time.sleep(pause)
            pause = min(2.0, pause * 2)


class Keeper:
    """A thread that renews the leases of this process, and interrupts what runs too long."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.watch = Watch()
        self.held: dict[tuple[str, int], Claimed] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Let the thread run as long as something is held."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep, name="signalbox-keeper", daemon=True)
                self._thread.start()

    def let_go(self, claimed: Claimed) -> bool:
        """Hold ``claimed`` no longer, a later claim of the same delivery stays; return whether it was held."""
        key = (claimed.alias, claimed.id)
        if self.held.get(key) is not claimed:
            return False
        del self.held[key]
        return True

    def _keep(self) -> None:
        renewed = time.monotonic()
        try:
            while True:
                time.sleep(TICK)
                with self._lock:
                    if not self.held:
                        self._thread = None
                        return
                for running in list(self.watch.attempts.values()):
                    late = running.late()
                    if late > GRACE:
                        self._give_up(running)
                    elif late > 0:
                        running.interrupt()
                moment = time.monotonic()
                if moment - renewed >= conf.get().LEASE / 3 and self._renew():
                    renewed = moment
        finally:
            connections.close_all()

    def _renew(self) -> bool:
        """Extend the leases of what is held; return whether all were: if not, it is tried again at the next tick."""
        renewed = True
        held = list(self.held.values())
        for alias in {one.alias for one in held}:
            try:
                Claims(alias).renew([one for one in held if one.alias == alias])
            except Error as error:
                renewed = False
                logger.warning("Leases could not be renewed: %s", error)
                connections[alias].close_if_unusable_or_obsolete()
        return renewed

    def _give_up(self, running: Attempt) -> None:
        """Write down that a receiver does not end; its thread belongs to the engine, and is left to it."""
        claimed = running.claimed
        if not self.let_go(claimed):
            return
        logger.critical(
            "%s does not end (delivery %d), and holds a thread of its worker.", claimed.receiver, claimed.id
        )
        durable = named(claimed.receiver, claimed.signal, claimed.sender)
        if durable is not None:
            error = f"TimedOut: it took longer than {durable.timeout:g} seconds, and did not end"
            _settle(Claims(claimed.alias), claimed, failed(claimed, durable, error))


_kept: Keeper | None = None


def _keeper() -> Keeper:
    """Return this process's keeper: a child that was forked has no thread of its parent's."""
    global _kept
    if _kept is None or _kept.process != os.getpid():
        _kept = Keeper()
    return _kept
