from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from django.test import Client

from signalbox.dashboard import histogram as view
from signalbox.models import Event, Trace
from signalbox.queries import histogram_counts
from signalbox.queries.timeline_filter import TimelineFilter

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

AddEvent = Callable[..., Event]


@pytest.fixture(autouse=True)
def empty(db: None) -> None:
    Event.objects.all().delete()
    Trace.objects.all().delete()


def ask(**parts: str) -> TimelineFilter:
    return TimelineFilter.parse(parts)


def test_the_first_bar_of_the_histogram_is_complete(
    operator_client: Client, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_800_000_003.7
    monkeypatch.setattr(view, "time", SimpleNamespace(time=lambda: now))
    add_event(time=1_799_999_400_000_000)
    add_event(time=1_799_999_399_999_999)
    answer = operator_client.get("/signalbox/histogram/").json()
    assert [[1_799_999_400, "model", 1, 0]] == answer["buckets"]


def test_the_histogram_counts_what_the_list_shows(
    operator_client: Client, add_event: AddEvent, add_trace: Callable[..., Trace]
) -> None:
    Event.objects.all().delete()
    now = time.time_ns() // 1_000
    add_event(time=now)
    system = add_event(time=now, trace_id="d" * 32, is_system=True)
    add_trace(trace_id=system.trace_id, kind="process")
    for query, expected in ({}, 1), ({"system": "1"}, 2), ({"q": "since:5m"}, 2), ({"q": "kind:process"}, 1):
        buckets = operator_client.get("/signalbox/histogram/", query).json()["buckets"]
        shown = operator_client.get("/signalbox/", query).context["page"].summaries
        assert expected == sum(number for _, _, number, _ in buckets)
        assert expected == sum(line.events for line in shown)


def test_the_histogram_counts_events_by_step_and_group(add_event: AddEvent) -> None:
    add_event(time=11_000_000)
    add_event(time=14_999_999, errors=1)
    add_event(time=15_000_000, signal="update")
    add_event(time=9_000_000)
    add_event(time=15_000_000, signal="got_request_exception", outcome="sent")
    expected = [(10_000_000, "model", 2, 1), (15_000_000, "bulk", 1, 0), (15_000_000, "request", 1, 1)]
    assert expected == histogram_counts.get_histogram(ask(), 10_000_000, 5_000_000)


def test_a_text_filter_limits_the_histogram_to_fewer_events(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histogram_counts, "MAX_HISTOGRAM_EVENTS", 8)
    for _ in range(10):
        add_event(time=15_000_000)
    numbers = [
        histogram_counts.get_histogram(asked, 10_000_000, 5_000_000)[0][2] for asked in (ask(), ask(text="order"))
    ]
    assert [8, 2] == numbers


def test_the_start_of_a_truncated_histogram_is_returned(add_event: AddEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram_counts, "MAX_HISTOGRAM_EVENTS", 8)
    for number in range(8):
        add_event(time=11_000_000 + number)
    assert None is histogram_counts.get_histogram_start(ask(), 10_000_000)
    assert 11_000_005 == histogram_counts.get_histogram_start(ask(text="order"), 10_000_000)
