"""Operations for which Django sends nothing: each has one event, and its callers get the same as without recording."""

from __future__ import annotations

import datetime as dt
import inspect
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import DatabaseError, IntegrityError, NotSupportedError, connection, models, transaction
from django.db.models import Case, Count, F, Q, QuerySet, Value, When
from django.db.models.deletion import Collector
from django.db.models.signals import m2m_changed
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

import signalbox
from signalbox.instrumentation import bulk_events, install
from signalbox.models import Event
from signalbox.pipeline import processors
from signalbox.pipeline.processors import EventProcessor
from signalbox.serialization.redaction import REDACTED
from tests.events import get_args, get_changes, get_events, get_newest_event, get_object_event
from tests.shop.fields import Money
from tests.shop.models import (
    Big,
    Customer,
    Document,
    Enrolment,
    Item10,
    Key,
    Note,
    Order,
    OrderLine,
    Paper,
    Person,
    Place,
    Restaurant,
    Tag,
    Tagged,
    Word,
)

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

OPERATIONS = ("bulk_create", "bulk_update", "update", "bulk_delete")


def tags(*names: str) -> list[Tag]:
    return [Tag.objects.create(name=name) for name in names]


def get_recorded(model: type[models.Model]) -> list[tuple[str, int, Any]]:
    """Return the signals, counts and keys of a model's bulk events."""
    return [
        (event.signal, event.data["args"]["count"], event.data["args"]["keys"])
        for event in get_events(model, *OPERATIONS)
    ]


@pytest.fixture
def rows() -> Iterator[None]:
    with override_settings(SIGNALBOX={"BULK": "rows"}):
        yield


def bare(action: Callable[[], Any]) -> Any:
    signalbox.stop_recording()
    try:
        return action()
    finally:
        signalbox.start_recording()


# ------------------------------------------------------------------ update()


def test_an_update_records_its_values_and_the_keys_of_its_rows() -> None:
    one, two, _ = tags("a", "b", "c")
    assert 2 == Tag.objects.filter(name__in=["a", "b"]).update(name="z")
    event = get_newest_event(Tag, "update")
    assert ("committed", "default", "") == (event.outcome, event.database, event.object_key)
    told_args = event.data["args"]
    assert (2, {"name": "z"}) == (told_args["count"], told_args["values"])
    assert sorted([one.pk, two.pk]) == sorted(told_args["keys"])


