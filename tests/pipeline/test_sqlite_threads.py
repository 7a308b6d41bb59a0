"""On SQLite, the writes of pending events make no transaction of another thread fail."""

from __future__ import annotations

import threading
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections, transaction
from django.dispatch import Signal
from django.test import TestCase

import signalbox
from signalbox.models import Event
from signalbox.pipeline import dropped_events, exporter, pending
from signalbox.pipeline.backends import sqlite_threads
from tests.connecting import get_connection
from tests.shop.models import Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.transactions]

noted = Signal()


@pytest.fixture(autouse=True)
def ready(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if get_connection().vendor != "sqlite":
        pytest.skip("tests only SQLite")
    monkeypatch.setattr(sqlite_threads, "MAX_WAIT", 60.0)  # a busy machine takes long
    signalbox.register_signal(noted, "tests.noted")
    Tag.objects.create(name="first")
    Event.objects.all().delete()
    yield
    exporter.discard_pending()


def send_noted() -> None:
    with signalbox.trace("work", kind="custom"):
        noted.send(None)


def run_in_thread(function: Callable[[], Any]) -> Any:
    """Run ``function`` in another thread, which closes its connections, and return what it returns."""

    def run() -> Any:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result(30)


def count_noted() -> int:
    return Event.objects.filter(signal="tests.noted").count()


def test_a_transaction_that_has_read_can_write_after_an_event_of_another_thread() -> None:
    with transaction.atomic():
        assert 1 == Tag.objects.count()
        run_in_thread(send_noted)
        Tag.objects.create(name="second")
        assert exporter.has_pending()
    assert not exporter.has_pending()
    assert 1 == count_noted()


def test_events_wait_for_a_transaction_that_is_rolled_back() -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        Tag.objects.count()
        run_in_thread(send_noted)
        raise RuntimeError
    assert 1 == count_noted()


def test_many_waiting_events_are_written_if_the_journal_permits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_PENDING", 20)
    with transaction.atomic():
        Tag.objects.count()
        for _ in range(10):  # an event, and the row of a trace
            run_in_thread(send_noted)
        written = run_in_thread(count_noted)
    with get_connection().cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        is_wal = cursor.fetchone() == ("wal",)
    assert is_wal == (written > 0)
    assert 10 == count_noted()


def test_the_number_of_waiting_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_PENDING", 20)
    with transaction.atomic():
        Tag.objects.count()
        for _ in range(15):  # an event, and the row of a trace
            run_in_thread(send_noted)
        assert pending.count() <= 20


def test_a_thread_waits_for_a_transaction_rather_than_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "FLUSH_THRESHOLD", 2)
    monkeypatch.setattr(exporter, "MAX_WAIT_FOR_TRANSACTIONS", (60.0, 60.0))
    monkeypatch.setattr(dropped_events, "write_stats", stats := dropped_events.WriteStats())

    def send_eight() -> None:
        for _ in range(8):
            send_noted()

    with ThreadPoolExecutor(1) as executor:
        with transaction.atomic():
            Tag.objects.count()
            sent = executor.submit(run_in_thread, send_eight)
            deadline = time.monotonic() + 30
            while pending.count() <= 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.3)
            assert 2 < pending.count() <= 4
            assert not sent.done()
        sent.result(30)
    assert 8 == count_noted()
    assert 0 == stats.dropped


def test_a_transaction_begins_after_the_write_of_another_thread() -> None:
    writing, order = threading.Event(), []

    def write() -> None:
        with sqlite_threads.excluding_transactions(get_connection()) as can_exclude:
            assert can_exclude
            writing.set()
            time.sleep(0.2)
            order.append("written")

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(run_in_thread, write)
        assert writing.wait(60)
        with transaction.atomic():
            order.append("begun")
            Tag.objects.create(name="second")
        done.result(60)
    assert ["written", "begun"] == order


def test_a_transaction_does_not_wait_longer_than_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_threads, "MAX_WAIT", 0.05)
    writing, ended = threading.Event(), threading.Event()

    def write() -> None:
        with sqlite_threads.excluding_transactions(get_connection()):
            writing.set()
            ended.wait(30)

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(run_in_thread, write)
        assert writing.wait(10)
        with transaction.atomic():
            Tag.objects.create(name="second")
        ended.set()
        done.result(30)
    assert 2 == Tag.objects.count()


def test_transactions_and_events_of_threads_at_once_fail_nowhere() -> None:
    ended = threading.Event()

    def send_until_the_end() -> int:
        sent = 0
        while not ended.is_set():
            send_noted()
            sent += 1
        return sent

    with ThreadPoolExecutor(2) as executor:
        senders = [executor.submit(run_in_thread, send_until_the_end) for _ in range(2)]
        try:
            for number in range(150):
                with transaction.atomic():
                    Tag.objects.count()
                    Tag.objects.create(name=f"tag {number}")
        finally:
            ended.set()
        sent = sum(sender.result(60) for sender in senders)
    exporter.flush()
    assert sent == count_noted()
    assert 150 == Event.objects.filter(signal="post_save", sender="shop.Tag").count()


def test_a_test_leaves_no_event_of_another_thread_that_waited_for_its_transaction() -> None:
    class Waiting(TestCase):
        def test_a_signal_of_a_thread(self) -> None:
            run_in_thread(send_noted)
            assert exporter.has_pending()

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Waiting).run(result)

    assert ([], []) == (result.errors, result.failures)
    assert 1 == result.testsRun
    assert not exporter.has_pending()
    assert 0 == count_noted()
