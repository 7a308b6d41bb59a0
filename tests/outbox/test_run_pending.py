from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in
from django.db import connections, transaction
from django.db.models.signals import m2m_changed, post_delete

from signalbox.models import Delivery, Event
from signalbox.outbox.run_pending import run_deliveries
from tests.outbox import receivers
from tests.shop.models import Customer, Enrolment, Order, Person, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes

pytestmark = pytest.mark.django_db

received: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def _clear_received() -> None:
    received.clear()


def receives(sender: Any, **kwargs: Any) -> None:
    received.append({"sender": sender, **kwargs})


def hears_instance(sender: Any, instance: Any, **kwargs: Any) -> None:
    received.append({"sender": sender, "instance": instance, **kwargs})


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


def test_a_database_that_the_test_may_not_use_is_left_out(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.saved)
    open_connection = connections["other"].connection
    try:
        connections["other"].connection = open_connection or connections["default"].connection  # of an earlier test
        Order.objects.create(number="1")
        assert ["done"] == [delivery.state for delivery in run_deliveries()]
    finally:
        connections["other"].connection = open_connection


def commits(sender: Any, instance: Any, **kwargs: Any) -> None:
    with transaction.atomic(durable=True):
        Tag.objects.create(name="committed")


def test_a_receiver_may_use_a_durable_transaction(make_durable: Callable[..., None]) -> None:
    make_durable(commits)
    Order.objects.create(number="1")
    run_deliveries()
    assert "committed" == Tag.objects.get().name


def test_an_error_is_raised_and_its_delivery_stays_pending(make_durable: Callable[..., None], notes: Notes) -> None:
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


def test_a_saved_object_is_passed_as_by_django_with_its_current_values(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance)
    order = Order.objects.create(number="1")
    order.number = "2"
    order.save(update_fields=["number"])
    run_deliveries()
    first, second = received
    assert (Order, True, None, "default", False) == tuple(
        first[name] for name in ("sender", "created", "update_fields", "using", "raw")
    )
    assert (False, frozenset({"number"})) == (second["created"], second["update_fields"])
    assert (order, "2") == (first["instance"], first["instance"].number)
    assert "post_save" == first["delivery"].event.signal
    assert 1 == first["delivery"].attempt
    assert first["delivery"].id < second["delivery"].id


def test_an_instance_in_kwargs_is_loaded_at_its_first_use(
    make_durable: Callable[..., None], django_assert_num_queries: Any
) -> None:
    make_durable(receives)
    order = Order.objects.create(number="1")
    run_deliveries()
    with django_assert_num_queries(1):
        assert order.number == received[0]["instance"].number


def test_a_deleted_object_is_passed_with_its_old_values_and_unsaved(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance, post_delete, Customer)
    customer = Customer.objects.create(name="Ann", email="ann@example.org", api_token="t0ken")
    key = customer.pk
    customer.delete()
    run_deliveries()
    instance = received[0]["instance"]
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
    assert values == {name: getattr(received[0]["instance"], name) for name in values}


def test_an_object_with_a_composite_primary_key_is_loaded(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance, sender=Enrolment)
    enrolment = Enrolment.objects.create(person=Person.objects.create(name="Ann"), course="maths")
    run_deliveries()
    assert enrolment == received[0]["instance"]


def test_many_to_many_changes_are_delivered_with_their_keys(make_durable: Callable[..., None]) -> None:
    make_durable(hears_instance, m2m_changed, Order.tags.through)
    order = Order.objects.create(number="1")
    tags = [Tag.objects.create(name=name) for name in "ab"]
    order.tags.add(*tags)
    order.tags.clear()
    run_deliveries()
    added, cleared = received
    assert ("post_add", {tag.pk for tag in tags}, order, Tag, False) == tuple(
        added[name] for name in ("action", "pk_set", "instance", "model", "reverse")
    )
    assert ("post_clear", None) == (cleared["action"], cleared["pk_set"])
    assert Order.tags.through is added["sender"]


def test_a_bulk_operation_arrives_once_with_its_count_and_keys(make_durable: Callable[..., None]) -> None:
    make_durable(receives, "bulk_create", "shop.Tag")
    made = Tag.objects.bulk_create([Tag(name=name) for name in "abc"])
    run_deliveries()
    assert (Tag, 3, {tag.pk for tag in made}) == (received[0]["sender"], received[0]["count"], set(received[0]["keys"]))


def test_a_row_of_a_bulk_operation_is_passed_with_its_object(make_durable: Callable[..., None], settings: Any) -> None:
    settings.SIGNALBOX = {"BULK": "rows"}
    make_durable(hears_instance, "bulk_create", "shop.Tag")
    made = Tag.objects.bulk_create([Tag(name=name) for name in "ab"])
    run_deliveries()
    assert made == [one["instance"] for one in received]


def test_a_login_is_delivered_with_its_user(make_durable: Callable[..., None], client: Any) -> None:
    make_durable(receives, user_logged_in, None)
    user = User.objects.create_user("ann", password="pass")
    client.force_login(user)
    run_deliveries()
    assert (user, User) == (received[0]["user"], received[0]["sender"])


def test_changes_of_a_receiver_belong_to_the_trace_of_its_event(make_durable: Callable[..., None]) -> None:
    make_durable(causes)
    Order.objects.create(number="1")
    [one] = run_deliveries()
    caused = Event.objects.get(sender="shop.Tag", signal="post_save")
    assert (one.trace_id, one.span) == (caused.trace_id, caused.parent)
