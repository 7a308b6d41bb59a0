from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from signalbox import admin as signalbox_admin
from signalbox.admin import HistoryAdminMixin
from signalbox.models import Delivery, Event
from signalbox.pipeline import missing_tables

pytestmark = pytest.mark.django_db

AddEvent = Callable[..., Event]


@pytest.fixture
def boss(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("boss"))
    return client


def listed(client: Client, query: str = "") -> list[Any]:
    return list(client.get(f"/admin/signalbox/event/{query}").context["cl"].result_list)


def test_rows_are_read_and_no_more(boss: Client, add_event: AddEvent, add_trace: Any, add_delivery: Any) -> None:
    for row in (add_event(), add_trace(), add_delivery()):
        name = row._meta.model_name
        assert 200 == boss.get(f"/admin/signalbox/{name}/").status_code
        page = boss.get(f"/admin/signalbox/{name}/{row.pk}/change/")
        assert (200, False) == (page.status_code, b'type="submit" value="Save"' in page.content)
        for action in ("add/", f"{row.pk}/delete/"):
            assert 403 == boss.get(f"/admin/signalbox/{name}/{action}").status_code
        assert 403 == boss.post(f"/admin/signalbox/{name}/{row.pk}/change/", {}).status_code


FILTERS = {"event": "?outcome=failed", "trace": "?kind=task", "delivery": "?state=dead&receiver=shop.tell"}


@pytest.mark.parametrize("model", FILTERS)
def test_the_list_does_not_count_the_table(
    boss: Client, add_event: AddEvent, add_trace: Any, add_delivery: Any, model: str
) -> None:
    for add in (add_event, add_trace, add_delivery):
        add()
    for query in ("", "?q=nothing", FILTERS[model]):
        with CaptureQueriesContext(connection) as queries:
            boss.get(f"/admin/signalbox/{model}/{query}")
        assert not [one["sql"] for one in queries if "COUNT(" in one["sql"].upper() and "signalbox" in one["sql"]]


@pytest.mark.parametrize("model", FILTERS)
def test_the_list_asks_for_migrate_without_tables(boss: Client, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(missing_tables, "has_tables", lambda connection: False)
    answer = boss.get(f"/admin/signalbox/{model}/")
    assert (503, True) == (answer.status_code, b"manage.py migrate" in answer.content)


def test_the_list_ends_after_the_newest(boss: Client, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signalbox_admin, "MAX_ROWS", 3)
    Event.objects.all().delete()
    for _ in range(5):
        add_event()
    assert 3 == boss.get("/admin/signalbox/event/").context["cl"].result_count


def test_a_search_uses_an_index(boss: Client, add_event: AddEvent) -> None:
    event = add_event(actor_key="77", object_key="5")
    add_event(actor_key="78", object_key="6")
    for term in (event.trace_id, "actor:77", "shop.Order:5"):
        assert [event] == listed(boss, f"?q={term}")


@pytest.mark.every_database
@pytest.mark.parametrize("model", ["event", "trace"])
def test_a_trace_id_is_compared_as_it_is(boss: Client, add_event: AddEvent, add_trace: Any, model: str) -> None:
    trace_id = "ab" * 16
    row = {"event": add_event, "trace": add_trace}[model](trace_id=trace_id)
    with CaptureQueriesContext(connection) as queries:
        found = boss.get(f"/admin/signalbox/{model}/?q=+{trace_id.upper()}+").context["cl"].result_list
    assert [row] == list(found)
    asked = [one["sql"] for one in queries if trace_id in one["sql"].lower()]
    assert asked
    assert [] == [sql for sql in asked if "UPPER(" in sql or "LIKE" in sql]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("event/", "The list ends after the newest 2,000 that fit"),
        ("trace/", "The list ends after the newest 2,000 that fit"),
        ("event/", "outcome, among the newest 50,000 rows"),
        ("trace/", "kind, among the newest 50,000 rows"),
    ],
)
def test_the_list_names_the_events_that_it_leaves_out(
    boss: Client, add_event: AddEvent, add_trace: Any, address: str, said: str
) -> None:
    add_event()
    add_trace()
    assert said in boss.get(f"/admin/signalbox/{address}").content.decode()


@pytest.mark.every_database
@pytest.mark.parametrize("query", ["?signal=%00", "?outcome=lost", "?q=%00", "?sender=a%00"])
def test_an_invalid_filter_is_ignored(boss: Client, add_event: AddEvent, query: str) -> None:
    add_event()
    assert boss.get(f"/admin/signalbox/event/{query}").status_code in (200, 302, 400)


@pytest.mark.every_database
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("delivery/?state=x", 400),
        ("delivery/?state=%00", 400),
        ("delivery/?state=dead&receiver=%00", 400),
        ("delivery/?q=%00", 400),
        ("delivery/?id=" + "9" * 5000, 400),
        ("delivery/?p=" + "9" * 5000, 200),
        ("delivery/?p=%00", 400),
        ("event/?signal=%00", 400),
        ("event/?trace_id=%00", 400),
        ("trace/?kind=%00", 400),
        *((f"{model}/{'9' * digits}/change/", 404) for model in FILTERS for digits in (30, 5000)),
        *((f"{model}/1%00/change/", 404) for model in FILTERS),
        (f"delivery/{'9' * 5000}/history/", 404),
        (f"delivery/{'9' * 5000}/delete/", 404),
        ("event/1/change/?_changelist_filters=%00", 400),
    ],
)
def test_an_address_that_names_nothing_is_refused(boss: Client, path: str, status: int) -> None:
    assert status == boss.get(f"/admin/signalbox/{path}").status_code


