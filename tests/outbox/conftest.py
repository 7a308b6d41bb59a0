"""Fixtures: worker processes, the notes of their receivers, and durable receivers for one test."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.db import connections
from django.db.models.signals import post_save

import signalbox
from signalbox.models import Attempt, Delivery, Event
from signalbox.outbox import registry
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import exporter, processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _disconnect_all() -> None:
    for name in list(registry.get_durable_receivers()):
        registry.disconnect(name)
    processors.uninstall(OUTBOX)
    signalbox.start_recording()


@pytest.fixture(autouse=True)
def _disconnect_durable_receivers() -> Iterator[None]:
    if registry.get_durable_receivers():  # of another module
        _disconnect_all()
    if not connections["other"].in_atomic_block:  # emptying its tables has opened it
        connections["other"].close()
    yield
    _disconnect_all()
    exporter.discard_pending()
    connections["other"].close()  # emptying its tables has opened it


@pytest.fixture(autouse=True)
def _restore_connections() -> Iterator[None]:
    """Restore the connections that an attempt has discarded: the test databases are dropped through them."""
    original = {alias: connections[alias] for alias in connections}
    yield
    for alias, connection in original.items():
        if connections[alias] is not connection:
            connections[alias].close()
            connections[alias] = connection


@pytest.fixture
def make_durable() -> Callable[..., None]:
    """Return a function that makes a receiver durable for one test, as the decorator does."""

    def make(function: Any, signals: Any = post_save, sender: Any = "shop.Order", **options: Any) -> None:
        signalbox.receiver(signals, sender=sender, durable=True, **options)(function)

    return make


class Notes:
    """A file of lines that receivers append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self, word: str = "") -> list[list[str]]:
        found = [line.split() for line in self.path.read_text().splitlines()]
        return [line for line in found if not word or line[0] == word]

    def wait_for(self, word: str, number: int, seconds: float = 90) -> list[list[str]]:
        deadline = time.monotonic() + seconds
        while len(found := self.lines(word)) < number:
            assert time.monotonic() < deadline, f"{len(found)} of {number} {word}: {self.lines()[-5:]}"
            time.sleep(0.02)
        return found


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    path = tmp_path / "notes"
    monkeypatch.setenv("SIGNALBOX_TEST_NOTES", str(path))
    return Notes(path)


class Process:
    """A process that a test has started."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Send SIGKILL to its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def end(self, number: int = signal.SIGTERM, seconds: float = 90) -> int:
        """Send the signal ``number``, wait up to ``seconds``, and return the exit status."""
        self.popen.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = 120) -> int:
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end:\n{self.log.read_text()[-3000:]}") from None


@pytest.fixture
def start_process(tmp_path: Path, notes: Notes) -> Iterator[Callable[..., Process]]:
    """Return a function that starts a program with receivers. It is killed at the end of the test."""
    started: list[Process] = []

    def run(*arguments: str, receivers: str = "", box: dict[str, Any] | None = None, **environment: str) -> Process:
        process = Process(
            list(arguments),
            {
                "DJANGO_SETTINGS_MODULE": "tests.outbox.settings",
                "SIGNALBOX_TEST_DURABLE": receivers,
                "SIGNALBOX_TEST_SETTINGS": repr(box or {}),
                "PYTHONPATH": os.pathsep.join(filter(None, ["src", ".", os.environ.get("PYTHONPATH", "")])),
                **environment,
            },
            tmp_path / "log",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()


@pytest.fixture
def start_worker(start_process: Callable[..., Process]) -> Callable[..., Process]:
    """Return a function that starts ``manage.py signalbox work``."""

    def run(*options: str, **more: Any) -> Process:
        return start_process("-m", "django", "signalbox", "work", "--database", "default", *options, **more)

    return run


@pytest.fixture
def start_celery_worker(start_process: Callable[..., Process]) -> Callable[..., Process]:
    """Return a function that starts a worker of Celery with two processes."""
    options = ["-c", "2", "-l", "WARNING", "--without-gossip", "--without-mingle"]

    def run(**more: Any) -> Process:
        return start_process("-m", "celery", "-A", "tests.outbox.celery_app", "worker", *options, **more)

    return run


@pytest.fixture
def empty_tables(transactional_db: None) -> Iterator[None]:
    """Delete all events and deliveries, before and after the test."""
    _empty_tables()
    yield
    _empty_tables()


def _empty_tables() -> None:
    for alias in settings.DATABASES:
        if alias == "default":
            Delivery.objects.using(alias).all().delete()
            Attempt.objects.using(alias).all().delete()
            Event.objects.using(alias).all().delete()
        connections[alias].close()


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Return the environment of a relay and a Celery worker, with a queue for this test."""
    celery = pytest.importorskip("celery")
    url = request.getfixturevalue(f"{request.param}_url")
    queue = f"signalbox_{os.getpid()}_{random.getrandbits(32)}"
    yield {"box": {"DURABLE": {"DISPATCHER": "celery"}}, "SIGNALBOX_TEST_BROKER": url, "SIGNALBOX_TEST_QUEUE": queue}
    with celery.Celery(broker=url).connection_for_write() as found:
        found.default_channel.queue_delete(queue)
