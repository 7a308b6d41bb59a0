"""The page of a signal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import Client
from django.urls import reverse

from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.dashboard.links import get_receiver_url, get_signal_url
from signalbox.dashboard.recording_modes import get_recording_mode
from tests.dashboard.browsing import AddDelivery, AddEvent, AddTrace
from tests.shop.models import Order

pytestmark = pytest.mark.django_db(databases="__all__")

unrecorded = Signal()


def listen(sender: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def connected() -> Iterator[None]:
    post_save.connect(listen, sender=Order)
    yield
    post_save.disconnect(listen, sender=Order)


@pytest.mark.parametrize("name", BUILTIN_SIGNALS)
def test_each_signal_of_the_catalogue_has_a_page_with_its_documentation(operator_client: Client, name: str) -> None:
    answer = operator_client.get(get_signal_url(name))
    assert 200 == answer.status_code
    info = BUILTIN_SIGNALS[name]
    assert info.description.endswith(".")
    assert info.description == answer.context["info"].description
    content = answer.content.decode()
    assert f"https://docs.djangoproject.com/en/stable/{info.doc}" in content
    for argument in info.args:
        assert f'class="mono">{argument}' in content


def test_it_shows_receivers_by_sender_and_recent_sends(
    connected: None, operator_client: Client, add_event: AddEvent
) -> None:
    event = add_event(errors=1)
    add_event(sender="shop.Tag", signal="post_save")
    add_event(sender="shop.Tag", signal="post_delete")
    answer = operator_client.get(get_signal_url("post_save"))
    assert [("shop.Order", 1, 1), ("shop.Tag", 1, 0)] == [
        (row.sender, row.sends, row.errors) for row in answer.context["senders"]
    ]
    assert f"{__name__}.listen" in [edge.receiver for edge in dict(answer.context["edges_by_sender"])["shop.Order"]]
    content = answer.content.decode()
    assert f'href="{get_receiver_url(f"{__name__}.listen")}"' in content
    assert reverse("signalbox:event", args=[event.id]) in content
    assert f"{reverse('signalbox:timeline')}?q=signal%3Apost_save+model%3Ashop.Tag" in content


def test_a_counted_signal_has_the_senders_of_the_newest_traces(operator_client: Client, add_trace: AddTrace) -> None:
    add_trace(data={"send_counts": {"post_init": {"shop.Order": 40, "shop.Tag": 2}}})
    add_trace(data={"send_counts": {"post_init": {"shop.Tag": 1}, "pre_init": {"shop.Item10": 9}}})
    answer = operator_client.get(get_signal_url("post_init"))
    assert [("shop.Order", 40), ("shop.Tag", 3)] == [
        (row.sender, row.sends) for row in answer.context["counted_senders"]
    ]


def test_dead_deliveries_of_its_receivers_are_linked(
    operator_client: Client, durable_receiver: str, add_delivery: AddDelivery
) -> None:
    add_delivery(receiver=durable_receiver, state="dead")
    content = operator_client.get(get_signal_url("post_save")).content.decode()
    assert f'?receiver={durable_receiver}&amp;state=dead">1 dead</a>' in content


def test_an_unknown_signal_has_a_page_with_status_404_and_a_search(operator_client: Client) -> None:
    for name in ("shop.signals.unknown", "os.path", "", "a.b.<locals>.c"):
        answer = operator_client.get(get_signal_url(name))
        assert 404 == answer.status_code, name
        assert "Unknown signal" in answer.content.decode()


def test_a_signal_that_only_events_have_is_shown(operator_client: Client, add_event: AddEvent) -> None:
    add_event(signal="shop.signals.removed")
    assert 200 == operator_client.get(get_signal_url("shop.signals.removed")).status_code


def test_a_loaded_signal_is_found_without_an_import(operator_client: Client) -> None:
    assert 200 == operator_client.get(get_signal_url(f"{__name__}.unrecorded")).status_code


@pytest.mark.parametrize(
    ("record", "name", "mode", "reason"),
    [
        ("all", "post_save", "event", 'RECORD = "all"'),
        ("all", "post_init", "counted", 'RECORD = "all"'),
        ("all", "connection_created", "counted", 'RECORD = "all"'),
        ("audit", "request_started", "off", 'RECORD = "audit"'),
        (["auth"], "user_logged_in", "event", 'RECORD = ["auth"]'),
        (["auth"], "update", "off", 'RECORD = ["auth"]'),
        (["post_save"], "shop.signals.order_paid", "off", 'RECORD = ["post_save"]'),
    ],
)
def test_the_recording_mode_names_the_setting(settings: Any, record: Any, name: str, mode: str, reason: str) -> None:
    settings.SIGNALBOX = {"RECORD": record}
    found = get_recording_mode(name)
    assert mode == found.name
    assert reason in found.reason


def test_bulk_operations_are_off_by_their_own_setting(settings: Any) -> None:
    settings.SIGNALBOX = {"RECORD": "all", "BULK": "off"}
    assert ("off", 'BULK = "off" leaves it out.') == (
        get_recording_mode("update").name,
        get_recording_mode("update").reason,
    )


def test_a_signal_of_a_durable_receiver_is_recorded_for_its_senders(settings: Any, durable_receiver: str) -> None:
    settings.SIGNALBOX = {"RECORD": ["auth"]}
    found = get_recording_mode("post_save")
    assert "event" == found.name
    assert "durable receiver" in found.reason


def test_ignored_senders_are_named(operator_client: Client, settings: Any) -> None:
    settings.SIGNALBOX = {"RECORD": "all", "IGNORE": ["shop.Tag"]}
    assert "shop.Tag" in operator_client.get(get_signal_url("post_save")).content.decode()