def test_an_update_costs_no_statement_more(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    tags("a", "b")
    with django_assert_num_queries(1):
        Tag.objects.update(name="z")
    assert 2 == get_newest_event(Tag, "update").data["args"]["count"]


def test_queries_of_recording_are_not_statements_of_the_application(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    place = Restaurant.objects.create(name="Lion", stars=1)
    with django_assert_num_queries(2):  # Django selects the keys of the parents' rows
        Restaurant.objects.update(name="Bear")
    some = tags("a", "b")
    some[1].delete()
    some[1].pk = some[0].pk + 1000
    with django_assert_num_queries(1):
        Tag.objects.bulk_update(some, ["name"])
    assert [str(place.pk)] == [str(key) for key in get_newest_event(Restaurant, "update").data["args"]["keys"]]


def test_an_update_of_nothing_is_not_recorded() -> None:
    assert 0 == Tag.objects.filter(name="nobody").update(name="z")
    assert 0 == Tag.objects.none().update(name="z")
    assert 0 == Tag.objects.filter(pk__in=[]).update(name="z")
    assert [] == get_recorded(Tag)


def test_expressions_of_an_update_are_recorded_as_text() -> None:
    order = Order.objects.create(number="A-1", total=Decimal(1))
    Order.objects.update(
        total=F("total") * 2, status=Case(When(number="A-1", then=Value("paid")), default=Value("open"))
    )
    values = get_args(Order, "update")["values"]
    assert {"expression": "F(total) * Value(2)"} == values["total"]
    assert {"expression": "Case(When(number='A-1', Value('paid')), Value('open'))"} == values["status"]
    order.refresh_from_db()
    assert (Decimal(2), "paid") == (order.total, order.status)


def test_an_update_records_values_like_a_save() -> None:
    def told_by_save(one: models.Model, name: str) -> tuple[Any, Any]:
        data = get_object_event(one).data
        return data["row"][name], data.get("labels", {}).get(name)

    def told_by_update(model: type[models.Model], name: str) -> tuple[Any, Any]:
        told_args = get_args(model, "update")
        return told_args["values"][name], told_args.get("labels", {}).get(name)

    moment = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    item: dict[str, Any] = {"name": "x"}
    for name, value in (
        ("price", Decimal("10.50")),
        ("data", {"a": [1, {"password": "veil"}], "b": "x" * 3_000}),
        ("moment", moment),
        ("day", moment.date()),
        ("weight", 1.5),
        ("name", "y" * 90),
    ):
        made = Item10.objects.create(**{**item, name: value})
        Item10.objects.update(**{name: value})
        assert told_by_save(made, name) == told_by_update(Item10, name)
    note = Note.objects.create(price=Money(Decimal(5), "EUR"))
    Note.objects.update(price=Money(Decimal(5), "EUR"))
    assert ("5 EUR", None) == told_by_save(note, "price") == told_by_update(Note, "price")
    order = Order.objects.create(number="A-1", status=Order.Status.PAID)
    Order.objects.update(status=Order.Status.PAID)
    assert ("paid", {"paid": "Paid"}) == told_by_save(order, "status") == told_by_update(Order, "status")
    Item10.objects.update(count="72")
    assert 72 == get_args(Item10, "update")["values"]["count"]


def test_an_updates_secrets_are_not_recorded() -> None:
    Customer.objects.create(name="Ada", api_token="veil-1")
    Customer.objects.update(api_token="veil-2")
    assert REDACTED == get_args(Customer, "update")["values"]["api_token"]


def test_an_update_records_a_foreign_key_under_its_fields_name_however_it_was_given() -> None:
    ada = Customer.objects.create(name="Ada")
    Order.objects.create(number="A-1")
    for values in ({"customer": ada}, {"customer": ada.pk}, {"customer_id": ada.pk}):
        Order.objects.update(**values)
        assert {"customer": ada.pk} == get_args(Order, "update")["values"]


def test_an_update_across_relations_ordered_or_distinct_records_the_same_rows() -> None:
    ada = Customer.objects.create(name="Ada")
    order = Order.objects.create(number="A-1", customer=ada)
    Order.objects.create(number="A-2")
    for one in tags("a", "b"):
        order.tags.add(one)
    found: list[QuerySet[Order]] = [
        Order.objects.filter(customer__name="Ada"),
        Order.objects.filter(customer__name="Ada").order_by("-number"),
        Order.objects.filter(tags__name__in=["a", "b"]).distinct(),
        Order.objects.filter(Q(customer__name="Ada") | Q(customer__email="nobody")).order_by("customer__name"),
        Order.objects.values("number").filter(number="A-1"),  # type: ignore[list-item]
        Order.objects.annotate(n=Count("tags")).filter(n=2),
        Order.objects.values("number").annotate(n=Count("tags")).filter(n=2),  # type: ignore[list-item]
        Order.objects.select_related("customer").filter(customer=ada),
        Order.objects.only("number").filter(number="A-1"),
    ]
    for number, queryset in enumerate(found):
        assert 1 == queryset.update(note=str(number))
        assert [order.pk] == get_args(Order, "update")["keys"]
    assert len(found) == len(get_recorded(Order))


def test_an_update_that_django_refuses_is_refused_as_ever() -> None:
    tags("a", "b")
    for refused, error, text in (
        (Tag.objects.all()[:1], TypeError, "Cannot update a query once a slice"),
        (Tag.objects.filter(name="a").union(Tag.objects.all()), NotSupportedError, "update"),
    ):
        with pytest.raises(error, match=text):
            refused.update(name="z")
    if django.VERSION >= (6, 1):
        with pytest.raises(TypeError, match=r"Cannot call update\(\) after .distinct\(\*fields\)."):
            Tag.objects.distinct("name").update(name="z")
    queryset: Any = Tag.objects.all()
    with pytest.raises(FieldDoesNotExist):
        queryset.update(nothing=1)
    with pytest.raises(FieldError):
        Tag.objects.update(name=F("orders__number"))
    assert [] == get_recorded(Tag)
    assert {"a", "b"} == set(Tag.objects.values_list("name", flat=True))


def test_an_update_empties_the_querysets_cache_as_ever() -> None:
    tags("a")
    queryset = Tag.objects.all()
    assert ["a"] == [tag.name for tag in queryset]
    queryset.update(name="z")
    assert ["z"] == [tag.name for tag in queryset]


def test_an_update_of_a_parents_field_records_the_childs_keys() -> None:
    lion, crown = Restaurant.objects.create(name="Lion", stars=1), Restaurant.objects.create(name="Crown", stars=2)
    Restaurant.objects.create(name="Swan", stars=3)
    assert 2 == Restaurant.objects.filter(stars__lt=3).update(name="Inn", stars=0)
    told_args = get_args(Restaurant, "update")
    assert (2, {"name": "Inn", "stars": 0}) == (told_args["count"], told_args["values"])
    assert sorted([lion.pk, crown.pk]) == sorted(told_args["keys"])
    assert 2 == Restaurant.objects.filter(stars=0).update(name="Pub")
    assert ["Pub", "Pub", "Swan"] == sorted(Place.objects.values_list("name", flat=True))


def test_an_update_of_a_loaded_object_is_known_after_a_refresh() -> None:
    [tag] = tags("a")
    Tag.objects.update(name="b")
    tag.refresh_from_db()
    tag.name = "c"
    tag.save()
    assert {"name": ["b", "c"]} == get_changes(tag)


def test_more_keys_than_ten_thousand_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10_000 == bulk_events.MAX_RECORDED_KEYS
    monkeypatch.setattr(bulk_events, "MAX_RECORDED_KEYS", 2)
    for operation in (
        lambda: Tag.objects.bulk_create([Tag(name="a") for _ in range(5)]),
        lambda: Tag.objects.update(name="b"),
        lambda: Tag.objects.bulk_update(Tag.objects.all(), ["name"]),
        lambda: Tag.objects.all()._raw_delete("default"),
    ):
        operation()
        told_args = get_newest_event(Tag, *OPERATIONS).data["args"]
        assert (5, 2, 3) == (told_args["count"], len(told_args["keys"]), told_args["omitted_keys"])


# ------------------------------------------------------------------ bulk_create()


def test_a_bulk_creation_records_the_keys_and_gives_them_to_the_objects() -> None:
    made = [Tag(name="a"), Tag(name="b")]
    answer = Tag.objects.bulk_create(made)
    assert made == answer
    assert made is not answer
    assert all(tag.pk and not tag._state.adding and tag._state.db == "default" for tag in made)
    assert [("bulk_create", 2, [tag.pk for tag in made])] == get_recorded(Tag)


def test_values_of_bulk_created_objects_are_known() -> None:
    [tag] = Tag.objects.bulk_create([Tag(name="a")])
    tag.name = "b"
    tag.save()
    assert {"name": ["a", "b"]} == get_changes(tag)


def test_bulk_creation_returns_the_same_as_django() -> None:
    empty: Any = ()
    assert empty is Tag.objects.bulk_create(empty)
    nothing: Any = []
    assert nothing is Tag.objects.bulk_create(nothing)
    assert [] == Tag.objects.bulk_create(tag for tag in empty)
    assert 2 == len(Tag.objects.bulk_create(Tag(name=name) for name in "ab"))
    assert 1 == len(get_recorded(Tag))


@pytest.mark.django_db(transaction=True)
def test_a_bulk_operation_on_an_empty_generator_sends_nothing() -> None:
    connection.ensure_connection()
    nobody: list[Tag] = []
    with CaptureQueriesContext(connection) as captured:
        assert 0 == Tag.objects.bulk_update((tag for tag in nobody), ["name"])
        if django.VERSION >= (6, 0):  # Django 5.2 opens a transaction
            assert [] == Tag.objects.bulk_create(tag for tag in nobody)
    assert [] == captured.captured_queries


def test_bulk_creation_of_other_objects_raises_the_error_of_django() -> None:
    wrong: Any = [Tag(name="a"), "b"]
    with pytest.raises(AttributeError, match="_is_pk_set" if django.VERSION < (6, 0) else "_prepare_related_"):
        Tag.objects.bulk_create(wrong)


def test_bulk_creation_in_batches_is_one_event() -> None:
    Tag.objects.bulk_create([Tag(name=str(number)) for number in range(5)], 2)
    [(_, count, keys)] = get_recorded(Tag)
    assert (5, 5) == (count, len(keys))


def test_bulk_creation_that_ignores_conflicts_records_only_inserted_rows() -> None:
    Word.objects.create(text="old")
    Word.objects.bulk_create([Word(text="old")], ignore_conflicts=True)
    assert [] == get_recorded(Word)
    answer = Word.objects.bulk_create([Word(text="old"), Word(text="new")], ignore_conflicts=True)
    assert [("bulk_create", 1, ["new"])] == get_recorded(Word)
    assert get_args(Word, "bulk_create")["ignore_conflicts"]
    assert ["old", "new"] == [word.text for word in answer]
    document = Document.objects.create(title="old")
    twin = Document(pk=document.pk, title="twin")
    Document.objects.bulk_create([twin], None, True)
    assert [] == get_recorded(Document)
    new = Document(title="new")
    Document.objects.bulk_create([twin, new], ignore_conflicts=True)
    assert [("bulk_create", 1, [str(new.pk)])] == get_recorded(Document)


def test_keys_that_django_leaves_out_are_left_out() -> None:
    made: Any = Tag(name="a")
    Tag.objects.bulk_create([made], ignore_conflicts=True)
    assert made.pk is None
    assert [("bulk_create", 1, [Tag.objects.get().pk])] == get_recorded(Tag)


def test_bulk_creation_that_updates_conflicts_is_marked_and_claims_nothing() -> None:
    unique: dict[str, Any] = {} if connection.vendor == "mysql" else {"unique_fields": ["text"]}
    Word.objects.create(text="old", meaning="before")
    word = Word(text="old", meaning="after")
    Word.objects.bulk_create([word, Word(text="new")], update_conflicts=True, update_fields=["meaning"], **unique)
    told_args = get_args(Word, "bulk_create")
    assert (True, 2, ["old", "new"]) == (told_args["update_conflicts"], told_args["count"], told_args["keys"])
    assert "after" == Word.objects.get(text="old").meaning
    word.meaning = "later"
    word.save()
    assert {"meaning": ["later"]} == get_changes(word)


def test_a_bulk_creation_that_fails_raises_the_same_error_and_is_not_recorded() -> None:
    Word.objects.create(text="old")
    with pytest.raises(IntegrityError), transaction.atomic():
        Word.objects.bulk_create([Word(text="new"), Word(text="old")])
    with pytest.raises(ValueError, match="Batch size must be a positive integer"):
        Word.objects.bulk_create([Word(text="new")], batch_size=0)
    with pytest.raises(ValueError, match="Can't bulk create a multi-table inherited model"):
        Restaurant.objects.bulk_create([Restaurant(name="Lion")])
    assert [] == get_recorded(Word)


# ------------------------------------------------------------------ bulk_update()


def test_a_bulk_update_is_one_event_with_its_fields_and_keys() -> None:
    made = tags("a", "b")
    for tag in made:
        tag.name += "!"
    assert 2 == Tag.objects.bulk_update(made, ["name"])
    assert [("bulk_update", 2, [tag.pk for tag in made])] == get_recorded(Tag)
    assert ["name"] == get_args(Tag, "bulk_update")["fields"]
    made[0].name = "z"
    made[0].save()
    assert {"name": ["a!", "z"]} == get_changes(made[0])


def test_a_bulk_update_keeps_the_known_values_of_other_fields() -> None:
    order = Order.objects.create(number="A-1", note="fresh")
    order.note, order.number = "stale", "A-2"
    Order.objects.bulk_update([order], ["number"])
    order.save()
    assert ["fresh", "stale"] == get_changes(order)["note"]
    assert "number" not in get_changes(order)


def test_a_bulk_update_records_only_existing_rows() -> None:
    made = tags("a", "b")
    Tag.objects.filter(pk=made[1].pk).delete()
    assert 1 == Tag.objects.bulk_update(iter(made), iter(["name"]), batch_size=1)
    assert [("bulk_update", 1, [made[0].pk])] == get_recorded(Tag)


def test_bulk_updates_that_django_refuses_are_refused_as_ever() -> None:
    [tag] = tags("a")
    no_fields: list[str] = []
    key = ["id"]
    assert 0 == Tag.objects.bulk_update([], ["name"])
    for call, text in (
        (lambda: Tag.objects.bulk_update([tag], no_fields), "Field names must be given"),
        (lambda: Tag.objects.bulk_update([Tag()], ["name"]), "must have a primary key set"),
        (lambda: Tag.objects.bulk_update([tag], key), "cannot be used with primary key fields"),
        (lambda: Tag.objects.bulk_update([tag], ["name"], batch_size=-1), "Batch size must be a positive integer"),
    ):
        refused: Any = call
        with pytest.raises(ValueError, match=text):
            refused()
    assert [] == get_recorded(Tag)


# ------------------------------------------------------------------ deletes


def test_a_fast_delete_is_one_event_and_one_statement(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    order = Order.objects.create(number="A-1")
    keys = [line.pk for line in OrderLine.objects.bulk_create([OrderLine(order=order, sku=sku) for sku in "ab"])]
    with django_assert_num_queries(1):
        assert (2, {"shop.OrderLine": 2}) == OrderLine.objects.filter(sku__in="ab").delete()
    [event] = get_events(OrderLine, "bulk_delete", "post_delete")
    assert ("bulk_delete", 2) == (event.signal, event.data["args"]["count"])
    assert sorted(keys) == sorted(event.data["args"]["keys"])


def test_a_fast_delete_across_relations_records_its_keys() -> None:
    order, other = Order.objects.create(number="A-1"), Order.objects.create(number="A-2")
    line = OrderLine.objects.create(order=order, sku="a")
    OrderLine.objects.create(order=other, sku="b")
    assert (1, {"shop.OrderLine": 1}) == OrderLine.objects.filter(order__number="A-1").delete()
    assert ("bulk_delete", 1, [line.pk]) == get_recorded(OrderLine)[-1]


def test_a_fast_delete_of_nothing_is_not_recorded() -> None:
    assert (0, {}) == OrderLine.objects.all().delete()
    assert (0, {}) == OrderLine.objects.none().delete()
    assert [] == get_recorded(OrderLine)


def test_a_raw_delete_is_recorded_too() -> None:
    made = tags("a", "b")
    assert 2 == Tag.objects.all()._raw_delete("default")
    [(signal, count, keys)] = get_recorded(Tag)
    assert ("bulk_delete", 2, sorted(tag.pk for tag in made)) == (signal, count, sorted(keys))


def test_a_cascade_records_each_of_its_tables() -> None:
    customer = Customer.objects.create(name="Ada")
    order = Order.objects.create(number="A-1", customer=customer)
    line = OrderLine.objects.create(order=order, sku="a")
    [tag] = tags("a")
    order.tags.add(tag)
    key = order.pk
    order.delete()
    assert [("bulk_delete", 1, [line.pk])] == get_recorded(OrderLine)
    assert 1 == len(get_events(Order, "post_delete", object_key=str(key)))
    assert "bulk_delete" == get_newest_event(Order.tags.through, "bulk_delete").signal


def test_a_deletes_set_null_is_recorded_as_an_update() -> None:
    customer = Customer.objects.create(name="Ada")
    order = Order.objects.create(number="A-1", customer=customer)
    customer.delete()
    assert [("update", 1, [order.pk])] == get_recorded(Order)
    assert {"customer": None} == get_args(Order, "update")["values"]


def test_an_update_batch_is_recorded() -> None:
    order = Order.objects.create(number="A-1")
    values: dict[str, Any] = {"note": "z"}
    models.sql.UpdateQuery(Order).update_batch([order.pk], values, "default")
    assert [("update", 1, [order.pk])] == get_recorded(Order)
    order.refresh_from_db()
    assert "z" == order.note


def test_of_an_update_batch_those_rows_are_counted_that_were_there() -> None:
    order, other = Order.objects.create(number="A-1"), Order.objects.create(number="A-2")
    values: dict[str, Any] = {"note": "z"}
    models.sql.UpdateQuery(Order).update_batch([order.pk, other.pk, other.pk + 1000], values, "default")
    args = get_args(Order, "update")
    assert (2, None, "concurrent change") == (args["count"], args["keys"], args["keys_unknown"])
    models.sql.UpdateQuery(Order).update_batch([other.pk + 1000], values, "default")
    assert 1 == len(get_recorded(Order))


def test_one_object_that_nothing_points_at_is_a_delete_and_no_bulk_operation() -> None:
    order = Order.objects.create(number="A-1")
    line = OrderLine.objects.create(order=order, sku="a")
    assert Collector(using="default").can_fast_delete(line)
    line.delete()
    assert ["post_delete"] == [event.signal for event in get_events(OrderLine, "post_delete", "bulk_delete")]


# ------------------------------------------------------------------ callers


def test_get_or_create_and_update_or_create_are_saves() -> None:
    tag, made = Tag.objects.get_or_create(name="a")
    assert made
    assert get_object_event(tag).data["args"]["created"]
    assert (tag, False) == Tag.objects.get_or_create(name="a")
    order, _ = Order.objects.update_or_create(number="A-1", defaults={"note": "fresh"})
    order, made = Order.objects.update_or_create(number="A-1", defaults={"note": "stale"})
    assert not made
    assert ["fresh", "stale"] == get_changes(order)["note"]
    assert [] == get_recorded(Order)


@pytest.mark.django_db(transaction=True)
def test_the_asynchronous_twins_are_recorded_as_well() -> None:
    async def everything() -> None:
        made = await Tag.objects.abulk_create([Tag(name="a"), Tag(name="b")])
        await Tag.objects.aupdate(name="c")
        await Tag.objects.abulk_update(made, ["name"])
        await Tag.objects.aget_or_create(name="d")
        await Tag.objects.aupdate_or_create(name="d", defaults={"name": "e"})
        await OrderLine.objects.all().adelete()

    async_to_sync(everything)()
    assert ["bulk_create", "update", "bulk_update"] == [signal for signal, *_ in get_recorded(Tag)]
    assert [True, False] == [event.data["args"]["created"] for event in get_events(Tag, "post_save")]


def test_a_related_managers_bulk_calls_are_updates_of_the_other_side() -> None:
    customer = Customer.objects.create(name="Ada")
    one, two = Order.objects.create(number="A-1"), Order.objects.create(number="A-2")
    customer.orders.add(one, two)
    customer.orders.remove(one)
    customer.orders.set([one])
    customer.orders.clear()
    found = [
        (event.data["args"]["values"], sorted(event.data["args"]["keys"])) for event in get_events(Order, "update")
    ]
    here: dict[str, Any] = {"customer": customer.pk}
    nowhere: dict[str, Any] = {"customer": None}
    assert [
        (here, [one.pk, two.pk]),
        (nowhere, [one.pk]),
        (nowhere, [two.pk]),
        (here, [one.pk]),
        (nowhere, [one.pk]),
    ] == found


def test_a_related_managers_bulk_creation_is_recorded() -> None:
    order = Order.objects.create(number="A-1")
    order.lines.bulk_create([OrderLine(order=order, sku="a")])
    assert "bulk_create" == get_recorded(OrderLine)[0][0]


def test_a_generic_relations_calls_are_recorded() -> None:
    order = Order.objects.create(number="A-1")
    content_type = ContentType.objects.get_for_model(Place)
    place = Place.objects.create(name="Inn")
    label = Tagged.objects.create(content_type=ContentType.objects.get_for_model(order), object_key=order.pk, word="x")
    place.labels.add(label)
    assert {"content_type": content_type.pk, "object_key": place.pk} == get_args(Tagged, "update")["values"]
    place.labels.clear()
    assert 1 == len(get_events(Tagged, "bulk_delete", "post_delete"))
    place.labels.create(word="y")
    place.delete()
    assert 2 == len(get_events(Tagged, "bulk_delete", "post_delete"))


def test_bulk_operations_of_receivers_within_a_manager_are_recorded() -> None:
    order = Order.objects.create(number="A-1")

    def recompute(instance: Order, action: str, **kwargs: Any) -> None:
        if action == "post_add":
            Order.objects.filter(pk=instance.pk).update(note="tagged")
            OrderLine.objects.bulk_create([OrderLine(order=instance, sku="gift")])

    m2m_changed.connect(recompute, sender=Order.tags.through)
    try:
        order.tags.add(*tags("a"))
    finally:
        m2m_changed.disconnect(recompute, sender=Order.tags.through)
    event = get_newest_event(Order, "update")
    assert {"note": "tagged"} == event.data["args"]["values"]
    assert get_newest_event(Order.tags.through, "m2m_changed").span == event.parent
    assert 1 == len(get_recorded(OrderLine))


# ------------------------------------------------------------------ keys of every kind


def test_keys_of_every_kind_are_recorded_as_text_unless_they_are_numbers() -> None:
    person = Person.objects.create(name="Ada")
    key = uuid.uuid4()
    for model, made, expected in (
        (Document, Document(id=key), str(key)),
        (Word, Word(text='odd "key"/…ß'), 'odd "key"/…ß'),
        (Big, Big(id=2**62), 2**62),
        (Enrolment, Enrolment(person=person, course="ma,ths"), f'[{person.pk},"ma,ths"]'),
    ):
        manager: Any = model._default_manager
        manager.bulk_create([made])
        field = next(
            f.name for f in model._meta.concrete_fields if not f.primary_key and f.name not in ("person", "course")
        )
        manager.bulk_update([made], [field])
        manager.update(**{field: "z"})
        manager.all()._raw_delete("default")
        assert [(name, 1, [expected]) for name in OPERATIONS] == get_recorded(model)


def test_secret_keys_are_recorded_by_a_digest() -> None:
    Key.objects.bulk_create([Key(secret_key="veil-1")])
    Key.objects.update(note="z")
    Key.objects.all()._raw_delete("default")
    keys = {tuple(keys) for _, _, keys in get_recorded(Key)}
    assert 1 == len(keys)
    assert "veil" not in str(keys)


# ------------------------------------------------------------------ BULK = "rows" and "off"


def get_row_events(sender: type[models.Model], operation: str) -> list[Event]:
    """Return the events of the rows of one statement, in the order of their keys: the database may return any."""
    return sorted(get_events(sender, operation), key=lambda event: int(event.object_key))


@pytest.mark.usefixtures("rows")
def test_rows_records_the_changes_of_each_row() -> None:
    one, two = Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")])
    assert 2 == Tag.objects.update(name="z")
    one.name = "y"
    two.name = "z"
    Tag.objects.bulk_update([one, two], ["name"])
    Tag.objects.all()._raw_delete("default")
    assert [
        ("bulk_create", str(one.pk), {"id": one.pk, "name": "a"}, None),
        ("bulk_create", str(two.pk), {"id": two.pk, "name": "b"}, None),
        ("update", str(one.pk), None, {"name": ["a", "z"]}),
        ("update", str(two.pk), None, {"name": ["b", "z"]}),
        ("bulk_update", str(one.pk), None, {"name": ["a", "y"]}),
        ("bulk_update", str(two.pk), None, {"name": ["b", "z"]}),
        ("bulk_delete", str(one.pk), {"id": one.pk, "name": "y"}, None),
        ("bulk_delete", str(two.pk), {"id": two.pk, "name": "z"}, None),
    ] == [
        (event.signal, event.object_key, event.data.get("row"), event.data.get("changes"))
        for operation in ("bulk_create", "update", "bulk_update", "bulk_delete")
        for event in get_row_events(Tag, operation)
    ]


@pytest.mark.usefixtures("rows")
def test_rows_records_results_of_expressions() -> None:
    order = Order.objects.create(number="A-1", total=Decimal(1))
    Order.objects.filter(customer__name=None).order_by("customer__name").update(total=F("total") + 1, customer=None)
    assert {"total": ["1.00", "2.00"]} == get_newest_event(Order, "update", object_key=str(order.pk)).data["changes"]


@pytest.mark.usefixtures("rows")
def test_rows_inserted_while_conflicts_are_ignored_are_recorded_whole() -> None:
    Word.objects.create(text="old")
    Word.objects.bulk_create([Word(text="old", meaning="x"), Word(text="new", meaning="y")], ignore_conflicts=True)
    [event] = get_events(Word, "bulk_create")
    assert ("new", {"text": "new", "meaning": "y"}) == (event.object_key, event.data["row"])
    Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")], ignore_conflicts=True)
    assert [(str(tag.pk), {"id": tag.pk, "name": tag.name}) for tag in Tag.objects.order_by("pk")] == [
        (event.object_key, event.data["row"]) for event in get_row_events(Tag, "bulk_create")
    ]


@pytest.mark.usefixtures("rows")
def test_rows_of_an_update_batch_are_recorded_each() -> None:
    orders = [Order.objects.create(number=number, note=number) for number in ("A-1", "A-2")]
    values: dict[str, Any] = {"note": "z"}
    models.sql.UpdateQuery(Order).update_batch([order.pk for order in orders], values, "default")
    assert [(str(order.pk), {"note": [order.number, "z"]}) for order in orders] == [
        (event.object_key, event.data["changes"]) for event in get_row_events(Order, "update")
    ]


@pytest.mark.usefixtures("rows")
def test_rows_that_even_the_base_manager_hides_are_recorded() -> None:
    one, two = Paper.objects.create(title="a"), Paper.objects.create(title="b")
    assert 2 == Paper.objects.update(archived=True)
    assert [{"archived": [False, True]}] * 2 == [event.data["changes"] for event in get_events(Paper, "update")]
    assert 2 == Paper.all_objects.update(title="c")
    assert {"title": ["b", "c"]} == get_newest_event(Paper, "update", object_key=str(two.pk)).data["changes"]
    values: dict[str, Any] = {"title": "d"}
    models.sql.UpdateQuery(Paper).update_batch([one.pk], values, "default")
    assert {"title": ["c", "d"]} == get_newest_event(Paper, "update").data["changes"]
    two.title = "e"
    Paper.all_objects.bulk_update([two, two], ["title"])
    assert {"title": ["b", "e"]} == get_newest_event(Paper, "bulk_update", object_key=str(two.pk)).data["changes"]


@pytest.mark.usefixtures("rows")
def test_rows_of_a_child_are_recorded_with_its_parents_fields_if_they_are_known() -> None:
    lion = Restaurant.objects.create(name="Lion", stars=1)
    Restaurant.objects.update(name="Inn", stars=2)
    assert {"name": ["Lion", "Inn"], "stars": [1, 2]} == get_newest_event(Restaurant, "update").data["changes"]
    Restaurant.objects.all()._raw_delete("default")
    event = get_newest_event(Restaurant, "bulk_delete")
    assert (str(lion.pk), {"place_ptr": lion.pk, "stars": 2}) == (event.object_key, event.data["row"])


@pytest.mark.usefixtures("rows")
def test_rows_rolled_back_are_not_there() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")])
        raise ZeroDivisionError
    assert [] == get_events(Tag, *OPERATIONS)


@pytest.mark.usefixtures("rows")
def test_rows_of_a_sliced_update_are_refused_as_ever() -> None:
    with pytest.raises(TypeError, match="Cannot update a query once a slice"):
        Tag.objects.all()[:1].update(name="z")


def test_off_records_nothing_and_changes_nothing_in_django() -> None:
    with override_settings(SIGNALBOX={"BULK": "off"}):
        Tag.objects.bulk_create([Tag(name="a")])
        Tag.objects.update(name="b")
        Tag.objects.all()._raw_delete("default")
        assert [] == get_events(Tag, *OPERATIONS)
        assert "django.db.models.query" == QuerySet.update.__code__.co_filename.replace("/", ".")[-25:-3]


class WantsTagUpdates(EventProcessor):
    """Wants one operation of one model, as a durable receiver does."""

    def wants(self, signal: str, sender: str) -> bool:
        return (signal, sender) == ("update", "shop.Tag")

    def get_wanted_signals(self) -> tuple[str, ...]:
        return ("update",)


class WantsAnything(EventProcessor):
    """Does not say which signals it may want."""

    def wants(self, signal: str, sender: str) -> bool:
        return sender == "shop.Tag"


@pytest.mark.parametrize("processor", [WantsTagUpdates(), WantsAnything(), None])
def test_off_replaces_only_operations_that_a_processor_names(processor: EventProcessor | None) -> None:
    methods = ("bulk_create", "bulk_update", "update", "_raw_delete")
    try:
        with override_settings(SIGNALBOX={"BULK": "off"}):
            if processor is not None:
                processors.install(processor)
            install.update_subscriptions()
            replaced = [name for name in methods if hasattr(getattr(QuerySet, name), "__wrapped__")]
            assert (["update"] if isinstance(processor, WantsTagUpdates) else []) == replaced
    finally:
        if processor is not None:
            processors.uninstall(processor)
        signalbox.start_recording()


@pytest.mark.parametrize("box", [{"BULK": "off"}, {"RECORD": ["post_save"]}])
def test_an_operation_that_a_processor_names_is_recorded_only_for_its_sender(box: dict[str, Any]) -> None:
    processor = WantsTagUpdates()
    try:
        with override_settings(SIGNALBOX=box):
            processors.install(processor)
            install.update_subscriptions()
            Tag.objects.bulk_create([Tag(name="a")])
            Tag.objects.update(name="b")
            Order.objects.create(number="1")
            Order.objects.update(note="n")
            assert ["update"] == [event.signal for event in get_events(Tag, *OPERATIONS)]
            assert [] == get_events(Order, *OPERATIONS)
    finally:
        processors.uninstall(processor)
        signalbox.start_recording()


# ------------------------------------------------------------------ the same as without recording


def test_replaced_methods_have_the_signatures_of_django() -> None:
    def looks() -> dict[str, Any]:
        return {
            name: (
                inspect.signature(found),
                found.__name__,
                found.__qualname__,
                found.__doc__,
                getattr(found, "alters_data", None),
                getattr(found, "queryset_only", None),
            )
            for name in ("bulk_create", "bulk_update", "update", "_raw_delete", "delete", "abulk_create")
            if (found := getattr(QuerySet, name))
        }

    assert bare(looks) == looks()


def test_statements_are_those_of_bare_django_apart_from_returning() -> None:
    def work() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            made = Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")])
            Tag.objects.filter(name="a").update(name="c")
            Tag.objects.bulk_update(made, ["name"])
            Tag.objects.filter(name="a").delete()
            Tag.objects.all()._raw_delete("default")
        return [query["sql"].split(" RETURNING ")[0] for query in captured]

    def shape(statements: list[str]) -> list[str]:
        return ["".join(letter for letter in sql if not letter.isdigit()) for sql in statements]

    assert shape(bare(work)) == shape(work())


def test_a_failing_statement_raises_the_same_error() -> None:
    Word.objects.bulk_create([Word(text="a"), Word(text="b")])
    with pytest.raises(IntegrityError), transaction.atomic():
        Word.objects.update(text="z")
    long = "x" * 100
    if connection.vendor != "sqlite":
        with pytest.raises(DatabaseError), transaction.atomic():
            Word.objects.update(text=long)
    assert ["bulk_create"] == [signal for signal, *_ in get_recorded(Word)]


@pytest.mark.django_db(transaction=True)
def test_outside_of_a_transaction_operation_and_event_commit_together() -> None:
    made = Tag.objects.bulk_create([Tag(name="a")])
    Tag.objects.update(name="b")
    Tag.objects.all()._raw_delete("default")
    assert not connection.in_atomic_block
    assert [(name, 1, [made[0].pk]) for name in ("bulk_create", "update", "bulk_delete")] == get_recorded(Tag)


def test_a_large_update_is_fetched_in_parts() -> None:
    Item10.objects.bulk_create([Item10(name="x") for _ in range(2_500)])
    assert 2_500 == Item10.objects.update(count=1)
    assert [2_500, 2_500] == [len(keys) for _, _, keys in get_recorded(Item10)]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the other databases lock rows, not files")
@pytest.mark.django_db(transaction=True)
def test_on_sqlite_old_values_are_read_under_the_write_lock() -> None:
    tags("a")
    refused = []

    def interfere(execute: Any, sql: str, *rest: Any) -> Any:
        """Write from another connection, between the read and the statement."""
        if sql.startswith("UPDATE"):
            with (
                closing(sqlite3.connect(connection.settings_dict["NAME"], timeout=0)) as elsewhere,
                pytest.raises(sqlite3.OperationalError, match="locked") as caught,
            ):
                elsewhere.execute("INSERT INTO shop_tag (name) VALUES ('between')")
            refused.append(caught.value)
        return execute(sql, *rest)

    with override_settings(SIGNALBOX={"BULK": "rows"}), transaction.atomic(), connection.execute_wrapper(interfere):
        Tag.objects.update(name="b")
    assert 1 == len(refused)
    assert {"name": ["a", "b"]} == get_newest_event(Tag, "update").data["changes"]


@pytest.mark.parametrize("size", [None, 1])
def test_of_two_objects_with_one_key_the_row_in_the_table_is_recorded(size: int | None) -> None:
    tag = Tag.objects.create(name="first")
    copies = [Tag.objects.get(), Tag.objects.get()]
    copies[0].name, copies[1].name = "one", "other"
    with override_settings(SIGNALBOX={"BULK": "rows"}):
        Tag.objects.bulk_update(copies, ["name"], batch_size=size)
    [event] = Event.objects.filter(signal="bulk_update")
    assert (str(tag.pk), {"name": ["first", Tag.objects.get().name]}) == (event.object_key, event.data["changes"])
    copies[1].name = "last"
    copies[1].save()
    changes = Event.objects.filter(signal="post_save").latest("id").data["changes"]
    assert {"name": ["one" if size is None else "other", "last"]} == changes
