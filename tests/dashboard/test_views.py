from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.template.loader import render_to_string
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

import signalbox
from signalbox.doctor import Finding, Severity, SourceLine
from signalbox.models import Delivery, Event, Trace
from signalbox.queries import live_updates, object_page, trace_summary
from signalbox.queries.live_updates import Position
from tests.events import get_newest_event
from tests.shop.models import Customer, Item10, Order, Tag

pytestmark = pytest.mark.django_db

AddEvent = Callable[..., Event]


def test_a_poll_is_answered_with_the_lines_that_are_new(operator_client: Client, add_event: AddEvent) -> None:
    position = str(Position.at_end())
    assert 204 == operator_client.get(reverse("signalbox:live"), {"position": position}).status_code
    event = add_event()
    answer = operator_client.get(reverse("signalbox:live"), {"position": position}).content.decode()
    assert f'id="t-{event.trace_id}"' in answer
    assert f"position={Position.at_end()}" in answer


def test_an_idle_poll_asks_for_the_session_the_user_the_permissions_and_what_is_new(
    operator_client: Client, add_event: AddEvent
) -> None:
    add_event()
    given = {"position": str(Position.at_end())}
    with CaptureQueriesContext(connection) as queries:
        assert 204 == operator_client.get(reverse("signalbox:live"), given).status_code
    tables = [re.findall(r"FROM .(\w+)", one["sql"])[0] for one in queries]
    assert ["django_session", "auth_user", "auth_permission", "auth_permission", "signalbox_event"] == tables


def test_a_page_that_is_far_behind_reloads_its_list(
    operator_client: Client, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "MAX_LIVE_TRACES", 2)
    position = str(Position.at_end())
    for _ in range(3):
        add_event()
    answer = operator_client.get(reverse("signalbox:live"), {"position": position})
    assert (204, "signalbox:reload", b"") == (answer.status_code, answer["HX-Trigger"], answer.content)
    fetched = operator_client.get(reverse("signalbox:timeline"), headers={"HX-Target": "results"}).content.decode()
    assert f"position={Position.at_end()}" in fetched


def counted(page: Client, **given: str) -> dict[str, Any]:
    answer: dict[str, Any] = page.get(reverse("signalbox:live"), {"count": "1", **given}).json()
    return answer


