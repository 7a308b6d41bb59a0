"""The page "Status" and the view for probes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connections
from django.test import RequestFactory, override_settings
from django.urls import include, path

import signalbox
from signalbox.core import clock
from signalbox.dashboard import health_probe as probe_module
from signalbox.instrumentation import recording_state
from signalbox.models import Event, Trace
from signalbox.outbox.worker_registry import WorkerRegistration
from signalbox.pipeline import dropped_events
from signalbox.queries import status
from signalbox.urls import probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.test import Client

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
    pytest.mark.urls("tests.dashboard.test_status"),
]

urlpatterns = [path("healthz/", probe), path("signalbox/", include("signalbox.urls"))]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dropped_events, "write_stats", dropped_events.WriteStats())
    monkeypatch.setattr(recording_state, "_patch_states", None)  # another test may have run a command that only reads
    probe_module.clear_cache()
    yield
    probe_module.clear_cache()
    signalbox.start_recording()


def ask(client: Client) -> tuple[int, Any]:
    response = client.get("/healthz/")
    return response.status_code, response.json()


@pytest.mark.every_database
def test_a_probe_needs_no_login_and_gets_the_codes_of_problems(client: Client) -> None:
    assert (200, {"status": "ok", "problems": []}) == ask(client)
    dropped_events.write_stats.add_dropped(dropped_events.DropReason.REJECTED)
    assert (200, {"status": "ok", "problems": []}) == ask(client)  # the last check answers
    probe_module.clear_cache()
    assert (503, {"status": "unhealthy", "problems": ["events_dropped"]}) == ask(client)


def test_a_check_is_repeated_after_some_seconds(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 200 == ask(client)[0]
    signalbox.stop_recording()
    now = clock.monotonic() + probe_module.CACHE_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    assert (503, ["recording_off"]) == (ask(client)[0], ask(client)[1]["problems"])


def test_a_probe_is_neither_recorded_nor_cached_nor_writable(client: Client) -> None:
    before = Event.objects.count(), Trace.objects.count()
    response = client.get("/healthz/")
    assert "no-store" in response["Cache-Control"]
    assert before == (Event.objects.count(), Trace.objects.count())
    assert 405 == client.post("/healthz/").status_code


@override_settings(
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
)
def test_a_probe_is_exempt_from_a_login_for_all_views(client: Client) -> None:
    assert 200 == ask(client)[0]


def test_a_probe_runs_in_no_transaction(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    get_status = status.get_status

    def note_transaction(*, brief: bool) -> Any:
        found.append(connections["default"].in_atomic_block)
        return get_status(brief=brief)

    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    monkeypatch.setattr(probe_module, "get_status", note_transaction)
    assert 200 == ask(client)[0]
    assert [False] == found


def test_a_database_that_fails_is_named_only_by_its_code(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("no route to 10.0.0.7")

    monkeypatch.setattr(connections["other"].introspection, "table_names", fail)
    assert (503, {"status": "unhealthy", "problems": ["database_unreadable"]}) == ask(client)


def test_an_unexpected_error_is_an_answer_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "get_status", lambda brief: 1 / 0)
    assert (503, {"status": "unhealthy", "problems": ["check_failed"]}) == ask(client)


def test_only_one_thread_waits_for_a_slow_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 200 == ask(client)[0]
    checking, end = threading.Event(), threading.Event()

    def hang(*, brief: bool) -> None:
        checking.set()
        end.wait(20)
        raise RuntimeError

    monkeypatch.setattr(probe_module, "get_status", hang)
    monkeypatch.setattr(probe_module, "CACHE_SECONDS", 0.0)
    thread = threading.Thread(target=probe, args=(RequestFactory().get("/healthz/"),))
    thread.start()
    try:
        assert checking.wait(20)
        assert 200 == ask(client)[0]  # the last check
        monkeypatch.setattr(probe_module, "STALE_SECONDS", 0.0)
        monkeypatch.setattr(probe_module, "WAIT_SECONDS", 0.05)
        assert (503, ["check_timed_out"]) == (ask(client)[0], ask(client)[1]["problems"])
    finally:
        end.set()
        thread.join()


@pytest.mark.every_database
def test_the_page_shows_each_section_and_the_workers(operator_client: Client) -> None:
    with WorkerRegistration(["default"], ["mail"], 2):
        page = operator_client.get("/signalbox/health/").content.decode()
    assert "Signalbox is healthy" in page
    for title in ("Recording", "This process", "Database default", "Database other", "Deliveries in default"):
        assert f">{title}</h2>" in page
    assert "2 threads, queues mail" in page
    assert "the process that answers this request" in page
    assert "django.db.models.base.Model._save_table" in page


def test_the_page_shows_problems_and_updates_its_part(operator_client: Client) -> None:
    dropped_events.write_stats.add_dropped(dropped_events.DropReason.REJECTED, 2)
    part = operator_client.get("/signalbox/health/", headers={"HX-Request": "true", "HX-Target": "status"})
    text = part.content.decode()
    assert text.startswith('<div id="status"')
    assert "Signalbox is not healthy" in text
    assert "2 events were dropped since this process started: 2 rejected." in text


def test_the_page_needs_the_permission(client: Client) -> None:
    with override_settings(LOGIN_URL="/login/"):
        assert 302 == client.get("/signalbox/health/").status_code
