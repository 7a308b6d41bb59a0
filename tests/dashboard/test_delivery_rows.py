"""Deliveries on their axis, also if the clocks of the database and of the workers differ."""

from __future__ import annotations

import pytest

from signalbox.dashboard.delivery_rows import build_section
from signalbox.models import Attempt, Delivery
from signalbox.queries.trace_deliveries import DeliveryHistory, SplitTrace

NOW = 1_790_000_000_000_000
HOUR = 3_600_000_000


@pytest.mark.parametrize("finished", [None, -HOUR, 0, 400 * 24 * HOUR])
@pytest.mark.parametrize("started", [-HOUR, 0, 400 * 24 * HOUR])
@pytest.mark.parametrize("ended", [-2 * HOUR, 5, 500 * 24 * HOUR])
def test_each_position_is_on_the_axis_and_no_duration_is_negative(
    finished: int | None, started: int, ended: int
) -> None:
    delivery = Delivery(
        pk=1,
        created=NOW,
        finished=None if finished is None else NOW + finished,
        attempt_started=NOW + started if finished is None else None,
    )
    attempts = [
        Attempt(
            delivery_id=1,
            fencing_token=number,
            number=number,
            started=NOW + started,
            ended=NOW + ended,
            outcome=outcome,
            retry_at=NOW - HOUR,
        )
        for number, outcome in enumerate(("failed", "lost"), 1)
    ]
    split = SplitTrace(events=[], traces=[], attempt_events={}, attempt_traces=[])
    section = build_section([DeliveryHistory(delivery=delivery, attempts=attempts)], split, NOW)
    positions = [float(text) for row in section.rows for text in (row.left, row.end)]
    assert all(0 <= position <= 100 for position in positions)
    assert all(float(row.width) >= 0 for row in section.rows)
    texts = [tick.label for tick in section.ticks] + [gap.label for gap in section.axis.gaps]
    texts += [row.outcome_text for row in section.rows if row.kind == "attempt"]  # type: ignore[union-attr]
    assert not any("-" in text for text in texts)
    waited = [row.waited_us for row in section.rows if row.kind == "delivery"]  # type: ignore[union-attr]
    assert waited == [None if finished is None else max(finished, 0)]
