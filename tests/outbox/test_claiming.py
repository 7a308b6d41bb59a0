from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from signalbox.core import clock
from signalbox.models import Delivery
from signalbox.outbox import database_clock
from signalbox.outbox.claiming import MAX_RUN_LENGTH
from signalbox.outbox.leases import HeldLeases
from signalbox.outbox.queue import SECOND_US, SUCCEEDED, AttemptResult, DeliveryQueue, Disposition, now_us
from tests.outbox import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalbox.outbox.deliveries import LeasedDelivery

pytestmark = [pytest.mark.every_database, pytest.mark.usefixtures("empty_tables")]

RETRIED = AttemptResult(disposition=Disposition.RETRY, error="x", retry_delay=60)


@pytest.fixture
def delivery_queue(make_durable: Callable[..., None]) -> DeliveryQueue:
    make_durable(receivers.saved)
    return DeliveryQueue("default")


def save(times: int) -> list[int]:
    """Save one order several times; return the ids of its deliveries."""
    order = Order.objects.create(number="1")
    for _ in range(times - 1):
        order.save()
    return list(Delivery.objects.order_by("id").values_list("id", flat=True))


def lease_run(delivery_queue: DeliveryQueue, limit: int = 100) -> list[LeasedDelivery]:
    [head] = delivery_queue.acquire(10, 1)
    return [head, *delivery_queue.lease_followers([head], limit).get(head.id, ())]


def get_ids(deliveries: list[LeasedDelivery]) -> list[int]:
    return [delivery.id for delivery in deliveries]


def test_a_run_has_the_next_deliveries_of_a_key_in_order_and_is_limited(delivery_queue: DeliveryQueue) -> None:
    ids = save(MAX_RUN_LENGTH + 5)
    run = lease_run(delivery_queue)
    assert ids[:MAX_RUN_LENGTH] == get_ids(run)
    assert [1, *[0] * (MAX_RUN_LENGTH - 1)] == [one.attempts for one in run]
    assert [] == DeliveryQueue("default").acquire(10, 10), "the others wait for the run"
    assert list(
        Delivery.objects.filter(id__in=get_ids(run)).order_by("id").values_list("fencing_token", flat=True)
    ) == [one.fencing_token for one in run]


def test_a_run_is_not_longer_than_its_limit(delivery_queue: DeliveryQueue) -> None:
    ids = save(5)
    assert ids[:3] == get_ids(lease_run(delivery_queue, 2))


@pytest.mark.parametrize(
    "values",
    [
        {"state": "dead", "next_check_at": None},
        {"run_at": 2 * 10**15, "next_check_at": 2 * 10**15},
        {"queue": "other"},
        {"lease_expires_at": 2 * 10**15, "next_check_at": 2 * 10**15},
    ],
)
def test_a_run_ends_before_a_delivery_that_may_not_run(
    make_durable: Callable[..., None], values: dict[str, Any]
) -> None:
    make_durable(receivers.saved)
    ids = save(4)
    delivery_queue = DeliveryQueue("default", ["default"])
    [head] = delivery_queue.acquire(10, 1)
    Delivery.objects.filter(pk=ids[2]).update(**values)
    assert ids[1:2] == get_ids(delivery_queue.lease_followers([head], 10)[head.id])


def test_a_run_takes_over_the_run_of_a_worker_that_died(delivery_queue: DeliveryQueue) -> None:
    ids = save(4)
    lease_run(delivery_queue, 2)
    Delivery.objects.filter(lease_expires_at__gt=0).update(lease_expires_at=1, next_check_at=1)
    assert ids == get_ids(lease_run(DeliveryQueue("default")))


def test_the_next_of_a_run_starts_with_the_result_of_the_one_before_it(delivery_queue: DeliveryQueue) -> None:
    save(3)
    first, second, third = lease_run(delivery_queue)
    assert (True, True) == delivery_queue.complete(first, SUCCEEDED, second)
    assert (1, 0) == (Delivery.objects.get(pk=second.id).attempts, Delivery.objects.get(pk=third.id).attempts)


def test_the_next_of_a_run_does_not_start_if_the_one_before_it_was_lost(delivery_queue: DeliveryQueue) -> None:
    save(2)
    first, second = lease_run(delivery_queue)
    Delivery.objects.filter(pk=first.id).update(fencing_token=first.fencing_token + 1)
    assert (False, False) == delivery_queue.complete(first, SUCCEEDED, second)
    assert 0 == Delivery.objects.get(pk=second.id).attempts


def test_the_delivery_after_a_run_becomes_due_with_the_end_of_the_run(delivery_queue: DeliveryQueue) -> None:
    ids = save(3)
    run = lease_run(delivery_queue, 1)
    Delivery.objects.filter(pk=ids[2]).update(next_check_at=now_us() + 60 * SECOND_US)
    for one in run:
        delivery_queue.complete(one, SUCCEEDED)
    assert [ids[2]] == get_ids(delivery_queue.acquire(10, 1))


