"""An object's life: its events, what it was at a time, what changed between two times."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import F
from django.db.models.signals import post_delete, post_init
from django.test import override_settings
from django.utils import timezone

import signalbox
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import bulk_events
from signalbox.models import Event
from signalbox.queries import object_history
from signalbox.queries.object_history import history
from signalbox.serialization.redaction import REDACTED
from tests.events import get_newest_event
from tests.shop.models import (
    Big,
    Club,
    Customer,
    Enrolment,
    ExpressOrder,
    Friend,
    Measure,
    Order,
    OrderLine,
    Paper,
    Person,
    Place,
    Restaurant,
    Tag,
    Word,
)

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def signals(subject: Any, pk: Any = None) -> list[str]:
    return [event.signal for event in history(subject, pk)]


def then() -> dt.datetime:
    """The time of the newest event."""
    moment: dt.datetime = get_newest_event().timestamp
    return moment


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event has a time of its own, a second after the one before."""
    from itertools import count

    from signalbox.core import clock

    start = 1_700_000_000 * 10**9
    ticks = count(start, 10**9)
    monkeypatch.setattr(clock, "now", lambda: next(ticks))


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


@pytest.mark.parametrize("mode", ["keys", "rows"])
@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("side", ["order", "tag"])
def test_the_end_of_a_relation_by_a_deletion_is_found_from_both_sides(side: str, heard: bool, mode: str) -> None:
    def hear(**kwargs: Any) -> None:
        pass

    order, other = Order.objects.create(number="A-1"), Order.objects.create(number="A-2")
    tag, unrelated = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    order.tags.add(tag)
    other.tags.add(unrelated)
    order_key, tag_key = order.pk, tag.pk
    if heard:
        post_delete.connect(hear)
    try:
        with override_settings(SIGNALBOX={"BULK": mode}):
            (order if side == "order" else tag).delete()
    finally:
        post_delete.disconnect(hear)
    for model, key, gone in ((Order, order_key, side == "order"), (Tag, tag_key, side == "tag")):
        through = [event for event in history(model, key) if event.sender == "shop.Order_tags"]
        assert ["bulk_delete", "m2m_changed"] == [event.signal for event in through]
        assert gone is not history(model, key).as_of(then()).exists
    assert ["m2m_changed", "post_save"] == signals(other)
    assert ["m2m_changed", "post_save"] == signals(unrelated)


def test_a_row_of_a_relation_that_is_deleted_by_itself_is_one_deletion() -> None:
    order, tag = Order.objects.create(number="A-1"), Tag.objects.create(name="a")
    order.tags.add(tag)
    Order.tags.through.objects.get().delete()
    assert ["post_delete", "m2m_changed", "post_save"] == signals(order)
    assert ["post_delete", "m2m_changed", "post_save"] == signals(tag)


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


def test_events_of_another_model_with_the_same_key_are_left_out() -> None:
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
    assert (
        not history(Place, lion.place_ptr_id or int(get_newest_event(Place, "post_delete").object_key))
        .as_of(then())
        .exists
    )


def test_a_rolled_back_event_is_listed_and_changes_no_state() -> None:
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


def test_an_operation_that_left_out_keys_may_have_concerned_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_events, "MAX_RECORDED_KEYS", 2)
    tags = [Tag.objects.create(name=name) for name in "abc"]
    Tag.objects.update(name="z")
    told = {str(key) for key in get_newest_event(Tag, "update").data["args"]["keys"]}
    for tag in tags:
        found = list(history(tag))
        assert ["update", "post_save"] == [event.signal for event in found]
        assert [str(tag.pk) not in told, False] == [event.uncertain for event in found]
    left_out = next(tag for tag in tags if str(tag.pk) not in told)
    updated = then()
    assert ["z"] * 3 == [history(tag).as_of(updated)["name"] for tag in tags]
    Tag.objects.update(name="y")
    assert {"z", UNKNOWN} == {history(tag).as_of(updated)["name"] for tag in tags}
    assert UNKNOWN is history(left_out).as_of(updated)["name"]


def test_a_field_that_is_unknown_at_both_times_is_not_in_the_diff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_events, "MAX_RECORDED_KEYS", 0)
    tag = Tag.objects.create(name="a")
    created = then()
    states = []
    for name in "xyz":
        Tag.objects.update(name=name)
        states.append(then())
    found = history(tag)
    assert [UNKNOWN] * 2 == [found.as_of(when)["name"] for when in states[:2]]
    assert {} == found.diff(states[0], states[1])
    assert UNKNOWN is found.diff(created, states[0])["name"][1]


