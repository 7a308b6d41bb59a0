from __future__ import annotations

import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.db import Error, OperationalError, connection, connections, transaction

from signalbox.models import Delivery
from signalbox.outbox import manual_changes
from signalbox.outbox.attempt_connections import discard_connection
from signalbox.outbox.parking import MIN_BLOCKED_TO_PARK, PARKED_RECHECK_US
from signalbox.outbox.queue import (
    SECOND_US,
    SUCCEEDED,
    AttemptResult,
    DeliveryQueue,
    Disposition,
    now_us,
)
from tests.outbox import receivers
from tests.outbox.counting import measure_work
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.every_database, pytest.mark.usefixtures("empty_tables")]

SKIPPED = AttemptResult(disposition=Disposition.DEAD, error="x", releases_partition=True)


@pytest.fixture
def copies(make_durable: Callable[..., None]) -> Callable[..., None]:
    """Create deliveries that only differ in the given values."""
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    pattern = Delivery.objects.get()
    pattern.delete()

    def make(number: int, **values: Any) -> None:
        fields = {one.attname: getattr(pattern, one.attname) for one in Delivery._meta.fields if one.name != "id"}
        rows = [Delivery(**{**fields, **values}) for _ in range(number)]
        Delivery.objects.bulk_create(rows, batch_size=1000)

    return make


def two_of_one_key(durable: Callable[..., None]) -> tuple[Delivery, Delivery]:
    durable(receivers.saved, on_dead="skip")
    order = Order.objects.create(number="1")
    order.save()
    first, second = Delivery.objects.order_by("id")
    return first, second


# ------------------------------------------------------------------ order of a key


def test_an_earlier_delivery_that_is_retried_waits_for_the_later_one_that_runs(
    make_durable: Callable[..., None],
) -> None:
    first, second = two_of_one_key(make_durable)
    delivery_queue = DeliveryQueue("default")
    [one] = delivery_queue.acquire(10, 10)
    delivery_queue.complete(one, SKIPPED)
    [other] = delivery_queue.acquire(10, 10)
    assert (first.pk, second.pk) == (one.id, other.id)
    manual_changes.retry(Delivery.objects.filter(pk=first.pk), "default")
    assert [] == delivery_queue.acquire(10, 10)
    assert delivery_queue.acquire_by_id(first.pk) is None
    assert [] == delivery_queue.dispatch(10, now_us() + 60 * SECOND_US)
    delivery_queue.complete(other, SUCCEEDED)
    assert [first.pk] == [found.id for found in delivery_queue.acquire(10, 10)]


def test_an_earlier_delivery_does_not_wait_for_a_later_one_whose_worker_died(make_durable: Callable[..., None]) -> None:
    first, second = two_of_one_key(make_durable)
    delivery_queue = DeliveryQueue("default")
    [one] = delivery_queue.acquire(10, 10)
    delivery_queue.complete(one, SKIPPED)
    delivery_queue.acquire(10, 10)
    manual_changes.retry(Delivery.objects.filter(pk=first.pk), "default")
    Delivery.objects.filter(pk=second.pk).update(lease_expires_at=1, next_check_at=1)
    assert [first.pk] == [found.id for found in delivery_queue.acquire(10, 10)]


