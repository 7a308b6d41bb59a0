from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, override_settings

from signalbox import doctor
from signalbox.dashboard import checklist
from signalbox.outbox import registry
from signalbox.outbox.worker_registry import WorkerRegistration
from tests.dashboard.browsing import AddEvent

pytestmark = pytest.mark.django_db(databases="__all__")

ADDRESS = "/signalbox/checklist/"
SLOT = 'hx-get="/signalbox/checklist/"'
COMPLETE = {"RETENTION": {"events": 90}}


@pytest.fixture(autouse=True)
def _clean_doctor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test project has findings on purpose, and an examination takes seconds."""
    checklist.clear_cache()
    monkeypatch.setattr(doctor, "examine", list)
    monkeypatch.setattr(registry, "get_durable_receivers", dict)
    yield
    checklist.clear_cache()


def get_open_titles() -> list[str]:
    return [step.title for step in checklist.get_steps() if not step.is_done]


def test_an_empty_timeline_and_the_status_have_the_checklist(operator_client: Client, add_event: AddEvent) -> None:
    assert SLOT in operator_client.get("/signalbox/").content.decode()
    assert SLOT in operator_client.get("/signalbox/health/").content.decode()
    assert SLOT not in operator_client.get("/signalbox/?signal=post_save").content.decode()
    add_event()
    assert SLOT not in operator_client.get("/signalbox/").content.decode()


def test_each_open_step_has_a_command_and_vanishes_when_it_is_done(operator_client: Client) -> None:
    page = operator_client.get(ADDRESS).content.decode()
    assert "2 of 3 done" in page
    assert "SIGNALBOX = {&quot;RETENTION&quot;" in page
    with override_settings(SIGNALBOX=COMPLETE):
        assert "checklist" not in operator_client.get(ADDRESS).content.decode()


def test_the_middleware_must_be_first() -> None:
    with override_settings(SIGNALBOX=COMPLETE):
        assert [] == get_open_titles()
        with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE[1:], settings.MIDDLEWARE[0]]):
            assert ["Signalbox is first in INSTALLED_APPS and MIDDLEWARE"] == get_open_titles()


def test_a_worker_is_needed_only_with_durable_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(SIGNALBOX=COMPLETE):
        monkeypatch.setattr(registry, "get_durable_receivers", lambda: {"shop.signals.send_invoice": object()})
        assert ["A worker runs the durable receivers"] == get_open_titles()
        with WorkerRegistration(["default"], [], 4):
            assert [] == get_open_titles()


def test_the_doctor_is_asked_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    examinations: list[float] = []

    def examine() -> list[Any]:
        examinations.append(time.monotonic())
        return [object()]

    monkeypatch.setattr(doctor, "examine", examine)
    with override_settings(SIGNALBOX=COMPLETE):
        assert ["The doctor finds nothing"] == get_open_titles() == get_open_titles()
    assert 1 == len(examinations)