def test_a_bulk_delete_without_keys_explains_a_missing_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_events, "MAX_RECORDED_KEYS", 1)
    *gone, stays = [Tag.objects.create(name=name) for name in "abc"]
    created = then()
    Tag.objects.filter(name__in="ab")._raw_delete("default")
    deleted = then()
    for tag in gone:
        told = history(tag)
        assert [True, False] == [told.as_of(moment).exists for moment in (created, deleted)]
        assert "a" <= told.as_of(created)["name"] <= "b"
    assert [True, True] == [history(stays).as_of(moment).exists for moment in (created, deleted)]
    assert "c" == history(stays).as_of(deleted)["name"]
    stays.save()
    stays.delete()
    assert history(Tag, int(get_newest_event(Tag, "post_delete").object_key)).as_of(deleted).exists


def test_a_bulk_creation_with_unknown_keys_may_have_created_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_events, "MAX_RECORDED_KEYS", 1)
    made = Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")])
    created = then()
    made[1].name = "c"
    made[1].save()
    told = history(made[1])
    assert [("post_save", False), ("bulk_create", True)] == [(event.signal, event.uncertain) for event in told]
    assert ["b", "c"] == [told.as_of(moment)["name"] for moment in (created, then())]


# ------------------------------------------------------------------ a key that was changed


@pytest.mark.parametrize("mode", ["keys", "rows"])
def test_an_update_of_the_key_ends_one_life_and_begins_another(mode: str) -> None:
    with override_settings(SIGNALBOX={"BULK": mode}):
        Word.objects.create(text="old", meaning="m")
        Word.objects.create(text="other", meaning="m")
        created = then()
        assert 1 == Word.objects.filter(text="old").update(text="new", meaning="n")
        renamed = then()
        [event] = list(history(Word, "new"))
        assert (["old"], ["new"]) == (event.data["args"]["keys"], event.data["args"]["new_keys"])
        assert ["update", "post_save"] == signals(Word, "old")
        assert ["post_save"] == signals(Word, "other")
        assert (True, False) == (
            history(Word, "old").as_of(created).exists,
            history(Word, "old").as_of(renamed).exists,
        )
        new = history(Word, "new")
        assert [False, True] == [new.as_of(moment).exists for moment in (created, renamed)]
        assert "n" == new.as_of(renamed)["meaning"]


@pytest.mark.parametrize("mode", ["keys", "rows"])
def test_a_part_of_a_composite_key_is_read_from_the_whole_key(mode: str) -> None:
    person = Person.objects.create(name="Ada")
    for course in ("maths", "logic"):
        Enrolment.objects.create(person=person, course=course)
    with override_settings(SIGNALBOX={"BULK": mode}):
        assert 1 == Enrolment.objects.filter(course="maths").update(course="physics")
    args = get_newest_event(Enrolment, "update").data["args"]
    assert [[f'[{person.pk},"maths"]'], [f'[{person.pk},"physics"]']] == [args["keys"], args["new_keys"]]
    assert not history(Enrolment, (person.pk, "maths")).as_of(then()).exists
    assert history(Enrolment, (person.pk, "physics")).as_of(then()).exists


@pytest.mark.parametrize("mode", ["keys", "rows"])
def test_the_keys_that_the_database_computed_are_not_known(mode: str) -> None:
    for key in (1, 2, 50):
        Big.objects.create(id=key, name=f"n{key}")
    with override_settings(SIGNALBOX={"BULK": mode}):
        assert 2 == Big.objects.filter(id__lt=10).update(id=F("id") + 100)
    args = get_newest_event(Big, "update").data["args"]
    assert ([1, 2], None) == (sorted(args["keys"]), args["new_keys"])
    assert (False, True, True) == tuple(history(Big, key).as_of(then()).exists for key in (1, 101, 50))
    assert [False, True] == [next(iter(history(Big, key))).uncertain for key in (1, 101)]
    assert "n50" == history(Big, 50).as_of(then())["name"]


def test_an_update_that_leaves_the_key_as_it_is_is_an_update() -> None:
    Word.objects.create(text="old", meaning="m")
    Word.objects.filter(text="old").update(text="old", meaning="n")
    state = history(Word, "old").as_of(then())
    assert (True, "n") == (state.exists, state["meaning"])


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
        assert "does not exist" in repr(state)
    assert told.as_of(life["created"]).exists


