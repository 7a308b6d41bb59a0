"""The metrics of this process, and the observer and event processor that update them."""

from __future__ import annotations

import threading
from collections import Counter as CountBy
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from signalbox.contrib.prometheus.deliveries import DeliveryCollector
from signalbox.core import catalog, observers
from signalbox.core.event import Outcome
from signalbox.core.text import sanitize_text
from signalbox.pipeline import processors
from signalbox.pipeline.processors import EventProcessor
from signalbox.pipeline.serializer import get_stored_outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from signalbox.core.event import PendingEvent
    from signalbox.outbox.deliveries import AttemptResult, LeasedDelivery
    from signalbox.pipeline.batches import Batch
    from signalbox.pipeline.processors import EventBatch

EVENTS: Final = Counter(
    "signalbox_events_total", "Recorded events, by group of signals and by outcome.", ("group", "outcome")
)
DROPPED: Final = Counter("signalbox_events_dropped_total", "Events that are lost, by reason.", ("reason",))
WRITE_SECONDS: Final = Histogram(
    "signalbox_write_seconds",
    "Time to write a batch of rows.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
WRITTEN_BYTES: Final = Counter("signalbox_written_bytes_total", "Bytes of the texts of written rows.")
WRITE_FAILURES: Final = Counter("signalbox_write_failures_total", "Failed writes.")
QUEUE_LENGTH: Final = Gauge(
    "signalbox_exporter_queue_length",
    "Events and traces that the exporter could not write yet.",
    multiprocess_mode="livesum",
)
RECEIVER_SECONDS: Final = Histogram(
    "signalbox_receiver_seconds",
    "Run time of connected receivers.",
    ("receiver",),
    buckets=(0.0001, 0.001, 0.01, 0.1, 0.5, 1, 5, 30),
)
RECEIVER_ERRORS: Final = Counter(
    "signalbox_receiver_errors_total", "Exceptions that connected receivers have raised.", ("receiver",)
)
ATTEMPT_SECONDS: Final = Histogram(
    "signalbox_delivery_attempt_seconds",
    "Run time of durable receivers.",
    ("receiver",),
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 5, 30, 60, 300),
)
ATTEMPTS: Final = Counter(
    "signalbox_delivery_attempts_total", "Attempts of deliveries, by outcome.", ("receiver", "outcome")
)
RETRIES: Final = Counter(
    "signalbox_delivery_retries_total", "Failed attempts after which the delivery is retried.", ("receiver",)
)

MAX_RECEIVERS: Final = 200
"""Maximum number of values of the label ``receiver`` in one process. Further receivers are ``other``."""
OTHER: Final = "other"


class _ReceiverLabels:
    """The values of the label ``receiver``. Their number is limited."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> str:
        """Return ``name``, or ``other`` if there are too many."""
        found = self._known.get(name)
        if found is not None:
            return found
        with self._lock:
            if len(self._known) >= MAX_RECEIVERS:
                return OTHER
            return self._known.setdefault(name, sanitize_text(name))


_connected: Final = _ReceiverLabels()
_durable: Final = _ReceiverLabels()


def get_group(signal: str) -> str:
    """Return the group of a signal, ``custom`` for a project's own."""
    entry = catalog.BUILTIN_SIGNALS.get(signal)
    return "custom" if entry is None else entry.group


class EventCounter(EventProcessor):
    """Counts events when their transaction has ended, so that the outcome is known."""

    def on_commit(self, batch: EventBatch) -> None:
        """Count the events of a commit, and those that belong to no transaction."""
        _count(batch.events)

    def on_rollback(self, events: Sequence[PendingEvent]) -> None:
        """Count events that were rolled back."""
        _count(events)


def _count(events: Iterable[PendingEvent]) -> None:
    counts = CountBy((get_group(event.signal), get_stored_outcome(event, Outcome.COMMITTED.value)) for event in events)
    for (group, outcome), number in counts.items():
        EVENTS.labels(group, outcome).inc(number)


class MetricsObserver(observers.Observer):
    """Updates the metrics of writes, receivers and deliveries."""

    def on_write(self, batch: Batch, seconds: float) -> None:
        """Measure a write."""
        WRITE_SECONDS.observe(seconds)
        WRITTEN_BYTES.inc(get_text_size(batch))

    def on_write_failed(self) -> None:
        """Count a failed write."""
        WRITE_FAILURES.inc()

    def on_dropped(self, count: int, reason: str) -> None:
        """Count lost events."""
        DROPPED.labels(reason).inc(count)

    def on_queue_length(self, length: int) -> None:
        """Set the length of the queue."""
        QUEUE_LENGTH.set(length)

    def finish_send(self, started: Any, event: PendingEvent, error: BaseException | None) -> None:
        """Measure the receivers of a send."""
        for call in event.receiver_calls or ():
            label = _connected.get(call.location.name)
            if call.duration_ns is not None:
                RECEIVER_SECONDS.labels(label).observe(call.duration_ns / 1e9)
            if call.has_raised:
                RECEIVER_ERRORS.labels(label).inc()

    def finish_attempt(self, started: Any, delivery: LeasedDelivery, result: AttemptResult, seconds: float) -> None:
        """Measure an attempt."""
        label, outcome = _durable.get(delivery.receiver), result.disposition.value
        ATTEMPTS.labels(label, outcome).inc()
        if outcome == "retry":
            RETRIES.labels(label).inc()
        if result.receiver_called:
            ATTEMPT_SECONDS.labels(label).observe(seconds)


def get_text_size(batch: Batch) -> int:
    """Return the bytes of all texts in the rows of ``batch``, in UTF-8."""
    tables = (batch.events, batch.traces, batch.deliveries, batch.event_updates, batch.trace_updates)
    return sum(len(value.encode()) for rows in tables for row in rows for value in row if isinstance(value, str))


_counter: Final = EventCounter()
_observer: Final = MetricsObserver()
COLLECTOR: Final = DeliveryCollector()
"""The collector of this process. The metrics of deliveries come from the database, so they are the same in each."""
_is_registered = False


def install() -> None:
    """Update the metrics from now on, and register the collector of deliveries in the default registry."""
    global _is_registered
    processors.install_isolated(_counter)
    observers.install(_observer)
    if not _is_registered:
        REGISTRY.register(COLLECTOR)
        _is_registered = True


def uninstall() -> None:
    """Stop to update the metrics, and remove the collector of deliveries."""
    global _is_registered
    processors.uninstall(_counter)
    observers.uninstall(_observer)
    if _is_registered:
        REGISTRY.unregister(COLLECTOR)
        _is_registered = False
