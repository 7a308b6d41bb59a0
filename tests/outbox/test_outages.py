"""A database that can't be reached, or is locked, for longer than a lease."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connection, transaction

from signalbox.models import Delivery
from signalbox.outbox import heartbeat
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
    """What a worker needs to be told of the way to its database, and how that is closed."""

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
                cursor.execute("UPDATE signalbox_delivery SET error = '' WHERE 1 = 0")  # the write lock
                yield


@pytest.fixture
def outage() -> Iterator[Outage]:
    found = Outage()
    yield found
    if found.proxy is not None:
        found.proxy.close()


def wait_until_done(seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while Delivery.objects.exclude(state="done").exists():
        assert time.monotonic() < deadline, list(Delivery.objects.values("state", "attempts", "error"))
        time.sleep(0.05)


@pytest.fixture
def mine() -> Worker:
    """A worker in this process, which does nothing by itself."""
    found = Worker(WorkerOptions(threads=2, databases=("default",)))
    found.delivery_queues = {"default": DeliveryQueue("default")}
    found._queue_rotation = cycle(found.delivery_queues.values())
    return found


def test_a_worker_does_not_claim_what_it_runs_itself_but_renews_it(
    make_durable: Callable[..., None], mine: Worker
) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    assert mine._acquire()
    [one] = mine._prefetched
    Delivery.objects.update(lease_expires_at=1, next_check_at=1)
    mine._last_renewed["default"] = 0.0
    assert not mine._acquire()
    [row] = Delivery.objects.all()
    assert (one.fencing_token, 1) == (row.fencing_token, row.attempts)
    assert row.lease_expires_at is not None
    assert row.lease_expires_at > now_us()


def test_a_renewal_that_failed_is_tried_again_at_once(
    make_durable: Callable[..., None], mine: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    assert mine._acquire()
    Delivery.objects.update(lease_expires_at=1, next_check_at=1)
    mine._last_renewed["default"] = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(DeliveryQueue, "renew_leases", away)
        mine._renew_leases()
    mine._renew_leases()
    assert Delivery.objects.filter(lease_expires_at__gt=now_us()).exists()


def away(*_: Any) -> None:
    raise OperationalError("database is locked")


def test_an_attempt_that_ends_does_not_let_go_of_a_later_claim(make_durable: Callable[..., None], mine: Worker) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    assert mine._acquire()
    [first] = mine._prefetched
    second = replace(first, fencing_token=first.fencing_token + 1)
    mine._leased["default", first.id] = second
    mine._drop_lease(first)
    assert [second] == list(mine._leased.values())


def test_an_attempt_does_not_begin_when_its_lease_is_over_and_begins_it_anew_when_not(
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
    Delivery.objects.update(lease_expires_at=now_us() - 1)
    assert not delivery_queue.start_attempt(one)
    assert 1 == Delivery.objects.get().attempts


def test_an_engines_message_that_comes_again_does_not_run_what_runs_here(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    [number] = Delivery.objects.values_list("pk", flat=True)
    answers = []

    def meanwhile(claimed: LeasedDelivery, watch: Any) -> AttemptResult:
        Delivery.objects.update(lease_expires_at=1, next_check_at=1)
        answers.append(heartbeat.execute_by_id("default", number))
        return SUCCEEDED

    monkeypatch.setattr(heartbeat, "execute", meanwhile)
    assert heartbeat.execute_by_id("default", number)
    assert [False] == answers
    assert "done" == Delivery.objects.get().state


def test_a_receiver_that_outlasts_an_outage_longer_than_its_lease_is_not_run_beside_itself(
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


def test_what_was_claimed_before_an_outage_longer_than_the_lease_is_run_after_it(
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
