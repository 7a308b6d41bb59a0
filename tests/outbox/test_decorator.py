from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import Signal

import signalbox
from signalbox.core.receivers import get_connected_receivers, get_name
from tests.outbox import receivers
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Callable


class Holder:
    def method(self, **kwargs: Any) -> None: ...


def takes_document(sender: Any, document: Any, **kwargs: Any) -> None: ...


def roll_back(number: str) -> None:
    with transaction.atomic():
        Order.objects.create(number=number)
        raise RuntimeError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"durable": True, "retrys": 3}, "no option 'retrys'; did you mean 'retries'"),
        ({"retries": 3}, "add durable=True"),
        ({"durable": True, "after_commit": True}, "leave out after_commit"),
        ({"durable": True, "retries": -1}, "retries=-1; a whole number, 0 or more, was expected"),
        ({"durable": True, "backoff": 0}, "backoff=0"),
        ({"durable": True, "key": ""}, "key=''"),
        ({"durable": True, "timeout": "1"}, "timeout='1'"),
        ({"durable": True, "on_dead": "wait"}, "on_dead='wait'"),
        ({"durable": True, "queue": ""}, "queue=''"),
        ({"durable": True, "sender": "Order"}, "sender='Order' is not the label of a model"),
    ],
)
def test_the_error_names_an_invalid_option(options: dict[str, Any], expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        signalbox.receiver(post_save, **options)(receivers.saved)


def test_only_durable_receivers_receive_bulk_operations() -> None:
    with pytest.raises(TypeError, match="Django sends no signal for 'bulk_create'"):
        signalbox.receiver("bulk_create")(receivers.saved)


def test_a_plain_receiver_is_connected_as_by_django() -> None:
    received = []

    def plain(sender: Any, **kwargs: Any) -> None:
        received.append(sender)

    signal = Signal()
    signalbox.receiver([signal], sender="shop.Order")(plain)
    signal.send(Order)
    signal.send(Tag)
    assert [Order] == received


@pytest.mark.django_db
def test_nothing_is_connected_for_a_durable_receiver(make_durable: Callable[..., None]) -> None:
    before = list(post_save.receivers)
    make_durable(receivers.saved)
    assert before == post_save.receivers


@pytest.mark.django_db(transaction=True)
@pytest.mark.every_database
def test_after_commit_runs_after_the_commit_and_not_after_a_rollback() -> None:
    received = []

    def plain(sender: Any, instance: Any, **kwargs: Any) -> None:
        received.append(instance.number)
        raise ValueError("which does not reach the caller")

    signalbox.receiver(post_save, sender="shop.Order", after_commit=True)(plain)
    try:
        with transaction.atomic():
            Order.objects.create(number="1")
            with pytest.raises(RuntimeError):
                roll_back("2")
            assert [] == received
        assert ["1"] == received
        with pytest.raises(RuntimeError):
            roll_back("3")
        assert ["1"] == received
    finally:
        post_save.receivers.pop()
        post_save.sender_receivers_cache.clear()


@pytest.fixture
def signal() -> Signal:
    """A custom signal."""
    return Signal()


def count_received(signal: Signal, sender: Any = Order) -> int:
    return len(signal.send(sender))


@pytest.mark.django_db
def test_a_receiver_after_commit_can_be_disconnected(signal: Signal) -> None:
    for options in ({}, {"weak": False}, {"dispatch_uid": "mine"}):
        named: dict[str, Any] = {"dispatch_uid": options.get("dispatch_uid")}
        signalbox.receiver(signal, sender=Order, after_commit=True, **options)(takes_document)
        assert 1 == count_received(signal)
        assert not signal.disconnect(takes_document, sender=Tag, **named)
        assert signal.disconnect(takes_document, sender=Order, **named)
        assert 0 == count_received(signal)


@pytest.mark.django_db
def test_a_receiver_after_commit_is_connected_once(signal: Signal) -> None:
    holder = Holder()
    for function in (takes_document, holder.method):
        for _ in range(3):
            signalbox.receiver([signal, signal], sender=Order, after_commit=True)(function)
    assert 2 == count_received(signal)
    assert signal.disconnect(holder.method, sender=Order)
    assert 1 == count_received(signal)


@pytest.mark.django_db(transaction=True)
def test_a_method_after_commit_lives_as_long_as_its_object(signal: Signal) -> None:
    received = []

    class Listener:
        def method(self, **kwargs: Any) -> None:
            received.append(type(self).__name__)

    one, other = Listener(), Listener()
    for listener in (one, other):
        signalbox.receiver(signal, after_commit=True)(listener.method)
    signal.send(None)
    assert ["Listener"] * 2 == received
    gone = weakref.ref(one)
    with transaction.atomic():
        signal.send(None)
        del one, listener
    gc.collect()
    assert gone() is None
    assert ["Listener"] * 4 == received
    signal.send(None)
    assert ["Listener"] * 5 == received
    assert signal.disconnect(other.method)


def test_a_function_after_commit_is_held_weakly(signal: Signal) -> None:
    def short_lived(**kwargs: Any) -> None: ...

    signalbox.receiver(signal, after_commit=True)(short_lived)
    assert signal.has_listeners()
    del short_lived
    gc.collect()
    assert not signal.has_listeners()


def test_a_receiver_after_commit_is_listed_by_its_own_name_without_uid(signal: Signal) -> None:
    holder = Holder()
    signalbox.receiver(signal, after_commit=True)(takes_document)
    signalbox.receiver(signal, after_commit=True)(holder.method)
    found = get_connected_receivers(signal)
    assert [None, None] == [one.dispatch_uid for one in found]
    assert [f"{__name__}.takes_document", f"{__name__}.Holder.method"] == [get_name(one.receiver) for one in found]
