from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.signals import user_logged_in
from django.db import DatabaseError, transaction
from django.db.models.signals import m2m_changed, post_delete

import signalbox
from signalbox.instrumentation import model_metadata
from signalbox.models import Delivery, Event
from signalbox.outbox import registry
from signalbox.pipeline import batches, pending
from tests.outbox import receivers
from tests.shop import signals
from tests.shop.models import Order, OrderLine, Tag, Word

if TYPE_CHECKING:
    from collections.abc import Callable


def roll_back(number: str) -> None:
    with transaction.atomic():
        Order.objects.create(number=number)
        raise RuntimeError


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_delivery_exists_if_and_only_if_its_change_was_committed(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    with transaction.atomic():
        Order.objects.create(number="kept")
        with pytest.raises(RuntimeError):
            roll_back("undone inside")
    with pytest.raises(RuntimeError):
        roll_back("undone")
    Order.objects.create(number="autocommit")
    found = Delivery.objects.order_by("id")
    assert ["kept", "autocommit"] == [one.payload["row"]["number"] for one in found]
    for one in found:
        event = Event.objects.get(trace_id=one.trace_id, span=one.span)
        assert ("post_save", "shop.Order", one.object_key) == (event.signal, event.sender, event.object_key)


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_change_is_not_committed_if_its_deliveries_cannot_be_written(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_durable(receivers.saved)
    monkeypatch.setattr(batches, "DELIVERY_TABLE", "nowhere")
    with pytest.raises(DatabaseError):
        Order.objects.create(number="1")
    assert not Order.objects.filter(number="1").exists()


@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize("box", [{"RECORD": ["auth"]}, {"RECORD": [], "IGNORE": ["shop"]}, {"RECORD": "audit"}])
def test_events_of_durable_receivers_are_recorded_despite_the_setting(
    make_durable: Callable[..., None], settings: Any, box: dict[str, Any]
) -> None:
    settings.SIGNALBOX = box
    make_durable(receivers.saved)
    order = Order.objects.create(number="1")
    order.save()
    Tag.objects.create(name="of another sender")
    assert 2 == Delivery.objects.count()
    assert 2 == Event.objects.filter(signal="post_save", sender="shop.Order").count()
    assert ("audit" == box["RECORD"]) == Event.objects.filter(sender="shop.Tag").exists()


@pytest.mark.usefixtures("empty_tables")
def test_a_durable_post_delete_gets_each_object_and_others_keep_fast_deletes(
    make_durable: Callable[..., None], django_assert_num_queries: Any
) -> None:
    make_durable(receivers.saves_with_number, post_delete, OrderLine)
    order = Order.objects.create(number="1")
    for sku in "abc":
        OrderLine.objects.create(order=order, sku=sku)
    OrderLine.objects.filter(sku="a").delete()
    order.delete()
    assert {"a", "b", "c"} == {one.payload["row"]["sku"] for one in Delivery.objects.all()}
    Word.objects.create(text="word")
    with transaction.atomic(), django_assert_num_queries(1):
        Word.objects.all().delete()


@pytest.mark.usefixtures("empty_tables")
def test_a_bulk_operation_makes_one_delivery(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, ["bulk_create", "update"])
    Order.objects.bulk_create([Order(number=str(number)) for number in range(5)])
    Order.objects.update(note="seen")
    assert ["bulk_create", "update"] == [one.signal for one in Delivery.objects.order_by("id")]
    assert 5 == Delivery.objects.earliest("id").payload["args"]["count"]


@pytest.mark.usefixtures("empty_tables")
def test_many_to_many_changes_are_delivered_after_the_change(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, m2m_changed, Order.tags.through)
    order = Order.objects.create(number="1")
    tag = Tag.objects.create(name="t")
    order.tags.add(tag)
    order.tags.remove(tag)
    assert ["post_add", "post_remove"] == [one.payload["args"]["action"] for one in Delivery.objects.order_by("id")]


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_custom_signal_is_delivered_with_its_transaction_or_immediately(
    make_durable: Callable[..., None],
) -> None:
    make_durable(receivers.saved, signals.order_paid, None)
    order = Order.objects.create(number="1")
    signals.order_paid.send(sender=Order, order=order)
    assert 1 == Delivery.objects.count()
    with suppress(RuntimeError), transaction.atomic():
        signals.order_paid.send(sender=Order, order=order)
        raise RuntimeError
    with transaction.atomic():
        signals.order_paid.send(sender=Order, order=order)
        assert 0 == count_pending_traces()
    assert 2 == Delivery.objects.count()
    assert {"$": "model", "v": ["shop.Order", order.pk, "default"]} == Delivery.objects.earliest("id").payload[
        "serialized"
    ]["order"]


@pytest.mark.usefixtures("empty_tables")
def test_a_signal_that_is_sent_in_an_event_loop_is_delivered_with_its_trace(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, signals.order_paid, None)

    async def work() -> None:
        async with signalbox.trace("asynchronous"):
            await signals.order_paid.asend(sender=Order, number=1)

    asyncio.run(work())
    assert {"number": 1} == Delivery.objects.get().payload["serialized"]


def test_a_receiver_is_found_with_the_options_of_its_signal_and_sender(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, retries=1)
    make_durable(receivers.saved, sender="shop.Tag", retries=2)
    make_durable(receivers.saved, sender=None, retries=3)
    make_durable(receivers.saved, post_delete, retries=4)

    def retries(signal: str, sender: str) -> int:
        found = registry.find_durable_receiver("tests.outbox.receivers.saved", signal, sender)
        assert found is not None
        return found.retries

    assert [1, 2, 3] == [retries("post_save", f"shop.{name}") for name in ("Order", "Tag", "Customer")]
    assert [4, 4] == [retries("post_delete", f"shop.{name}") for name in ("Order", "Tag")]
    assert retries("m2m_changed", "shop.Order_tags")
    assert registry.find_durable_receiver("shop.gone", "post_save", "shop.Order") is None


def count_pending_traces() -> int:
    """Return the number of traces with deliveries that are written after the transaction."""
    return len({event.trace for event in pending.get_lost_events() if event.outbox_arguments})


@pytest.mark.usefixtures("empty_tables")
def test_a_login_is_delivered_with_the_recorded_facts_of_its_request(
    make_durable: Callable[..., None], client: Any
) -> None:
    from django.contrib.auth.models import User

    make_durable(receivers.saved, user_logged_in, None)
    user = User.objects.create_user("ann", password="pass")
    client.force_login(user)
    packed = Delivery.objects.get().payload["serialized"]
    assert {"$": "model", "v": ["auth.User", user.pk, "default"]} == packed["user"]
    assert set(packed["request"]) <= {"method", "path"}


def of_customer(values: Any) -> object:
    return values["customer"]


@pytest.mark.usefixtures("empty_tables")
@pytest.mark.parametrize(
    ("key", "expected"), [("pk", "shop.Order {pk}"), ("number", "7"), (of_customer, "null"), (None, "")]
)
def test_the_key_is_the_object_a_field_a_function_or_none(
    make_durable: Callable[..., None], key: Any, expected: str
) -> None:
    make_durable(receivers.saved, key=key)
    order = Order.objects.create(number="7")
    one = Delivery.objects.get()
    assert expected.format(pk=order.pk) == one.ordering_key
    assert (key is None) == (one.partition_id is None)


@pytest.mark.usefixtures("empty_tables")
def test_a_plan_ignores_a_sender_again_after_its_receiver_is_disconnected(
    make_durable: Callable[..., None], settings: Any
) -> None:
    settings.SIGNALBOX = {"IGNORE": ["shop"]}
    make_durable(receivers.saved)
    assert model_metadata.get_metadata(Order).is_recorded
    registry.disconnect("tests.outbox.receivers.saved")
    signalbox.start_recording()
    assert not model_metadata.get_metadata(Order).is_recorded
