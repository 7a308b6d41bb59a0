"""Rows for tests that read the register: events and traces with plain values where a test says nothing else."""

from __future__ import annotations

import datetime as dt
from typing import Any

from signalbox.models import Event, Trace, to_microseconds

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def build_event(**values: Any) -> Event:
    at = values.pop("at", NOON)
    plain: dict[str, Any] = {
        "time": to_microseconds(at),
        "trace_id": TRACE_ID,
        "span": 1,
        "parent": None,
        "signal": "post_save",
        "sender": "shop.Order",
        "object_key": "17",
        "object_label": "Order A-17",
        "actor_key": "3",
        "actor_label": "ann",
        "database": "default",
        "outcome": "committed",
        "duration": 1840,
        "errors": 0,
        "data": {},
    }
    return Event(**(plain | values))


def create_event(**values: Any) -> Event:
    using = values.pop("using", None)
    found = build_event(**values)
    found.save(force_insert=True, using=using)
    return found


def create_trace(**values: Any) -> Trace:
    at = values.pop("at", NOON)
    plain: dict[str, Any] = {
        "trace_id": TRACE_ID,
        "kind": "request",
        "name": "POST /shop/",
        "actor_key": "3",
        "actor_label": "ann",
        "time": to_microseconds(at),
        "duration": 48_200,
        "status": "200",
        "events": 1,
        "errors": 0,
        "rolled_back": 0,
        "data": {},
    }
    found = Trace(**(plain | values))
    found.save(force_insert=True)
    return found
