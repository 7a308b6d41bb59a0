"""Reverting the change of an event, completely or not at all."""

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
from django.db.models.signals import post_init, pre_save
from django.test import override_settings
from django.test.utils import isolate_apps

import signalbox
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from signalbox.queries.revert import RevertError, preview_revert, revert
from signalbox.queries.revert_preview import FieldStatus
from signalbox.queries.revert_relations import plan_relation, read_objects
from signalbox.serialization import encoder
from signalbox.serialization.redaction import REDACTED
from tests.events import get_changes, get_events, get_newest_event, get_object_event
from tests.own_values import OpaqueField
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
    """Assert that the block raises RevertError and records no event."""
    before = Event.objects.filter(outcome="committed").count()
    with pytest.raises(RevertError, match=text):
        yield
    assert before == Event.objects.filter(outcome="committed").count()


def lost(event: Event, **changed: Any) -> Event:
    """The event, with other data."""
    event.data = {**event.data, **changed}
    return event


def told_change(instance: models.Model, value: Any, name: str = "meta") -> dict[str, Any]:
    """Return the event of a change from ``value``, which not every database accepts."""
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


def test_a_field_that_save_sets_is_restored_too() -> None:
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


def test_the_database_computes_fields_again_after_a_revert() -> None:
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


def test_a_row_of_a_bulk_operation_is_restored_if_rows_are_recorded() -> None:
    with override_settings(SIGNALBOX={"BULK": "rows"}):
        tag = Tag.objects.create(name="a")
        Tag.objects.update(name="b")
        revert(get_newest_event(Tag, "update"))
        assert "a" == Tag.objects.get().name
        Tag.objects.all()._raw_delete("default")
        revert(get_newest_event(Tag, "bulk_delete"))
        assert tag == Tag.objects.get()


def test_redacted_fields_of_an_update_are_left_unchanged() -> None:
    customer = Customer.objects.create(name="Ada", email="a@example.org", api_token="veil-1")
    customer.api_token, customer.name = "veil-2", "Bob"
    customer.save()
    event = get_object_event(customer)
    [token] = [field for field in preview_revert(event).fields if field.name == "api_token"]
    assert (FieldStatus.UNCHANGED, REDACTED, UNKNOWN) == (token.status, token.current, token.restored)
    assert "'api_token' is redacted" in token.reason
    revert(event)
    assert ("Ada", "veil-2") == Customer.objects.values_list("name", "api_token").get()


@override_settings(SIGNALBOX={"MODELS": {"shop.Order": {"redact": ["status", "customer", "number"]}}})
def test_a_redacted_field_without_default_and_null_prevents_a_creation() -> None:
    order = Order.objects.create(number="A-1", status="sent")
    order.delete()
    event = get_newest_event(Order, "post_delete")
    status = {field.name: field.status for field in preview_revert(event).fields}
    assert [FieldStatus.REFUSED, FieldStatus.DEFAULT] == [status["number"], status["status"]]
    with refused("The value of 'number' was not recorded, as it is redacted"):
        revert(event)


@override_settings(SIGNALBOX={"MODELS": {"shop.Order": {"redact": ["status", "customer"]}}})
def test_redacted_fields_of_a_deleted_object_get_their_defaults() -> None:
    order = Order.objects.create(number="A-1", status="sent", customer=Customer.objects.create(name="Ada"))
    order.delete()
    event = get_newest_event(Order, "post_delete")
    revert(event)
    restored = Order.objects.get()
    assert ("A-1", "open") == (restored.number, restored.status)
    assert restored.customer is None


@override_settings(SIGNALBOX={"MODELS": {"shop.Document": {"redact": ["id"]}}})
def test_a_redacted_key_is_not_replaced_by_its_default() -> None:
    Document.objects.create(title="a").delete()
    with refused("The value of 'id' was not recorded, as it is redacted"):
        revert(get_newest_event(Document, "post_delete"))
    assert not Document.objects.exists()


# ------------------------------------------------------------------ deletes


