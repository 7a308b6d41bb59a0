"""Each token is documented, and each documented example selects what it says."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from signalbox.models import Delivery, Error, Event, utc_now
from signalbox.queries.delivery_filters import DELIVERY_TOKEN_NAMES, DeliveryTokens
from signalbox.queries.filter_language import TOKEN_NAMES
from signalbox.queries.filters import EventFilter
from tests.queries.test_delivery_groups import build
from tests.rows import NOON, TRACE_ID, create_event, create_trace

TEXT = (Path(__file__).parent.parent / "docs/filters.md").read_text()

IN_THE_PAST = "until:2026-03-01"


def get_examples(marker: str) -> list[str]:
    table = TEXT.partition(f"<!-- {marker} -->")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def test_the_documentation_has_each_token() -> None:
    examples = get_examples("tokens")
    used = sorted(name for example in examples for name in EventFilter.parse_text(example).get_used_attributes())
    assert sorted(known.attribute for known in TOKEN_NAMES.values()) == used
    assert len(TOKEN_NAMES) == len(examples)


def test_the_documentation_has_each_token_of_deliveries() -> None:
    names = [re.split("[:<>=]", example)[0] for example in get_examples("delivery tokens")]
    assert list(DELIVERY_TOKEN_NAMES) == names


@pytest.fixture
def events(db: None) -> list[Event]:
    """An event of today that all examples select, and one of the past that none selects but that for the past."""
    Event.objects.all().delete()
    call = {"name": "shop.signals.send_invoice", "duration_us": 60_000, "error": "TimeoutError: no answer"}
    past = create_event(
        at=NOON,
        signal="update",
        sender="auth.User",
        object_key="4",
        actor_label="grace",
        trace_id="0" * 32,
        database="other",
        duration=50_000,
    )
    today = create_event(
        at=utc_now(), outcome="rolled_back", duration=60_000, errors=1, database="default", data={"receivers": [call]}
    )
    create_trace(name="GET /orders/17/?page=2", status="503")
    Error.objects.create(
        trace_id=TRACE_ID, position=0, fingerprint="1f3870be274f6c49", time=0, exception="TimeoutError", data={}
    )
    create_trace(trace_id="0" * 32, kind="command", name="import", status="ok")
    return [today, past]


@pytest.mark.every_database
@pytest.mark.parametrize("example", get_examples("tokens"))
def test_an_example_selects_what_it_says(example: str, events: list[Event]) -> None:
    today, past = events
    assert [past if example == IN_THE_PAST else today] == find(example)
    if not example.startswith(("since", "until")):
        assert [past] == find(f"-{example}")


def find(text: str) -> list[Event]:
    """Return what the command shows."""
    out = StringIO()
    call_command("signalbox", "events", text, "--json", stdout=out)
    ids = [json.loads(line)["id"] for line in out.getvalue().splitlines()]
    return list(Event.objects.filter(id__in=ids))


@pytest.mark.every_database
@pytest.mark.django_db
@pytest.mark.parametrize("example", get_examples("delivery tokens"))
def test_an_example_of_deliveries_selects_what_it_says(example: str) -> None:
    Delivery.objects.all().delete()
    dead = build(
        state="dead",
        error="TimeoutError: no",
        object_key="17",
        ordering_key="customer-7",
        queue="mail",
        trace_id=TRACE_ID,
    )
    done = build(
        state="done", receiver="shop.tasks.index", signal="update", sender="auth.User", database="other", created=0
    )
    for delivery in (dead, done):
        delivery.save()
    tokens = DeliveryTokens.parse(example)
    assert "" == tokens.error
    assert [done if example == IN_THE_PAST else dead] == list(Delivery.objects.filter(tokens.to_q("default")))
