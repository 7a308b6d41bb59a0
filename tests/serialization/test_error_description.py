"""What is recorded of an exception, of any class. Its own code does not change what the site does."""

from __future__ import annotations

from typing import Any, cast

import pytest
from django.db import connection

import signalbox
from signalbox.core.raised_error import RaisedError
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.error_description import describe_error
from tests.shop.models import Tag


class Failing(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Long(Exception):
    def __str__(self) -> str:
        return "password=hunter2 " + "x" * 5_000_000


class NotText(Exception):
    def __str__(self) -> str:
        return cast("str", 5)


class Text(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError


class OwnText(Exception):
    def __str__(self) -> str:
        return Text("own text")


class Slots(Exception):
    __slots__ = ("order",)


class Closed(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)


class Incomparable(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError

    def __bool__(self) -> bool:
        raise RuntimeError


class Querying(Exception):
    def __str__(self) -> str:
        return f"{Tag.objects.count()} tags"


UNREADABLE = "(its text cannot be read)"


def describe(error: Exception) -> RaisedError:
    try:
        raise error
    except type(error) as caught:
        return describe_error(caught, redactor=get_redactor())


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        (Failing, (), UNREADABLE),
        (Exiting, (), UNREADABLE),
        (NotText, (), UNREADABLE),
        (OwnText, (), "own text"),
        (Slots, ("slots",), "slots"),
        (Closed, ("closed",), "closed"),
        (Incomparable, ("x",), "x"),
        (ValueError, (), ""),
        (ValueError, ("\ud800 \0",), "\ufffd \ufffd"),
        (ValueError, ("<b>\u202e",), "<b>\u202e"),
        (KeyError, (b"\xff",), r"b'\xff'"),
        (ExceptionGroup, ("both", [ValueError(1), KeyError(2)]), "both (2 sub-exceptions)"),
        (SyntaxError, ("invalid syntax", ("shop.py", 3, 1, "x =")), "invalid syntax (shop.py, line 3)"),
    ],
)
def test_an_exception_of_any_class_has_its_text_and_its_place(
    kind: type[Exception], args: tuple[Any, ...], message: str
) -> None:
    found = describe(kind(*args))
    assert message == found.message
    assert kind.__name__ == found.exception.rpartition(".")[2]
    assert found.place is not None
    assert ("tests/serialization/test_error_description.py", "describe") == (found.place.file, found.place.function)


def test_a_long_text_is_limited_and_redacted() -> None:
    found = describe(Long())
    assert len(found.message) < 500
    assert "hunter2" not in found.message


class Counted:
    def __str__(self) -> str:
        return f"{Tag.objects.count()} tags"

    __repr__ = __str__


@pytest.mark.django_db
@pytest.mark.parametrize(
    "make", [Querying, lambda: ValueError(Counted()), lambda: KeyError(Counted()), lambda: OSError(2, "no", Counted())]
)
def test_a_text_that_needs_a_query_is_not_read(make: Any, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        found = describe(make())
    assert UNREADABLE == found.message
    assert not connection.needs_rollback


@pytest.mark.parametrize("kind", [Exiting, Closed, Incomparable])
def test_a_trace_ends_with_any_exception_and_raises_it(kind: type[Exception]) -> None:
    caught = None
    error = kind()
    try:
        with signalbox.trace("work") as trace:
            raise error
    except kind as raised:
        caught = id(raised)
    assert id(error) == caught
    assert ("failed", 1) == (trace.status, trace.errors)


def test_an_interrupt_while_the_text_is_read_ends_the_trace() -> None:
    class Interrupted(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), signalbox.trace("work") as trace:
        raise Interrupted
    assert ("failed", False) == (trace.status, trace.duration is None)


@pytest.mark.parametrize(
    ("source", "file", "line"),
    [
        ("raise ValueError", "<string>", 1),
        ("\n(lambda: [][1])()", "<string>", 2),
        ("\n\nsorted([1, 2], key=lambda one: int('x'))", "<string>", 3),
    ],
)
def test_generated_code_is_a_place_if_the_project_has_no_other(source: str, file: str, line: int) -> None:
    code = compile(source, "<string>", "exec")
    try:
        exec(code)
    except (ValueError, IndexError) as error:
        trimmed = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        found = describe_error(trimmed, redactor=get_redactor())
    assert found.place is not None
    assert (file, line) == (found.place.file, found.place.line)


def test_a_file_that_does_not_exist_and_whose_name_no_database_stores_is_a_place() -> None:
    space: dict[str, Any] = {}
    exec(compile("def run():\n    raise ValueError", "/srv/gone/\udcff.py", "exec"), space)
    try:
        space["run"]()
    except ValueError as error:
        found = describe_error(error, redactor=get_redactor())
    assert found.place is not None
    assert ("gone/\ufffd.py", 2) == (found.place.file[-9:], found.place.line)


def test_the_twenty_innermost_frames_of_a_recursion_are_recorded() -> None:
    def descend() -> None:
        descend()

    try:
        descend()
    except RecursionError as error:
        found = describe_error(error, redactor=get_redactor())
    assert "RecursionError" == found.exception
    assert 20 == len(found.frames)