@pytest.mark.parametrize("by_id", [False, True])
def test_a_lease_is_released_if_an_earlier_delivery_was_inserted_meanwhile(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch, by_id: bool
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("only one connection holds SQLite's write lock")
    first, second = two_of_one_key(make_durable)
    partition = first.partition_id
    Delivery.objects.filter(pk=first.pk).update(partition_id=None, next_check_at=None, state="dead")
    delivery_queue = DeliveryQueue("default")
    look = delivery_queue._drop_overtaken

    def late(found: Any) -> Any:
        Delivery.objects.filter(pk=first.pk).update(partition_id=partition, next_check_at=0, state="pending")
        return look(found)

    monkeypatch.setattr(delivery_queue, "_drop_overtaken", late)
    assert not (delivery_queue.acquire_by_id(second.pk) if by_id else delivery_queue.acquire(10, 10))
    [row] = Delivery.objects.filter(pk=second.pk)
    assert (0, None) == (row.attempts, row.lease_expires_at)


def test_a_row_that_another_transaction_locks_for_a_moment_is_leased(
    copies: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the message would be lost, and the delivery would wait for the next one."""
    if connection.vendor == "sqlite":
        pytest.skip("only one connection holds SQLite's write lock")
    copies(1, partition_id=None, run_at=1, next_check_at=1)
    number = Delivery.objects.get().pk
    locked, told = threading.Event(), threading.Event()

    def pass_over() -> None:
        with transaction.atomic():
            Delivery.objects.select_for_update().get(pk=number)
            locked.set()
            told.wait(60)
        connection.close()

    thread = threading.Thread(target=pass_over)
    thread.start()
    assert locked.wait(60)
    delivery_queue = DeliveryQueue("default")
    look, found = delivery_queue._try_acquire_by_id, []

    def look_and_go_on(*args: Any) -> Any:
        found.append(look(*args))
        told.set()  # the other transaction ends after the first look
        thread.join(60)
        return found[-1]

    monkeypatch.setattr(delivery_queue, "_try_acquire_by_id", look_and_go_on)
    one = delivery_queue.acquire_by_id(number)
    assert [None, one] == found
    assert one is not None
    assert number == one.id


# ------------------------------------------------------------------ long partitions


def test_deliveries_with_many_before_them_are_parked_until_these_have_left(
    copies: Callable[..., None],
) -> None:
    moment = now_us()
    copies(1500, partition_id=9, run_at=moment, next_check_at=moment)
    delivery_queue = DeliveryQueue("default")
    [head] = delivery_queue.acquire(100, 1)
    delivery_queue.next_parking_check = 0
    assert [] == delivery_queue.acquire(100, 1)
    assert Delivery.objects.filter(next_check_at__lte=now_us()).count() <= MIN_BLOCKED_TO_PARK
    for number in Delivery.objects.order_by("id").values_list("id", flat=True)[1:20]:
        delivery_queue.complete(head, SUCCEEDED)
        [head] = delivery_queue.acquire(100, 1)
        assert number == head.id


@pytest.mark.parametrize("leave", ["done", "deleted", "skipped", "discarded"])
def test_a_delivery_that_leaves_its_partition_makes_the_next_one_due(
    copies: Callable[..., None], settings: Any, leave: str
) -> None:
    settings.SIGNALBOX = {"RETENTION": {"deliveries": 0}} if leave == "deleted" else {}
    moment = now_us()
    copies(3, partition_id=9, run_at=moment, next_check_at=moment)
    head, following, last = Delivery.objects.order_by("id")
    Delivery.objects.exclude(pk=head.pk).update(next_check_at=moment + PARKED_RECHECK_US)
    delivery_queue = DeliveryQueue("default")
    if leave == "discarded":
        manual_changes.discard(Delivery.objects.filter(pk=head.pk), "default")
    else:
        [one] = delivery_queue.acquire(10, 10)
        delivery_queue.complete(one, SKIPPED if leave == "skipped" else SUCCEEDED)
    assert [following.pk] == [one.id for one in delivery_queue.acquire(10, 10)]
    assert moment + PARKED_RECHECK_US == Delivery.objects.get(pk=last.pk).next_check_at


def test_a_later_dead_letter_does_not_become_due(copies: Callable[..., None]) -> None:
    moment = now_us()
    copies(2, partition_id=9, run_at=moment, next_check_at=moment)
    head, dead = Delivery.objects.order_by("id")
    Delivery.objects.filter(pk=dead.pk).update(state="dead", next_check_at=None)
    DeliveryQueue("default").unblock_next(9, head.pk)
    assert Delivery.objects.get(pk=dead.pk).next_check_at is None


def test_a_delivery_is_not_parked_while_the_one_before_it_leaves(copies: Callable[..., None]) -> None:
    """The first delivery leaves the partition while the later ones are being parked."""
    if connection.vendor == "sqlite":
        pytest.skip("one writer at a time")
    moment = now_us()
    copies(30, partition_id=9, run_at=moment, next_check_at=moment)
    delivery_queue = DeliveryQueue("default")
    delivery_queue.next_parking_check = moment + 60 * SECOND_US
    [head] = delivery_queue.acquire(1, 1)
    blocked = {head.id: list(Delivery.objects.filter(id__gt=head.id).values_list("id", flat=True))}

    def leave() -> None:
        delivery_queue.complete(head, SUCCEEDED)
        connections.close_all()

    leaving = threading.Thread(target=leave)
    with transaction.atomic():
        delivery_queue.park(blocked, now_us())
        leaving.start()
        time.sleep(0.5)  # it waits for the lock of its row
    leaving.join()
    assert [head.id + 1] == [one.id for one in delivery_queue.acquire(10, 1)]
    assert 0 == delivery_queue.park(blocked, now_us()), "a delivery that has left its partition parks no other"


def test_a_hot_key_slows_neither_other_keys_nor_itself(copies: Callable[..., None], settings: Any) -> None:
    settings.SIGNALBOX = {"DURABLE": {"LEASE": 3600}}  # a busy machine needs many seconds
    number, many = 20, 5_000

    def cost(behind: int) -> int:
        """Return the work to run some deliveries of other keys beside a key with ``number``, and some of that key."""
        Delivery.objects.all().delete()
        moment = now_us()
        delivery_queue = DeliveryQueue("default")
        copies(1, partition_id=9, run_at=moment, next_check_at=moment)
        [head] = delivery_queue.acquire(1, 1)
        copies(behind, partition_id=9, run_at=moment, next_check_at=moment)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE signalbox_delivery")  # the statistics then show one very long partition
        for _ in range(20):
            assert [] == delivery_queue.acquire(1, 1)
            delivery_queue.next_parking_check = 0
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                # Otherwise index entries of parked rows stay while a transaction of any other database lasts.
                cursor.execute("VACUUM signalbox_delivery")
        # They are due before those of the key. Of equal times, a database may acquire any.
        others: dict[str, Any] = {
            "partition_id": None,
            "run_at": moment - SECOND_US,
            "next_check_at": moment - SECOND_US,
        }

        def run() -> None:
            nonlocal head
            delivery_queue.next_parking_check = 0  # check once: a busy machine needs many seconds
            for _ in range(number):
                [one] = delivery_queue.acquire(1, 1)
                assert one.partition_id is None
                delivery_queue.complete(one, SUCCEEDED)
                delivery_queue.next_parking_check = now_us() + 600 * SECOND_US
            for _ in range(number):
                delivery_queue.complete(head, SUCCEEDED)
                [head] = delivery_queue.acquire(1, 1)

        copies(number, **others)
        run()  # PostgreSQL reads the index entries of the parked rows once
        copies(number, **others)
        return measure_work(run)

    alone, crowded = cost(2 * number + 1), cost(many)
    # Reading all of them at each acquisition would read them 40 times.
    assert crowded < alone + 8 * many, (crowded, alone)


# ------------------------------------------------------------------ unavailable databases


def test_a_failure_while_parking_loses_no_dispatched_delivery(
    copies: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadlock(*_: Any) -> None:
        raise OperationalError("deadlock")

    moment = now_us()
    copies(2, partition_id=None, run_at=moment, next_check_at=moment)
    delivery_queue = DeliveryQueue("default")
    monkeypatch.setattr(delivery_queue, "find_blocked", deadlock)
    assert 2 == len(delivery_queue.dispatch(10, now_us() + 60 * SECOND_US))
    delivery_queue.next_parking_check = 0
    assert [] == delivery_queue.dispatch(10, now_us() + 60 * SECOND_US)


def test_a_locked_file_is_an_error_of_django(copies: Callable[..., None]) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("tests only SQLite")
    moment = now_us()
    copies(1, partition_id=None, run_at=moment, next_check_at=moment)
    delivery_queue = DeliveryQueue("default")
    [one] = delivery_queue.acquire(1, 1)
    discard_connection(connections["default"])
    its = connections["default"].settings_dict
    before = dict(its["OPTIONS"])
    # Django leaves a connection open whose first command finds the file locked.
    its["OPTIONS"].update(timeout=0.1, init_command="")
    lock = sqlite3.connect(its["NAME"], isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Error):
            delivery_queue.complete(one, SUCCEEDED)
        lock.execute("ROLLBACK")
        assert (True, False) == delivery_queue.complete(one, SUCCEEDED)
    finally:
        its["OPTIONS"].update(before)
        lock.close()
        discard_connection(connections["default"])
