"""Several databases: an event lies where its change lies, and is about that database's row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections, models, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import Signal
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

import signalbox
from signalbox.models import Delivery, Event
from signalbox.outbox import registry
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import backends, dropped_events, exporter, missing_tables, process_exit, processors
from signalbox.queries.object_history import history
from signalbox.queries.revert import revert
from tests.events import get_changes, get_events, get_newest_event, get_object_event
from tests.shop.models import Customer, Order, Restaurant, Tag, Word

pytestmark = [
    pytest.mark.every_database,
    pytest.mark.django_db(databases=["default", "other"], transaction=True),
]


def told(using: str) -> list[tuple[str, str, str]]:
    """Signal, sender and alias of the events that lie in a database."""
    senders = ("shop.Tag", "shop.Order", "shop.Order_tags", "shop.Restaurant", "shop.Customer")
    return [
        (event.signal, event.sender, event.database)
        for event in get_events(using=using, sender__in=senders)
        if event.signal != "class_prepared"
    ]


class Split:
    """Tags lie in the other database."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str | None:
        return "other" if model is Tag else None

    db_for_write = db_for_read


class Replica:
    """Everything is read from another connection than it is written to."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str:
        return "default"

    def allow_relation(self, *objects: Any, **hints: Any) -> bool:
        return True


def add(alias: str, **settings: Any) -> None:
    connections.databases[alias] = {**connections.databases["default"], **settings}
    connections[alias].connect()  # bypasses the test case, which blocks databases that it does not list


def drop(alias: str) -> None:
    dropped: Any = connections[alias]
    dropped.close()
    if dropped.vendor == "postgresql":
        dropped.close_pool()  # it would keep the database from being deleted
    del connections[alias]
    del connections.databases[alias]
    missing_tables.clear_table_cache()


@pytest.fixture
def replica() -> Iterator[None]:
    """A second connection to the default database, from which the router reads."""
    add("replica")
    try:
        with override_settings(DATABASE_ROUTERS=[Replica()]):
            yield
    finally:
        drop("replica")


@pytest.fixture
def attic(tmp_path: Path) -> Iterator[Any]:
    """A database of another kind, or at least in another place: a SQLite file, empty."""
    add(
        "attic",
        ENGINE="django.db.backends.sqlite3",
        NAME=str(tmp_path / "attic.sqlite3"),
        OPTIONS={},
        HOST="",
        PORT="",
        USER="",
        PASSWORD="",
    )
    try:
        yield connections["attic"]
    finally:
        drop("attic")


def tables(alias: str, *tabled: type[models.Model]) -> None:
    with connections[alias].schema_editor() as editor:
        for model in tabled:
            editor.create_model(model)


# ------------------------------------------------------------------ two databases


def test_an_event_lies_with_its_change() -> None:
    Tag.objects.using("other").create(name="a")
    Tag.objects.create(name="b")
    assert [("post_save", "shop.Tag", "other")] == told("other")
    assert [("post_save", "shop.Tag", "default")] == told("default")


def test_every_kind_of_change_lies_where_it_happened() -> None:
    tags = Tag.objects.using("other").bulk_create([Tag(name="a"), Tag(name="b")])
    Tag.objects.using("other").update(name="c")
    Tag.objects.using("other").bulk_update(tags, ["name"])
    order = Order.objects.using("other").create(number="A-1")
    order.tags.add(*tags)
    order.tags.clear()
    tags[0].delete()
    Restaurant(name="Lion").save(using="other")
    Tag.objects.using("other").all()._raw_delete("other")
    assert [] == told("default")
    assert {"other"} == {database for _, _, database in told("other")}
    assert {"bulk_create", "update", "bulk_update", "post_save", "m2m_changed", "post_delete", "bulk_delete"} == {
        signal for signal, _, _ in told("other")
    }


def test_an_object_that_is_saved_to_another_database_is_another_row_there() -> None:
    tag = Tag.objects.create(pk=5, name="a")
    tag.save(using="other")
    assert get_object_event(tag, using="other").data["args"]["created"]
    mine = Tag.objects.using("default").get(pk=5)
    mine.name = "b"
    mine.save(using="other")
    assert {"name": ["b"]} == get_changes(mine, using="other")
    mine.name = "c"
    mine.save(using="other")
    assert {"name": ["b", "c"]} == get_changes(mine, using="other")
    mine.save(using="default")
    assert {"name": ["c"]} == get_changes(mine)


def test_a_delete_from_another_database_is_not_an_event_of_this_row() -> None:
    for using in ("default", "other"):
        Tag.objects.using(using).create(pk=5, name=f"in {using}")
    Tag.objects.using("default").get().delete(using="other")
    assert {"id": 5} == get_newest_event(Tag, "post_delete", using="other").data["row"]
    assert 1 == Tag.objects.using("default").count()


def test_a_routed_model_needs_no_using() -> None:
    with override_settings(DATABASE_ROUTERS=[Split()]):
        tag = Tag.objects.create(name="a")
        tag.name = "b"
        tag.save()
        Tag.objects.update(name="c")
        assert [] == told("default")
        assert ["update", "post_save", "post_save"] == [event.signal for event in history(tag)]
        assert {"name": ["a", "b"]} == get_changes(tag, using="other")


def test_each_transaction_decides_for_itself() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="other"):
        with transaction.atomic():
            Tag.objects.create(name="a")
            Tag.objects.using("other").create(name="b")
        raise ZeroDivisionError
    assert [("post_save", "shop.Tag", "default")] == told("default")
    assert [] == told("other")
    assert ["other"] == [event.database for event in Event.objects.filter(outcome="rolled_back", signal="post_save")]


def test_an_object_has_one_history_in_each_database() -> None:
    here, there = Tag.objects.create(pk=5, name="here"), Tag.objects.using("other").create(pk=5, name="there")
    there.name = "still there"
    there.save()
    assert (1, 2) == (len(list(history(here))), len(list(history(there))))
    assert 2 == len(list(history(Tag, 5, using="other")))
    assert ["here", "still there"] == [
        history(tag).as_of(get_newest_event(using="other").timestamp)["name"] for tag in (here, there)
    ]


def test_reverting_happens_where_the_event_lies() -> None:
    tag = Tag.objects.using("other").create(pk=5, name="a")
    Tag.objects.create(pk=5, name="here")
    tag.name = "b"
    tag.save()
    revert(get_object_event(tag, using="other"))
    assert ("a", "here") == (Tag.objects.using("other").get().name, Tag.objects.using("default").get().name)


# ------------------------------------------------------------------ a replica


@pytest.mark.usefixtures("replica")
def test_values_read_from_a_replica_are_old_values_of_a_write() -> None:
    Customer.objects.create(pk=7, name="Ada")
    Order.objects.create(pk=5, number="A-1", customer_id=7)
    found = Order.objects.get()
    assert "replica" == found._state.db
    found.number = "A-2"
    found.save()
    assert ["A-1", "A-2"] == get_changes(found)["number"]
    assert ("default", "A-2") == (get_object_event(found).database, Order.objects.get().number)
    assert ["post_save", "post_save"] == [event.signal for event in history(Order.objects.get())]


@pytest.mark.usefixtures("replica")
def test_a_label_asks_no_replica() -> None:
    found = Order.objects.create(number="A-1")
    Order.__str__, kept = (lambda self: f"{Customer.objects.count()} {self.number}"), Order.__str__  # type: ignore[method-assign]
    try:
        with CaptureQueriesContext(connections["replica"]) as captured:
            found.save()
        assert ([], "") == (list(captured), get_object_event(found).object_label)
    finally:
        Order.__str__ = kept  # type: ignore[method-assign]


# ------------------------------------------------------------------ another engine


def test_a_database_of_another_kind_holds_its_own_events(attic: Any) -> None:
    call_command("migrate", "signalbox", database="attic", verbosity=0)
    tables("attic", Tag)
    tag = Tag.objects.using("attic").create(name="a")
    tag.name = "b"
    tag.save()
    with transaction.atomic(using="attic"), transaction.atomic():
        Tag.objects.using("attic").update(name="c")
        Tag.objects.create(name="d")
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="attic"):
        tag.save()
        raise ZeroDivisionError
    assert ["post_save", "post_save", "update"] == [signal for signal, _, _ in told("attic")]
    assert [("post_save", "shop.Tag", "default")] == told("default")
    assert "sqlite" == attic.vendor


def test_events_of_a_database_without_tables_lie_in_the_default_one_after_the_commit(attic: Any) -> None:
    tables("attic", Tag)
    with transaction.atomic(using="attic"):
        tag = Tag.objects.using("attic").create(name="a")
        assert [] == told("default")
    assert [("post_save", "shop.Tag", "attic")] == told("default")
    tag.name = "b"
    tag.save()
    Tag.objects.using("attic").update(name="c")
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="attic"):
        Tag.objects.using("attic").create(name="never")
        raise ZeroDivisionError
    assert ["post_save", "post_save", "update"] == [signal for signal, _, _ in told("default")]
    assert {"name": ["a", "b"]} == get_newest_event(Tag, "post_save").data["changes"]
    assert ["update", "post_save", "post_save"] == [
        event.signal for event in history(tag) if event.outcome == "committed"
    ]
    assert "c" == history(tag).as_of(get_newest_event(Tag, "update").timestamp)["name"]


def test_a_database_that_gets_its_tables_later_holds_its_events_from_then_on(attic: Any) -> None:
    tables("attic", Tag)
    Tag.objects.using("attic").create(name="a")
    call_command("migrate", "signalbox", database="attic", verbosity=0)
    Tag.objects.using("attic").create(name="b")
    assert [("post_save", "shop.Tag", "attic")] == told("default")
    assert [("post_save", "shop.Tag", "attic")] == told("attic")


def test_a_write_to_another_database_does_not_use_the_default_connection(attic: Any) -> None:
    tables("attic", Tag)
    with CaptureQueriesContext(connection) as captured:
        Tag.objects.using("attic").create(name="a")
    assert [] == list(captured)


# ------------------------------------------------------------------ a command that uses only another database


bell = Signal()


def counted(table: str) -> int:
    """How many rows of tags the default database holds, past Signalbox's own manager, which writes what waits."""
    with connections["default"].cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {table} t WHERE t.sender = 'shop.Tag' AND t.signal = 'post_save'")
        found: int = cursor.fetchone()[0]
        return found


