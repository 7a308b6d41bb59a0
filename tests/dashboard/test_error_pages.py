"""The dashboard's own pages with status 403, 404 and 503, and what of them is recorded: nothing."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError
from django.test import Client, override_settings
from django.urls import reverse

from signalbox.models import Event, Trace
from signalbox.pipeline import missing_tables
from signalbox.queries import timeline
from signalbox.urls import urlpatterns
from tests.dashboard.browsing import AddEvent

pytestmark = pytest.mark.django_db(databases="__all__")

ARGUMENTS: dict[str, list[Any]] = {
    "trace": ["f" * 32],
    "tree": ["f" * 32],
    "event": [999_999],
    "revert": [999_999],
    "delivery": [999_999],
    "error": ["0" * 32],
    "error_findings": ["0" * 32],
    "error_change": ["0" * 32],
}
NAMES = sorted(str(pattern.name) for pattern in urlpatterns)


def get_address(name: str) -> str:
    return reverse(f"signalbox:{name}", args=ARGUMENTS.get(name, []))


def test_staff_without_the_permission_sees_its_name_and_a_command(client: Client) -> None:
    client.force_login(User.objects.create_user("ada", is_staff=True))
    answer = client.get(get_address("timeline"))
    page = answer.content.decode()
    assert 403 == answer.status_code
    assert "You need the permission <code>signalbox.view_event</code>." in page
    assert "manage.py shell -c" in page


def test_the_command_of_the_page_grants_the_permission(client: Client) -> None:
    user = User.objects.create_user("ada'; $(rm -r .) `x`", is_staff=True)
    client.force_login(user)
    *command, code = shlex.split(client.get(get_address("timeline")).context["command"])
    assert ["manage.py", "shell", "-c"] == command
    exec(code)
    assert 200 == client.get(get_address("timeline")).status_code


def test_a_user_who_is_not_staff_learns_it(client: Client) -> None:
    user = User.objects.create_user("bea")
    user.user_permissions.add(Permission.objects.get(codename="view_event"))
    client.force_login(user)
    answer = client.get(get_address("timeline"))
    assert (403, True) == (answer.status_code, "bea is not staff." in answer.content.decode())


def test_a_revert_names_the_permission_that_is_missing(operator_client: Client, add_event: AddEvent) -> None:
    event = add_event(data={"changes": {"note": ["a", "b"]}}, object_key="7")
    answer = operator_client.get(reverse("signalbox:revert", args=[event.id]))
    assert (403, True) == (answer.status_code, b"shop.change_order" in answer.content)


@pytest.mark.parametrize("name", ["trace", "event", "delivery"])
def test_what_is_missing_may_have_been_purged(operator_client: Client, name: str) -> None:
    with override_settings(SIGNALBOX={"RETENTION": {"events": 30, "traces": 7.5, "shop.Order": None}}):
        answer = operator_client.get(get_address(name))
    assert 404 == answer.status_code
    page = answer.content.decode()
    assert "does not exist" in page
    assert "The setting RETENTION deletes: events after 30 days, traces after 7.5 days." in page
    assert "nothing is deleted by age" in operator_client.get(get_address(name)).content.decode()


def test_a_page_without_tables_has_the_command(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_tables, "has_tables", lambda connection: False)
    answer = client.get(get_address("timeline"))
    assert (503, True) == (answer.status_code, b"<code>manage.py migrate</code>" in answer.content)


@pytest.mark.parametrize("debug", [True, False])
def test_an_unavailable_database_is_a_page_whose_error_is_for_developers(
    operator_client: Client, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OperationalError("connection to server at 10.0.0.7 failed")

    monkeypatch.setattr(timeline, "get_timeline_page", fail)
    with override_settings(DEBUG=debug):
        answer = operator_client.get(get_address("timeline"))
    assert 503 == answer.status_code
    assert "The database is not available." in answer.content.decode()
    assert debug == (b"10.0.0.7" in answer.content)


def count_recorded() -> tuple[int, int]:
    return Event.objects.count(), Trace.objects.count()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_request_of_the_dashboard_is_not_recorded_whatever_it_answers(
    client: Client, operator: User, name: str, method: str
) -> None:
    address = get_address(name)
    send = getattr(client, method)
    for prepare in (lambda: None, lambda: client.force_login(operator), make_visitor(client)):
        prepare()
        Event.objects.all().delete()
        Trace.objects.all().delete()
        for path in (address, address.removesuffix("/"), f"{address}nowhere/"):
            assert send(path).status_code < 500
        assert (0, 0) == count_recorded()


def make_visitor(client: Client) -> Any:
    return lambda: client.force_login(User.objects.create_user("visitor"))
