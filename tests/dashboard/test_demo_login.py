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
    assert "/signalbox/" == client.get(address)["Location"]
    refused = Client().get(address)
    assert (404, True) == (refused.status_code, b"The login link was used" in refused.content)


def test_without_debug_no_link_is_created_and_old_links_are_not_found(
    client: Client, operator: User, settings: Any
) -> None:
    address = build_login_url("operator")
    settings.DEBUG = False
    assert 404 == client.get(address).status_code
    with pytest.raises(RuntimeError, match="DEBUG"):
        build_login_url("operator")


@pytest.mark.parametrize("token", ["", "1", "1.x", "x.y", "999.abc-def", "1.abc-def"])
def test_an_invalid_token_is_not_found(client: Client, operator: User, token: str) -> None:
    assert 404 == client.get("/signalbox/demo-login/", {"token": token}).status_code
    assert "_auth_user_id" not in client.session


def test_the_token_is_not_recorded(client: Client, operator: User) -> None:
    address = build_login_url("operator")
    client.get(address)
    secret = address.partition("token=")[2]
    recorded = [*Event.objects.values_list("data", flat=True), *Trace.objects.values_list("name", "data")]
    assert any("enter" in str(row) for row in recorded)
    assert not any(secret in str(row) for row in recorded)
