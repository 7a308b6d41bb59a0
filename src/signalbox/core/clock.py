"""The clocks of recording and of deliveries. Every other module reads the time here.

A test may freeze the time of day with freezegun or time-machine: recorded times are then the frozen ones. A duration
never uses that time, because it would be negative if the clock is set back while something runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

now: Callable[[], int] = time.time_ns
"""Return the time of day in nanoseconds since the epoch, UTC."""

monotonic_ns: Final[Callable[[], int]] = (
    # Neither package replaces this one, which the operating system keeps.
    partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC) if hasattr(time, "clock_gettime_ns") else time.monotonic_ns
)
"""Return nanoseconds that only increase. Only the difference of two values has a meaning."""


def monotonic() -> float:
    """Return seconds that only increase. Only the difference of two values has a meaning."""
    return monotonic_ns() / 1_000_000_000


def now_us() -> int:
    """Return the time of day in microseconds since the epoch, UTC."""
    return now() // 1000
