"""An object's life: its events, what it was at a time, what changed between two times."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F
from django.test import override_settings
from django.utils import timezone

import signalbox
from signalbox import objects
from signalbox.event import UNKNOWN
from signalbox.models import Event
from signalbox.objects import history
from signalbox.redaction import REDACTED
from tests.events import newest
from tests.shop.models import (
    Customer,
    Enrolment,
    ExpressOrder,
    Friend,
    Measure,
    Order,
    OrderLine,
    Person,
    Place,
    Restaurant,
    Tag,
)

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def signals(subject: Any, pk: Any = None) -> list[str]:
    return [event.signal for event in history(subject, pk)]


def then() -> dt.datetime:
    """The time of the newest event."""
    moment: dt.datetime = newest().at
    return moment


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event has a time of its own, a second after the one before."""
    from itertools import count

    from signalbox import context

    start = 1_700_000_000 * 10**9
    ticks = count(start, 10**9)
    monkeypatch.setattr(context, "now", lambda: next(ticks))


# ------------------------------------------------------------------ its events


def test_the_events_of_an_object_are_its_own_newest_first() -> None:
    tag, other = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    tag.name = "c"
    tag.save()
    other.save()
    found = list(history(tag))
    assert ["post_save", "post_save"] == [event.signal for event in found]
    assert {"name": ["a", "c"]} == found[0].data["changes"]
    assert {str(tag.pk)} == {event.object_key for event in found}


def test_bulk_operations_that_touched_it_are_among_them() -> None:
    one, two = Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")])
    Tag.objects.filter(pk=one.pk).update(name="c")
    Tag.objects.bulk_update([two], ["name"])
    Tag.objects.filter(pk=one.pk)._raw_delete("default")
    assert ["bulk_delete", "update", "bulk_create"] == signals(one)
    assert ["bulk_update", "bulk_create"] == signals(two)


def test_many_to_many_changes_are_found_from_both_sides() -> None:
    order, other, tag = (
        Order.objects.create(number="A-1"),
        Order.objects.create(number="A-2"),
        Tag.objects.create(name="a"),
    )
    order.tags.add(tag)
    tag.orders.remove(order)
    order.tags.add(tag)
    order.tags.clear()
    assert ["m2m_changed"] * 4 + ["post_save"] == signals(order)
    assert ["m2m_changed"] * 4 + ["post_save"] == signals(tag)
    assert ["post_save"] == signals(other)


def test_a_symmetrical_relation_is_found_from_both_sides() -> None:
    ann, bob = Friend.objects.create(name="Ann"), Friend.objects.create(name="Bob")
    ann.friends.add(bob)
    assert ["m2m_changed", "post_save"] == signals(ann)
    assert ["m2m_changed", "post_save"] == signals(bob)


def test_they_are_still_there_after_the_object_was_deleted() -> None:
    tag = Tag.objects.create(name="a")
    key = tag.pk
    tag.delete()
    assert ["post_delete", "post_save"] == signals(Tag, key)


def test_what_another_model_did_under_the_same_key_is_not_among_them() -> None:
    tag = Tag.objects.create(name="a")
    Person.objects.create(pk=tag.pk, name="Ada")
    Friend.objects.create(pk=tag.pk, name="Ann")
    assert ["post_save"] == signals(tag)


def test_a_proxy_has_the_history_of_its_model_and_the_other_way_round() -> None:
    order = Order.objects.create(number="A-1")
    express = ExpressOrder.objects.get(pk=order.pk)
    express.save()
    assert ["post_save", "post_save"] == signals(order)
    assert ["post_save", "post_save"] == signals(express)


def test_a_child_has_the_history_of_its_parent_and_the_other_way_round() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    place = Place.objects.get(pk=lion.pk)
    place.name = "Golden Lion"
    place.save()
    assert ["post_save", "post_save"] == signals(lion)
    assert ["post_save", "post_save"] == signals(place)
    assert "Golden Lion" == history(lion).as_of(then())["name"]
    lion.delete(keep_parents=True)
    assert not history(Restaurant, place.pk).as_of(then()).exists
    assert history(place).as_of(then()).exists
    place.delete()
    assert not history(Place, lion.place_ptr_id or int(newest(Place, "post_delete").object_key)).as_of(then()).exists


