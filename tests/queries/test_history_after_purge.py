from __future__ import annotations

import datetime as dt
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

import signalbox
from signalbox.core.event import UNKNOWN
from signalbox.models import Event, to_microseconds
from signalbox.queries import object_history, past_relation_keys
from tests.shop.models import Order, Place, Restaurant, Tag

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

NOW = dt.datetime.now(dt.UTC)


def days_ago(days: float) -> dt.datetime:
    return NOW - dt.timedelta(days=days)


def date_events(sender: str, *days: float) -> None:
    """Give the events of a sender the ages `days`, from the oldest to the newest."""
    events = list(Event.objects.filter(sender=sender).exclude(signal="class_prepared").order_by("id"))
    assert len(days) == len(events)
    for event, age in zip(events, days, strict=True):
        Event.objects.filter(pk=event.pk).update(time=to_microseconds(days_ago(age)))


@pytest.fixture
def order() -> Order:
    """An order that was created 30 days ago, changed 10 days and 2 days ago, and whose first two events are purged."""
    order = Order.objects.create(number="1")
    for number in ("2", "3"):
        order.number = number
        order.save()
    date_events("shop.Order", 30, 10, 2)
    assert {"events": 2} == signalbox.purge(before=days_ago(5), sender="shop.Order", using="default")["default"]
    return order


@pytest.mark.parametrize("days", [40, 20, 6])
def test_before_the_horizon_nothing_is_known(order: Order, days: float) -> None:
    state = signalbox.history(order).as_of(days_ago(days))
    assert (True, None) == (state.is_purged, state.exists)
    assert {UNKNOWN} == set(state.values())
    assert "number" in state.unknown_fields


def test_after_the_horizon_states_are_exact(order: Order) -> None:
    history = signalbox.history(order)
    found = [history.as_of(days_ago(days)) for days in (4, 1)]
    assert [(True, "2"), (True, "3")] == [(state.exists, state["number"]) for state in found]
    assert days_ago(5) == history.purged_before
    assert {"number": ["2", "3"]}.items() <= history.diff(days_ago(4), days_ago(1)).items()


def test_a_kept_event_before_the_horizon_is_not_the_last_one(order: Order) -> None:
    Event.objects.filter(sender="shop.Order").update(time=to_microseconds(days_ago(8)))  # as one with a delivery
    assert UNKNOWN is signalbox.history(order).as_of(days_ago(7))["number"]
    assert "3" == signalbox.history(order).as_of(days_ago(3))["number"]


def test_a_purge_while_the_events_are_read_makes_the_state_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    order, tag = Order.objects.create(number="1"), Tag.objects.create(name="gift")
    order.tags.add(tag)
    order.number = "2"
    order.save()
    date_events("shop.Order", 30, 10)
    date_events("shop.Order_tags", 10)
    history = signalbox.history(order)
    assert ("1", [tag.pk]) == (history.as_of(days_ago(20))["number"], history.get_relation_keys(days_ago(4))["tags"])
    purge = partial(signalbox.purge, before=days_ago(5), using="default")
    run_before(monkeypatch, object_history.ObjectHistory, "_collect_events", lambda: purge(sender="shop.Order"))
    assert UNKNOWN is history.as_of(days_ago(20))["number"]
    run_before(monkeypatch, past_relation_keys, "_read_current_keys", lambda: purge(sender="shop.Order_tags"))
    assert {"tags": UNKNOWN} == history.get_relation_keys(days_ago(20))


def run_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], object]) -> None:
    """Run ``action`` before the next call of a function, when the horizon was read and the events were not."""
    original = getattr(owner, name)

    def run(*arguments: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        action()
        return original(*arguments)

    monkeypatch.setattr(owner, name, run)


def test_an_object_without_events_is_not_said_to_be_missing(order: Order) -> None:
    gone = signalbox.history(Order, order.pk + 1000)
    assert gone.as_of(days_ago(20)).exists is None
    assert gone.as_of(days_ago(1)).exists is False


def test_other_models_are_not_affected(order: Order) -> None:
    tag = Tag.objects.create(name="gift")
    assert signalbox.history(tag).purged_before is None
    assert signalbox.history(tag).as_of(days_ago(20)).exists is False


def test_relations_before_the_horizon_are_unknown() -> None:
    order, tag = Order.objects.create(number="1"), Tag.objects.create(name="gift")
    order.tags.add(tag)
    date_events("shop.Order_tags", 10)
    date_events("shop.Order", 20)
    signalbox.purge(before=days_ago(5), sender="shop.Order_tags", using="default")
    history = signalbox.history(order)
    assert {"tags": UNKNOWN} == history.get_relation_keys(days_ago(15))
    assert {"tags": [tag.pk]} == history.get_relation_keys(days_ago(4))


def test_the_preview_of_a_revert_says_that_newer_values_may_be_purged() -> None:
    order = Order.objects.create(number="1")
    date_events("shop.Order", 30)
    signalbox.purge(before=days_ago(5), sender="shop.Order", using="default")
    order.delete()
    deletion = Event.objects.filter(sender="shop.Order", signal="post_delete").latest("id")
    assert days_ago(5) == signalbox.preview_revert(deletion).purged_before


def test_the_deletion_of_a_parent_is_refused_if_that_of_its_child_may_be_purged() -> None:
    place = Restaurant.objects.create(name="Diner")
    place.delete()
    deletion = Event.objects.filter(sender="shop.Place", signal="post_delete").latest("id")
    assert "Revert event" in signalbox.preview_revert(deletion).error
    old = to_microseconds(days_ago(30))
    Event.objects.filter(sender__in=["shop.Place", "shop.Restaurant"]).update(time=old)
    signalbox.purge(before=days_ago(5), sender="shop.Restaurant", using="default")
    deletion.refresh_from_db()
    assert "may have been purged" in signalbox.preview_revert(deletion).error
    assert not Place.objects.exists()


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("signalbox", "history", "shop.Order", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_says_that_older_events_were_purged(order: Order) -> None:
    assert "Older events were purged, up to" in run(str(order.pk)).splitlines()[-1]
    assert "is unknown. Older events were purged" in run(str(order.pk), "--as-of", "20d")
    assert '"exists": null, "purged": true' in run(str(order.pk), "--as-of", "20d", "--json")
    with pytest.raises(CommandError, match=r"Nothing is recorded .* Older events were purged"):
        run(str(order.pk + 1000))


def test_the_page_says_that_older_events_were_purged(order: Order, admin_client: Client) -> None:
    answer: Any = admin_client.get("/signalbox/object/", {"sender": "shop.Order", "key": str(order.pk)})
    assert "Older events were purged" in answer.content.decode()
    Event.objects.filter(sender="shop.Order").update(time=to_microseconds(days_ago(8)))
    answer = admin_client.get("/signalbox/object/", {"sender": "shop.Order", "key": str(order.pk)})
    assert "Unknown: older events were purged" in answer.content.decode()
