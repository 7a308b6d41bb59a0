"""Plugin for pytest: each test is a trace with the test's node id as name, and a fixture captures its events.

It does nothing if ``signalbox`` is not in ``INSTALLED_APPS``, and does not import Django before the project does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from signalbox.core.tracing import Trace
    from signalbox.testing import RecordedEvents

_TRACE_KEY: pytest.StashKey[Trace] = pytest.StashKey()


def _is_recording() -> bool:
    registry: Any = sys.modules.get("django.apps")
    if registry is None or not registry.apps.ready or not registry.apps.is_installed("signalbox"):
        return False
    from signalbox.instrumentation import install

    return install.is_recording()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start the test's trace before its fixtures are set up, and finish it in any case."""
    if not _is_recording():
        return (yield)
    from signalbox.instrumentation import test_runs

    trace = item.stash[_TRACE_KEY] = test_runs.start_test(item.nodeid)
    try:
        return (yield)
    finally:
        test_runs.finish_test(trace, "failed")  # if the trace is not finished yet, a fixture failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Finish the test's trace with the test, while its database still exists."""
    trace = item.stash.get(_TRACE_KEY, None)
    if trace is None:
        return (yield)
    from signalbox.instrumentation import test_runs

    status = "failed"
    try:
        yield
        status = "ok"
    finally:
        test_runs.finish_test(trace, status)


@pytest.fixture
def signalbox_events() -> Iterator[RecordedEvents]:
    """Capture the events of the test, as ``signalbox.testing.capture_events()`` does."""
    from signalbox.testing import capture_events

    with capture_events() as events:
        yield events
