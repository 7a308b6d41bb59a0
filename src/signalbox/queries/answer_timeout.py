"""Wait a limited time for a database. The drivers themselves can wait for ever for a server that does not answer."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from django.db import OperationalError, connections

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def read_with_timeout(alias: str, read: Callable[[], T], seconds: float) -> T:
    """Return the result of ``read()``, which is called in another thread with this thread's connection to ``alias``.

    So it has the same role, schema and transaction. Raises the error of ``read()``, or ``OperationalError`` if it takes
    more than ``seconds``. This thread then gets a new connection. The other one is closed when it answers. In a
    transaction, ``read()`` is called directly, because its connection can't be replaced.
    """
    connection = connections[alias]
    if connection.in_atomic_block:
        return read()
    answers: SimpleQueue[tuple[bool, object]] = SimpleQueue()
    is_abandoned = threading.Event()

    def answer() -> None:
        connections[alias] = connection
        try:
            answers.put((True, read()))
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits
            answers.put((False, error))
        if is_abandoned.is_set():
            connection.close()

    connection.inc_thread_sharing()
    threading.Thread(target=answer, name=f"signalbox-read-{alias}", daemon=True).start()
    try:
        is_result, found = answers.get(timeout=seconds)
    except Empty:
        is_abandoned.set()
        del connections[alias]
        raise OperationalError(f"it did not answer within {seconds:g} s") from None
    connection.dec_thread_sharing()
    if not is_result and isinstance(found, Exception):
        raise found
    return found  # type: ignore[return-value]  # the result of read()
