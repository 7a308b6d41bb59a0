"""Test the maximum length of a chain of deliveries, in each way of running them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction

import signalbox
from signalbox.models import Delivery
from signalbox.outbox import manual_changes, single_delivery
from signalbox.outbox.execution import execute
from signalbox.outbox.queue import DeliveryQueue
from signalbox.outbox.run_pending import run_deliveries
from tests.outbox import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes, Process

pytestmark = [pytest.mark.every_database, pytest.mark.usefixtures("empty_tables")]

MAX_CHAIN = 3


@pytest.fixture(autouse=True)
def _limit_chains(settings: Any) -> None:
    settings.SIGNALBOX = {"DURABLE": {"MAX_CHAIN": MAX_CHAIN}}


def run_by_id() -> None:
    """Run deliveries by id, as Celery and Django's Tasks do."""
    while ids := list(Delivery.objects.filter(state="pending").order_by("id").values_list("id", flat=True)[:1]):
        assert single_delivery.execute_by_id("default", ids[0])


def run_by_queue() -> None:
    """Run deliveries as a worker does."""
    delivery_queue = DeliveryQueue("default")
    while found := delivery_queue.acquire(1, 1):
        delivery_queue.complete(found[0], execute(found[0]))


def assert_chain_has_ended(notes: Notes) -> str:
    """Assert that the receiver ran ``MAX_CHAIN`` times; return the error of the dead letter."""
    assert MAX_CHAIN == len(notes.lines("saved"))
    *done, dead = Delivery.objects.order_by("id")
    assert [("done", number) for number in range(1, MAX_CHAIN + 1)] == [(one.state, one.chain_length) for one in done]
    assert ("dead", MAX_CHAIN + 1, 0) == (dead.state, dead.chain_length, dead.attempts)
    error: str = dead.error
    return error


@pytest.mark.parametrize("run", [run_by_id, run_by_queue])
@pytest.mark.parametrize("name", ["saves_itself", "saves_itself_in_a_trace"])
def test_a_receiver_that_causes_itself_becomes_a_dead_letter(
    make_durable: Callable[..., None], notes: Notes, run: Callable[[], None], name: str
) -> None:
    make_durable(getattr(receivers, name))
    Order.objects.create(number="1")
    run()
    error = assert_chain_has_ended(notes)
    expected = "this is delivery 4 of a chain, each caused by the receiver of the one before"
    assert f'{expected}, and DURABLE["MAX_CHAIN"] is 3' in error
    assert "save only if a value differs, or use QuerySet.update()" in error


def test_a_chain_ends_in_development(make_durable: Callable[..., None], notes: Notes, settings: Any) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "immediate", "MAX_CHAIN": MAX_CHAIN}}
    make_durable(receivers.saves_itself)
    Order.objects.create(number="1")
    assert_chain_has_ended(notes)


def test_a_chain_ends_in_a_worker(
    make_durable: Callable[..., None], notes: Notes, start_worker: Callable[..., Process]
) -> None:
    make_durable(receivers.saves_itself)
    Order.objects.create(number="1")
    box = {"DURABLE": {"MAX_CHAIN": MAX_CHAIN}}
    assert 0 == start_worker("--burst", receivers="saves_itself:post_save:shop.Order", box=box).wait()
    assert_chain_has_ended(notes)


@pytest.mark.parametrize("broker", [pytest.param("redis", marks=pytest.mark.redis)], indirect=True)
def test_a_chain_ends_in_a_celery_worker(
    make_durable: Callable[..., None],
    start_celery_worker: Callable[..., Process],
    start_worker: Callable[..., Process],
    notes: Notes,
    broker: dict[str, Any],
) -> None:
    make_durable(receivers.saves_itself)
    Order.objects.create(number="1")
    box = {"DURABLE": {"DISPATCHER": "celery", "MAX_CHAIN": MAX_CHAIN}}
    options: dict[str, Any] = {**broker, "receivers": "saves_itself:post_save:shop.Order", "box": box}
    celery_worker = start_celery_worker(**options)
    relay = start_worker(**options)
    deadline = time.monotonic() + 180  # a lost message is sent again after 60 s
    while not Delivery.objects.filter(state="dead").exists():
        assert time.monotonic() < deadline, celery_worker.log.read_text()[-2000:]
        time.sleep(0.1)
    assert_chain_has_ended(notes)
    assert 0 == relay.end()
    celery_worker.end()


def test_a_chain_that_is_too_long_is_raised_in_a_test(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.saves_itself)
    Order.objects.create(number="1")
    with pytest.raises(RuntimeError, match="MAX_CHAIN"):
        run_deliveries()
    assert MAX_CHAIN == len(notes.lines("saved"))
    assert ["done"] * MAX_CHAIN + ["pending"] == list(Delivery.objects.order_by("id").values_list("state", flat=True))


def test_a_retried_delivery_begins_a_new_chain(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.saves_itself)
    Order.objects.create(number="1")
    run_by_queue()
    assert 1 == manual_changes.retry(Delivery.objects.filter(state="dead"), "default")
    run_by_queue()
    assert 2 * MAX_CHAIN == len(notes.lines("saved"))
    assert 1 == Delivery.objects.filter(state="dead").count()


def test_a_replayed_event_begins_a_new_chain_that_ends(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.saves_itself)
    Order.objects.create(number="1")
    run_by_queue()
    Delivery.objects.all().delete()
    number = manual_changes.replay("tests.outbox.receivers.saves_itself", "default", since=0)
    assert {1} == set(Delivery.objects.values_list("chain_length", flat=True))
    run_by_queue()
    assert MAX_CHAIN + number * MAX_CHAIN == len(notes.lines("saved"))


def test_a_change_outside_of_a_receiver_begins_a_chain(make_durable: Callable[..., None], notes: Notes) -> None:
    make_durable(receivers.saved)
    with signalbox.trace("outside"):
        Order.objects.create(number="1")
    run_by_queue()
    Order.objects.create(number="2")
    assert [1, 1] == list(Delivery.objects.values_list("chain_length", flat=True))


def test_many_deliveries_of_one_transaction_are_stored_and_run_like_few(
    make_durable: Callable[..., None], notes: Notes
) -> None:
    make_durable(receivers.saved)
    with transaction.atomic():
        for number in range(12):
            Order.objects.create(number=f"A-{number}")
    assert {dict} == {type(delivery.payload) for delivery in Delivery.objects.all()}
    run_by_queue()
    assert 12 == Delivery.objects.filter(state="done").count()