def test_the_fields_of_a_state_are_those_of_the_last_event(life: dict[str, dt.datetime]) -> None:
    told = history(Order, 17)

    def at(moment: str) -> list[Any]:
        state = told.as_of(life[moment])
        return [state[name] for name in ("number", "customer", "note", "status", "meta")]

    customer = Customer.objects.get().pk
    assert ["A-1", None, "", "open", {"a": [1]}] == at("created")
    assert ["A-1", customer, "", "open", {"a": [1, 2]}] == at("changed")
    assert ["A-1", customer, "by update()", "paid", {"a": [1, 2]}] == at("updated")
    assert ["A-1", customer, "by save()", "paid", {"a": [1, 2]}] == at("saved")


def test_a_value_that_no_event_contains_is_unknown_or_the_next_old_value(life: dict[str, dt.datetime]) -> None:
    told = history(Order, 17)
    assert "10" == told.as_of(life["updated"])["total"]
    state = told.as_of(life["bulk updated"])
    assert (UNKNOWN, {"total"}) == (state["total"], set(state.unknown_fields))
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
        signalbox.stop_recording()
        rows.update(status=rng.choice(["open", "paid"]))
        signalbox.start_recording()
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
def test_a_state_equals_that_of_a_reading_of_all_events(seed: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(seed)
    monkeypatch.setattr(object_history, "FETCH_SIZE", steps)
    order = unrecorded(number="A-1") if seed % 2 else Order.objects.create(number="A-1")
    Order.objects.create(number="B-1")
    for _ in range(15):
        something_happens(rng, order)
    told = history(Order, order.pk)
    every, present = told._build_row_effects(told), told._get_current_values()
    assert every
    for moment in {event.timestamp for event in Event.objects.all()}:
        for when in (moment - dt.timedelta(microseconds=1), moment):
            expected, state = told._build_state(when, every, present), told.as_of(when)
            assert (expected.exists, dict(expected)) == (state.exists, dict(state))


def test_a_long_history_is_read_only_as_far_as_the_state_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_history, "FETCH_SIZE", 5)
    order = Order.objects.create(number="A-1")
    for number in range(60):
        order.note = str(number)
        order.save()
    middle = then()
    for number in range(60):
        order.note = str(number)
        order.save()
    loaded: list[int] = []

    def count(sender: Any, instance: Event, **kwargs: Any) -> None:
        loaded.append(instance.id)

    post_init.connect(count, sender=Event)
    try:
        for when in (middle, then()):
            loaded.clear()
            state = history(order).as_of(when)
            assert ("59", "A-1", order.pk) == (state["note"], state["number"], state["id"])
            assert 0 < len(loaded) <= 15
    finally:
        post_init.disconnect(count, sender=Event)


def unrecorded(**values: Any) -> Order:
    signalbox.stop_recording()
    try:
        return Order.objects.create(**values)
    finally:
        signalbox.start_recording()


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


def test_the_current_row_is_read_for_each_state() -> None:
    order = unrecorded(number="A-1")
    told = history(order)
    assert "A-1" == told.as_of(timezone.now())["number"]
    signalbox.stop_recording()
    Order.objects.update(number="A-2")
    signalbox.start_recording()
    assert "A-2" == told.as_of(timezone.now())["number"]


def test_a_deleted_object_that_came_back_is_there_again() -> None:
    Tag.objects.create(pk=5, name="a")
    first = then()
    Tag.objects.get().delete()
    gone = then()
    Tag.objects.create(pk=5, name="b")
    told = history(Tag, 5)
    assert ["a", None, "b"] == [told.as_of(moment).get("name") for moment in (first, gone, then())]


def upsert(tag: Tag) -> None:
    """Create the tag, or update the one with its key: the event does not say which."""
    unique: dict[str, Any] = {} if connection.vendor == "mysql" else {"unique_fields": ["id"]}
    Tag.objects.bulk_create([tag], update_conflicts=True, update_fields=["name"], **unique)