def test_a_paused_page_receives_only_the_number_of_new_traces(
    operator_client: Client, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = str(Position.at_end())
    assert {"trace_count": 0, "has_more": False} == counted(operator_client, position=position)
    again = add_event()
    add_event(trace_id=again.trace_id)
    add_event(sender="shop.Tag")
    assert {"trace_count": 2, "has_more": False} == counted(operator_client, position=position)
    assert {"trace_count": 1, "has_more": False} == counted(operator_client, position=position, sender="shop.Tag")
    monkeypatch.setattr(live_updates, "MAX_LIVE_TRACES", 1)
    assert {"trace_count": 1, "has_more": True} == counted(operator_client, position=position)


@pytest.mark.django_db(transaction=True)
def test_it_is_live_under_asgi_too(operator: User, async_client: AsyncClient, add_event: AddEvent) -> None:
    from asgiref.sync import async_to_sync

    position = str(Position.at_end())
    event = add_event()

    async def poll() -> bytes:
        await async_client.aforce_login(operator)
        answer = await async_client.get(reverse("signalbox:live"), {"position": position})
        return bytes(answer.content)

    assert event.trace_id.encode() in async_to_sync(poll)()


def test_htmx_is_given_the_part_that_it_asks_for(operator_client: Client, add_event: AddEvent) -> None:
    add_event()
    for target in ("results", "next-page"):
        answer = operator_client.get(reverse("signalbox:timeline"), headers={"HX-Target": target}).content
        assert (True, False) == (b"data-line" in answer, b"<html" in answer)


def test_an_empty_register_says_what_to_do(operator_client: Client) -> None:
    assert "No events yet." in operator_client.get(reverse("signalbox:timeline")).content.decode()


@pytest.mark.parametrize(
    "path", ["trace/none/", "event/999999/", "event/999999/revert/", "object/?sender=shop.Order&key=404", "object/"]
)
def test_missing_objects_are_not_found(operator_client: Client, path: str) -> None:
    assert 404 == operator_client.get(f"/signalbox/{path}").status_code


@pytest.mark.every_database
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("?since=0001-01-01", 200),
        ("?until=0001-01-01", 200),
        ("?since=0001-01-01T00:00%2B14:00", 200),
        ("?since=9999-12-31T23:30", 200),
        ("?until=9999-12-31T23:30", 200),
        ("?until=9999-12-31", 200),
        ("?since=99999999999999999999d", 200),
        ("histogram/?since=0001-01-01&until=9999-12-31T23:30", 200),
        ("?text=%00", 400),
        ("?text=a%00b&sender=a.%00B&object=a.B:%00&actor=%00&signal=%00", 400),
        ("?outcome=%00&group=%00&kind=%00&since=%00", 400),
        ("histogram/?text=a%00b", 400),
        ("object/?sender=%00&key=1", 400),
        ("object/?sender=shop.Order&key=%00", 400),
        (f"object/?sender=shop.Order&key={'9' * 40}", 404),
        ("trace/%00/", 404),
        ("trace/%00/tree/", 404),
        (f"trace/{'z' * 32}/", 404),
        (f"trace/{'a' * 32}/?after={'9' * 40}", 404),
        (f"event/{'9' * 40}/", 404),
        (f"event/{'9' * 5000}/", 404),
        ("live/?position=1.1~7.1.1.99999999999", 204),
        (f"live/?position={'9' * 30}.1", 204),
        (f"live/?position=1.1~0.1.{'9' * 30}.1", 204),
        (f"live/?position={'9' * 18}.{'9' * 18}~0.1.{'9' * 18}.{'9' * 18}", 204),
        ("live/?position=-1.1", 204),
        ("live/?position=%00", 400),
    ],
)
def test_no_address_breaks_the_page(operator_client: Client, path: str, status: int) -> None:
    assert status == operator_client.get(f"/signalbox/{path}", follow=True).status_code


@pytest.mark.parametrize("query", ["before=x", "before=-1", "before=" + "9" * 40, "before=²", "position=1"])
def test_an_invalid_id_is_ignored(operator_client: Client, add_event: AddEvent, query: str) -> None:
    add_event()
    assert 200 == operator_client.get(f"/signalbox/?{query}").status_code


def test_a_trace_with_more_events_than_a_page_has_a_next_page(operator_client: Client, add_event: AddEvent) -> None:
    events = [add_event(trace_id="d" * 32) for _ in range(501)]
    answer = operator_client.get(f"/signalbox/trace/{'d' * 32}/").content.decode()
    assert f"?after={events[499].id}" in answer
    assert f"/event/{events[500].id}/" not in answer
    assert (
        f"/event/{events[500].id}/"
        in operator_client.get(f"/signalbox/trace/{'d' * 32}/?after={events[499].id}").content.decode()
    )