def delete_stale_order() -> Event:
    """Delete an order by an instance that does not have the newest values."""
    stale = Order.objects.create(number="A-1", total=Decimal("9.99"))
    Order.objects.filter(pk=stale.pk).update(status="paid", total=Decimal("12.346"))
    stale.delete()
    return get_newest_event(Order, "post_delete")


def test_the_newer_state_of_a_stale_deleted_object_is_restored(caplog: pytest.LogCaptureFixture) -> None:
    event = delete_stale_order()
    assert "open" == event.data["row"]["status"]
    preview = preview_revert(event)
    assert ("status", "total") == preview.newer_fields
    [status] = [field for field in preview.fields if field.name == "status"]
    assert (None, "paid", "Paid") == (status.current, status.restored, status.restored_label)
    revert(event)
    assert ("paid", Decimal("12.35")) == Order.objects.values_list("status", "total").get()
    assert "the newer values of status, total were restored" in caplog.text


def test_the_row_of_the_deletion_is_restored_on_request(caplog: pytest.LogCaptureFixture) -> None:
    event = delete_stale_order()
    assert () == preview_revert(event, use_newer_state=False).newer_fields
    revert(event, use_newer_state=False)
    assert ("open", Decimal("9.99")) == Order.objects.values_list("status", "total").get()
    assert "newer" not in caplog.text


@override_settings(SIGNALBOX={"BULK": "rows"})
def test_the_row_of_a_bulk_deletion_is_never_stale() -> None:
    tag = Tag.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE shop_tag SET name = 'changed without Django'")
    Tag.objects.filter(pk=tag.pk)._raw_delete("default")
    event = get_newest_event(Tag, "bulk_delete")
    if "row" not in event.data:  # the database has no RETURNING for the statement
        pytest.skip("the database does not return deleted rows")
    assert () == preview_revert(event).newer_fields
    revert(event)
    assert "changed without Django" == Tag.objects.get().name


def test_a_value_that_the_database_rounded_is_not_a_newer_state() -> None:
    Order.objects.create(number="A-1", total=Decimal("1.009"))
    Order.objects.get().delete()
    event = get_newest_event(Order, "post_delete")
    assert () == preview_revert(event).newer_fields
    assert "1.01" == event.data["row"]["total"]


def test_a_deletion_without_values_is_restored_from_other_events() -> None:
    tag = Tag.objects.create(name="a")
    Tag(pk=tag.pk).delete()
    event = get_newest_event(Tag, "post_delete")
    assert ("name",) == preview_revert(event).newer_fields
    revert(event)
    assert "a" == Tag.objects.get(pk=tag.pk).name


def test_a_newer_value_that_was_not_recorded_completely_is_refused() -> None:
    stale = Order.objects.create(number="A-1", note="short")
    Order.objects.filter(pk=stale.pk).update(note="x" * 5_000)
    stale.delete()
    event = get_newest_event(Order, "post_delete")
    with refused("A newer value than the event's was recorded. The value of 'note' was not recorded completely"):
        revert(event)
    revert(event, use_newer_state=False)
    assert "short" == Order.objects.get().note


def test_the_relations_of_a_deleted_object_are_restored_on_request() -> None:
    gift, sale = Tag.objects.create(name="gift"), Tag.objects.create(name="sale")
    order = Order.objects.create(number="A-1")
    order.tags.add(gift)
    sale.orders.add(order)
    order.delete()
    event = get_newest_event(Order, "post_delete")
    [tags] = [field for field in preview_revert(event).fields if field.name == "tags"]
    assert (FieldStatus.OMITTED, "The relation 'tags' is restored only on request.") == (tags.status, tags.reason)
    preview = preview_revert(event, restore_relations=True)
    assert ([gift.pk, sale.pk], "gift, sale") == (preview.fields[-1].restored, preview.fields[-1].restored_label)
    restored = revert(event, restore_relations=True)
    assert isinstance(restored, Order)
    assert [gift, sale] == list(restored.tags.order_by("pk"))
    restored.delete()
    revert(get_newest_event(Order, "post_delete"))
    assert not Order.objects.get().tags.exists()