@pytest.mark.parametrize("came_back", ["upsert", "unrecorded", "upsert, update"])
def test_an_object_that_changed_after_its_deletion_exists_again(came_back: str) -> None:
    Tag.objects.create(pk=7, name="a")
    Tag.objects.filter(pk=7).delete()
    gone = then()
    if came_back == "unrecorded":
        signalbox.stop_recording()
        Tag.objects.create(pk=7, name="b")
        signalbox.start_recording()
    else:
        upsert(Tag(pk=7, name="b"))
        assert history(Tag, 7).as_of(then()).exists
    if came_back == "upsert, update":
        Tag.objects.update(name="c")
    else:
        tag = Tag.objects.get()
        tag.name = "c"
        tag.save()
    changed = then()
    Tag.objects.get().save()
    told = history(Tag, 7)
    assert not told.as_of(gone).exists
    assert ["c", "c"] == [told.as_of(moment).get("name") for moment in (changed, then())]


def test_values_from_before_a_deletion_are_not_those_of_what_came_back() -> None:
    Order.objects.create(pk=17, number="A-1", note="old")
    Order.objects.get().delete()
    order = unrecorded(pk=17, number="A-2", note="new")
    order = Order.objects.get()
    order.number = "A-3"
    order.save()
    changed = then()
    told = history(Order, 17)
    assert ("A-3", "new") == (told.as_of(changed)["number"], told.as_of(changed)["note"])
    Order.objects.update(note="newer")
    assert ("A-3", UNKNOWN) == (told.as_of(changed)["number"], told.as_of(changed)["note"])
    order = Order.objects.get()
    order.status = "paid"
    order.save()
    assert "open" == told.as_of(changed)["status"]


def test_a_change_that_may_have_been_of_others_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_events, "MAX_RECORDED_KEYS", 1)
    for name in "abc":
        Tag.objects.create(name=name)
    nobody = max(tag.pk for tag in Tag.objects.all()) + 1
    Tag.objects.update(name="z")
    assert [("update", True)] == [(event.signal, event.uncertain) for event in history(Tag, nobody)]
    assert not history(Tag, nobody).as_of(then()).exists
    key = Tag.objects.create(name="d").pk
    Tag.objects.get(pk=key).delete()
    Tag.objects.update(name="y")
    assert not history(Tag, key).as_of(then()).exists


def test_what_happens_to_its_parent_does_not_bring_a_child_back() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    created = then()
    lion.delete(keep_parents=True)
    place = Place.objects.get()
    place.name = "Inn"
    place.save()
    told = history(Restaurant, place.pk)
    assert [True, False] == [told.as_of(moment).exists for moment in (created, then())]
    assert history(place).as_of(then()).exists
    other = Place.objects.create(name="Park")
    other.name = "Forest"
    other.save()
    assert not history(Restaurant, other.pk).as_of(then()).exists


def test_a_bulk_created_object_has_a_state_from_its_creation() -> None:
    [tag] = Tag.objects.bulk_create([Tag(name="a")])
    created = then()
    tag.name = "b"
    tag.save()
    told = history(tag)
    assert ["a", "b"] == [told.as_of(moment)["name"] for moment in (created, then())]
    assert not told.as_of(created - dt.timedelta(microseconds=1)).exists


def test_what_may_have_been_created_or_updated_is_not_said_to_be_created() -> None:
    tag = Tag.objects.create(name="a")
    created = then()
    upsert(Tag(pk=tag.pk, name="b"))
    told = history(tag)
    assert "a" == told.as_of(created)["name"]
    assert "b" == told.as_of(then())["name"]
    Tag.objects.update(name="c")
    assert UNKNOWN is told.as_of(then() - dt.timedelta(microseconds=1))["name"]


def test_an_object_that_the_base_manager_hides_exists() -> None:
    signalbox.stop_recording()
    paper = Paper.objects.create(title="a", archived=True)
    signalbox.start_recording()
    state = history(paper).as_of(timezone.now())
    assert (True, "a") == (state.exists, state["title"])


def test_secrets_and_fields_left_out_are_not_shown_from_the_table_either() -> None:
    setting = {"MODELS": {"shop.Order": {"exclude": ["note"], "redact": ["number"]}}}
    with override_settings(SIGNALBOX=setting):
        order = unrecorded(number="A-1", note="private")
        customer = Customer.objects.create(name="Ada", api_token="veil")
        state = history(order).as_of(timezone.now())
        assert (UNKNOWN, REDACTED) == (state["note"], state["number"])
        assert REDACTED == history(customer).as_of(timezone.now())["api_token"]


