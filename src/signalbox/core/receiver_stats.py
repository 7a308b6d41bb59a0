"""Statistics of receivers in recorded events: calls, exceptions and times. All pages and commands compute them here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PASSED_THROUGH_KEY: Final = "passed_through"
"""The key of a recorded call, or of an event's data, whose exceptions were raised elsewhere: by nested work, which has
counted them, or to cancel a receiver."""


def percentile(percent: int, sorted_values: Sequence[int]) -> int | None:
    """Return a percentile by the nearest-rank method: one of the values, without interpolation.

    It is the value at rank ``ceil(percent / 100 * n)`` of ``n`` values: the smallest one that at least ``percent`` per
    cent of the values do not exceed. This is definition 1 of R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical
    Packages", The American Statistician 50 (1996).

    Args:
        percent: A whole number from 1 to 100.
        sorted_values: The values in rising order.

    Returns:
        The value, or None without values.
    """
    count = len(sorted_values)
    return sorted_values[-(-count * percent // 100) - 1] if count else None


def get_raised_error(call: Mapping[str, Any]) -> str:
    """Return the exception that a recorded call raised itself, as ``Type: message``.

    It is an empty text if the call returned, or if the exception came from a receiver of a nested send.
    """
    return "" if call.get(PASSED_THROUGH_KEY) else call.get("error") or ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverStats:
    """The calls of one receiver for one signal. Times are microseconds of the calls that were timed."""

    signal: str
    """Name of the signal."""
    receiver: str
    """Dotted name."""
    location: str
    """``file:line`` of the newest call."""
    calls: int
    """Number of calls."""
    errors: int
    """Number of calls that raised. An exception that a nested send raised is counted there."""
    last_error: str
    """Newest exception as ``Type: message``, or an empty text."""
    total_us: int
    """Sum of all times."""
    median_us: int
    """50th percentile, 0 if no call was timed. See ``percentile()``."""
    p95_us: int
    """95th percentile, 0 if no call was timed."""
    max_us: int
    """Longest time, 0 if no call was timed."""


@dataclass(slots=True)
class CallTotals:
    """The sums of one receiver's calls, which are added from the newest to the oldest."""

    location: str = ""
    calls: int = 0
    errors: int = 0
    last_error: str = ""
    durations_us: list[int] = field(default_factory=list)

    def add_call(self, call: Mapping[str, Any]) -> None:
        """Add a recorded call, an item of ``receivers`` in an event's data."""
        self.calls += 1
        self.location = self.location or call.get("location") or ""
        if call.get("duration_us") is not None:
            self.durations_us.append(call["duration_us"])
        if error := get_raised_error(call):
            self.errors += 1
            self.last_error = self.last_error or error

    def get_percentile(self, percent: int) -> int | None:
        """Return a percentile of the times in microseconds, or None if no call was timed."""
        return percentile(percent, sorted(self.durations_us))

    def build_stats(self, signal: str, receiver: str) -> ReceiverStats:
        """Return the statistics of these calls."""
        durations = sorted(self.durations_us)
        return ReceiverStats(
            signal=signal,
            receiver=receiver,
            location=self.location,
            calls=self.calls,
            errors=self.errors,
            last_error=self.last_error,
            total_us=sum(durations),
            median_us=percentile(50, durations) or 0,
            p95_us=percentile(95, durations) or 0,
            max_us=durations[-1] if durations else 0,
        )
