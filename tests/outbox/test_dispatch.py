from __future__ import annotations

import logging
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection, connections, transaction

from signalbox.models import Delivery
from signalbox.outbox.dispatch import relay as relaying
from signalbox.outbox.dispatch.relay import Relay
from signalbox.outbox.queue import SECOND_US, SUCCEEDED, DeliveryQueue, now_us
from signalbox.outbox.worker import WorkerOptions
from tests.outbox import receivers
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes, Process

pytestmark = pytest.mark.usefixtures("empty_tables")

every_database = pytest.mark.every_database


def orders(number: int) -> list[Order]:
    with transaction.atomic():
        return [Order.objects.create(number=str(place)) for place in range(number)]


class Published:
    """A dispatcher that only stores the published ids."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.failures_left = 0

    def __call__(self, alias: str, deliveries: Any) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise ConnectionError("the broker is away")
        self.ids += [number for number, _ in deliveries]


@pytest.fixture
def relay() -> tuple[Relay, Published]:
    pytest.importorskip("celery")
    found = Relay(WorkerOptions(burst=True, databases=("default",)), "celery")
    found.publish = published = Published()
    return found, published


@every_database
def test_the_relay_marks_published_deliveries_and_repeats_lost_messages(
    make_durable: Callable[..., None], relay: tuple[Relay, Published], settings: Any
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "celery", "REDISPATCH": 600}}
    make_durable(receivers.saved)
    orders(3)
    one, published = relay
    before = now_us()
    one.run()
    after = now_us()
    one.run()
    assert 3 == len(published.ids), "a message that is on its way is not sent again"
    for again_at in Delivery.objects.values_list("next_check_at", flat=True):
        assert again_at is not None
        assert before <= again_at - 600 * SECOND_US <= after
    Delivery.objects.update(next_check_at=now_us())  # the time is over
    one.run()
    assert 6 == len(published.ids)
    assert 3 == len(set(published.ids))


@pytest.mark.slow
@every_database
def test_pending_retries_and_full_queues_do_not_stop_the_relay(
    make_durable: Callable[..., None],
    relay: tuple[Relay, Published],
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"REDISPATCH": 1200}}
    monkeypatch.setattr(relaying, "MAX_IN_FLIGHT", 50)
    monkeypatch.setattr(relaying, "DISPATCH_BATCH_SIZE", 10)
    make_durable(receivers.saved)
    orders(1)
    pattern = Delivery.objects.get()
    fields = {one.attname: getattr(pattern, one.attname) for one in Delivery._meta.fields if one.name != "id"}

    def copies(number: int, **values: Any) -> None:
        rows = [Delivery(**{**fields, **values}) for _ in range(number)]
        Delivery.objects.bulk_create(rows, batch_size=1000)

    soon = now_us() + 600 * SECOND_US
    copies(10_000, partition_id=None, run_at=soon, next_check_at=soon, attempts=1)
    copies(1, partition_id=7, run_at=soon, next_check_at=soon, attempts=1)
    copies(200, partition_id=7)
    copies(100, partition_id=None, queue="mail")
    one, published = relay
    one.run()
    assert pattern.pk in published.ids
    assert 40 < len(published.ids) - 1 <= 50, "those of the full queue"
    copies(60, partition_id=None)
    one.run()
    assert 80 < len(published.ids) <= 100, "each queue has a maximum number of messages"
    again = Relay(WorkerOptions(burst=True, databases=("default",), queues=("other",)), "celery")
    again.publish = other = Published()
    copies(3, partition_id=None, queue="other")
    again.run()
    assert 3 == len(other.ids)


@every_database
def test_the_relay_publishes_only_the_first_delivery_of_a_key(
    make_durable: Callable[..., None], relay: tuple[Relay, Published], notes: Notes
) -> None:
    make_durable(receivers.saved)
    [order] = orders(1)
    order.save()
    one, published = relay
    one.run()
    first, second = Delivery.objects.order_by("id").values_list("id", flat=True)
    assert [first] == published.ids
    delivery_queue = DeliveryQueue("default")
    assert delivery_queue.acquire_by_id(second) is None, "a message that comes too early finds the row not to be run"
    taken = delivery_queue.acquire_by_id(first)
    assert taken is not None
    assert delivery_queue.acquire_by_id(first) is None, "nor does one that comes twice"
    delivery_queue.complete(taken, SUCCEEDED)
    assert delivery_queue.acquire_by_id(first) is None
    one.run()
    assert [first, second] == published.ids


@every_database
def test_deliveries_that_could_not_be_published_are_not_marked(
    make_durable: Callable[..., None], relay: tuple[Relay, Published], caplog: pytest.LogCaptureFixture
) -> None:
    make_durable(receivers.saved)
    orders(2)
    one, published = relay
    published.failures_left = 1
    with caplog.at_level(logging.WARNING, "signalbox"):
        one.run()
    assert 1 == caplog.text.count("could not be published and are tried again")
    assert 2 == len(published.ids)


BACKENDS = [
    ("django_tasks_db.DatabaseBackend", "django_tasks_db", ("db_worker", "--interval", "0.1")),
    ("django_ox.backend.OxBackend", "django_ox", ("ox_worker",)),
]


@every_database
@pytest.mark.slow
@pytest.mark.parametrize(("backend", "app", "command"), BACKENDS, ids=[app for _, app, _ in BACKENDS])
def test_djangos_tasks_run_deliveries(
    make_durable: Callable[..., None],
    start_process: Callable[..., Process],
    start_worker: Callable[..., Process],
    notes: Notes,
    backend: str,
    app: str,
    command: tuple[str, ...],
) -> None:
    if find_spec(app) is None:
        pytest.skip(f"{app} is not installed")
    make_durable(receivers.fails_once, backoff=0.2)
    [order, *_] = orders(3)
    order.save()
    more: dict[str, Any] = {
        "receivers": "fails_once:post_save:shop.Order:backoff=0.2",
        "box": {"DURABLE": {"DISPATCHER": "tasks", "REDISPATCH": 5}},
        "SIGNALBOX_TEST_TASKS": f"{backend} {app}",
    }
    assert 0 == start_process("-m", "django", "migrate", "-v", "0", **more).wait()
    theirs = start_process("-m", "django", *command, **more)
    relay = start_worker(**more)
    notes.wait_for("saved", 4)
    deadline = time.monotonic() + 60
    while Delivery.objects.exclude(state="done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 0 == relay.end()
    theirs.end()
    mine = [int(line[2]) for line in notes.lines("saved") if line[1] == str(order.pk)]
    assert sorted(mine) == mine
    _drop(app)


def _drop(app: str) -> None:
    """Drop the tables of an app that is not installed in this process, before its tables are flushed."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith((app, "django_tasks_db", "django_ox", "ox_")):
                cascade = " CASCADE" if connection.vendor == "postgresql" else ""
                cursor.execute(f"DROP TABLE {connection.ops.quote_name(table)}{cascade}")
        cursor.execute(
            "DELETE FROM django_migrations WHERE app IN ('django_tasks_db', 'django_ox', 'django_tasks_database')"
        )


