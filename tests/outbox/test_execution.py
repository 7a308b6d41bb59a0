from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection, connections

from signalbox.models import Delivery, to_datetime
from signalbox.outbox.execution import execute
from signalbox.outbox.queue import AttemptResult, DeliveryQueue, Disposition
from signalbox.outbox.worker import Worker, WorkerOptions
from tests.outbox import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes

pytestmark = pytest.mark.usefixtures("empty_tables")


def attempted() -> AttemptResult:
    Order.objects.create(number="1")
    [one] = DeliveryQueue("default").acquire(1, 1)
    return execute(one)


@pytest.mark.parametrize(("name", "error"), [("exits", "SystemExit: 3"), ("cancelled", "CancelledError")])
def test_any_exception_of_a_receiver_is_a_failed_attempt(
    make_durable: Callable[..., None], notes: Notes, name: str, error: str
) -> None:
    make_durable(getattr(receivers, name), retries=0)
    result = attempted()
    assert Disposition.DEAD == result.disposition
    assert error in result.error


def test_a_failure_is_logged_without_secrets(
    make_durable: Callable[..., None], notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    make_durable(receivers.never_works)
    attempted()
    assert "never_works failed (attempt 1)" in caplog.text
    assert "ValueError: password=[redacted] is wrong" in caplog.text
    assert "receivers.py" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.every_database
@pytest.mark.parametrize("told", [1e13, float("nan"), None])
def test_the_error_of_an_attempt_is_written_even_if_its_backoff_fails(
    make_durable: Callable[..., None], notes: Notes, told: Any
) -> None:
    make_durable(receivers.exits, backoff=lambda attempt: told)
    Order.objects.create(number="1")
    delivery_queue = DeliveryQueue("default")
    [one] = delivery_queue.acquire(1, 1)
    delivery_queue.complete(one, execute(one))
    found = Delivery.objects.get()
    assert ("pending", 1, "SystemExit: 3") == (found.state, found.attempts, found.error)
    assert to_datetime(found.run_at) > found.timestamp, "a date, for the page"


def begins(sender: Any, **kwargs: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE shop_order SET note = 'not committed'")


def closes(sender: Any, **kwargs: Any) -> None:
    connection.connection.close()


@pytest.mark.every_database
@pytest.mark.parametrize("receiver", [begins, closes])
def test_a_connection_that_a_receiver_leaves_broken_blocks_no_other_delivery(
    make_durable: Callable[..., None], receiver: Any
) -> None:
    make_durable(receiver)
    Order.objects.create(number="1")
    assert 0 == Worker(WorkerOptions(burst=True, databases=("default",))).run()
    assert "done" == Delivery.objects.get().state
    if connection.vendor != "mysql":  # its driver does not report the transaction, which is committed with the result
        assert "" == Order.objects.get().note


@pytest.mark.every_database
def test_attempts_without_a_result_count(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.kills_process, retries=1)
    Order.objects.create(number="1")
    delivery_queue = DeliveryQueue("default")
    for _ in range(2):
        assert delivery_queue.acquire(1, 1)
        Delivery.objects.update(lease_expires_at=1, next_check_at=1)  # its worker is killed
    [one] = delivery_queue.acquire(1, 1)
    assert (True, False) == delivery_queue.complete(one, execute(one))
    found = Delivery.objects.get()
    assert ("dead", 2) == (found.state, found.attempts)
    assert "The worker died in each attempt" in found.error


def test_ctrl_c_only_ends_the_main_thread(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.interrupted, retries=0)
    with pytest.raises(KeyboardInterrupt):
        attempted()
    found: list[AttemptResult] = []

    def elsewhere() -> None:
        found.append(attempted())
        connections.close_all()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [Disposition.DEAD] == [result.disposition for result in found]
