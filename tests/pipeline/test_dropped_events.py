from __future__ import annotations

from signalbox.pipeline import dropped_events


def test_dropped_events_are_counted_by_reason() -> None:
    stats = dropped_events.WriteStats()
    assert (0, None) == (stats.dropped, stats.dropped_at)
    stats.add_dropped(dropped_events.DropReason.REJECTED)
    stats.add_dropped(dropped_events.DropReason.QUEUE_FULL, 10)
    stats.add_dropped(dropped_events.DropReason.REJECTED)
    assert (12, {"rejected": 2, "queue_full": 10}) == (stats.dropped, stats.dropped_by_reason)
    assert stats.dropped_at is not None
