"""Workers register themselves, and a killed one counts as lost."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection

import signalbox
from signalbox.core import clock
from signalbox.models import Worker
from signalbox.outbox.database_clock import SECOND_US, get_lease_time
from signalbox.outbox.worker_registry import (
    DELETE_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    LOST_AFTER_SECONDS,
    WorkerRegistration,
    get_workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Process

pytestmark = [pytest.mark.usefixtures("empty_tables"), pytest.mark.every_database]


@pytest.fixture(autouse=True)
def _no_workers(empty_tables: None) -> None:
    Worker.objects.all().delete()


def wait_until(check: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def age_heartbeats(seconds: float) -> None:
    Worker.objects.update(heartbeat=get_lease_time(connection) - int(seconds * SECOND_US))


def test_a_worker_has_a_row_while_it_runs(start_worker: Callable[..., Process]) -> None:
    running = start_worker("--threads", "3", "--queue", "mail", "--queue", "slow")
    [worker] = wait_until(lambda: get_workers("default"))
    assert (socket.gethostname(), running.popen.pid, signalbox.__version__) == (
        worker.host,
        worker.pid,
        worker.version,
    )
    assert (("mail", "slow"), 3, True) == (worker.queues, worker.threads, worker.is_alive)
    assert 0 == running.end()
    assert [] == get_workers("default")


def test_each_process_of_a_supervisor_has_a_row(start_worker: Callable[..., Process]) -> None:
    running = start_worker("--processes", "2")
    workers = wait_until(lambda: found if len(found := get_workers("default")) == 2 else None)
    assert running.popen.pid not in {worker.pid for worker in workers}
    assert 0 == running.end()
    assert [] == get_workers("default")


def test_a_killed_worker_counts_as_lost_and_is_deleted_after_a_day(start_worker: Callable[..., Process]) -> None:
    running = start_worker()
    [worker] = wait_until(lambda: get_workers("default"))
    running.kill()
    assert [True] == [one.is_alive for one in get_workers("default")]
    age_heartbeats(LOST_AFTER_SECONDS + 1)
    assert [(worker.pid, False)] == [(one.pid, one.is_alive) for one in get_workers("default")]
    with WorkerRegistration(["default"], [], 1):
        assert {worker.pid, os.getpid()} == {one.pid for one in get_workers("default")}
    age_heartbeats(DELETE_AFTER_SECONDS + 1)
    with WorkerRegistration(["default"], [], 1):
        assert [os.getpid()] == [one.pid for one in get_workers("default")]


def test_a_heartbeat_is_written_once_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerRegistration(["default"], [], 1) as registration:
        age_heartbeats(100)
        registration.beat_if_due()
        assert [False] == [one.is_alive for one in get_workers("default")]
        now = clock.monotonic() + HEARTBEAT_SECONDS
        monkeypatch.setattr(clock, "monotonic", lambda: now)
        registration.beat_if_due()
        assert [True] == [one.is_alive for one in get_workers("default")]
        Worker.objects.all().delete()  # by a restored backup, or an operator
        now += HEARTBEAT_SECONDS
        registration.beat_if_due()
        assert [os.getpid()] == [one.pid for one in get_workers("default")]


def test_a_worker_runs_without_the_table(caplog: pytest.LogCaptureFixture) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE signalbox_worker RENAME TO elsewhere")
    try:
        with caplog.at_level(logging.WARNING, "signalbox"), WorkerRegistration(["default"], [], 1):
            pass
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO signalbox_worker")
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("This worker could not be registered in database 'default'")
    assert "run manage.py migrate" in message
