"""Who looks at the page, and what there is to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from signalbox.context import new_trace_id
from signalbox.models import Event, Trace

START = 1_790_000_000_000_000


@pytest.fixture
def operator(db: None) -> User:
    """Staff with the permission, and no other."""
    user = User.objects.create_user("operator", password="lever", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_event", content_type__app_label="signalbox"))
    return user


@pytest.fixture
def page(operator: User, client: Client) -> Client:
    """A browser in which the operator has logged in, with an empty register."""
    client.force_login(operator)
    Event.objects.all().delete()
    Trace.objects.all().delete()
    return client


@pytest.fixture
def add_event(db: None) -> Callable[..., Event]:
    """Write an event as recording would, one second after the one before."""
    spans = iter(range(1, 1_000_000))

    def add(**given: Any) -> Event:
        span = next(spans)
        values: dict[str, Any] = {
            "time": START + span * 1_000_000,
            "trace_id": new_trace_id(),
            "span": span,
            "parent": None,
            "signal": "post_save",
            "sender": "shop.Order",
            "object_key": "7",
            "object_label": "Order 7",
            "actor_key": "3",
            "actor_label": "ada",
            "database": "default",
            "outcome": "committed",
            "duration": 1500,
            "errors": 0,
            "data": {},
        }
        event: Event = Event.objects.create(**(values | given))
        return event

    return add


@pytest.fixture
def add_trace(db: None) -> Callable[..., Trace]:
    """Write the row of a trace that has ended."""

    def add(**given: Any) -> Trace:
        values: dict[str, Any] = {
            "trace_id": new_trace_id(),
            "kind": "request",
            "name": "POST /orders/7/",
            "actor_key": "3",
            "actor_label": "ada",
            "time": START,
            "duration": 25_000,
            "status": "200",
            "events": 1,
            "errors": 0,
            "rolled_back": 0,
            "data": {},
        }
        trace: Trace = Trace.objects.create(**(values | given))
        return trace

    return add
