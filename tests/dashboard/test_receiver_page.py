"""The page of a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.db.models.signals import post_delete, post_save
from django.test import Client
from django.urls import reverse

from signalbox.dashboard.links import get_receiver_url
from signalbox.models import Attempt, Event
from tests.dashboard.browsing import AddDelivery, AddEvent
from tests.shop.models import Order

pytestmark = pytest.mark.django_db(databases="__all__")  # deliveries of each one are counted

SECRET = "sk_live_hunter2"


def listen(sender: Any, **kwargs: Any) -> None:
    """A receiver with a secret in its source."""
    kwargs.update(dict(token="sk_live_hunter2"))  # noqa: C408


def make_closure() -> Any:
    def inner(sender: Any, **kwargs: Any) -> None: ...

    return inner


class Listener:
    def method(self, sender: Any, **kwargs: Any) -> None: ...


CLOSURE = make_closure()
LAMBDA = lambda sender, **kwargs: None  # noqa: E731
PARTIAL = partial(listen, extra=1)
INSTANCE = Listener()

NAME = f"{__name__}.listen"


@pytest.fixture
def connected() -> Iterator[None]:
    post_save.connect(listen, sender=Order, weak=False, dispatch_uid="unique-listener")
    post_delete.connect(listen)
    yield
    post_save.disconnect(sender=Order, dispatch_uid="unique-listener")
    post_delete.disconnect(listen)


def call(name: str = NAME, us: int = 100, error: str | None = None) -> dict[str, Any]:
    return {"receivers": [{"name": name, "location": "x.py:1", "duration_us": us, "error": error}]}


def test_it_shows_its_connections(connected: None, operator_client: Client) -> None:
    content = operator_client.get(get_receiver_url(NAME)).content.decode()
    for text in (
        "unique-listener",
        "strong",
        "weak",
        "any sender",
        "shop.Order",
        "tests/dashboard/test_receiver_page.py:",
    ):
        assert text in content, text
    assert f"{reverse('signalbox:signal')}?name=post_save" in content


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (CLOSURE, f"{__name__}.make_closure.<locals>.inner"),
        (LAMBDA, f"{__name__}.<lambda>"),
        (PARTIAL, f"functools.partial({__name__}.listen)"),
        (INSTANCE.method, f"{__name__}.Listener.method"),
    ],
)
def test_any_callable_has_a_page(operator_client: Client, function: Any, name: str) -> None:
    post_save.connect(function, weak=False)
    try:
        answer = operator_client.get(get_receiver_url(name))
        links = operator_client.get(reverse("signalbox:map")).content.decode()
    finally:
        post_save.disconnect(function)
    assert 200 == answer.status_code
    assert name == answer.context["name"]
    assert f'href="{get_receiver_url(name)}"' in links


def test_runs_failures_and_percentiles_are_those_of_recent_sends(
    connected: None, operator_client: Client, add_event: AddEvent
) -> None:
    for number in range(1, 20):
        add_event(data=call(us=number * 1_000))
    failed = add_event(data=call(us=90_000, error="ValueError: no stock"), errors=1)
    add_event(data=call("shop.signals.other", us=5_000_000, error="KeyError: 1"))
    answer = operator_client.get(get_receiver_url(NAME))
    total = answer.context["runs"].total
    assert (20, 1, 10_000, 19_000, 90_000) == (
        total.calls,
        total.errors,
        total.median_us,
        total.p95_us,
        total.max_us,
    )
    content = answer.content.decode()
    assert "all 21 sends" in content
    assert "ValueError: no stock" in content
    assert "KeyError" not in content
    assert reverse("signalbox:event", args=[failed.id]) in content


def test_it_says_how_far_it_looked(
    connected: None, operator_client: Client, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signalbox.queries.recent_sends.CHUNK_SIZE", 2)
    monkeypatch.setattr("signalbox.queries.recent_sends.time.monotonic", iter(range(0, 10_000, 5)).__next__)
    for _ in range(8):
        add_event(data=call())
    content = operator_client.get(get_receiver_url(NAME)).content.decode()
    assert "the newest 2 sends" in content
    assert "stopped after 2 seconds" in content


def test_a_receiver_that_is_no_longer_connected_is_shown_from_its_events(
    operator_client: Client, add_event: AddEvent
) -> None:
    add_event(data=call("shop.signals.removed", error="ValueError: gone"), errors=1)
    answer = operator_client.get(get_receiver_url("shop.signals.removed"))
    assert 200 == answer.status_code
    assert "not connected in this process" in answer.content.decode()
    assert 1 == answer.context["runs"].total.errors


@pytest.mark.parametrize("name", ["shop.signals.unknown", "", "<script>alert(1)</script>"])
def test_an_unknown_receiver_has_a_page_with_status_404_and_a_search(operator_client: Client, name: str) -> None:
    answer = operator_client.get(get_receiver_url(name))
    assert 404 == answer.status_code
    content = answer.content.decode()
    assert "Unknown receiver" in content
    assert "<script>alert" not in content
    if name == "shop.signals.unknown":
        assert f'href="{reverse("signalbox:timeline")}?q=shop.signals.unknown"' in content


def test_source_is_shown_only_if_it_is_allowed_and_without_secrets(
    connected: None, operator_client: Client, settings: Any
) -> None:
    assert "def listen" not in operator_client.get(get_receiver_url(NAME)).content.decode()
    settings.SIGNALBOX = {"DASHBOARD": {"SHOW_SOURCE": True}}
    content = operator_client.get(get_receiver_url(NAME)).content.decode()
    assert "def listen" in content
    assert SECRET not in content


def test_a_durable_receiver_shows_its_options_attempts_and_deliveries_by_state(
    operator_client: Client, durable_receiver: str, add_delivery: AddDelivery
) -> None:
    add_delivery(receiver=durable_receiver)
    add_delivery(receiver="shop.signals.other", state="dead")
    done = add_delivery(receiver=durable_receiver, state="done")
    dead = add_delivery(receiver=durable_receiver, state="dead", error="ValueError: no such customer")
    for delivery, outcome, microseconds in ((done, "succeeded", 4_000), (dead, "failed", 8_000), (dead, "lost", 10**9)):
        Attempt.objects.create(
            delivery_id=delivery.id,
            fencing_token=microseconds,
            number=1,
            started=10,
            ended=10 + microseconds,
            outcome=outcome,
            error="ValueError: no such customer" if outcome == "failed" else "",
        )
    answer = operator_client.get(get_receiver_url(durable_receiver))
    [database] = answer.context["deliveries"]
    assert {"pending": 1, "dead": 1, "done": 1, "discarded": 0} == {item.state: item.number for item in database.counts}
    assert (3, 2, 4_000, 8_000) == (
        database.attempts.calls,
        database.attempts.errors,
        database.attempts.median_us,
        database.attempts.max_us,
    )
    [options] = answer.context["durable_options"]
    assert (8, "10.0 s", "pk", "5 m 00 s", "block", "default") == options[2:]
    content = answer.content.decode()
    assert reverse("signalbox:delivery", args=[dead.id]) in content
    assert f"{reverse('signalbox:deliveries')}?receiver={durable_receiver}&amp;state=dead" in content


def test_findings_are_those_about_the_receiver(connected: None, operator_client: Client) -> None:
    url = f"{reverse('signalbox:receiver_findings')}?name={NAME}"
    found = operator_client.get(url).context["findings"]
    assert found
    assert {NAME} == {finding.receiver for finding in found if finding.receiver}
    other = operator_client.get(f"{reverse('signalbox:receiver_findings')}?name=shop.signals.unknown")
    assert "nothing about this receiver" in other.content.decode()


def test_pages_link_to_receiver_signal_sender_and_actor(operator_client: Client, add_event: AddEvent) -> None:
    event: Event = add_event(data=call("shop.signals.send_invoice"))
    content = operator_client.get(reverse("signalbox:event", args=[event.id])).content.decode()
    timeline = reverse("signalbox:timeline")
    for url in (
        get_receiver_url("shop.signals.send_invoice"),
        f"{reverse('signalbox:signal')}?name=post_save",
        f"{timeline}?q=model%3Ashop.Order",
        f"{timeline}?q=actor%3A3",
    ):
        assert f'href="{url}"' in content, url
    assert f'href="{timeline}?q=actor%3Aada"' in operator_client.get(timeline).content.decode()
