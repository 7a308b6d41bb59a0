from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from django.db import DatabaseError
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.db.models.signals import m2m_changed, post_delete, post_save

from signalbox.core import object_keys
from signalbox.models import Delivery
from signalbox.outbox import manual_changes, ordering
from signalbox.serialization.redaction import Redactor
from tests.outbox import receivers
from tests.shop import signals
from tests.shop.models import Customer, Document, ExpressOrder, Order, Tag, Word

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = UUID("0b7d0d0e-0000-4000-8000-000000000001")


def by_customer(values: Any) -> Any:
    return values["customer"]


def by_customers_key(values: Any) -> Any:
    return values["customer"].pk


def ordered() -> list[tuple[str, int | None]]:
    return [(one.ordering_key, one.partition_id) for one in Delivery.objects.order_by("id")]


def get_only_key() -> str:
    """Assert that all deliveries share a key and a partition; return the key."""
    [(key, partition)] = set(ordered())
    assert partition is not None
    return key


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_all_deliveries_of_one_object_to_a_receiver_share_a_partition(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    make_durable(receivers.saved, post_save, ExpressOrder)
    make_durable(receivers.saved, m2m_changed, Order.tags.through)
    make_durable(receivers.saved, signals.order_paid, None)
    order = Order.objects.create(number="1")
    order.tags.add(Tag.objects.create(name="t"))
    proxy = ExpressOrder.objects.get()
    proxy.save()
    signals.order_paid.send(sender=None, instance=proxy)
    assert 4 == Delivery.objects.count()
    assert f"shop.Order {order.pk}" == get_only_key()


@pytest.mark.usefixtures("empty_tables")
def test_objects_of_two_models_have_different_partitions(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, post_save, None)
    Tag.objects.create(pk=7, name="t")
    Order.objects.create(pk=7, number="1")
    (_, first), (_, second) = ordered()
    assert first != second


@pytest.mark.usefixtures("empty_tables")
def test_a_key_is_one_partition_whatever_the_sender(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, [post_save, signals.order_paid], None, key="customer")
    customer = Customer.objects.create(name="Ann")
    Delivery.objects.all().delete()
    Order.objects.create(number="1", customer=customer)
    signals.order_paid.send(sender=Tag, customer=customer)
    signals.order_paid.send(sender=None, customer=customer)
    assert f"shop.Customer {customer.pk}" == get_only_key()


@pytest.mark.usefixtures("empty_tables")
def test_a_key_function_gets_the_arguments_themselves(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, signals.order_paid, None, key=by_customers_key)
    customer = Customer.objects.create(name="Ann")
    signals.order_paid.send(sender=None, customer=customer)
    assert str(customer.pk) == get_only_key()


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize("key", ["customer", by_customer])
def test_a_field_that_was_not_loaded_is_read_for_the_key(make_durable: Callable[..., None], key: Any) -> None:
    make_durable(receivers.saved, key=key)
    customer = Customer.objects.create(name="Ann")
    order = Order.objects.create(number="1", customer=customer)
    order.save()
    order.save(update_fields=["number"])
    for found in (Order.objects.only("number"), Order.objects.defer("customer")):
        one = found.get()
        one.number = "2"
        one.save()
        one.save(update_fields=["number"])
    assert 7 == Delivery.objects.count()
    assert (f"shop.Customer {customer.pk}" if key == "customer" else str(customer.pk)) == get_only_key()


@pytest.mark.usefixtures("empty_tables")
def test_a_value_that_the_database_computed_is_read_for_the_key(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, key="number")
    order = Order.objects.create(number="12")
    order.number = Concat(Value(""), F("number"))
    order.save()
    assert "12" == get_only_key()


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize("key", ["customer", by_customer])
def test_a_delete_whose_ordering_key_is_unknown_is_an_error(make_durable: Callable[..., None], key: Any) -> None:
    make_durable(receivers.saved, post_delete, key=key)
    customer = Customer.objects.create(name="Ann")
    Order.objects.create(number="1", customer=customer)
    with pytest.raises(DatabaseError, match=r"the field 'customer' of shop\.Order \d+, .* before the delete"):
        Order.objects.only("number").get().delete()
    Order.objects.get().delete()
    assert 1 == Delivery.objects.count()


@pytest.mark.usefixtures("empty_tables")
def test_an_empty_text_is_a_valid_key(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, key="note")
    Order.objects.create(number="1")
    Order.objects.create(number="2")
    assert '""' == get_only_key()


@pytest.mark.usefixtures("empty_tables")
def test_a_digest_is_the_key_of_a_secret_argument(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, signals.order_paid, None, key="token")
    for token in ("t0ken", "t0ken", "other"):
        signals.order_paid.send(sender=None, token=token)
    (first, partition), second, third = ordered()
    assert object_keys.DIGEST_PATTERN.fullmatch(first)
    assert (first, partition) == second
    assert third[0] != first
    assert third[1] != partition


@pytest.mark.usefixtures("empty_tables")
def test_a_digest_is_the_key_if_its_text_contains_a_secret(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, key="note")
    make_durable(receivers.saved, signals.order_paid, None, key="note")
    Order.objects.create(number="1", note="Bearer abc123xyz")
    signals.order_paid.send(sender=None, note="Bearer abc123xyz")
    assert object_keys.DIGEST_PATTERN.fullmatch(get_only_key())


@pytest.mark.usefixtures("empty_tables")
def test_the_order_by_a_secret_survives_a_rotation_of_the_secret_key(
    make_durable: Callable[..., None], settings: Any
) -> None:
    make_durable(receivers.saved, signals.order_paid, None, key="token")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "old", []
    signals.order_paid.send(sender=None, token="t0ken")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", ["old"]
    signals.order_paid.send(sender=None, token="t0ken")
    before = get_only_key()
    settings.SECRET_KEY_FALLBACKS = []
    Delivery.objects.all().delete()
    signals.order_paid.send(sender=None, token="t0ken")
    assert before != get_only_key()


@pytest.mark.usefixtures("empty_tables")
def test_a_key_that_fails_is_logged_and_the_object_is_the_key(
    make_durable: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    make_durable(receivers.saved, key=lambda values: object())
    order = Order.objects.create(number="1")
    assert f"shop.Order {order.pk}" == get_only_key()
    assert "a builtins.object can't be a key" in caplog.text


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_retried_delivery_comes_back_to_its_partition(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    before = ordered()
    Delivery.objects.update(state="dead", partition_id=None)
    manual_changes.retry(Delivery.objects.all(), "default")
    assert before == ordered()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("7", 7, Decimal(7), Decimal("7.00")), "7"),
        ((KEY, str(KEY)), str(KEY)),
        ((dt.date(2026, 3, 1), "2026-03-01"), "2026-03-01"),
        (
            (
                dt.datetime(2026, 3, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
                dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
            ),
            "2026-03-01T00:00:00+00:00",
        ),
        ((Order.Status.PAID, "paid"), "paid"),
        ((None,), "null"),
        (((1, KEY), [1, str(KEY)]), f'[1,"{KEY}"]'),
        (({"b", "a"}, ["a", "b"]), '["a","b"]'),
        (({"b": 1, "a": 2}, {"a": 2, "b": 1}), '{"a":2,"b":1}'),
        ((Document(pk=KEY),), f"shop.Document {KEY}"),
        ((ExpressOrder(pk=1), Order(pk=1)), "shop.Order 1"),
        ((b"\x01",), "01"),
        ((Order,), "shop.Order"),
    ],
)
def test_equal_keys_have_the_same_text(values: tuple[Any, ...], expected: str) -> None:
    assert {expected} == {ordering.format_key(value, Redactor()) for value in values}


def test_a_long_key_is_truncated_and_stays_unique() -> None:
    first, second = (ordering.format_key(Word(text="x" * 300 + end), Redactor()) for end in "ab")
    assert first != second
    assert 200 >= len(first)
