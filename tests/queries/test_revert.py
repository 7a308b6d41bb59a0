"""Putting back what an event changed: all of it or nothing, and recorded itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, models, transaction
from django.db.models import F
from django.db.models.signals import pre_save
from django.test import override_settings

import signalbox
from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from signalbox.queries.revert import RevertError, revert
from signalbox.serialization import encoder
from tests.events import get_changes, get_events, get_newest_event, get_object_event
from tests.shop.fields import Money
from tests.shop.models import (
    Attachment,
    Club,
    Customer,
    Document,
    Enrolment,
    Item10,
    Key,
    Measure,
    Note,
    Order,
    Paper,
    Person,
    Place,
    Restaurant,
    Tag,
    Uniq,
    Word,
)

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


@contextmanager
def refused(text: str) -> Iterator[None]:
    """The block raises RevertError and nothing is done: no event is made."""
    before = Event.objects.filter(outcome="committed").count()
    with pytest.raises(RevertError, match=text):
        yield
    assert before == Event.objects.filter(outcome="committed").count()


def lost(event: Event, **changed: Any) -> Event:
    """The event, with other data."""
    event.data = {**event.data, **changed}
    return event


def told_change(instance: models.Model, value: Any, name: str = "meta") -> dict[str, Any]:
    """What an event tells of a change from ``value``, which not every database takes."""
    return encoder.encode_fields(
        {name: [value, None]}, redactor=model_metadata.get_metadata(type(instance)).fields.redactor
    )


# ------------------------------------------------------------------ updates


def test_an_updates_old_values_are_put_back_and_recorded() -> None:
    order = Order.objects.create(number="A-1", note="fresh", meta={"a": [1]}, total=Decimal("1.50"))
    order.note, order.meta, order.total = "stale", {"a": [2]}, Decimal(3)
    order.save()
    event = get_object_event(order)
    order.number = "A-2"
    order.save()
    found = revert(event)
    order.refresh_from_db()
    assert order == found
    assert ("fresh", {"a": [1]}, Decimal("1.50"), "A-2") == (order.note, order.meta, order.total, order.number)
    assert {"note": ["stale", "fresh"], "meta": [{"a": [2]}, {"a": [1]}]}.items() <= get_changes(order).items()
    assert "number" not in get_changes(order)


def test_what_sets_itself_on_saving_is_put_back_too() -> None:
    order = Order.objects.create(number="A-1")
    before = order.updated
    order.number = "A-2"
    order.save()
    assert before != order.updated
    found = revert(get_object_event(order))
    assert isinstance(found, Order)
    assert (before, before) == (found.updated, Order.objects.get().updated)
    order.save(update_fields=["number"])
    order.number = "A-3"
    order.save(update_fields=["number"])
    revert(get_object_event(order))
    assert ("A-2", before) == Order.objects.values_list("number", "updated").get()


def test_reverting_a_reversion_is_doing_it_again() -> None:
    tag = Tag.objects.create(name="a")
    tag.name = "b"
    tag.save()
    revert(get_object_event(tag))
    assert "a" == Tag.objects.get().name
    revert(get_object_event(tag))
    assert "b" == Tag.objects.get().name


def test_every_kind_of_value_comes_back_as_it_was() -> None:
    moment = dt.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=dt.UTC)
    values: dict[str, Any] = {
        "name": "Käse",
        "count": -1,
        "price": Decimal("9.90"),
        "weight": 0.5,
        "active": False,
        "day": dt.date(2024, 2, 29),
        "moment": moment,
        "data": {"a": [1, None, "ß", {"b": 0.5}]},
    }
    item = Item10.objects.create(**values)
    empty = Item10(name="x")
    for name in values:
        setattr(item, name, getattr(empty, name))
    item.save()
    revert(get_object_event(item))
    item.refresh_from_db()
    assert values == {name: getattr(item, name) for name in values}


def test_a_foreign_key_a_file_and_a_value_of_a_field_of_ones_own_come_back() -> None:
    ada, bob = Customer.objects.create(name="Ada"), Customer.objects.create(name="Bob")
    order = Order.objects.create(number="A-1", customer=ada)
    order.customer = bob
    order.save()
    revert(get_object_event(order))
    assert ada == Order.objects.get().customer
    note = Note.objects.create(price=Money(Decimal("12.50"), "EUR"))
    note.price = Money(Decimal(13), "EUR")
    note.save()
    revert(get_object_event(note))
    assert Money(Decimal("12.50"), "EUR") == Note.objects.get().price
    attachment = Attachment.objects.create(file="one.txt")
    attachment.file = "two.txt"
    attachment.save()
    revert(get_object_event(attachment))
    assert "one.txt" == Attachment.objects.get().file.name


def test_keys_of_every_kind_are_found_again() -> None:
    person = Person.objects.create(name="Ada")
    for made, field in (
        (Document.objects.create(title="old"), "title"),
        (Word.objects.create(text='odd "key"/…', meaning="old"), "meaning"),
        (Enrolment.objects.create(person=person, course='m,a"ths', grade="o"), "grade"),
    ):
        before = getattr(made, field)
        setattr(made, field, "n")
        made.save()
        revert(get_object_event(made))
        made.refresh_from_db()
        assert before == getattr(made, field)


def test_a_childs_fields_and_its_parents_come_back() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    lion.name, lion.stars = "Golden Lion", 2
    lion.save()
    revert(get_object_event(lion))
    assert ("Lion", 1) == Restaurant.objects.values_list("name", "stars").get()


def test_what_the_database_computes_is_left_to_it() -> None:
    measure = Measure.objects.create(width=6, height=7)
    measure.refresh_from_db()
    measure.width = 7
    measure.save()
    revert(get_object_event(measure))
    measure.refresh_from_db()
    assert (6, 42) == (measure.width, measure.area)


def test_the_models_own_save_and_receivers_run_and_can_refuse() -> None:
    tag = Tag.objects.create(name="a")
    tag.name = "b"
    tag.save()
    event = get_object_event(tag)

    def refuse(instance: Tag, **kwargs: Any) -> None:
        if instance.name == "a":
            raise ValidationError("no way back")

    pre_save.connect(refuse, sender=Tag)
    try:
        with pytest.raises(RevertError, match="no way back"):
            revert(event)
    finally:
        pre_save.disconnect(refuse, sender=Tag)
    assert "b" == Tag.objects.get().name


def test_a_row_of_a_bulk_operation_is_put_back_where_rows_are_told() -> None:
    with override_settings(SIGNALBOX={"BULK": "rows"}):
        tag = Tag.objects.create(name="a")
        Tag.objects.update(name="b")
        revert(get_newest_event(Tag, "update"))
        assert "a" == Tag.objects.get().name
        Tag.objects.all()._raw_delete("default")
        revert(get_newest_event(Tag, "bulk_delete"))
        assert tag == Tag.objects.get()


# ------------------------------------------------------------------ deletes


def test_a_deleted_object_comes_back_as_it_was_with_its_key() -> None:
    order = Order.objects.create(number="A-1", note="fresh", meta={"a": 1})
    order = Order.objects.get()
    before = Order.objects.values().get()
    order.delete()
    revert(get_newest_event(Order, "post_delete"))
    assert before == Order.objects.values().get()
    assert get_object_event(Order.objects.get()).data["args"]["created"]


def test_a_deleted_child_comes_back_with_its_parent() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    lion.delete()
    revert(get_newest_event(Restaurant, "post_delete"))
    assert ("Lion", 1) == Restaurant.objects.values_list("name", "stars").get()
    with refused("shop.Place .* is there already"):
        revert(get_newest_event(Place, "post_delete"))


@pytest.mark.parametrize("whose", ["child", "parent"])
def test_of_a_deleted_child_its_parents_row_alone_stays_away(whose: str) -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    (lion if whose == "child" else Place.objects.get()).delete()
    childs, parents = get_newest_event(Restaurant, "post_delete"), get_newest_event(Place, "post_delete")
    with refused(f"Event {parents.pk} tells of half an object: revert event {childs.pk}, that of the shop.Restaurant"):
        revert(parents)
    revert(childs)
    assert ("Lion", 1) == Restaurant.objects.values_list("name", "stars").get()


def test_a_parent_that_had_no_child_any_more_comes_back_alone() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    lion.delete(keep_parents=True)
    place = Place.objects.get()
    place.name = "Inn"
    place.save()
    place.delete()
    revert(get_newest_event(Place, "post_delete"))
    assert ("Inn", 0) == (Place.objects.get().name, Restaurant.objects.count())


def test_an_object_that_is_there_is_not_overwritten() -> None:
    Tag.objects.create(pk=5, name="a")
    Tag.objects.get().delete()
    event = get_newest_event(Tag, "post_delete")
    Tag.objects.create(pk=5, name="b")
    with refused("shop.Tag 5 is there already"):
        revert(event)
    assert "b" == Tag.objects.get().name


def test_an_object_is_there_though_its_managers_hide_it() -> None:
    paper = Paper.objects.create(title="a", archived=True)
    Paper.all_objects.update(title="b")
    paper.delete()
    deletion = get_newest_event(Paper, "post_delete")
    revert(deletion)
    assert ("a", True) == Paper.all_objects.values_list("title", "archived").get()
    with refused("shop.Paper .* is there already"):
        revert(deletion)
    with override_settings(SIGNALBOX={"BULK": "rows"}):
        Paper.all_objects.update(title="c")
        with refused("can't be reverted: Save with update_fields did not affect any rows"):  # Django's own save()
            revert(get_newest_event(Paper, "update"))


def test_a_deleted_object_of_which_not_all_was_recorded_stays_away() -> None:
    tag = Tag.objects.create(name="a")
    Tag(pk=tag.pk).delete()
    with refused("The value of 'name' was not recorded"):
        revert(get_newest_event(Tag, "post_delete"))
    customer = Customer.objects.create(name="Ada", api_token="hush")
    customer.delete()
    with refused("The value of 'api_token' was not recorded whole, as it is secret or too long"):
        revert(get_newest_event(Customer, "post_delete"))
    with override_settings(SIGNALBOX={"MODELS": {"shop.Tag": {"exclude": ["name"]}}}):
        Tag.objects.create(name="b").delete()
        with refused("The value of 'name' was not recorded"):
            revert(get_newest_event(Tag, "post_delete"))


# ------------------------------------------------------------------ many-to-many


def test_an_addition_is_taken_back_and_a_removal_too() -> None:
    one, two = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    order = Order.objects.create(number="A-1")
    order.tags.add(one, two)
    added = get_newest_event(Order.tags.through, "m2m_changed")
    order.tags.clear()
    assert order == revert(get_newest_event(Order.tags.through, "m2m_changed"))
    assert {one, two} == set(order.tags.all())
    revert(added)
    assert set() == set(order.tags.all())
    one.orders.add(order)
    revert(get_newest_event(Order.tags.through, "m2m_changed"))
    assert set() == set(order.tags.all())


def test_keys_of_a_relation_that_are_gone_are_named() -> None:
    tag = Tag.objects.create(pk=8, name="a")
    order = Order.objects.create(number="A-1")
    order.tags.add(tag)
    order.tags.clear()
    event = get_newest_event(Order.tags.through, "m2m_changed")
    tag.delete()
    with refused("shop.Tag 8 is gone"):
        revert(event)
    key = order.pk
    order.delete()
    with refused(f"shop.Order {key} is gone: revert the event that deleted it first"):
        revert(event)


def test_rows_that_hold_more_than_keys_are_not_made_up() -> None:
    club, ada = Club.objects.create(name="Analysts"), Person.objects.create(name="Ada")
    club.members.add(ada, through_defaults={"role": "chair"})
    revert(get_newest_event(Club.members.through, "m2m_changed"))
    assert 0 == club.members.count()
    with refused("The rows of shop.Membership hold more than the keys"):
        revert(get_newest_event(Club.members.through, "m2m_changed"))


def test_a_relation_of_which_not_all_keys_are_told_stays_as_it_is() -> None:
    order = Order.objects.create(number="A-1")
    order.tags.add(Tag.objects.create(name="a"))
    event = get_newest_event(Order.tags.through, "m2m_changed")
    with refused("tells 1 keys and leaves out 7"):
        revert(lost(event, args={**event.data["args"], "omitted_keys": 7}))
    with refused("changed nothing"):
        revert(lost(event, args={**event.data["args"], "added": []}))
    with refused("shop.Order has no relation by shop.Gone any more"):
        event = get_newest_event(Order.tags.through, "m2m_changed")
        event.sender = "shop.Gone"
        revert(event)
    key = Key.objects.create(secret_key="hush")
    order.keys.add(key)
    with refused("The keys of shop.Key are secret"):
        revert(get_newest_event(Key.orders.through, "m2m_changed"))


# ------------------------------------------------------------------ clear errors, and nothing half done


def test_what_can_not_be_put_back_says_why() -> None:
    customer = Customer.objects.create(name="Ada", email="a@example.org", api_token="hush-1")
    with refused("created shop.Customer .*: delete it instead"):
        revert(get_object_event(customer))
    customer.save()
    with refused("changed nothing"):
        revert(get_object_event(customer))
    customer.api_token, customer.name = "hush-2", "Bob"
    customer.save()
    with refused("The value of 'api_token' was not recorded whole, as it is secret or too long"):
        revert(get_object_event(customer))
    assert "Bob" == Customer.objects.get().name
    Customer(pk=customer.pk, name="Eve").save()
    with refused("The value that '(name|email|api_token)' had before event .* is not known"):
        revert(get_object_event(customer))
    customer.refresh_from_db()
    customer.name = "Z"
    customer.save()
    event = get_object_event(customer)
    customer.delete()
    with refused("is gone: revert the event that deleted it first"):
        revert(event)


@pytest.mark.parametrize("value", ["x" * 5_000, "ß" * 5_000, "$2b$12$" + "a" * 53])
def test_a_text_that_was_not_kept_whole_is_not_put_back(value: str) -> None:
    order = Order.objects.create(number="A-1", note=value)
    order.note = "short"
    order.save()
    with refused("The value of 'note' was not recorded whole"):
        revert(get_object_event(order))


@pytest.mark.parametrize(
    "value", [list(range(60)), {str(n): n for n in range(60)}, {"password": "hush"}, [[[[[[[[1]]]]]]]]], ids=str
)
def test_a_container_that_was_not_kept_whole_is_not_put_back(value: Any) -> None:
    order = Order.objects.create(number="A-1", meta=value)
    order.meta = {}
    order.save()
    with refused("The value of 'meta' was not recorded whole"):
        revert(get_object_event(order))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, [{"a": 10**30}], {"a": 1 << 5_000}], ids=lambda v: str(type(v)))
def test_a_number_that_was_recorded_as_text_is_not_put_back_as_text(value: Any) -> None:
    order = Order(number="A-1", meta=value)
    event = lost(get_object_event(Order.objects.create(number="A-1")), changes=told_change(order, value))
    with refused("The value of 'meta' holds '.*', which may have been a number"):
        revert(event)


def test_a_number_or_text_of_many_digits_that_was_kept_is_put_back() -> None:
    kept = [2**63 - 1, -(2**63), "9223372036854775807", "00000000000000000000000001", "1234567890123456789a"]
    order = Order.objects.create(number="9" * 20, meta=kept)
    order.number, order.meta = "", {}
    order.save()
    revert(get_object_event(order))
    assert ("9" * 20, kept) == Order.objects.values_list("number", "meta").get()


@pytest.mark.parametrize("name", ["note", "meta"])
def test_a_character_that_stands_for_another_is_not_put_back(name: str) -> None:
    order = Order.objects.create(number="A-1")
    value: Any = "a\0b" if name == "note" else {"a": ["\ud800"]}
    event = lost(get_object_event(order), changes=told_change(order, value, name))
    with refused(f"The value of '{name}' holds U\\+FFFD"):
        revert(event)


def test_a_field_or_model_that_is_gone_is_named() -> None:
    tag = Tag.objects.create(name="a")
    tag.name = "b"
    tag.save()
    with refused("shop.Tag has no field 'colour' any more"):
        revert(lost(get_object_event(tag), changes={"colour": ["red", "blue"]}))
    with refused("shop.Tag has no field 'orders' any more"):
        revert(lost(get_object_event(tag), changes={"orders": [1, 2]}))
    event = get_object_event(tag)
    event.sender = "shop.Gone"
    with refused("The model shop.Gone is gone"):
        revert(event)
    event = get_object_event(tag)
    event.object_key = "no number"
    with refused("'no number' is no primary key of shop.Tag"):
        revert(event)
    event = get_object_event(tag)
    event.database = "attic"
    with refused("'attic', which the settings don't know any more"):
        revert(event)


def test_a_value_that_its_field_does_not_take_is_named() -> None:
    item = Item10.objects.create(name="x", count=1)
    item.count = 2
    item.save()
    with refused("'many' can't be read as a value of 'count'"):
        revert(lost(get_object_event(item), changes={"count": ["many", 2]}))


def test_what_the_database_computed_and_did_not_say_is_not_put_back() -> None:
    order = Order.objects.create(number="A-1", total=Decimal(1))
    order.note = "x"
    order.save()
    with refused("The database computed 'total'"):
        revert(lost(get_object_event(order), changes={"total": [{"expression": str(F("total") + 1)}, "3"]}))


def test_what_a_foreign_key_pointed_at_may_be_gone() -> None:
    ada = Customer.objects.create(pk=9, name="Ada")
    order = Order.objects.create(number="A-1", customer=ada)
    order.customer = None
    order.save()
    event = get_object_event(order)
    ada.delete()
    with refused("shop.Customer 9, to which 'customer' pointed, is gone"):
        revert(event)


def test_a_binary_value_is_not_put_back() -> None:
    class Blob(models.Model):
        data = models.BinaryField()

        class Meta:
            app_label = "shop"

    from django.apps import apps

    try:
        event = get_object_event(Tag.objects.create(name="a"))
        event.sender = Blob._meta.label
        with refused("The value of 'data' was not recorded: it is binary"):
            revert(lost(event, changes={"data": [{"bytes": 1}, None]}, row=None))
    finally:
        del apps.all_models["shop"]["blob"]
        apps.clear_cache()


def test_what_the_database_refuses_is_undone_whole() -> None:
    one = Uniq.objects.create(k="a")
    one.k = "b"
    one.save()
    event = get_object_event(one)
    Uniq.objects.create(k="a")
    with refused("can't be reverted"):
        revert(event)
    assert {"a", "b"} == set(Uniq.objects.values_list("k", flat=True))


def test_bulk_operations_tell_no_values() -> None:
    Tag.objects.bulk_create([Tag(name="a")])
    Tag.objects.update(name="b")
    for signal in ("bulk_create", "update"):
        with refused('tells the rows of a bulk operation, not their values: with SIGNALBOX = {"BULK": "rows"}'):
            revert(get_newest_event(Tag, signal))


def test_what_was_never_committed_has_nothing_to_put_back() -> None:
    tag = Tag.objects.create(name="a")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        tag.name = "b"
        tag.save()
        raise ZeroDivisionError
    event = Event.objects.get(outcome="rolled_back", signal="post_save", sender="shop.Tag")
    with refused("was not committed"):
        revert(event)


def test_a_secret_or_cut_key_names_no_object() -> None:
    key = Key.objects.create(secret_key="hush", note="a")
    key.note = "b"
    key.save()
    with refused("The key of shop.Key is secret"):
        revert(get_newest_event(Key, "post_save"))
    event = get_newest_event(Key, "post_save")
    event.sender, event.object_key, event.data = "shop.Word", "x" * 200, {"changes": {"meaning": ["a", "b"]}}
    with refused("The key of shop.Word is too long"):
        revert(event)


@pytest.mark.django_db(transaction=True)
def test_outside_of_a_transaction_it_is_one_of_its_own() -> None:
    order = Order.objects.create(number="A-1", note="fresh")
    order.delete()
    assert not connection.in_atomic_block
    revert(get_newest_event(Order, "post_delete"))
    assert not connection.in_atomic_block
    assert "fresh" == Order.objects.get().note
    assert signalbox.revert is revert
    assert 2 == len(get_events(Order, "post_save"))
