"""The INSERT of events fails: the table is missing, or a trigger rejects rows."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import override_settings

import signalbox
from signalbox.pipeline import dropped_events, missing_tables, unit_of_work, writer
from signalbox.pipeline.backends import postgresql
from tests.exactness import register
from tests.exactness.blocks import create_tag, rolled_back_atomic, savepoint
from tests.shop.models import Place, Tag, Uniq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def trigger(when: str, then: str = "") -> None:
    """Create a trigger that rejects events for which the condition `when` is true.

    `then` is the statement that it runs instead of raising an ordinary error.
    """
    connection.close()
    match connection.vendor:
        case "sqlite":
            action = then or "SELECT RAISE(ABORT, 'refused by a trigger')"
            statements = [f"CREATE TRIGGER refuse AFTER INSERT ON signalbox_event WHEN {when} BEGIN {action}; END"]
        case "postgresql":
            action = then or "RAISE EXCEPTION 'refused by a trigger'"
            body = f"BEGIN IF {when} THEN {action}; END IF; RETURN NEW; END"
            statements = [
                f"CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS $$ {body} $$ LANGUAGE plpgsql",
                "CREATE TRIGGER refuse AFTER INSERT ON signalbox_event FOR EACH ROW EXECUTE FUNCTION refuse()",
            ]
        case _:
            action = then or "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused by a trigger'"
            statements = [
                f"CREATE TRIGGER refuse AFTER INSERT ON signalbox_event FOR EACH ROW IF {when} THEN {action}; END IF"
            ]
    register.execute("default", *statements)


def drop_trigger() -> None:
    connection.close()
    on = " ON signalbox_event" if connection.vendor == "postgresql" else ""
    register.execute("default", f"DROP TRIGGER IF EXISTS refuse{on}")


@pytest.fixture
def poison() -> Iterator[None]:
    """Reject events of an object with the label `poison`."""
    trigger("NEW.object_label = 'poison'")
    yield
    drop_trigger()


@pytest.fixture
def tableless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rename the table, which was found before and is not searched again."""
    monkeypatch.setattr(postgresql, "LAYOUT_SECONDS", 600.0)
    missing_tables.clear_table_cache()
    connection.ensure_connection()
    assert missing_tables.has_tables(connection)
    connection.close()
    register.execute("default", "ALTER TABLE signalbox_event RENAME TO signalbox_event_away")
    yield
    connection.close()
    with suppress(Exception):
        register.execute("default", "ALTER TABLE signalbox_event_away RENAME TO signalbox_event")


@pytest.fixture(params=["poison", "tableless"])
def broken(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(request.param)


@pytest.fixture
def dropped() -> Callable[[], int]:
    """Return a function that counts the events dropped since the start of the test."""
    before = dropped_events.write_stats.dropped
    return lambda: dropped_events.write_stats.dropped - before


def names() -> list[str]:
    return sorted(register.read_rows("shop.Tag").values())


raising = override_settings(SIGNALBOX={"ON_ERROR": "raise"})


@pytest.mark.usefixtures("broken", "flush_threshold")
class TestLog:
    """`ON_ERROR = "log"`, the default, keeps the rows of the application."""

    def test_an_atomic_block_keeps_its_rows(self, dropped: Callable[[], int], caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR, "signalbox"), transaction.atomic():
            create_tag("poison")
            assert ["poison"] == [row.name for row in Tag.objects.all()]
        assert ["poison"] == names()
        assert 1 == dropped()
        assert "could not be written" in caplog.text

    def test_a_save_of_its_own_keeps_its_row(self, dropped: Callable[[], int]) -> None:
        create_tag("poison")
        assert ["poison"] == names()
        assert 1 == dropped()

    def test_a_savepoint_can_still_be_rolled_back(self) -> None:
        with transaction.atomic():
            create_tag("poison")
            with rolled_back_atomic():
                create_tag("poison")
                unit_of_work.flush_all()
            create_tag("poison")
        assert ["poison", "poison"] == names()


@pytest.mark.usefixtures("poison")
class TestPoison:
    """One event that the database rejects."""

    @pytest.mark.usefixtures("flush_threshold")
    def test_the_others_of_its_transaction_are_recorded(self, dropped: Callable[[], int]) -> None:
        with transaction.atomic():
            for name in ("a", "poison", "b", "c", "poison"):
                create_tag(name)
        assert ["a", "b", "c", "poison", "poison"] == names()
        assert ["a", "b", "c"] == register.read_recorded_values("committed", "post_save")
        assert 2 == dropped()

    def test_the_others_that_were_rolled_back_with_it_are_recorded(self) -> None:
        with rolled_back_atomic():
            for name in ("a", "poison", "b"):
                create_tag(name)
        assert ["a", "b"] == register.read_recorded_values("rolled_back", "post_save")

    def test_a_savepoint_of_the_application_stays_open(self) -> None:
        with transaction.atomic():
            before = savepoint()
            create_tag("a")
            create_tag("poison")
            unit_of_work.flush_all()
            create_tag("b")
            transaction.savepoint_rollback(before)
            create_tag("c")
        assert ["c"] == names()
        assert ["c"] == register.read_recorded_values("committed", "post_save")

    def test_other_transactions_are_recorded(self) -> None:
        with transaction.atomic():
            create_tag("poison")
        with transaction.atomic():
            create_tag("a")
        assert ["a"] == register.read_recorded_values("committed", "post_save")

    def test_many_events_in_several_statements(self) -> None:
        with transaction.atomic():
            for number in range(400):
                create_tag(str(number))
            create_tag("poison")
        assert 401 == len(names())
        assert [str(number) for number in range(400)] == register.read_recorded_values("committed", "post_save")

    @raising
    def test_events_written_early_are_rolled_back_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 2)

        def write() -> None:
            with transaction.atomic():
                for name in ("a", "poison", "b"):
                    create_tag(name)

        with pytest.raises(DatabaseError, match="refused by a trigger"):
            write()
        assert [] == register.assert_rows_match()
        create_tag("after")
        assert ["after"] == register.assert_rows_match()


