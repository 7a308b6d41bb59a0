from __future__ import annotations

import datetime as dt
import threading
from functools import partial
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import override_settings

from signalbox.models import Event, PurgeState
from signalbox.outbox.queue import now_us
from signalbox.outbox.upkeep import run_upkeep
from signalbox.retention import background, watermarks
from signalbox.retention.rules import DAY_US
from tests.retention.test_purging import ReplicaRouter
from tests.rows import create_event

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "SIGNALBOX", {"RETENTION": {"events": 5}}, raising=False)
    monkeypatch.setattr(background, "FIRST_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(background, "CHECK_SECONDS", 0.01)


def old_event() -> None:
    create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=9))


def wait_until_empty() -> None:
    pause = threading.Event()
    for _ in range(1000):
        if not Event.objects.filter(object_key="17").exists():
            return
        pause.wait(0.02)
    raise AssertionError("The event was not purged.")


def test_a_worker_purges_in_a_thread_of_its_own() -> None:
    old_event()
    with run_upkeep(partial(background.purge_hourly, databases=["default"])):
        wait_until_empty()


def test_a_failure_is_logged_and_the_purge_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [RuntimeError("no luck")]
    original = background.purge_if_due

    def fail_once(*args: Any) -> bool:
        if failures:
            raise failures.pop()
        return original(*args)

    monkeypatch.setattr(background, "purge_if_due", fail_once)
    old_event()
    with run_upkeep(partial(background.purge_hourly, databases=["default"])):
        wait_until_empty()
    assert "Database 'default' could not be purged and is purged later: no luck" in caplog.text


def test_a_worker_purges_no_database_to_which_the_router_allows_no_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    purged: list[str] = []
    stopping = threading.Event()

    def purge(alias: str, stopping: threading.Event) -> bool:
        purged.append(alias)
        stopping.set()
        return True

    monkeypatch.setattr(background, "purge_if_due", purge)
    with override_settings(DATABASE_ROUTERS=[ReplicaRouter()]):
        background.purge_hourly(stopping)
    assert ["default"] == purged


def test_one_of_many_workers_purges_once_an_hour() -> None:
    stopping = threading.Event()
    assert background.purge_if_due("default", stopping)
    assert not background.purge_if_due("default", stopping)
    PurgeState.objects.update(run_at=now_us())
    assert watermarks.take_lease("default")
    assert not watermarks.take_lease("default")
    PurgeState.objects.update(run_at=now_us())
    assert background.purge_if_due("default", stopping)


def test_a_purge_at_a_time_in_the_far_future_does_not_delay_the_next_one() -> None:
    assert watermarks.take_lease("default")
    watermarks.end_lease("default", now_us() + 400 * DAY_US)
    assert watermarks.take_lease("default")
    watermarks.set_last_purge("default", now_us() + 400 * DAY_US)
    watermarks.set_last_purge("default", now_us())
    assert (watermarks.get_last_purge("default") or 0) <= now_us()


def test_a_stopped_purge_is_continued_when_the_lease_has_expired() -> None:
    stopping = threading.Event()
    assert background.purge_if_due("default", stopping)
    stopping.set()
    assert not background.purge_if_due("default", stopping)
    [run_at] = PurgeState.objects.filter(name="workers").values_list("run_at", flat=True)
    assert run_at > now_us()


def test_an_invalid_rule_is_logged_and_deletes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(django_settings, "SIGNALBOX", {"RETENTION": {"events": 5, "evnts": 5}})
    old_event()
    assert background.purge_if_due("default", threading.Event())
    assert 'Did you mean "events"?' in caplog.text
    assert Event.objects.filter(object_key="17").exists()


def test_a_database_without_the_tables_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "has_tables", lambda alias: False)
    assert not background.purge_if_due("default", threading.Event())
