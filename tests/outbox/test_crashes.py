"""Kill workers at random times: each committed event is delivered at least once, in order, and no other."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest

from signalbox.models import Delivery
from tests.outbox import receivers
from tests.outbox.ledger import CallLog, Ledger, assert_consistent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes, Process
    from tests.outbox.ledger import ReceiverCall

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.usefixtures("empty_tables")]

RECEIVER = "saves_with_times:post_save:shop.Order:retries=1000:backoff=0.01"
KEYS = 24
LEASE = 4
"""Seconds. A worker that does not run for longer than that, as on a busy machine, counts as dead although it lives."""
BEHIND = 30
"""Maximum number of pending deliveries. A longer queue would only take longer to process."""


@pytest.fixture
def book(make_durable: Callable[..., None]) -> Ledger:
    make_durable(receivers.saves_with_times, retries=1000)
    return Ledger(KEYS)


@pytest.fixture
def runs(notes: Notes) -> CallLog:
    return CallLog(notes.path)


def run_that_began(book: Ledger, runs: CallLog, process: Process) -> ReceiverCall:
    """Save orders until the receiver was called some more times; return the last call. Errors show the log."""
    runs.read_new()
    more = random.randint(1, 8)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if len(book) - runs.finished_count < BEHIND:
            book.write()
        else:
            time.sleep(0.002)
        new = runs.read_new()
        more -= len(new)
        if new and more <= 0:
            return new[-1]
    raise AssertionError(f"nothing is run\n{process.log.read_text()[-3000:]}")


def wait_until_all_is_done(last: Process, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while number := Delivery.objects.exclude(state="done").count():
        assert time.monotonic() < deadline, f"{number} are left\n{last.log.read_text()[-3000:]}"
        time.sleep(0.1)


@pytest.mark.every_database
def test_killed_workers_lose_no_delivery_and_keep_the_order(
    book: Ledger, runs: CallLog, start_worker: Callable[..., Process], crash_count: int
) -> None:
    def begin() -> Process:
        return start_worker("--threads", "2", receivers=RECEIVER, box={"DURABLE": {"LEASE": LEASE}})

    deaths: dict[int, int] = {}
    running = [begin(), begin()]
    for number in range(crash_count):
        began = run_that_began(book, runs, running[0])
        victim = next(one for one in running if one.popen.pid == began.pid)
        if number % 4 == 3:  # it may have just been started
            victim = random.choice(running)
        time.sleep(random.uniform(0, 0.02))
        deaths[victim.popen.pid] = time.monotonic_ns()
        victim.kill()
        running[running.index(victim)] = begin()
    wait_until_all_is_done(running[0], 120)
    for one in running:
        one.kill()
    logger.info(assert_consistent(book, runs, deaths))


class Broker:
    """A queue in a broker for one test."""

    def __init__(self, name: str, url: str) -> None:
        celery = pytest.importorskip("celery")
        self.name = name
        self.url = url
        self.queue = f"signalbox_{os.getpid()}_{random.getrandbits(32)}"
        self.app = celery.Celery(broker=url)
        self.app.conf.broker_transport_options = {"global_keyprefix": f"{self.queue}:"}
        self.lost = 0

    def lose(self, seconds: float) -> None:
        """Empty the queue as soon as it has a message."""
        deadline = time.monotonic() + seconds
        with self.app.connection_for_write() as connection:
            while time.monotonic() < deadline:
                if lost := connection.default_channel.queue_purge(self.queue):
                    self.lost += lost
                    return
                time.sleep(0.005)

    def remove(self) -> None:
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(self.queue)
        if self.name == "redis":
            import redis

            with redis.Redis.from_url(self.url) as client:
                for key in client.scan_iter(f"{self.queue}:*"):
                    client.delete(key)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        # Brokers and databases are independent, so each database is tested with one broker.
        pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.every_database]),
    ],
)
def test_killed_celery_workers_and_relays_and_an_emptied_broker_lose_no_delivery(
    book: Ledger,
    runs: CallLog,
    start_process: Callable[..., Process],
    start_worker: Callable[..., Process],
    crash_count: int,
    name: str,
    request: pytest.FixtureRequest,
) -> None:
    broker = Broker(name, request.getfixturevalue(f"{name}_url"))
    names = map(str, range(1_000_000))
    more: dict[str, Any] = {
        "receivers": RECEIVER,
        "box": {"DURABLE": {"DISPATCHER": "celery", "LEASE": LEASE, "REDISPATCH": 1}},
        "SIGNALBOX_TEST_BROKER": broker.url,
        "SIGNALBOX_TEST_QUEUE": broker.queue,
    }

    def begin() -> Process:
        command = ("-m", "celery", "-A", "tests.outbox.celery_app", "worker", "-c", "2", "-l", "WARNING")
        return start_process(
            *command, "--without-gossip", "--without-mingle", "-n", f"{broker.queue}-{next(names)}@%h", **more
        )

    # A Celery worker takes seconds to start, and replaces its child processes immediately.
    victims = cycle(["child", "relay", "child", "worker"])
    deaths: dict[int, int] = {}
    relays = 0
    relay = start_worker(**more)
    running = [begin()]
    for number in range(crash_count):
        began = run_that_began(book, runs, relay)
        if len(running) < 2:  # one works while the other starts
            running.append(begin())
        if number % 3 == 1:
            broker.lose(2)
            began = run_that_began(book, runs, relay)
        victim = next(victims)
        time.sleep(random.uniform(0, 0.01))
        moment = time.monotonic_ns()
        if victim == "relay":
            relay.kill()
            relay = start_worker(**more)
            relays += 1
        elif victim == "worker":
            process = next(one for one in running if one.popen.pid == began.process_group)
            process.kill()
            running[running.index(process)] = begin()
            deaths[began.process_group] = moment
        else:
            with suppress(ProcessLookupError):
                os.kill(began.pid, signal.SIGKILL)
            deaths[began.pid] = moment
    wait_until_all_is_done(relay, 120)
    for one in (relay, *running):
        one.kill()
    broker.remove()
    assert broker.lost, "the broker has lost messages"
    logger.info("%s; %d relays killed, %d messages lost", assert_consistent(book, runs, deaths), relays, broker.lost)
