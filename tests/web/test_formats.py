from __future__ import annotations

from typing import Any

import pytest

from signalbox.web import formats
from signalbox.web.formats import Changed, Piece


@pytest.mark.parametrize(
    ("microseconds", "said"),
    [
        (None, "\u2013"),
        (0, "0 µs"),
        (999, "999 µs"),
        (1_234, "1.23 ms"),
        (9_999, "10.0 ms"),
        (12_345, "12.3 ms"),
        (99_960, "100 ms"),
        (999_999, "1000 ms"),
        (1_500_000, "1.50 s"),
        (61_000_000, "1 m 01 s"),
        (3_720_000_000, "1 h 02 m"),
    ],
)
def test_a_duration_is_said_with_three_digits(microseconds: int | None, said: str) -> None:
    assert said == formats.duration(microseconds)


def test_a_signal_that_django_does_not_know_is_custom() -> None:
    assert ["model", "bulk", "custom"] == [formats.group(name) for name in ("post_save", "update", "shop.signals.paid")]


def test_a_model_s_label_stays_whole_and_a_dotted_name_is_shortened() -> None:
    names = ["auth.User", "django.core.handlers.wsgi.WSGIHandler", ""]
    assert ["auth.User", "WSGIHandler", ""] == [formats.short(name) for name in names]


def test_changes_are_told_with_what_was_there_before() -> None:
    data = {"changes": {"status": ["open", "paid"], "total": [3], "odd": "no pair", "none": []}}
    assert [
        Changed("status", True, "open", "paid", ()),
        Changed("total", False, "", "3", ()),
    ] == formats.changes(data)


def test_long_texts_are_compared_word_by_word() -> None:
    old = "The signalman pulled the lever and the distant arm came off at once."
    new = "The signalman pulled the lever and the home arm came off at once."
    [change] = formats.changes({"changes": {"note": [old, new]}})
    assert [
        Piece("same", "The signalman pulled the lever and the "),
        Piece("old", "distant"),
        Piece("new", "home"),
        Piece("same", " arm came off at once."),
    ] == list(change.pieces)


def test_very_long_texts_are_shown_one_after_the_other() -> None:
    old, new = "a " * 3000, "b " * 3000
    assert (Piece("old", old), Piece("new", new)) == formats.inline(old, new)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"changes": {"a": [1, 2], "b": [None, "x"], "c": [1, 2]}}, "a 1 → 2, b null → x, +1"),
        ({"changes": {"a": ["v" * 50]}}, f"a → {'v' * 23}…"),
        ({"args": {"created": True, "raw": False}}, "created"),
        ({"args": {"action": "post_add", "added": [1, 2]}}, "post_add, added [1, 2]"),
        ({"args": "text"}, ""),
        ({}, ""),
    ],
)
def test_the_gist_of_an_event_is_said_in_a_few_words(data: dict[str, Any], said: str) -> None:
    assert said == formats.gist(data)


def test_a_cut_text_stands_on_one_line() -> None:
    assert "one two…" == formats.cut("one\n  two three", 8)
