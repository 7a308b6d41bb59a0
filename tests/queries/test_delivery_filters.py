"""Each token of deliveries on the database, compared with a plain reading of the rows in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from signalbox.models import Delivery
from signalbox.outbox import manual_changes
from signalbox.outbox.queue import now_us
from signalbox.queries.delivery_filters import DELIVERY_TOKEN_NAMES, DeliveryTokens
from tests.queries.test_delivery_groups import build

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

HOUR_US = 3_600_000_000


@pytest.fixture
def rows(db: None) -> list[Delivery]:
    Delivery.objects.all().delete()
    now = now_us()
    values: tuple[dict[str, Any], ...] = (
        {"next_check_at": now - HOUR_US},
        {"next_check_at": now + HOUR_US, "run_at": now + HOUR_US, "receiver": "shop.signals.Send_invoice"},
        {"next_check_at": None, "receiver": "shop.signals.send", "ordering_key": "customer-7"},
        {"next_check_at": now, "attempts": 2, "error": "TimeoutError: 50% of [it]", "queue": "mail"},
        {"next_check_at": now, "attempts": 1, "lease_expires_at": now + HOUR_US, "object_key": "a, b: c"},
        {"next_check_at": now, "attempts": 1, "lease_expires_at": now - HOUR_US, "sender": "shopping.Cart"},
        {"state": "done", "next_check_at": None, "finished": now, "signal": "shop.signals.paid"},
        {"state": "dead", "next_check_at": None, "finished": now, "error": 'ValueError: ä_b "x"', "database": "other"},
        {"state": "discarded", "next_check_at": None, "finished": now, "trace_id": f"4bf92f35{0:024x}"},
        {"state": "done", "next_check_at": None, "created": now - 48 * HOUR_US, "sender": "", "object_key": ""},
    )
    for given in values:
        build(**given).save()
    return list(Delivery.objects.order_by("id"))


def has_state(*states: str) -> Callable[[Delivery], bool]:
    return lambda row: manual_changes.get_status(row) in states


TOKENS: dict[str, Callable[[Delivery], bool]] = {
    **{f"state:{state}": has_state(state) for state in manual_changes.STATES if state not in ("pending", "due")},
    # A retry whose time has come is due too.
    "state:due": lambda row: row.lease_expires_at is None and 0 < (row.next_check_at or 0) <= now_us(),
    "state:pending": lambda row: row.state == "pending",
    "state:DEAD,done": has_state("dead", "done"),
    "receiver:send_invoice": lambda row: row.receiver == "shop.signals.send_invoice",
    "receiver:shop.signals.send": lambda row: row.receiver == "shop.signals.send",
    "receiver:*end": lambda row: row.receiver.endswith("end"),
    "receiver:invoice": lambda row: False,
    "error:*": lambda row: row.error != "",
    "error:timeout": lambda row: "Timeout" in row.error,
    'error:"50% of [it]"': lambda row: "50%" in row.error,
    "error:5_%": lambda row: False,
    "error:ä_b": lambda row: "ä" in row.error,
    "error:a_b": lambda row: False,
    r'error:"\"x\""': lambda row: '"x"' in row.error,
    "signal:shop.*": lambda row: row.signal.startswith("shop."),
    "model:shop": lambda row: row.sender.startswith("shop."),
    "model:shopping.Cart": lambda row: row.sender == "shopping.Cart",
    'object:"shop.Order:a, b: c"': lambda row: row.object_key == "a, b: c",
    "key:customer-7": lambda row: row.ordering_key == "customer-7",
    "key:cust*": lambda row: row.ordering_key.startswith("cust"),
    "queue:mail": lambda row: row.queue == "mail",
    "queue:MAIL": lambda row: False,
    "trace:4bf92f35": lambda row: row.trace_id.startswith("4bf92f35"),
    "database:other": lambda row: row.database == "other",
    "INVOICE": lambda row: "invoice" in row.receiver,
    "cart": lambda row: row.sender == "shopping.Cart",
    "customer-7": lambda row: row.ordering_key == "customer-7",
}


def find(text: str) -> list[int]:
    tokens = DeliveryTokens.parse(text)
    assert "" == tokens.error
    return list(Delivery.objects.filter(tokens.to_q("default")).order_by("id").values_list("id", flat=True))


@pytest.mark.parametrize("text", TOKENS)
def test_a_token_selects_what_a_plain_reading_selects(text: str, rows: list[Delivery]) -> None:
    assert [row.id for row in rows if TOKENS[text](row)] == find(text)
    assert [row.id for row in rows if not TOKENS[text](row)] == find(f"-{text}")


def test_different_names_must_all_match(rows: list[Delivery]) -> None:
    for text in ("state:pending model:shop -error:*", "invoice -state:done,dead", "since:24h", "until:24h state:done"):
        parts = text.split()
        found = set.intersection(*(set(find(part)) for part in parts))
        assert found
        assert sorted(found) == find(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state:deed", "At character 1: state is 'deed'; one of pending, due,"),
        ("x state:deed", "At character 3: state is 'deed'; one of"),
        ("took>5ms", "At character 1: 'took' is not a token. Use one of state, receiver,"),
        ("stat:dead", "Did you mean state:?"),
        ("object:17", "a model and a primary key were expected, as shop.Order:17."),
        ("since:x", "a time was expected"),
        ("-since:1h", "it can't be negated."),
        ("since:1h since:2h", "one time was expected."),
        ("state:", "'state:' has no value. Write it as state:dead."),
        (f"receiver:{','.join(map(str, range(101)))}", "The filter has 101 values. At most 100 are accepted."),
        (f"key:{'x' * 201}", "at most 200 characters were expected."),
    ],
)
def test_what_is_not_valid_is_named_with_the_remedy(text: str, message: str) -> None:
    assert message in DeliveryTokens.parse(text).error


def test_each_example_is_valid() -> None:
    for known in DELIVERY_TOKEN_NAMES.values():
        assert "" == DeliveryTokens.parse(known.example).error


@pytest.mark.parametrize(
    ("text", "state", "with_dead"),
    [
        ("", "", "state:dead"),
        ("state:done", "done", "state:dead"),
        ("state:done x -state:due", "done", "x state:dead"),
        ("state:done,due x", "", "x state:dead"),
        ("-state:done", "", "state:dead"),
    ],
)
def test_the_state_is_replaced(text: str, state: str, with_dead: str) -> None:
    tokens = DeliveryTokens.parse(text)
    assert (state, with_dead) == (tokens.state, tokens.with_state("dead"))
    assert not re.search("state:", tokens.with_state(""))
