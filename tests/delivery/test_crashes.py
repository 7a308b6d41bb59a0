"""Workers are killed at any moment: every committed event is delivered at least once, in order, and no other."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from django.db import transaction

from signalbox.models import Delivery
from tests.delivery import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.delivery.conftest import Notes, Process

pytestmark = [pytest.mark.every_database, pytest.mark.crash, pytest.mark.slow, pytest.mark.usefixtures("clean")]

RECEIVER = "saved:post_save:shop.Order:retries=1000:backoff=0.01"
BOX = {"LEASE": 0.7, "REDISPATCH": 1}
KEYS = 8


def change(orders: list[Order], number: int) -> None:
    """Save every order, in transactions of three of which some are rolled back."""
    for start in range(0, len(orders), 3):
        try:
            with transaction.atomic():
                for order in orders[start : start + 3]:
                    order.note = f"{number}"
                    order.save()
                if random.random() < 0.3:
                    raise RuntimeError
        except RuntimeError:
            continue


def prepared(durable: Callable[..., None]) -> list[Order]:
    durable(receivers.saved, retries=1000)
    orders = [Order.objects.create(number=str(number)) for number in range(KEYS)]
    for number in range(3):
        change(orders, number)
    return orders


def left() -> int:
    return Delivery.objects.exclude(state="done").count()


def check(notes: Notes, deaths: int) -> None:
    """Compare what was done with what was committed."""
    wanted = {(one.object_key, str(one.pk)) for one in Delivery.objects.all()}
    done = [(line[1], line[2]) for line in notes.lines("saved")]
    assert wanted == set(done), "every delivery of a committed event was run, and no other"
    assert not left()
    seen: dict[str, int] = {}
    for key, number in done:
        assert int(number) >= seen.get(key, 0), "in the order of its key"
        seen[key] = int(number)
    attempts = Counter((line[2], line[3]) for line in notes.lines("saved"))
    assert {1} == set(attempts.values()), "no attempt ran twice"
    again = sum(count - 1 for count in Counter(done).values())
    assert again <= deaths, f"{again} ran again, though {deaths} runs alone can have died between effect and finish"


def test_killed_workers_lose_nothing_and_keep_the_order(
    durable: Callable[..., None], worker: Callable[..., Process], notes: Notes, crashes: int
) -> None:
    orders = prepared(durable)
    threads = 2
    for number in range(crashes):
        before = len(notes.lines("saved"))
        running = worker("--threads", str(threads), receivers=RECEIVER, box=BOX)
        change(orders, number)
        deadline = time.monotonic() + random.choice([0.5, 3])
        while len(notes.lines("saved")) == before and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.05))
        running.kill()
    last = worker("--threads", "4", receivers=RECEIVER, box=BOX)
    deadline = time.monotonic() + 60
    while left():
        assert time.monotonic() < deadline, last.log.read_text()[-2000:]
        time.sleep(0.1)
    last.end()
    check(notes, crashes * threads)


@pytest.mark.parametrize(
    "broker", [pytest.param("redis", marks=pytest.mark.redis), pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]
)
def test_killed_celery_workers_and_an_emptied_broker_lose_nothing(
    durable: Callable[..., None],
    start: Callable[..., Process],
    worker: Callable[..., Process],
    notes: Notes,
    crashes: int,
    broker: str,
    request: pytest.FixtureRequest,
) -> None:
    celery = pytest.importorskip("celery")
    url = request.getfixturevalue(f"{broker}_url")
    queue = f"signalbox_{os.getpid()}_{random.getrandbits(32)}"
    more: dict[str, Any] = {
        "receivers": RECEIVER,
        "box": {**BOX, "ENGINE": "celery"},
        "SIGNALBOX_TEST_BROKER": url,
        "SIGNALBOX_TEST_QUEUE": queue,
    }
    arguments = ["-m", "celery", "-A", "tests.delivery.celeryapp", "worker", "-c", "2", "-l", "WARNING"]
    arguments += ["--without-gossip", "--without-mingle", "-n", f"{queue}@%h"]
    app = celery.Celery(broker=url)
    orders = prepared(durable)
    relay = worker(**more)
    crashes = max(2, crashes // 4)  # a worker of Celery's takes seconds to start
    for number in range(crashes):
        before = len(notes.lines("saved"))
        running = start(*arguments, **more)
        change(orders, number)
        deadline = time.monotonic() + 15
        while len(notes.lines("saved")) == before and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        running.kill()
        if number % 2:
            with app.connection_for_write() as connection:  # the broker loses what it holds
                connection.default_channel.queue_purge(queue)
    last = start(*arguments, **more)
    deadline = time.monotonic() + 90
    while left():
        assert time.monotonic() < deadline, last.log.read_text()[-3000:]
        time.sleep(0.1)
    last.end()
    assert 0 == relay.end()
    with app.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)
    check(notes, crashes * 2)
