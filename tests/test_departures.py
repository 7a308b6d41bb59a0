"""How events of no transaction leave, with the traces that end."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from django.db import connections, transaction
from django.dispatch import Signal

import signalbox
from signalbox import context, departures, store
from signalbox.models import Event, Trace
from tests.shop.models import Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.django_db(transaction=True)

here = connections["default"]
bell = Signal()


@pytest.fixture(autouse=True)
def ready() -> Iterator[None]:
    """A connection, nothing that waits, and a signal of no transaction."""
    signalbox.track(bell, "tests.bell")
    here.ensure_connection()
    departures.forget()
    context.process().pending.clear()
    yield
    departures.forget()


def rung() -> list[str]:
    return sorted(event.data["args"]["name"] for event in Event.objects.filter(signal="tests.bell"))


def ring(name: str) -> None:
    bell.send(None, name=name)


def test_an_event_outside_of_every_trace_leaves_at_once() -> None:
    ring("a")
    assert not departures.waiting()
    assert ["a"] == rung()


def test_a_traces_events_leave_together_when_it_ends() -> None:
    with signalbox.trace("work") as trace:
        ring("a")
        ring("b")
        assert 2 == len(trace.pending)
        assert [] == rung()
    assert ["a", "b"] == rung()
    assert [2] == [row.events for row in Trace.objects.filter(trace_id=trace.id)]


def test_a_traces_row_is_written_once() -> None:
    with signalbox.trace("work") as trace:
        ring("a")
    context.enter(trace)
    ring("late")
    context.leave(trace)
    assert ["a", "late"] == rung()
    assert 1 == Trace.objects.filter(trace_id=trace.id).count()


def test_a_trace_in_which_nothing_happened_has_no_row() -> None:
    with signalbox.trace("idle") as trace:
        pass
    assert 0 == Trace.objects.filter(trace_id=trace.id).count()


def test_an_event_in_a_transaction_leaves_after_it_whatever_becomes_of_it() -> None:
    with transaction.atomic():
        ring("a")
        assert departures.waiting()
        transaction.set_rollback(True)
    assert not departures.waiting()
    assert ["a"] == rung()


def test_an_event_in_a_loop_leaves_at_the_next_occasion() -> None:
    async def work() -> None:
        await bell.asend(None, name="a")
        assert departures.waiting()

    asyncio.run(work())
    ring("b")
    assert ["a", "b"] == rung()


def test_a_command_that_stays_lets_its_events_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with signalbox.trace("serve", kind="command"):
        ring("a")
        assert [] == rung()
        later = context.now() + departures.PATIENCE
        monkeypatch.setattr(context, "now", lambda: later)
        ring("b")
        assert ["a", "b"] == rung()


@pytest.fixture
def away() -> Iterator[None]:
    """The database refuses every event."""
    with here.cursor() as cursor:
        cursor.execute("ALTER TABLE signalbox_event RENAME TO signalbox_event_away")
    yield
    with here.cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE name = 'signalbox_event_away'")
        if cursor.fetchone():
            cursor.execute("ALTER TABLE signalbox_event_away RENAME TO signalbox_event")


@pytest.mark.usefixtures("away")
def test_events_wait_for_a_database_that_is_away() -> None:
    for name in "abc":
        ring(name)
    assert departures.waiting()
    assert not here.connection.in_transaction
    with here.cursor() as cursor:
        cursor.execute("ALTER TABLE signalbox_event_away RENAME TO signalbox_event")
    departures.drain()
    assert ["a", "b", "c"] == rung()


@pytest.mark.usefixtures("away")
def test_the_oldest_are_dropped_when_too_many_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(departures, "MOST_WAITING", 20)
    before = store.tally.dropped
    with caplog.at_level(logging.ERROR, "signalbox"):
        for number in range(30):
            ring(f"{number:02}")
    waiting = 30 - (store.tally.dropped - before)
    assert 18 <= waiting <= 20
    assert "waited too long" in caplog.text
    with here.cursor() as cursor:
        cursor.execute("ALTER TABLE signalbox_event_away RENAME TO signalbox_event")
    departures.drain()
    assert [f"{number:02}" for number in range(30)][-waiting:] == rung()


def test_the_oldest_are_dropped_where_there_are_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "MOST_WAITING", 20)
    monkeypatch.setattr(store, "_ready", {("default", str(here.settings_dict["NAME"])): sys.float_info.max})
    before = store.tally.dropped
    for number in range(30):
        ring(str(number))
    assert 10 <= store.tally.dropped - before <= 12


def test_a_commit_that_fails_leaves_no_transaction_on_the_applications_connection() -> None:
    """With SQLite's default journal a reader keeps a COMMIT waiting; then the events wait, and the site goes on."""
    with here.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")
        Tag.objects.bulk_create([Tag(name=str(number)) for number in range(5)])
    with closing(sqlite3.connect(here.settings_dict["NAME"])) as reader, closing(reader.cursor()) as rows:
        rows.execute("SELECT * FROM shop_tag")
        rows.fetchone()
        ring("a")
        assert departures.waiting()
        assert not here.connection.in_transaction
    with here.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20000")
    departures.drain()
    assert ["a"] == rung()


def test_threads_that_share_a_trace_lose_nothing_and_tell_nothing_twice() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(name: str) -> None:
        for number in range(100):
            ring(f"{name} {number}")
        connections.close_all()

    try:
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    departures.drain()
    assert sorted(f"{name} {number}" for name in "abc" for number in range(100)) == rung()
