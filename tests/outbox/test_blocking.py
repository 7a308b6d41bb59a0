from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from signalbox.models import Delivery
from signalbox.outbox.blocking import find_blocking_deliveries

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]


def add(**given: Any) -> int:
    now = time.time_ns() // 1000
    values: dict[str, Any] = {
        "receiver": "shop.signals.send_invoice",
        "queue": "default",
        "ordering_key": "7",
        "partition_id": 5,
        "trace_id": "e" * 32,
        "span": 1,
        "signal": "post_save",
        "sender": "shop.Order",
        "object_key": "7",
        "database": "default",
        "state": "pending",
        "run_at": now,
        "next_check_at": now,
        "created": now,
        "payload": {},
    }
    return int(Delivery.objects.create(**(values | given)).pk)


def test_a_delivery_waits_for_the_first_of_its_partition() -> None:
    first, second, third = add(), add(), add()
    other = add(partition_id=6)
    unordered = add(partition_id=None)
    found = find_blocking_deliveries("default", [first, second, third, other, unordered])
    assert {second: first, third: first} == found


def test_a_delivery_waits_for_a_leased_one_and_for_a_dead_letter() -> None:
    leased = add(lease_expires_at=time.time_ns() // 1000 + 60_000_000)
    dead = add(state="dead", next_check_at=None)
    last = add()
    assert {dead: leased, last: leased} == find_blocking_deliveries("default", [dead, last])


def test_one_query_finds_all_of_a_page() -> None:
    ids = [add(partition_id=number % 3) for number in range(9)]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = find_blocking_deliveries("default", ids)
    assert (1, 6) == (len(queries), len(found))
    assert {} == find_blocking_deliveries("default", [])
