from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import resolve, reverse

from signalbox.models import Delivery, Error, Event, Trace
from signalbox.pipeline import missing_tables
from signalbox.urls import urlpatterns

pytestmark = pytest.mark.django_db(databases="__all__")  # the deliveries' page asks each one


@pytest.fixture
def addresses(
    add_event: Callable[..., Event], add_delivery: Callable[..., Delivery], add_error: Callable[..., Error]
) -> list[str]:
    event, error = add_event(), add_error()
    return [
        reverse("signalbox:timeline"),
        reverse("signalbox:live"),
        reverse("signalbox:histogram"),
        reverse("signalbox:suggestions"),
        reverse("signalbox:trace", args=[event.trace_id]),
        reverse("signalbox:tree", args=[event.trace_id]),
        reverse("signalbox:event", args=[event.id]),
        reverse("signalbox:revert", args=[event.id]),
        reverse("signalbox:object") + "?sender=shop.Order&key=7",
        reverse("signalbox:map"),
        f"{reverse('signalbox:receiver')}?name=shop.signals.send_invoice",
        f"{reverse('signalbox:receiver_findings')}?name=shop.signals.send_invoice",
        f"{reverse('signalbox:signal')}?name=post_save",
        reverse("signalbox:deliveries"),
        reverse("signalbox:delivery", args=[add_delivery().id]),
        reverse("signalbox:errors"),
        reverse("signalbox:error", args=[error.fingerprint]),
        reverse("signalbox:error_findings", args=[error.fingerprint]),
        reverse("signalbox:doctor"),
        reverse("signalbox:findings"),
        reverse("signalbox:checklist"),
        reverse("signalbox:status"),
    ]


def test_every_url_is_tested(addresses: list[str]) -> None:
    names = {pattern.name for pattern in urlpatterns}
    assert names - {"demo_login", "change", "confirm", "apply", "error_change", "export", "replay"} == {
        resolve(address.partition("?")[0]).url_name for address in addresses
    }


def test_an_anonymous_visitor_is_redirected_to_the_login_page(client: Client, addresses: list[str]) -> None:
    for address in addresses:
        answer = client.get(address)
        assert (302, b"") == (answer.status_code, answer.content)
        assert answer["Location"].startswith(reverse("admin:login"))


def test_an_anonymous_htmx_request_is_refused(client: Client, addresses: list[str]) -> None:
    for address in addresses:
        assert 403 == client.get(address, headers={"HX-Request": "true"}).status_code


@pytest.mark.parametrize("what", ["staff without the permission", "permission without staff", "inactive"])
def test_a_user_without_the_permission_is_refused(client: Client, addresses: list[str], what: str) -> None:
    user = User.objects.create_user("visitor", is_staff=what != "permission without staff")
    if what != "staff without the permission":
        user.user_permissions.add(Permission.objects.get(codename="view_event"))
    client.force_login(user)
    if what == "inactive":
        User.objects.filter(pk=user.pk).update(is_active=False)
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code in (302, 403)
        assert b"Order 7" not in answer.content


def test_staff_with_the_permission_sees_every_page(operator_client: Client, addresses: list[str]) -> None:
    for address in addresses:
        if "revert" not in address:  # that asks for another permission too
            assert operator_client.get(address).status_code in (200, 204), address


def test_successful_get_requests_are_not_recorded(operator_client: Client) -> None:
    operator_client.get(reverse("signalbox:timeline"))
    operator_client.get(reverse("signalbox:live"))
    assert (0, 0) == (Event.objects.count(), Trace.objects.count())


def test_refused_requests_are_not_recorded(client: Client) -> None:
    Trace.objects.all().delete()
    client.get(reverse("signalbox:timeline"))
    assert not Trace.objects.exists()


def test_every_page_asks_for_migrate_without_tables(
    operator_client: Client, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_tables, "has_tables", lambda connection: False)
    for address in addresses:
        answer = operator_client.get(address)
        assert (503, True) == (answer.status_code, b"manage.py migrate" in answer.content)


def test_responses_are_never_cached(operator_client: Client) -> None:
    assert "no-store" in operator_client.get(reverse("signalbox:timeline"))["Cache-Control"]
