"""Random filters on the database, compared with a plain reading of the same rows in Python."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.models import Event, Trace
from signalbox.queries.events import get_events
from signalbox.queries.filter_language import Token
from signalbox.queries.filters import EventFilter
from signalbox.queries.timeline_filter import TimelineFilter
from signalbox.queries.window_search import EventSearch
from tests.rows import build_event, create_trace

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

ODD = (
    "ann",
    "Ann",
    "änn",
    "ann ",
    " ann",
    "a_n",
    "a%n",
    "a*n",
    "a?n",
    "[a]nn",
    "a|n",
    "a\\n",
    "a\\\\n",
    'a"n',
    "a'n",
    "a, n",
    "a:n",
    "-ann",
    "a/n",
    "🚆",
    "🚆 ann",
    "ann🚆",
    "ß",
    "\u0301",
    "a\u0308nn",
    "a\tn",
    "a\nn",
    "日本",
    "%",
    "_",
    "|",
    "\\",
    '"',
    "null",
    "<script>alert(1)</script>",
)
"""Values that databases compare in their own ways."""

SIGNALS = ("post_save", "Post_save", "update", "got_request_exception", "shop.paid", "shop.Paid", *ODD)
SENDERS = ("", "shop.Order", "shop.order2", "Shop.Order", "shop", "shopping.Cart", "shop_x.A", "shopXx.A", *ODD)
KEYS = ("", "17", "017", "a", "A", "ä", "17 ", "[1, 2]", *ODD)
OUTCOMES = ("committed", "rolled_back", "failed", "sent")
KINDS = ("request", "command", "task", "Request")
STATUSES = ("200", "404", "500", "503", "599", "99", "failed", "Failed", "")
PATHS = (
    "/orders/",
    "/Orders/",
    "/ordérs/",
    "/a b/",
    "/a%20b/",
    "/o_s/",
    "/oXs/",
    "/x?y=1",
    "/orders/?page=2",
    "/x /orders/",
    "/",
)
DURATIONS = (None, 0, 1, 999, 1_000, 50_000, 50_001, 10**15, 2**62)
DATABASES = ("", "default", "Default", "other")


def build_rows(number: int) -> list[tuple[Event, Trace | None]]:
    """Create events, some of them with a trace, with values from the pools."""
    chooser = random.Random(7)

    def choose_call() -> dict[str, Any]:
        error = chooser.choice([None, None, "TimeoutError: x", "timeouterror", *(f"E: {odd}" for odd in ODD)])
        one: dict[str, Any] = {
            "name": chooser.choice(["shop.signals.send", "shop.signals.Send", "send", *(f"x.{odd}" for odd in ODD)]),
            "duration_us": chooser.choice(DURATIONS),
            "error": error,
        }
        return one | ({"passed_through": True} if error and chooser.random() < 0.2 else {})

    rows: list[tuple[Event, Trace | None]] = []
    events = []
    for index in range(number):
        data: dict[str, Any] = {}
        if chooser.random() < 0.6:
            data["receivers"] = [choose_call() for _ in range(chooser.randrange(4))]
        if chooser.random() < 0.3:
            data["args"] = {"exception": chooser.choice(["KeyError: 'x'", *ODD])}
        if chooser.random() < 0.3:
            data["note"] = chooser.choice(ODD)
        trace_id = f"{chooser.choice(['4bf92f35', '4bf92f36', '00000000'])}{index:024x}"
        events.append(
            build_event(
                trace_id=trace_id,
                signal=chooser.choice(SIGNALS),
                sender=chooser.choice(SENDERS),
                object_key=chooser.choice(KEYS),
                object_label=chooser.choice(["", *ODD]),
                actor_key=chooser.choice(["", "3", "03", *ODD]),
                actor_label=chooser.choice(["", *ODD]),
                database=chooser.choice(DATABASES),
                outcome=chooser.choice(OUTCOMES),
                duration=chooser.choice(DURATIONS),
                errors=chooser.choice([0, 0, 1]),
                data=data,
            )
        )
        trace = None
        if chooser.random() < 0.6:
            method, path = chooser.choice(["GET", "POST"]), chooser.choice(PATHS)
            trace = create_trace(
                trace_id=trace_id,
                kind=chooser.choice(KINDS),
                name=f"{method} {path}",
                status=chooser.choice(STATUSES),
            )
        rows.append((events[-1], trace))
    Event.objects.bulk_create(events)
    return rows


# ------------------------------------------------------------------ the plain reading


def glob(pattern: str, value: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None


def lower(text: str) -> str:
    """Return ``text`` with small ASCII letters: SQLite knows no others."""
    return re.sub("[A-Z]+", lambda found: found[0].lower(), text)


def compare(operator: str, value: int, number: int) -> bool:
    return {">": value > number, ">=": value >= number, "<": value < number, "<=": value <= number}[operator]


MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000}


def to_us(text: str) -> int:
    number, unit = re.fullmatch("([0-9]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return int(number) * MICROSECONDS[unit]


class Row(NamedTuple):
    event: Event
    trace: Trace | None

    @property
    def calls(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.event.data.get("receivers", [])
        return found


def matches_sender(row: Row, value: str) -> bool:
    if "." in value or "*" in value:
        return glob(value, row.event.sender)
    return row.event.sender == value or row.event.sender.startswith(f"{value}.")


def matches_group(row: Row, value: str) -> bool:
    entry = BUILTIN_SIGNALS.get(row.event.signal)
    return value == (entry.group if entry else "custom")


def matches_error(row: Row, value: str) -> bool:
    event = row.event
    if value == "*":
        failed = event.outcome == "failed" and "passed_through" not in event.data
        return bool(event.errors or event.signal == "got_request_exception" or failed)
    exception = event.data.get("args", {}).get("exception")
    return any(has_error(call, value) for call in row.calls) or (
        exception is not None and lower(value) in lower(exception)
    )


def has_error(call: dict[str, Any], value: str) -> bool:
    if call["error"] is None or "passed_through" in call:
        return False
    return value == "*" or lower(value) in lower(call["error"])


def has_name(call: dict[str, Any], value: str) -> bool:
    return glob(value, call["name"]) or glob(f"*.{value}", call["name"])


def matches_path(row: Row, value: str) -> bool:
    if row.trace is None or row.trace.kind != "request":
        return False
    path = row.trace.name.partition(" ")[2]
    return glob(value, path) or glob(f"{value}?*", path)


def matches_status(row: Row, value: str) -> bool:
    if row.trace is None:
        return False
    if re.fullmatch("[1-5]xx", value):
        return re.fullmatch(f"{value[0]}[0-9][0-9]", row.trace.status) is not None
    return row.trace.status == value


def matches_text(row: Row, value: str) -> bool:
    event = row.event
    texts = [event.signal, event.sender, event.object_key, event.object_label, event.actor_label]
    in_data = lower(json.dumps(value, ensure_ascii=False)[1:-1]) in lower(json.dumps(event.data, ensure_ascii=False))
    return in_data or any(lower(value) in lower(text) for text in texts)


ONE_VALUE: dict[str, Callable[[Row, str], bool]] = {
    "signal": lambda row, value: glob(value, row.event.signal),
    "group": matches_group,
    "model": matches_sender,
    "object": lambda row, value: (
        (row.event.sender, row.event.object_key) == (value.partition(":")[0], value.partition(":")[2])
    ),
    "receiver": lambda row, value: any(has_name(call, value) for call in row.calls),
    "error": matches_error,
    "outcome": lambda row, value: row.event.outcome == value.lower(),
    "actor": lambda row, value: glob(value, row.event.actor_key) or glob(value, row.event.actor_label),
    "path": matches_path,
    "status": matches_status,
    "kind": lambda row, value: row.trace is not None and row.trace.kind == value,
    "trace": lambda row, value: row.event.trace_id.startswith(value),
    "database": lambda row, value: row.event.database == value,
    "": matches_text,
}


def matches_token(row: Row, token: Token) -> bool:
    """Return whether one token that is not negated matches, of several values any."""
    if token.operator in ("", ":"):
        if token.name == "error" and "*" in token.values and not token.is_negated:
            return matches_error(row, "*")
        return any(ONE_VALUE[token.name](row, value) for value in token.values)
    if token.name == "took":
        value = row.event.duration
        return value is not None and compare(token.operator, value, to_us(token.values[0]))
    status = row.trace.status if row.trace else ""
    is_code = re.fullmatch("[1-5][0-9][0-9]", status) is not None
    return is_code and compare(token.operator, int(status), int(token.values[0]))


def matches(row: Row, tokens: list[Token]) -> bool:
    for token in tokens:
        if token.is_negated and matches_token(row, token):
            return False
    wanted = [token for token in tokens if not token.is_negated]
    receivers = [value for token in wanted if token.name == "receiver" for value in token.values]
    if receivers:
        errors = [value for token in wanted if token.name == "error" for value in token.values]
        durations = [token for token in wanted if token.name == "took"]
        wanted = [token for token in wanted if token.name not in ("receiver", "error", "took")]
        if not any(
            any(has_name(call, name) for name in receivers)
            and (not errors or any(has_error(call, error) for error in errors))
            and all(
                call["duration_us"] is not None and compare(one.operator, call["duration_us"], to_us(one.values[0]))
                for one in durations
            )
            for call in row.calls
        ):
            return False
    any_of: dict[str, list[Token]] = {}
    for index, token in enumerate(wanted):
        is_alone = token.name == "" or token.operator not in ("", ":")
        any_of.setdefault(f"{token.name}{index}" if is_alone else token.name, []).append(token)
    if any("*" in token.values for token in any_of.get("error", ())):
        any_of["error"] = [Token("error", ":", ("*",))]
    return all(any(matches_token(row, token) for token in some) for some in any_of.values())


# ------------------------------------------------------------------ random filters


def with_globs(*pools: str) -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from(pools),
        st.sampled_from(pools).map(lambda value: f"*{value[1:]}"),
        st.sampled_from(pools).map(lambda value: f"{value[:2]}*"),
        st.sampled_from(pools).map(lambda value: value.swapcase()),
    ).filter(lambda value: value not in ("", '""'))


def listed(name: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[Token]:
    several = st.lists(values.filter(bool), min_size=1, max_size=3, unique=True).map(tuple)
    return st.builds(Token, st.just(name), st.just(":"), several, st.booleans())


ORDER = st.sampled_from([">", ">=", "<", "<="])
TOKENS = st.one_of(
    listed("signal", with_globs(*SIGNALS)),
    listed("group", st.sampled_from(["model", "request", "custom"])),
    listed("model", with_globs("shop", *SENDERS)),
    listed(
        "object",
        st.builds(
            lambda model, key: f"{model}:{key}",
            st.sampled_from(["shop.Order", "Shop.Order", "shop_x.A"]),
            st.sampled_from(KEYS).filter(bool),
        ),
    ),
    listed("receiver", with_globs("shop.signals.send", "signals.send", "send", "Send", *ODD)),
    listed("error", st.sampled_from(["*", "timeout", "TIMEOUT", "E: ", *ODD])),
    listed("outcome", st.sampled_from([*OUTCOMES, "FAILED"])),
    listed("actor", with_globs("3", "03", *ODD)),
    listed("path", with_globs(*PATHS).filter(lambda path: path.startswith(("/", "*")))),
    listed("status", st.sampled_from([*filter(None, STATUSES), "5xx", "4xx", "1xx", "FAILED"])),
    listed("kind", st.sampled_from([*KINDS, "task "])),
    listed("trace", st.sampled_from(["4bf92f35", "4bf92f36", "00000000", f"4bf92f35{0:024x}", "4bf92f350"])),
    listed("database", st.sampled_from(DATABASES).filter(bool)),
    st.builds(
        Token,
        st.just("took"),
        ORDER,
        st.sampled_from(["0us", "1us", "1ms", "50ms", "999us", "1000000000s", "1s"]).map(lambda value: (value,)),
        st.booleans(),
    ),
    st.builds(
        Token,
        st.just("status"),
        ORDER,
        st.sampled_from(["000", "100", "404", "500", "503", "599", "600", "999"]).map(lambda value: (value,)),
        st.booleans(),
    ),
    st.builds(
        Token,
        st.just(""),
        st.just(""),
        st.sampled_from([*ODD, "ORDER", "send", "E: a"]).map(lambda value: (value,)),
        st.booleans(),
    ),
)


class Rows(list[Row]):
    def __repr__(self) -> str:
        return f"{len(self)} rows"


@pytest.fixture
def rows(db: None) -> Rows:
    Event.objects.all().delete()
    Trace.objects.all().delete()
    build_rows(150)
    traces = {trace.trace_id: trace for trace in Trace.objects.all()}
    return Rows(Row(event, traces.get(event.trace_id)) for event in Event.objects.order_by("-id"))


@pytest.mark.slow
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tokens=st.lists(TOKENS, min_size=1, max_size=3))
def test_a_filter_selects_what_a_plain_reading_selects(rows: Rows, tokens: list[Token]) -> None:
    text = " ".join(map(str, tokens))
    event_filter = EventFilter.parse_text(text)
    expected = [row.event.id for row in rows if matches(row, tokens)]
    assert expected == [event.id for event in get_events(event_filter, limit=1_000)], text
    assert expected == [event.id for event in EventSearch(event_filter, limit=1_000)], text
    written = event_filter.to_text()
    assert written == EventFilter.parse_text(written).to_text()
    chips = TimelineFilter.parse({"q": text}).list_chips()
    assert len(chips) == len(tokens)
