from __future__ import annotations

import pytest

from signalbox.core.text import format_duration


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (None, ""),
        (0, "0 µs"),
        (999, "999 µs"),
        (1_234, "1.23 ms"),
        (9_999, "10.0 ms"),
        (12_345, "12.3 ms"),
        (99_960, "100 ms"),
        (999_499, "999 ms"),
        (999_999, "1.00 s"),
        (1_500_000, "1.50 s"),
        (59_940_000, "59.9 s"),
        (59_960_000, "1 m 00 s"),
        (61_000_000, "1 m 01 s"),
        (3_720_000_000, "1 h 02 m"),
    ],
)
def test_a_duration_has_three_digits_below_a_minute(microseconds: int | None, text: str) -> None:
    assert text == format_duration(microseconds)


def test_an_unknown_duration_is_the_text_of_the_caller() -> None:
    assert "-" == format_duration(None, unknown="-")
