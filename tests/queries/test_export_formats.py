from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
from typing import Any

import pytest
from django.test import override_settings

from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.queries.export_formats import FORMATS, event_to_cloudevent
from signalbox.queries.json_objects import event_to_dict
from tests.json_tables import find_differences, read_types
from tests.rows import TRACE_ID, build_event


def to_csv_row(**values: Any) -> dict[str, str]:
    """Return an event as a reader of CSV gets it."""
    text = FORMATS["csv"].header + FORMATS["csv"].write_event(build_event(id=7, **values))
    [row] = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return row


# ------------------------------------------------------------------ JSON Lines


def test_a_json_line_is_the_documented_object() -> None:
    event = build_event(id=7, object_label="Straße\n\u2028", data={"args": {"n": 1}})
    line = FORMATS["jsonl"].write_event(event)
    assert 1 == len(line.splitlines())
    assert event_to_dict(event) == json.loads(line)


# ------------------------------------------------------------------ CSV


def test_csv_has_a_header_and_the_columns_of_the_json_object() -> None:
    values = {"object_label": 'a "b", c\nd', "data": {"args": {"note": "line\nbreak"}}}
    row, expected = to_csv_row(**values), event_to_dict(build_event(id=7, **values))
    assert list(expected) == list(row)
    assert expected["data"] == json.loads(row.pop("data"))
    assert {key: "" if value is None else str(value) for key, value in expected.items() if key != "data"} == row


def test_csv_lines_end_as_rfc_4180_says() -> None:
    text = FORMATS["csv"].header + FORMATS["csv"].write_event(build_event(object_label="a\nb"))
    assert 2 == text.count("\r\n")
    assert text.endswith("\r\n")
    assert '"a\nb"' in text


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "'\r'=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("  =1", "'  =1"),
        ("\u3000@SUM(A1)", "'\u3000@SUM(A1)"),
        (" a = 1", " a = 1"),
        ("x;=1+1", "x;'=1+1"),
        ('x";=1+1', "x\";'=1+1"),
        ('x;"=1+1', "x;'\"=1+1"),
        ("x\n@SUM(A1)", "x\n'@SUM(A1)"),
        ("x\t+1", "x\t'+1"),
        ("-5", "-5"),
        ("-5.25", "-5.25"),
        ("-5\n", "'-5\n"),
        ("a-b, -c = @d", "a-b, -c = @d"),
    ],
)
def test_a_text_cell_cannot_be_a_formula(label: str, expected: str) -> None:
    assert expected == to_csv_row(object_label=label)["object_label"]


def test_numbers_are_not_changed_in_csv() -> None:
    row = to_csv_row(object_key="-5", duration=-3)
    assert ("-5", "-3", "7") == (row["object_key"], row["duration_us"], row["id"])


def test_json_in_a_cell_keeps_its_value_and_contains_no_formula() -> None:
    data = {"args": {"note": 'x;=1+1 ";"=2 |@SUM(A1)', "numbers": [1, -5], "key;-": ";\\"}}
    cell = to_csv_row(data=data)["data"]
    assert data == json.loads(cell)
    assert not re.search(r"""[;|\t\r\n]["' \\]*[=+\-@]""", cell)


# ------------------------------------------------------------------ CloudEvents

# The rules of CloudEvents 1.0.2: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
# and of its JSON format: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
URI_REFERENCE = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
REQUIRED = {"id", "source", "specversion", "type"}
OPTIONAL = {"datacontenttype", "dataschema", "subject", "time"}


def check_cloudevent(line: str) -> dict[str, Any]:
    """Fail if ``line`` is not a valid CloudEvent in JSON. Return it."""
    found: dict[str, Any] = json.loads(line)
    # "Required Attributes": non-empty strings. "specversion MUST be 1.0".
    assert set(found) >= REQUIRED
    assert "1.0" == found["specversion"]
    data = found.pop("data")
    for name, value in found.items():
        # "Attribute Naming Convention": lower-case letters and digits of ASCII, SHOULD NOT exceed 20 characters.
        assert re.fullmatch("[a-z0-9]{1,20}", name), name
        # "Type System": a String has no control characters, surrogates or noncharacters. Optional attributes that
        # are present are non-empty. All of ours are strings.
        assert isinstance(value, str), name
        assert value, name
        assert not FORBIDDEN.search(value), name
    assert URI_REFERENCE.fullmatch(found["source"])
    assert RFC_3339.fullmatch(found["time"])
    assert dt.datetime.fromisoformat(found["time"]).tzinfo is not None
    # JSON format, 3.1: data of a JSON media type is a JSON value in the member `data`; `data_base64` is for binary.
    assert "application/json" == found["datacontenttype"]
    assert "data_base64" not in found
    # "Size Limits" and "Extension Context Attributes": extensions do not collide with the attributes of the spec.
    assert {"traceid", "spanid", "actor", "outcome", "parentid"} >= found.keys() - REQUIRED - OPTIONAL
    return {**found, "data": data}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"object_key": "", "sender": "", "actor_key": "", "actor_label": "", "outcome": "sent", "database": ""},
        {"parent": 12, "object_key": "\x07\x9f\ufdd0\U0001ffff", "actor_label": "a\nb\x7f", "sender": "Müller"},
        *({"signal": name} for name in BUILTIN_SIGNALS),
        {"signal": "shop.signals.order_paid", "data": {"args": {"note": "a\nb"}}},
    ],
)
def test_every_event_is_a_valid_cloudevent(values: dict[str, Any]) -> None:
    event = build_event(id=7, **values)
    line = FORMATS["cloudevents"].write_event(event)
    assert 1 == len(line.splitlines())
    found = check_cloudevent(line)
    assert event_to_dict(event) == found["data"]


def test_a_cloudevent_names_the_signal_and_the_object() -> None:
    found = event_to_cloudevent(build_event(id=7, parent=12))
    del found["data"]
    assert found == {
        "specversion": "1.0",
        "id": f"{TRACE_ID}-0000000000000001",
        "source": "/tests",
        "type": "django.db.models.signals.post_save",
        "time": "2026-03-01T12:00:00.000000+00:00",
        "subject": "shop.Order:17",
        "traceid": TRACE_ID,
        "spanid": "0000000000000001",
        "parentid": "000000000000000c",
        "actor": "ann",
        "outcome": "committed",
        "datacontenttype": "application/json",
    }


def test_the_id_of_a_cloudevent_does_not_depend_on_the_database() -> None:
    first, second = (event_to_cloudevent(build_event(id=number)) for number in (7, 8))
    assert first["id"] == second["id"]
    assert first["id"] != event_to_cloudevent(build_event(id=7, span=2))["id"]


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        ("bulk_create", "django.db.models.query.QuerySet.bulk_create"),
        ("bulk_delete", "django.db.models.query.QuerySet.delete"),
        ("shop.signals.order_paid", "shop.signals.order_paid"),
        ("signalbox.exported", "signalbox.exported"),
    ],
)
def test_the_type_of_a_cloudevent_is_a_dotted_path(signal: str, expected: str) -> None:
    assert expected == event_to_cloudevent(build_event(signal=signal))["type"]


def test_a_cloudevent_has_the_documented_attributes() -> None:
    event = build_event(id=7, object_key="17", actor_label="ann", parent=1)
    assert [] == find_differences(read_types("CloudEvent"), [event_to_cloudevent(event)])


def test_the_source_of_cloudevents_is_a_setting() -> None:
    with override_settings(SIGNALBOX={"CLOUDEVENTS_SOURCE": "https://shop.example/"}):
        assert "https://shop.example/" == event_to_cloudevent(build_event())["source"]
