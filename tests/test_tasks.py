"""The Celery task that purges, with a broker in memory."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.test import override_settings

from signalbox.models import Event, PurgeState
from tests.rows import create_event

celery = pytest.importorskip("celery")

pytestmark = [
    pytest.mark.every_database,
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
]


@pytest.fixture
def app() -> Any:
    """An app that has found the task, as a project's does."""
    found = celery.Celery("purge-tests", broker="memory://", set_as_current=False)
    found.autodiscover_tasks(["signalbox"], force=True)
    return found


def test_beat_finds_the_purge_by_its_name(app: Any) -> None:
    assert "signalbox.purge" in app.tasks


def test_the_task_deletes_what_the_rules_do_not_keep(app: Any) -> None:
    for model in (Event, PurgeState):
        model._base_manager.all().delete()
    for days in (9, 1):
        create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=days), object_key=f"{days} days")
    with override_settings(SIGNALBOX={"RETENTION": {"events": 5}}):
        app.tasks["signalbox.purge"].apply(throw=True)
    keys = set(Event.objects.values_list("object_key", flat=True))  # also of the events of the task
    assert ("1 days" in keys, "9 days" in keys) == (True, False)


def test_a_rule_that_is_not_valid_fails_the_task_and_deletes_nothing(app: Any) -> None:
    create_event(at=dt.datetime.now(dt.UTC) - dt.timedelta(days=9))
    with override_settings(SIGNALBOX={"RETENTION": {"events": 5, "auht": 1}}):
        result = app.tasks["signalbox.purge"].apply()
    assert result.failed()
    assert "auht" in str(result.result)
    assert Event.objects.exists()
