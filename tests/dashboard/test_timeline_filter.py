from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from signalbox.models import Event, Trace
from signalbox.queries.timeline_filter import TimelineFilter

pytestmark = pytest.mark.every_database


def test_the_filter_is_part_of_the_url() -> None:
    given = {"q": " signal:post_save night ", "before": "7", "system": "1"}
    assert "q=signal%3Apost_save+night&system=1" == TimelineFilter.parse(given).query_string


def test_old_parameters_are_translated() -> None:
    old = {"signal": " post_save ", "text": "night train", "sender": "shop.Order", "before": "7", "actor": ""}
    assert 'signal:post_save model:shop.Order "night train"' == TimelineFilter.parse(old).text
    assert "error:*" == TimelineFilter.parse({"outcome": "errors"}).text
    assert '"signal:x"' == TimelineFilter.parse({"text": "signal:x"}).text


def test_each_token_can_be_removed() -> None:
    asked = TimelineFilter.parse({"q": 'signal:post_save  -model:shop.Tag,shop.Order "night train" took>5ms'})
    assert [
        ("signal:", "post_save", "q=-model%3Ashop.Tag%2Cshop.Order+%22night+train%22+took%3E5ms"),
        ("-model:", "shop.Tag, shop.Order", "q=signal%3Apost_save+%22night+train%22+took%3E5ms"),
        ("", "night train", "q=signal%3Apost_save++-model%3Ashop.Tag%2Cshop.Order+took%3E5ms"),
        ("took>", "5ms", "q=signal%3Apost_save++-model%3Ashop.Tag%2Cshop.Order+%22night+train%22"),
    ] == [tuple(chip) for chip in asked.list_chips()]


@pytest.mark.parametrize(
    "given",
    [
        {"q": "since:yesterday"},
        {"object": "7"},
        {"outcome": "lost"},
        {"group": "<script>"},
        {"q": "signl:post_save"},
        {"q": 'model:"shop'},
    ],
)
@pytest.mark.django_db
def test_an_invalid_filter_has_an_error_and_filters_nothing(
    given: dict[str, str], add_event: Callable[..., Event]
) -> None:
    event = add_event()
    asked = TimelineFilter.parse(given)
    assert asked.error.startswith("At character 1: ") or "At character 7: " in asked.error
    assert Event.objects.filter(asked.to_q(), id=event.id).exists()
    assert [] == asked.list_chips()
    assert not asked


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ["a", "passed", "b", "c"]),
        ({"signal": "update"}, ["b"]),
        ({"group": "custom"}, ["passed", "c"]),
        ({"outcome": "errors"}, ["a", "c"]),
        ({"outcome": "rolled_back"}, ["b"]),
        ({"object": "shop.Order:7"}, ["a"]),
        ({"actor": "grace"}, ["c"]),
        ({"text": "ORDER_PAID"}, ["c"]),
        ({"q": "error:*", "actor": "grace"}, ["c"]),
    ],
)
@pytest.mark.django_db
def test_a_filter_finds_what_it_asks_for(
    given: dict[str, Any], found: list[str], add_event: Callable[..., Event]
) -> None:
    Event.objects.all().delete()
    add_event(object_label="a", errors=2)
    add_event(
        object_label="passed", signal="shop.sold", outcome="failed", object_key="8", data={"passed_through": True}
    )
    add_event(object_label="b", signal="update", outcome="rolled_back", object_key="8")
    add_event(object_label="c", signal="shop.order_paid", outcome="failed", actor_label="grace", object_key="9")
    asked = TimelineFilter.parse(given)
    assert "" == asked.error
    events = Event.objects.filter(asked.to_q()).order_by("id")
    assert found == [event.object_label for event in events]


@pytest.mark.django_db
def test_a_crashed_request_is_an_error(add_event: Callable[..., Event]) -> None:
    Event.objects.all().delete()
    add_event()
    crash = add_event(signal="got_request_exception", sender="", object_key="", outcome="sent")
    assert [crash] == list(Event.objects.filter(TimelineFilter.parse({"q": "error:*"}).to_q()))


@pytest.mark.parametrize(
    ("status", "found"),
    [
        ("status:5xx", ["500", "503"]),
        ("status:503", ["503"]),
        ("status:failed", ["failed"]),
        ("status:5", []),
        ("status>=500", ["500", "503"]),
        ("status>=200 status<503", ["200", "500"]),
        ("-status:5xx", ["running", "200", "failed"]),
        ("-status>=500 -status:failed", ["running", "200"]),
    ],
)
@pytest.mark.django_db
def test_the_events_of_traces_with_a_status_are_found(
    status: str, found: list[str], add_event: Callable[..., Event], add_trace: Callable[..., Trace]
) -> None:
    Event.objects.all().delete()
    add_event(object_label="running")
    for told in ("200", "500", "503", "failed"):
        add_trace(status=told, trace_id=add_event(object_label=told).trace_id)
    asked = TimelineFilter.parse({"q": status})
    events = Event.objects.filter(asked.to_q()).order_by("id")
    assert ("", found) == (asked.error, [event.object_label for event in events])
    assert not asked.event_filter.is_indexed


@pytest.mark.parametrize(
    ("text", "is_indexed"),
    [
        ("", True),
        ("signal:update", True),
        ("since:2h", True),
        ("object:shop.Order:7 since:2h", True),
        ("signal:update until:2h", True),
        ("signal:update since:2h", False),
        ("night", False),
        ("model:a.B", False),
        ("signal:post_*", False),
        ("-signal:update", False),
        ("signal:update,post_save", False),
        ("took>5ms", False),
    ],
)
def test_only_some_filters_use_an_index(text: str, is_indexed: bool) -> None:
    assert is_indexed == TimelineFilter.parse({"q": text}).event_filter.is_indexed
