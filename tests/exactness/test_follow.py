from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection, connections, transaction

from signalbox.models import Event
from signalbox.queries import tail as module
from signalbox.queries.filters import EventFilter
from signalbox.queries.tail import EventFollower, follow
from tests.rows import create_event

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

ORDERS = EventFilter(sender=("shop.Order",))


class Writer(threading.Thread):
    """Inserts events in a separate transaction, which stays open until `end()` is called."""

    def __init__(self, *labels: str) -> None:
        super().__init__()
        self.labels = labels
        self.ids: list[int] = []
        self.inserted = threading.Event()
        self.told = threading.Event()
        self.commits = True

    def run(self) -> None:
        try:
            with transaction.atomic():
                self.ids = [create_event(object_label=label).id for label in self.labels]
                self.inserted.set()
                self.told.wait(60)
                if not self.commits:
                    transaction.set_rollback(True)
        finally:
            self.inserted.set()
            connection.close()

    def end(self, *, commits: bool = True) -> None:
        self.commits = commits
        self.told.set()
        self.join(60)
        assert not self.is_alive()


@contextmanager
def writing(*labels: str) -> Iterator[Writer]:
    writer = Writer(*labels)
    writer.start()
    assert writer.inserted.wait(60)
    assert len(writer.ids) == len(labels)
    try:
        yield writer
    finally:
        writer.end()


def labels(events: list[Event]) -> list[str]:
    return [found.object_label for found in events]


def soon(follower: EventFollower) -> list[Event]:
    """Poll until an event is found. A gap is queried at intervals that grow with its age."""
    until = time.monotonic() + 60
    while not (found := follower.poll()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def overlapping() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time: transactions that write don't overlap")


def test_an_event_with_a_smaller_id_that_commits_later_is_found() -> None:
    overlapping()
    follower = EventFollower(ORDERS)
    with writing("slow") as slow:
        with writing("quick") as quick:
            assert slow.ids < quick.ids
            quick.end()
        assert ["quick"] == labels(soon(follower))
        assert [] == labels(follower.poll())
        slow.end()
        assert ["slow"] == labels(soon(follower))
    assert [] == labels(follower.poll())


def test_an_event_whose_transaction_was_open_at_the_start_is_found() -> None:
    overlapping()
    create_event(object_label="before")
    with writing("slow") as slow:
        create_event(object_label="overtook it before the start")
        follower = EventFollower(ORDERS)
        assert [] == labels(follower.poll())
        slow.end()
        assert ["slow"] == labels(soon(follower))


def test_an_event_with_the_first_id_that_commits_late_is_found() -> None:
    overlapping()
    with writing("first of all") as slow:
        create_event(object_label="second")
        follower = EventFollower(ORDERS)
        slow.end()
        assert ["first of all"] == labels(soon(follower))


def test_the_first_lines_and_the_following_ones_have_each_event_once() -> None:
    overlapping()
    create_event(object_label="one")
    with writing("late") as slow:
        create_event(object_label="two")
        stop = threading.Event()
        follower = EventFollower(ORDERS)
        slow.end()  # visible between the first two queries of the follower
        assert ["one", "two"] == labels(follower.get_newest(10))
        assert ["late"] == labels(soon(follower))
        stop.set()
        assert ["one", "late", "two"] == labels(list(follow(ORDERS, lines=10, stop=stop)))


def test_late_ids_in_the_middle_of_a_transaction_are_all_found() -> None:
    overlapping()
    follower = EventFollower(ORDERS)
    with writing("a", "b") as first, writing("c", "d") as second:
        create_event(object_label="e")
        assert ["e"] == labels(follower.poll())
        second.end()
        assert ["c", "d"] == labels(soon(follower))
        first.end()
        assert ["a", "b"] == labels(soon(follower))


def test_more_late_events_than_one_query_returns_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    overlapping()
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    stop = threading.Event()
    following = follow(ORDERS, stop=stop)
    with writing(*"abcdefgh") as slow:
        create_event(object_label="i")
        assert ["i"] == labels([next(following)])
        slow.end()
        stop.set()
        assert list("abcdefgh") == labels(list(following))


def test_a_filter_applies_to_late_events() -> None:
    overlapping()
    follower = EventFollower(EventFilter.parse({"sender": "shop.Customer"}))
    with writing("of an order") as slow:
        create_event(sender="shop.Customer", object_label="of a customer")
        assert ["of a customer"] == labels(follower.poll())
        slow.end()
        assert [] == labels(follower.poll())


@pytest.mark.postgres
def test_a_gap_is_closed_when_all_open_transactions_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour has passed on the clock of the follower."""
    hours = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: hours[0])
    follower = EventFollower(ORDERS)
    with writing("slow") as slow:
        create_event(object_label="quick")
        follower.poll()
        for hour in range(1, 5):
            hours[0] = hour * 3600.0
            follower.poll()
        assert slow.ids[0] in follower.gaps
        slow.end()
        hours[0] += 3600
        assert ["slow"] == labels(soon(follower))
    deadline = time.monotonic() + 300
    while len(follower.gaps) and time.monotonic() < deadline:  # other databases of the server have transactions, too
        hours[0] += 3600
        follower.poll()
        time.sleep(0.1)
    assert 0 == len(follower.gaps)


@pytest.mark.postgres
def test_a_rolled_back_transaction_leaves_no_gap() -> None:
    follower = EventFollower(ORDERS)
    with writing("undone") as undone:
        create_event(object_label="kept")
        undone.end(commits=False)
    assert ["kept"] == labels(soon(follower))
    deadline = time.monotonic() + 300
    while len(follower.gaps) and time.monotonic() < deadline:
        assert [] == labels(follower.poll())
        time.sleep(0.1)
    assert 0 == len(follower.gaps)


@pytest.mark.mariadb
def test_a_gap_is_abandoned_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: seconds[0])
    follower = EventFollower(ORDERS)
    with writing("undone") as undone:
        create_event(object_label="kept")
        undone.end(commits=False)
    follower.poll()
    seconds[0] = 3599
    follower.poll()
    assert undone.ids[0] in follower.gaps
    seconds[0] = 3599 + 3600 / 8
    follower.poll()
    assert 0 == len(follower.gaps)


def test_each_event_of_many_writers_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads write 40 transactions each, every fourth of them rolled back."""
    kept: set[int] = set()
    lock = threading.Lock()

    def write(number: int) -> None:
        try:
            for turn in range(40):
                with transaction.atomic():
                    ids = [create_event().id for _ in range(1 + (turn + number) % 3)]
                    if turn % 4 == 3:
                        transaction.set_rollback(True)
                        continue
                with lock:
                    kept.update(ids)
        finally:
            connections.close_all()

    stop = threading.Event()
    following = follow(ORDERS, stop=stop)
    seen: list[int] = []
    reader_failed: list[BaseException] = []

    def read() -> None:
        try:
            for found in following:
                seen.append(found.id)  # noqa: PERF401 - another thread looks at the list
        except BaseException as error:  # noqa: BLE001 - shown below
            reader_failed.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    reader = threading.Thread(target=read)
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join(120)
    deadline = time.monotonic() + 60
    while not kept <= set(seen) and reader.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)  # an old gap is queried rarely, and maybe not by the last poll
    stop.set()
    reader.join(60)
    assert [] == reader_failed
    assert sorted(set(seen)) == sorted(seen)
    assert kept == set(seen)
