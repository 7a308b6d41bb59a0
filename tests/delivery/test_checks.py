from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import run_checks

import signalbox
from signalbox.delivery import checks
from tests.delivery import receivers

if TYPE_CHECKING:
    from collections.abc import Callable


class Denies:
    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return False if app_label == "signalbox" else None


def renamed(**kwargs: Any) -> None: ...


def test_a_receiver_that_does_not_stand_under_its_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    signalbox.receiver("post_save", sender="shop.Order", durable=True)(renamed)
    assert [] == checks.check_receivers()
    monkeypatch.delattr(f"{__name__}.renamed")
    [found] = checks.check_receivers()
    assert ("signalbox.E010", True) == (found.id, f"{__name__}.renamed can't be imported" in found.msg)
    assert found in run_checks(tags=["signalbox"])


def test_a_sender_in_a_database_without_the_table_is_warned_of(durable: Callable[..., None], settings: Any) -> None:
    durable(receivers.saved)
    assert [] == checks.check_receivers()
    settings.DATABASE_ROUTERS = [Denies()]
    [found] = checks.check_receivers()
    assert "signalbox.W010" == found.id
    assert "shop.Order is kept in the database 'default'" in found.msg


def test_an_engine_that_is_not_set_up_is_an_error(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SIGNALBOX = {"ENGINE": "tasks"}
    settings.TASKS = {}
    assert ["signalbox.E011"] == [found.id for found in checks.check_engine()]
    settings.SIGNALBOX = {"ENGINE": "celery"}
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    [found] = checks.check_engine()
    assert ("signalbox.E011", 'pip install "django-signalbox[celery]"') == (found.id, found.hint)


def test_a_celery_that_hoards_messages_is_warned_of(settings: Any) -> None:
    celery = pytest.importorskip("celery")
    app = celery.Celery("checked", set_as_current=True)
    settings.SIGNALBOX = {"ENGINE": "celery"}
    assert ["signalbox.W011"] == [found.id for found in checks.check_engine()]
    app.conf.worker_prefetch_multiplier = 1
    assert [] == checks.check_engine()
