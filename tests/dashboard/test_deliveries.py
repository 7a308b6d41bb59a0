from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from signalbox.models import Attempt, Delivery, Event, Trace
from signalbox.outbox.worker_registry import WorkerRegistration

pytestmark = pytest.mark.django_db(databases="__all__")

ADDRESS = "/signalbox/deliveries/"


@pytest.fixture
def dead(add_delivery: Callable[..., Delivery]) -> Delivery:
    return add_delivery(state="dead", next_check_at=None, attempts=5, error="ValueError: no such customer", finished=1)


@pytest.fixture
def clerk(operator: User, operator_client: Client) -> Client:
    """The operator, who may change deliveries too."""
    operator.user_permissions.add(Permission.objects.get(codename="change_delivery"))
    return operator_client


def test_the_queue_is_shown_by_state(
    operator_client: Client, add_delivery: Callable[..., Delivery], dead: Delivery
) -> None:
    add_delivery(receiver="shop.signals.tell_stock")
    everything = operator_client.get(ADDRESS).content.decode()
    assert (True, True) == ("tell_stock" in everything, "no such customer" in everything)
    letters = operator_client.get(ADDRESS, {"state": "dead"}).content.decode()
    assert (False, True) == ("tell_stock" in letters, "no such customer" in letters)
    named = operator_client.get(ADDRESS, {"receiver": "tell_stock"}).content.decode()
    assert (True, False) == ("tell_stock" in named, "no such customer" in named)


def test_an_unknown_database_is_not_found(operator_client: Client) -> None:
    assert 404 == operator_client.get(ADDRESS, {"using": "nowhere"}).status_code


def test_an_unknown_state_is_an_error_that_names_the_nearest_one(operator_client: Client, dead: Delivery) -> None:
    answer = operator_client.get(ADDRESS, {"state": "deed"})
    page = answer.content.decode()
    assert 200 == answer.status_code
    assert "At character 1: state is &#x27;deed&#x27;; one of" in page
    assert "Did you mean &#x27;dead&#x27;? No deliveries are shown." in page
    assert "no such customer" not in page


@pytest.mark.every_database
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("?receiver=a%00b", 400),
        ("?state=%00", 400),
        ("?using=%00", 400),
        ("?state=x", 200),
        ("?q=signal:", 200),
        ("?q=took%3E5ms", 200),
        ("?q=%22%00", 400),
        ("?before=" + "9" * 5000, 200),
        ("9" * 100 + "/", 404),
        ("9" * 5000 + "/", 404),
        ("1/?using=%00", 400),
    ],
)
def test_an_address_that_names_no_delivery_is_refused(
    operator_client: Client, dead: Delivery, path: str, status: int
) -> None:
    assert status == operator_client.get(f"{ADDRESS}{path}").status_code


@pytest.mark.every_database
@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"action": "retry", "id": "9" * 5000}, 404),
        ({"action": "retry", "id": "9" * 30}, 404),
        ({"action": "retry", "id": "1\0"}, 400),
        ({"action": "retry", "id": "1", "receiver": "a\0b"}, 400),
    ],
)
def test_a_change_of_no_delivery_is_refused(clerk: Client, values: dict[str, str], status: int) -> None:
    assert status == clerk.post(f"{ADDRESS}change/", values).status_code


def test_an_unknown_receiver_is_named_with_its_counts(operator_client: Client, add_delivery: Any) -> None:
    add_delivery(receiver="shop.signals.renamed", deferred_since=1, next_check_at=None)
    answer = operator_client.get(ADDRESS).content.decode()
    assert "shop.signals.renamed is not a durable receiver of this code: 1 deliveries wait, 0 are dead." in answer


def test_older_deliveries_come_by_key(operator_client: Client, add_delivery: Callable[..., Delivery]) -> None:
    rows = [add_delivery(ordering_key=str(number)) for number in range(51)]
    answer = operator_client.get(ADDRESS, {"view": "list"}).content.decode()
    assert f"?before={rows[1].id}" in answer
    assert f'value="{rows[0].id}"' not in answer


