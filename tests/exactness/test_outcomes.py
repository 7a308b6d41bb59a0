"""Events of rolled back changes, and of databases without the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connections, transaction

from signalbox.models import Event
from signalbox.pipeline import exporter, missing_tables, unit_of_work
from tests.exactness import register
from tests.exactness.blocks import create_tag, rolled_back_atomic, savepoint
from tests.shop.models import Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def test_events_of_a_rolled_back_transaction_are_written_after_it() -> None:
    with rolled_back_atomic():
        create_tag("a")
        create_tag("b").delete()
    assert ["a", "b"] == register.read_recorded_values("rolled_back", "post_save")
    assert ["b"] == register.read_recorded_values("rolled_back", "post_delete")
    assert [] == register.assert_rows_match()


def test_events_of_a_rolled_back_savepoint_are_written_after_the_transaction() -> None:
    with transaction.atomic():
        create_tag("a")
        with rolled_back_atomic():
            create_tag("b")
        first = savepoint()
        create_tag("c")
        transaction.savepoint_rollback(first)
        assert [] == register.read_recorded_values("rolled_back", "post_save")
    assert ["b", "c"] == register.read_recorded_values("rolled_back", "post_save")
    assert ["a"] == register.assert_rows_match()


def test_events_that_were_read_before_the_rollback_are_written_too() -> None:
    with rolled_back_atomic():
        create_tag("a")
        assert ["committed"] == [event.outcome for event in Event.objects.filter(signal="post_save")]
    assert ["a"] == register.read_recorded_values("rolled_back", "post_save")


def test_rolled_back_events_of_another_database_are_written_to_the_default_one() -> None:
    with rolled_back_atomic(using="other"):
        create_tag("a", "other")
    connections["default"].ensure_connection()
    exporter.flush()
    assert [] == register.read_recorded_values("rolled_back", "post_save", "other")
    [event] = Event.objects.filter(signal="post_save")
    assert ("rolled_back", "other") == (event.outcome, event.database)


@pytest.fixture
def without_tables() -> Iterator[None]:
    """The other database without the tables of Signalbox."""
    names = ("signalbox_event", "signalbox_trace")
    register.execute("other", *(f"ALTER TABLE {name} RENAME TO {name}_away" for name in names))
    missing_tables.clear_table_cache()
    yield
    connections["other"].close()
    register.execute("other", *(f"ALTER TABLE {name}_away RENAME TO {name}" for name in names))
    missing_tables.clear_table_cache()


@pytest.mark.usefixtures("without_tables")
def test_events_of_a_database_without_tables_are_written_to_the_default_one() -> None:
    connections["default"].ensure_connection()
    with transaction.atomic(using="other"):
        create_tag("a", "other")
        with rolled_back_atomic(using="other"):
            create_tag("b", "other")
        assert [] == register.read_recorded_values("committed", "post_save")
    create_tag("c", "other")
    assert ["a", "c"] == sorted(Tag.objects.using("other").values_list("name", flat=True))
    exporter.flush()
    assert ["a", "c"] == register.read_recorded_values("committed", "post_save")
    assert ["b"] == register.read_recorded_values("rolled_back", "post_save")
    assert {"other"} == {event.database for event in Event.objects.filter(signal="post_save")}


@pytest.mark.usefixtures("without_tables")
def test_a_long_transaction_without_tables_keeps_its_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 2)
    connections["default"].ensure_connection()
    with transaction.atomic(using="other"):
        for number in range(5):
            create_tag(str(number), "other")
    exporter.flush()
    assert ["0", "1", "2", "3", "4"] == register.read_recorded_values("committed", "post_save")


def test_a_rollback_restores_the_row_state_of_an_instance() -> None:
    one = create_tag("a")
    with transaction.atomic():
        one.name = "b"
        one.save()
        with rolled_back_atomic():
            one.name = "c"
            one.save()
        one.save()
    changes = [event.data["changes"] for event in register.read_events() if event.data.get("changes")]
    assert [["a", "b"], ["b", "c"]] == [change["name"] for change in changes if "name" in change][:2]
    assert ["c"] == register.assert_rows_match()
