"""The relay of an engine: marks what is due as sent until T, commits, then publishes. What was lost is sent after T.

The order matters: a message that is published before its mark is committed can be run and marked in the wrong order,
and a mark without a message costs nothing but T.
"""

from __future__ import annotations

import logging
import signal
import time
from importlib import import_module
from typing import TYPE_CHECKING, Final

from django.db import Error, connections

from signalbox import conf
from signalbox.outbox.queue import SECOND, Claims, aliases, now
from signalbox.outbox.wakeup import Waiting

if TYPE_CHECKING:
    from signalbox.outbox.worker import Options

logger = logging.getLogger("signalbox")

MOST_UNDER_WAY: Final = 1000
"""Messages of a queue that are out at a time: the queue is in the database, and the broker's stays short."""
AT_ONCE: Final = 200
SHORTEST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
PRUNE_EVERY: Final = 60.0

_MODULES: Final = {"celery": "celery", "tasks": "django_tasks"}
"""The module of each engine."""


class Relay:
    """Hands deliveries over to an engine."""

    def __init__(self, options: Options, engine: str) -> None:
        self.options = options
        self.publish = import_module(f"signalbox.outbox.dispatch.{_MODULES[engine]}").publish
        self.stopping = False
        self.reload = False
        self.published = 0
        self._room: dict[str, int] = {}
        """Messages that each database may send before it is counted again what is out."""
        self._full: dict[str, list[str]] = {}
        """Queues of each database that may have no more."""

    def run(self) -> int:
        """Relay until told to stop; return the exit status."""
        names = self.options.databases or aliases()
        every = [Claims(alias, self.options.queues) for alias in names]
        waiting = Waiting([claims.alias for claims in every])
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self._hang_up}
        pause, trouble, pruned = SHORTEST_PAUSE, 0.0, time.monotonic()
        try:
            with waiting.signals(handlers):
                while not self.stopping:
                    waiting.listen()
                    try:
                        found = sum(self._relay(claims) for claims in every)
                        if time.monotonic() - pruned > PRUNE_EVERY:
                            pruned = time.monotonic()
                            for claims in every:
                                claims.prune()
                        trouble = 0.0
                    except Exception as error:  # noqa: BLE001 - each broker has its own errors; all of them may pass
                        self._close_broken()
                        log = logger.debug if trouble else logger.warning
                        log("Deliveries could not be handed over, which is tried again: %r", error)
                        trouble = min(5.0, trouble * 2 or 0.1)
                        waiting.wait(trouble)
                        continue
                    if not found and (self.options.once or self.options.burst):
                        return 0
                    if found or waiting.wait(pause):
                        pause = SHORTEST_PAUSE
                    else:
                        pause = min(LONGEST_PAUSE, pause * 2)
            return 0
        finally:
            waiting.close()
            connections.close_all()

    def _relay(self, claims: Claims) -> int:
        """Hand over what is due in one database, as much as may be under way; return how many."""
        until = now() + int(conf.get().REDISPATCH * SECOND)
        if self._full.get(claims.alias) or self._room.get(claims.alias, 0) < AT_ONCE:
            out = claims.under_way(until)
            self._full[claims.alias] = [queue for queue, number in out.items() if number > MOST_UNDER_WAY - AT_ONCE]
            self._room[claims.alias] = MOST_UNDER_WAY - max(
                (number for queue, number in out.items() if queue not in self._full[claims.alias]), default=0
            )
        found = claims.dispatch(AT_ONCE, until, self._full[claims.alias])
        self._room[claims.alias] -= len(found)
        if found:
            try:
                self.publish(claims.alias, found)
            except Exception:
                claims.recall([number for number, _ in found], until)
                raise
            self.published += len(found)
        return len(found)

    def stop(self) -> None:
        """Hand over nothing any more."""
        self.stopping = True

    def _hang_up(self) -> None:
        self.reload = True
        self.stop()

    @staticmethod
    def _close_broken() -> None:
        for connection in connections.all(initialized_only=True):
            try:
                connection.close_if_unusable_or_obsolete()
            except Error:
                connection.connection = None