def test_a_released_run_waits_for_the_retry_of_its_head(delivery_queue: DeliveryQueue) -> None:
    save(3)
    head, *others = lease_run(delivery_queue)
    delivery_queue.complete(head, RETRIED)
    delivery_queue.release(others)
    assert [] == delivery_queue.acquire(10, 10)
    assert not delivery_queue.has_work()


def test_there_is_work_while_a_delivery_runs_that_others_of_its_key_wait_for(delivery_queue: DeliveryQueue) -> None:
    assert not delivery_queue.has_work()
    save(2)
    assert delivery_queue.has_work()
    [head] = delivery_queue.acquire(10, 1)
    Delivery.objects.exclude(pk=head.id).update(next_check_at=now_us() + 60 * SECOND_US)
    assert delivery_queue.has_work()
    assert not DeliveryQueue("default", ["other"]).has_work()
    delivery_queue.complete(head, SUCCEEDED)
    [last] = delivery_queue.acquire(10, 1)
    assert not delivery_queue.has_work(), "nothing waits for it"
    delivery_queue.complete(last, SUCCEEDED)


# ------------------------------------------------------------------ clocks


def test_a_machine_whose_clock_is_ahead_acquires_nothing_that_is_leased(
    delivery_queue: DeliveryQueue, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no clock of its own")
    settings.SIGNALBOX = {"DURABLE": {"LEASE": 300}}
    [number] = save(1)
    [held] = delivery_queue.acquire(10, 1)
    host_time = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: host_time() + 600 * SECOND_US * 1000)
    monkeypatch.setattr(database_clock, "READING_SECONDS", 0.0)
    ahead = DeliveryQueue("default")
    assert [] == ahead.acquire(10, 10)
    assert ahead.acquire_by_id(number) is None
    assert [] == ahead.dispatch(10, now_us() + 60 * SECOND_US)
    assert set() == delivery_queue.renew_leases([held])


def test_a_machine_whose_clock_is_behind_keeps_its_leases(
    delivery_queue: DeliveryQueue, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no clock of its own")
    settings.SIGNALBOX = {"DURABLE": {"LEASE": 300}}
    save(1)
    host_time = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: host_time() - 600 * SECOND_US * 1000)
        patch.setattr(database_clock, "READING_SECONDS", 0.0)
        assert 1 == len(DeliveryQueue("default").acquire(10, 1))
    assert [] == delivery_queue.acquire(10, 1)


def test_the_clock_of_the_database_is_read_again_after_some_seconds(
    delivery_queue: DeliveryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no clock of its own")
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    counts = []
    for seconds in (20, 9, 2):
        now += seconds
        with CaptureQueriesContext(connection) as queries:
            assert abs(delivery_queue.lease_time - now_us()) < 60 * SECOND_US
        counts.append(len(queries))
    assert [1, 0, 1] == counts


# ------------------------------------------------------------------ the log


def test_a_renewal_between_the_result_and_the_end_of_a_lease_logs_nothing(
    delivery_queue: DeliveryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    save(1)
    leases = HeldLeases()
    [one] = delivery_queue.acquire(1, 1)
    leases.add(one)
    delivery_queue.complete(one, SUCCEEDED)
    with caplog.at_level(logging.WARNING):
        leases.renew(delivery_queue)
    assert [] == caplog.messages


def test_a_result_that_is_written_twice_logs_nothing(
    delivery_queue: DeliveryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection may fail after the commit and before its response."""
    save(1)
    leases = HeldLeases()
    [one] = delivery_queue.acquire(1, 1)
    leases.add(one)
    delivery_queue.complete(one, SUCCEEDED)
    with caplog.at_level(logging.WARNING):
        assert (False, False) == leases.settle(delivery_queue, one, SUCCEEDED, gives_up=lambda waited: True)
    assert [] == caplog.messages


def test_a_lease_that_another_worker_took_is_logged(
    delivery_queue: DeliveryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    save(1)
    leases = HeldLeases()
    [one] = delivery_queue.acquire(1, 1)
    leases.add(replace(one))
    Delivery.objects.update(lease_expires_at=1, next_check_at=1)
    assert 1 == len(DeliveryQueue("default").acquire(1, 1))
    with caplog.at_level(logging.WARNING):
        leases.renew(delivery_queue)
        leases.settle(delivery_queue, one, SUCCEEDED, gives_up=lambda waited: True)
    assert [f"The leases of the deliveries [{one.id}] have expired, and another worker runs them."] == caplog.messages[
        :1
    ]
    assert "another worker runs it too" in caplog.messages[1]