def heard(sender: Any, instance: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def durable() -> Iterator[None]:
    """Tags have a durable receiver, and what else is registered goes with it."""
    signalbox.receiver(post_save, sender="shop.Tag", durable=True)(heard)
    yield
    for name in list(registry.get_durable_receivers()):
        registry.disconnect(name)
    processors.uninstall(OUTBOX)
    signalbox.start_recording()


@pytest.mark.usefixtures("durable")
def test_a_change_in_a_database_without_tables_is_written_after_the_commit(attic: Any) -> None:
    tables("attic", Tag)
    connections["default"].close()
    with signalbox.trace("import", kind="command"):
        with transaction.atomic(using="attic"):
            Tag.objects.using("attic").create(name="a")
            Tag.objects.using("attic").create(name="b")
        assert (2, 2) == (counted("signalbox_event"), counted("signalbox_delivery"))


def test_what_a_command_rolled_back_in_another_database_is_written_when_it_ends(attic: Any) -> None:
    call_command("migrate", "signalbox", database="attic", verbosity=0)
    tables("attic", Tag)
    exporter.flush()
    connections["default"].close()
    with (
        pytest.raises(ZeroDivisionError),
        signalbox.trace("import", kind="command"),
        transaction.atomic(using="attic"),
    ):
        Tag.objects.using("attic").create(name="never")
        raise ZeroDivisionError
    assert connections["default"].connection is not None
    assert 1 == counted("signalbox_event")


def test_a_command_that_changes_nothing_opens_no_connection(attic: Any) -> None:
    connections["default"].close()
    signalbox.register_signal(bell, "tests.bell")
    with signalbox.trace("collect", kind="command"):
        bell.send(None)
    assert connections["default"].connection is None


@pytest.mark.usefixtures("durable")
def test_a_delivery_that_fails_after_the_commit_is_logged_only(attic: Any, caplog: pytest.LogCaptureFixture) -> None:
    tables("attic", Word)
    registry.disconnect(f"{__name__}.heard")
    signalbox.receiver(post_delete, sender="shop.Word", durable=True, key="meaning")(heard)
    Word.objects.using("attic").create(text="a", meaning="b")
    Word.objects.using("attic").defer("meaning").get().delete()
    assert ["post_save", "post_delete"] == [event.signal for event in get_events(Word, "post_save", "post_delete")]
    assert "No delivery can be created for post_delete from shop.Word a" in caplog.text
    assert "the field 'meaning' of shop.Word a, which was not loaded" in caplog.text
    assert not Delivery.objects.exists()


@pytest.mark.usefixtures("durable")
def test_the_number_of_events_that_a_process_loses_is_logged(
    attic: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables("attic", Tag)
    monkeypatch.setattr(backends, "is_pipeline_open", lambda connection: connection.alias == "default")
    dropped = dropped_events.write_stats.dropped
    signalbox.register_signal(bell, "tests.bell")
    connections["default"].ensure_connection()
    exporter.discard_pending()
    with signalbox.trace("import", kind="command"):
        bell.send(None)
        Tag.objects.using("attic").create(name="a")
    with signalbox.trace("collect", kind="command"):
        bell.send(None)
    process_exit.stop_thread()  # it would open a connection, which is an event of this process too
    process_exit.write_at_exit()
    exporter.discard_pending()
    assert "Events that could not be written before the process ended are lost: 2." in caplog.text
    assert "Durable receivers waited for 1." in caplog.text
    assert 2 == dropped_events.write_stats.dropped - dropped
