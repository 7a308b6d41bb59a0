from __future__ import annotations

from difflib import SequenceMatcher

import pytest

from signalbox.core import display_names
from signalbox.dashboard import formats
from signalbox.dashboard.formats import DiffPart, FieldDiff


def test_an_unknown_duration_is_a_dash() -> None:
    assert ("12.3 ms", "\u2013") == (formats.format_duration(12_345), formats.format_duration(None))


def test_a_signal_that_django_does_not_know_is_custom() -> None:
    assert ["model", "bulk", "custom"] == [
        display_names.get_signal_group(name) for name in ("post_save", "update", "shop.signals.paid")
    ]


def test_a_model_s_label_stays_whole_and_a_dotted_name_is_shortened() -> None:
    names = ["auth.User", "django.core.handlers.wsgi.WSGIHandler", ""]
    assert ["auth.User", "WSGIHandler", ""] == [display_names.short_sender(name) for name in names]


def test_changes_have_old_and_new_values() -> None:
    data = {"changes": {"status": ["open", "paid"], "total": [3], "odd": "no pair", "none": []}}
    assert [
        FieldDiff("status", True, "open", "paid", ()),
        FieldDiff("total", False, "", "3", ()),
    ] == formats.get_field_diffs(data)


def test_long_texts_are_compared_word_by_word() -> None:
    old = "The signalman pulled the lever and the distant arm came off at once."
    new = "The signalman pulled the lever and the home arm came off at once."
    [change] = formats.get_field_diffs({"changes": {"note": [old, new]}})
    assert [
        DiffPart("same", "The signalman pulled the lever and the "),
        DiffPart("old", "distant"),
        DiffPart("new", "home"),
        DiffPart("same", " arm came off at once."),
    ] == list(change.parts)


def test_different_texts_are_shown_one_after_the_other() -> None:
    old, new = "a " * 3000, "b " * 3000
    assert [("old", "a " * 2999 + "a"), ("new", "b " * 2999 + "b"), ("same", " ")] == list(formats.diff_text(old, new))


def test_the_common_start_and_end_of_long_texts_are_not_compared(compared: list[int]) -> None:
    same = "lorem ipsum dolor sit amet " * 500
    pieces = formats.diff_text(f"{same}was {same}", f"{same}is {same}")
    assert [("same", same), ("old", "was"), ("new", "is"), ("same", f" {same}")] == list(pieces)
    assert [2] == compared


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parts each comparison was given."""
    given: list[int] = []

    class Counting(SequenceMatcher[str]):
        def __init__(self, junk: None, one: list[str], other: list[str], autojunk: bool) -> None:
            given.append(len(one) + len(other))
            super().__init__(junk, one, other, autojunk)

    monkeypatch.setattr(formats, "SequenceMatcher", Counting)
    return given


REPEATED = "lorem ipsum dolor sit amet " * 190


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a b " * 300, "b a c " * 300),
        (REPEATED, REPEATED.replace("dolor", "DOLOR")),
        (REPEATED.replace("amet ", "amet\n"), REPEATED.replace("dolor", "DOLOR").replace("amet ", "amet\n")),
        ("a\n" * 900, "b\na\n" * 900),
        ("", "x " * 900),
    ],
)
def test_texts_of_the_same_few_words_are_compared_within_bounds(old: str, new: str, compared: list[int]) -> None:
    pieces = formats.diff_text(old, new)
    assert [] == [number for number in compared if number > formats.MAX_DIFF_PARTS]
    assert old == "".join(piece.text for piece in pieces if piece.kind != "new")
    assert new == "".join(piece.text for piece in pieces if piece.kind != "old")


def test_long_texts_of_few_lines_are_compared_line_by_line() -> None:
    lines = [f"{'word ' * 40}{number}\n" for number in range(20)]
    changed = [line.replace("word", "term") if number in (2, 17) else line for number, line in enumerate(lines)]
    pieces = formats.diff_text("".join(lines), "".join(changed))
    assert ["same", "old", "new", "same", "old", "new", "same"] == [piece.kind for piece in pieces]


def test_only_some_of_many_long_texts_are_compared(compared: list[int]) -> None:
    data = {"changes": {f"text{number}": ["a " * 40, "b " * 40] for number in range(30)}}
    assert 30 == len(formats.get_field_diffs(data))
    assert formats.MAX_TEXT_DIFFS == len(compared)


def test_a_value_that_can_not_be_restored_is_marked() -> None:
    assert "<Name a> (not restorable)" == formats.format_value({"not_restorable": "<Name a>"})
