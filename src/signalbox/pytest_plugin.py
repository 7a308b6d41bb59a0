"""pytest: each test is a trace, named by its node id, and ``signalbox_events`` collects what it does.

It does nothing where Signalbox is not among the project's installed apps, and imports nothing of Django before
the project does.
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
    """Begin the test's trace before its fixtures, and take care that it ends."""
    if not _is_recording():
        return (yield)
    from signalbox.instrumentation import test_runs

    trace = item.stash[_TRACE_KEY] = test_runs.start_test(item.nodeid)
    try:
        return (yield)
    finally:
        test_runs.finish_test(trace, "failed")  # unless it has ended: then a fixture failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """End the test's trace with the test, while its database is still there."""
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
    """The events of this test, as ``signalbox.testing.record()`` collects them."""
    from signalbox.testing import capture_events

    with capture_events() as events:
        yield events
