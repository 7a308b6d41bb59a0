from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from signalbox.models import Event
from signalbox.queries.event_summary import (
    MAX_ERROR_LENGTH,
    EventSummary,
    clean_text,
    summarize_event,
    to_terminal_text,
)


def build(**given: Any) -> Event:
    values: dict[str, Any] = {
        "signal": "post_save",
        "sender": "shop.Order",
        "object_key": "7",
        "object_label": "Order 7",
        "outcome": "committed",
        "errors": 0,
        "data": {},
    }
    return Event(**(values | given))


def say(**given: Any) -> str:
    return str(summarize_event(build(**given)))


LABELS = {"status": {"open": "Open", "paid": "Paid"}, "customer": {"2": "Bea"}}
STAMPS = ["2026-03-01T10:00:00+00:00", "2026-03-01T11:00:00+00:00"]
NO_OBJECT = {"object_key": "", "object_label": ""}
BULK = {"signal": "update", **NO_OBJECT}
M2M = {"signal": "m2m_changed", "sender": "shop.Order_tags"}
TAGS = {"object": "shop.Order", "model": "shop.Tag", "reverse": False}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"changes": {"status": ["open", "paid"]}, "labels": LABELS}, "Order 7 · status Open → Paid"),
        ({"changes": {"customer": [1, 2]}, "labels": LABELS}, "Order 7 · customer #1 → Bea"),
        ({"changes": {"customer": [1, None]}}, "Order 7 · customer #1 → none"),
        ({"changes": {"status": ["paid"]}}, "Order 7 · status → paid"),
        ({"changes": {"number": ["", "none"]}}, "Order 7 · number empty → “none”"),
        ({"changes": {"note": ["a → b", "x"]}}, "Order 7 · note “a → b” → x"),
        ({"changes": {"total": ["1.00", {"expression": "F(total) + 1"}]}}, "Order 7 · total 1.00 → F(total) + 1"),
        ({"changes": {"note": ["[redacted]", {"erased": "[erased]"}]}}, "Order 7 · note [redacted] → [erased]"),
        ({"changes": {"note": [{"not_restorable": "<A>"}, "x"]}}, "Order 7 · note <A> (not restorable) → x"),
        ({"changes": {"meta": [{}, {"literal": {"erased": 1}}]}}, 'Order 7 · meta {} → {"erased": 1}'),
        ({"changes": {"gone": [True, False]}}, "Order 7 · gone yes → no"),
        ({"changes": {name: [1, 2] for name in "abcde"}}, "Order 7 · a 1 → 2, b 1 → 2, c 1 → 2, +2"),
        ({"changes": {"status": ["a", "b"], "updated": STAMPS}}, "Order 7 · status a → b, +1 automatic"),
        ({"changes": {"updated": STAMPS}}, "Order 7 · +1 automatic"),
        ({"changes": {}}, "Order 7 · nothing changed"),
        ({"changes": {"status": "no pair"}}, "Order 7 · nothing changed"),
        (
            {"row": {"id": 7, "status": "open", "note": "", "placed": STAMPS[0], "customer": 2}, "labels": LABELS},
            "Order 7 · created · status Open, customer Bea",
        ),
        ({"args": {"created": True}}, "Order 7 · created"),
        ({"args": "text"}, "Order 7"),
        ("text", "Order 7"),
    ],
)
def test_a_save_shows_its_changes_with_recorded_labels(data: Any, text: str) -> None:
    assert text == say(data=data)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"object_label": ""}, "Order #7"),
        ({"sender": "shop.Customer", "object_label": "Anna"}, "Customer Anna"),
        ({"object_label": "[erased]"}, "Order [erased]"),
        ({"object_label": "", "object_key": "[erased]"}, "Order [erased]"),
        ({"signal": "post_delete"}, "Order 7 · deleted"),
        (
            {
                "signal": "post_delete",
                "data": {"args": {"origin": {"model": "shop.Customer", "pk": 3}}, "row": {"id": 7}},
            },
            "Order 7 · deleted with Customer #3",
        ),
        (
            {**BULK, "data": {"args": {"count": 1250, "values": {"status": "paid"}, "labels": LABELS}}},
            "1,250 rows · status = Paid",
        ),
        ({**BULK, "data": {"args": {"count": 1, "fields": ["total", "note"]}}}, "1 row · total, note"),
        ({**BULK, "data": {"args": {"count": None, "values": {"updated": STAMPS[0]}}}}, "rows · +1 automatic"),
        ({**BULK, "signal": "bulk_create", "data": {"args": {"count": 3}}}, "3 rows created"),
        ({**BULK, "signal": "bulk_delete", "data": {"args": {"count": 3}}}, "3 rows deleted"),
    ],
)
def test_an_object_and_a_bulk_operation_are_named(given: dict[str, Any], text: str) -> None:
    prefix = "Order · " if given.get("object_key") == "" else ""
    assert prefix + text == say(**given)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"action": "post_add", "added": [1, 2]}, "tags: added Tag #1, #2"),
        ({"action": "post_add", "added": [1, 2, 3, 4, 5]}, "tags: added Tag #1, #2, #3, +2"),
        (
            {"action": "post_add", "added": [1, 2], "labels": {"tag": {"1": "red", "2": "<b>\u202eblue"}}},
            "tags: added red, <b>\\u202eblue",
        ),
        ({"action": "post_add", "added": [1, 2], "labels": {"tag": {"1": "red"}}}, "tags: added Tag red, #2"),
        ({"action": "post_add", "added": [1, 2], "labels": ["red"]}, "tags: added Tag #1, #2"),
        (
            {"action": "post_remove", "removed": [{"erased": "[erased]"}], "labels": {"tag": {"1": "red"}}},
            "tags: removed Tag [erased]",
        ),
        ({"action": "post_remove", "removed": [{"erased": "[erased]"}]}, "tags: removed Tag [erased]"),
        ({"action": "post_clear", "pk_set": None, "removed": [1]}, "tags: removed Tag #1"),
        ({"action": "post_clear", "pk_set": None}, "tags: cleared"),
        ({"action": "pre_add", "pk_set": [1]}, "tags: before adding Tag #1"),
        ({"action": "post_add", "pk_set": "[redacted]"}, "tags: added Tag [redacted]"),
        ({"action": "post_remove", "count": 3, "keys_unknown": "reason"}, "tags: removed 3 Tag"),
    ],
)
def test_a_relation_is_named_by_its_field_and_shows_names_or_keys(args: dict[str, Any], text: str) -> None:
    assert f"Order 7 · {text}" == say(**M2M, data={"args": {**TAGS, **args}})


