"""A TCP proxy that a test can close and open, to simulate a failing network or a restarting server."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def hold_port() -> socket.socket:
    """Return a socket that keeps a free port for a server with ``SO_REUSEADDR``. No other program gets the port."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


class Proxy:
    """Forwards connections to a server. While it is closed, connections are refused."""

    def __init__(self, host: str, port: int) -> None:
        self.server = (host, port)
        self._holder = hold_port()
        self.port: int = self._holder.getsockname()[1]
        self.drop_reply_to = b""
        """What a client may still say: the answer is lost, and the connection with it."""
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            ended, self._sockets = self._sockets, []
        if listener is not None:
            _shut_down(listener)
        for one in ended:
            _shut_down(one)

    def end(self) -> None:
        """Close it for ever."""
        self.close()
        self._holder.close()

    @contextmanager
    def closed(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            self.open()

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self.server)
            except OSError:
                return
            with self._lock:
                is_open = self._listener is listener
                self._sockets += [client, server] if is_open else []
            if not is_open:  # it was closed meanwhile
                _shut_down(client)
                _shut_down(server)
                return
            said = threading.Event()
            for way in ((client, server, False, said), (server, client, True, said)):
                threading.Thread(target=self._forward, args=way, daemon=True).start()

    def _forward(
        self, source: socket.socket, target: socket.socket, is_reply: bool, reply_dropped: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_reply and reply_dropped.is_set():
                    break
                if not is_reply and self.drop_reply_to and self.drop_reply_to in data:
                    reply_dropped.set()
                target.sendall(data)
        _shut_down(source)
        _shut_down(target)


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
