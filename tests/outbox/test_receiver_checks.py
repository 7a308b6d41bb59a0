from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import run_checks

import signalbox
from signalbox.outbox import receiver_checks
from tests.outbox import receivers

if TYPE_CHECKING:
    from collections.abc import Callable


class Denies:
    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return False if app_label == "signalbox" else None


def renamed(**kwargs: Any) -> None: ...


def test_a_receiver_that_its_name_does_not_find_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    signalbox.receiver("post_save", sender="shop.Order", durable=True)(renamed)
    assert [] == receiver_checks.check_receivers()
    monkeypatch.delattr(f"{__name__}.renamed")
    [found] = receiver_checks.check_receivers()
    assert ("signalbox.E010", True) == (found.id, f"{__name__}.renamed can't be imported" in found.msg)
    assert found in run_checks(tags=["signalbox"])


def _defined(line: int) -> Callable[..., None]:
    """Return a function that is defined in ``line`` of a module."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile("\n" * (line - 1) + "def renamed(**kwargs): ...", "shop/receivers.py", "exec"), names)
    made: Callable[..., None] = names["renamed"]
    return made


@pytest.mark.parametrize("senders", [("shop.Order", "shop.Tag"), ("shop.Order", "shop.Order")])
def test_two_functions_of_one_name_are_an_error(senders: tuple[str, str]) -> None:
    for line, sender in zip((3, 9), senders, strict=True):
        signalbox.receiver("post_save", sender=sender, durable=True)(_defined(line))
    [found] = receiver_checks.check_receivers()
    assert "signalbox.E010" == found.id
    assert "in shop/receivers.py:3 and shop/receivers.py:9 are durable receivers of the same name" in found.msg
    assert "Give each function a different name." == found.hint


def test_a_function_that_is_connected_or_imported_again_is_not_an_error() -> None:
    for sender in ("shop.Order", "shop.Tag", "shop.Order"):
        signalbox.receiver("post_save", sender=sender, durable=True)(_defined(3))
    assert [] == receiver_checks.check_receivers()


def test_a_sender_in_a_database_without_the_table_is_a_warning(
    make_durable: Callable[..., None], settings: Any
) -> None:
    make_durable(receivers.saved)
    assert [] == receiver_checks.check_receivers()
    settings.DATABASE_ROUTERS = [Denies()]
    [found] = receiver_checks.check_receivers()
    assert "signalbox.W010" == found.id
    assert "The rows of shop.Order are in the database 'default'" in found.msg


def test_a_dispatcher_that_is_not_set_up_is_an_error(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "tasks"}}
    settings.TASKS = {}
    assert ["signalbox.E011"] == [found.id for found in receiver_checks.check_dispatcher()]
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "celery"}}
    monkeypatch.setattr(receiver_checks, "find_spec", lambda name: None)
    [found] = receiver_checks.check_dispatcher()
    assert ("signalbox.E011", 'pip install "django-signalbox[celery]"') == (found.id, found.hint)


def test_celery_workers_that_prefetch_messages_are_a_warning(settings: Any) -> None:
    celery = pytest.importorskip("celery")
    app = celery.Celery("checked", set_as_current=True)
    settings.SIGNALBOX = {"DURABLE": {"DISPATCHER": "celery"}}
    assert ["signalbox.W011"] == [found.id for found in receiver_checks.check_dispatcher()]
    app.conf.worker_prefetch_multiplier = 1
    assert [] == receiver_checks.check_dispatcher()
