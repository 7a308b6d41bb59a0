"""Each link of an event to a filtered timeline finds that event, with any characters in the value."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from signalbox.models import Event, Trace
from signalbox.queries.filter_language import Token
from signalbox.queries.timeline_filter import TimelineFilter
from tests.queries.test_filter_property import ODD

pytestmark = pytest.mark.django_db(databases="__all__")

VALUES = (*ODD, "100%", "a+b&c=d#e", "%2C%20", 'a\\"b, c', "x" * 140, "since:1h", "-signal:x", "*")


def get_links(page: str) -> list[str]:
    return [unescape(address) for address in re.findall(r'href="([^"]*)"', page)]


def get_filters(page: str) -> list[str]:
    """Return the filters of the links to the timeline."""
    found = [urlsplit(link) for link in get_links(page)]
    return [parse_qs(link.query)["q"][0] for link in found if link.path == "/signalbox/" and "q=" in link.query]


@pytest.mark.parametrize("value", VALUES)
def test_a_link_finds_the_event_that_it_is_shown_with(
    operator_client: Client, add_event: Callable[..., Event], add_trace: Callable[..., Trace], value: str
) -> None:
    call = {"name": f"shop.{value}", "location": "x:1", "duration_us": 5, "error": f"ValueError: {value}"}
    event = add_event(
        signal=value, sender=f"shop.{value}", object_key=value, object_label=value, actor_label=value, errors=1,
        data={"receivers": [call]},
    )  # fmt: skip
    add_trace(trace_id=event.trace_id, name=f"GET /{value}", actor_label=value)
    found = set()
    for path in ("", f"event/{event.id}/", f"trace/{event.trace_id}/"):
        found |= set(get_filters(operator_client.get(f"/signalbox/{path}").content.decode()))
    for path, name in (("receiver", f"shop.{value}"), ("signal", value)):
        found |= set(get_filters(operator_client.get(f"/signalbox/{path}/", {"name": name}).content.decode()))
    assert len(found) >= 4
    for text in found:
        asked = TimelineFilter.parse({"q": text})
        assert "" == asked.error, text
        assert Event.objects.filter(asked.to_q(), id=event.id).exists(), text


@pytest.mark.parametrize("value", VALUES)
def test_a_filter_survives_each_page_and_the_way_back(
    operator_client: Client, add_event: Callable[..., Event], add_trace: Callable[..., Trace], value: str
) -> None:
    event = add_event(actor_label=value)
    add_trace(trace_id=event.trace_id)
    text = str(Token("actor", ":", (value,)))
    page = operator_client.get("/signalbox/", {"q": text}).content.decode()
    for prefix in (f"/signalbox/trace/{event.trace_id}/", f"/signalbox/event/{event.id}/"):
        tree = operator_client.get(f"/signalbox/trace/{event.trace_id}/", {"q": text}).content.decode()
        [link, *_] = [link for link in get_links(page + tree) if link.startswith(f"{prefix}?")]
        assert text in get_filters(operator_client.get(link).content.decode())
