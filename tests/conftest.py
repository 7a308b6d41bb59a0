"""What every test can rely on: the database under test, the servers it asks for, the number of crashes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import services, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.test import TransactionTestCase

TESTS_DIR = Path(__file__).parent
EXACTNESS_DIR = TESTS_DIR / "exactness"

SLOWEST_FILES = [
    TESTS_DIR / name
    for name in (
        *("dashboard/test_browser.py", "outbox/test_worker.py", "dashboard/test_live.py", "outbox/test_dispatch.py"),
        *("test_example.py", "management/test_commands.py", "outbox/test_crashes.py", "exactness/test_atomic.py"),
        *("test_transparency.py", "doctor/test_engine.py", "exactness/test_property.py"),
        *("outbox/test_outages.py", "outbox/test_queue.py", "management/test_doctor.py"),
    )
]
"""The files that take longest, which begin first: else one worker would be busy with one of them when all others are
done. Another one may take longer by now."""

# No deadline: a busy machine is not a bug. The blob reproduces a failure of another machine.
hypothesis.settings.register_profile("signalbox", deadline=None, print_blob=True)
hypothesis.settings.load_profile("signalbox")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crashes", type=int, default=10, help="how often a crash test kills its process (default 10)")


def pytest_configure() -> None:
    server = services.DATABASE_SERVICES[settings.DATABASE]
    if server and (reason := services.get_unavailable_reason(server)):
        raise pytest.UsageError(f"SIGNALBOX_TEST_DB is {settings.DATABASE!r}, but there is {reason}")


def pytest_report_header() -> str:
    return f"database: {settings.DATABASE}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    server = services.DATABASE_SERVICES[settings.DATABASE]
    for item in items:
        if item.path.is_relative_to(EXACTNESS_DIR):
            item.add_marker("every_database")
            item.add_marker("transactions")
        if "window" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        for name in ("postgres", "mariadb"):
            if item.get_closest_marker(name) and name != server:
                reason = f"about {name} alone, this run is on {settings.DATABASE}: set SIGNALBOX_TEST_DB={name}"
                item.add_marker(pytest.mark.skip(reason=reason))
    places = {path: place for place, path in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))  # stable: within a file the order stays random


get_unavailable_reason = cache(services.get_unavailable_reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for service in ("redis", "rabbitmq"):
        if item.get_closest_marker(service) and (reason := get_unavailable_reason(service)):
            if services.are_services_required():
                pytest.fail(f"{reason} (SIGNALBOX_REQUIRE_SERVICES is set)", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def django_db_modify_db_settings_parallel_suffix() -> None:
    """Leave the databases' names to tests.settings, which a test's child processes read as well."""


def _delete_all_rows(test: TransactionTestCase) -> None:
    from django.core.management.color import no_style
    from django.db import connections

    from signalbox.pipeline import exporter

    exporter.discard_pending()  # the end of the deletion would write them
    for alias in test._databases_names(include_mirrors=False):  # type: ignore[attr-defined]
        connection = connections[alias]
        every = connection.introspection.django_table_names(only_existing=True, include_views=False)
        tables = [table for table in every if table not in ("django_content_type", "auth_permission")]
        if connection.vendor == "postgresql":  # it truncates: slow where there is next to nothing in a table
            flush = [f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables]
        else:
            flush = connection.ops.sql_flush(no_style(), tables)
        connection.ops.execute_sql_flush(flush)


@pytest.fixture(scope="session", autouse=True)
def _fast_table_cleanup() -> Iterator[None]:
    """Empty the tables after a test with transactions, but those that migrations have filled and no test changes.

    Django empties these as well, and sends post_migrate to have them filled: that takes 20 times as long.
    """
    from django.test import TransactionTestCase

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", _delete_all_rows)
        yield


@pytest.fixture(autouse=True)
def _clear_pending_events() -> Iterator[None]:
    """Drop pending events of other tests, which had no database. Check that the test has ended its traces."""
    from signalbox.core import tracing
    from signalbox.pipeline import exporter

    exporter.discard_pending()
    tracing.get_process_trace().pending.clear()
    yield
    current = tracing.get_current_trace()
    assert current is tracing.get_process_trace(), f"The test has not ended the trace {current.kind} {current.name!r}."


@pytest.fixture
def crash_count(request: pytest.FixtureRequest) -> int:
    """How often a crash test kills its process."""
    number = request.config.getoption("crashes")
    assert isinstance(number, int)
    return number


def pytest_sessionfinish() -> None:
    from signalbox.pipeline import exporter

    exporter.discard_pending()  # the databases are gone


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The Redis that tests may use; for tests with the marker `redis`."""
    return services.ADDRESSES["redis"]


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """The RabbitMQ that tests may use; for tests with the marker `rabbitmq`."""
    return services.ADDRESSES["rabbitmq"]
