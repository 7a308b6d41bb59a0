"""Export of events without a transaction, and of finished traces."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction
from django.dispatch import Signal

import signalbox
from signalbox.core import clock, tracing
from signalbox.core.event import Outcome, PendingEvent
from signalbox.models import Event, Trace
from signalbox.pipeline import batches, dropped_events, exporter, missing_tables, pending, serializer
from tests.connecting import get_connection
from tests.shop.models import Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_django.plugin import DjangoDbBlocker

pytestmark = pytest.mark.django_db(transaction=True)


bell = Signal()


@pytest.fixture(autouse=True)
def ready() -> Iterator[None]:
    """Open the connection, discard pending events, and register a signal without a transaction."""
    signalbox.register_signal(bell, "tests.bell")
    get_connection().ensure_connection()
    exporter.discard_pending()  # the event of the opened connection
    tracing.get_process_trace().pending.clear()
    yield
    exporter.discard_pending()


def rung() -> list[str]:
    return sorted(event.data["args"]["name"] for event in Event.objects.filter(signal="tests.bell"))


def ring(name: str) -> None:
    bell.send(None, name=name)


def test_an_event_without_a_trace_is_written_immediately() -> None:
    ring("a")
    assert not exporter.has_pending()
    assert ["a"] == rung()


def test_an_event_of_a_process_or_a_test_is_of_the_system() -> None:
    ring("outside")
    for kind in ("request", "command", "task", "shell", "custom", "process", "test"):
        trace = tracing.Trace(kind, kind)
        tracing.activate(trace)
        ring(kind)
        tracing.deactivate(trace)
        exporter.finish_trace(trace)
    events = Event.objects.filter(signal="tests.bell", is_system=True)
    assert ["outside", "process", "test"] == sorted(event.data["args"]["name"] for event in events)


def test_the_events_of_a_trace_are_written_together_when_it_finishes() -> None:
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
    tracing.activate(trace)
    ring("late")
    tracing.deactivate(trace)
    assert ["a", "late"] == rung()
    assert 1 == Trace.objects.filter(trace_id=trace.id).count()


def test_a_trace_in_which_nothing_happened_has_no_row() -> None:
    with signalbox.trace("idle") as trace:
        pass
    assert 0 == Trace.objects.filter(trace_id=trace.id).count()


def test_an_event_in_a_transaction_is_written_after_its_commit_or_rollback() -> None:
    with transaction.atomic():
        ring("a")
        assert exporter.has_pending()
        transaction.set_rollback(True)
    assert not exporter.has_pending()
    assert ["a"] == rung()


def test_an_event_in_an_event_loop_is_written_at_the_next_flush() -> None:
    async def work() -> None:
        await bell.asend(None, name="a")
        assert exporter.has_pending()

    asyncio.run(work())
    ring("b")
    assert ["a", "b"] == rung()


@pytest.mark.parametrize("kind", ["command", "task", "custom", "cron"])
def test_events_of_a_long_running_trace_are_written_before_it_finishes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signalbox.trace("serve", kind=kind):
        ring("a")
        assert [] == rung()
        later = clock.monotonic_ns() + exporter.LONG_TRACE_NS
        monkeypatch.setattr(clock, "monotonic_ns", lambda: later)
        ring("b")
        assert ["a", "b"] == rung()


@pytest.mark.every_database
def test_texts_that_do_not_fit_a_column_are_cleaned_and_truncated() -> None:
    named = Signal()
    signalbox.register_signal(named, "tests.caf\udce9." + "x" * 200)
    with signalbox.trace("import caf\udce9.csv" + "x" * 200, kind="reconciliation-job", actor="caf\udce9") as trace:
        trace.status = "nul\0 and a status too long"
        named.send("sender\udce9" + "x" * 200, using="caf\udce9" + "x" * 64)
    row = Trace.objects.get(trace_id=trace.id)
    event = Event.objects.get(trace_id=trace.id)
    assert ("reconciliation-j", "import caf�.csv" + "x" * 185, "nul� and a statu") == (row.kind, row.name, row.status)
    assert ("caf�", "caf�") == (row.actor_label, event.actor_label)
    assert ("tests.caf�." + "x" * 189, "sender�" + "x" * 193) == (event.signal, event.sender)
    assert "caf�" + "x" * 60 == event.database


def refused() -> PendingEvent:
    """Return an event that every database rejects, because its key is None."""
    event = PendingEvent(clock.now(), tracing.get_current_trace(), None, "tests.refused", "", "default")
    event.key = None  # type: ignore[assignment]
    event.outcome = Outcome.SENT
    return event


@pytest.mark.every_database
def test_a_rejected_event_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    before = dropped_events.write_stats.dropped
    with caplog.at_level(logging.ERROR, "signalbox"), signalbox.trace("work") as trace:
        for name in "abc":
            ring(name)
            exporter.enqueue(refused())
        ring("d")
    assert not exporter.has_pending()
    assert ["a", "b", "c", "d"] == rung()
    assert 1 == Trace.objects.filter(trace_id=trace.id).count()
    assert 3 == dropped_events.write_stats.dropped - before
    assert 3 == sum("could not be written and is dropped" in record.message for record in caplog.records)
    ring("e")
    assert ["a", "b", "c", "d", "e"] == rung()


@pytest.mark.every_database
def test_a_rejected_trace_does_not_affect_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializer, "fit_column", lambda text, length: None if text == "refused" else text)
    with signalbox.trace("refused") as trace:
        ring("a")
    assert ["a"] == rung()
    assert 0 == Trace.objects.filter(trace_id=trace.id).count()


def test_an_update_that_cannot_be_encoded_does_not_affect_others() -> None:
    with signalbox.trace("work"):
        ring("a")
        event = tracing.get_current_trace().pending[0]
        exporter.flush_for_read()
    ring("b")
    assert ["a", "b"] == rung()
    event.args = {"name": "late"}
    other = refused()
    other.written_to, other.receiver_calls = "default", [None]  # type: ignore[list-item]
    event.trace.updates.extend((other, event))
    exporter.flush_trace(event.trace)
    assert not exporter.has_pending()
    assert ["b", "late"] == rung()


def test_a_rejected_event_does_not_affect_others_in_a_transaction_of_a_test() -> None:
    block = transaction.atomic()
    block._from_testcase = True  # type: ignore[attr-defined]
    with block:
        with signalbox.trace("work"):
            ring("a")
            exporter.enqueue(refused())
            ring("b")
        assert ["a", "b"] == rung()


@pytest.mark.parametrize("kind", ["request", "test"])
def test_a_request_or_test_keeps_its_events_until_it_finishes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with signalbox.trace("slow", kind=kind):
        later = clock.monotonic_ns() + exporter.LONG_TRACE_NS
        monkeypatch.setattr(clock, "monotonic_ns", lambda: later)
        ring("a")
        assert [] == written()
    assert ["a"] == rung()


def written() -> list[str]:
    """Return the rows of the table without a flush of pending events."""
    with get_connection().cursor() as cursor:
        cursor.execute("SELECT sender, e.signal FROM signalbox_event e WHERE e.signal = 'tests.bell'")
        return [row[1] for row in cursor.fetchall()]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits to a few events."""
    monkeypatch.setattr(exporter, "FLUSH_THRESHOLD", 5)
    monkeypatch.setattr(batches, "MAX_BATCH_ROWS", 3)
    monkeypatch.setattr(pending, "MAX_PENDING", 20)