def test_a_trace_shows_that_more_work_shares_it(
    operator_client: Client, add_event: AddEvent, add_trace: Callable[..., Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = add_event(trace_id="c" * 32)
    for number in range(4):
        add_trace(trace_id="c" * 32, name=f"GET /{number}/", time=number)
    address = f"/signalbox/trace/{'c' * 32}/"
    assert "4 pieces of work share this trace: " in operator_client.get(address).content.decode()
    monkeypatch.setattr(trace_summary, "MAX_ROWS_PER_TRACE", 2)
    answer = operator_client.get(address).content.decode()
    assert "More than 2 pieces of work share this trace; the newest of them: " in answer
    assert "GET /1/" not in answer
    assert "GET /2/" in operator_client.get(f"/signalbox/event/{event.id}/").content.decode()


def test_an_unfinished_trace_is_not_shown_as_running(operator_client: Client, add_event: AddEvent) -> None:
    event = add_event()
    for address in ("/signalbox/", f"/signalbox/trace/{event.trace_id}/"):
        answer = operator_client.get(address).content.decode()
        assert ('class="status' in answer, ">unfinished<" in answer, "unning" in answer) == (True, True, False)


def test_a_crashed_request_is_marked(operator_client: Client, add_event: AddEvent) -> None:
    crash = add_event(signal="got_request_exception", outcome="sent")
    assert "has-errors" in operator_client.get("/signalbox/").content.decode()
    assert "flag bad" in operator_client.get(f"/signalbox/trace/{crash.trace_id}/tree/").content.decode()
    answer = operator_client.get(f"/signalbox/trace/{crash.trace_id}/").content.decode()
    assert ("has-errors" in answer, "error-bar" in answer) == (True, True)


def test_an_event_names_its_neighbours(operator_client: Client, add_event: AddEvent) -> None:
    before, event, after = add_event(), add_event(), add_event()
    add_event(object_key="8")
    answer = operator_client.get(f"/signalbox/event/{event.id}/").content.decode()
    assert f"/event/{before.id}/" in answer
    assert f"/event/{after.id}/" in answer


def test_a_foreign_key_is_shown_with_its_label(operator_client: Client, add_event: AddEvent) -> None:
    event = add_event(data={"row": {"customer": 4}, "labels": {"customer": {"4": "Ada & Co"}}})
    assert "Ada &amp; Co" in operator_client.get(f"/signalbox/event/{event.id}/").content.decode()


def test_moments_of_values_are_shown_in_the_time_zone_of_the_page(operator_client: Client, operator: User) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="change_item10"))
    item = Item10.objects.create(name="a", moment=dt.datetime(2026, 3, 1, 11, tzinfo=dt.UTC))
    item.moment = dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC)
    item.save()
    change, creation = Event.objects.filter(sender="shop.Item10", signal="post_save").order_by("-id")
    paths = [
        f"/signalbox/event/{creation.id}/",
        f"/signalbox/event/{change.id}/",
        f"/signalbox/event/{change.id}/revert/",
        f"/signalbox/object/?sender=shop.Item10&key={item.pk}",
    ]
    with override_settings(TIME_ZONE="Europe/Berlin"):
        pages = [operator_client.get(path).content.decode() for path in paths]
    winter, summer = "· 2026-03-01 12:00:00 UTC+01:00", "· 2026-07-01 12:00:00 UTC+02:00"
    assert [True, True, True, False] == [winter in page for page in pages]
    assert [False, True, True, True] == [summer in page for page in pages]


def test_an_object_of_an_uninstalled_model_has_a_history(operator_client: Client, add_event: AddEvent) -> None:
    add_event(sender="gone.Model", object_label="It was here")
    answer = operator_client.get("/signalbox/object/?sender=gone.Model&key=7").content.decode()
    assert "It was here" in answer
    assert "Its model is not installed." in answer


@pytest.fixture
def changed(operator_client: Client) -> Event:
    order = Order.objects.create(number="5")
    order.status = "paid"
    order.save()
    event: Event = Event.objects.filter(signal="post_save", sender="shop.Order").order_by("-id")[0]
    return event


def test_reverting_needs_the_permission_to_change_the_object(operator_client: Client, changed: Event) -> None:
    for call in (operator_client.get, operator_client.post):
        assert 403 == call(f"/signalbox/event/{changed.id}/revert/").status_code
    assert "Revert" not in operator_client.get(f"/signalbox/event/{changed.id}/").content.decode()