@pytest.mark.parametrize(
    "meta",
    [
        {"expression": "1 + 1"},
        {"literal": 7},
        {"literal": {"expression": "F(x)"}},
        [{"expression": 1}],
        [{"literal": 1}, {"expression": 2}],
        [{"expression": 1}, 2, 3],
        {"expression": "x" * 1_990 + "$"},
    ],
    ids=lambda meta: str(meta)[:40],
)
def test_a_value_that_looks_like_an_expression_is_the_value_that_it_is(meta: Any) -> None:
    order = Order.objects.create(number="A-1", meta=meta)
    created = then()
    order.meta = {"a": 1}
    order.save()
    changed = get_newest_event(Order, "post_save")
    Order.objects.update(meta=meta)
    updated = then()
    order.refresh_from_db()
    order.meta = {"b": 1}
    order.save()
    told = history(order)
    assert [meta, {"a": 1}, meta] == [told.as_of(moment)["meta"] for moment in (created, changed.timestamp, updated)]
    signalbox.revert(changed)
    assert meta == Order.objects.get().meta
    assert meta == told.as_of(then())["meta"]
    Order.objects.get().delete()
    signalbox.revert(get_newest_event(Order, "post_delete"))
    assert meta == Order.objects.get().meta


def test_an_expression_of_a_json_field_is_an_expression() -> None:
    order = Order.objects.create(number="A-1", meta={"a": 1})
    Order.objects.update(meta=F("meta"))
    updated = then()
    Order.objects.update(meta={"b": 1})
    assert UNKNOWN is history(order).as_of(updated)["meta"]


@pytest.mark.parametrize("mode", ["keys", "rows"])
@pytest.mark.parametrize("how", ["update", "save"])
def test_a_computed_field_that_was_not_recorded_is_unknown(how: str, mode: str) -> None:
    measure = Measure.objects.create(width=6, height=7)
    created = then()
    with override_settings(SIGNALBOX={"BULK": mode}):
        if how == "update":
            Measure.objects.update(width=7)
        else:
            measure.width = 7
            measure.save()
        changed = then()
        told = history(measure)
        assert told.as_of(created)["area"] in (42, UNKNOWN)
        assert (7, 49) == (told.as_of(changed)["width"], told.as_of(changed)["area"])  # as the table holds it
        Measure.objects.update(height=8)
    assert told.as_of(created)["area"] in (42, UNKNOWN)
    assert told.as_of(changed)["area"] in (49, UNKNOWN)
    assert (8, 56) == (told.as_of(then())["height"], told.as_of(then())["area"])


def test_a_computed_field_has_the_value_that_the_next_event_read() -> None:
    Measure.objects.create(width=6, height=7)
    Measure.objects.update(width=7)
    updated = then()
    key = Measure.objects.get().pk
    Measure.objects.get().delete()
    assert 49 == history(Measure, key).as_of(updated)["area"]
    assert history(Measure, key).as_of(updated - dt.timedelta(microseconds=1))["area"] in (42, UNKNOWN)


@pytest.mark.parametrize("bulk", ["keys", "rows"])
def test_an_order_line_has_a_history_in_each_bulk_mode(bulk: str) -> None:
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


@override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo")
def test_without_time_zones_a_naive_datetime_is_one_of_the_current_zone() -> None:
    tag = Tag.objects.create(name="a")
    created = then()
    tag.name = "b"
    tag.save()
    naive = timezone.make_naive(created)
    assert ("a", "a", "b") == tuple(history(tag).as_of(moment)["name"] for moment in (naive, created, then()))
    assert {"name": ["a", "b"]} == history(tag).diff(naive, timezone.make_naive(then()))
    assert not history(tag).as_of(naive - dt.timedelta(seconds=1)).exists


def test_with_time_zones_a_naive_datetime_is_refused() -> None:
    with pytest.raises(TypeError, match="an aware datetime was expected"):
        history(Tag, 1).as_of(timezone.make_naive(timezone.now()))


@override_settings(AUTH_USER_MODEL="shop.Customer")
def test_a_swapped_model_has_no_history_and_gets_an_error() -> None:
    with pytest.raises(TypeError, match=r"auth\.User is not in use: shop\.Customer replaces it\."):
        history(User, 1)


# ------------------------------------------------------------------ relations and labels


