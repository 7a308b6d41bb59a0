"""The deliveries of a trace with their attempts, and the events that each attempt caused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from django.db.models import Window
from django.db.models.functions import RowNumber

from signalbox.core.tracing import SPAN_BITS
from signalbox.models import Attempt, Delivery, Event, Trace
from signalbox.queries.trace_rows import select_trace_rows

MAX_DELIVERIES: Final = 100
"""Maximum number of deliveries of a trace that are read."""

MAX_ATTEMPTS: Final = 20
"""Maximum number of attempts of a delivery that are read: the newest."""

MAX_TRACE_ROWS: Final = 200
"""Maximum number of rows of a trace that are read. Each attempt with events has one."""

AttemptKey = tuple[int, int]
"""The id of a delivery, and the fencing token of one of its attempts."""


@dataclass(kw_only=True, slots=True)
class DeliveryHistory:
    """A delivery with its attempts."""

    delivery: Delivery
    attempts: list[Attempt] = field(default_factory=list)
    """The newest ``MAX_ATTEMPTS``, in order of time."""
    has_more_attempts: bool = False


def get_attempts(delivery_id: int, using: str | None = None, limit: int = MAX_ATTEMPTS) -> list[Attempt]:
    """Return the newest ``limit`` attempts of a delivery, in order of time."""
    attempts = Attempt.objects.using(using).filter(delivery_id=delivery_id)
    return list(attempts.order_by("-fencing_token")[:limit])[::-1]


def get_trace_deliveries(trace_id: str, using: str | None = None) -> tuple[list[DeliveryHistory], bool]:
    """Return the first ``MAX_DELIVERIES`` deliveries of a trace by id, and whether there are more."""
    rows = list(select_trace_rows(Delivery.objects.using(using), trace_id)[: MAX_DELIVERIES + 1])
    histories = {row.pk: DeliveryHistory(delivery=row) for row in rows[:MAX_DELIVERIES]}
    newest_first = Window(RowNumber(), partition_by="delivery_id", order_by="-fencing_token")
    attempts = Attempt.objects.using(using).filter(delivery_id__in=list(histories)).annotate(rank=newest_first)
    for attempt in attempts.filter(rank__lte=MAX_ATTEMPTS + 1).order_by("delivery_id", "fencing_token"):
        histories[attempt.delivery_id].attempts.append(attempt)
    for history in histories.values():
        history.has_more_attempts = len(history.attempts) > MAX_ATTEMPTS
        del history.attempts[:-MAX_ATTEMPTS]
    return list(histories.values()), len(rows) > MAX_DELIVERIES


def get_trace_rows(trace_id: str, using: str | None = None) -> list[Trace]:
    """Return the first ``MAX_TRACE_ROWS`` rows of a trace, in the order in which they were written."""
    return list(select_trace_rows(Trace.objects.using(using), trace_id)[:MAX_TRACE_ROWS])


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitTrace:
    """A trace, divided into the work of its attempts and the rest."""

    events: list[Event]
    """The events outside of attempts."""
    traces: list[Trace]
    """The rows outside of attempts."""
    attempt_events: dict[AttemptKey, list[Event]]
    attempt_traces: list[Trace]


def split_trace(events: Iterable[Event], traces: Iterable[Trace], histories: Iterable[DeliveryHistory]) -> SplitTrace:
    """Return the events and rows outside of the attempts in ``histories``, and those of each attempt.

    The row of the trace of an attempt has the first span of its events. The events of an attempt without such a row are
    among those outside.
    """
    known = {(one.delivery_id, one.fencing_token) for history in histories for one in history.attempts}
    series: dict[int, AttemptKey] = {}
    own_traces: list[Trace] = []
    attempt_traces: list[Trace] = []
    for trace in traces:
        data = trace.data if isinstance(trace.data, dict) else {}
        key = (data.get("delivery", 0), data.get("fencing_token", 0))
        if "first_span" in data and key in known:
            series[int(data["first_span"], 16) >> SPAN_BITS] = key
            attempt_traces.append(trace)
        else:
            own_traces.append(trace)
    own_events: list[Event] = []
    attempt_events: defaultdict[AttemptKey, list[Event]] = defaultdict(list)
    for event in events:
        found = series.get(event.span >> SPAN_BITS)
        (own_events if found is None else attempt_events[found]).append(event)
    return SplitTrace(
        events=own_events, traces=own_traces, attempt_events=dict(attempt_events), attempt_traces=attempt_traces
    )
