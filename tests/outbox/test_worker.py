from __future__ import annotations

import datetime as dt
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction

import signalbox
from signalbox.models import Delivery, Event
from signalbox.models import Worker as WorkerRow
from signalbox.outbox import worker as worker_module
from signalbox.outbox.queue import SECOND_US, SUCCEEDED, DeliveryQueue, now_us
from signalbox.outbox.worker import Worker, WorkerOptions
from tests.outbox import receivers
from tests.outbox.counting import measure_work
from tests.rows import create_event
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes, Process

pytestmark = pytest.mark.usefixtures("empty_tables")

# Tests without this mark test processes, signals and receivers, which do not depend on the database.
every_database = pytest.mark.every_database

SAVED = "saved:post_save:shop.Order"
SLOW = "slow:post_save:shop.Order"


def orders(number: int) -> list[Order]:
    with transaction.atomic():
        return [Order.objects.create(number=str(place)) for place in range(number)]


def undo(number: str) -> None:
    with transaction.atomic():
        Order.objects.create(number=number)
        raise RuntimeError


def wait_until(check: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, list(Delivery.objects.values("state", "attempts", "error")[:5])
        time.sleep(0.05)
    return found


def get_registered(number: int = 1) -> set[str]:
    """Wait until ``number`` worker processes are registered and handle signals. Return their ids."""
    found: set[str] = wait_until(lambda: ids if len(ids := set(_get_worker_ids())) == number else None)
    return found


def _get_worker_ids() -> list[str]:
    return list(WorkerRow.objects.values_list("id", flat=True))


def wait_until_replaced(before: set[str]) -> None:
    """Wait until as many other worker processes are registered."""
    wait_until(lambda: len(now := set(_get_worker_ids())) == len(before) and not now & before)


@every_database
def test_a_delivery_is_written_with_its_change_and_run_by_a_worker(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saved)
    with transaction.atomic():
        kept = Order.objects.create(number="1")
        with pytest.raises(RuntimeError):
            undo("2")
    assert 0 == start_worker("--burst", receivers=SAVED).wait()
    [delivery] = Delivery.objects.all()
    assert [["saved", str(kept.pk), str(delivery.pk), "1"]] == notes.lines()
    assert ("done", 1, None, None) == (delivery.state, delivery.attempts, delivery.next_check_at, delivery.partition_id)


@every_database
def test_a_failed_delivery_is_retried_before_the_later_ones_of_its_key(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.fails_once, backoff=0.3)
    first, other = orders(2)
    first.save()
    running = start_worker("--threads", "2", receivers="fails_once:post_save:shop.Order:backoff=0.3")
    notes.wait_for("saved", 3)
    assert 0 == running.end()
    mine = [line[2] for line in notes.lines("saved") if line[1] == str(first.pk)]
    assert sorted(mine, key=int) == mine
    assert 6 == len(notes.lines("attempted"))
    assert other.pk


@every_database
def test_a_delivery_without_attempts_left_is_a_dead_letter_that_blocks_its_key(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.never_works, retries=1, backoff=0.1)
    [order] = orders(1)
    order.save()
    running = start_worker(receivers="never_works:post_save:shop.Order:retries=1:backoff=0.1")
    wait_until(lambda: Delivery.objects.filter(state="dead").exists())
    time.sleep(0.5)
    assert 0 == running.end()
    dead, blocked = Delivery.objects.order_by("id")
    assert ("dead", 2, "ValueError: password=[redacted] is wrong") == (dead.state, dead.attempts, dead.error)
    assert (True, False) == ("in never_works" in dead.traceback, "hunter2" in dead.traceback)
    assert ("pending", 0) == (blocked.state, blocked.attempts)


@every_database
def test_a_dead_letter_that_may_be_skipped_does_not_block_the_next_delivery(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.never_works, retries=0, on_dead="skip")
    [order] = orders(1)
    order.save()
    assert 0 == start_worker("--burst", receivers="never_works:post_save:shop.Order:retries=0:on_dead=skip").wait()
    assert ["dead", "dead"] == [one.state for one in Delivery.objects.all()]


@every_database
@pytest.mark.slow
def test_a_receiver_that_kills_its_process_costs_other_deliveries_no_attempt(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.kills_process, sender="shop.Tag", retries=1, backoff=0.1)
    make_durable(receivers.saved)
    others = orders(1)
    for name in ("steam", "coal"):
        Tag.objects.create(name=name)
        others += orders(2)
    box = {"DURABLE": {"LEASE": 0.6}}
    for _ in range(20):
        running = start_worker(
            "--burst", receivers=f"kills_process:post_save:shop.Tag:retries=1:backoff=0.1 {SAVED}", box=box
        )
        running.popen.wait()
        if not Delivery.objects.filter(receiver__endswith="kills_process", state="pending").exists():
            break
        time.sleep(0.7)
    killed = Delivery.objects.filter(receiver__endswith="kills_process")
    assert {"dead"} == {one.state for one in killed}
    assert [2, 2] == [one.attempts for one in killed]
    assert 4 == len(notes.lines("attempted"))
    assert "The worker died" in killed[0].error
    assert {1} == {one.attempts for one in Delivery.objects.filter(receiver__endswith="saved")}
    assert len(others) == len(notes.lines("saved"))


@every_database
def test_deliveries_of_one_key_run_one_at_a_time_and_in_order_while_others_run(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    found = orders(4)
    for _ in range(2):
        for order in found:
            order.save()
    slow = "slow:post_save:shop.Order"
    both = [
        start_worker("--threads", "2", "--burst", receivers=slow, SIGNALBOX_TEST_SLOW="0.05"),
        start_worker("--threads", "2", "--burst", receivers=slow, SIGNALBOX_TEST_SLOW="0.05"),
    ]
    for one in both:
        one.wait()
    start_worker("--burst", receivers=slow, SIGNALBOX_TEST_SLOW="0").wait()
    for order in found:
        mine = [(line[0], int(line[2])) for line in notes.lines() if line[1] == str(order.pk)]
        assert 6 == len(mine)
        assert [word for word, _ in mine] == ["started", "saved"] * 3
        assert sorted(number for _, number in mine) == [number for _, number in mine]


@every_database
def test_a_worker_finishes_running_deliveries_and_releases_others_on_sigterm(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    orders(3)
    running = start_worker(receivers="slow:post_save:shop.Order", SIGNALBOX_TEST_SLOW="3")
    notes.wait_for("started", 1)
    assert 0 == running.end()
    assert 1 == len(notes.lines("saved"))
    states = [(one.state, one.attempts, one.lease_expires_at) for one in Delivery.objects.order_by("id")]
    assert [("done", 1, None), ("pending", 0, None), ("pending", 0, None)] == states


@pytest.mark.slow
def test_a_worker_reloads_its_code_on_sighup(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saved)
    orders(1)
    running = start_worker(receivers=SAVED)
    notes.wait_for("saved", 1)
    before = get_registered()
    running.popen.send_signal(signal.SIGHUP)
    wait_until_replaced(before)
    [row] = WorkerRow.objects.all()
    assert running.popen.pid == row.pid
    orders(1)
    notes.wait_for("saved", 2)
    assert 0 == running.end()


def test_a_receiver_is_interrupted_at_its_timeout(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.spins, retries=0, timeout=0.3)
    make_durable(receivers.saved)
    orders(1)
    running = start_worker(receivers=f"spins:post_save:shop.Order:retries=0:timeout=0.3 {SAVED}")
    dead = wait_until(lambda: Delivery.objects.filter(state="dead").first())
    assert "TimeLimitExceeded: it took longer than its timeout of 0.3 seconds" == dead.error
    notes.wait_for("saved", 1)
    assert 0 == running.end()


@pytest.mark.slow
def test_a_receiver_that_can_not_be_interrupted_only_ends_its_worker(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    names = ("stuck", "stuck_in_a_pool", "blocks_event_loop", "blocks_pool_thread", "swallows_cancellation")
    for name in names:
        make_durable(getattr(receivers, name), retries=0, timeout=0.2)
    make_durable(receivers.slow)
    orders(1)
    stuck = " ".join(f"{name}:post_save:shop.Order:retries=0:timeout=0.2" for name in names)
    running = start_worker(
        "--threads",
        str(len(names) + 1),
        receivers=f"{stuck} {SLOW}",
        SIGNALBOX_TEST_SLOW="12",
        SIGNALBOX_TEST_STUCK="300",
    )
    assert 75 == running.wait(150)
    assert 1 == len(notes.lines("saved"))
    for name in names:
        dead = Delivery.objects.get(receiver=f"tests.outbox.receivers.{name}")
        assert ("dead", "TimeLimitExceeded: it took longer than 0.2 seconds, and did not end") == (
            dead.state,
            dead.error,
        )
    assert "done" == Delivery.objects.get(receiver__endswith="slow").state


@every_database
def test_done_deliveries_are_stored_for_the_time_of_the_setting(
    make_durable: Callable[..., None], settings: Any
) -> None:
    make_durable(receivers.saved)
    delivery_queue = DeliveryQueue("default")
    for days, left in ((7, 1), (0, 1)):
        settings.SIGNALBOX = {"RETENTION": {"deliveries": days}}
        orders(1)
        [taken] = delivery_queue.acquire(1, 1)
        delivery_queue.complete(taken, SUCCEEDED)
        assert left == Delivery.objects.count()
    settings.SIGNALBOX = {"RETENTION": {"deliveries": 1}}
    assert {"deliveries": 0} == signalbox.purge(using="default")["default"]
    Delivery.objects.update(finished=now_us() - 25 * 3600 * SECOND_US)
    assert {"deliveries": 1} == signalbox.purge(using="default")["default"]


@every_database
def test_a_worker_purges_while_it_runs(start_worker: Callable[..., Process]) -> None:
    create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=9), signal="request_started", object_key="old")
    running = start_worker(receivers=SAVED, box={"RETENTION": {"events": 5}})
    wait_until(lambda: not Event.objects.filter(object_key="old").exists())
    assert 0 == running.end()


def test_an_asynchronous_receiver_is_run(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.asynchronous)
    orders(2)
    assert 0 == start_worker("--burst", receivers="asynchronous:post_save:shop.Order").wait()
    assert 2 == len(notes.lines("saved"))


def test_a_delivery_to_an_unknown_receiver_is_deferred_with_the_reason(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saved)
    orders(1)
    Delivery.objects.update(receiver="tests.outbox.gone.receiver")
    assert 0 == start_worker("--burst", receivers=SAVED).wait()
    [one] = Delivery.objects.all()
    assert ("pending", 0, None) == (one.state, one.attempts, one.lease_expires_at)
    assert "tests.outbox.gone can't be imported: ModuleNotFoundError" in one.error
    assert one.run_at > now_us()


@every_database
def test_a_deleted_object_is_rebuilt_from_the_recorded_values(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saves_with_number)
    [order] = orders(1)
    key = order.pk
    Order.objects.filter(pk=key).update(number="changed")
    Order.objects.all().delete()
    assert 0 == start_worker("--burst", receivers="saves_with_number:post_save:shop.Order").wait()
    assert [["number", str(key), "0"]] == [line[:3] for line in notes.lines()]


@every_database
def test_a_worker_runs_only_the_deliveries_of_its_queues(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saved, queue="mail")
    orders(1)
    assert 0 == start_worker("--burst", "--queue", "other", receivers=SAVED).wait()
    assert [] == notes.lines()
    assert 0 == start_worker("--burst", "--queue", "other", "--queue", "mail", receivers=SAVED).wait()
    assert 1 == len(notes.lines("saved"))


@pytest.mark.slow
@every_database
def test_future_retries_and_a_blocked_key_do_not_slow_due_deliveries(
    make_durable: Callable[..., None],
) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    delivery_queue = DeliveryQueue("default")
    [taken] = delivery_queue.acquire(10, 1)
    assert (True, False) == delivery_queue.complete(taken, SUCCEEDED)
    pattern = Delivery.objects.get()
    moment = now_us()

    def copies(number: int, **values: Any) -> None:
        fields = {
            field.attname: getattr(pattern, field.attname) for field in Delivery._meta.fields if field.name != "id"
        }
        rows = [Delivery(**{**fields, "state": "pending", "finished": None, **values}) for _ in range(number)]
        Delivery.objects.bulk_create(rows, batch_size=1000)

    copies(10_000, run_at=moment + 10**10, next_check_at=moment + 10**10)
    copies(1, partition_id=7, state="dead", next_check_at=None, finished=moment)
    copies(3_000, partition_id=7, run_at=moment, next_check_at=moment)
    for _ in range(4):  # the first checks park the blocked partition
        assert [] == delivery_queue.acquire(10, 1)
        delivery_queue.next_parking_check = 0
    assert not Delivery.objects.filter(next_check_at__lte=moment).exists()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Otherwise index entries of parked rows stay while a transaction of any other database lasts.
            cursor.execute("VACUUM signalbox_delivery")

    def cost() -> int:
        """Return the work of the database to run 20 due deliveries."""

        def run() -> None:
            delivery_queue.next_parking_check = 0  # check once: a busy machine needs many seconds
            for _ in range(20):
                [one] = delivery_queue.acquire(1, 1)
                delivery_queue.complete(one, SUCCEEDED)
                delivery_queue.next_parking_check = now_us() + 600 * SECOND_US

        copies(40, run_at=moment, next_check_at=moment)
        run()  # PostgreSQL reads the index entries of the parked rows once
        return measure_work(run)

    crowded = cost()
    Delivery.objects.all().delete()
    alone = cost()
    assert crowded < alone + 13_000, "not one pass over the backlog for all of them"
    assert order.pk


@every_database
def test_a_worker_with_an_expired_lease_can_not_complete_the_delivery(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved)
    orders(1)
    delivery_queue = DeliveryQueue("default")
    [mine] = delivery_queue.acquire(1, 1)
    assert [] == delivery_queue.acquire(1, 1)
    Delivery.objects.update(lease_expires_at=1, next_check_at=1)
    [theirs] = delivery_queue.acquire(1, 1)
    assert {mine.id} == delivery_queue.renew_leases([mine])
    assert (False, False) == delivery_queue.complete(mine, SUCCEEDED)
    assert set() == delivery_queue.renew_leases([theirs])
    assert (True, False) == delivery_queue.complete(theirs, SUCCEEDED)


@pytest.mark.postgres
def test_a_worker_starts_on_a_notification_of_postgresql(
    make_durable: Callable[..., None], notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIN_POLL_SECONDS", "MAX_POLL_SECONDS", "MAX_POLL_LISTENING_SECONDS"):
        monkeypatch.setattr(worker_module, name, 600.0)
    make_durable(receivers.saved)
    orders(1)
    mine = Worker(WorkerOptions(databases=("default",)))
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(mine.run()))
    thread.start()
    try:
        notes.wait_for("saved", 1)
        time.sleep(1)  # it waits for the next poll now
        orders(1)
        notes.wait_for("saved", 2)
    finally:
        mine.stop()
        thread.join(90)
    assert [0] == statuses


@pytest.mark.slow
@every_database
def test_a_worker_continues_after_its_database_closed_its_connections(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saved)
    orders(1)
    running = start_worker(receivers=SAVED)
    notes.wait_for("saved", 1)
    if connection.vendor == "sqlite":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("UPDATE signalbox_delivery SET error = '' WHERE 1 = 0")  # takes the write lock
            time.sleep(1)
    else:
        _close_the_others()
    orders(2)
    notes.wait_for("saved", 3)
    assert 0 == running.end()


def _close_the_others() -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            end = "SELECT pg_terminate_backend({})"
        else:
            others = "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
            end = "KILL {}"
        cursor.execute(others)
        for (number,) in cursor.fetchall():
            with suppress(DatabaseError):  # MariaDB's, for a connection that has ended by itself
                cursor.execute(end.format(number))
    if connection.settings_dict["OPTIONS"].get("pool"):  # the idle connections of this process's pool are closed too
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]


@pytest.mark.slow
@every_database
def test_several_processes_are_supervised_and_replaced(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.kills_process, retries=0, on_dead="skip")
    make_durable(receivers.saved)
    orders(1)
    both = f"kills_process:post_save:shop.Order:retries=0:on_dead=skip {SAVED}"
    running = start_worker("--processes", "2", receivers=both, box={"DURABLE": {"LEASE": 0.5}})
    notes.wait_for("saved", 1)
    wait_until(lambda: Delivery.objects.filter(state="dead").exists())
    orders(1)
    notes.wait_for("saved", 2)
    assert 0 == running.end()


@pytest.mark.slow
@every_database
def test_a_supervisor_waits_for_running_deliveries_on_sigterm(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    orders(1)
    running = start_worker("--processes", "2", receivers=SLOW, SIGNALBOX_TEST_SLOW="2")
    notes.wait_for("started", 1)
    assert 0 == running.end()
    assert ["started", "saved"] == [line[0] for line in notes.lines()]
    assert "done" == Delivery.objects.get().state


@pytest.mark.slow
@every_database
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_burst_with_threads_runs_all_deliveries_of_one_key_in_order(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes, processes: str
) -> None:
    make_durable(receivers.slow)
    [order] = orders(1)
    for _ in range(24):
        order.save()
    running = start_worker(
        "--burst", "--threads", "2", "--processes", processes, receivers=SLOW, SIGNALBOX_TEST_SLOW="0.03"
    )
    assert 0 == running.wait()
    numbers = [int(line[2]) for line in notes.lines("saved")]
    assert list(Delivery.objects.order_by("id").values_list("id", flat=True)) == numbers
    assert {"done"} == set(Delivery.objects.values_list("state", flat=True))
    assert "expired" not in running.log.read_text()


@pytest.mark.slow
@every_database
def test_a_burst_waits_for_the_head_of_a_key_that_another_worker_runs(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    [order] = orders(1)
    other = DeliveryQueue("default")
    [head] = other.acquire(1, 1)
    order.save()
    burst = start_worker("--burst", "--threads", "2", receivers=SLOW, SIGNALBOX_TEST_SLOW="0")
    get_registered()
    time.sleep(1)
    assert burst.popen.poll() is None
    other.complete(head, SUCCEEDED)
    assert 0 == burst.wait()
    assert 1 == len(notes.lines("saved"))


@every_database
def test_a_failure_in_a_run_of_one_key_ends_the_run(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.fails_once, backoff=600)
    [order] = orders(1)
    for _ in range(4):
        order.save()
    first = Delivery.objects.order_by("id").first()
    assert first is not None
    Delivery.objects.filter(pk=first.pk).update(attempts=1)  # its next attempt succeeds, those of the others fail
    running = start_worker("--burst", "--threads", "2", receivers="fails_once:post_save:shop.Order:backoff=600")
    assert 0 == running.wait()
    assert 2 == len(notes.lines("attempted"))
    rows = Delivery.objects.order_by("id").values_list("state", "attempts", "lease_expires_at")
    assert [("done", 2, None), ("pending", 1, None), *[("pending", 0, None)] * 3] == list(rows)


@pytest.mark.slow
@every_database
def test_a_worker_releases_the_rest_of_a_run_on_sigterm(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    [order] = orders(1)
    for _ in range(4):
        order.save()
    running = start_worker("--threads", "2", receivers=SLOW, SIGNALBOX_TEST_SLOW="3")
    notes.wait_for("started", 1)
    assert 0 == running.end()
    rows = list(Delivery.objects.order_by("id").values_list("state", "attempts", "lease_expires_at"))
    done = len(notes.lines("saved"))
    assert [*[("done", 1, None)] * done, *[("pending", 0, None)] * (5 - done)] == rows
    assert done < 3


@pytest.mark.slow
@every_database
def test_deliveries_that_wait_for_a_busy_worker_are_released_to_an_idle_one(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    orders(3)
    busy = start_worker(receivers=SLOW, SIGNALBOX_TEST_SLOW="300")
    notes.wait_for("started", 1)
    # Each lease increments the token. The leases are not counted: they end after one second, maybe before this query.
    assert [1, 1, 1] == list(Delivery.objects.values_list("fencing_token", flat=True)), "it leases more than it runs"
    idle = start_worker(receivers=SLOW, SIGNALBOX_TEST_SLOW="0")
    notes.wait_for("saved", 2)
    busy.kill()
    assert 0 == idle.end()
    assert ["pending", "done", "done"] == [one.state for one in Delivery.objects.order_by("id")]


@pytest.mark.slow
def test_a_burst_runs_deliveries_that_are_being_released(
    make_durable: Callable[..., None], notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_TEST_SLOW", "1.4")
    make_durable(receivers.slow)
    orders(2)
    release = DeliveryQueue.release

    def takes_its_time(self: DeliveryQueue, *args: Any, **named: Any) -> None:
        time.sleep(0.8)
        release(self, *args, **named)

    monkeypatch.setattr(DeliveryQueue, "release", takes_its_time)
    assert 0 == Worker(WorkerOptions(burst=True, databases=("default",))).run()
    assert 2 == len(notes.lines("saved"))


RELEASED = threading.Event()


def waits_until_released(sender: Any, **kwargs: Any) -> None:
    assert RELEASED.wait(90)


@pytest.mark.slow
def test_a_release_that_fails_once_is_repeated(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the deliveries would wait until their leases expire."""
    make_durable(waits_until_released)
    orders(2)
    RELEASED.clear()
    release = DeliveryQueue.release
    errors = [OperationalError("Deadlock found when trying to get lock")]

    def fails_once(self: DeliveryQueue, *args: Any, **named: Any) -> None:
        if errors:
            raise errors.pop()
        release(self, *args, **named)
        RELEASED.set()

    monkeypatch.setattr(DeliveryQueue, "release", fails_once)
    assert 0 == Worker(WorkerOptions(burst=True, databases=("default",))).run()
    assert ([], 2) == (errors, Delivery.objects.filter(state="done").count())


@pytest.mark.slow
def test_a_supervisor_reloads_its_code_on_sighup(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saved)
    orders(1)
    running = start_worker("--processes", "2", receivers=SAVED)
    notes.wait_for("saved", 1)
    before = get_registered(2)
    running.popen.send_signal(signal.SIGHUP)
    wait_until_replaced(before)
    orders(1)
    notes.wait_for("saved", 2)
    assert 0 == running.end()


@pytest.mark.slow
@every_database
def test_a_burst_replaces_a_process_that_was_killed_and_runs_its_deliveries(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.kills_process, sender="shop.Tag", retries=0, on_dead="skip")
    tag = Tag.objects.create(name="steam")
    tag.save()
    burst = start_worker(
        *("--burst", "--processes", "2"),
        receivers="kills_process:post_save:shop.Tag:retries=0:on_dead=skip",
        box={"DURABLE": {"LEASE": 0.5}},
    )
    assert 0 == burst.wait()
    assert ["dead", "dead"] == [one.state for one in Delivery.objects.all()]


STARTING = """
import os, signal
import django

django.setup()
from signalbox.outbox.supervisor import Supervisor
from signalbox.outbox.worker import WorkerOptions

supervisor = Supervisor(4, WorkerOptions(databases=("default",)))
start, parent = supervisor._start_worker, os.getpid()


def start_and_signal():
    start()
    if os.getpid() == parent and len(supervisor.children) == 2:
        os.kill(parent, signal.SIGTERM)


supervisor._start_worker = start_and_signal
status = supervisor.run()
assert not supervisor.children
raise SystemExit(status)
"""


def test_a_supervisor_that_starts_workers_stops_on_sigterm(
    start_process: Callable[..., Process],
) -> None:
    assert 0 == start_process("-c", STARTING).wait()


FAILING = """
import os
import django

django.setup()
from signalbox.outbox.supervisor import Supervisor
from signalbox.outbox.worker import Worker, WorkerOptions


def fail(self):
    raise RuntimeError("no memory")


Worker.run = fail
supervisor = Supervisor(1, WorkerOptions(databases=("default",)))
supervisor._start_worker()
os.waitpid(next(iter(supervisor.children)), 0)
"""


def test_the_exception_of_a_worker_process_is_logged(start_process: Callable[..., Process]) -> None:
    process = start_process("-c", FAILING)
    assert 0 == process.wait()
    output = process.log.read_text()
    assert "A worker process ended with an exception." in output
    assert "RuntimeError: no memory" in output


@pytest.mark.slow
def test_workers_end_if_their_supervisor_ends(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    orders(1)
    running = start_worker("--processes", "2", receivers=SLOW, SIGNALBOX_TEST_SLOW="2")
    notes.wait_for("started", 1)
    get_registered(2)
    os.kill(running.popen.pid, signal.SIGKILL)
    running.popen.wait()
    notes.wait_for("saved", 1)
    wait_until(lambda: not _get_worker_ids())
    orders(1)
    time.sleep(1.5)
    assert ["started", "saved"] == [line[0] for line in notes.lines()]


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_ends_immediately_on_the_second_sigterm(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes, processes: str
) -> None:
    make_durable(receivers.slow)
    orders(1)
    running = start_worker("--processes", processes, receivers=SLOW, SIGNALBOX_TEST_SLOW="60")
    notes.wait_for("started", 1)
    running.popen.send_signal(signal.SIGTERM)
    time.sleep(3)  # a process that had no time yet would notice both as one
    assert running.popen.poll() is None
    assert (75 if processes == "1" else 0) == running.end(seconds=40)
    assert ["started"] == [line[0] for line in notes.lines()]


@pytest.mark.slow
def test_a_worker_waits_no_longer_than_its_grace_on_sigterm(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    orders(2)
    running = start_worker("--grace", "0.5", receivers=SLOW, SIGNALBOX_TEST_SLOW="60")
    notes.wait_for("started", 1)
    assert 75 == running.end(seconds=40)
    begun, waiting = Delivery.objects.order_by("id")
    assert begun.lease_expires_at is not None
    assert (None, 0) == (waiting.lease_expires_at, waiting.attempts)


@pytest.mark.slow
@every_database
def test_once_runs_one_delivery_however_many_threads_there_are(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.slow)
    orders(4)
    assert 0 == start_worker("--once", "--threads", "3", receivers=SLOW, SIGNALBOX_TEST_SLOW="0.5").wait()
    assert 1 == len(notes.lines("saved"))
    # Of equal times, a database may acquire any.
    states = sorted(Delivery.objects.values_list("state", "attempts", "lease_expires_at"))
    assert [("done", 1, None), *[("pending", 0, None)] * 3] == states


@pytest.mark.parametrize("name", ["exits", "cancelled"])
def test_a_receiver_that_calls_exit_fails_and_its_worker_continues(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes, name: str
) -> None:
    make_durable(getattr(receivers, name), retries=0)
    make_durable(receivers.saved)
    orders(2)
    assert 0 == start_worker("--burst", receivers=f"{name}:post_save:shop.Order:retries=0 {SAVED}").wait()
    assert 2 == len(notes.lines("saved"))
    assert ["dead", "dead"] == [one.state for one in Delivery.objects.filter(receiver__endswith=name)]


def test_a_worker_with_a_failed_thread_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(DeliveryQueue, "acquire", fail)
    assert 1 == Worker(WorkerOptions(databases=("default",))).run()


@pytest.mark.slow
@every_database
def test_leases_of_a_thread_that_ends_are_released(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_durable(receivers.saved)
    orders(1)
    mine = Worker(WorkerOptions(databases=("default",)))

    def acquires_and_ends() -> None:
        mine.stop()
        time.sleep(0.6)  # until the main thread has released the deliveries
        assert mine._acquire()

    monkeypatch.setattr(mine, "_get_next", acquires_and_ends)
    assert 0 == mine.run()
    [one] = Delivery.objects.all()
    assert (None, 0) == (one.lease_expires_at, one.attempts)


def test_a_signal_handler_takes_no_lock() -> None:
    mine = Worker(WorkerOptions())
    events: list[Any] = [mine.stopping, mine._work_available]

    def interrupted() -> None:
        with events[0]._cond, events[1]._cond:
            mine._on_terminate()
            mine._on_hangup()

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