def test_what_was_rolled_back_is_told_but_changed_nothing() -> None:
    tag = Tag.objects.create(name="a")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        tag.name = "b"
        tag.save()
        raise ZeroDivisionError
    assert {"committed", "rolled_back"} == {event.outcome for event in history(tag)}
    assert "a" == history(tag).as_of(then())["name"]


def test_they_can_be_read_in_pages() -> None:
    tag = Tag.objects.create(name="a")
    for _ in range(4):
        tag.save()
    whole = [event.pk for event in history(tag)]
    first = [event.pk for event in history(tag).events(limit=2)]
    assert whole[:2] == first
    assert whole[2:] == [event.pk for event in history(tag).events(before=first[-1])]
    assert [] == list(history(tag).events(limit=0))


def test_a_subject_that_is_none_says_what_is_expected() -> None:
    for subject, pk, text in (
        (7, None, "history.. was given int; an object, or a model and a key"),
        (Tag, None, r"write history\(Tag, 17\)"),
        (Tag(), None, "unsaved shop.Tag"),
        (Event.objects.all(), 1, "was given QuerySet"),
    ):
        with pytest.raises(TypeError, match=text):
            history(subject, pk)  # type: ignore[arg-type]
    assert "<history of shop.Tag 17>" == repr(history(Tag, 17))


def test_the_public_name_is_the_same() -> None:
    tag = Tag.objects.create(name="a")
    assert 1 == len(list(signalbox.history(tag)))


def test_a_key_that_can_be_none_has_no_history() -> None:
    assert [] == list(history(Tag, "no number"))
    assert not history(Tag, "no number").as_of(timezone.now()).exists
    assert not history(Enrolment, (1, "maths")).as_of(timezone.now()).exists


# ------------------------------------------------------------------ as of a time


@pytest.fixture
def life() -> dict[str, dt.datetime]:
    """An order's life, by what happened."""
    moments = {"before": dt.datetime(2000, 1, 1, tzinfo=dt.UTC)}
    ada = Customer.objects.create(name="Ada")
    order = Order.objects.create(pk=17, number="A-1", total=Decimal(10), meta={"a": [1]})
    moments["created"] = then()
    order.customer = ada
    order.meta["a"].append(2)
    order.save()
    moments["changed"] = then()
    Order.objects.filter(pk=17).update(note="by update()", status="paid")
    moments["updated"] = then()
    order.refresh_from_db()
    order.total = Decimal(12)
    Order.objects.bulk_update([order], ["total"])
    moments["bulk updated"] = then()
    Order.objects.filter(pk=17).update(total=F("total") + 1)
    moments["computed"] = then()
    order.refresh_from_db()
    order.note = "by save()"
    order.save()
    moments["saved"] = then()
    order.delete()
    moments["deleted"] = then()
    return moments


@pytest.mark.usefixtures("life")
def test_it_was_not_there_before_it_was_created_nor_after_it_was_deleted(life: dict[str, dt.datetime]) -> None:
    told = history(Order, 17)
    for moment in ("before", "deleted"):
        state = told.as_of(life[moment])
        assert (False, {}) == (state.exists, dict(state))
        assert "not there" in repr(state)
    assert told.as_of(life["created"]).exists


def test_its_fields_are_what_the_last_event_said(life: dict[str, dt.datetime]) -> None:
    told = history(Order, 17)

    def at(moment: str) -> list[Any]:
        state = told.as_of(life[moment])
        return [state[name] for name in ("number", "customer", "note", "status", "meta")]

    customer = Customer.objects.get().pk
    assert ["A-1", None, "", "open", {"a": [1]}] == at("created")
    assert ["A-1", customer, "", "open", {"a": [1, 2]}] == at("changed")
    assert ["A-1", customer, "by update()", "paid", {"a": [1, 2]}] == at("updated")
    assert ["A-1", customer, "by save()", "paid", {"a": [1, 2]}] == at("saved")