def test_a_deleted_object_is_not_restored_without_its_related_objects() -> None:
    gift = Tag.objects.create(pk=31, name="gift")
    order = Order.objects.create(number="A-1")
    order.tags.add(gift)
    order.delete()
    gift.delete()
    event = get_newest_event(Order, "post_delete")
    with refused("shop.Tag 31 of 'tags' does not exist any more"):
        revert(event, restore_relations=True)
    revert(event)
    assert "A-1" == Order.objects.get().number


def test_relations_with_unknown_keys_are_not_restored() -> None:
    order = Order.objects.create(number="A-1")
    with override_settings(SIGNALBOX={"BULK": "count"}):
        order.tags.add(Tag.objects.create(name="gift"))
        order.delete()
    event = get_newest_event(Order, "post_delete")
    with refused("The keys of 'tags' were not recorded"):
        revert(event, restore_relations=True)


# ------------------------------------------------------------------ previews


def test_a_preview_shows_current_and_restored_values_and_changes_nothing() -> None:
    ada, bob = Customer.objects.create(name="Ada"), Customer.objects.create(name="Bob")
    order = Order.objects.create(number="A-1", customer=ada)
    order.customer, order.status = bob, "paid"
    order.save()
    event = get_object_event(order)
    Order.objects.update(status="sent")
    before = Event.objects.count()
    preview = preview_revert(event)
    assert (True, False, "") == (preview.can_revert, preview.creates, preview.error)
    fields = {field.name: field for field in preview.fields}
    status, customer = fields["status"], fields["customer"]
    assert ("sent", "open", "Sent", "Open") == (
        status.current,
        status.restored,
        status.current_label,
        status.restored_label,
    )
    assert (bob.pk, ada.pk, "Bob", "Ada") == (
        customer.current,
        customer.restored,
        customer.current_label,
        customer.restored_label,
    )
    assert ("sent", before) == (Order.objects.get().status, Event.objects.count())


def test_a_preview_of_a_relation_shows_its_keys() -> None:
    order, gift, sale = (
        Order.objects.create(number="A-1"),
        Tag.objects.create(name="gift"),
        Tag.objects.create(name="s"),
    )
    order.tags.add(gift)
    order.tags.add(sale)
    [tags] = preview_revert(get_newest_event(Order.tags.through, "m2m_changed")).fields
    assert ("tags", [gift.pk, sale.pk], [gift.pk]) == (tags.name, tags.current, tags.restored)
    assert "gift" == tags.restored_label


def test_a_preview_gives_the_reason_against_a_revert() -> None:
    tag = Tag.objects.create(name="a")
    created = get_object_event(tag)
    assert "delete it instead" in preview_revert(created).error
    tag.name = "b"
    tag.save()
    changed = get_object_event(tag)
    tag.delete()
    preview = preview_revert(changed)
    assert not preview.can_revert
    assert "does not exist any more: first revert the event that deleted it" in preview.error
    assert ("name", "a") == (preview.fields[0].name, preview.fields[0].restored)
    with override_settings(SIGNALBOX={"MODELS": {"shop.Tag": {"exclude": ["name"]}}}):
        Tag.objects.create(name="b").delete()
        preview = preview_revert(get_newest_event(Tag, "post_delete"))
    assert ("", False, ["name"]) == (
        preview.error,
        preview.can_revert,
        [field.name for field in preview.refused_fields],
    )


def test_a_value_that_can_not_be_restored_is_refused_by_the_name_of_its_field() -> None:
    tag = Tag.objects.create(name="a")
    tag.name = "b"
    tag.save()
    event = lost(get_object_event(tag), changes={"name": [{"not_restorable": "<Name a>"}, "b"]})
    [field] = preview_revert(event).refused_fields
    assert ("name", "b", True) == (field.name, field.current, "'name'" in field.reason)
    with refused("'name'"):
        revert(event)


def test_a_deleted_object_comes_back_as_it_was_with_its_key() -> None:
    order = Order.objects.create(number="A-1", note="fresh", meta={"a": 1})
    order = Order.objects.get()
    before = Order.objects.values().get()
    order.delete()
    revert(get_newest_event(Order, "post_delete"))
    assert before == Order.objects.values().get()
    assert get_object_event(Order.objects.get()).data["args"]["created"]


