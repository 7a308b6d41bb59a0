from __future__ import annotations

from typing import Any

import pytest

from signalbox.outbox.retry_delay import MAX_CUSTOM_BACKOFF_SECONDS, compute_retry_delay


@pytest.mark.parametrize(
    "found", [float("nan"), float("inf"), None, "soon", 10**400, ZeroDivisionError(), SystemExit()]
)
def test_a_backoff_without_a_valid_time_is_logged_once_and_the_default_used(
    caplog: pytest.LogCaptureFixture, found: Any, request: pytest.FixtureRequest
) -> None:
    def backoff(attempt: int) -> Any:
        if isinstance(found, BaseException):
            raise found
        return found

    name = request.node.nodeid  # one message for each name and process
    delays = [compute_retry_delay(backoff, attempt, receiver_name=name) for attempt in (1, 2, 3, 4)]
    assert all(7.5 * 2**n <= delay <= 12.5 * 2**n for n, delay in enumerate(delays))
    assert [f"The backoff of {name} returned no valid time; the default is used."] == caplog.messages


@pytest.mark.parametrize(
    ("returned", "delay"), [(0.25, 0.25), (86_400, 86_400), (-5, 0), (1e13, MAX_CUSTOM_BACKOFF_SECONDS)]
)
def test_the_time_of_a_backoff_is_limited_to_what_a_column_stores(returned: float, delay: float) -> None:
    assert delay == compute_retry_delay(lambda attempt: returned, 1, receiver_name="r")
