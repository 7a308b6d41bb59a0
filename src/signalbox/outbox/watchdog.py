"""Watch the running receivers of a process, and interrupt those that exceed their timeouts.

An asynchronous receiver is cancelled at its timeout by `execution._await_with_timeout`.
"""

from __future__ import annotations

import ctypes
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from signalbox.core import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signalbox.outbox.deliveries import LeasedDelivery

TIMEOUT_GRACE_SECONDS: Final = 10.0
"""Seconds that a receiver has to end after its timeout, before its process is abandoned."""


class TimeLimitExceeded(BaseException):
    """The receiver takes longer than its timeout. Not an ``Exception``, because receivers catch those."""


@dataclass(kw_only=True, slots=True)
class RunningAttempt:
    """A running receiver, with its thread and its timeout."""

    delivery: LeasedDelivery
    timeout: float | None
    thread_id: int
    is_async: bool = False
    """Whether the event loop cancels it at its timeout. It is not interrupted, but abandoned like others."""
    started_at: float = field(default_factory=clock.monotonic)
    finished: bool = False
    interrupted: bool = False
    """Whether ``TimeLimitExceeded`` has been scheduled in its thread."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get_overrun_seconds(self) -> float:
        """Return the seconds by which it exceeds its timeout; negative or 0 while it does not."""
        return 0.0 if self.timeout is None else clock.monotonic() - self.started_at - self.timeout

    def interrupt(self) -> None:
        """Raise ``TimeLimitExceeded`` in the receiver, as soon as it executes Python code."""
        with self.lock:
            if not (self.finished or self.interrupted or self.is_async):
                self.interrupted = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread_id), ctypes.py_object(TimeLimitExceeded)
                )

    def finish(self) -> None:
        """Record that the receiver has returned, so that it is not interrupted any more."""
        with self.lock:
            self.finished = True
        if self.interrupted:  # the exception may still be pending: wait until it is raised here
            deadline = clock.monotonic() + 1
            while clock.monotonic() < deadline:
                time.sleep(0.001)


class Watchdog:
    """The running attempts of this process."""

    def __init__(self) -> None:
        self.attempts: dict[int, RunningAttempt] = {}

    @contextmanager
    def watching(self, delivery: LeasedDelivery, timeout: float | None, *, is_async: bool) -> Iterator[None]:
        """Register the call of the receiver in the block as a running attempt."""
        thread_id = threading.get_ident()
        attempt = self.attempts[thread_id] = RunningAttempt(
            delivery=delivery, timeout=timeout, thread_id=thread_id, is_async=is_async
        )
        try:
            try:
                yield
            except TimeLimitExceeded:
                attempt.interrupted = False
                raise
            finally:
                attempt.finish()
        finally:
            self.attempts.pop(thread_id, None)

    def interrupt_overdue(self, abandon: Callable[[RunningAttempt], None]) -> None:
        """Interrupt receivers that exceed their timeouts. Call ``abandon`` for those that do not end even then."""
        for running in list(self.attempts.values()):
            overrun = running.get_overrun_seconds()
            if overrun > TIMEOUT_GRACE_SECONDS:
                abandon(running)
            elif overrun > 0:
                running.interrupt()
