"""Present names of objects in many-to-many changes: with one query for each model, or none."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from signalbox.models import Event
from signalbox.queries import related_names
from signalbox.queries.event_summary import summarize_event
from signalbox.queries.related_names import load_current_names
from tests.shop.models import Order, Tag

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def build(**given: Any) -> Event:
    args = {"action": "post_add", "object": "shop.Order", "model": "shop.Tag", "reverse": False} | given
    return Event(
        signal="m2m_changed",
        sender="shop.Order_tags",
        object_key="7",
        object_label="Order 7",
        database="default",
        outcome="committed",
        errors=0,
        data={"args": args},
    )


def load(*events: Event) -> list[str]:
    """Return the queries that were sent."""
    with CaptureQueriesContext(connection) as statements:
        load_current_names(events)
    return [one["sql"] for one in statements if "SAVEPOINT" not in one["sql"]]


def tags(*names: str) -> list[int]:
    return [Tag.objects.create(name=name).pk for name in names]


def test_names_are_read_with_one_query_per_model_and_marked_as_present() -> None:
    red, blue = tags("red", "blue")
    first, second = build(added=[red, blue]), build(action="post_remove", removed=[blue, -4711])
    assert 1 == len(load(first, second))
    assert "Order 7 · tags: added red, blue" == str(summarize_event(first))
    assert "Order 7 · tags: removed Tag blue, #-4711" == str(summarize_event(second))
    assert summarize_event(first).has_current_names


def test_a_recorded_label_needs_no_query() -> None:
    [red] = tags("red")
    event = build(added=[red], labels={"tag": {str(red): "crimson"}})
    assert [] == load(event)
    assert "Order 7 · tags: added crimson" == str(summarize_event(event))
    assert not summarize_event(event).has_current_names


def test_only_shown_keys_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tags("a", "b", "c", "d")
    event = build(added=found)
    load(event)
    assert [str(key) for key in found[:3]] == list(event.current_names)
    monkeypatch.setattr(related_names, "MAX_NAMES", 2)
    event = build(added=found)
    load(event)
    assert [str(key) for key in found[:2]] == list(event.current_names)


@pytest.mark.parametrize(
    "given",
    [
        {"added": [1], "model": "shop.Gone"},
        {"added": [1], "model": ""},
        {"added": [1], "model": "no model"},
        {"added": ["x", "~0123456789abcdef"]},
        {"added": [2**70, -1]},
        {"added": [{"erased": "[erased]"}, [1], None]},
        {"added": "[redacted]"},
        {"added": None, "count": 3},
        {"added": [1], "labels": {"tag": "red"}},
    ],
)
def test_an_object_without_a_name_is_shown_by_its_key(given: dict[str, Any]) -> None:
    event = build(**given)
    load(event)
    assert {} == event.current_names
    assert str(summarize_event(event)).startswith("Order 7 · tags: added")


@pytest.mark.parametrize("args", [None, "text", [1]])
def test_an_event_of_any_content_is_accepted(args: Any) -> None:
    event = Event(signal="m2m_changed", sender="shop.Order_tags", database="gone", data={"args": args})
    assert [] == load(event, Event(signal="m2m_changed", data=[]), Event(signal="post_save", data={}))


def test_a_database_that_was_removed_has_no_names() -> None:
    event = build(added=[1])
    event.database = "gone"
    assert [] == load(event)


@pytest.mark.parametrize("text", [lambda tag: Order.objects.count(), lambda tag: tag.gone])
def test_a_str_that_fails_or_queries_gives_no_name_and_sends_nothing(
    monkeypatch: pytest.MonkeyPatch, text: Any
) -> None:
    found = tags("a", "b")
    monkeypatch.setattr(Tag, "__str__", text)
    event = build(added=found)
    assert 1 == len(load(event))
    assert {} == event.current_names


@pytest.mark.django_db(transaction=True)
def test_a_missing_table_leaves_the_transaction_of_the_page_usable(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tag._meta, "db_table", "shop_gone")
        with transaction.atomic():
            event = build(added=[1])
            load(event)
            assert 0 == Order.objects.count()
    assert {} == event.current_names
    assert "could not be read" in caplog.text
