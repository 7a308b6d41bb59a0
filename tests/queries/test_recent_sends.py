"""The newest sends of signals, within limits."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from signalbox.models import Event
from signalbox.queries import recent_sends
from signalbox.queries.receiver_activity import summarize_runs
from signalbox.queries.recent_sends import read_recent_sends
from tests.dashboard.browsing import AddEvent
from tests.dashboard.conftest import add_event  # noqa: F401 - a fixture

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]


@pytest.fixture(autouse=True)
def _empty(db: None) -> None:
    Event.objects.all().delete()


def test_sends_are_read_newest_first_up_to_the_limit(add_event: AddEvent) -> None:  # noqa: F811
    events = [add_event() for _ in range(7)]
    add_event(signal="post_delete")
    [found] = read_recent_sends(["post_save"], max_sends=5)
    assert [event.id for event in events[:1:-1]] == [send.id for send in found.sends]
    assert (False, False, events[2].time) == (found.is_complete, found.is_out_of_time, found.since)
    [all_of_them] = read_recent_sends(["post_save"], max_sends=50)
    assert (7, True) == (len(all_of_them.sends), all_of_them.is_complete)


def test_every_signal_is_read_without_a_name(add_event: AddEvent) -> None:  # noqa: F811
    add_event()
    add_event(signal="post_delete")
    [found] = read_recent_sends(None)
    assert ["post_delete", "post_save"] == [send.signal for send in found.sends]


def test_an_unknown_signal_has_no_sends() -> None:
    [found] = read_recent_sends(["shop.signals.unknown"])
    assert ([], True, None) == (found.sends, found.is_complete, found.since)


def test_a_used_up_budget_still_reads_one_part_of_each_signal(
    add_event: AddEvent,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent_sends, "CHUNK_SIZE", 2)
    for signal in ("post_save", "post_delete"):
        for _ in range(5):
            add_event(signal=signal)
    with CaptureQueriesContext(connection) as queries:
        found = read_recent_sends(["post_save", "post_delete"], budget_seconds=-1)
    assert 2 == len(queries)
    assert [(2, True), (2, True)] == [(len(one.sends), one.is_out_of_time) for one in found]


def test_calls_are_summed_up_by_signal_and_passed_through_errors_are_not_failures(
    add_event: AddEvent,  # noqa: F811
) -> None:
    def call(us: int | None, error: str = "", **more: object) -> dict[str, object]:
        return {"name": "shop.signals.listen", "location": "x.py:1", "duration_us": us, "error": error, **more}

    add_event(data={"receivers": [call(10), call(30, "ValueError: no")]})
    add_event(data={"receivers": [call(None, "KeyError: nested", passed_through=True)]})
    add_event(signal="post_delete", data={"receivers": [call(20)]})
    runs = summarize_runs("shop.signals.listen", read_recent_sends(["post_delete", "post_save", "pre_save"]))
    assert (4, 1, 20, 30) == (runs.total.calls, runs.total.errors, runs.total.median_us, runs.total.p95_us)
    assert [("post_delete", 1), ("post_save", 3), ("pre_save", 0)] == [
        (row.stats.signal, row.stats.calls) for row in runs.by_signal
    ]
    assert ["ValueError: no"] == [failure.error for failure in runs.failures]
