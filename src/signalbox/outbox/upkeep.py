"""Run the upkeep of a worker, such as the purge, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

Upkeep: TypeAlias = Callable[[threading.Event], None]
"""Does work with its own connections until the event is set."""

STOP_SECONDS: Final = 2.0
"""Seconds that the upkeep has to end when the worker ends. Its statements are short."""


@contextmanager
def run_upkeep(upkeep: Upkeep | None) -> Iterator[None]:
    """Run ``upkeep`` in a thread while the block runs; ``None`` runs nothing."""
    if upkeep is None:
        yield
        return
    stopping = threading.Event()
    thread = threading.Thread(target=upkeep, args=(stopping,), name="signalbox-upkeep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(STOP_SECONDS)
