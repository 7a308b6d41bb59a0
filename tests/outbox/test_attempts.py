"""Each attempt of a delivery is a row: also the one whose worker was killed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from signalbox.core.attempt import AttemptOutcome
from signalbox.core.tracing import SPAN_BITS
from signalbox.models import Attempt, Delivery, Event, Trace
from signalbox.outbox import manual_changes
from signalbox.outbox.queue import FIRST_POSITION, SECOND_US, SUCCEEDED, DeliveryQueue, now_us
from signalbox.outbox.single_delivery import execute_by_id
from signalbox.outbox.worker_name import get_worker_name
from tests.outbox import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Process

pytestmark = [pytest.mark.usefixtures("empty_tables"), pytest.mark.every_database]


def create(**given: Any) -> Delivery:
    moment = now_us() - SECOND_US
    values: dict[str, Any] = {
        "receiver": "tests.outbox.receivers.unknown",
        "queue": "default",
        "ordering_key": "",
        "trace_id": "e" * 32,
        "span": 1,
        "signal": "post_save",
        "sender": "shop.Order",
        "object_key": "7",
        "database": "default",
        "run_at": moment,
        "next_check_at": moment,
        "created": moment,
        "payload": {},
    }
    delivery: Delivery = Delivery.objects.create(**(values | given))
    return delivery


def expire_lease(delivery: Delivery) -> None:
    moment = now_us() - SECOND_US
    Delivery.objects.filter(pk=delivery.pk).update(lease_expires_at=moment, next_check_at=moment)


def fail(**named: Any) -> None:
    raise ValueError("token=hunter2 was refused")


def save_another(instance: Order, **named: Any) -> None:
    if instance.number == "A":
        Order.objects.create(number="B")


def run_once(delivery: Delivery) -> None:
    Delivery.objects.filter(pk=delivery.pk).update(run_at=0, next_check_at=1)
    assert execute_by_id("default", delivery.pk)


def test_each_attempt_is_a_row_with_its_times_outcome_and_error(make_durable: Callable[..., None]) -> None:
    make_durable(fail, retries=1, backoff=60)
    Order.objects.create(number="A")
    delivery = Delivery.objects.get()
    began = now_us()
    run_once(delivery)
    run_once(delivery)
    first, second = Attempt.objects.filter(delivery_id=delivery.pk)
    assert (1, 2) == (first.number, second.number)
    assert (AttemptOutcome.FAILED, AttemptOutcome.FAILED) == (first.outcome, second.outcome)
    assert began <= first.started <= first.ended <= second.started <= second.ended <= now_us()
    assert "ValueError" in first.error
    assert "hunter2" not in first.error
    assert first.retry_at is not None
    assert first.retry_at > first.ended
    assert second.retry_at is None
    assert get_worker_name() == first.worker
    delivery.refresh_from_db()
    assert ("dead", 2, None) == (delivery.state, delivery.attempts, delivery.attempt_started)


def test_a_success_and_the_events_that_it_caused_are_known(make_durable: Callable[..., None]) -> None:
    make_durable(save_another)
    Order.objects.create(number="A")
    delivery = Delivery.objects.order_by("id")[0]
    run_once(delivery)
    attempt = Attempt.objects.get(delivery_id=delivery.pk)
    assert (AttemptOutcome.SUCCEEDED, "") == (attempt.outcome, attempt.error)
    [trace] = Trace.objects.filter(trace_id=delivery.trace_id, kind="task")
    caused = Event.objects.filter(trace_id=delivery.trace_id, object_key=str(Order.objects.get(number="B").pk)).get()
    assert caused.span >> SPAN_BITS == int(trace.data["first_span"], 16) >> SPAN_BITS
    assert (delivery.pk, attempt.fencing_token) == (trace.data["delivery"], trace.data["fencing_token"])


def test_an_attempt_without_a_call_has_no_row() -> None:
    delivery = create()
    run_once(delivery)  # no code has its receiver
    delivery_queue = DeliveryQueue("default")
    Delivery.objects.update(run_at=0, next_check_at=1)
    delivery_queue.release(delivery_queue.acquire(1, start_count=1))
    delivery.refresh_from_db()
    assert (0, 0, None) == (Attempt.objects.count(), delivery.attempts, delivery.attempt_started)


@pytest.mark.parametrize("by_id", [True, False])
def test_the_next_worker_records_the_attempt_of_an_expired_lease(by_id: bool) -> None:
    delivery = create()
    delivery_queue = DeliveryQueue("default")
    [lost] = delivery_queue.acquire(1, start_count=1)
    expire_lease(delivery)
    found = [delivery_queue.acquire_by_id(delivery.pk)] if by_id else delivery_queue.acquire(1, start_count=1)
    attempt = Attempt.objects.get()
    assert (1, AttemptOutcome.LOST, lost.fencing_token) == (attempt.number, attempt.outcome, attempt.fencing_token)
    assert (lost.started, get_worker_name()) == (attempt.started, attempt.worker)
    assert found[0] is not None
    assert (True, False) == delivery_queue.complete(found[0], SUCCEEDED)
    assert (False, False) == delivery_queue.complete(lost, SUCCEEDED)  # the first worker was only slow
    assert [(1, "lost"), (2, "succeeded")] == list(Attempt.objects.values_list("number", "outcome"))


def test_a_lease_that_expires_before_its_attempt_began_loses_none() -> None:
    delivery = create()
    delivery_queue = DeliveryQueue("default")
    delivery_queue.acquire(1, start_count=0)
    expire_lease(delivery)
    delivery_queue.acquire(1, start_count=1)
    assert 0 == Attempt.objects.count()


def test_a_follower_with_an_expired_lease_has_lost_its_attempt() -> None:
    head, follower, last = (create(partition_id=5, ordering_key="k") for _ in range(3))
    Delivery.objects.filter(pk=follower.pk).update(attempts=1, attempt_started=now_us() - 9, fencing_token=1)
    expire_lease(follower)
    delivery_queue = DeliveryQueue("default")
    runs = delivery_queue.lease_followers(delivery_queue.acquire(1, start_count=1), 10)
    assert {head.pk: [follower.pk, last.pk]} == {key: [one.id for one in run] for key, run in runs.items()}
    assert [(follower.pk, 1, "lost")] == list(Attempt.objects.values_list("delivery_id", "fencing_token", "outcome"))


@pytest.mark.parametrize("action", [manual_changes.retry, manual_changes.discard])
def test_an_operator_who_ends_an_expired_lease_records_its_attempt(action: Callable[..., int]) -> None:
    delivery = create()
    DeliveryQueue("default").acquire(1, start_count=1)
    expire_lease(delivery)
    assert 1 == action([Delivery.objects.get()], "default")
    assert [(1, "lost")] == list(Attempt.objects.values_list("number", "outcome"))
    DeliveryQueue("default").acquire(1, start_count=1)
    assert 1 == Attempt.objects.count()


def purge_finished(state: str) -> int:
    return DeliveryQueue("default").delete_finished(state, 2, FIRST_POSITION, 10)[0]


def test_deleted_deliveries_take_their_attempts_with_them(settings: Any) -> None:
    kept, deleted = create(), create()
    for delivery in (kept, deleted):
        Attempt.objects.create(
            delivery_id=delivery.pk, fencing_token=1, number=1, started=1, ended=2, outcome=AttemptOutcome.FAILED
        )
    Delivery.objects.filter(pk=deleted.pk).update(state="done", finished=1)
    assert 1 == purge_finished("done")
    assert [kept.pk] == list(Attempt.objects.values_list("delivery_id", flat=True))
    Delivery.objects.update(state="dead", finished=1)
    assert 0 == purge_finished("done")
    assert 1 == purge_finished("dead")
    assert 0 == Attempt.objects.count()


def test_without_retention_a_done_delivery_leaves_no_attempt(settings: Any) -> None:
    settings.SIGNALBOX = {"RETENTION": {"deliveries": 0}}
    delivery = create()
    Attempt.objects.create(delivery_id=delivery.pk, fencing_token=0, number=1, started=1, ended=2, outcome="lost")
    delivery_queue = DeliveryQueue("default")
    [leased] = delivery_queue.acquire(1, start_count=1)
    delivery_queue.complete(leased, SUCCEEDED)
    assert (0, 0) == (Delivery.objects.count(), Attempt.objects.count())


def test_the_attempt_of_a_killed_worker_is_lost(
    make_durable: Callable[..., None], start_worker: Callable[..., Process]
) -> None:
    make_durable(receivers.is_killed_once, retries=3)
    options: dict[str, Any] = {
        "receivers": "is_killed_once:post_save:shop.Order:retries=3:backoff=0.01",
        "box": {"DURABLE": {"LEASE": 1}},
    }
    Order.objects.create(number="A")
    first = start_worker(**options)
    pid = first.popen.pid
    first.popen.wait(120)
    start_worker(**options)
    deadline = time.monotonic() + 90
    while not Delivery.objects.filter(state="done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lost, succeeded = Attempt.objects.all()
    assert ("lost", "succeeded") == (lost.outcome, succeeded.outcome)
    assert (f":{pid}", 1, 2) == (lost.worker[lost.worker.rindex(":") :], lost.number, succeeded.number)
    assert lost.started < lost.ended <= succeeded.ended
    assert str(os.getpid()) not in lost.worker
