from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from signalbox.dashboard import delivery_actions
from signalbox.dashboard.delivery_actions import describe_result
from signalbox.models import Delivery
from tests.dashboard.browsing import AddDelivery

pytestmark = pytest.mark.django_db(databases="__all__")

ADDRESS = "/signalbox/deliveries/"


@pytest.fixture
def clerk(operator: User, operator_client: Client) -> Client:
    """The operator, who may change deliveries too."""
    operator.user_permissions.add(Permission.objects.get(codename="change_delivery"))
    return operator_client


def add_dead(add_delivery: AddDelivery, number: int = 1, **given: Any) -> list[Delivery]:
    values = {"state": "dead", "next_check_at": None, "attempts": 5, "error": "ValueError: no", "finished": 1}
    return [add_delivery(**(values | given)) for _ in range(number)]


def get_confirmed_ids(page: str) -> str:
    found = re.search('name="ids" value="([0-9,]*)"', page)
    assert found is not None
    return found[1]


def get_states(deliveries: list[Delivery]) -> list[str]:
    return [Delivery.objects.get(pk=one.pk).state for one in deliveries]


def test_a_selection_is_confirmed_with_its_exact_number(clerk: Client, add_delivery: AddDelivery) -> None:
    dead = add_dead(add_delivery, 3)
    answer = clerk.post(f"{ADDRESS}confirm/", {"action": "retry", "id": [dead[0].pk, dead[2].pk]})
    assert "Retry 2 deliveries?" in answer.content.decode()
    assert ["dead"] * 3 == get_states(dead)
    done = clerk.post(f"{ADDRESS}apply/", {"action": "retry", "ids": get_confirmed_ids(answer.content.decode())})
    assert ["pending", "dead", "pending"] == get_states(dead)
    assert "2 deliveries are due again." in clerk.get(done["Location"]).content.decode()


def test_all_that_match_are_exactly_the_confirmed_ones(clerk: Client, add_delivery: AddDelivery) -> None:
    dead = add_dead(add_delivery, 3)
    other = add_dead(add_delivery, receiver="shop.signals.tell_stock")
    chosen = {"action": "retry", "all": "1", "q": "state:dead receiver:*invoice"}
    page = clerk.post(f"{ADDRESS}confirm/", chosen).content.decode()
    assert "Retry 3 deliveries?" in page
    late = add_dead(add_delivery)
    Delivery.objects.filter(pk=dead[0].pk).update(state="done")
    Delivery.objects.filter(pk=dead[1].pk).delete()
    done = clerk.post(f"{ADDRESS}apply/", {"action": "retry", "ids": get_confirmed_ids(page), "state": "dead"})
    assert ["pending", "dead", "dead"] == get_states([dead[2], *late, *other])
    expected = "1 delivery is due again; 1 was deleted; 1 was already done."
    assert expected in clerk.get(done["Location"]).content.decode()


def test_an_invalid_filter_changes_nothing(clerk: Client, add_delivery: AddDelivery) -> None:
    dead = add_dead(add_delivery)
    answer = clerk.post(f"{ADDRESS}confirm/", {"action": "discard", "all": "1", "q": "state:dead receivr:x"})
    assert (404, True) == (answer.status_code, "The filter is not valid" in answer.content.decode())
    assert ["dead"] == get_states(dead)


def test_a_filter_survives_the_confirmation(clerk: Client, add_delivery: AddDelivery) -> None:
    text = 'state:dead error:"50% of <b>, \\"x\\": +&"'
    dead = add_dead(add_delivery, error='OSError: 50% of <b>, "x": +& y')
    page = clerk.post(f"{ADDRESS}confirm/", {"action": "discard", "all": "1", "q": text}).content.decode()
    [kept] = re.findall('name="q" value="([^"]*)"', page)
    order = {"action": "discard", "ids": get_confirmed_ids(page), "q": unescape(kept)}
    answer = clerk.post(f"{ADDRESS}apply/", order)
    assert [text] == parse_qs(urlsplit(answer["Location"]).query)["q"]
    assert ["discarded"] == get_states(dead)


def test_a_group_is_selected_as_a_whole(clerk: Client, add_delivery: AddDelivery) -> None:
    dead = add_dead(add_delivery, 60, error="OSError: refused")
    other = add_dead(add_delivery)
    page = clerk.get(ADDRESS, {"state": "dead"}).content.decode()
    key = re.findall('name="group" value="([0-9a-f]+)"', page)[0]
    page = clerk.post(f"{ADDRESS}confirm/", {"action": "discard", "group": key, "state": "dead"}).content.decode()
    assert "Discard 60 deliveries?" in page
    clerk.post(f"{ADDRESS}apply/", {"action": "discard", "ids": get_confirmed_ids(page)})
    assert {"discarded"} == set(get_states(dead))
    assert ["dead"] == get_states(other)


def test_a_finished_delivery_is_not_part_of_the_confirmation(clerk: Client, add_delivery: AddDelivery) -> None:
    [dead], done = add_dead(add_delivery), add_delivery(state="done", next_check_at=None)
    page = clerk.post(f"{ADDRESS}confirm/", {"action": "retry", "id": [dead.pk, done.pk]}).content.decode()
    assert str(dead.pk) == get_confirmed_ids(page)
    assert "1 of the selected ones is done, running or discarded, and is not changed." in page
    nothing = clerk.post(f"{ADDRESS}confirm/", {"action": "retry"}).content.decode()
    assert "Nothing to change" in nothing


def test_more_than_one_action_can_change_are_named(
    clerk: Client, add_delivery: AddDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_actions, "MAX_SELECTED", 2)
    add_dead(add_delivery, 5)
    page = clerk.post(f"{ADDRESS}confirm/", {"action": "retry", "all": "1", "state": "dead"}).content.decode()
    assert "Retry 2 deliveries?" in page
    assert "One action changes at most 2. 3 more match" in page


@pytest.mark.parametrize("ids", ["", "1,x", "1;2", "9" * 30, ",".join(["1"] * 2001)])
def test_ids_that_are_not_valid_change_nothing(clerk: Client, ids: str) -> None:
    assert 404 == clerk.post(f"{ADDRESS}apply/", {"action": "retry", "ids": ids}).status_code


@pytest.mark.parametrize("path", ["confirm/", "apply/"])
def test_an_action_needs_the_permission_a_post_and_a_token(
    operator: User, operator_client: Client, add_delivery: AddDelivery, path: str
) -> None:
    dead = add_dead(add_delivery)
    order: dict[str, str] = {"action": "retry", "id": str(dead[0].pk), "ids": str(dead[0].pk)}
    refused = operator_client.post(ADDRESS + path, order)
    assert (403, True) == (refused.status_code, b"signalbox.change_delivery" in refused.content)
    operator.user_permissions.add(Permission.objects.get(codename="change_delivery"))
    assert 405 == operator_client.get(ADDRESS + path, order).status_code
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert 403 == strict.post(ADDRESS + path, order).status_code
    assert ["dead"] == get_states(dead)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("retry.12.done-1", "12 deliveries are due again; 1 was already done."),
        ("retry.1.running-2", "1 delivery is due again; 2 are running."),
        ("discard.3.erased-1.deleted-2", "3 deliveries were discarded; 1 has an erased payload; 2 were deleted."),
        ("retry.1.nonsense-4", "1 delivery is due again; 4 were not changed."),
        ("retry.<b>", ""),
        ("", ""),
    ],
)
def test_the_message_names_what_was_changed_and_what_was_not(result: str, expected: str) -> None:
    assert expected == describe_result(result)