@pytest.mark.every_database
@pytest.mark.parametrize(("selected", "status"), [("9" * 5000, 404), ("9" * 30, 404), ("x", 404), ("1\0", 400)])
def test_an_action_on_no_row_is_refused(boss: Client, selected: str, status: int) -> None:
    answer = boss.post("/admin/signalbox/delivery/", {"action": "retry", "_selected_action": selected})
    assert status == answer.status_code


def test_filters_choose(boss: Client, add_event: AddEvent) -> None:
    event = add_event(signal="update", outcome="rolled_back")
    assert [event] == listed(boss, "?signal=update&outcome=rolled_back")


DELIVERIES = "/admin/signalbox/delivery/"
REPLAY = f"{DELIVERIES}replay/"


@pytest.fixture
def clerk(client: Client) -> Client:
    """Staff who may see deliveries, and change nothing."""
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_delivery"))
    client.force_login(user)
    return client


def may_change(client: Client) -> None:
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="change_delivery"))


def test_deliveries_are_filtered_by_what_they_do(boss: Client, add_delivery: Any) -> None:
    letter = add_delivery(state="dead", next_check_at=None)
    waits = add_delivery(attempts=1)
    for state, found in (("dead", [letter]), ("retrying", [waits]), ("pending", [waits]), ("done", [])):
        assert found == list(boss.get(f"{DELIVERIES}?state={state}").context["cl"].result_list)


@pytest.mark.parametrize(("action", "state"), [("retry", "pending"), ("discard", "discarded")])
def test_a_dead_letter_is_changed_with_the_permission(
    clerk: Client, add_delivery: Any, action: str, state: str
) -> None:
    letter = add_delivery(state="dead", next_check_at=None)
    order = {"action": action, "_selected_action": [letter.pk]}
    assert b'name="action"' not in clerk.get(DELIVERIES).content
    clerk.post(DELIVERIES, order)
    letter.refresh_from_db()
    assert "dead" == letter.state
    may_change(clerk)
    assert f'value="{action}"' in clerk.get(DELIVERIES).content.decode()
    assert "1 of 1 deliveries" in clerk.post(DELIVERIES, order, follow=True).content.decode()
    letter.refresh_from_db()
    assert state == letter.state


def test_past_events_are_replayed_with_the_permission(
    clerk: Client, add_event: AddEvent, durable_receiver: str
) -> None:
    add_event()
    order = {"receiver": durable_receiver, "since": "2026-01-01"}
    assert b"Replay past events" not in clerk.get(DELIVERIES).content
    assert [403, 403] == [answer.status_code for answer in (clerk.get(REPLAY), clerk.post(REPLAY, order))]
    may_change(clerk)
    assert REPLAY.encode() in clerk.get(DELIVERIES).content
    assert durable_receiver in clerk.get(REPLAY).content.decode()
    assert "1 deliveries would be made" in clerk.post(REPLAY, {**order, "count": "1"}).content.decode()
    assert "a time was expected" in clerk.post(REPLAY, {**order, "since": "soon"}).content.decode()
    assert not Delivery.objects.exists()
    assert DELIVERIES == clerk.post(REPLAY, order)["Location"]
    assert durable_receiver == Delivery.objects.get().receiver


class WithButton(HistoryAdminMixin, UserAdmin):  # type: ignore[type-arg]
    pass


def user_page(client: Client, kind: type[Any]) -> tuple[str, str]:
    """Return the page of the user who has logged in, as this class shows it, and the button that may be on it."""
    request = client.get("/admin/").wsgi_request
    page: Any = kind(User, admin.site).change_view(request, str(request.user.pk))
    button = (
        f'<a href="/signalbox/object/?sender=auth.User&amp;key={request.user.pk}" class="historylink">Signalbox</a>'
    )
    return page.render().content.decode(), button


def test_the_mixin_adds_a_button_beside_the_admin_s_history(boss: Client) -> None:
    page, button = user_page(boss, UserAdmin)
    assert button not in page
    page, button = user_page(boss, WithButton)
    assert button in page


def test_the_setting_gives_the_button_to_every_model(boss: Client, settings: Any) -> None:
    settings.SIGNALBOX = {"DASHBOARD": {"ADMIN_HISTORY": True}}
    page, button = user_page(boss, UserAdmin)
    assert button in page


def test_the_button_needs_the_permission_to_view_events(client: Client, settings: Any) -> None:
    settings.SIGNALBOX = {"DASHBOARD": {"ADMIN_HISTORY": True}}
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="change_user"))
    client.force_login(user)
    answer = client.get(f"/admin/auth/user/{user.pk}/change/")
    assert (200, False) == (answer.status_code, b">Signalbox</a>" in answer.content)


def test_a_site_without_time_zones_reads_times_in_its_own(boss: Client, add_event: AddEvent) -> None:
    add_event(time=1_790_000_000_000_000)
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        shown = boss.get("/admin/signalbox/event/").content.decode()
    assert "Sept. 21, 2026, 11:13 p.m." in shown
