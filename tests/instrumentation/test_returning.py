"""The keys of bulk statements, where the database must not or can't return them: only what is recorded differs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import DatabaseError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Cast
from django.db.models.sql.compiler import SQLCompiler
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

import signalbox
from signalbox.instrumentation import bulk, postgresql_catalogue, returning, returning_request
from signalbox.queries.object_history import history
from tests.driver_statements import sent
from tests.events import get_args, get_events, get_newest_event
from tests.shop.models import Document, Item10, Order, OrderLine, Restaurant, Tag, Word

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

OPERATIONS = ("bulk_create", "update", "bulk_delete")

STATEMENTS: dict[str, Callable[[], Any]] = {
    "update": lambda: Word.objects.filter(text__in=["a", "b"]).update(meaning="z"),
    "update without a filter": lambda: Word.objects.update(meaning="z"),
    "update of the key": lambda: Word.objects.filter(meaning="2").update(text="y"),
    "delete": lambda: Word.objects.exclude(text="c").delete(),
    "raw delete": lambda: Word.objects.all()._raw_delete("default"),
    "insert that ignores conflicts": lambda: len(
        Word.objects.bulk_create([Word(text="a"), Word(text="d")], ignore_conflicts=True)
    ),
}


class _Undo(Exception):
    """Rolls back a block."""


def words() -> None:
    Word.objects.bulk_create([Word(text="a", meaning="1"), Word(text="b", meaning="2"), Word(text="c", meaning="3")])


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)


def observe(action: Callable[[], Any]) -> dict[str, Any]:
    """Return the result of ``action`` and the rows after it. The rows are rolled back, the events are kept."""
    seen: dict[str, Any] = {}
    with suppress(_Undo), transaction.atomic():
        try:
            with transaction.atomic():
                seen["result"] = action()
        except DatabaseError as error:
            seen["error"] = (type(error), str(error).partition("\n")[0])
        execute("RESET ROLE")
        seen["rows"] = sorted(Word.objects.values_list("text", "meaning"))
        seen["events"] = [(event.signal, event.data["args"]) for event in get_events(Word, *OPERATIONS)]
        raise _Undo
    return seen


def fail(action: Callable[[], Any]) -> str:
    """Return the message of the database's error that ``action`` raises."""
    with pytest.raises(DatabaseError) as raised, transaction.atomic():
        action()
    return str(raised.value)


def bare(action: Callable[[], Any]) -> Any:
    signalbox.stop_recording()
    try:
        return action()
    finally:
        signalbox.start_recording()