REDIS = pytest.param("redis", marks=pytest.mark.redis)
RABBITMQ = pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)


# Brokers and databases are independent, so each database is tested with one broker.
@pytest.mark.parametrize(
    "broker", [REDIS, pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, every_database])], indirect=True
)
def test_celery_runs_deliveries(
    make_durable: Callable[..., None],
    start_celery_worker: Callable[..., Process],
    start_worker: Callable[..., Process],
    notes: Notes,
    broker: dict[str, Any],
) -> None:
    make_durable(receivers.fails_once, backoff=0.2)
    found = orders(3)
    found[0].save()
    more = {"receivers": "fails_once:post_save:shop.Order:backoff=0.2", **broker}
    theirs = start_celery_worker(**more)
    relay = start_worker(**more)
    notes.wait_for("saved", 4, 180)  # a lost message is sent again after 60 s
    assert 0 == relay.end()
    theirs.end()


@pytest.mark.parametrize("broker", [REDIS, RABBITMQ], indirect=True)
def test_a_celery_worker_finishes_its_delivery_on_sigterm(
    make_durable: Callable[..., None],
    start_celery_worker: Callable[..., Process],
    start_worker: Callable[..., Process],
    notes: Notes,
    broker: dict[str, Any],
) -> None:
    make_durable(receivers.slow)
    orders(1)
    more = {"receivers": "slow:post_save:shop.Order", "SIGNALBOX_TEST_SLOW": "3", **broker}
    theirs = start_celery_worker(**more)
    relay = start_worker(**more)
    notes.wait_for("started", 1, 180)
    theirs.end()
    assert 0 == relay.end()
    assert ["started", "saved"] == [line[0] for line in notes.lines()]
    [one] = Delivery.objects.all()
    assert ("done", 1) == (one.state, one.attempts)


@every_database
def test_the_immediate_dispatcher_runs_deliveries_after_the_commit(
    make_durable: Callable[..., None], notes: Notes, settings: Any
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "immediate"}}
    make_durable(receivers.saved)
    with transaction.atomic():
        order = Order.objects.create(number="1")
        assert [] == notes.lines()
    assert 1 == len(notes.lines("saved"))
    order.save()
    assert 2 == len(notes.lines("saved"))
    try:
        with transaction.atomic():
            order.save()
            raise RuntimeError
    except RuntimeError:
        pass
    assert 2 == len(notes.lines("saved"))
    assert not Delivery.objects.exclude(state="done").exists()


@every_database
@pytest.mark.django_db(databases=["default", "other"], transaction=True)
@pytest.mark.parametrize("name", ["saved", "never_works", "asynchronously_slow"])
def test_the_immediate_dispatcher_leaves_transactions_of_other_databases_open(
    make_durable: Callable[..., None], notes: Notes, settings: Any, name: str
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "immediate"}}
    make_durable(getattr(receivers, name), retries=0, timeout=0.2 if name == "asynchronously_slow" else 60)
    with transaction.atomic(using="other"):
        Tag.objects.using("other").create(name="before")
        Order.objects.create(number="1")
        assert connections["other"].in_atomic_block
        Tag.objects.using("other").create(name="after")
    assert {"before", "after"} == set(Tag.objects.using("other").values_list("name", flat=True))
    assert ("done" if name == "saved" else "dead") == Delivery.objects.get().state


def test_a_backoff_that_raises_does_not_stop_the_immediate_dispatcher(
    make_durable: Callable[..., None], notes: Notes, settings: Any
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "immediate"}}
    make_durable(receivers.never_works, backoff=lambda attempt: 1 / 0)
    make_durable(receivers.saved)
    Order.objects.create(number="1")
    assert 1 == len(notes.lines("saved"))
    failed = Delivery.objects.get(receiver__endswith="never_works")
    assert ("pending", 1, None) == (failed.state, failed.attempts, failed.lease_expires_at)
    assert "ValueError" in failed.error


@every_database
def test_a_failure_with_the_immediate_dispatcher_is_stored_and_not_raised(
    make_durable: Callable[..., None], notes: Notes, settings: Any
) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "immediate"}}
    make_durable(receivers.never_works, retries=0)
    Order.objects.create(number="1")
    assert "dead" == Delivery.objects.get().state