def test_a_restored_value_that_the_model_s_own_code_changes_in_place_is_written() -> None:
    def upgrade(instance: Order, **_: Any) -> None:
        instance.meta.setdefault("version", 2)

    key = Order.objects.create(number="A-1", meta={"old": [1]}).pk
    post_init.connect(upgrade, sender=Order)
    pre_save.connect(upgrade, sender=Order)
    try:
        order = Order.objects.get(pk=key)
        order.save()
        revert(get_object_event(order))
        assert {"old": [1]} == Order.objects.values_list("meta", flat=True).get()
        Order.objects.get(pk=key).delete()
        revert(get_object_event(Order(pk=key), "post_delete"))
        assert {"old": [1]} == Order.objects.values_list("meta", flat=True).get()
    finally:
        pre_save.disconnect(upgrade, sender=Order)
        post_init.disconnect(upgrade, sender=Order)


def test_a_deleted_child_comes_back_with_its_parent() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    lion.delete()
    revert(get_newest_event(Restaurant, "post_delete"))
    assert ("Lion", 1) == Restaurant.objects.values_list("name", "stars").get()
    with refused("shop.Place .* already exists"):
        revert(get_newest_event(Place, "post_delete"))


@pytest.mark.parametrize("whose", ["child", "parent"])
def test_the_revert_of_a_deleted_child_does_not_restore_only_its_parent_row(whose: str) -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    (lion if whose == "child" else Place.objects.get()).delete()
    childs, parents = get_newest_event(Restaurant, "post_delete"), get_newest_event(Place, "post_delete")
    with refused(
        f"Event {parents.pk} has only the parent's part of the object. Revert event {childs.pk} of the shop.Restaurant"
    ):
        revert(parents)
    revert(childs)
    assert ("Lion", 1) == Restaurant.objects.values_list("name", "stars").get()


def test_a_parent_whose_child_was_deleted_before_is_restored_without_it() -> None:
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
    with refused("shop.Tag 5 already exists"):
        revert(event)
    assert "b" == Tag.objects.get().name


def test_an_object_is_there_though_its_managers_hide_it() -> None:
    paper = Paper.objects.create(title="a", archived=True)
    Paper.all_objects.update(title="b")
    paper.delete()
    deletion = get_newest_event(Paper, "post_delete")
    revert(deletion, use_newer_state=False)
    assert ("a", True) == Paper.all_objects.values_list("title", "archived").get()
    with refused("shop.Paper .* already exists"):
        revert(deletion)
    with override_settings(SIGNALBOX={"BULK": "rows"}):
        Paper.all_objects.update(title="c")
        with refused("can't be reverted: Save with update_fields did not affect any rows"):  # Django's own save()
            revert(get_newest_event(Paper, "update"))


def test_a_deleted_object_with_unrecorded_values_is_not_restored() -> None:
    tag = Tag.objects.create(name="a")
    Tag(pk=tag.pk).delete()
    with refused("The value of 'name' was not recorded"):
        revert(get_newest_event(Tag, "post_delete"), use_newer_state=False)
    customer = Customer.objects.create(name="Ada", api_token="veil")
    customer.delete()
    with refused("The value of 'api_token' was not recorded, as it is redacted. The field has no default"):
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


def test_deleted_keys_of_a_relation_are_named() -> None:
    tag = Tag.objects.create(pk=8, name="a")
    order = Order.objects.create(number="A-1")
    order.tags.add(tag)
    order.tags.clear()
    event = get_newest_event(Order.tags.through, "m2m_changed")
    tag.delete()
    with refused("shop.Tag 8 does not exist any more"):
        revert(event)
    key = order.pk
    order.delete()
    with refused(f"shop.Order {key} does not exist any more: first revert the event that deleted it"):
        revert(event)


def test_rows_that_hold_more_than_keys_are_not_made_up() -> None:
    club, ada = Club.objects.create(name="Analysts"), Person.objects.create(name="Ada")
    club.members.add(ada, through_defaults={"role": "chair"})
    revert(get_newest_event(Club.members.through, "m2m_changed"))
    assert 0 == club.members.count()
    with refused("The rows of shop.Membership have more columns than the keys"):
        revert(get_newest_event(Club.members.through, "m2m_changed"))


