from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from signalbox.models import Event, Trace
from signalbox.queries.timeline_query import TimelineQuery


def test_what_is_asked_for_is_said_again_in_the_address() -> None:
    given = {"signal": " post_save ", "text": "night train", "before": "7", "sender": ""}
    assert "text=night+train&signal=post_save" == TimelineQuery.parse(given).query_string


def test_each_part_can_be_taken_away() -> None:
    asked = TimelineQuery.parse({"signal": "post_save", "outcome": "errors"})
    assert [
        ("Signal", "post_save", "outcome=errors"),
        ("Outcome", "errors", "signal=post_save"),
    ] == asked.active_filters()


@pytest.mark.parametrize(
    "given",
    [{"since": "yesterday"}, {"object": "7"}, {"outcome": "lost"}, {"group": "<script>"}, {"until": "2026-02-31"}],
)
@pytest.mark.django_db
def test_what_can_t_be_read_finds_nothing_and_says_why(given: dict[str, str], add_event: Callable[..., Event]) -> None:
    add_event()
    asked = TimelineQuery.parse(given)
    assert next(iter(given.values())) in asked.error
    assert not Event.objects.filter(asked.to_q()).exists()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ["a", "b", "c"]),
        ({"signal": "update"}, ["b"]),
        ({"group": "custom"}, ["c"]),
        ({"outcome": "errors"}, ["a", "c"]),
        ({"outcome": "rolled_back"}, ["b"]),
        ({"object": "shop.Order:7"}, ["a"]),
        ({"actor": "grace"}, ["c"]),
        ({"text": "ORDER_PAID"}, ["c"]),
    ],
)
@pytest.mark.django_db
def test_a_filter_finds_what_it_asks_for(
    given: dict[str, Any], found: list[str], add_event: Callable[..., Event]
) -> None:
    Event.objects.all().delete()
    add_event(object_label="a", errors=2)
    add_event(object_label="b", signal="update", outcome="rolled_back", object_key="8")
    add_event(object_label="c", signal="shop.order_paid", outcome="failed", actor_label="grace", object_key="9")
    asked = TimelineQuery.parse(given)
    assert "" == asked.error
    events = Event.objects.filter(asked.to_q()).order_by("id")
    assert found == [event.object_label for event in events]


@pytest.mark.django_db
def test_a_crashed_request_is_an_error(add_event: Callable[..., Event]) -> None:
    Event.objects.all().delete()
    add_event()
    crash = add_event(signal="got_request_exception", sender="", object_key="", outcome="sent")
    assert [crash] == list(Event.objects.filter(TimelineQuery.parse({"outcome": "errors"}).to_q()))


@pytest.mark.parametrize(
    ("status", "found"), [("5xx", ["500", "503"]), ("503", ["503"]), ("failed", ["failed"]), ("5", []), ("9xx", [])]
)
@pytest.mark.django_db
def test_the_events_of_traces_with_a_status_are_found(
    status: str, found: list[str], add_event: Callable[..., Event], add_trace: Callable[..., Trace]
) -> None:
    Event.objects.all().delete()
    add_event(object_label="running")
    for told in ("200", "500", "503", "failed"):
        add_trace(status=told, trace_id=add_event(object_label=told).trace_id)
    asked = TimelineQuery.parse({"status": status})
    events = Event.objects.filter(asked.to_q()).order_by("id")
    assert (found, False) == ([event.object_label for event in events], asked.is_indexed)


@pytest.mark.parametrize(
    ("given", "jumps"),
    [
        ({}, True),
        ({"signal": "update"}, True),
        ({"since": "2h"}, True),
        ({"text": "x"}, False),
        ({"sender": "a.B"}, False),
    ],
)
def test_an_index_leads_to_few_parts_alone(given: dict[str, str], jumps: bool) -> None:
    assert jumps == TimelineQuery.parse(given).is_indexed