def test_the_state_has_the_keys_of_many_to_many_relations() -> None:
    gift, sale = Tag.objects.create(name="gift"), Tag.objects.create(name="sale")
    order, other = Order.objects.create(number="A-1"), Order.objects.create(number="A-2")
    created = then()
    order.tags.add(gift)
    added = then()
    sale.orders.add(order, other)
    added_from_the_other_side = then()
    order.tags.set([sale])
    replaced = then()
    gift.orders.add(other)
    order.tags.clear()
    told = history(order)
    states = [told.as_of(moment)["tags"] for moment in (created, added, added_from_the_other_side, replaced, then())]
    assert [[], [gift.pk], [gift.pk, sale.pk], [sale.pk], []] == states
    assert [gift.pk, sale.pk] == history(other).as_of(then())["tags"]
    assert {"tags": [[], [gift.pk]]} == told.diff(created, added)


@pytest.mark.parametrize("mode", ["keys", "rows"])
def test_the_relations_of_a_deleted_object_are_known_before_its_deletion(mode: str) -> None:
    with override_settings(SIGNALBOX={"BULK": mode}):
        gift, sale = Tag.objects.create(name="gift"), Tag.objects.create(name="sale")
        order, other = Order.objects.create(number="A-1"), Order.objects.create(number="A-2")
        for one in (order, other):
            one.tags.add(gift, sale)
        added, gift_key = then(), gift.pk
        gift.delete()
        related_deleted = then()
        key = order.pk
        order.delete()
    told = history(Order, key)
    assert [sale.pk] == told.as_of(related_deleted)["tags"]
    assert [gift_key, sale.pk] == told.as_of(added)["tags"]
    assert [sale.pk] == history(other).as_of(then())["tags"]
    assert "tags" not in told.as_of(then())


def test_relations_with_themselves_have_a_direction_or_none() -> None:
    ann, bob = Friend.objects.create(name="Ann"), Friend.objects.create(name="Bob")
    ann.friends.add(bob)
    added = then()
    bob.friends.remove(ann)
    for one, friend in ((ann, bob), (bob, ann)):
        assert [friend.pk] == history(one).as_of(added)["friends"]
        assert [] == history(one).as_of(then())["friends"]


def test_relations_are_unknown_if_an_event_does_not_have_the_changed_keys() -> None:
    order, tag = Order.objects.create(number="A-1"), Tag.objects.create(name="gift")
    created = then()
    Order.tags.through.objects.bulk_create([Order.tags.through(order=order, tag=tag)])
    told = history(order)
    assert (UNKNOWN, [tag.pk]) == (told.as_of(created)["tags"], told.as_of(then())["tags"])
    assert {"tags"} == told.as_of(created).unknown_fields
    Order.tags.through.objects.all().delete()
    order.tags.through.objects.create(order=order, tag=tag)
    row_created = then()
    assert ([tag.pk], [tag.pk]) == (told.as_of(row_created)["tags"], told.as_of(then())["tags"])


@pytest.mark.parametrize(("option", "value"), [("exclude", UNKNOWN), ("redact", REDACTED)])
def test_the_keys_of_a_hidden_relation_are_not_shown(option: str, value: Any) -> None:
    with override_settings(SIGNALBOX={"MODELS": {"shop.Order": {option: ["tags"]}}}):
        order = Order.objects.create(number="A-1")
        order.tags.add(Tag.objects.create(name="gift"))
        assert value == history(order).as_of(then())["tags"]


def test_relations_with_a_model_of_their_own_are_not_fields() -> None:
    club = signalbox.history(Club.objects.create(name="chess"))
    assert {"id", "name"} == club.as_of(then()).keys()


def test_the_state_has_the_labels_of_choices_and_foreign_keys() -> None:
    ada = Customer.objects.create(name="Ada")
    order = Order.objects.create(number="A-1", customer=ada)
    created = then()
    ada.name = "Ada Lovelace"
    ada.save()
    order.customer = None
    order.save()
    changed = then()
    order.customer = ada
    order.save()
    Order.objects.update(status="paid")
    told = history(order)
    labels = [told.as_of(moment).get_label("customer") for moment in (created, changed, then())]
    assert ["Ada", "", "Ada Lovelace"] == labels
    assert ["Open", "Paid"] == [told.as_of(moment).get_label("status") for moment in (created, then())]
    assert "" == told.as_of(created).get_label("number")


def test_a_value_that_can_not_be_restored_is_unknown_in_the_state() -> None:
    tag = Tag.objects.create(name="a")
    Event.objects.filter(pk=get_newest_event(Tag).pk).update(
        data={"row": {"id": tag.pk, "name": {"not_restorable": "<Name a>"}}}
    )
    created = then()
    Tag.objects.update(name="b")
    assert {"name"} == history(tag).as_of(created).unknown_fields
