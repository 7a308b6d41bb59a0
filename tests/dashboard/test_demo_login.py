from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from signalbox.dashboard.demo_login import build_login_url
from signalbox.models import Event, Trace

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def debug(settings: Any) -> None:
    settings.DEBUG = True


def test_the_link_logs_in_once(client: Client, operator: User) -> None:
    address = build_login_url("operator")
    answer = client.get(address)
    assert ("/signalbox/", str(operator.pk)) == (answer["Location"], client.session["_auth_user_id"])
    assert 404 == Client().get(address).status_code


def test_without_debug_there_is_no_link_and_an_old_one_leads_nowhere(
    client: Client, operator: User, settings: Any
) -> None:
    address = build_login_url("operator")
    settings.DEBUG = False
    assert 404 == client.get(address).status_code
    with pytest.raises(RuntimeError, match="DEBUG"):
        build_login_url("operator")


@pytest.mark.parametrize("token", ["", "1", "1.x", "x.y", "999.abc-def", "1.abc-def"])
def test_an_invented_token_leads_nowhere(client: Client, operator: User, token: str) -> None:
    assert 404 == client.get("/signalbox/demo-login/", {"token": token}).status_code
    assert "_auth_user_id" not in client.session


def test_the_token_is_not_recorded(client: Client, operator: User) -> None:
    address = build_login_url("operator")
    client.get(address)
    secret = address.partition("token=")[2]
    recorded = [*Event.objects.values_list("data", flat=True), *Trace.objects.values_list("name", "data")]
    assert any("enter" in str(row) for row in recorded)
    assert not any(secret in str(row) for row in recorded)
