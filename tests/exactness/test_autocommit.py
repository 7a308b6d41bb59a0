"""Each write in autocommit is one transaction with its event."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.db import IntegrityError, connections, transaction
from django.db.models.signals import post_delete, post_save, pre_save

from signalbox.models import Event
from signalbox.pipeline import exporter, flushing
from tests.exactness import register
from tests.exactness.blocks import create_tag
from tests.shop.models import Friend, Hold, Order, OrderLine, Ref, Restaurant, Tag, Uniq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.models.signals import ModelSignal

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@contextmanager
def receiving(sent: ModelSignal, receiver: Callable[..., object], sender: Any = Tag) -> Iterator[None]:
    sent.connect(receiver, sender=sender)
    try:
        yield
    finally:
        sent.disconnect(receiver, sender=sender)


def test_create_update_delete() -> None:
    kept, lost = create_tag("kept"), create_tag("lost")
    assert ["kept", "lost"] == register.assert_rows_match()
    kept.name = "kept on"
    kept.save()
    assert ["kept on", "lost"] == register.assert_rows_match()
    kept.save(update_fields=["name"])
    lost.delete()
    assert ["kept on"] == register.assert_rows_match()
    kept.delete()
    assert [] == register.assert_rows_match()


def test_a_save_that_fails_leaves_nothing() -> None:
    Uniq.objects.create(k="a")
    with pytest.raises(IntegrityError):
        Uniq.objects.create(k="a")
    assert ["a"] == register.assert_rows_match("shop.Uniq")


def test_a_save_that_a_deferred_constraint_rejects_does_not_change_the_instance() -> None:
    order = Order.objects.create(number="a")
    lost = Ref(order_id=order.pk + 1000)
    with pytest.raises(IntegrityError):
        lost.save()
    assert not lost.pk
    kept = Ref.objects.create(order=order)
    lost.order = order
    lost.save()  # with the key of the failed save it would overwrite the other row
    assert {kept.pk, lost.pk} == set(Ref.objects.values_list("pk", flat=True))
    assert 2 == len({kept.pk, lost.pk})


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django itself opens a transaction, and keeps the values")
def test_a_bulk_create_that_a_deferred_constraint_rejects_does_not_change_objects() -> None:
    order = Order.objects.create(number="a")
    lost = [Ref(order_id=order.pk + number) for number in (1000, 1001)]
    with pytest.raises(IntegrityError):
        Ref.objects.bulk_create(lost)
    assert all(not ref.pk and ref._state.adding and ref._state.db is None for ref in lost)
    for ref in lost:
        ref.order = order
    Ref.objects.bulk_create(lost)
    assert {ref.pk for ref in lost} == set(Ref.objects.values_list("pk", flat=True))


def test_a_delete_that_a_deferred_constraint_rejects_keeps_the_key_of_the_instance() -> None:
    held = Uniq.objects.create(k="a")
    key = held.pk
    Hold.objects.create(uniq=held)
    with pytest.raises(IntegrityError):
        held.delete()
    assert key == held.pk
    assert ["a"] == register.assert_rows_match("shop.Uniq")


class TimeLimit(Exception):
    """Raised by the handler of a signal."""


@contextmanager
def time_limit() -> Iterator[Callable[[], None]]:
    """Yield a function that raises ``TimeLimit`` as a signal handler does, once."""
    strikes = [signal.SIGUSR1]

    def handler(*args: Any) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield lambda: signal.raise_signal(strikes.pop()) if strikes else None
    finally:
        signal.signal(signal.SIGUSR1, before)


WRITES: list[Any] = [
    pytest.param(lambda: Uniq.objects.create(k="a"), id="create"),
    pytest.param(lambda: Uniq.objects.update(k="b"), id="update"),
    pytest.param(
        lambda: Uniq.objects.bulk_create([Uniq(k="a")], ignore_conflicts=True),
        id="bulk_create",
        marks=pytest.mark.skipif(django.VERSION < (6, 0), reason="Django itself opens a transaction"),
    ),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_time_limit_within_our_begin_leaves_no_transaction_open(
    write: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    Uniq.objects.create(k="first")
    connection = connections["default"]
    original = connection.set_autocommit
    with time_limit() as strike:

        def set_autocommit(*args: Any, **kwargs: Any) -> None:
            connection.autocommit = True
            original(*args, **kwargs)
            connection.autocommit = True  # as if the limit struck before Django has set it
            strike()

        with monkeypatch.context() as patch, pytest.raises(TimeLimit):
            patch.setattr(connection, "set_autocommit", set_autocommit)
            write()
    Uniq.objects.create(k="later")
    assert {"first", "later"} == set(register.assert_rows_match("shop.Uniq"))


@pytest.mark.parametrize("write", WRITES)
def test_a_time_limit_within_our_commit_leaves_no_transaction_open(
    write: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    Uniq.objects.create(k="first")
    with time_limit() as strike:

        def write_events(*args: Any, **kwargs: Any) -> None:
            strike()

        with monkeypatch.context() as patch, pytest.raises(TimeLimit):
            patch.setattr(flushing, "write_events", write_events)
            write()
    Uniq.objects.create(k="later")
    assert {"first", "later"} == set(register.assert_rows_match("shop.Uniq"))


def test_a_child_and_its_parent() -> None:
    place = Restaurant.objects.create(name="Lion", stars=2)
    place.stars = 3
    place.save()
    assert ["3"] == register.assert_rows_match("shop.Restaurant")
    place.delete()
    assert [] == register.assert_rows_match("shop.Restaurant")


def test_a_delete_that_cascades() -> None:
    order = Order.objects.create(number="a")
    OrderLine.objects.create(order=order, sku="x")
    order.delete()
    assert [] == register.assert_rows_match("shop.Order")
    assert [] == register.execute("default", "SELECT id FROM shop_orderline")
    assert ["committed"] == [
        event.outcome
        for event in register.read_events()
        if event.sender == "shop.OrderLine" and "delete" in event.signal
    ]


def test_a_receiver_that_raises_leaves_the_row_and_its_event() -> None:
    def fail(**named: Any) -> None:
        raise ValueError("after the row")

    with receiving(post_save, fail), pytest.raises(ValueError, match="after the row"):
        create_tag("a")
    assert ["a"] == register.assert_rows_match()


def test_a_receiver_of_pre_save_that_raises_leaves_neither() -> None:
    def fail(**named: Any) -> None:
        raise ValueError("before the row")

    with receiving(pre_save, fail), pytest.raises(ValueError, match="before the row"):
        create_tag("a")
    assert [] == register.assert_rows_match()


def test_a_receiver_of_post_delete_that_raises_rolls_the_delete_back() -> None:
    def fail(**named: Any) -> None:
        raise ValueError("within the delete")

    one = create_tag("a")
    with receiving(post_delete, fail), pytest.raises(ValueError, match="within the delete"):
        one.delete()
    assert ["a"] == register.assert_rows_match()


def test_a_receiver_may_open_a_durable_transaction() -> None:
    def write(**named: Any) -> None:
        with transaction.atomic(durable=True):
            Friend.objects.create(name="b")

    with receiving(post_save, write):
        create_tag("a")
    assert ["a"] == register.assert_rows_match()
    assert ["b"] == register.assert_rows_match("shop.Friend")


def test_on_commit_in_a_receiver_runs_immediately() -> None:
    order = []

    def register_hook(**named: Any) -> None:
        transaction.on_commit(lambda: order.append("hook"))
        order.append("receiver")

    with receiving(post_save, register_hook):
        create_tag("a")
    assert ["hook", "receiver"] == order
    assert ["a"] == register.assert_rows_match()


def test_a_receiver_that_saves_again() -> None:
    def rename(instance: Tag, created: bool, **named: Any) -> None:
        if created:
            instance.name += " renamed"
            instance.save()

    with receiving(post_save, rename):
        create_tag("a")
    assert ["a renamed"] == register.assert_rows_match()


@pytest.mark.parametrize("alias", ["default", "other"])
def test_receivers_that_ran_after_the_commit_are_in_the_event(alias: str) -> None:
    def listen(**named: Any) -> None:
        assert [name] == register.assert_rows_match(alias=alias)
        assert "receivers" not in register.read_events(alias)[-1].data

    name = "a"
    with receiving(post_save, listen):
        create_tag(name, alias)
    for one in connections.all():
        one.ensure_connection()
    exporter.flush()
    event = Event.objects.using(alias).get(signal="post_save")
    [run] = event.data["receivers"]
    assert (run["name"].rpartition(".")[2], run["error"]) == ("listen", None)
    assert run["duration_us"] <= (event.duration or 0)
    assert [name] == register.assert_rows_match(alias=alias)


def test_receivers_that_failed_after_the_commit_are_in_the_event() -> None:
    def fail(**named: Any) -> None:
        raise ValueError("after the row")

    with receiving(post_save, fail), pytest.raises(ValueError, match="after the row"):
        create_tag("a")
    exporter.flush()
    event = Event.objects.get(signal="post_save")
    assert ("committed", 1) == (event.outcome, event.errors)
    assert "ValueError: after the row" == event.data["receivers"][0]["error"]


def test_an_update_of_an_event_is_written_after_the_open_transaction() -> None:
    def listen(**named: Any) -> None:
        pass

    with transaction.atomic(using="default"), receiving(post_save, listen):
        create_tag("a", "other")
        exporter.flush()
        assert "receivers" not in Event.objects.using("other").get(signal="post_save").data
    exporter.flush()
    assert 1 == len(Event.objects.using("other").get(signal="post_save").data["receivers"])
