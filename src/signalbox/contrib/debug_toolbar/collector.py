"""Collects the events of requests, and the SQL queries of their receivers, while django-debug-toolbar observes them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from django.db import connections

from signalbox.core import tracing
from signalbox.pipeline import processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import PendingEvent, TransactionEnd
    from signalbox.core.tracing import Trace

MAX_EVENTS: Final = 1_000
"""Number of events that are kept for each request. Further ones are only counted."""

ReceiverKey = tuple[int, int]
"""The span of an event, and the position of a receiver of its send."""


class Collector:
    """The events of one request, and the numbers of queries of their receivers."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.events: list[PendingEvent] = []
        self.omitted_count = 0
        """Number of events beyond ``MAX_EVENTS``."""
        self.receiver_query_counts: Counter[ReceiverKey] = Counter()
        """Number of queries by receiver, without those of receivers that it caused to run."""
        self.ends: list[TransactionEnd] = []
        """The ends of the transactions of the request, without those of the toolbar. Set by ``stop()``."""
        self.omitted_end_count = 0
        """Number of ends that the traces have only counted. Set by ``stop()``."""
        self._earlier_ends = len(trace.transaction_ends)
        self._earlier_end_count = trace.transaction_end_count
        self._connections: list[BaseDatabaseWrapper] = []

    def start(self) -> None:
        """Collect from now on. Call it in the thread that runs the queries."""
        _collectors[self.trace] = self
        for connection in connections.all():
            if self._count_query not in connection.execute_wrappers:
                connection.execute_wrappers.append(self._count_query)
                self._connections.append(connection)

    def stop(self) -> None:
        """Stop to collect."""
        if _collectors.pop(self.trace, None) is not None:
            within = {event.trace for event in self.events} - {self.trace}
            ends = [
                *self.trace.transaction_ends[self._earlier_ends :],
                *(e for t in within for e in t.transaction_ends),
            ]
            self.ends = sorted(ends, key=lambda end: end.time)
            count = sum(t.transaction_end_count for t in within) + self.trace.transaction_end_count
            self.omitted_end_count = count - self._earlier_end_count - len(ends)
        for connection in self._connections:
            if self._count_query in connection.execute_wrappers:
                connection.execute_wrappers.remove(self._count_query)
        self._connections.clear()

    def add(self, event: PendingEvent) -> None:
        """Keep ``event``, whose receivers may still have to run."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)
        else:
            self.omitted_count += 1

    def _count_query(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        # Requests under ASGI take turns on the connections of one thread.
        running = tracing.running_receiver.get()
        if running is not None and running[1] is not None and _find_collector(tracing.get_current_trace()) is self:
            self.receiver_query_counts[running[0], running[1]] += 1
        return execute(sql, params, many, context)

    def count_receiver_queries(self) -> dict[ReceiverKey, int]:
        """Return the number of queries by receiver, with those of the receivers that it caused to run."""
        parents = {
            event.span: (event.parent, event.parent_receiver)
            for event in self.events
            if event.parent is not None and event.parent_receiver is not None
        }
        counts: Counter[ReceiverKey] = Counter()
        for key, count in self.receiver_query_counts.items():
            seen: set[ReceiverKey] = set()
            current: Any = key
            while current is not None and current not in seen:
                seen.add(current)
                counts[current] += count
                current = parents.get(current[0])
        return dict(counts)


_collectors: Final[dict[Trace, Collector]] = {}
"""By the trace of the request."""


def _find_collector(trace: Trace | None) -> Collector | None:
    """Return the collector of ``trace``, or of a trace around it."""
    while trace is not None:
        collector = _collectors.get(trace)
        if collector is not None:
            return collector
        trace = trace.previous
    return None


class CollectingProcessor(processors.EventProcessor):
    """Passes each event to the collector of its request."""

    def on_event(self, event: PendingEvent) -> PendingEvent:
        """Keep the event, unchanged, if its request has a collector."""
        if _collectors:
            collector = _find_collector(event.trace)
            if collector is not None:
                collector.add(event)
        return event


PROCESSOR: Final = CollectingProcessor()