def test_a_dead_letter_is_retried(clerk: Client, dead: Delivery) -> None:
    answer = clerk.post(f"{ADDRESS}change/", {"id": dead.id, "action": "retry", "state": "dead"})
    assert f"{ADDRESS}?q=state%3Adead&result=retry.1" == answer["Location"]
    dead.refresh_from_db()
    assert ("pending", 0) == (dead.state, dead.attempts)


def test_a_dead_letter_is_discarded(clerk: Client, dead: Delivery) -> None:
    clerk.post(f"{ADDRESS}change/", {"id": dead.id, "action": "discard"})
    dead.refresh_from_db()
    assert "discarded" == dead.state


@pytest.mark.parametrize("given", [{"id": "1", "action": "burn"}, {"id": "x", "action": "retry"}, {}])
def test_an_unknown_action_is_not_found(clerk: Client, given: dict[str, str]) -> None:
    assert 404 == clerk.post(f"{ADDRESS}change/", given).status_code


def test_changing_needs_its_own_permission_a_post_and_a_token(
    operator_client: Client, operator: User, dead: Delivery
) -> None:
    order = {"id": str(dead.id), "action": "retry"}
    assert "Retry" not in operator_client.get(ADDRESS).content.decode().partition("<table")[2]
    assert 403 == operator_client.post(f"{ADDRESS}change/", order).status_code
    operator.user_permissions.add(Permission.objects.get(codename="change_delivery"))
    assert 405 == operator_client.get(f"{ADDRESS}change/", order).status_code
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert 403 == strict.post(f"{ADDRESS}change/", order).status_code
    dead.refresh_from_db()
    assert "dead" == dead.state


def test_changing_a_delivery_needs_the_permission(client: Client, dead: Delivery) -> None:
    for user in (None, User.objects.create_user("clerk", is_staff=True)):
        if user:
            user.user_permissions.add(Permission.objects.get(codename="change_delivery"))
            client.force_login(user)
        assert client.post(f"{ADDRESS}change/", {"id": dead.id, "action": "retry"}).status_code in (302, 403)
    dead.refresh_from_db()
    assert "dead" == dead.state


def test_an_event_shows_its_deliveries(
    operator_client: Client, add_event: Callable[..., Event], dead: Delivery
) -> None:
    event = add_event(trace_id=dead.trace_id, span=dead.span)
    assert "no such customer" in operator_client.get(f"/signalbox/event/{event.id}/").content.decode()


def test_a_delivery_shows_each_attempt(
    operator_client: Client, dead: Delivery, add_attempt: Callable[..., Attempt]
) -> None:
    add_attempt(dead, 1, 10, 2000, outcome="failed", error="ValueError: no such customer", retry_at=dead.created + 9000)
    add_attempt(dead, 2, 9000, 4000, outcome="lost", error="The worker was killed", worker="web-2:77")
    answer = operator_client.get(f"{ADDRESS}{dead.id}/").content.decode()
    for text in ("web-1:4211", "web-2:77", "The worker was killed", "2.00 ms", "4.00 ms", ">lost<", ">failed<"):
        assert text in answer


def test_a_delivery_shows_its_event_and_its_attempts(
    operator_client: Client, add_event: Callable[..., Event], add_trace: Callable[..., Trace], dead: Delivery
) -> None:
    event = add_event(trace_id=dead.trace_id, span=dead.span, data={"changes": {"status": ["open", "paid"]}})
    add_trace(trace_id=dead.trace_id, kind="task", status="failed", data={"delivery": dead.id, "attempt": 4})
    assert f'href="{ADDRESS}{dead.id}/"' in operator_client.get(ADDRESS).content.decode()
    answer = operator_client.get(f"{ADDRESS}{dead.id}/").content.decode()
    for text in ("send_invoice", "no such customer", f"/signalbox/event/{event.id}/", "paid", "Attempts with events"):
        assert text in answer
    assert 404 == operator_client.get(f"{ADDRESS}{dead.id + 1}/").status_code