def test_a_post_reverts_the_event_and_is_recorded(operator_client: Client, operator: User, changed: Event) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="change_order"))
    address = f"/signalbox/event/{changed.id}/revert/"
    assert 200 == operator_client.get(address).status_code
    assert "paid" == Order.objects.get().status
    answer = operator_client.post(address)
    assert f"/signalbox/object/?sender=shop.Order&key={changed.object_key}" == answer["Location"]
    assert "open" == Order.objects.get().status
    assert {"status": ["paid", "open"]}.items() <= Event.objects.order_by("-id").filter(signal="post_save")[0].data[
        "changes"
    ].items()


def test_a_failed_revert_shows_its_reason(operator_client: Client, operator: User, changed: Event) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="change_order"))
    Order.objects.all().delete()
    answer = operator_client.post(f"/signalbox/event/{changed.id}/revert/")
    assert (409, True) == (answer.status_code, b"does not exist any more" in answer.content)


def test_a_revert_that_a_field_prevents_says_so(operator_client: Client, operator: User, add_event: AddEvent) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="add_order"))
    event = add_event(signal="post_delete", object_key="5", data={"row": {"id": 5, "status": "open"}})
    content = operator_client.get(f"/signalbox/event/{event.id}/revert/").content.decode()
    assert "be reverted, because a field" in content
    assert "The object is saved like in your code" not in content


@pytest.mark.parametrize(
    ("told", "signal", "offered"),
    [
        ({"changes": {"status": ["open", "paid"]}}, "post_save", True),
        ({"changes": {"status": ["open", "paid"], "colour": ["red", "blue"]}}, "post_save", False),
        ({"row": {"id": 5, "status": "open", "colour": "red"}}, "post_delete", False),
        ({"row": {"id": 5, "lines": []}}, "post_delete", False),
        ({"row": {"id": 5, "status": "open"}}, "post_delete", True),
    ],
)
def test_reverting_is_offered_only_if_the_fields_exist(
    told: dict[str, Any], signal: str, offered: bool, operator_client: Client, operator: User, add_event: AddEvent
) -> None:
    for name in ("change_order", "add_order"):
        operator.user_permissions.add(Permission.objects.get(codename=name))
    event = add_event(signal=signal, data=told)
    assert offered == ("Revert" in operator_client.get(f"/signalbox/event/{event.id}/").content.decode())
    assert (200 if offered else 403) == operator_client.get(f"/signalbox/event/{event.id}/revert/").status_code


def test_the_preview_shows_current_and_restored_values(operator_client: Client, operator: User, changed: Event) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="change_order"))
    Order.objects.update(status="sent")
    page = operator_client.get(f"/signalbox/event/{changed.id}/revert/").content.decode()
    assert '<del>sent</del> <span class="dim">· Sent</span>' in page
    assert '<ins>open</ins> <span class="dim">· Open</span>' in page


def test_the_preview_shows_why_a_field_is_not_restored(
    operator_client: Client, operator: User, add_event: AddEvent
) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="add_order"))
    event = add_event(signal="post_delete", data={"row": {"id": 5, "status": "open"}})
    page = operator_client.get(f"/signalbox/event/{event.id}/revert/").content.decode()
    assert "The value of &#x27;number&#x27; was not recorded." in page
    assert 'class="button danger"' not in page


def test_a_newer_state_and_relations_are_options_of_the_page(operator_client: Client, operator: User) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="add_order"))
    order = Order.objects.create(number="5")
    order.tags.add(Tag.objects.create(name="gift"))
    Order.objects.filter(pk=order.pk).update(status="paid")
    order.delete()
    deleted = get_newest_event(Order, "post_delete")
    address = f"/signalbox/event/{deleted.id}/revert/"
    page = operator_client.get(address).content.decode()
    assert "(newer than the event" in page
    assert "The relation &#x27;tags&#x27; is restored only on request." in page
    page = operator_client.get(address, {"event_values": "1", "relations": "1"}).content.decode()
    assert "(newer than the event" not in page
    assert '<input type="hidden" name="relations" value="1">' in page
    operator_client.post(address, {"event_values": "1", "relations": "1"})
    assert ("open", "gift") == Order.objects.values_list("status", "tags__name").get()


