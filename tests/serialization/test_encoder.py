"""Any Python object becomes limited JSON without secrets that every database accepts."""

from __future__ import annotations

import functools
import io
import json
import re
import subprocess
import sys
import tempfile
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import models
from django.db.models.fields.files import FieldFile
from django.http import QueryDict
from django.test import RequestFactory
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from signalbox.core.text import digest, sanitize_text
from signalbox.serialization.encoder import (
    CYCLE,
    ELLIPSIS,
    MAX_BYTES,
    MAX_ERROR,
    MAX_TEXT,
    TOO_DEEP,
    TOO_LONG,
    dumps,
    encode,
    encode_fields,
    format_exception,
    has_secret_pk,
    json_text,
)
from signalbox.serialization.redaction import REDACTED, Redactor

REDACTOR = Redactor()
ENCODERS = [json_text.dumps_orjson, json_text.dumps_stdlib]
HASH = "pbkdf2_sha256$870000$abcDEF$aGFzaA/+=="
HERE = __name__


def render(value: object) -> Any:
    """Return the result of `encode` for the value, written and read by each JSON encoder."""
    rendered = encode(value, redactor=REDACTOR)
    for dump_json in ENCODERS:
        assert rendered == json.loads(dump_json(rendered))
    return rendered


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def assert_accepted(text: str) -> Any:
    """What PostgreSQL asks of jsonb: valid JSON without NUL, lone surrogates and NaN."""
    text.encode()
    value = json.loads(text, parse_constant=refuse_constant)

    def check(value: Any) -> None:
        if isinstance(value, str):
            assert "\0" not in value
            value.encode()
        elif isinstance(value, dict):
            for key, item in value.items():
                check(key)
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        elif isinstance(value, int):
            assert -(2**63) <= value < 2**64

    check(value)
    return value


class Colour(Enum):
    RED = "red"
    PAIR = (1, 2)


class Size(models.IntegerChoices):
    SMALL = 1, "small"


class Kind(models.TextChoices):
    BOOK = "book", "A book"


class Level(IntEnum):
    HIGH = 3


Point = namedtuple("Point", "x password")  # noqa: PYI024 the untyped kind has to work too


@dataclass
class Login:
    name: str
    password: str
    quiet: str = field(default="quiet", repr=False)


@dataclass(slots=True)
class Slotted:
    x: int


class Plain:
    def method(self) -> None: ...


def generator() -> Iterator[int]:
    raise AssertionError("a generator was consumed")
    yield 1  # type: ignore[unreachable]