def test_a_blocked_delivery_links_to_the_dead_letter(
    operator_client: Client, add_delivery: Callable[..., Delivery]
) -> None:
    letter = add_delivery(state="dead", next_check_at=None, partition_id=9)
    behind = add_delivery(partition_id=9)
    answer = operator_client.get(f"{ADDRESS}{behind.id}/").content.decode()
    assert f'blocked by <a href="{ADDRESS}{letter.id}/">' in answer


def test_a_delivery_is_retried_on_its_page_with_the_permission(
    operator_client: Client, operator: User, dead: Delivery
) -> None:
    address, order = f"{ADDRESS}{dead.id}/", {"id": str(dead.id), "action": "retry", "from_detail": "1"}
    assert "<form" not in operator_client.get(address).content.decode().partition("<main")[2].partition("</main")[0]
    assert 403 == operator_client.post(f"{ADDRESS}change/", order).status_code
    operator.user_permissions.add(Permission.objects.get(codename="change_delivery"))
    assert 'value="discard"' in operator_client.get(address).content.decode()
    assert address == operator_client.post(f"{ADDRESS}change/", order)["Location"]
    dead.refresh_from_db()
    assert "pending" == dead.state


def test_viewing_a_delivery_needs_the_permission(client: Client, dead: Delivery) -> None:
    assert 302 == client.get(f"{ADDRESS}{dead.id}/").status_code
    client.force_login(User.objects.create_user("clerk", is_staff=True))
    assert 403 == client.get(f"{ADDRESS}{dead.id}/").status_code


def test_past_events_are_counted_and_replayed(
    clerk: Client, add_event: Callable[..., Event], durable_receiver: str
) -> None:
    add_event()
    add_event(sender="shop.Tag")
    assert f'<option value="{durable_receiver}">' in clerk.get(ADDRESS).content.decode()
    order = {"receiver": durable_receiver, "since": "2026-01-01"}
    counted = clerk.post(f"{ADDRESS}replay/", {**order, "count": "1"}).content.decode()
    assert "<strong>1</strong> delivery would be created" in counted
    assert not Delivery.objects.exists()
    assert f"{ADDRESS}?q=receiver%3A{durable_receiver}" == clerk.post(f"{ADDRESS}replay/", order)["Location"]
    assert durable_receiver == Delivery.objects.get().receiver
    clerk.post(f"{ADDRESS}replay/", {**order, "missing": "on"})
    assert 1 == Delivery.objects.count()


@pytest.mark.parametrize("given", [{"receiver": "shop.unknown"}, {"since": "tomorrow-ish"}, {"since": ""}])
def test_an_invalid_replay_shows_an_error(clerk: Client, durable_receiver: str, given: dict[str, str]) -> None:
    answer = clerk.post(f"{ADDRESS}replay/", {"receiver": durable_receiver, "since": "2h", **given})
    assert (400, True) == (answer.status_code, 'role="alert"' in answer.content.decode())
    assert not Delivery.objects.exists()


def test_replaying_needs_its_own_permission_a_post_and_a_token(
    operator_client: Client, operator: User, add_event: Callable[..., Event], durable_receiver: str
) -> None:
    add_event()
    order = {"receiver": durable_receiver, "since": "2026-01-01"}
    assert "Replay past events" not in operator_client.get(ADDRESS).content.decode()
    assert 403 == operator_client.post(f"{ADDRESS}replay/", order).status_code
    operator.user_permissions.add(Permission.objects.get(codename="change_delivery"))
    assert 405 == operator_client.get(f"{ADDRESS}replay/", order).status_code
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert 403 == strict.post(f"{ADDRESS}replay/", order).status_code
    assert not Delivery.objects.exists()