@pytest.mark.every_database
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", ["request", "test", "task", "command", "custom"])
def test_a_trace_keeps_a_limited_number_of_events_in_memory(kind: str) -> None:
    with signalbox.trace("many", kind=kind) as trace:
        for number in range(28):
            ring(f"{number:02}")
            assert len(trace.pending) < 5
        assert 25 == len(written())
    assert [f"{number:02}" for number in range(28)] == rung()
    assert [28] == [row.events for row in Trace.objects.filter(trace_id=trace.id)]


@pytest.mark.usefixtures("few")
def test_many_events_in_a_transaction_are_written_after_it() -> None:
    with signalbox.trace("many", kind="request") as trace:
        with transaction.atomic():
            for number in range(15):
                ring(f"{number:02}")
            assert 15 == len(trace.pending)
            assert [] == written()
        assert [] == trace.pending
    assert [f"{number:02}" for number in range(15)] == rung()


@pytest.mark.usefixtures("few")
def test_the_oldest_events_beyond_the_limit_are_dropped_in_a_transaction() -> None:
    before = dropped_events.write_stats.dropped
    with signalbox.trace("many", kind="request") as trace, transaction.atomic():
        for number in range(100):
            ring(f"{number:03}")
        assert len(trace.pending) <= 20
    left = 100 - (dropped_events.write_stats.dropped - before)
    assert [f"{number:03}" for number in range(100)][-left:] == rung()


