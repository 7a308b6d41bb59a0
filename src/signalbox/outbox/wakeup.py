"""Wait for work: a signal of the operating system, a notification of PostgreSQL, or a timeout."""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import Error, connections

from signalbox.core import loggers
from signalbox.pipeline import batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = loggers.get_logger("worker")


class Notifier:
    """Makes one thread wait. Other threads, signals and notifications of PostgreSQL wake it."""

    def __init__(self, aliases: Sequence[str]) -> None:
        self.aliases = [alias for alias in aliases if connections[alias].vendor == "postgresql"]
        self._listening_connections: dict[str, Any] = {}
        self._has_notification = False
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)

    @contextmanager
    def handle_signals(self, handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
        """Within the block, call ``handlers`` on their signals and wake up. Only the main thread can handle signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous_handlers = {number: signal.getsignal(number) for number in handlers}
        fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, lambda received, _: handlers[signal.Signals(received)]())
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)

    def wake_up(self) -> None:
        """Wake the waiting thread. Any thread may call this."""
        try:
            os.write(self._write_fd, b"\0")
        except BlockingIOError:  # the pipe is full, so the thread wakes up anyway
            return

    def is_listening(self) -> bool:
        """Return whether every database notifies this process of new deliveries."""
        return bool(self.aliases) and len(self._listening_connections) == len(self.aliases)

    def listen(self) -> None:
        """Subscribe to notifications of new deliveries. An unavailable database is tried again at the next call."""
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
        """Wait at most ``seconds``; return whether PostgreSQL has sent a notification."""
        notified, self._has_notification = self._has_notification, False
        if notified:
            return True
        sockets = {self._get_fileno(raw): alias for alias, raw in self._listening_connections.items()}
        sockets.pop(-1, None)
        readable, _, _ = select.select([self._read_fd, *sockets], [], [], max(0.0, seconds))
        for fd in readable:
            if fd == self._read_fd:
                try:
                    os.read(self._read_fd, 4096)
                except BlockingIOError:
                    continue
            else:
                notified |= self._read_notifications(sockets[fd])
        notified, self._has_notification = notified or self._has_notification, False
        return notified

    @staticmethod
    def _get_fileno(raw: Any) -> int:
        try:
            return int(raw.fileno())
        except Exception:  # noqa: BLE001 - each driver has its own error for a connection that is closed
            return -1

    def _read_notifications(self, alias: str) -> bool:
        """Read from the connection; return whether there was a notification."""
        raw = self._listening_connections[alias]
        try:
            if hasattr(raw, "pgconn"):
                raw.pgconn.consume_input()
                notified = False
                while raw.pgconn.notifies() is not None:
                    notified = True
                return notified
            raw.poll()
            notified = bool(raw.notifies)
            raw.notifies.clear()
            return notified
        except Exception:  # noqa: BLE001 - as above; it is subscribed to again when the server is available
            self._listening_connections.pop(alias, None)
            connections[alias].close()
            return True

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._read_fd)
        os.close(self._write_fd)