class TestText:
    """A text with characters that the database cannot store."""

    def test_the_label_of_the_actor_is_cleaned(self, dropped: Callable[[], int]) -> None:
        with signalbox.trace("work", actor="caf\udce9"), transaction.atomic():
            create_tag("a")
        assert ["a"] == register.read_recorded_values("committed", "post_save")
        assert 0 == dropped()

    @pytest.mark.mariadb
    def test_a_character_that_an_old_schema_lacks_does_not_affect_other_events(
        self, dropped: Callable[[], int]
    ) -> None:
        column = "ALTER TABLE signalbox_event MODIFY object_label varchar(200) CHARACTER SET {} NOT NULL"
        register.execute("default", column.format("utf8mb3"))
        try:
            with signalbox.trace("work"):
                with transaction.atomic():
                    create_tag("a")
                    create_tag("\U0001f600")
                with rolled_back_atomic():
                    create_tag("b")
                    create_tag("\U0001f600")
        finally:
            connection.close()
            register.execute("default", column.format("utf8mb4"))
        assert ["a"] == register.read_recorded_values("committed", "post_save")
        assert ["b"] == register.read_recorded_values("rolled_back", "post_save")
        assert 2 == dropped()


@pytest.mark.usefixtures("broken", "flush_threshold")
class TestRaise:
    """`ON_ERROR = "raise"` rolls back rows whose events cannot be written."""

    @pytest.fixture(autouse=True)
    def setting(self) -> Iterator[None]:
        with raising:
            yield

    def test_an_atomic_block_is_rolled_back(self) -> None:
        with pytest.raises(DatabaseError, match="could not write"), transaction.atomic():
            create_tag("poison")
        assert [] == names()
        assert connection.get_autocommit()
        assert not connection.in_atomic_block

    def test_a_save_of_its_own_is_rolled_back(self) -> None:
        with pytest.raises(DatabaseError, match="could not write"):
            create_tag("poison")
        assert [] == names()

    def test_an_error_in_an_inner_block_is_raised_at_the_commit(self) -> None:
        def write() -> None:
            with transaction.atomic():
                create_tag("a")
                with transaction.atomic():
                    create_tag("poison")
                create_tag("b")

        with pytest.raises(DatabaseError, match="could not write"):
            write()
        assert [] == names()

    def test_a_manual_commit_is_refused(self) -> None:
        transaction.set_autocommit(False)
        try:
            create_tag("poison")
            with pytest.raises(DatabaseError, match="could not write"):
                transaction.commit()
            assert [] == names()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert [] == names()

    def test_turning_autocommit_on_is_refused(self) -> None:
        transaction.set_autocommit(False)
        create_tag("poison")
        with pytest.raises(DatabaseError, match="could not write"):
            transaction.set_autocommit(True)
        assert [] == names()
        transaction.set_autocommit(True)
        assert [] == names()

    def test_a_block_that_opens_a_manual_transaction_is_undone(self) -> None:
        def write() -> None:
            with transaction.atomic():
                create_tag("poison")
            transaction.commit()

        transaction.set_autocommit(False)
        try:
            with pytest.raises(DatabaseError, match="could not write"):
                write()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert [] == names()


