"""The name under which a process is stored as the worker of an attempt."""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Final

from signalbox.core.text import fit_column

MAX_WORKER_CHARS: Final = 128


def get_worker_name() -> str:
    """Return ``host:pid`` of this process."""
    return _build_name(os.getpid())  # a forked child has its own


@cache
def _build_name(pid: int) -> str:
    suffix = f":{pid}"
    return fit_column(socket.gethostname(), MAX_WORKER_CHARS - len(suffix)) + suffix