@pytest.mark.usefixtures("few")
def test_the_oldest_events_beyond_the_limit_are_dropped_in_an_event_loop() -> None:
    before = dropped_events.write_stats.dropped

    async def work() -> None:
        for number in range(100):
            await bell.asend(None, name=f"{number:03}")
        assert len(tracing.get_current_trace().pending) <= 20

    with signalbox.trace("many", kind="request"):
        asyncio.run(work())
    left = 100 - (dropped_events.write_stats.dropped - before)
    assert 10 <= left <= 20
    assert [f"{number:03}" for number in range(100)][-left:] == rung()


@pytest.mark.usefixtures("few")
def test_many_events_in_a_test_without_a_database_raise_nothing(
    django_db_blocker: DjangoDbBlocker,
) -> None:
    with signalbox.trace("many", kind="test") as trace:
        with django_db_blocker.block():
            get_connection().close()
            for number in range(30):
                ring(str(number))
        assert len(trace.pending) <= 20


@pytest.fixture
def away() -> Iterator[None]:
    """The database refuses every event."""
    assert missing_tables.has_tables(get_connection())  # as it remembers from then on
    with get_connection().cursor() as cursor:
        cursor.execute("ALTER TABLE signalbox_event RENAME TO signalbox_event_away")
    yield
    with get_connection().cursor() as cursor:
        cursor.execute("SELECT name FROM sqlite_master WHERE name = 'signalbox_event_away'")
        if cursor.fetchone():
            cursor.execute("ALTER TABLE signalbox_event_away RENAME TO signalbox_event")
    missing_tables.clear_table_cache()


@pytest.mark.usefixtures("away")
def test_events_stay_pending_while_the_database_is_unavailable() -> None:
    for name in "abc":
        ring(name)
    assert exporter.has_pending()
    assert not get_connection().connection.in_transaction
    with get_connection().cursor() as cursor:
        cursor.execute("ALTER TABLE signalbox_event_away RENAME TO signalbox_event")
    exporter.flush()
    assert ["a", "b", "c"] == rung()


@pytest.mark.usefixtures("away")
def test_the_oldest_are_dropped_when_too_many_are_pending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pending, "MAX_PENDING", 20)
    before = dropped_events.write_stats.dropped
    with caplog.at_level(logging.ERROR, "signalbox"):
        for number in range(30):
            ring(f"{number:02}")
    waiting = 30 - (dropped_events.write_stats.dropped - before)
    assert 18 <= waiting <= 20
    assert "could not be written for too long" in caplog.text
    with get_connection().cursor() as cursor:
        cursor.execute("ALTER TABLE signalbox_event_away RENAME TO signalbox_event")
    exporter.flush()
    assert [f"{number:02}" for number in range(30)][-waiting:] == rung()


@pytest.mark.usefixtures("away")
def test_the_oldest_are_dropped_without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_PENDING", 20)
    missing_tables.clear_table_cache()
    before = dict(dropped_events.write_stats.dropped_by_reason)
    for number in range(30):
        ring(str(number))
    missing = dropped_events.DropReason.MISSING_TABLE
    assert 10 <= dropped_events.write_stats.dropped_by_reason[missing] - before.get(missing, 0) <= 12


def test_a_failed_commit_leaves_no_transaction_open() -> None:
    """With SQLite's default journal a reader blocks a COMMIT. The events then stay pending."""
    with get_connection().cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")
        Tag.objects.bulk_create([Tag(name=str(number)) for number in range(5)])
    with closing(sqlite3.connect(get_connection().settings_dict["NAME"])) as reader, closing(reader.cursor()) as rows:
        rows.execute("SELECT * FROM shop_tag")
        rows.fetchone()
        ring("a")
        assert exporter.has_pending()
        assert not get_connection().connection.in_transaction
    with get_connection().cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20000")
    exporter.flush()
    assert ["a"] == rung()


def test_threads_that_share_a_trace_record_each_event_once() -> None:
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
    exporter.flush()
    assert sorted(f"{name} {number}" for name in "abc" for number in range(100)) == rung()


def test_events_are_not_written_in_a_test_without_a_database(django_db_blocker: Any) -> None:
    def written() -> int:
        cursor = get_connection().connection.cursor()
        cursor.execute("SELECT count(*) FROM signalbox_event WHERE signal = 'tests.bell'")
        number: int = cursor.fetchone()[0]
        cursor.close()
        return number

    with django_db_blocker.block():
        ring("steam")
        assert 0 == written()
    ring("diesel")
    assert 2 == written()
