from __future__ import annotations

import time
from typing import Any

import pytest

from signalbox.models import Delivery
from signalbox.outbox import manual_changes
from signalbox.queries import delivery_groups
from signalbox.queries.delivery_groups import count_states, generalize_error, group_deliveries

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]


def build(**given: Any) -> Delivery:
    now = time.time_ns() // 1000
    values: dict[str, Any] = {
        "receiver": "shop.signals.send_invoice",
        "queue": "default",
        "ordering_key": "",
        "trace_id": "e" * 32,
        "span": 1,
        "signal": "post_save",
        "sender": "shop.Order",
        "object_key": "7",
        "database": "default",
        "state": "pending",
        "run_at": now,
        "next_check_at": now - 1_000_000,
        "created": now,
        "payload": {},
        "error": "",
    }
    return Delivery(**(values | given))


def add(number: int, **given: Any) -> None:
    Delivery.objects.bulk_create([build(**given) for _ in range(number)])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("ValueError: no customer 17", "ValueError: no customer …"),
        ("KeyError: 'sku-9'", "KeyError: …"),
        ("OSError: 10.0.0.7 refused 0x7f3a", "OSError: … refused …"),
        ("NotFound: 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "NotFound: …"),
        ("", ""),
    ],
)
def test_similar_errors_are_one_group(error: str, expected: str) -> None:
    assert expected == generalize_error(error)


def test_groups_are_by_receiver_and_error_the_largest_first() -> None:
    add(2, state="dead", error="ValueError: no customer 1")
    add(1, state="dead", error="ValueError: no customer 2")
    add(1, state="dead", error="OSError: refused")
    add(2, state="dead", receiver="shop.signals.tell_stock", error="OSError: refused")
    found = group_deliveries(manual_changes.filter_deliveries("default", state="dead"), "dead")
    assert [
        ("shop.signals.send_invoice", "ValueError: no customer …", 3),
        ("shop.signals.tell_stock", "OSError: refused", 2),
        ("shop.signals.send_invoice", "OSError: refused", 1),
    ] == [(group.receiver, group.error, group.count) for group in found.groups]
    assert (6, True, 6) == (found.count, found.is_complete, len(found.ids))
    assert 3 == len({group.key for group in found.groups})


def test_no_more_rows_than_the_limit_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_groups, "MAX_COUNTED", 5)
    add(8, state="dead")
    found = group_deliveries(manual_changes.filter_deliveries("default", state="dead"), "dead")
    assert (5, False) == (found.count, found.is_complete)
    counts = count_states(manual_changes.filter_deliveries("default"))
    assert (5, False) == (counts.counts["dead"], counts.is_complete)


def test_states_are_counted_among_the_deliveries_of_the_filter() -> None:
    later = time.time_ns() // 1000 + 60_000_000
    add(3)
    add(1, next_check_at=later)
    add(2, lease_expires_at=later)
    add(4, attempts=1)
    add(5, state="dead")
    add(7, state="dead", receiver="shop.signals.tell_stock")
    counts = count_states(manual_changes.filter_deliveries("default", receiver="send_invoice")).counts
    assert {"due": 3, "waiting": 1, "running": 2, "retrying": 4, "dead": 5} == dict(counts)


def test_a_search_for_a_receiver_reads_only_the_newest_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_groups, "MAX_SEARCHED", 3)
    add(5, state="done")
    add(2, state="dead")
    found = manual_changes.filter_deliveries("default", receiver="invoice")
    assert 3 == delivery_groups.limit_search(found, "").count()
    dead = manual_changes.filter_deliveries("default", receiver="invoice", state="dead")
    assert 2 == delivery_groups.limit_search(dead, "dead").count()
