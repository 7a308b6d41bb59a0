"""The durable deliveries of a trace as rows on a time axis of their own, with a gap where nothing happened.

Does not query the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from django.utils.translation import gettext

from signalbox.core.attempt import AttemptOutcome
from signalbox.dashboard import formats
from signalbox.dashboard.time_axis import Tick, TimeAxis, build_axis_with_gaps, build_segment_ticks
from signalbox.dashboard.transaction_lines import TransactionLine, build_lines
from signalbox.dashboard.waterfall import CallRow, EventRow, Row, build_placed_rows
from signalbox.models import Delivery
from signalbox.queries.trace_calls import get_end
from signalbox.queries.transaction_ends import get_transaction_ends

if TYPE_CHECKING:
    from signalbox.models import Attempt, Event
    from signalbox.queries.trace_deliveries import DeliveryHistory, SplitTrace


@dataclass(slots=True)
class DeliveryRow(Row):
    """A delivery. Its line begins when it was queued and ends when it was finished, or at the end of the axis."""

    kind = "delivery"
    delivery: Delivery = field(kw_only=True)
    has_more_attempts: bool = False
    event_label: str = ""
    """The signal and the object of its event, if that was read."""

    @property
    def waited_us(self) -> int | None:
        """Microseconds from being queued to the end; ``None`` if it is not finished."""
        # Other clocks may have set the two times.
        return None if self.delivery.finished is None else max(self.delivery.finished - self.delivery.created, 0)


@dataclass(slots=True)
class AttemptRow(Row):
    """An attempt of a delivery."""

    kind = "attempt"
    delivery: Delivery = field(kw_only=True)
    attempt: Attempt = field(kw_only=True)
    event_count: int | None = None
    """Number of events that it has caused; ``None`` if it left no trace."""

    @property
    def duration_us(self) -> int:
        """Microseconds from its start to its end."""
        return max(self.attempt.ended - self.attempt.started, 0)

    @property
    def outcome_text(self) -> str:
        """Its outcome, and whether another attempt follows."""
        text = gettext(self.attempt.outcome.replace("_", " "))
        if self.attempt.retry_at is None:
            return text
        delay = formats.format_duration(max(self.attempt.retry_at - self.attempt.ended, 0))
        return gettext("%(outcome)s, retried after %(delay)s") % {"outcome": text, "delay": delay}

    @property
    def tone(self) -> str:
        """``good``, ``warning`` for a retry, else ``bad``."""
        if self.attempt.outcome == AttemptOutcome.SUCCEEDED:
            return "good"
        is_final = self.attempt.retry_at is None and self.attempt.outcome != AttemptOutcome.LOST
        return "bad" if is_final else "warning"


@dataclass(slots=True)
class RunningRow(Row):
    """The attempt of a delivery that has no result yet. Its bar ends at the end of the axis."""

    kind = "running"
    delivery: Delivery = field(kw_only=True)


DeliverySectionRow: TypeAlias = DeliveryRow | AttemptRow | RunningRow | EventRow | CallRow


@dataclass(frozen=True, slots=True)
class DeliverySection:
    """The deliveries of a trace on a time axis."""

    rows: list[DeliverySectionRow]
    axis: TimeAxis
    ticks: list[Tick]
    lines: list[TransactionLine]
    """Commits and rollbacks within attempts."""
    has_more: bool
    """Whether the trace has more deliveries than are shown."""


def build_section(
    histories: Sequence[DeliveryHistory], split: SplitTrace, origin: int, *, has_more: bool = False
) -> DeliverySection:
    """Return the deliveries in ``histories`` on one axis. Its ticks have the time since ``origin``."""
    axis = build_axis_with_gaps(_iter_intervals(histories, split))
    labels = {event.span: _get_label(event) for event in split.events}
    rows: list[DeliverySectionRow] = []
    for history in histories:
        delivery = history.delivery
        row = DeliveryRow(
            delivery=delivery, has_more_attempts=history.has_more_attempts, event_label=labels.get(delivery.span, "")
        )
        row.place(axis, delivery.created, axis.end if delivery.finished is None else delivery.finished)
        rows.append(row)
        for attempt in history.attempts:
            attempt_row = AttemptRow(1, delivery=delivery, attempt=attempt)
            attempt_row.place(axis, attempt.started, max(attempt.ended, attempt.started))
            rows.append(attempt_row)
            caused = split.attempt_events.get((attempt.delivery_id, attempt.fencing_token), [])
            rows += build_placed_rows(caused, axis, 2)
        if delivery.attempt_started is not None:
            running_row = RunningRow(1, delivery=delivery)
            running_row.place(axis, delivery.attempt_started, axis.end)
            rows.append(running_row)
    lines = build_lines(get_transaction_ends(split.attempt_traces).ends, axis)
    return DeliverySection(rows, axis, list(build_segment_ticks(axis, origin)), lines, has_more)


def _iter_intervals(histories: Sequence[DeliveryHistory], split: SplitTrace) -> list[tuple[int, int]]:
    intervals = []
    for history in histories:
        delivery = history.delivery
        moments = [delivery.created, *([] if delivery.finished is None else [delivery.finished])]
        if delivery.attempt_started is not None:
            moments.append(delivery.attempt_started)
        intervals += [(moment, moment) for moment in moments]
        for attempt in history.attempts:
            ends = [get_end(one) for one in split.attempt_events.get((delivery.pk, attempt.fencing_token), ())]
            # The end of a lost attempt is that of its lease: a pause, in which nothing is known to have happened.
            is_lost = attempt.outcome == AttemptOutcome.LOST
            intervals.append((attempt.started, max([attempt.started if is_lost else attempt.ended, *ends])))
            intervals.append((attempt.ended, attempt.ended))
    return intervals


def _get_label(event: Event) -> str:
    return f"{event.signal} {event.object_label or event.object_key or event.sender}"