def test_a_reverted_relation_leads_to_its_object(operator_client: Client, operator: User) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="change_order"))
    order = Order.objects.create(number="5")
    order.tags.add(Tag.objects.create(name="gift"))
    event = get_newest_event(Order.tags.through, "m2m_changed")
    answer = operator_client.post(f"/signalbox/event/{event.id}/revert/")
    assert f"/signalbox/object/?sender=shop.Order&key={order.pk}" == answer["Location"]
    assert not order.tags.exists()


def test_an_object_page_shows_relations_and_labels(operator_client: Client) -> None:
    order = Order.objects.create(number="5", customer=Customer.objects.create(name="Ada"))
    tag = Tag.objects.create(name="gift")
    order.tags.add(tag)
    page = operator_client.get(f"/signalbox/object/?sender=shop.Order&key={order.pk}").content.decode()
    assert f"[{tag.pk}]" in page
    assert f'{order.customer_id} <span class="dim">· Ada</span>' in page
    assert 'open <span class="dim">· Open</span>' in page


def test_changed_values_are_shown_with_their_labels(operator_client: Client, changed: Event) -> None:
    page = operator_client.get(f"/signalbox/event/{changed.id}/").content.decode()
    assert '<ins>paid</ins> <span class="dim">· Paid</span>' in page


def test_reverting_needs_a_csrf_token(operator: User, changed: Event) -> None:
    operator.user_permissions.add(Permission.objects.get(codename="change_order"))
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert 403 == strict.post(f"/signalbox/event/{changed.id}/revert/").status_code
    assert "paid" == Order.objects.get().status


def test_a_finding_without_a_place_names_its_receiver_and_signal() -> None:
    finding = Finding(
        id="signalbox.D001",
        rule="dead-receiver",
        severity=Severity.WARNING,
        app="shop",
        path="",
        line=0,
        location="",
        signal="post_save",
        receiver="shop.signals.tell",
        message="It never runs.",
        reason="Nothing held it.",
        hint="Hold it.",
        excerpt=(),
    )
    page = render_to_string("signalbox/parts/findings.html", {"findings": [finding], "seconds": 0.5})
    assert ("shop.signals.tell" in page, ">post_save<" in page, "data-copy" in page) == (True, True, False)


SHADOWED = Finding(
    id="signalbox.D002",
    rule="shadowed-receiver",
    severity=Severity.ERROR,
    app="shop",
    path="/site/shop/signals.py",
    line=2,
    location="shop/signals.py:2",
    signal="post_save",
    receiver="shop.signals.tell",
    message="<b>tell</b> never runs.",
    reason="A second function took its name.",
    hint="Give it another.",
    excerpt=(
        SourceLine(number=1, text="@receiver(post_save)", highlighted=False),
        SourceLine(number=2, text="def tell():", highlighted=True),
    ),
)


def test_a_finding_links_to_the_page_of_its_rule() -> None:
    page = render_to_string("signalbox/parts/findings.html", {"findings": [SHADOWED], "seconds": 0.5})
    assert f'<a class="dim" href="{SHADOWED.url}" rel="noreferrer">{SHADOWED.rule}</a>' in page


def test_findings_are_grouped_by_severity_with_source_and_hint() -> None:
    page = render_to_string("signalbox/parts/findings.html", {"findings": [SHADOWED], "seconds": 0.5, "source": True})
    for said in ("Errors", "&lt;b&gt;tell&lt;/b&gt; never runs.", "shop/signals.py:2", "A second", "Give it another."):
        assert said in page
    assert '<span class="code highlighted"><span class="n">2</span>def tell():' in page


