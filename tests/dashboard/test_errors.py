"""The pages of errors: their groups, one group, the states that operators set, and the traces they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from signalbox.core.clock import now_us
from signalbox.models import Delivery, ErrorState, Event
from signalbox.queries.error_states import change_state
from tests.dashboard.browsing import (
    ERROR_FINGERPRINT,
    FIRST_TRACE_ID,
    AddDelivery,
    AddError,
    AddEvent,
    AddTrace,
    OpenWindow,
)

pytestmark = pytest.mark.django_db(databases=["default", "other"])

ADDRESS = "/signalbox/errors/"
FINGERPRINT = ERROR_FINGERPRINT
TRACE_ID = FIRST_TRACE_ID


@pytest.fixture
def clerk(operator_client: Client, operator: User) -> Client:
    """A client of an operator who may change the states of errors."""
    operator.user_permissions.add(Permission.objects.get(codename="change_errorstate"))
    return operator_client


def post(client: Client, action: str, version: int = 0, **given: Any) -> Any:
    return client.post(f"{ADDRESS}{FINGERPRINT}/change/", {"action": action, "version": version, **given})


def read(client: Client, path: str = "") -> str:
    response = client.get(f"{ADDRESS}{path}")
    assert 200 == response.status_code
    return response.content.decode()


def test_the_list_has_class_message_place_and_receiver_escaped(operator_client: Client, add_error: AddError) -> None:
    add_error()
    text = read(operator_client)
    for part in ("PriceError", "&lt;b&gt;salt", "tests/shop/models.py:12", "tests.shop.receivers.announce", "30 days"):
        assert part in text
    assert "<b>salt" not in text


def test_the_list_is_filtered_and_refreshed_as_a_part(operator_client: Client, add_error: AddError) -> None:
    add_error()
    add_error(fingerprint="b" * 32, exception="KeyError", receiver="", message="", file="", line=None)
    text = read(operator_client, "?text=keyerror")
    assert "KeyError" in text
    assert "PriceError" not in text
    part = operator_client.get(f"{ADDRESS}?text=keyerror", HTTP_HX_TARGET="errors").content.decode()
    assert part.startswith('<div id="errors" hx-get="/signalbox/errors/?state=open&amp;text=keyerror"')


@pytest.mark.parametrize(
    ("path", "status"),
    [("?state=gone", 404), ("?using=gone", 404), ("xyz/", 404), ("b" * 32 + "/", 404), ("?text=a%00b", 400)],
)
def test_an_address_that_names_nothing_is_refused(
    operator_client: Client, add_error: AddError, path: str, status: int
) -> None:
    add_error()
    assert status == operator_client.get(f"{ADDRESS}{path}").status_code


def test_a_group_has_its_errors_traces_and_deliveries(
    operator_client: Client, add_error: AddError, add_delivery: AddDelivery
) -> None:
    delivery: Delivery = add_delivery(trace_id=TRACE_ID)
    add_error(delivery_id=delivery.pk, attempt=2)
    text = read(operator_client, f"{FINGERPRINT}/")
    assert f"/signalbox/trace/{TRACE_ID}/" in text
    assert f"/signalbox/?q=fingerprint:{FINGERPRINT}" in text
    assert f"/signalbox/deliveries/{delivery.pk}/" in text
    assert "Order.get_price" in text


@pytest.mark.parametrize("is_shown", [True, False])
def test_source_is_shown_only_if_the_setting_allows_it(
    operator_client: Client, add_error: AddError, add_event: AddEvent, settings: Any, is_shown: bool
) -> None:
    settings.SIGNALBOX = {**getattr(settings, "SIGNALBOX", {}), "DASHBOARD": {"SHOW_SOURCE": is_shown}}
    add_event(trace_id=TRACE_ID, span=1, errors=1)
    add_error()
    assert is_shown is ('class="code highlighted"' in read(operator_client, f"{FINGERPRINT}/"))
    page = operator_client.get(f"/signalbox/trace/{TRACE_ID}/").content.decode()
    assert is_shown is ('class="code highlighted"' in page)


def test_no_file_but_that_of_an_imported_module_is_shown(
    operator_client: Client, add_error: AddError, settings: Any
) -> None:
    settings.SIGNALBOX = {**getattr(settings, "SIGNALBOX", {}), "DASHBOARD": {"SHOW_SOURCE": True}}
    for file in ("/etc/passwd", "../../etc/passwd", "pyproject.toml"):
        add_error(file=file, line=1)
        assert 'class="excerpt"' not in read(operator_client, f"{FINGERPRINT}/")


def test_the_doctor_s_findings_about_the_receiver_are_shown(
    operator_client: Client, add_error: AddError, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signalbox import doctor

    found = [finding for finding in doctor.examine() if finding.receiver]
    add_error(receiver=found[0].receiver if found else "")
    text = read(operator_client, f"{FINGERPRINT}/findings/")
    assert bool(found) is (bool(found) and found[0].rule in text)


def test_an_error_is_resolved_muted_and_reopened_with_who_and_when(
    clerk: Client, operator: User, add_error: AddError
) -> None:
    add_error()
    before = now_us()
    assert f"{ADDRESS}{FINGERPRINT}/" == post(clerk, "resolve")["Location"]
    state = ErrorState.objects.get()
    assert ("resolved", str(operator.pk), "operator") == (state.state, state.actor_key, state.actor_label)
    assert before <= state.changed <= now_us()
    assert "Resolved by" in read(clerk, f"{FINGERPRINT}/")
    assert "PriceError" not in read(clerk)
    assert "PriceError" in read(clerk, "?state=resolved")
    assert ADDRESS == post(clerk, "mute", state.changed, from_list=1)["Location"]
    state.refresh_from_db()
    post(clerk, "reopen", state.changed)
    assert "PriceError" in read(clerk)


def test_a_resolved_error_that_comes_back_says_so(operator_client: Client, add_error: AddError) -> None:
    add_error(time=now_us() - 1_000_000)
    ErrorState.objects.create(fingerprint=FINGERPRINT, state="resolved", changed=now_us() - 500_000)
    assert "regressed" not in read(operator_client, "?state=all")
    add_error()
    assert "regressed" in read(operator_client)


def test_a_change_needs_its_own_permission_a_post_and_a_token(
    operator_client: Client, operator: User, add_error: AddError
) -> None:
    add_error()
    assert 'value="resolve"' not in read(operator_client)
    response = post(operator_client, "resolve")
    assert 403 == response.status_code
    assert "signalbox.change_errorstate" in response.content.decode()
    operator.user_permissions.add(Permission.objects.get(codename="change_errorstate"))
    assert 'value="resolve"' in read(operator_client)
    assert 405 == operator_client.get(f"{ADDRESS}{FINGERPRINT}/change/").status_code
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert 403 == post(strict, "resolve").status_code
    assert not ErrorState.objects.exists()


@pytest.mark.parametrize(
    "given", [{"action": "burn"}, {"action": "mute", "version": "x"}, {"action": "mute", "version": ""}]
)
def test_an_unknown_action_is_not_found(clerk: Client, add_error: AddError, given: dict[str, str]) -> None:
    add_error()
    assert 404 == clerk.post(f"{ADDRESS}{FINGERPRINT}/change/", {"version": "0", **given}).status_code


def test_the_second_of_two_users_sees_who_was_first(clerk: Client, add_error: AddError) -> None:
    add_error()
    post(clerk, "mute")
    response = post(clerk, "resolve")
    assert 409 == response.status_code
    assert "operator has already set it to muted" in response.content.decode()
    assert "muted" == ErrorState.objects.get().state


def test_a_trace_with_an_exception_begins_with_it(
    operator_client: Client, add_error: AddError, add_event: AddEvent
) -> None:
    add_event(trace_id=TRACE_ID, span=1, errors=1)
    add_error()
    text = operator_client.get(f"/signalbox/trace/{TRACE_ID}/").content.decode()
    assert text.index('id="errors"') < text.index('class="facts"') < text.index("waterfall-rows")
    assert f"{ADDRESS}{FINGERPRINT}/" in text
    assert "tests.shop.receivers.announce" in text


def test_a_trace_begins_also_with_its_errors_in_another_database(
    operator_client: Client, add_event: AddEvent, add_trace: AddTrace, add_error: AddError
) -> None:
    """An error is stored with its event, in the database of the change."""
    add_event(trace_id=TRACE_ID, span=1)
    add_trace(trace_id=TRACE_ID, errors=1)
    error = add_error()
    error.delete()
    error.save(using="other")
    text = operator_client.get(f"/signalbox/trace/{TRACE_ID}/").content.decode()
    assert f"{ADDRESS}{FINGERPRINT}/?using=other" in text
    assert "no price" in text


def test_the_error_of_a_purged_delivery_has_no_link_to_it(
    operator_client: Client, add_event: AddEvent, add_error: AddError, add_delivery: AddDelivery
) -> None:
    delivery: Delivery = add_delivery(trace_id=TRACE_ID)
    add_event(trace_id=TRACE_ID, span=1, errors=1)
    add_error(delivery_id=delivery.pk, attempt=2)
    address, part = f"/signalbox/trace/{TRACE_ID}/", f'href="/signalbox/deliveries/{delivery.pk}/">delivery'
    assert part in operator_client.get(address).content.decode()
    Delivery.objects.all().delete()
    text = operator_client.get(address).content.decode()
    assert part not in text
    assert f"delivery {delivery.pk}" in text


def test_a_red_line_of_the_timeline_leads_to_its_error_and_a_muted_one_is_not_red(
    operator_client: Client, add_error: AddError, add_event: AddEvent
) -> None:
    from signalbox.core.event import Actor

    add_event(trace_id=TRACE_ID, span=1, errors=1)
    add_error()
    text = operator_client.get("/signalbox/").content.decode()
    assert f'href="{ADDRESS}{FINGERPRINT}/"' in text
    assert "line has-errors" in text
    change_state("default", FINGERPRINT, "muted", Actor(key="", label=""))
    text = operator_client.get("/signalbox/").content.decode()
    assert f'href="{ADDRESS}{FINGERPRINT}/"' in text
    assert "has-errors" not in text


def test_the_timeline_is_filtered_by_an_error(
    operator_client: Client, add_error: AddError, add_event: AddEvent
) -> None:
    add_event(trace_id=TRACE_ID, span=1, errors=1)
    add_event(trace_id="2" * 32)
    add_error()
    text = operator_client.get(f"/signalbox/?q=fingerprint:{FINGERPRINT}").content.decode()
    assert f't-{TRACE_ID}"' in text
    assert f't-{"2" * 32}"' not in text


# ------------------------------------------------------------------ in a browser


@pytest.fixture
def crashed_trace(window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, add_error: AddError) -> Event:
    """A request with two errors, one of them muted."""
    runs = [
        {
            "name": "tests.shop.receivers.announce",
            "location": "tests/shop/receivers.py:3",
            "duration_us": 300,
            "error": "PriceError: no price",
        }
    ]
    event = add_event(trace_id=TRACE_ID, span=1, errors=1, time=now_us(), data={"receivers": runs})
    add_trace(trace_id=TRACE_ID, status="500", errors=2, time=now_us() - 5_000)
    add_error()
    add_error(
        fingerprint="b" * 32,
        exception="django.core.exceptions.ValidationError",
        message="['The very long name of an order that is not accepted by the warehouse, which has no place for it.']",
        receiver="",
        span=None,
        function="checkout",
    )
    ErrorState.objects.create(fingerprint="b" * 32, state="muted", changed=now_us(), actor_label="ada")
    return event


PAGES = ("errors/", "errors/?state=all", f"errors/{FINGERPRINT}/", f"trace/{TRACE_ID}/", "")


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_with_errors_is_accessible_in_both_schemes_at_any_width(
    window: OpenWindow, crashed_trace: Event, settings: Any, path: str
) -> None:
    settings.SIGNALBOX = {**getattr(settings, "SIGNALBOX", {}), "DASHBOARD": {"SHOW_SOURCE": True}}
    visitor = window(reduced_motion="reduce")
    visitor.open(f"/signalbox/{path}")
    for width in (1440, 1024, 390):
        visitor.page.set_viewport_size({"width": width, "height": 900})
        assert (width, 0) == (width, visitor.get_overflow_pixels())
        for scheme in ("light", "dark"):
            visitor.page.emulate_media(color_scheme=scheme)
            assert (width, scheme, []) == (width, scheme, visitor.find_accessibility_violations())
            if folder := os.environ.get("SIGNALBOX_TEST_SCREENSHOTS"):
                name = f"{PAGES.index(path)}-{width}-{scheme}.png"
                visitor.page.screenshot(path=Path(folder) / name, full_page=True)


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_an_error_is_muted_with_the_mouse_and_leaves_the_list(window: OpenWindow, crashed_trace: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    visitor.page.click("a.flag")
    visitor.page.wait_for_selector("h1:has-text('PriceError')")
    visitor.page.keyboard.press("g")
    visitor.page.keyboard.press("e")
    visitor.page.wait_for_selector("#errors")
    visitor.page.click("button[value=mute]")
    visitor.page.wait_for_selector("#errors .empty")
    visitor.page.click("text=Muted")
    visitor.page.wait_for_selector("#errors tr:has-text('PriceError')")
    visitor.page.click("nav >> text=Timeline")
    visitor.page.wait_for_selector("a.flag.dim")


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_new_error_appears_without_a_reload(window: OpenWindow, crashed_trace: Event, add_error: AddError) -> None:
    visitor = window()
    visitor.page.clock.install()
    visitor.open("/signalbox/errors/")
    add_error(fingerprint="c" * 32, exception="shop.NewError")
    visitor.page.clock.run_for(11_000)
    visitor.page.wait_for_selector("text=NewError")


@pytest.mark.slow
@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_texts_that_reorder_others_or_do_not_wrap_stay_in_their_place(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, add_error: AddError
) -> None:
    hostile = "\u202e</p><script>document.title='taken'</script>\u2066" + "W" * 300
    receiver = "shop." + "x" * 190
    runs = [{"name": receiver, "location": "y" * 200, "start_us": 5, "duration_us": 300, "error": hostile}]
    event = add_event(trace_id=TRACE_ID, span=1, errors=1, time=now_us(), data={"receivers": runs})
    add_trace(trace_id=TRACE_ID, status="500", errors=1, time=now_us(), name=hostile[:200])
    add_error(
        exception="shop." + "E" * 195,
        message=hostile,
        file="/".join(["folder"] * 40),
        function="g" * 200,
        receiver=receiver,
        data={"frames": [["z" * 300, 3, "h" * 200]]},
    )
    visitor = window()
    visitor.open("/signalbox/")
    assert "\u202e" not in visitor.page.inner_text("main")
    for path in ("errors/", f"errors/{FINGERPRINT}/", f"trace/{TRACE_ID}/", f"event/{event.pk}/"):
        visitor.open(f"/signalbox/{path}")
        text = visitor.page.inner_text("main")
        assert r"\u202e</p><script>" in text
        assert "\u202e" not in text
        assert "taken" not in visitor.page.title().partition("<script>")[0]
        for width in (1440, 390):
            visitor.page.set_viewport_size({"width": width, "height": 900})
            assert (path, width, 0) == (path, width, visitor.get_overflow_pixels())
