from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from signalbox.outbox import durable_receiver
from tests.outbox import receivers

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize(
    "found", [float("nan"), float("inf"), None, "soon", 10**400, ZeroDivisionError(), SystemExit()]
)
def test_a_backoff_without_a_valid_time_is_logged_once_and_the_default_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, found: Any
) -> None:
    def backoff(attempt: int) -> Any:
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(durable_receiver, "_invalid_backoffs_logged", set())
    one = durable_receiver.DurableReceiver(
        name="shop.receiver", function=receivers.saved, parameter_names=frozenset(), backoff=backoff
    )
    assert all(7.5 * 2**n <= one.get_retry_delay(n + 1) <= 12.5 * 2**n for n in range(4))
    assert ["The backoff of shop.receiver returned no valid time; the default is used."] == caplog.messages


@pytest.mark.parametrize(
    ("told", "waited"), [(0.25, 0.25), (86_400, 86_400), (-5, 0), (1e13, durable_receiver.MAX_CUSTOM_BACKOFF_SECONDS)]
)
def test_the_time_of_a_backoff_is_limited_to_what_a_column_stores(told: float, waited: float) -> None:
    one = durable_receiver.DurableReceiver(
        name="r", function=receivers.saved, parameter_names=frozenset(), backoff=lambda attempt: told
    )
    assert waited == one.get_retry_delay(1)
