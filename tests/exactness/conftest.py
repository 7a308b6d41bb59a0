"""Fixtures for tests of transactions, which do not run in a transaction of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connections

from signalbox.pipeline import exporter, missing_tables, unit_of_work
from tests.exactness import register

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_django.plugin import DjangoDbBlocker

ALIASES = ("default", "other")


def flush_and_close() -> None:
    """Write pending events, and close the connections of this thread."""
    for alias in ALIASES:
        connection = connections[alias]
        connection.ensure_connection()
        assert not connection.in_atomic_block
    exporter.flush()
    assert not exporter.has_pending()
    connections.close_all()


@pytest.fixture
def _django_db_helper(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """Empty both databases. The fixture of pytest-django would flush every table."""
    with django_db_blocker.unblock():
        missing_tables.clear_table_cache()  # of a test that has changed the tables, or the clock
        flush_and_close()
        for alias in ALIASES:
            register.empty_tables(alias)
        yield
        for alias in ALIASES:
            connection = connections[alias]
            if connection.connection is not None and not connection.autocommit:  # a test that failed
                connection.close()
                connection.in_atomic_block = False
                connection.connection = None
        missing_tables.clear_table_cache()
        flush_and_close()


@pytest.fixture(scope="module", autouse=True)
def _empty_tables_after_module(django_db_setup: None) -> Iterator[None]:
    yield
    for alias in ALIASES:
        register.empty_tables(alias)


@pytest.fixture(params=[unit_of_work.FLUSH_THRESHOLD, 1, 3], ids=lambda threshold: f"flush-threshold-{threshold}")
def flush_threshold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Number of events that a transaction keeps in memory. With a small one they are written early."""
    number: int = request.param
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", number)
    return number
