from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.models.signals import post_init, post_save
from django.dispatch import Signal
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

import signalbox
from signalbox.dashboard import graph
from signalbox.models import Event
from signalbox.outbox import registry
from tests.shop.models import Order, Tag

pytestmark = pytest.mark.django_db(databases="__all__")  # deliveries of each one are counted


def listen(sender: Any, **kwargs: Any) -> None:
    """A receiver of the map's tests."""


def listen_durably(sender: Any, instance: Any, **kwargs: Any) -> None:
    """One that a worker runs."""
    kwargs.update(dict(token="sk_live_hunter2"))  # noqa: C408


def listen_to_all(sender: Any, **kwargs: Any) -> None:
    """Another."""


@pytest.fixture(autouse=True)
def connected() -> Iterator[None]:
    post_save.connect(listen, sender=Order)
    post_save.connect(listen_to_all)
    yield
    post_save.disconnect(listen, sender=Order)
    post_save.disconnect(listen_to_all)


def edge(name: str) -> graph.Edge:
    [found] = [edge for edge in graph.build_edges() if edge.receiver == f"{__name__}.{name}"]
    return found


def ran(name: str, us: int = 100, error: str | None = None) -> dict[str, Any]:
    return {"receivers": [{"name": f"{__name__}.{name}", "location": "x.py:1", "duration_us": us, "error": error}]}


def test_an_edge_has_signal_sender_and_receiver() -> None:
    found = edge("listen")
    assert ("post_save", "model", "shop.Order") == (found.signal, found.group, found.sender)
    assert found.location.startswith("tests/dashboard/test_graph.py:")
    assert "any sender" == edge("listen_to_all").sender


def test_calls_are_those_of_the_latest_events(add_event: Callable[..., Event]) -> None:
    add_event(data=ran("listen"))
    add_event(data=ran("listen_to_all"))
    add_event(data=ran("listen_to_all"), sender="shop.Tag")
    assert (1, 2) == (edge("listen").calls, edge("listen_to_all").calls)


def test_each_sender_has_its_own_calls_and_health(add_event: Callable[..., Event]) -> None:
    post_save.connect(listen, sender=Tag)
    try:
        Event.objects.all().delete()
        add_event(data=ran("listen", 60_000, "ValueError: no"))
        add_event(data=ran("listen", 60_000))
        found = {edge.sender: edge for edge in graph.build_edges() if edge.receiver == f"{__name__}.listen"}
    finally:
        post_save.disconnect(listen, sender=Tag)
    told = {sender: (edge.calls, edge.errors, edge.p90, edge.error, edge.health) for sender, edge in found.items()}
    assert {
        "shop.Order": (2, 1, 60_000, "ValueError: no", "failing"),
        "shop.Tag": (0, 0, None, "", "idle"),
    } == told


def test_the_percentile_is_computed_by_the_nearest_rank(add_event: Callable[..., Event]) -> None:
    Event.objects.all().delete()
    for number in range(1, 21):
        add_event(data=ran("listen", number))
    assert 18 == edge("listen").p90


def test_receivers_of_unrecorded_signals_are_not_measured() -> None:
    post_init.connect(listen, sender=Order)
    try:
        health = {edge.signal: edge.health for edge in graph.build_edges() if edge.receiver == f"{__name__}.listen"}
        assert {"post_init": "unmeasured", "post_save": "idle"} == health
    finally:
        post_init.disconnect(listen, sender=Order)


@pytest.mark.parametrize(
    ("runs", "health"),
    [
        ([], "idle"),
        ([ran("listen")], "ok"),
        ([ran("listen", 60_000)], "slow"),
        ([ran("listen", 60_000), ran("listen", error="ValueError: no")], "failing"),
    ],
)
def test_health_is_the_worst_observed_state(
    runs: list[dict[str, Any]], health: str, add_event: Callable[..., Event]
) -> None:
    Event.objects.all().delete()
    for data in runs:
        add_event(data=data)
    assert health == edge("listen").health


def test_a_receiver_that_was_collected_is_dead() -> None:
    signal = Signal()
    signal.connect(lambda sender, **kwargs: None)
    gc.collect()
    assert ["dead"] == [
        edge.health for edge in graph.build_signal_edges("shop.signals.paid", signal, {}, include_source=False)
    ]


def test_a_durable_receiver_has_an_edge_without_a_connection(operator_client: Client) -> None:
    for signal in ("post_save", "bulk_create"):
        signalbox.receiver(signal, sender="shop.Order", durable=True)(listen_durably)
    try:
        found = [edge for edge in graph.build_edges() if edge.receiver == f"{__name__}.listen_durably"]
        answer = operator_client.get(reverse("signalbox:map")).content.decode()
    finally:
        registry.disconnect(f"{__name__}.listen_durably")
    assert {("post_save", "shop.Order", "durable"), ("bulk_create", "shop.Order", "durable")} == {
        (edge.signal, edge.sender, edge.health) for edge in found
    }
    assert {True} == {edge.location.startswith("tests/dashboard/test_graph.py:") for edge in found}
    assert f'href="/signalbox/deliveries/?receiver={__name__}.listen_durably">durable</a>' in answer


def test_a_receivers_source_is_shown_without_secrets() -> None:
    shown = graph.get_source_excerpt(listen_durably)
    assert ("sk_live_hunter2" in shown, "dict(token=" in shown) == (False, True)


def test_source_is_shown_only_if_the_setting_is_on(operator_client: Client, settings: Any) -> None:
    said = "A receiver of the map&#x27;s tests."
    assert said not in operator_client.get(reverse("signalbox:map")).content.decode()
    settings.SIGNALBOX = {"DASHBOARD": {"SHOW_SOURCE": True}}
    assert said in operator_client.get(reverse("signalbox:map")).content.decode()


def test_the_page_holds_the_graph_in_the_order_of_its_table(
    operator_client: Client, add_event: Callable[..., Event]
) -> None:
    with CaptureQueriesContext(connection) as queries:
        answer = operator_client.get(reverse("signalbox:map")).content.decode()
    assert 1 == len([one for one in queries if "signalbox_event" in one["sql"]])
    told = re.search(r'<script id="edges" type="application/json">(.*?)</script>', answer)
    assert told is not None
    edges = json.loads(told[1])
    assert list(range(len(edges))) == [edge["row"] for edge in edges]
    rows = re.findall(r'<tr id="r-(\d+)" .*?data-health="(\w+)"', answer)
    assert [(str(edge["row"]), edge["health"]) for edge in edges] == rows
    assert f"{__name__}.listen" in [edge["receiver"] for edge in edges]