class TestInterrupt:
    """Other exceptions during the write of events: the rows are not committed without them."""

    @pytest.fixture(params=["before", "after"])
    def moment(self, request: pytest.FixtureRequest) -> str:
        """Whether the exception is raised before or after the write."""
        return str(request.param)

    @pytest.fixture
    def interrupting(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
        """Return a list. The next write of events raises the exception that is in it."""
        connection.ensure_connection()  # opening it is another event
        errors: list[BaseException] = []
        write = writer.write

        def interrupted(*args: Any, **named: Any) -> None:
            if errors and moment == "before":
                raise errors.pop()
            write(*args, **named)
            if errors:
                raise errors.pop()

        monkeypatch.setattr(writer, "write", interrupted)
        return errors

    def test_a_keyboard_interrupt_in_an_atomic_block(self, interrupting: list[BaseException]) -> None:
        interrupting.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt), transaction.atomic():
            create_tag("a")
        assert [] == register.assert_rows_match()
        create_tag("b")
        assert ["b"] == register.assert_rows_match()

    def test_a_keyboard_interrupt_in_a_save_of_its_own(self, interrupting: list[BaseException]) -> None:
        interrupting.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            create_tag("a")
        assert [] == register.assert_rows_match()

    def test_a_keyboard_interrupt_in_a_manual_commit(self, interrupting: list[BaseException]) -> None:
        transaction.set_autocommit(False)
        create_tag("a")
        interrupting.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            transaction.commit()
        transaction.set_autocommit(True)
        assert [] == register.assert_rows_match()

    def test_a_keyboard_interrupt_that_the_application_catches_fails_the_commit(
        self, interrupting: list[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 1)
        connection.ensure_connection()

        def write() -> None:
            with transaction.atomic():
                interrupting.append(KeyboardInterrupt())
                with suppress(KeyboardInterrupt):
                    create_tag("a")
                create_tag("b")

        with pytest.raises(DatabaseError, match="KeyboardInterrupt"):
            write()
        assert [] == register.assert_rows_match()

    @raising
    def test_a_type_error(self, interrupting: list[BaseException]) -> None:
        refused = pytest.raises(DatabaseError, match="of Signalbox's own making")
        interrupting.append(TypeError("of Signalbox's own making"))
        with refused, transaction.atomic():
            create_tag("a")
        assert [] == register.assert_rows_match()

    def test_a_type_error_is_logged_where_errors_are(
        self,
        interrupting: list[BaseException],
        dropped: Callable[[], int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        interrupting.append(TypeError("of Signalbox's own making"))
        with transaction.atomic():
            create_tag("a")
        assert ["a"] == names()
        assert 1 == dropped()
        assert "of Signalbox's own making" in caplog.text


class TestLostTransaction:
    """Errors that end the whole transaction: its rows are rolled back, and its commit fails."""

    @pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's own RAISE(ROLLBACK)")
    @pytest.mark.usefixtures("flush_threshold")
    def test_a_trigger_that_rolls_back(self) -> None:
        trigger("NEW.object_label = 'poison'", "SELECT RAISE(ROLLBACK, 'all of it')")

        def write() -> None:
            with transaction.atomic():
                create_tag("a")
                create_tag("poison")
                create_tag("b")

        try:
            with pytest.raises(DatabaseError, match="all of it"):
                write()
            assert [] == register.assert_rows_match()
            create_tag("after")
            assert ["after"] == register.assert_rows_match()
        finally:
            drop_trigger()

    @pytest.mark.mariadb
    def test_a_deadlock_whose_victim_is_the_writer_of_events(self) -> None:
        mine, theirs = Uniq.objects.create(k="mine"), Place.objects.create(name="theirs")
        trigger("NEW.sender = 'shop.Uniq'", f"UPDATE shop_place SET name = 'trigger' WHERE id = {theirs.pk}")
        held, wanted = threading.Event(), threading.Event()

        def heavier() -> None:
            many = ", ".join(f"('{number}')" for number in range(200))
            raw = register.open_connection("default")
            cursor = raw.cursor()
            cursor.execute("BEGIN")
            cursor.execute(f"INSERT INTO shop_friend (name) VALUES {many}")
            cursor.execute(f"UPDATE shop_place SET name = 'held' WHERE id = {theirs.pk}")
            held.set()
            assert wanted.wait(60)
            cursor.execute(f"UPDATE shop_uniq SET k = 'taken' WHERE id = {mine.pk}")
            cursor.execute("ROLLBACK")
            raw.close()

        def write() -> None:
            with transaction.atomic():
                mine.k = "changed"
                mine.save()
                wanted.set()
                time.sleep(0.3)  # the other one waits for this row now

        other = threading.Thread(target=heavier)
        other.start()
        assert held.wait(60)
        try:
            with pytest.raises(DatabaseError, match="Deadlock"):
                write()
        finally:
            wanted.set()
            other.join()
            drop_trigger()
        assert ["mine"] == register.assert_rows_match("shop.Uniq")
