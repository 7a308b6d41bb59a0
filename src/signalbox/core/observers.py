"""Observers measure recording and delivery: they make metrics and spans, and change nothing.

Without an observer each call site costs the check of an empty tuple.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from signalbox.core import interrupts, loggers

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalbox.core.event import PendingEvent
    from signalbox.outbox.deliveries import AttemptResult, LeasedDelivery
    from signalbox.pipeline.batches import Batch

logger = loggers.get_logger("telemetry")


class Observer:
    """Base class of observers. Every method has a default that does nothing.

    The methods run in the process and thread of the work, and must not query a database. Their exceptions are logged
    once per method. What a method causes is not reported to the same observer, which could cause the same again.
    """

    def on_write(self, batch: Batch, seconds: float) -> None:
        """Handle that the rows of ``batch`` were written, within ``seconds``. Their transaction may still be open."""

    def on_write_failed(self) -> None:
        """Handle that a write failed. Its rows are written again, or dropped."""

    def on_dropped(self, count: int, reason: str) -> None:
        """Handle that ``count`` events are lost. ``reason`` is a value of ``pipeline.dropped_events.DropReason``."""

    def on_queue_length(self, length: int) -> None:
        """Handle that the exporter has written what it could. ``length`` events and traces are still pending."""

    def start_send(self, event: PendingEvent) -> object:
        """Handle that the receivers of ``event`` are going to run. The result is passed to ``finish_send()``."""

    def finish_send(self, started: Any, event: PendingEvent, error: BaseException | None) -> None:
        """Handle that the receivers have run. ``error`` is the exception that the send raises, or None."""

    def start_receiver(self, event: PendingEvent, receiver: Any) -> object:
        """Handle that ``receiver`` is going to run for ``event``. The result is passed to ``finish_receiver()``."""

    def pause_receiver(self, started: Any) -> None:
        """Handle that an asynchronous receiver waits, and that other work continues in its context."""

    def resume_receiver(self, started: Any) -> None:
        """Handle that an asynchronous receiver continues after a wait."""

    def finish_receiver(self, started: Any, error: BaseException | None) -> None:
        """Handle that a receiver has run. ``error`` is the exception that it raised, or None."""

    def start_attempt(self, delivery: LeasedDelivery) -> object:
        """Handle that an attempt of ``delivery`` starts. The result is passed to ``finish_attempt()``."""

    def finish_attempt(self, started: Any, delivery: LeasedDelivery, result: AttemptResult, seconds: float) -> None:
        """Handle that an attempt of ``delivery`` has taken ``seconds`` and has ended with ``result``."""

    def on_worker_end(self) -> None:
        """Handle that a process of a worker with several processes ends. It does not call functions of ``atexit``."""


_installed: list[Observer] = []

writes: tuple[Observer, ...] = ()
"""Observers of writes, drops and the queue."""
sends: tuple[Observer, ...] = ()
"""Observers of sends with receivers."""
receivers: tuple[Observer, ...] = ()
"""Observers of single receivers."""
attempts: tuple[Observer, ...] = ()
"""Observers of attempts of deliveries, and of the ends of worker processes."""

_GROUPS: Final = {
    "writes": ("on_write", "on_write_failed", "on_dropped", "on_queue_length"),
    "sends": ("start_send", "finish_send"),
    "receivers": ("start_receiver", "finish_receiver"),
    "attempts": ("start_attempt", "finish_attempt", "on_worker_end"),
}


def install(observer: Observer) -> None:
    """Call ``observer`` from now on."""
    if observer not in _installed:
        _installed.append(observer)
        _update_groups()


def uninstall(observer: Observer) -> None:
    """Remove ``observer``, if it is installed."""
    if observer in _installed:
        _installed.remove(observer)
        _update_groups()


def _update_groups() -> None:
    for group, names in _GROUPS.items():
        globals()[group] = tuple(
            one for one in _installed if any(getattr(type(one), name) is not getattr(Observer, name) for name in names)
        )


# ------------------------------------------------------------------ calls

Started = list[tuple[Observer, Any]]
"""The results of a ``start_`` method, by observer."""


def notify(group: tuple[Observer, ...], name: str, *args: Any) -> None:
    """Call the method ``name`` of each observer of ``group``."""
    for observer in group:
        _call(observer, getattr(observer, name), *args)


def start(group: tuple[Observer, ...], name: str, *args: Any) -> Started:
    """Call the method ``name`` of each observer of ``group``, and return the results for ``finish()``.

    An observer whose method fails is not called again for this work.
    """
    results = [(observer, _call(observer, getattr(observer, name), *args)) for observer in group]
    return [(observer, result) for observer, result in results if result is not _FAILED]


def finish(started: Started, name: str, *args: Any) -> None:
    """Call the method ``name`` of each observer that was started, the last one first."""
    for observer, result in reversed(started):
        _call(observer, getattr(observer, name), result, *args)


_FAILED: Final = object()
_logged: set[tuple[str, str]] = set()


class _Running(threading.local):
    """The observers whose methods are running in this thread."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []


_running = _Running()


def _call(observer: Observer, method: Callable[..., Any], *args: Any) -> Any:
    running = _running.observers
    if observer in running:
        return _FAILED
    running.append(observer)
    try:
        return method(*args)
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        key = (type(observer).__qualname__, method.__name__)
        if key not in _logged:
            _logged.add(key)
            logger.exception("The observer %s raised an exception in %s().", *key)
        return _FAILED
    finally:
        running.pop()