def test_a_relation_from_its_other_side_has_the_name_there() -> None:
    args = {"action": "post_add", "added": [7], "object": "shop.Tag", "model": "shop.Order", "reverse": True}
    assert "Tag urgent · orders: added Order #7" == say(
        **M2M, object_key="1", object_label="urgent", data={"args": args}
    )


def test_a_login_shows_the_user_and_the_address() -> None:
    login = build(signal="user_logged_in", sender="auth.User", object_key="3", object_label="anna", outcome="sent")
    assert "anna · logged in" == str(summarize_event(login))
    login.client_address = "10.0.0.1"
    assert EventSummary("anna", "logged in from 10.0.0.1") == summarize_event(login)
    credentials = {"password": "[redacted]", "username": "bea"}
    given = {"sender": "django.contrib.auth", "data": {"args": {"credentials": credentials}}}
    assert "bea · login failed" == say(signal="user_login_failed", **NO_OBJECT, **given)


@pytest.mark.parametrize(
    ("signal", "args", "text"),
    [
        ("request_started", {"environ": {"method": "GET", "path": "/a/?b=1"}}, "GET /a/?b=1"),
        (
            "shop.paid",
            {"order": {"model": "shop.Order", "pk": 7}, "amount": 3, "none": None},
            "order Order #7, amount 3",
        ),
        ("setting_changed", {"setting": "DEBUG", "value": True, "enter": True}, "DEBUG = yes"),
        ("pre_migrate", {"plan": [["shop.0001", False], ["shop.0002", False]], "verbosity": 1}, "2 migrations"),
        ("got_request_exception", {"request": None, "exception": "ValueError: no"}, "ValueError: no"),
        (
            "got_request_exception",
            {"request": {"method": "GET", "path": "/a/"}, "exception": "ValueError: no"},
            "ValueError: no · GET /a/",
        ),
        ("connection_created", {"connection": {"alias": "default", "vendor": "sqlite"}}, "sqlite, default"),
        ("shop.linked", {"connection": {"alias": "a"}, "speed": 3}, 'connection {"alias": "a"}, speed 3'),
    ],
)
def test_other_signals_show_their_arguments(signal: str, args: dict[str, Any], text: str) -> None:
    assert text == say(signal=signal, sender="x.y.Z", **NO_OBJECT, outcome="sent", data={"args": args})


