"""The table of workers: each worker registers itself, updates its heartbeat, and removes its row when it ends.

Times are those of the database's clock, because workers and readers run on several machines. The row of a killed worker
remains. It counts as lost after ``LOST_AFTER_SECONDS``, and another worker deletes it after ``DELETE_AFTER_SECONDS``.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self
from uuid import uuid4

from django.db import connections

from signalbox import __version__
from signalbox.core import clock, loggers
from signalbox.core.text import fit_column
from signalbox.outbox.database_clock import SECOND_US, get_lease_time
from signalbox.outbox.outages import try_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = loggers.get_logger("worker")

TABLE: Final = "signalbox_worker"

HEARTBEAT_SECONDS: Final = 10.0
"""Seconds between two updates of a heartbeat."""

LOST_AFTER_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""Age of a heartbeat from which a worker counts as lost."""

DELETE_AFTER_SECONDS: Final = 24 * 3600.0
"""Age of a heartbeat from which the row of a lost worker is deleted."""

PRUNE_INTERVAL_SECONDS: Final = 3600.0

MAX_LISTED: Final = 1000
"""Maximum number of workers that are listed, the newest heartbeats first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredWorker:
    """A worker that has a row in one database."""

    host: str
    pid: int
    version: str
    """Version of Signalbox."""
    queues: tuple[str, ...]
    """Queues that it processes; if empty, all."""
    threads: int
    """Deliveries that it runs at the same time; 0 for a relay, which only sends messages to a broker."""
    running_seconds: float
    """Seconds since it was started."""
    heartbeat_seconds: float
    """Seconds since its last heartbeat."""

    @property
    def is_alive(self) -> bool:
        """Whether its heartbeat is recent. Otherwise it was killed, or it cannot reach the database."""
        return self.heartbeat_seconds <= LOST_AFTER_SECONDS


def get_workers(alias: str) -> list[RegisteredWorker]:
    """Return the workers that have a row in the database ``alias``, by host and process id.

    Raises ``django.db.Error`` if the database is unavailable or has no such table.
    """
    now = get_lease_time(connections[alias])
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f"SELECT host, pid, version, queues, threads, started, heartbeat FROM {TABLE} "
            f"ORDER BY heartbeat DESC LIMIT {MAX_LISTED}"
        )
        rows = cursor.fetchall()
    return [
        RegisteredWorker(
            host=host,
            pid=pid,
            version=version,
            queues=tuple(queues.split(",")) if queues else (),
            threads=threads,
            running_seconds=max(0.0, (now - started) / SECOND_US),
            heartbeat_seconds=max(0.0, (now - heartbeat) / SECOND_US),
        )
        for host, pid, version, queues, threads, started, heartbeat in sorted(rows)
    ]


class WorkerRegistration:
    """The rows of this process, one per database. As a context manager, it removes them at the end of the block.

    A worker must run without this table too: errors are logged, and the next heartbeat inserts a missing row.
    """

    def __init__(self, aliases: Iterable[str], queues: Sequence[str], threads: int) -> None:
        self.aliases = tuple(aliases)
        self.id = uuid4().hex
        self._values = (
            fit_column(socket.gethostname(), 200),
            os.getpid(),
            __version__,
            fit_column(",".join(queues), 600),
            threads,
        )
        self._next_beat = 0.0
        self._next_prune = 0.0
        self._logged: set[str] = set()
        """Databases whose error was logged."""

    def __enter__(self) -> Self:
        self.beat_if_due()
        return self

    def __exit__(self, *exception: object) -> None:
        for alias in self.aliases:
            try_once(partial(self._delete, alias, "id = %s", self.id))

    def beat_if_due(self) -> None:
        """Update the heartbeats if their interval has passed. Call it several times a second."""
        now = clock.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + HEARTBEAT_SECONDS
        for alias in self.aliases:
            self._beat(alias)
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_INTERVAL_SECONDS
            for alias in self.aliases:
                try_once(partial(self._prune, alias))

    def _beat(self, alias: str) -> None:
        if try_once(partial(self._write, alias)):
            self._logged.discard(alias)
        elif alias not in self._logged:
            self._logged.add(alias)
            logger.warning(
                "This worker could not be registered in database %r, so the status does not list it. It runs "
                "deliveries all the same. The table %s must exist: run manage.py migrate.",
                alias,
                TABLE,
            )

    def _write(self, alias: str) -> bool:
        connection = connections[alias]
        now = get_lease_time(connection)
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {TABLE} SET heartbeat = %s WHERE id = %s", [now, self.id])
            if not cursor.rowcount:
                cursor.execute(
                    f"INSERT INTO {TABLE} (id, host, pid, version, queues, threads, started, heartbeat) "
                    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                    [self.id, *self._values, now, now],
                )
        return True

    def _prune(self, alias: str) -> None:
        oldest = get_lease_time(connections[alias]) - int(DELETE_AFTER_SECONDS * SECOND_US)
        self._delete(alias, "heartbeat < %s", oldest)

    @staticmethod
    def _delete(alias: str, condition: str, value: str | int) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"DELETE FROM {TABLE} WHERE {condition}", [value])
