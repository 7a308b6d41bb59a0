from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete

from signalbox.models import Delivery, Event
from signalbox.outbox.run_pending import run_deliveries
from tests.outbox import receivers
from tests.shop.models import Customer, Enrolment, Order, Person, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes

pytestmark = pytest.mark.django_db

heard: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def _nothing_heard() -> None:
    heard.clear()


def hears(sender: Any, **kwargs: Any) -> None:
    heard.append({"sender": sender, **kwargs})


def hears_instance(sender: Any, instance: Any, **kwargs: Any) -> None:
    heard.append({"sender": sender, "instance": instance, **kwargs})


def causes(sender: Any, instance: Any, **kwargs: Any) -> None:
    Tag.objects.create(name="caused")


def test_deliveries_run_within_a_tests_transaction(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.saved)
    order = Order.objects.create(number="1")
    try:
        with transaction.atomic():
            order.save()
            raise RuntimeError
    except RuntimeError:
        pass
    [one] = run_deliveries()
    assert ("done", str(order.pk)) == (one.state, one.object_key)
    assert [] == run_deliveries()
    assert 1 == len(notes.lines("saved"))


def commits(sender: Any, instance: Any, **kwargs: Any) -> None:
    with transaction.atomic(durable=True):
        Tag.objects.create(name="committed")


def test_a_receiver_may_ask_that_its_transaction_is_committed(make_durable: Callable[..., None]) -> None:
    make_durable(commits)
    Order.objects.create(number="1")
    run_deliveries()
    assert "committed" == Tag.objects.get().name


def test_an_error_is_raised_and_its_delivery_waits_on(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.never_works)
    Order.objects.create(number="1")
    with pytest.raises(ValueError, match="hunter2"):
        run_deliveries()
    assert ("pending", 0) == Delivery.objects.values_list("state", "attempts").get()


def test_receivers_that_cause_each_other_are_stopped(make_durable: Callable[..., None]) -> None:
    make_durable(causes, sender=Tag)
    Tag.objects.create(name="first")
    with pytest.raises(RuntimeError, match="More than 10 deliveries"):
        run_deliveries(limit=10)


def test_a_saved_object_arrives_as_django_sends_it_and_as_it_is_now(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance)
    order = Order.objects.create(number="1")
    order.number = "2"
    order.save(update_fields=["number"])
    run_deliveries()
    first, second = heard
    assert (Order, True, None, "default", False) == tuple(
        first[name] for name in ("sender", "created", "update_fields", "using", "raw")
    )
    assert (False, frozenset({"number"})) == (second["created"], second["update_fields"])
    assert (order, "2") == (first["instance"], first["instance"].number)
    assert "post_save" == first["delivery"].event.signal
    assert 1 == first["delivery"].attempt
    assert first["delivery"].id < second["delivery"].id


def test_an_object_that_is_not_named_is_loaded_when_it_is_looked_at(
    make_durable: Callable[..., None], django_assert_num_queries: Any
) -> None:
    make_durable(hears)
    order = Order.objects.create(number="1")
    run_deliveries()
    with django_assert_num_queries(1):
        assert order.number == heard[0]["instance"].number


def test_a_deleted_object_arrives_as_it_was_and_unsaved(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance, post_delete, Customer)
    customer = Customer.objects.create(name="Ann", email="ann@example.org", api_token="t0ken")
    key = customer.pk
    customer.delete()
    run_deliveries()
    instance = heard[0]["instance"]
    assert (key, "Ann", "ann@example.org", True) == (instance.pk, instance.name, instance.email, instance._state.adding)
    with pytest.raises(Customer.DoesNotExist):
        instance.refresh_from_db(fields=["api_token"])
    assert instance.get_deferred_fields() == {"api_token"}


def test_every_type_of_field_is_rebuilt(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance, post_delete, Order)
    order = Order.objects.create(number="1", total="12.50", meta={"deep": [1, {"two": None}]}, note="n" * 5000)
    order.refresh_from_db()
    values = {field.attname: getattr(order, field.attname) for field in Order._meta.concrete_fields}
    order.delete()
    run_deliveries()
    assert values == {name: getattr(heard[0]["instance"], name) for name in values}


def test_a_key_of_two_columns_finds_its_object(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance, sender=Enrolment)
    enrolment = Enrolment.objects.create(person=Person.objects.create(name="Ann"), course="maths")
    run_deliveries()
    assert enrolment == heard[0]["instance"]


def test_many_to_many_changes_arrive_with_their_keys(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance, m2m_changed, Order.tags.through)
    order = Order.objects.create(number="1")
    tags = [Tag.objects.create(name=name) for name in "ab"]
    order.tags.add(*tags)
    order.tags.clear()
    run_deliveries()
    added, cleared = heard
    assert ("post_add", {tag.pk for tag in tags}, order, Tag, False) == tuple(
        added[name] for name in ("action", "pk_set", "instance", "model", "reverse")
    )
    assert ("post_clear", None) == (cleared["action"], cleared["pk_set"])
    assert Order.tags.through is added["sender"]


def test_a_bulk_operation_arrives_once_with_its_count_and_keys(make_durable: Callable[..., None]) -> None:
    make_durable(hears, "bulk_create", "shop.Tag")
    made = Tag.objects.bulk_create([Tag(name=name) for name in "abc"])
    run_deliveries()
    assert (Tag, 3, {tag.pk for tag in made}) == (heard[0]["sender"], heard[0]["count"], set(heard[0]["keys"]))


def test_a_row_of_a_bulk_operation_arrives_with_its_object(make_durable: Callable[..., None], settings: Any) -> None:
    settings.SIGNALBOX = {"BULK": "rows"}
    make_durable(hears_instance, "bulk_create", "shop.Tag")
    made = Tag.objects.bulk_create([Tag(name=name) for name in "ab"])
    run_deliveries()
    assert made == [one["instance"] for one in heard]


def test_a_login_arrives_with_its_user(make_durable: Callable[..., None], client: Any) -> None:
    make_durable(hears, user_logged_in, None)
    user = User.objects.create_user("ann", password="pass")
    client.force_login(user)
    run_deliveries()
    assert (user, User) == (heard[0]["user"], heard[0]["sender"])


def test_what_a_receiver_does_belongs_to_the_trace_of_its_event(make_durable: Callable[..., None]) -> None:
    make_durable(causes)
    Order.objects.create(number="1")
    [one] = run_deliveries()
    caused = Event.objects.get(sender="shop.Tag", signal="post_save")
    assert (one.trace_id, one.span) == (caused.trace_id, caused.parent)