def test_the_source_of_a_finding_is_shown_only_if_the_setting_is_on(
    operator_client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signalbox.doctor.examine", lambda: [SHADOWED])
    shown = operator_client.get("/signalbox/doctor/findings/").content.decode()
    assert ("Give it another." in shown, "def tell():" in shown) == (True, False)
    settings.SIGNALBOX = {"DASHBOARD": {"SHOW_SOURCE": True}}
    assert "def tell():" in operator_client.get("/signalbox/doctor/findings/").content.decode()


@pytest.mark.parametrize("query", ["sender=&key=", "sender=shop.Order&key=", "sender=&key=7"])
def test_without_a_model_and_a_key_there_is_no_object(operator_client: Client, add_event: AddEvent, query: str) -> None:
    add_event(signal="request_started", sender="", object_key="")
    add_event(sender="shop.Order", object_key="")
    assert 404 == operator_client.get(f"/signalbox/object/?{query}").status_code


def test_pages_accept_only_get(operator_client: Client, add_event: AddEvent) -> None:
    event = add_event()
    for path in ("", "live/", "histogram/", f"trace/{event.trace_id}/", f"event/{event.id}/", "map/", "doctor/"):
        assert 405 == operator_client.post(f"/signalbox/{path}").status_code


def test_the_page_s_own_files_are_not_recorded(operator_client: Client) -> None:
    operator_client.get("/static/signalbox/page.js")
    assert [] == list(Trace.objects.filter(name__contains="static/signalbox"))


@override_settings(AUTH_USER_MODEL="shop.Customer")
def test_a_model_that_another_replaces_has_no_history_to_show() -> None:
    assert object_page.find_object("auth.User", "1").history is None


@pytest.mark.parametrize(
    "path", ["", "?since=15m", "histogram/", "suggestions/", "map/", "event/{id}/", "trace/{trace}/"]
)
def test_a_site_without_time_zones_has_its_page_too(operator_client: Client, add_event: AddEvent, path: str) -> None:
    event = add_event()
    with override_settings(USE_TZ=False):
        answer = operator_client.get(f"/signalbox/{path.format(id=event.id, trace=event.trace_id)}", follow=True)
    assert 200 == answer.status_code


def test_each_page_names_the_objects_of_a_relation_and_marks_present_ones(operator_client: Client) -> None:
    order = Order.objects.create(number="1")
    red, blue = Tag.objects.create(name="<red>"), Tag.objects.create(name="blue")
    with signalbox.trace("relations") as trace:
        order.tags.add(red)
        order.tags.add(blue.pk)
    first, second = Event.objects.filter(signal="m2m_changed").order_by("id")
    recorded, present = "tags: added &lt;red&gt;", "tags: added blue (present names)"
    for path in (f"trace/{trace.id}/", f"trace/{trace.id}/tree/"):
        text = operator_client.get(f"/signalbox/{path}").content.decode()
        assert f'{recorded}"' in text
        assert f'{present}"' in text
    assert f'{recorded}"' in operator_client.get(f"/signalbox/event/{first.pk}/").content.decode()
    Event.objects.exclude(pk=second.pk).delete()
    for path in (f"event/{second.pk}/", f"object/?sender=shop.Order&key={order.pk}", ""):
        assert f'{present}"' in operator_client.get(f"/signalbox/{path}").content.decode()


def test_the_deliveries_of_a_trace_are_shown_after_its_events_were_deleted(
    operator_client: Client, add_delivery: Callable[..., Delivery]
) -> None:
    delivery = add_delivery(trace_id="1" * 32, state="dead", error="ValueError: no price")
    text = operator_client.get(f"/signalbox/trace/{'1' * 32}/").content.decode()
    assert "Deleted trace" in text
    assert "ValueError: no price" in text
    assert "1970" not in text
    assert 'aria-label="Waterfall"' not in text
    delivery.delete()
    assert 404 == operator_client.get(f"/signalbox/trace/{'1' * 32}/").status_code