def test_a_value_that_no_event_tells_is_unknown_or_what_the_next_one_found(life: dict[str, dt.datetime]) -> None:
    told = history(Order, 17)
    assert "10" == told.as_of(life["updated"])["total"]
    state = told.as_of(life["bulk updated"])
    assert (UNKNOWN, {"total"}) == (state["total"], set(state.unknown))
    assert "13.00" == told.as_of(life["computed"])["total"]


def test_two_times_are_compared(life: dict[str, dt.datetime]) -> None:
    told = history(Order, 17)
    assert {"note": ["", "by update()"], "status": ["open", "paid"]} == told.diff(life["changed"], life["updated"])
    assert {} == told.diff(life["changed"], life["changed"])
    assert [None, "A-1"] == told.diff(life["before"], life["created"])["number"]
    assert ["by save()", None] == told.diff(life["saved"], life["deleted"])["note"]


def test_only_an_aware_time_will_do() -> None:
    tag = Tag.objects.create(name="a")
    for when in (dt.datetime(2024, 1, 1), dt.date(2024, 1, 1), "2024-01-01", None):  # noqa: DTZ001
        with pytest.raises(TypeError, match="an aware datetime was expected"):
            history(tag).as_of(when)  # type: ignore[arg-type]


def something_happens(rng: Random, order: Order) -> None:
    """Do one of many things to an order, which may be there or not."""
    rows = Order.objects.filter(pk=order.pk)
    what = rng.choice(["save", "save", "save", "update", "compute", "bulk", "delete", "create", "other", "unrecorded"])
    if what == "create" and not rows.exists():
        Order.objects.create(pk=order.pk, number=str(rng.random()))
    elif what == "update":
        rows.update(note=str(rng.random()))
    elif what == "compute":
        rows.update(total=F("total") + 1)
    elif what == "other":
        Order.objects.exclude(pk=order.pk).update(note="another")
    elif what == "unrecorded":
        signalbox.uninstall()
        rows.update(status=rng.choice(["open", "paid"]))
        signalbox.install()
    elif (found := rows.first()) is not None:
        found.total = Decimal(rng.randrange(5))
        found.status = rng.choice(["open", "paid"])
        if what == "save":
            found.save()
        elif what == "bulk":
            Order.objects.bulk_update([found], ["total"])
        elif rng.random() < 0.5:
            found.delete()
        else:
            rows.delete()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_told_is_what_all_its_events_tell(seed: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(seed)
    monkeypatch.setattr(objects, "STEPS", steps)
    order = unrecorded(number="A-1") if seed % 2 else Order.objects.create(number="A-1")
    Order.objects.create(number="B-1")
    for _ in range(15):
        something_happens(rng, order)
    told = history(Order, order.pk)
    every, present = told._steps(told), told._present()
    assert every
    for moment in {event.at for event in Event.objects.all()}:
        for when in (moment - dt.timedelta(microseconds=1), moment):
            expected, state = told._state(when, every, present), told.as_of(when)
            assert (expected.exists, dict(expected)) == (state.exists, dict(state))


def test_of_a_long_life_no_more_is_read_than_tells_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "STEPS", 5)
    order = Order.objects.create(number="A-1")
    for number in range(60):
        order.note = str(number)
        order.save()
    middle = then()
    for number in range(60):
        order.note = str(number)
        order.save()
    looked_at: list[int] = []
    concerns = objects.ObjectHistory._concerns

    def counting(self: objects.ObjectHistory, event: Event) -> bool:
        looked_at.append(event.id)
        return concerns(self, event)

    monkeypatch.setattr(objects.ObjectHistory, "_concerns", counting)
    for when in (middle, then()):
        looked_at.clear()
        state = history(order).as_of(when)
        assert ("59", "A-1", order.pk) == (state["note"], state["number"], state["id"])
        assert len(looked_at) <= 15


def unrecorded(**values: Any) -> Order:
    signalbox.uninstall()
    try:
        return Order.objects.create(**values)
    finally:
        signalbox.install()