def wake() -> Any:
    raise AssertionError("a lazy object was woken")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, "9223372036854775808"),
        (-(2**63) - 1, "-9223372036854775809"),
        (10**6_000, "<integer of 19932 bits>"),
        (1.5, 1.5),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (1 + 2j, "(1+2j)"),
        (range(3), "range(0, 3)"),
        ("ä", "ä"),
        ("a\0b\ud800c", "a\ufffdb\ufffdc"),
        ("password=hunter2", "password=[redacted]"),
        (mark_safe("<b>"), "<b>"),
        (gettext_lazy("Yes"), "Yes"),
        (Decimal("12.50"), "12.50"),
        (Decimal("NaN"), "NaN"),
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001 naive ones have to work too
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T00:00:00+02:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4, 5), "03:04:05"),
        (timedelta(days=1, seconds=2), "P1DT00H00M02S"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Colour.PAIR, [1, 2]),
        (Size.SMALL, 1),
        (Kind.BOOK, "book"),
        (Level.HIGH, 3),
        (b"plain", {"bytes": 5, "text": "plain"}),
        (b"token=abc", {"bytes": 9, "text": "token=[redacted]"}),
        (b'{\n "password": "hunter2"\n}', {"bytes": 26, "text": '{\n "password": "[redacted]"\n}'}),
        ("ü token=abc".encode(), {"bytes": 12, "text": "ü token=[redacted]"}),
        ("é".encode() * 2_000, {"bytes": 4_000, "text": "é" * 1_128}),
        (b"", {"bytes": 0}),
        (bytearray(b"\x00" * 100), {"bytes": 100}),
        (memoryview(b"\xff\x00"), {"bytes": 2}),
        (b"password=hunter2\x00", {"bytes": 17}),
        ("a\xa0b\u200dc".encode(), {"bytes": 8, "text": "a\xa0b\u200dc"}),
        (memoryview(b"\xff\x00\xff\x00").cast("H"), {"bytes": 4}),
        ([1, (2, 3)], [1, [2, 3]]),
        (deque([1, 2]), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ({1: 2, None: 3, (1, 2): 4, b"a": 5, Kind.BOOK: 6},
         {"1": 2, "None": 3, "<builtins.tuple>": 4, "a": 5, "book": 6}),
        ({1: "a", "1": "b"}, {"1": "a", "1'": "b"}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (QueryDict("a=1&a=2&token=x"), {"a": ["1", "2"], "token": REDACTED}),
        (Point(1, "x"), {"x": 1, "password": REDACTED}),
        (Login("ada", "x"), {"name": "ada", "password": REDACTED}),
        (Slotted(1), {"x": 1}),
        (Plain, f"{HERE}.Plain"),
        (User, "django.contrib.auth.models.User"),
        (render, f"{HERE}.render"),
        (Plain().method, f"{HERE}.Plain.method"),
        (len, "builtins.len"),
        (functools.partial(render, 1), f"{HERE}.render"),
        (User(pk=3, username="ada"), {"model": "auth.User", "pk": 3}),
        (User(), {"model": "auth.User", "pk": None}),
        (Session("abc"), {"model": "sessions.Session", "pk": REDACTED}),
        (User.objects.all(), {"queryset": "auth.User"}),
        (SimpleLazyObject(wake), "<django.utils.functional.SimpleLazyObject>"),
        (FieldFile(User(), models.FileField(name="f"), "a/b.txt"), "a/b.txt"),
        (FieldFile(User(), models.FileField(name="f"), None), None),
        (ContentFile(b"x", name="c.txt"), "c.txt"),
        (SimpleUploadedFile("u.txt", b"x"), "u.txt"),
        (io.BytesIO(b"x"), "<_io.BytesIO>"),
        (ValueError("token=abc"), "ValueError: token=[redacted]"),
        (generator(), "<builtins.generator>"),
        (map(str, [1]), "<builtins.map>"),
        (object(), "<builtins.object>"),
        (models.F("x") + 1, "<django.db.models.expressions.CombinedExpression>"),
        ({"password": None, "n": {"api_key": [1]}}, {"password": REDACTED, "n": {"api_key": REDACTED}}),
        ({"credentials": {"username": "ada", "password": "x"}},
         {"credentials": {"username": "ada", "password": REDACTED}}),
        ({"credentials": "ada:x"}, {"credentials": REDACTED}),
        ({"setting": "SECRET_KEY", "value": "x"}, {"setting": "SECRET_KEY", "value": REDACTED}),
        ({"Name": "DB_PASSWORD", "Value": "x"}, {"Name": "DB_PASSWORD", "Value": REDACTED}),
        ({"type": "password", "value": "x"}, {"type": "password", "value": REDACTED}),
        ({"field": "password", "old": "x", "new": "y"}, {"field": "password", "old": REDACTED, "new": REDACTED}),
        ([(b"cookie", b"a=1")], [[{"bytes": 6, "text": "cookie"}, REDACTED]]),
        ([["Authorization", "x"], ["Host", "y"]], [["Authorization", REDACTED], ["Host", "y"]]),
        (["password", "email"], ["password", "email"]),
        (["mysql", "--password", "x", "--host", "y"], ["mysql", "--password", REDACTED, "--host", "y"]),
        (deque(["--token", b"x"]), ["--token", REDACTED]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_is_encoded_by_its_type(value: object, expected: Any) -> None:
    rendered = render(value)
    assert (expected, type(expected)) == (rendered, type(rendered))


def test_a_lazy_object_that_is_awake_is_rendered() -> None:
    user = SimpleLazyObject(lambda: User(pk=3))
    assert user.pk == 3
    assert {"model": "auth.User", "pk": 3} == render(user)


def test_an_open_file_is_named_and_not_read() -> None:
    with tempfile.NamedTemporaryFile("w+") as there, open(there.name) as file:
        there.write("text")
        there.flush()
        assert there.name == render(file)
        assert file.read() == "text"


def test_a_request_is_encoded_as_method_and_path() -> None:
    request = RequestFactory().post("/orders/?token=x", {"password": "x"})
    assert {"method": "POST", "path": "/orders/"} == render(request)


def test_the_environment_of_a_request_loses_its_secrets() -> None:
    environ = RequestFactory().get("/?token=abc&x=1", HTTP_COOKIE="sessionid=abc", HTTP_AUTHORIZATION="Basic YTpi").META
    rendered = render(environ)
    assert "token=[redacted]&x=1" == rendered["QUERY_STRING"]
    assert [REDACTED, REDACTED] == [rendered["HTTP_COOKIE"], rendered["HTTP_AUTHORIZATION"]]
    assert "abc" not in dumps(rendered)
    assert "YTpi" not in dumps(rendered)


# --- bounds


def test_a_long_text_ends_with_the_number_of_omitted_characters() -> None:
    assert "x" * MAX_TEXT + "… (1,000 more)" == render("x" * 3_000)
    assert "x" * MAX_TEXT == render("x" * MAX_TEXT)


def test_a_secret_across_the_end_of_a_long_text_is_not_shown() -> None:
    text = "x" * (MAX_TEXT - 20) + " " + HASH
    assert "pbkdf2" in text[:MAX_TEXT]
    assert "pbkdf2" not in render(text)


def test_a_large_container_ends_with_the_number_of_omitted_items() -> None:
    assert [*range(50), f"{ELLIPSIS} (10 more)"] == render(list(range(60)))
    assert {**{str(n): n for n in range(50)}, ELLIPSIS: "10 more"} == render({n: n for n in range(60)})
    assert 51 == len(render(set(range(100_000))))


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(10_000):
        value = [value]
    assert [[[[[[TOO_DEEP]]]]]] == render(value)


@pytest.mark.parametrize("make", [lambda cycle: cycle.append, lambda cycle: lambda item: cycle.append({"a": item})])
def test_a_cycle_is_marked(make: Callable[[list[Any]], Callable[[Any], None]]) -> None:
    cycle: list[Any] = []
    make(cycle)(cycle)
    assert dumps(render(cycle)) in (f'["{CYCLE}"]', f'[{{"a":"{CYCLE}"}}]')


def test_the_same_object_twice_is_not_a_cycle() -> None:
    shared = [1]
    assert [[1], [1]] == render([shared, shared])


@pytest.mark.parametrize("character", ["x", "ä", "\x01", '"', "\\", "\U0001f600", "\u2028", "\0", "\ud800"])
def test_the_json_of_one_value_is_bounded(character: str) -> None:
    text = character * 5_000
    large: list[Any] = [
        [[text] * 50] * 50,
        {n: {f"{text}{m}": text for m in range(50)} for n in range(50)},
        [[[[[[1.123456789012345e-300] * 50] * 50] * 50] * 50] * 50] * 50,
        [{}] * 50,
        [[[[[[]] * 50] * 50] * 50] * 50] * 50,
        [User(pk=text)] * 50,
        [b"x" * 5_000] * 50,
        [[Login(text, text)] * 50] * 50,
    ]
    for value in large:
        rendered = encode(value, redactor=REDACTOR)
        for dump_json in ENCODERS:
            assert len(dump_json(rendered).encode()) <= MAX_BYTES


def test_a_value_over_the_budget_is_marked() -> None:
    rendered = render(["x" * MAX_TEXT] * 50)
    assert TOO_LONG == rendered[-2]
    assert re.fullmatch(r"… \(\d+ more\)", rendered[-1])


# --- hostile objects


class Rude:
    """What an object is asked for before anything else raises."""

    def __repr__(self) -> str:
        raise AssertionError("repr")

    def __str__(self) -> str:
        raise AssertionError("str")


class RudeStr(Rude, str): ...


class Hostile(Rude):
    """Everything raises that can."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise AssertionError("eq")

    def __bool__(self) -> bool:
        raise AssertionError("bool")

    def __len__(self) -> int:
        raise AssertionError("len")

    def __iter__(self) -> Any:
        raise AssertionError("iter")


class HostileStr(Hostile, str): ...


class HostileInt(Hostile, int): ...


class HostileFloat(Hostile, float): ...


class HostileDict(Hostile, dict[str, int]): ...  # type: ignore[misc]


class HostileList(Hostile, list[int]): ...  # type: ignore[misc]


class HostileTuple(Hostile, tuple[int, ...]): ...


class HostileSet(Hostile, set[int]): ...  # type: ignore[misc]


class HostileBytes(Hostile, bytes): ...


class HostileDate(Hostile, date): ...


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


class WithMeta(metaclass=HostileMeta): ...


class LyingClass:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise AssertionError("__class__")


class OddModule:
    __module__ = 7  # type: ignore[assignment]


NoModule: type = eval("type('NoModule', (), {})", {"__builtins__": {"type": type}})  # created without a __name__


class HostileZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise AssertionError("utcoffset")

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> str:
        raise AssertionError("tzname")


class HostileError(Exception):
    def __str__(self) -> str:
        raise AssertionError("str")


class NoTextError(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Hostile, f"<{HERE}.Hostile>"),
        (lambda: HostileStr("a"), "a"),
        (lambda: HostileInt(7), 7),
        (lambda: HostileFloat(1.5), 1.5),
        (lambda: HostileDict(a=1), {"a": 1}),
        (lambda: HostileList([1]), [1]),
        (lambda: HostileTuple((1,)), [1]),
        (lambda: HostileSet({1}), [1]),
        (lambda: HostileBytes(b"a"), {"bytes": 1, "text": "a"}),
        (lambda: HostileDate(2026, 1, 2), "2026-01-02"),
        (lambda: Hostile, f"{HERE}.Hostile"),
        (functools.partial(WithMeta), f"<{HERE}.WithMeta>"),
        (lambda: WithMeta, f"{HERE}.WithMeta"),
        (LyingClass, f"<{HERE}.LyingClass>"),
        (OddModule, "<OddModule>"),
        (NoModule, "<NoModule>"),
        (HostileError, "HostileError: (its text cannot be read)"),
        (NoTextError, "NoTextError: (its text cannot be read)"),
        (lambda: {"a": Hostile(), "b": 1}, {"a": f"<{HERE}.Hostile>", "b": 1}),
        (lambda: {Hostile(): 1}, {f"<{HERE}.Hostile>": 1}),
        (lambda: {Hostile()}, [f"<{HERE}.Hostile>"]),
        (lambda: datetime(2026, 1, 2, tzinfo=HostileZone()), "<datetime.datetime: cannot be read>"),
    ],
)
def test_a_hostile_object_does_no_harm(make: Callable[[], object], expected: Any) -> None:
    value = make()
    rendered = encode(value, redactor=REDACTOR)
    assert expected == rendered
    assert type(expected) is type(rendered)
    assert expected == encode_fields({"field": value}, redactor=REDACTOR)["field"]
    for dump_json in ENCODERS:
        assert expected == json.loads(dump_json(rendered))


def test_a_released_memoryview_does_no_harm() -> None:
    view = memoryview(b"abc")
    view.release()
    assert "<builtins.memoryview: cannot be read>" == render(view)


def test_a_class_with_an_endless_name_is_bounded() -> None:
    kind = type("x" * 10_000_000, (), {"__module__": "\0" * 10_000_000})
    assert 500 > len(render(kind()))


def test_an_exception_that_stops_the_process_is_not_caught() -> None:
    class Stop(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(Stop(), redactor=REDACTOR)


@pytest.mark.django_db
def test_nothing_is_queried(django_assert_num_queries: Any) -> None:
    permission = Permission.objects.defer("content_type").first()
    with django_assert_num_queries(0):
        render([permission, Permission.objects.all(), User(pk=1), Permission.objects])


# --- exceptions


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(), "ValueError"),
        (ValueError("text"), "ValueError: text"),
        (KeyError("a"), "KeyError: 'a'"),
        (User.DoesNotExist("none"), "User.DoesNotExist: none"),
        (ValueError("postgres://ada:pw@host"), "ValueError: postgres://ada:[redacted]@host"),
        (ValueError("a\0\ud800"), "ValueError: a\ufffd\ufffd"),
        (ValueError(HostileStr("a")), "ValueError: (its text cannot be read)"),
    ],
)
def test_an_exception_is_formatted_as_class_and_text(error: Exception, expected: str) -> None:
    assert expected == format_exception(error, redactor=REDACTOR)


def test_the_name_of_a_local_exception_does_not_contain_its_function() -> None:
    class Broken(Exception): ...

    assert "Broken: x" == format_exception(Broken("x"), redactor=REDACTOR)


@pytest.mark.parametrize("text", ["x" * 10_000_000, "token=a " * 60, "\0" * 1_000])
def test_the_text_of_an_exception_is_bounded(text: str) -> None:
    told = format_exception(ValueError(text), redactor=REDACTOR)
    assert MAX_ERROR == len(told)
    assert told.endswith(TOO_LONG)


def test_without_a_redactor_an_exception_keeps_its_text_to_itself() -> None:
    assert "ValueError" == format_exception(ValueError("hunter2"))


# --- fields


def test_the_values_of_a_row_are_rendered() -> None:
    values = {
        "id": 7,
        "large": 2**64,
        "name": "token: blue",
        "ratio": float("nan"),
        "price": Decimal("1.50"),
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "uid": UUID(int=1),
        "on": True,
        "none": None,
        "options": {"token": "x", "a": [1]},
        "password": "hunter2",
        "note": f"see {HASH}",
        "odd": "a\0",
    }
    expected = {
        "id": 7,
        "large": "18446744073709551616",
        "name": "token: blue",
        "ratio": "NaN",
        "price": "1.50",
        "at": "2026-01-02T00:00:00+00:00",
        "day": "2026-01-02",
        "uid": "00000000-0000-0000-0000-000000000001",
        "on": True,
        "none": None,
        "options": {"token": REDACTED, "a": [1]},
        "password": REDACTED,
        "note": f"see {REDACTED}",
        "odd": "a\ufffd",
    }
    assert expected == encode_fields(values, redactor=REDACTOR)


def test_a_change_of_a_secret_still_shows() -> None:
    changes: dict[str, object] = {"password": ["a", "b"], "name": ["a", "b"], "credentials": [None, "ada:x"]}
    expected = {"password": [REDACTED, REDACTED], "name": ["a", "b"], "credentials": [REDACTED, REDACTED]}
    assert expected == encode_fields(changes, redactor=REDACTOR)


def test_each_value_of_a_change_is_bounded() -> None:
    (fields,) = encode_fields({"text": ["x" * 3_000, Decimal("1" * 3_000)]}, redactor=REDACTOR).values()
    assert ["x" * MAX_TEXT + "… (1,000 more)", "1" * MAX_TEXT + "… (1,000 more)"] == fields


@pytest.mark.parametrize(
    ("model", "expected"), [(User, False), (Permission, False), (Session, True)], ids=["User", "Permission", "Session"]
)
def test_a_model_whose_key_is_a_secret_is_known(model: type[models.Model], expected: bool) -> None:
    assert expected is has_secret_pk(model, REDACTOR)


def test_the_key_of_a_token_is_a_secret_by_the_name_of_its_model() -> None:
    class Token(models.Model):
        key = models.CharField(primary_key=True)

        class Meta:
            app_label = "encoding_tests"

    class Door(models.Model):
        key = models.CharField(primary_key=True)

        class Meta:
            app_label = "encoding_tests"

    assert has_secret_pk(Token, REDACTOR)
    assert not has_secret_pk(Door, REDACTOR)
    assert {"model": "encoding_tests.Token", "pk": REDACTED} == render(Token("abc"))
    assert {"model": "encoding_tests.Door", "pk": "abc"} == render(Door("abc"))


def test_a_composite_key_is_rendered_as_a_list() -> None:
    class Line(models.Model):
        pk = models.CompositePrimaryKey("order", "number")
        order = models.IntegerField()
        number = models.IntegerField()

        class Meta:
            app_label = "encoding_tests"

    assert {"model": "encoding_tests.Line", "pk": [1, 2]} == render(Line(order=1, number=2))


# --- JSON text


@pytest.mark.parametrize("dump_json", ENCODERS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, "ä"]}, '{"b":1,"a":[true,null,"ä"]}'),
        ("a\0b", '"a\ufffdb"'),
        ("a\ud800b", '"a\ufffdb"'),
        ("\\u0000", '"\\\\u0000"'),
        (2**64, '"18446744073709551616"'),
        (float("nan"), "null"),
        ({1: {None: 2}}, '{"1":{"None":2}}'),
        (Decimal("1.50"), '"1.50"'),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00+00:00"'),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(seconds=77))), '"2026-01-02T00:00:00+00:01:17"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (timedelta(seconds=1), '"P0DT00H00M01S"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Kind.BOOK, '"book"'),
        (Colour.PAIR, "[1,2]"),
        (mark_safe("<b>"), '"<b>"'),
        (gettext_lazy("Yes"), '"Yes"'),
        (FieldFile(User(), models.FileField(name="f"), "a.txt"), '"a.txt"'),
        (Login("ada", "hunter2"), f'"<{HERE}.Login>"'),
        (b"token", '"<builtins.bytes>"'),
        (Session("abc"), '"<django.contrib.sessions.models.Session>"'),
        (Hostile(), f'"<{HERE}.Hostile>"'),
        (defaultdict(int, a=1), '{"a":1}'),
        ([Decimal(1), "\0"], '["1","\ufffd"]'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_both_encoders_write_the_same(dump_json: Callable[[object], str], value: object, expected: str) -> None:
    assert expected == dump_json(value)
    assert_accepted(dump_json(value))


@pytest.mark.parametrize("dump_json", ENCODERS)
def test_a_raw_value_that_cannot_be_read_is_marked(dump_json: Callable[[object], str]) -> None:
    assert '["<datetime.datetime: cannot be read>"]' == dump_json([datetime(2026, 1, 2, tzinfo=HostileZone())])


@pytest.mark.parametrize("dump_json", ENCODERS)
def test_the_depth_of_a_raw_value_is_bounded(dump_json: Callable[[object], str]) -> None:
    value: list[Any] = []
    value.append(value)
    assert "[" * 200 + f'"{TOO_DEEP}"' + "]" * 200 == dump_json(value)


def test_the_faster_encoder_is_taken_where_it_is_installed() -> None:
    assert dumps is json_text.dumps_orjson


def test_without_the_faster_encoder_the_standard_one_is_taken() -> None:
    program = (
        "import sys; sys.modules['orjson'] = None\n"
        "from signalbox.serialization.encoder import json_text\n"
        "assert json_text.dumps is json_text.dumps_stdlib\n"
        "sys.stdout.write(json_text.dumps({'a': [1, None]}))"
    )
    assert b'{"a":[1,null]}' == subprocess.check_output([sys.executable, "-c", program])


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**63,
        0.125,
        float("nan"),
        float("-inf"),
        'a "quoted" text\n',
        "\0",
        "\\u0000",
        "ä\udfff",
        "snow ☃",
        Decimal("12.50"),
        Decimal("NaN"),
        datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        date(2026, 1, 2),
        time(3, 4, 5),
        UUID(int=7),
        [1, 2, 3],
        [1, 2**70],
        ["a", None],
        [True, 0.5],
        [1.5, -0.0],
        [Decimal("1E+5"), date(2026, 1, 2)],
        ["a\0", "ä\udfff"],
        [float("nan")],
        [[1], {"a": 1}],
        [HostileStr("abc"), 1],
        {"a": [1]},
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_a_row_is_encoded_value_by_value_as_it_is_encoded_as_a_whole(value: object) -> None:
    row = {"name": "binding", "value": value, 'a "key"': 1}
    assert json_text.dumps_row_stdlib(row) == json_text.dumps_stdlib(row)
    columns = ("binding", value, 1, None)
    assert json_text.dumps_columns_stdlib(columns) == json_text.dumps_stdlib(columns)


def test_a_row_with_foreign_values_is_encoded_as_a_whole() -> None:
    row = {"text": HostileStr("abc"), "time": datetime(2026, 1, 2, tzinfo=HostileZone())}
    assert json_text.dumps_row_stdlib(row) == json_text.dumps_stdlib(row)


def test_postgresql_accepts_clean_text() -> None:
    assert "a\ufffd\ufffdä" == sanitize_text("a\0\udfffä")


# --- any value at all

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(codec=None)),
    st.text(max_size=5).map(lambda text: text * 1_500),
    st.binary(),
    st.decimals(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.sampled_from([*Colour, *Size, *Kind, User, object(), ValueError("token=x")]),
    st.sampled_from([Rude, RudeStr]).map(lambda kind: kind()),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=60),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(st.characters(codec=None)) | st.integers() | st.none() | st.binary(), inner),
        st.builds(Login, inner, inner),
    ),
    max_leaves=60,
)


@given(values)
def test_any_value_becomes_valid_bounded_json(value: object) -> None:
    rendered = encode(value, redactor=REDACTOR)
    texts = [dump_json(rendered) for dump_json in ENCODERS]
    first, second = map(assert_accepted, texts)
    assert rendered == first == second
    assert all(len(text.encode()) <= MAX_BYTES for text in texts)


@pytest.mark.slow
@given(st.dictionaries(st.text(), values, max_size=5))
def test_any_fields_become_valid_json(fields: dict[str, object]) -> None:
    rendered = encode_fields(fields, redactor=REDACTOR)
    assert [*fields] == [*rendered]
    first, second = (assert_accepted(dump_json(rendered)) for dump_json in ENCODERS)
    assert first == second


@given(values)
def test_any_raw_value_becomes_valid_json(value: object) -> None:
    first, second = (assert_accepted(dump_json(value)) for dump_json in ENCODERS)
    assert first == second


# --- digests


def test_a_digest_is_short_and_stays_the_same() -> None:
    assert re.fullmatch("~[0-9a-f]{16}", digest("abc", b"key"))
    assert digest("abc", b"key") == digest("abc", b"key")


def test_a_digest_depends_on_text_and_key() -> None:
    texts = [("abc", b"key"), ("abd", b"key"), ("abc", b"kez"), ("abc", b""), ("abc", b"k" * 64), ("abc", b"k" * 65)]
    assert 6 == len({digest(text, key) for text, key in texts})


def test_any_text_has_a_digest() -> None:
    assert re.fullmatch("~[0-9a-f]{16}", digest("\ud800\0", b"key"))