def observe_twice(action: Callable[[], Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of ``action``, which must do the same with and without recording."""
    without, seen = bare(lambda: observe(action)), observe(action)
    before, events = without.pop("events"), seen.pop("events")
    assert without == seen
    return [event for event in events if event not in before]


@contextmanager
def restricted_role(*grants: str) -> Iterator[None]:
    """Run the block as a role that may write events, and that has ``grants``."""
    role = f"signalbox_{uuid.uuid4().hex[:16]}"
    execute(
        f"CREATE ROLE {role}",
        *(f"GRANT ALL ON {model._meta.db_table} TO {role}" for model in _signalbox_models()),
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
        *(f"GRANT {grant} TO {role}" for grant in grants),
        f"SET LOCAL ROLE {role}",
    )
    yield


def _signalbox_models() -> list[type[models.Model]]:
    from django.apps import apps

    return list(apps.get_app_config("signalbox").get_models())


def statements_of(action: Callable[[], Any]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        action()
    return [query["sql"] for query in captured]


# ------------------------------------------------------------------ PostgreSQL: where returning changes a statement

postgres = pytest.mark.postgres


@postgres
@pytest.mark.parametrize("name", [name for name in STATEMENTS if "insert" not in name])
@pytest.mark.parametrize(
    "rule",
    [
        "ON {event} TO shop_word DO INSTEAD NOTHING",
        "ON {event} TO shop_word DO INSTEAD UPDATE shop_word SET meaning = 'kept' WHERE text = OLD.text",
        "ON {event} TO shop_word DO ALSO INSERT INTO shop_tag (name) VALUES ('seen')",
    ],
    ids=["nothing", "instead", "also"],
)
def test_statements_on_tables_with_rules_have_the_same_effect(name: str, rule: str) -> None:
    event = "UPDATE" if "update" in name else "DELETE"
    words()
    if event == "UPDATE" and "INSTEAD UPDATE" in rule:
        rule = "ON UPDATE TO shop_word DO INSTEAD DELETE FROM shop_word WHERE text = OLD.text"
    execute(f"CREATE RULE odd AS {rule.format(event=event)}")
    for _, args in observe_twice(STATEMENTS[name]):
        assert (None, "rules") == (args["keys"], args["keys_unknown"])


@postgres
def test_rows_that_a_rule_keeps_are_not_recorded() -> None:
    words()
    execute("CREATE RULE keep AS ON DELETE TO shop_word DO INSTEAD NOTHING")
    assert (0, {}) == Word.objects.all().delete()
    assert [] == get_events(Word, "bulk_delete")
    assert 3 == Word.objects.count()


@postgres
@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_on_views_with_triggers_have_the_same_effect(name: str) -> None:
    words()
    execute(
        "ALTER TABLE shop_word RENAME TO shop_word_base",
        "CREATE VIEW shop_word AS SELECT text, meaning FROM shop_word_base",
        """CREATE FUNCTION write_word() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF TG_OP = 'DELETE' THEN DELETE FROM shop_word_base WHERE text = OLD.text; RETURN OLD; END IF;
            IF TG_OP = 'INSERT' THEN INSERT INTO shop_word_base VALUES (NEW.text, NEW.meaning)
                ON CONFLICT DO NOTHING; RETURN NULL; END IF;
            UPDATE shop_word_base SET text = NEW.text, meaning = NEW.meaning WHERE text = OLD.text;
            RETURN NULL; END $$""",
        "CREATE TRIGGER write INSTEAD OF INSERT OR UPDATE OR DELETE ON shop_word "
        "FOR EACH ROW EXECUTE FUNCTION write_word()",
    )
    for _, args in observe_twice(STATEMENTS[name]):
        assert (None, "not a table") == (args["keys"], args["keys_unknown"])


@pytest.mark.skipif(connection.vendor != "sqlite", reason="about SQLite")
@pytest.mark.parametrize("kind", ["VIEW", "TEMPORARY VIEW"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_on_a_view_that_can_not_be_written_fail_as_they_did(name: str, kind: str) -> None:
    words()
    execute(
        "ALTER TABLE shop_word RENAME TO shop_word_base",
        f"CREATE {kind} Shop_Word AS SELECT text, meaning FROM shop_word_base",
    )
    without, seen = bare(lambda: fail(STATEMENTS[name])), fail(STATEMENTS[name])
    assert without == seen
    assert "cannot modify" in seen


@pytest.mark.skipif(connection.vendor != "sqlite", reason="about SQLite")
@pytest.mark.django_db(transaction=True)
def test_a_view_that_was_created_since_is_seen_by_the_next_transaction() -> None:
    words()
    for meaning, number in (("a", 3), ("x", 0)):  # also after a transaction in which nothing was recorded
        with transaction.atomic():
            assert number == Word.objects.exclude(meaning=meaning).update(meaning="x")
    execute(
        "ALTER TABLE shop_word RENAME TO shop_word_base",
        "CREATE VIEW shop_word AS SELECT text, meaning FROM shop_word_base",
    )
    try:
        assert "cannot modify" in fail(STATEMENTS["update"])
    finally:
        execute("DROP VIEW shop_word", "ALTER TABLE shop_word_base RENAME TO shop_word")
    assert 3 == Word.objects.update(meaning="y")


@postgres
@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_under_row_security_have_the_same_effect(name: str) -> None:
    words()
    execute(
        "CREATE POLICY seen ON shop_word FOR SELECT USING (text <> 'b' AND meaning <> 'z')",
        "CREATE POLICY changed ON shop_word FOR UPDATE USING (true)",
        "CREATE POLICY deleted ON shop_word FOR DELETE USING (text <> 'c')",
        "CREATE POLICY added ON shop_word FOR INSERT WITH CHECK (true)",
        "ALTER TABLE shop_word ENABLE ROW LEVEL SECURITY",
    )

    def work() -> Any:
        with restricted_role("ALL ON shop_word"):
            return STATEMENTS[name]()

    for _, args in observe_twice(work):
        assert (None, "row security") == (args["keys"], args["keys_unknown"])


@postgres
@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_of_roles_that_must_not_read_the_key_have_the_same_effect(name: str) -> None:
    words()
    grant = "INSERT, DELETE, UPDATE, SELECT (meaning) ON shop_word"

    def work() -> Any:
        with restricted_role(grant):
            return STATEMENTS[name]()

    events = observe_twice(work)
    # The others name the key in their filter, which such a role must not do.
    assert (1 if name in ("update without a filter", "update of the key", "raw delete") else len(events)) == len(events)
    for _, args in events:
        assert (None, "column privileges") == (args["keys"], args["keys_unknown"])


@postgres
def test_a_role_that_may_read_only_the_key_has_its_keys_recorded() -> None:
    words()
    with restricted_role("UPDATE, SELECT (text) ON shop_word"):
        assert 3 == Word.objects.update(meaning="z")
    execute("RESET ROLE")
    assert ["a", "b", "c"] == sorted(get_args(Word, "update")["keys"])
    assert "keys_unknown" not in get_args(Word, "update")


@postgres
@pytest.mark.parametrize("name", ["update without a filter", "raw delete"])
def test_whole_rows_that_a_role_must_not_read_are_counted(name: str) -> None:
    words()

    def work() -> Any:
        with restricted_role("DELETE, UPDATE, SELECT (meaning) ON shop_word"):
            return STATEMENTS[name]()

    with override_settings(SIGNALBOX={"BULK": "rows"}):
        [(_, args)] = [event for event in observe_twice(work) if event[0] != "bulk_create"]
    assert (3, None, "column privileges") == (args["count"], args["keys"], args["keys_unknown"])


@postgres
def test_a_rule_that_is_made_between_two_savepoints_is_seen() -> None:
    words()
    Word.objects.update(meaning="x")
    with transaction.atomic():
        execute("CREATE RULE odd AS ON UPDATE TO shop_word DO ALSO INSERT INTO shop_tag (name) VALUES ('seen')")
        with transaction.atomic():
            Word.objects.update(meaning="y")
    assert [False, True] == ["keys_unknown" in event.data["args"] for event in get_events(Word, "update")]


@postgres
def test_a_rule_that_was_rolled_back_is_not_remembered() -> None:
    words()
    with suppress(_Undo), transaction.atomic():
        execute("CREATE RULE odd AS ON UPDATE TO shop_word DO ALSO INSERT INTO shop_tag (name) VALUES ('seen')")
        Word.objects.update(meaning="x")
        raise _Undo
    Word.objects.update(meaning="y")
    assert ["a", "b", "c"] == sorted(get_args(Word, "update")["keys"])


@postgres
@pytest.mark.django_db(transaction=True)
def test_in_autocommit_a_rule_is_seen_by_the_next_statement() -> None:
    words()
    Word.objects.update(meaning="x")
    execute("CREATE RULE odd AS ON UPDATE TO shop_word DO INSTEAD NOTHING")
    try:
        assert 0 == Word.objects.update(meaning="y")
    finally:
        execute("DROP RULE odd ON shop_word")
    assert 3 == Word.objects.update(meaning="z")
    assert [["a", "b", "c"]] * 2 == [sorted(event.data["args"]["keys"]) for event in get_events(Word, "update")]


@postgres
@pytest.mark.parametrize(
    "is_first",
    [pytest.param(True, marks=pytest.mark.django_db(transaction=True), id="first statement"), False],
)
def test_a_catalogue_that_can_not_be_asked_leaves_the_transaction_as_it_is(
    monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    words()
    monkeypatch.setattr(postgresql_catalogue, "_CATALOGUE_SQL", "SELECT 1/0 FROM pg_class c WHERE ")
    assert connection.in_atomic_block is not is_first
    with transaction.atomic():
        assert 3 == Word.objects.update(meaning="z")
        Tag.objects.create(name="later")
    assert 1 == Tag.objects.count()
    assert {"z"} == set(Word.objects.values_list("meaning", flat=True))
    assert (None, "not readable") == (get_args(Word, "update")["keys"], get_args(Word, "update")["keys_unknown"])


@postgres
def test_the_catalogue_is_asked_once_for_a_table_in_a_transaction() -> None:
    words()
    with sent() as statements:
        for meaning in "xyz":
            Word.objects.update(meaning=meaning)
    assert 1 == sum("pg_catalog.pg_class" in statement for statement in statements)


# ------------------------------------------------------------------ keys that the filter names


def test_an_update_whose_filter_names_the_key_is_sent_as_it_is() -> None:
    one, two = Tag.objects.create(name="a"), Tag.objects.create(name="b")

    def work() -> list[str]:
        return statements_of(lambda: Tag.objects.filter(pk=one.pk, name="a").update(name="a"))

    assert bare(work) == work()
    assert [one.pk] == get_args(Tag, "update")["keys"]
    assert 0 == Tag.objects.filter(pk=two.pk, name="nobody").update(name="x")
    assert 1 == len(get_events(Tag, "update"))


def test_of_the_keys_that_a_filter_names_those_are_recorded_that_were_there() -> None:
    one, two = Document.objects.create(title="a"), Document.objects.create(title="b")
    for keys in ([one.pk, two.pk], [one.pk, uuid.uuid4()], [str(two.pk)]):
        Document.objects.filter(pk__in=keys).update(title="z")
    assert [sorted([str(one.pk), str(two.pk)]), [str(one.pk)], [str(two.pk)]] == [
        sorted(event.data["args"]["keys"]) for event in get_events(Document, "update")
    ]


def test_a_key_that_is_excluded_or_one_of_two_conditions_names_nothing() -> None:
    one, two = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    Tag.objects.exclude(pk=one.pk).update(name="x")
    Tag.objects.filter(models.Q(pk=one.pk) | models.Q(name="x")).update(name="y")
    Tag.objects.filter(pk__in=Tag.objects.filter(name="y").values("pk")).update(name="z")
    Tag.objects.filter(pk=F("pk")).update(name="z")
    found = [sorted(event.data["args"]["keys"]) for event in get_events(Tag, "update")]
    assert [[two.pk], *([sorted([one.pk, two.pk])] * 3)] == found


def test_a_text_is_not_the_key_that_a_filter_compares_with_it() -> None:
    Word.objects.create(text="Key")
    Word.objects.filter(pk="KEY").update(meaning="z")  # equal where the collation ignores case
    found = [event.data["args"]["keys"] for event in get_events(Word, "update")]
    assert ([["Key"]] if connection.vendor == "mysql" else []) == found


@postgres
def test_a_named_key_is_recorded_where_returning_is_not_safe() -> None:
    one, two = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    execute("CREATE RULE odd AS ON UPDATE TO shop_tag DO ALSO INSERT INTO shop_word VALUES (NEW.name, 'seen')")
    Tag.objects.filter(pk=one.pk).update(name="x")
    Tag.objects.filter(pk__in=[one.pk, two.pk]).update(name=Cast(F("id"), models.CharField()))
    Tag.objects.filter(pk__in=[one.pk, two.pk + 1000]).update(name="y")
    found = [
        (event.data["args"]["keys"], event.data["args"].get("keys_unknown")) for event in get_events(Tag, "update")
    ]
    assert [([one.pk], None), ([one.pk, two.pk], None), (None, "rules")] == found


def test_a_childs_update_needs_no_statement_of_ours() -> None:
    lion, crown = Restaurant.objects.create(name="Lion", stars=1), Restaurant.objects.create(name="Crown", stars=2)

    def work() -> list[str]:
        return statements_of(lambda: Restaurant.objects.filter(stars__gt=0).update(name="Inn", stars=3))

    assert bare(work) == work()
    assert sorted([lion.pk, crown.pk]) == sorted(get_args(Restaurant, "update")["keys"])


# ------------------------------------------------------------------ executed statements


def test_a_tool_that_wraps_the_compiler_sees_every_update_and_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order.objects.create(number="A-1")
    OrderLine.objects.create(order=order, sku="a")
    seen: list[str] = []
    original: Any = SQLCompiler.execute_sql

    def watch(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.as_sql()[0].split()[0])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SQLCompiler, "execute_sql", watch)

    def work() -> list[str]:
        seen.clear()
        Order.objects.filter(number="A-1").update(note="z")
        Order.objects.filter(lines__sku="a").update(note="y")
        Tag.objects.all()._raw_delete("default")
        OrderLine.objects.filter(order__number="nobody").delete()
        return [kind for kind in seen if kind != "SELECT"]  # MariaDB has to select the keys

    assert bare(work) == work()
    assert {"UPDATE", "DELETE"} <= set(seen)


@pytest.mark.parametrize("mode", ["keys", "rows"])
@pytest.mark.parametrize("changed", ["meaning", "text"])
def test_a_statement_that_fails_is_sent_and_fails_as_it_did(mode: str, changed: str) -> None:
    words()
    kinds: list[str] = []

    def watch(run: Any, sql: str, *rest: Any) -> Any:
        kinds.append(sql.split(maxsplit=1)[0])
        return run(sql, *rest)

    def work() -> tuple[Any, ...]:
        kinds.clear()
        values: dict[str, Any] = {changed: "z"}
        with pytest.raises(DatabaseError) as caught, transaction.atomic(), connection.execute_wrapper(watch):
            Word.objects.extra(where=["nowhere = 1"]).update(**values)
        cause = caught.value.__cause__
        return type(caught.value), type(cause), str(caught.value).partition("\n")[0], list(kinds)

    with override_settings(SIGNALBOX={"BULK": mode}):
        assert bare(work) == work()
        assert "UPDATE" in kinds
        assert 3 == Word.objects.count()


def test_the_database_is_sent_one_statement_and_the_events() -> None:
    words()
    with sent() as found:
        Word.objects.exclude(text="c").update(meaning="z")
        signalbox.stop_recording()  # writes the event
    signalbox.start_recording()
    theirs = [sql for sql in found if "signalbox" not in sql and "sqlite_master" not in sql]
    kinds = [sql.split()[0] for sql in theirs]
    assert (["SELECT", "UPDATE"] if connection.vendor == "mysql" else ["UPDATE"]) == kinds  # MariaDB selects the keys
    catalogue = {"postgresql": "pg_catalog", "sqlite": "sqlite_master"}.get(connection.vendor)
    assert (1 if catalogue else 0) == len([sql for sql in found if catalogue and catalogue in sql])


# ------------------------------------------------------------------ without a transaction of Django


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("begins", [False, True], ids=["autocommit", "raw BEGIN"])
@pytest.mark.parametrize("mode", ["keys", "rows", "count"])
def test_without_a_transaction_statements_have_the_same_effect(mode: str, begins: bool) -> None:
    # Django begins a transaction for the others, which fails in one that it does not know of.
    names = [name for name in STATEMENTS if not begins or "update" in name or name == "raw delete"]

    def work() -> list[Any]:
        words()
        if begins:
            execute("BEGIN")
        results = [STATEMENTS[name]() for name in names]
        if begins:
            execute("COMMIT")
        results.append(sorted(Word.objects.values_list("text", "meaning")))
        Word.objects.all()._raw_delete("default")
        return results

    with override_settings(SIGNALBOX={"BULK": mode, "AUTOCOMMIT": "after"}):
        without = bare(work)
        assert [] == get_events(Word, *OPERATIONS)
        assert without == work()
    recorded = {event.signal for event in get_events(Word, *OPERATIONS)}
    assert set(OPERATIONS) == recorded


# ------------------------------------------------------------------ unreadable rows


@pytest.mark.skipif(connection.vendor != "sqlite", reason="about SQLite")
def test_on_a_virtual_table_rows_are_counted() -> None:
    execute(
        "ALTER TABLE shop_word RENAME TO shop_word_base", "CREATE VIRTUAL TABLE shop_word USING fts5(text, meaning)"
    )
    words()
    assert 2 == Word.objects.exclude(text="c").update(meaning="z")
    assert 3 == Word.objects.all()._raw_delete("default")
    assert [("update", 2, None, "not supported"), ("bulk_delete", 3, None, "not supported")] == [
        (event.signal, args["count"], args["keys"], args["keys_unknown"])
        for event in get_events(Word, "update", "bulk_delete")
        if (args := event.data["args"])
    ]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the others store only what is text")
def test_keys_that_are_no_text_are_counted() -> None:
    words()
    execute("INSERT INTO shop_word (text, meaning) VALUES (CAST(x'ff' AS TEXT), 'x')")
    assert 4 == Word.objects.update(meaning="z")
    args = get_args(Word, "update")
    assert (4, None, "not readable") == (args["count"], args["keys"], args["keys_unknown"])
    execute("DELETE FROM shop_word WHERE text = CAST(x'ff' AS TEXT)")


@pytest.mark.skipif(connection.vendor == "mysql", reason="it has no RETURNING for updates")
def test_a_comment_at_the_end_of_the_filter_hides_the_keys() -> None:
    words()
    assert 3 == Word.objects.extra(where=["1 = 1) -- "]).update(meaning="z")
    assert {"z"} == set(Word.objects.values_list("meaning", flat=True))
    assert "not readable" == get_args(Word, "update")["keys_unknown"]


@pytest.mark.mariadb
@pytest.mark.django_db(transaction=True)
def test_a_mariadb_user_without_select_on_the_key_gets_the_same_effect() -> None:
    words()
    user, database = f"sb_{uuid.uuid4().hex[:16]}", connection.settings_dict["NAME"]
    owner = connection.settings_dict["USER"]
    execute(
        f"CREATE USER {user}",
        f"GRANT INSERT, DELETE, UPDATE, SELECT (meaning) ON `{database}`.shop_word TO {user}",
        *(f"GRANT ALL ON `{database}`.{model._meta.db_table} TO {user}" for model in _signalbox_models()),
    )
    connection.close()
    connection.settings_dict["USER"] = user
    try:
        assert 3 == Word.objects.update(meaning="z")
        Word.objects.bulk_create([Word(text="a"), Word(text="d")], ignore_conflicts=True)
        assert 4 == Word.objects.all()._raw_delete("default")
    finally:
        connection.close()
        connection.settings_dict["USER"] = owner
        execute(f"DROP USER {user}")
    found = [
        (event.signal, event.data["args"]["count"], event.data["args"]["keys"], "keys_unknown" in event.data["args"])
        for event in get_events(Word, *OPERATIONS)
    ][1:]
    assert [("update", 3, None, True), ("bulk_create", 1, None, True), ("bulk_delete", 4, None, True)] == found


def test_a_new_key_that_an_update_writes_is_recorded_with_the_old_one() -> None:
    words()
    assert 1 == Word.objects.filter(meaning="2").update(text=Value("y"))
    args = get_args(Word, "update")
    assert (["b"], None) == (args["keys"], args["new_keys"])
    assert 1 == Word.objects.filter(meaning="2").update(text="x")
    args = get_args(Word, "update")
    assert (["y"], ["x"]) == (args["keys"], args["new_keys"])


# ------------------------------------------------------------------ the number of kept rows


@pytest.mark.parametrize("kind", ["update", "delete", "insert"])
def test_at_most_the_requested_number_of_rows_is_returned(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "FETCH_SIZE", 2)
    if kind != "insert":
        Item10.objects.bulk_create([Item10(name="x") for _ in range(9)])
    with (
        transaction.atomic(),
        bulk.suppress_bulk_events(Item10),
        returning_request.request_returning(kind, Item10, [Item10._meta.pk], max_rows=5) as requested,
    ):
        if kind == "update":
            assert 9 == Item10.objects.update(count=1)
        elif kind == "delete":
            assert 9 == Item10.objects.all()._raw_delete("default")
        else:
            Item10.objects.bulk_create([Item10(name="x") for _ in range(9)], batch_size=4, ignore_conflicts=True)
    assert requested.rows is not None
    assert (9, 5) == (requested.row_count, len(requested.rows))


# ------------------------------------------------------------------ BULK = "count"


@pytest.fixture
def count() -> Iterator[None]:
    with override_settings(SIGNALBOX={"BULK": "count"}):
        yield


@pytest.mark.usefixtures("count")
def test_count_leaves_the_statements_as_they_are() -> None:
    order = Order.objects.create(number="A-1")
    some = [Tag.objects.create(name=name) for name in "abc"]

    def work() -> list[str]:
        def everything() -> None:
            Tag.objects.filter(name="a").update(name="a")
            Order.objects.filter(tags__name="b").update(note="x")
            OrderLine.objects.filter(order__number="A-1").delete()
            Word.objects.bulk_create([Word(text="a")], ignore_conflicts=True)
            Word.objects.all()._raw_delete("default")
            order.tags.add(*some)
            order.tags.remove(some[0])
            order.tags.set(some[:2])
            order.tags.clear()

        return statements_of(everything)

    assert bare(work) == work()


@pytest.mark.usefixtures("count")
def test_count_records_the_number_of_rows_and_the_reason_for_unknown_keys() -> None:
    words()
    Word.objects.exclude(text="c").update(meaning="z")
    Word.objects.bulk_create([Word(text="a"), Word(text="d"), Word(text="e")], ignore_conflicts=True)
    Word.objects.bulk_create([Word(text="f"), Word(text="g")], ignore_conflicts=True)
    Word.objects.all()._raw_delete("default")
    unknown = 'BULK = "count"'
    assert [
        ("bulk_create", 3, ["a", "b", "c"], None),
        ("update", 2, None, unknown),
        ("bulk_create", 2, None, unknown),
        ("bulk_create", 2, ["f", "g"], None),  # all of them were inserted
        ("bulk_delete", 7, None, unknown),
    ] == [
        (event.signal, args["count"], args["keys"], args.get("keys_unknown"))
        for event in get_events(Word, *OPERATIONS)
        if (args := event.data["args"])
    ]


@pytest.mark.usefixtures("count")
def test_count_records_keys_of_a_relation_that_the_numbers_prove() -> None:
    order = Order.objects.create(number="A-1")
    one, two, three = (Tag.objects.create(name=name) for name in "abc")
    order.tags.add(one, two)
    order.tags.add(two, three)
    order.tags.add(two)
    order.tags.remove(one.pk)
    order.tags.remove(one, two)
    order.tags.clear()
    found = [
        (args["action"], args.get("added", args.get("removed")), args.get("count"), args.get("keys_unknown"))
        for event in get_events(Order.tags.through, "m2m_changed")
        if (args := event.data["args"])
    ]
    unknown = 'BULK = "count"'
    assert [
        ("post_add", [one.pk, two.pk], None, None),
        ("post_add", None, 1, unknown),
        ("post_remove", [one.pk], None, None),
        ("post_remove", None, 1, unknown),
        ("post_clear", None, 1, unknown),
    ] == found
    uncertain = [event.uncertain for event in history(one) if event.signal == "m2m_changed"]
    assert [True, True, False, True, False] == uncertain  # the newest first
    newest = get_newest_event(Order.tags.through, "m2m_changed")
    with pytest.raises(signalbox.RevertError):
        signalbox.revert(newest)
