"""Waiting for something to do: a signal of the operating system, a notification of PostgreSQL, or some time."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import Error, connections

from signalbox.pipeline import batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = logging.getLogger("signalbox")


class Notifier:
    """One thread's place to wait, woken by other threads, by the operating system and by PostgreSQL."""

    def __init__(self, aliases: Sequence[str]) -> None:
        self.aliases = [alias for alias in aliases if connections[alias].vendor == "postgresql"]
        self._listening_connections: dict[str, Any] = {}
        self._has_notification = False
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)

    @contextmanager
    def handle_signals(self, handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
        """Call ``handlers`` on their signals within the block, and wake up for them: in the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in handlers}
        fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, lambda found, _: handlers[signal.Signals(found)]())
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, was in before.items():
                signal.signal(number, was)

    def wake_up(self) -> None:
        """Let who waits go on; to be called from any thread."""
        try:
            os.write(self._write_fd, b"\0")
        except BlockingIOError:  # it is full of reasons to wake up
            return

    def is_listening(self) -> bool:
        """Tell whether every database says by itself that there is something to do."""
        return bool(self.aliases) and len(self._listening_connections) == len(self.aliases)

    def listen(self) -> None:
        """Ask each PostgreSQL to tell of new deliveries, unless it does. One that is away is asked again next time."""
        for alias in self.aliases:
            connection = connections[alias]
            raw = connection.connection
            if raw is not None and self._listening_connections.get(alias) is raw and not getattr(raw, "closed", False):
                continue
            self._listening_connections.pop(alias, None)
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"LISTEN {batches.NOTIFY_CHANNEL}")
            except Error:
                connection.close()
                continue
            raw = connection.connection
            if hasattr(raw, "add_notify_handler"):
                raw.add_notify_handler(self._on_notification)
            self._listening_connections[alias] = raw

    def _on_notification(self, *_: object) -> None:
        self._has_notification = True

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``; return whether PostgreSQL told of something new."""
        told, self._has_notification = self._has_notification, False
        if told:
            return True
        sockets = {self._get_fileno(raw): alias for alias, raw in self._listening_connections.items()}
        sockets.pop(-1, None)
        readable, _, _ = select.select([self._read_fd, *sockets], [], [], max(0.0, seconds))
        for found in readable:
            if found == self._read_fd:
                try:
                    os.read(self._read_fd, 4096)
                except BlockingIOError:
                    continue
            else:
                told |= self._read_notifications(sockets[found])
        told, self._has_notification = told or self._has_notification, False
        return told

    @staticmethod
    def _get_fileno(raw: Any) -> int:
        try:
            return int(raw.fileno())
        except Exception:  # noqa: BLE001 - each driver has its own error for a connection that is closed
            return -1

    def _read_notifications(self, alias: str) -> bool:
        """Read what PostgreSQL says; return whether that is a notification."""
        raw = self._listening_connections[alias]
        try:
            if hasattr(raw, "pgconn"):
                raw.pgconn.consume_input()
                found = False
                while raw.pgconn.notifies() is not None:
                    found = True
                return found
            raw.poll()
            found = bool(raw.notifies)
            raw.notifies.clear()
            return found
        except Exception:  # noqa: BLE001 - as above: the server is gone, and listened to again when it is back
            self._listening_connections.pop(alias, None)
            connections[alias].close()
            return True

    def close(self) -> None:
        """Wait no more."""
        os.close(self._read_fd)
        os.close(self._write_fd)
