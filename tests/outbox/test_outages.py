"""Test databases that are unavailable or locked for longer than a lease."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connection, transaction

from signalbox.models import Delivery
from signalbox.outbox import single_delivery
from signalbox.outbox.leases import HeldLeases
from signalbox.outbox.queue import SECOND_US, SUCCEEDED, AttemptResult, DeliveryQueue, LeasedDelivery, now_us
from signalbox.outbox.worker import Worker, WorkerOptions
from tests.outbox import receivers
from tests.outbox.proxy import Proxy
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.outbox.conftest import Notes, Process

pytestmark = [pytest.mark.every_database, pytest.mark.usefixtures("empty_tables")]

SLOW = "slow:post_save:shop.Order"
LEASE = 3.0


class Outage:
    """Makes the database unavailable to workers with ``environment``: through a proxy, or by SQLite's lock."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {"SIGNALBOX_TEST_TIMEOUT": "0.1"}
        self.proxy: Proxy | None = None
        if connection.vendor != "sqlite":
            its = connection.settings_dict
            standard = {"postgresql": 5432, "mysql": 3306}[connection.vendor]
            self.proxy = Proxy(its["HOST"] or "127.0.0.1", int(its["PORT"] or standard))
            self.environment = {"SIGNALBOX_TEST_PORT": str(self.proxy.port)}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self.proxy is not None:
            with self.proxy.closed():
                yield
        else:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("UPDATE signalbox_delivery SET error = '' WHERE 1 = 0")  # takes the write lock
                yield


@pytest.fixture
def outage() -> Iterator[Outage]:
    found = Outage()
    yield found
    if found.proxy is not None:
        found.proxy.end()


def wait_until_done(seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while Delivery.objects.exclude(state="done").exists():
        assert time.monotonic() < deadline, list(Delivery.objects.values("state", "attempts", "error"))
        time.sleep(0.05)


@pytest.fixture
def mine() -> Worker:
    """Return a worker in this process that was not started."""
    found = Worker(WorkerOptions(threads=2, databases=("default",)))
    found.delivery_queues = {"default": DeliveryQueue("default")}
    found._queue_rotation = cycle(found.delivery_queues.values())
    return found


def test_a_worker_renews_its_running_deliveries_and_does_not_acquire_them(
    make_durable: Callable[..., None], mine: Worker
) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    assert mine._acquire()
    [run] = mine._prefetched
    Delivery.objects.update(lease_expires_at=1, next_check_at=1)
    mine.leases.last_renewed["default"] = 0.0
    assert not mine._acquire()
    [row] = Delivery.objects.all()
    assert (run.delivery.fencing_token, 1) == (row.fencing_token, row.attempts)
    assert row.lease_expires_at is not None
    assert row.lease_expires_at > now_us()


def test_a_failed_renewal_is_retried_immediately(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    delivery_queue, leases = DeliveryQueue("default"), HeldLeases()
    [delivery] = delivery_queue.acquire(1, 1)
    leases.add(delivery)
    Delivery.objects.update(lease_expires_at=1, next_check_at=1)
    leases.last_renewed["default"] = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(DeliveryQueue, "renew_leases", away)
        leases.renew_due(delivery_queue)
    leases.renew_due(delivery_queue)
    assert Delivery.objects.filter(lease_expires_at__gt=now_us()).exists()


def away(*_: Any) -> None:
    raise OperationalError("database is locked")


def test_the_end_of_an_attempt_does_not_drop_a_later_lease(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    leases = HeldLeases()
    [first] = DeliveryQueue("default").acquire(1, 1)
    second = replace(first, fencing_token=first.fencing_token + 1)
    leases.add(first)
    leases.add(second)
    leases.drop(first)
    assert [second] == list(leases.deliveries.values())


def test_an_attempt_starts_only_within_its_lease_and_restarts_it(
    make_durable: Callable[..., None],
) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    delivery_queue = DeliveryQueue("default")
    [one] = delivery_queue.acquire(1)
    soon = now_us() + 5 * SECOND_US
    Delivery.objects.update(lease_expires_at=soon, next_check_at=soon)
    assert delivery_queue.start_attempt(one)
    [row] = Delivery.objects.all()
    assert row.lease_expires_at == row.next_check_at
    assert row.lease_expires_at is not None
    assert row.lease_expires_at > soon
    Delivery.objects.update(lease_expires_at=now_us() - SECOND_US)
    assert not delivery_queue.start_attempt(one)
    assert 1 == Delivery.objects.get().attempts


def test_a_repeated_message_does_not_run_a_running_delivery(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    [number] = Delivery.objects.values_list("pk", flat=True)
    answers = []

    def meanwhile(claimed: LeasedDelivery, watch: Any) -> AttemptResult:
        Delivery.objects.update(lease_expires_at=1, next_check_at=1)
        answers.append(single_delivery.execute_by_id("default", number))
        return SUCCEEDED

    monkeypatch.setattr(single_delivery, "execute", meanwhile)
    assert single_delivery.execute_by_id("default", number)
    assert [False] == answers
    assert "done" == Delivery.objects.get().state


@pytest.mark.slow
def test_a_receiver_that_outlasts_an_outage_does_not_run_twice_at_the_same_time(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes, outage: Outage
) -> None:
    make_durable(receivers.slow)
    Order.objects.create(number="1")
    more: dict[str, Any] = {**outage.environment, "SIGNALBOX_TEST_SLOW": "8"}
    running = start_worker("--threads", "2", receivers=SLOW, box={"DURABLE": {"LEASE": LEASE}}, **more)
    notes.wait_for("started", 1)
    with outage():
        time.sleep(LEASE + 0.5)
    wait_until_done()
    assert 0 == running.end()
    assert [["started", "1"], ["saved", "1"]] == [[line[0], line[3]] for line in notes.lines()]
    assert 1 == Delivery.objects.get().attempts


@pytest.mark.slow
def test_deliveries_leased_before_a_long_outage_run_after_it(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes, outage: Outage
) -> None:
    make_durable(receivers.slow)
    with transaction.atomic():
        for number in range(6):
            Order.objects.create(number=str(number))
    more: dict[str, Any] = {**outage.environment, "SIGNALBOX_TEST_SLOW": "0.4"}
    running = start_worker("--threads", "2", receivers=SLOW, box={"DURABLE": {"LEASE": LEASE}}, **more)
    notes.wait_for("started", 2)
    with outage():
        time.sleep(LEASE + 0.5)
    wait_until_done()
    assert 0 == running.end()
    assert {str(one.pk) for one in Delivery.objects.all()} == {line[2] for line in notes.lines("saved")}
    attempts = [(line[2], line[3]) for line in notes.lines("started")]
    assert sorted(set(attempts)) == sorted(attempts), "no attempt ran twice"
