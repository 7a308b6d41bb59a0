from __future__ import annotations

from typing import Any

import pytest

from signalbox.core.receiver_stats import CallTotals, percentile


def call(us: int | None = 10, error: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": "shop.receivers.on_save",
        "location": "shop/receivers.py:3",
        "duration_us": us,
        "error": error,
        **more,
    }


@pytest.mark.parametrize(
    ("percent", "number", "value"),
    [(90, 20, 18), (95, 20, 19), (50, 20, 10), (50, 3, 2), (100, 20, 20), (1, 20, 1), (95, 1, 1), (90, 10, 9)],
)
def test_a_percentile_is_the_value_of_the_nearest_rank(percent: int, number: int, value: int) -> None:
    assert value == percentile(percent, range(1, number + 1))


def test_no_values_have_no_percentile() -> None:
    assert percentile(95, []) is None


def test_calls_are_summed_up_from_the_newest() -> None:
    totals = CallTotals()
    for one in (call(30, "KeyError: 'last'"), call(None), call(10, "KeyError: 'first'"), call(20)):
        totals.add_call(one)
    found = totals.build_stats("post_save", "shop.receivers.on_save")
    assert (4, 2, "KeyError: 'last'") == (found.calls, found.errors, found.last_error)
    assert (60, 20, 30, 30) == (found.total_us, found.median_us, found.p95_us, found.max_us)
    assert ("shop/receivers.py:3", 30) == (found.location, totals.get_percentile(90))


def test_an_exception_that_passed_through_is_not_an_error_of_the_receiver() -> None:
    totals = CallTotals()
    totals.add_call(call(error="KeyError: 'x'", passed_through=True))
    assert (1, 0, "") == (totals.calls, totals.errors, totals.last_error)
