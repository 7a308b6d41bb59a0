"""The filter of a page's address, and tokens that are added to it and removed from it."""

from __future__ import annotations

import pytest

from signalbox.queries.filter_language import Token
from signalbox.queries.timeline_filter import TimelineFilter

MODEL = Token("group", ":", ("model",))


def parse(text: str, **params: str) -> TimelineFilter:
    return TimelineFilter.parse({"q": text, **params})


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("since:5m signal:post_save until:2m", "signal:post_save"),
        ('"since:5m" after:1h', '"since:5m"'),
        ("before:2026-03-01", ""),
        ("post_save", "post_save"),
        ("since:soon", "since:soon"),
    ],
)
def test_the_range_of_time_is_removed(text: str, rest: str) -> None:
    found = parse(text).without_time()
    assert rest == found.text
    assert found.event_filter.since is None
    assert found.event_filter.until is None


@pytest.mark.parametrize(
    ("text", "toggled"),
    [
        ("", "group:model"),
        ("group:model", ""),
        ("ada group:auth took>5ms", "ada took>5ms group:model"),
        ("group:model,auth", "group:model"),
        ("-group:model", "-group:model group:model"),
        ("error:* GROUP:model", "error:*"),
    ],
)
def test_a_token_is_added_instead_of_others_with_its_name_or_removed(text: str, toggled: str) -> None:
    assert toggled == parse(text).toggle(MODEL).text


def test_a_changed_filter_keeps_the_other_parameters() -> None:
    assert parse("", system="1").toggle(MODEL).show_system


def test_only_a_token_with_the_same_values_is_found() -> None:
    assert parse("ada group:model").has_token(MODEL)
    assert not parse("-group:model").has_token(MODEL)
    assert not parse("group:model,auth").has_token(MODEL)
    assert not parse('group:nothing "group:model"').has_token(MODEL)