def test_the_exception_of_an_own_receiver_comes_before_that_of_a_nested_send() -> None:
    receivers = [
        {"name": "a", "error": "KeyError: nested", "passed_through": True},
        {"name": "b", "error": "ValueError: no stock"},
    ]
    found = summarize_event(build(errors=1, data={"changes": {"a": [1, 2]}, "receivers": receivers}))
    assert EventSummary("Order 7", "a 1 → 2", "ValueError: no stock") == found
    assert "Order 7 · ValueError: no stock · a 1 → 2" == str(found)


def test_a_summary_is_short_whatever_was_recorded() -> None:
    long = "v" * 100_000
    data = {
        "changes": {f"{long}{number}": [long, [long] * 50] for number in range(50)},
        "receivers": [{"name": "a", "error": long}],
    }
    found = summarize_event(build(object_label=long, data=data))
    assert len(str(found)) < 600
    assert MAX_ERROR_LENGTH == len(found.error)
    assert len(say(signal="custom", **NO_OBJECT, data={"args": {long: {long: long}}})) < 100


def test_characters_that_hide_or_reorder_text_are_shown_as_codes() -> None:
    assert r"a\u202eb\u200bc\x1b[2J\x07" == clean_text("a\u202eb\u200bc\x1b[2J\x07", 80)
    assert "one two" == clean_text("one\r\n\u2028 two", 80)
    assert "👩\u200d🔬" == clean_text("👩\u200d🔬", 80)


def test_a_right_to_left_value_does_not_turn_the_arrow() -> None:
    text = say(data={"changes": {"note": ["שלם", "עלם"]}})
    assert "Order 7 · note \u2068שלם\u2069 → \u2068עלם\u2069" == text
    assert "Order 7 · note שלם → עלם" == to_terminal_text(text)


def test_a_moment_is_shown_in_the_zone_of_the_page() -> None:
    changes = {"moment": [None, STAMPS[0]]}
    with timezone.override(dt.timezone(dt.timedelta(hours=2))):
        assert "moment none → 2026-03-01 12:00:00" in say(sender="shop.Item10", data={"changes": changes})


def test_a_moment_that_the_zone_of_the_page_does_not_have_is_shown_as_recorded() -> None:
    changes = {"moment": [None, "9999-12-31T23:59:59+00:00"]}
    with timezone.override(dt.timezone(dt.timedelta(hours=2))):
        assert "none → 9999-12-31T23:59:59" in say(sender="shop.Item10", data={"changes": changes})


def test_a_model_that_was_removed_has_a_summary() -> None:
    assert "Invoice #7 · total 1 → 2" == say(
        sender="gone.Invoice", object_label="", data={"changes": {"total": [1, 2]}}
    )