def test_a_relation_with_unrecorded_keys_is_not_changed() -> None:
    order = Order.objects.create(number="A-1")
    order.tags.add(Tag.objects.create(name="a"))
    event = get_newest_event(Order.tags.through, "m2m_changed")
    with refused("contains only 1 of the changed keys: 7 were omitted"):
        revert(lost(event, args={**event.data["args"], "omitted_keys": 7}))
    with refused("changed nothing"):
        revert(lost(event, args={**event.data["args"], "added": []}))
    with refused("shop.Order has no relation by shop.Gone any more"):
        event = get_newest_event(Order.tags.through, "m2m_changed")
        event.sender = "shop.Gone"
        revert(event)
    key = Key.objects.create(secret_key="veil")
    order.keys.add(key)
    with refused("The keys of shop.Key are secret"):
        revert(get_newest_event(Key.orders.through, "m2m_changed"))


def test_an_object_whose_key_contains_a_secret_is_not_called_deleted() -> None:
    word = Word.objects.create(text="ghp_" + "aB3dEfG7hIjK" * 3, meaning="a")
    word.meaning = "b"
    word.save()
    event = get_newest_event(Word, "post_save")
    with refused("The key of shop.Word contains a secret and was not recorded"):
        revert(event)


@isolate_apps("tests.shop")
def test_a_related_key_that_its_field_cannot_read_is_refused() -> None:
    class Peer(models.Model):
        id = OpaqueField(primary_key=True)

        class Meta:
            app_label = "shop"

    field = models.ManyToManyField(Peer)
    field.name = "peers"
    with refused("'x' is not a primary key of shop.Peer"):
        read_objects(Peer, ["x"], "default")
    restoration, objects = plan_relation(field, ["x"], "default")
    assert (FieldStatus.REFUSED, []) == (restoration.status, objects)
    assert "'x' is not a primary key of shop.Peer." == restoration.reason


# ------------------------------------------------------------------ clear errors, and nothing half done


def test_a_refused_revert_has_a_reason() -> None:
    customer = Customer.objects.create(name="Ada", email="a@example.org", api_token="veil-1")
    with refused("created shop.Customer .*: delete it instead"):
        revert(get_object_event(customer))
    customer.save()
    with refused("changed nothing"):
        revert(get_object_event(customer))
    customer.api_token = "veil-2"
    customer.save()
    with refused("'api_token' is redacted: its value was not recorded"):
        revert(get_object_event(customer))
    Customer(pk=customer.pk, name="Eve").save()
    with refused("The value that '(name|email|api_token)' had before event [0-9]+ is not known"):
        revert(get_object_event(customer))
    customer.refresh_from_db()
    customer.name = "Z"
    customer.save()
    event = get_object_event(customer)
    customer.delete()
    with refused("does not exist any more: first revert the event that deleted it"):
        revert(event)


@pytest.mark.parametrize("value", ["x" * 5_000, "ß" * 5_000, "$2b$12$" + "a" * 53])
def test_a_truncated_text_is_not_restored(value: str) -> None:
    order = Order.objects.create(number="A-1", note=value)
    order.note = "short"
    order.save()
    with refused("The value of 'note' was not recorded completely"):
        revert(get_object_event(order))


@pytest.mark.parametrize(
    "value", [list(range(60)), {str(n): n for n in range(60)}, {"password": "veil"}, [[[[[[[[1]]]]]]]]], ids=str
)
def test_a_truncated_container_is_not_restored(value: Any) -> None:
    order = Order.objects.create(number="A-1", meta=value)
    order.meta = {}
    order.save()
    with refused("The value of 'meta' was not recorded completely"):
        revert(get_object_event(order))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, [{"a": 10**30}], {"a": 1 << 5_000}], ids=lambda v: str(type(v)))
