"""Each token on the database, compared with a plain reading of the rows in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from signalbox.models import Event, Trace
from signalbox.queries.events import get_events, get_traces
from signalbox.queries.filters import EventFilter
from signalbox.queries.window_search import EventSearch
from tests.rows import create_event, create_trace

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]


def call(name: str, duration: int | None = 900, error: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "location": "shop/signals.py:1", "duration_us": duration, "error": error, **more}


INVOICE = "shop.signals.send_invoice"
ROWS: tuple[dict[str, Any], ...] = (
    {"duration": None},
    {"duration": 60_000, "data": {"receivers": [call(INVOICE, 55_000), call("shop.signals.count", 10)]}},
    {"duration": 60_000, "data": {"receivers": [call(INVOICE, 900), call("shop.signals.slow", 58_000)]}},
    {
        "errors": 1,
        "data": {"receivers": [call(INVOICE, error="TimeoutError: 50% of [it]"), call("shop.signals.count")]},
    },
    {"errors": 1, "data": {"receivers": [call(INVOICE), call("shop.signals.count", error="ValueError: ä_b")]}},
    {
        "outcome": "failed",
        "data": {"receivers": [call(INVOICE, error="X: y", passed_through=True)], "passed_through": True},
    },
    {"signal": "got_request_exception", "outcome": "sent", "data": {"args": {"exception": "KeyError: 'Zeit'"}}},
    {"signal": "shop.signals.order_paid", "outcome": "failed", "sender": "shop.Order", "duration": 50_000},
    {"signal": "update", "sender": "shop.OrderLine", "outcome": "rolled_back", "object_key": "", "actor_key": "4"},
    {"sender": "auth.User", "object_key": "17", "actor_label": "grace", "database": "other"},
    {"sender": "shopping.Cart", "object_key": "[1, 2]", "data": {"receivers": [call("x.[a]?b", 49_999)]}},
    {"trace": {"name": "GET /orders/17/", "status": "200"}},
    {"trace": {"name": "GET /orders/17/?page=2", "status": "404"}},
    {"trace": {"name": "POST /order_s/", "status": "503"}},
    {"trace": {"name": "import /orders/17/", "status": "failed", "kind": "command"}},
)


def get_calls(event: Event) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = event.data.get("receivers", [])
    return found


def glob(pattern: str, value: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value) is not None


def named(call: dict[str, Any], name: str) -> bool:
    return glob(name, call["name"]) or glob(f"*.{name}", call["name"])


def raised(call: dict[str, Any], text: str) -> bool:
    return call["error"] is not None and "passed_through" not in call and text.lower() in call["error"].lower()


def ran(name: str) -> Callable[[Event, Trace | None], bool]:
    return lambda event, trace: any(named(one, name) for one in get_calls(event))


def has_path(pattern: str) -> Callable[[Event, Trace | None], bool]:
    return lambda event, trace: (
        trace is not None
        and trace.kind == "request"
        and glob(
            pattern,
            trace.name.partition(" ")[2].partition("?")[0] if "*" not in pattern else trace.name.partition(" ")[2],
        )
    )


def is_error(event: Event) -> bool:
    failed = event.outcome == "failed" and "passed_through" not in event.data
    return bool(event.errors or event.signal == "got_request_exception" or failed)


TOKENS: dict[str, Callable[[Event, Trace | None], bool]] = {
    "signal:update": lambda event, trace: event.signal == "update",
    "signal:update,post_save": lambda event, trace: event.signal in ("update", "post_save"),
    "signal:*_paid": lambda event, trace: event.signal.endswith("_paid"),
    "signal:p?st_save": lambda event, trace: False,
    "signal:post%": lambda event, trace: False,
    "signal:*%*": lambda event, trace: False,
    "group:model": lambda event, trace: event.signal == "post_save",
    "group:custom": lambda event, trace: event.signal == "shop.signals.order_paid",
    "model:shop.Order": lambda event, trace: event.sender == "shop.Order",
    "model:shop": lambda event, trace: event.sender.startswith("shop."),
    "model:shop.*Line": lambda event, trace: event.sender == "shop.OrderLine",
    "model:SHOP.*line": lambda event, trace: False,
    "object:auth.User:17": lambda event, trace: (event.sender, event.object_key) == ("auth.User", "17"),
    "object:17 model:auth.User,shop.Order": lambda event, trace: (
        event.object_key == "17" and event.sender in ("auth.User", "shop.Order")
    ),
    'object:"shopping.Cart:[1, 2]"': lambda event, trace: event.object_key == "[1, 2]",
    "actor:grace": lambda event, trace: event.actor_label == "grace",
    "actor:4": lambda event, trace: event.actor_key == "4",
    "actor:g*": lambda event, trace: event.actor_label == "grace",
    "outcome:failed,rolled_back": lambda event, trace: event.outcome in ("failed", "rolled_back"),
    "database:other": lambda event, trace: event.database == "other",
    "took>50ms": lambda event, trace: event.duration is not None and event.duration > 50_000,
    "took>=50ms": lambda event, trace: event.duration is not None and event.duration >= 50_000,
    "took<2ms": lambda event, trace: event.duration is not None and event.duration < 2_000,
    "took>=50ms took<60ms": lambda event, trace: event.duration == 50_000,
    "receiver:send_invoice": ran("send_invoice"),
    f"receiver:{INVOICE}": ran(INVOICE),
    "receiver:invoice": lambda event, trace: False,
    "receiver:Send_invoice": lambda event, trace: False,
    "receiver:*voice": ran("*voice"),
    "receiver:s*": ran("s*"),
    "receiver:slow,count": lambda event, trace: ran("slow")(event, trace) or ran("count")(event, trace),
    "receiver:[a]?b": ran("[a]?b"),
    "receiver:*[a]*": ran("*[a]*"),
    "receiver:send_invoice took>50ms": lambda event, trace: any(
        named(one, "send_invoice") and one["duration_us"] > 50_000 for one in get_calls(event)
    ),
    "receiver:send_invoice error:*": lambda event, trace: any(
        named(one, "send_invoice") and raised(one, "") for one in get_calls(event)
    ),
    "receiver:send_invoice error:timeout,key": lambda event, trace: any(
        named(one, "send_invoice") and raised(one, "timeout") for one in get_calls(event)
    ),
    "error:*": lambda event, trace: is_error(event),
    "error:TimeoutError": lambda event, trace: any(raised(one, "TimeoutError") for one in get_calls(event)),
    "error:valueerror": lambda event, trace: any(raised(one, "ValueError") for one in get_calls(event)),
    'error:"50% of [it]"': lambda event, trace: any(raised(one, "50% of [it]") for one in get_calls(event)),
    "error:5_%": lambda event, trace: False,
    "error:ä_b": lambda event, trace: any(raised(one, "ä_b") for one in get_calls(event)),
    "error:keyerror": lambda event, trace: event.signal == "got_request_exception",
    "path:/orders/17/": has_path("/orders/17/"),
    "path:/order*": has_path("/order*"),
    "path:/order_s/": has_path("/order_s/"),
    "path:/orderXs/": lambda event, trace: False,
    "status:404": lambda event, trace: trace is not None and trace.status == "404",
    "status:5xx,failed": lambda event, trace: trace is not None and trace.status in ("503", "failed"),
    "status>=404": lambda event, trace: trace is not None and trace.status in ("404", "503"),
    "path:/order* status:503": lambda event, trace: trace is not None and trace.status == "503",
    "kind:command": lambda event, trace: trace is not None and trace.kind == "command",
    "grace": lambda event, trace: event.actor_label == "grace",
    "Order A-17 TIMEOUTERROR": lambda event, trace: "TimeoutError" in str(event.data),
}


@pytest.fixture
def rows(db: None) -> list[tuple[Event, Trace | None]]:
    Event.objects.all().delete()
    Trace.objects.all().delete()
    found = []
    for number, values in enumerate(ROWS):
        given = dict(values)
        trace_id = f"{number:032x}"
        row = given.pop("trace", None)
        trace = None if row is None else create_trace(trace_id=trace_id, **row)
        found.append((create_event(trace_id=trace_id, **given), trace))
    return found


@pytest.mark.parametrize("text", TOKENS)
def test_a_token_selects_what_a_plain_reading_selects(text: str, rows: list[tuple[Event, Trace | None]]) -> None:
    expected = [event.id for event, trace in reversed(rows) if TOKENS[text](event, trace)]
    assert expected == [event.id for event in get_events(EventFilter.parse_text(text))]


@pytest.mark.parametrize("text", [text for text in TOKENS if " " not in text or '"' in text])
def test_a_minus_selects_all_others(text: str, rows: list[tuple[Event, Trace | None]]) -> None:
    expected = [event.id for event, trace in reversed(rows) if not TOKENS[text](event, trace)]
    assert expected == [event.id for event in get_events(EventFilter.parse_text(f"-{text}"))]


def test_each_negated_value_excludes(rows: list[tuple[Event, Trace | None]]) -> None:
    text = "-signal:update,post_save -error:KeyError"
    [event] = get_events(EventFilter.parse_text(text))
    assert "shop.signals.order_paid" == event.signal


def test_traces_are_selected_by_tokens(rows: list[tuple[Event, Trace | None]]) -> None:
    def find(text: str) -> list[str]:
        return [trace.status for trace in get_traces(EventFilter.parse_text(text))]

    assert ["503", "404", "200"] == find("path:/order*")
    assert ["503"] == find("status>=500")
    assert ["failed", "404", "200"] == find("-status>=500")
    assert [] == find("receiver:send_invoice")
    assert ["failed"] == find("kind:command signal:post_save")


def test_damaged_data_breaks_no_query(rows: list[tuple[Event, Trace | None]]) -> None:
    damaged: tuple[Any, ...] = (
        {"receivers": None},
        {"receivers": "x"},
        {"receivers": ["x", None, 1]},
        {"receivers": {}},
        [],
        "x",
        {"receivers": [{"name": 5, "error": {}}]},
    )
    for data in damaged:
        create_event(data=data)
    for text in ("receiver:send_invoice took>50ms", "error:Timeout", "error:*", "-error:Timeout"):
        assert list(EventSearch(EventFilter.parse_text(text), limit=100))


@pytest.mark.parametrize(
    ("text", "index"),
    [("signal:update", "signalbox_event_signal"), ("object:shop.Order:17", "signalbox_event_object")],
)
def test_an_exact_value_can_use_an_index(text: str, index: str, rows: list[tuple[Event, Trace | None]]) -> None:
    found = EventFilter.parse_text(text).apply(Event.objects.filter(id__lte=rows[-1][0].id)).order_by("-id")
    assert "= True" not in str(found.query)
    if connection.vendor != "postgresql":  # which reads a small table as a whole
        assert index in found.explain()


def test_a_receiver_with_a_long_name_is_found(rows: list[tuple[Event, Trace | None]]) -> None:
    name = f"shop.signals.{'x' * 400}.<locals>.receiver"
    event = create_event(data={"receivers": [call(name, error="E: " + "y" * 400)]})
    for text in (f"receiver:{name}", f"error:{'y' * 400}"):
        assert [event] == list(EventSearch(EventFilter.parse_text(text), limit=10))
