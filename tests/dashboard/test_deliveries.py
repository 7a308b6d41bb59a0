from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from signalbox.models import Delivery, Event, Trace

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
    named = operator_client.get(ADDRESS, {"receiver": "stock"}).content.decode()
    assert (True, False) == ("tell_stock" in named, "no such customer" in named)


def test_a_state_that_there_is_not_is_not_found(operator_client: Client) -> None:
    for query in ({"state": "lost"}, {"using": "nowhere"}):
        assert 404 == operator_client.get(ADDRESS, query).status_code


@pytest.mark.every_database
def test_a_receiver_that_no_database_can_name_is_not_there(operator_client: Client, dead: Delivery) -> None:
    answer = operator_client.get(ADDRESS, {"receiver": "a\0b"})
    assert (200, False) == (answer.status_code, b"no such customer" in answer.content)


def test_older_deliveries_come_by_key(operator_client: Client, add_delivery: Callable[..., Delivery]) -> None:
    rows = [add_delivery(ordering_key=str(number)) for number in range(51)]
    answer = operator_client.get(ADDRESS).content.decode()
    assert f"?before={rows[1].id}" in answer
    assert f'value="{rows[0].id}"' not in answer


def test_a_dead_letter_is_tried_again(clerk: Client, dead: Delivery) -> None:
    answer = clerk.post(f"{ADDRESS}change/", {"id": dead.id, "action": "retry", "state": "dead"})
    assert f"{ADDRESS}?state=dead" == answer["Location"]
    dead.refresh_from_db()
    assert ("pending", 0) == (dead.state, dead.attempts)


def test_a_dead_letter_is_let_go(clerk: Client, dead: Delivery) -> None:
    clerk.post(f"{ADDRESS}change/", {"id": dead.id, "action": "discard"})
    dead.refresh_from_db()
    assert "discarded" == dead.state


def test_all_dead_letters_of_a_receiver_are_tried_again_together(
    clerk: Client, dead: Delivery, add_delivery: Callable[..., Delivery]
) -> None:
    other = add_delivery(state="dead", receiver="shop.signals.tell_stock", next_check_at=None)
    clerk.post(f"{ADDRESS}change/", {"id": "dead", "action": "retry", "receiver": "send_invoice"})
    dead.refresh_from_db()
    other.refresh_from_db()
    assert ("pending", "dead") == (dead.state, other.state)


@pytest.mark.parametrize("given", [{"id": "1", "action": "burn"}, {"id": "x", "action": "retry"}, {}])
def test_an_action_that_there_is_not_is_not_found(clerk: Client, given: dict[str, str]) -> None:
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


def test_nobody_else_changes_a_delivery(client: Client, dead: Delivery) -> None:
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


def test_a_delivery_tells_what_it_is_for_and_what_became_of_it(
    operator_client: Client, add_event: Callable[..., Event], add_trace: Callable[..., Trace], dead: Delivery
) -> None:
    event = add_event(trace_id=dead.trace_id, span=dead.span, data={"changes": {"status": ["open", "paid"]}})
    add_trace(trace_id=dead.trace_id, kind="task", status="failed", data={"delivery": dead.id, "attempt": 4})
    assert f'href="{ADDRESS}{dead.id}/"' in operator_client.get(ADDRESS).content.decode()
    answer = operator_client.get(f"{ADDRESS}{dead.id}/").content.decode()
    for text in ("send_invoice", "no such customer", f"/signalbox/event/{event.id}/", "paid", "Attempts that left"):
        assert text in answer
    assert 404 == operator_client.get(f"{ADDRESS}{dead.id + 1}/").status_code


def test_a_delivery_says_behind_which_dead_letter_it_stands(
    operator_client: Client, add_delivery: Callable[..., Delivery]
) -> None:
    letter = add_delivery(state="dead", next_check_at=None, partition_id=9)
    behind = add_delivery(partition_id=9)
    answer = operator_client.get(f"{ADDRESS}{behind.id}/").content.decode()
    assert f'behind <a href="{ADDRESS}{letter.id}/">' in answer


def test_a_delivery_is_tried_again_on_its_own_page_by_whoever_may(
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


def test_nobody_else_sees_a_delivery(client: Client, dead: Delivery) -> None:
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
    assert "<strong>1</strong> delivery would be made" in counted
    assert not Delivery.objects.exists()
    assert f"{ADDRESS}?receiver={durable_receiver}" == clerk.post(f"{ADDRESS}replay/", order)["Location"]
    assert durable_receiver == Delivery.objects.get().receiver
    clerk.post(f"{ADDRESS}replay/", {**order, "missing": "on"})
    assert 1 == Delivery.objects.count()


@pytest.mark.parametrize("given", [{"receiver": "shop.nobody"}, {"since": "tomorrow-ish"}, {"since": ""}])
def test_a_replay_that_makes_no_sense_says_why(clerk: Client, durable_receiver: str, given: dict[str, str]) -> None:
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


def test_a_dead_letter_tells_where_it_was_raised(
    operator_client: Client, add_delivery: Callable[..., Delivery], dead: Delivery
) -> None:
    dead.traceback = '  File "shop/signals.py", line 7, in <lambda>\nValueError: no such customer'
    dead.save(update_fields=["traceback"])
    for address in (ADDRESS, f"{ADDRESS}{dead.id}/"):
        assert "line 7, in &lt;lambda&gt;" in operator_client.get(address).content.decode()