def test_a_number_that_was_recorded_as_text_is_not_put_back_as_text(value: Any) -> None:
    order = Order(number="A-1", meta=value)
    event = lost(get_object_event(Order.objects.create(number="A-1")), changes=told_change(order, value))
    with refused("The value of 'meta' contains '.*', which may have been a number"):
        revert(event)


def test_a_complete_number_or_text_of_many_digits_is_restored() -> None:
    kept = [2**63 - 1, -(2**63), "9223372036854775807", "00000000000000000000000001", "1234567890123456789a"]
    order = Order.objects.create(number="9" * 20, meta=kept)
    order.number, order.meta = "", {}
    order.save()
    revert(get_object_event(order))
    assert ("9" * 20, kept) == Order.objects.values_list("number", "meta").get()


@pytest.mark.parametrize("name", ["note", "meta"])
def test_a_text_with_a_replacement_character_is_not_restored(name: str) -> None:
    order = Order.objects.create(number="A-1")
    value: Any = "a\0b" if name == "note" else {"a": ["\ud800"]}
    event = lost(get_object_event(order), changes=told_change(order, value, name))
    with refused(f"The value of '{name}' contains U\\+FFFD"):
        revert(event)


def test_a_removed_field_or_model_is_named() -> None:
    tag = Tag.objects.create(name="a")
    tag.name = "b"
    tag.save()
    with refused("shop.Tag has no field 'colour' any more"):
        revert(lost(get_object_event(tag), changes={"colour": ["red", "blue"]}))
    with refused("shop.Tag has no field 'orders' any more"):
        revert(lost(get_object_event(tag), changes={"orders": [1, 2]}))
    event = get_object_event(tag)
    event.sender = "shop.Gone"
    with refused("The model shop.Gone does not exist any more"):
        revert(event)
    event = get_object_event(tag)
    event.object_key = "no number"
    with refused("'no number' is not a primary key of shop.Tag"):
        revert(event)
    event = get_object_event(tag)
    event.database = "attic"
    with refused("'attic', which is not in DATABASES any more"):
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


def test_a_deleted_target_of_a_foreign_key_is_an_error() -> None:
    ada = Customer.objects.create(pk=9, name="Ada")
    order = Order.objects.create(number="A-1", customer=ada)
    order.customer = None
    order.save()
    event = get_object_event(order)
    ada.delete()
    with refused("shop.Customer 9, the target of 'customer', does not exist"):
        revert(event)


def test_bytes_that_were_not_recorded_completely_are_not_restored() -> None:
    class Blob(models.Model):
        data = models.BinaryField()

        class Meta:
            app_label = "shop"

    from django.apps import apps

    try:
        event = get_object_event(Tag.objects.create(name="a"))
        event.sender = Blob._meta.label
        with refused("as a value of 'data': the bytes were not recorded completely"):
            revert(lost(event, changes={"data": [{"bytes": 1}, None]}, row=None))
    finally:
        del apps.all_models["shop"]["blob"]
        apps.clear_cache()


def test_a_revert_that_the_database_refuses_is_undone_completely() -> None:
    one = Uniq.objects.create(k="a")
    one.k = "b"
    one.save()
    event = get_object_event(one)
    Uniq.objects.create(k="a")
    with refused("can't be reverted"):
        revert(event)
    assert {"a", "b"} == set(Uniq.objects.values_list("k", flat=True))


def test_bulk_operations_have_no_values() -> None:
    Tag.objects.bulk_create([Tag(name="a")])
    Tag.objects.update(name="b")
    for signal in ("bulk_create", "update"):
        with refused('contains the keys of a bulk operation, not the rows\' values. Set SIGNALBOX = {"BULK": "rows"}'):
            revert(get_newest_event(Tag, signal))


def test_an_event_that_was_not_committed_is_not_reverted() -> None:
    tag = Tag.objects.create(name="a")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        tag.name = "b"
        tag.save()
        raise ZeroDivisionError
    event = Event.objects.get(outcome="rolled_back", signal="post_save", sender="shop.Tag")
    with refused("was not committed"):
        revert(event)


def test_a_secret_or_cut_key_names_no_object() -> None:
    key = Key.objects.create(secret_key="veil", note="a")
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