def test_an_object_older_than_signalbox_was_always_there() -> None:
    order = unrecorded(number="A-1", note="old")
    past = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    assert (True, "old") == (history(order).as_of(past).exists, history(order).as_of(past)["note"])
    order = Order.objects.get()
    order.note = "new"
    order.save()
    told = history(order)
    assert ("old", "A-1") == (told.as_of(past)["note"], told.as_of(past)["number"])
    assert "new" == told.as_of(then())["note"]
    Order.objects.update(number="A-2")
    assert (UNKNOWN, "A-2") == (told.as_of(past)["number"], told.as_of(then())["number"])
    key = order.pk
    order.refresh_from_db()
    order.delete()
    assert ("old", True) == (history(Order, key).as_of(past)["note"], history(Order, key).as_of(past).exists)


def test_what_the_database_holds_is_asked_each_time() -> None:
    order = unrecorded(number="A-1")
    told = history(order)
    assert "A-1" == told.as_of(timezone.now())["number"]
    signalbox.uninstall()
    Order.objects.update(number="A-2")
    signalbox.install()
    assert "A-2" == told.as_of(timezone.now())["number"]


def test_a_deleted_object_that_came_back_is_there_again() -> None:
    Tag.objects.create(pk=5, name="a")
    first = then()
    Tag.objects.get().delete()
    gone = then()
    Tag.objects.create(pk=5, name="b")
    told = history(Tag, 5)
    assert ["a", None, "b"] == [told.as_of(moment).get("name") for moment in (first, gone, then())]


def test_what_was_bulk_created_is_there_with_what_is_known_of_it() -> None:
    [tag] = Tag.objects.bulk_create([Tag(name="a")])
    created = then()
    tag.name = "b"
    tag.save()
    told = history(tag)
    assert ["a", "b"] == [told.as_of(moment)["name"] for moment in (created, then())]
    assert not told.as_of(created - dt.timedelta(microseconds=1)).exists


def test_what_may_have_been_created_or_updated_is_not_said_to_be_created() -> None:
    from django.db import connection

    unique: dict[str, Any] = {} if connection.vendor == "mysql" else {"unique_fields": ["id"]}
    tag = Tag.objects.create(name="a")
    created = then()
    Tag.objects.bulk_create([Tag(pk=tag.pk, name="b")], update_conflicts=True, update_fields=["name"], **unique)
    told = history(tag)
    assert "a" == told.as_of(created)["name"]
    assert "b" == told.as_of(then())["name"]
    Tag.objects.update(name="c")
    assert UNKNOWN is told.as_of(then() - dt.timedelta(microseconds=1))["name"]


def test_secrets_and_fields_left_out_are_not_shown_from_the_table_either() -> None:
    setting = {"MODELS": {"shop.Order": {"exclude": ["note"], "redact": ["number"]}}}
    with override_settings(SIGNALBOX=setting):
        order = unrecorded(number="A-1", note="private")
        customer = Customer.objects.create(name="Ada", api_token="hush")
        state = history(order).as_of(timezone.now())
        assert (UNKNOWN, REDACTED) == (state["note"], state["number"])
        assert REDACTED == history(customer).as_of(timezone.now())["api_token"]


def test_a_computed_field_is_unknown_where_nobody_told_it() -> None:
    measure = Measure.objects.create(width=6, height=7)
    before = then()
    Measure.objects.update(width=7)
    assert history(measure).as_of(before)["area"] in (42, UNKNOWN)
    assert UNKNOWN is not history(measure).as_of(then())["width"]


@pytest.mark.parametrize("bulk", ["keys", "rows"])
def test_a_line_has_its_history_whatever_bulk_tells(bulk: str) -> None:
    with override_settings(SIGNALBOX={"BULK": bulk}):
        order = Order.objects.create(number="A-1")
        [line] = OrderLine.objects.bulk_create([OrderLine(order=order, sku="a", quantity=1)])
        OrderLine.objects.update(quantity=2)
        changed = then()
        OrderLine.objects.all().delete()
        told = history(OrderLine, line.pk)
        assert ["bulk_delete", "update", "bulk_create"] == [event.signal for event in told]
        assert 2 == told.as_of(changed)["quantity"]
        assert not told.as_of(then()).exists