def test_a_dead_letter_shows_its_traceback(
    operator_client: Client, add_delivery: Callable[..., Delivery], dead: Delivery
) -> None:
    dead.traceback = '  File "shop/signals.py", line 7, in <lambda>\nValueError: no such customer'
    dead.save(update_fields=["traceback"])
    for address in (ADDRESS, f"{ADDRESS}{dead.id}/"):
        assert "line 7, in &lt;lambda&gt;" in operator_client.get(address).content.decode()


def test_a_delivery_names_the_earlier_one_that_it_waits_for(operator_client: Client, add_delivery: Any) -> None:
    first, second = add_delivery(partition_id=9), add_delivery(partition_id=9)
    page = operator_client.get(ADDRESS).content.decode()
    assert f'<span class="status">waits</span> for <a href="{ADDRESS}{first.pk}/?using=default">#{first.pk}</a>' in page
    assert f'for <a href="{ADDRESS}{second.pk}/' not in page
    assert 200 == operator_client.get(f"{ADDRESS}{first.pk}/?using=default").status_code


def test_the_totals_obey_the_filter(operator_client: Client, add_delivery: Any, dead: Delivery) -> None:
    add_delivery(receiver="shop.signals.tell_stock")
    for text in ("receiver:tell_stock", "receiver:tell_stock state:dead", '-error:"no such"'):
        page = operator_client.get(ADDRESS, {"q": text}).content.decode()
        assert "<dt>Due</dt><dd>1</dd>" in page
        assert "<dt>Dead</dt><dd>0</dd>" in page


def test_the_tabs_keep_the_other_tokens(operator_client: Client, dead: Delivery) -> None:
    page = operator_client.get(ADDRESS, {"q": "state:done model:shop.Order"}).content.decode()
    assert 'href="?q=model%3Ashop.Order" id="tab-all"' in page
    assert 'href="?q=model%3Ashop.Order+state%3Adead" id="tab-dead"' in page
    assert 'id="tab-done" aria-current="page"' in page
    assert 1 == page.count('aria-current="page">') - page.count("<nav aria-label")


def test_an_invalid_filter_keeps_the_list_of_a_script(operator_client: Client, dead: Delivery) -> None:
    answer = operator_client.get(ADDRESS, {"q": "stat:dead"}, headers={"HX-Target": "queue"})
    assert "#filter-error" == answer["HX-Retarget"]
    assert "Did you mean state:?" in answer.content.decode()
    valid = operator_client.get(ADDRESS, {"q": "state:dead"}, headers={"HX-Target": "queue"})
    assert 'role="alert" hx-swap-oob="true"></p>' in valid.content.decode()


def test_groups_are_opened_by_the_address(operator_client: Client, add_delivery: Any) -> None:
    for number in range(40):
        add_delivery(state="dead", error=f"ValueError: no customer {number}")
        add_delivery(state="dead", error="OSError: refused", receiver="shop.signals.tell_stock")
    page = operator_client.get(ADDRESS, {"state": "dead"}).content.decode()
    assert (2, 0) == (page.count('aria-expanded="false"'), page.count("data-line"))
    [link, _] = [part.partition('"')[0] for part in page.split(' href="?')[1:] if "open=" in part.partition('"')[0]]
    opened = operator_client.get(f"{ADDRESS}?{link}".replace("&amp;", "&")).content.decode()
    assert (1, 40) == (opened.count('aria-expanded="true"'), opened.count("data-line"))


def test_workers_that_are_alive_are_shown(operator_client: Client, dead: Delivery) -> None:
    assert "0 workers are alive" in operator_client.get(ADDRESS).content.decode()
    with WorkerRegistration(["default"], ["mail"], 4):
        page = operator_client.get(ADDRESS).content.decode()
    assert "1 worker is alive" in page
    assert "4 threads, mail" in page
