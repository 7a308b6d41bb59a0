"""Many-to-many changes: added and removed keys, from either side, with the statements of Django only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.db.models.signals import m2m_changed, post_delete
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

import signalbox
from signalbox.instrumentation import signal_arguments
from signalbox.queries.object_history import history
from signalbox.queries.revert import RevertError, revert
from signalbox.serialization.redaction import REDACTED
from tests.driver_statements import sent
from tests.events import get_events, get_newest_event
from tests.shop.models import Club, Coded, Friend, Holder, Holding, Key, Membership, Order, Person, Tag

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

Through = Order.tags.through


def order(number: str = "A-1") -> Order:
    return Order.objects.create(number=number)


def tags(*names: str) -> list[Tag]:
    return [Tag.objects.create(name=name) for name in names]


def get_recorded(through: Any = Through) -> list[tuple[str, list[Any]]]:
    """Return the actions and keys of a table's events."""
    return [
        (args["action"], args.get("added", args.get("removed")))
        for event in get_events(through, "m2m_changed")
        if (args := event.data["args"])
    ]


@contextmanager
def connect_receiver(through: Any = Through) -> Iterator[list[tuple[str, Any]]]:
    """Connect a receiver of changes of a table; yield the arguments that it gets."""
    seen: list[tuple[str, Any]] = []

    def hear(action: str, pk_set: Any, **kwargs: Any) -> None:
        seen.append((action, None if pk_set is None else set(pk_set)))

    m2m_changed.connect(hear, sender=through)
    try:
        yield seen
    finally:
        m2m_changed.disconnect(hear, sender=through)


def bare(action: Callable[[], Any]) -> Any:
    signalbox.stop_recording()
    try:
        return action()
    finally:
        signalbox.start_recording()


# ------------------------------------------------------------------ recorded labels


def get_labels(through: Any = Through) -> list[Any]:
    """Return the labels of the events that have changed keys."""
    found = [event.data["args"] for event in get_events(through, "m2m_changed")]
    return [args.get("labels") for args in found if "added" in args or "removed" in args]


def count_statements(action: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as statements:
        action()
    return len(statements)


@pytest.mark.parametrize("has_receiver", [False, True])
def test_objects_that_were_given_as_instances_have_labels_without_a_query(has_receiver: bool) -> None:
    one, two = tags("a", "b")
    made = order()
    with connect_receiver() if has_receiver else nullcontext():
        expected = bare(lambda: count_statements(lambda: made.tags.add(one, two.pk)))
        bare(made.tags.clear)
        assert expected == count_statements(lambda: made.tags.add(one, two.pk))
        made.tags.remove(one)
        made.tags.remove(two.pk)
    label = {"tag": {str(one.pk): "a"}}
    assert [label, label, None] == get_labels()


def test_an_object_that_was_not_changed_has_no_label_and_only_the_first_have_one() -> None:
    found = tags(*(f"t{number:02}" for number in range(25)))
    made = order()
    made.tags.add(found[0])
    made.tags.add(*found)
    labels = get_labels()[-1]["tag"]
    assert [str(one.pk) for one in found[1:21]] == list(labels)


def test_the_labels_of_a_large_change_are_in_the_events_of_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_arguments, "MAX_KEYS_PER_EVENT", 2)
    one, two, three = tags("a", "b", "c")
    made = order()
    with connect_receiver():
        made.tags.add(one.pk, two, three)
    assert [{"tag": {str(two.pk): "b"}}, {"tag": {str(three.pk): "c"}}] == get_labels()
    bare(made.tags.clear)
    made.tags.add(one, two.pk, three.pk)
    assert [{"tag": {str(one.pk): "a"}}, None] == get_labels()[2:]


@pytest.mark.parametrize("text", [lambda tag: Order.objects.get().number, lambda tag: tag.gone])
def test_an_object_whose_text_fails_or_queries_has_no_label(
    monkeypatch: pytest.MonkeyPatch, text: Callable[[Any], str]
) -> None:
    [one] = tags("a")
    made = order()
    monkeypatch.setattr(Tag, "__str__", text)
    made.tags.add(one)
    assert ([None], [("post_add", [one.pk])]) == (get_labels(), get_recorded())


# ------------------------------------------------------------------ recorded keys


def test_adding_records_the_keys_under_the_object_whose_manager_it_was() -> None:
    one, two = tags("a", "b")
    made = order()
    made.tags.add(one, two.pk)
    event = get_newest_event(Through, "m2m_changed")
    assert ("shop.Order_tags", str(made.pk), "Order A-1", "committed") == (
        event.sender,
        event.object_key,
        event.object_label,
        event.outcome,
    )
    assert {
        "action": "post_add",
        "added": [one.pk, two.pk],
        "labels": {"tag": {str(one.pk): "a"}},
        "model": "shop.Tag",
        "object": "shop.Order",
        "reverse": False,
        "unsent": True,
    } == event.data["args"]


def test_adding_existing_objects_is_not_recorded() -> None:
    one, two = tags("a", "b")
    made = order()
    made.tags.add(one)
    made.tags.add(one)
    made.tags.add(one, two)
    made.tags.add()
    assert [("post_add", [one.pk]), ("post_add", [two.pk])] == get_recorded()


def test_removing_records_removed_keys() -> None:
    one, two, three = tags("a", "b", "c")
    made = order()
    made.tags.add(one, two)
    made.tags.remove(one, three)
    assert ("post_remove", [one.pk]) == get_recorded()[-1]
    assert [one.pk, three.pk] == get_newest_event(Through, "m2m_changed").data["args"]["pk_set"]


def test_clearing_records_the_keys_of_this_object_only() -> None:
    one, two = tags("a", "b")
    made, other = order(), order("A-2")
    made.tags.add(one, two)
    other.tags.add(one)
    made.tags.clear()
    assert ("post_clear", [one.pk, two.pk]) == get_recorded()[-1]
    assert 1 == other.tags.count()


def test_setting_records_added_and_removed_keys() -> None:
    one, two, three = tags("a", "b", "c")
    made = order()
    made.tags.set([one, two])
    made.tags.set([two, three])
    made.tags.set([two, three])
    made.tags.set([one], clear=True)
    assert [
        ("post_add", [one.pk, two.pk]),
        ("post_remove", [one.pk]),
        ("post_add", [three.pk]),
        ("post_clear", [two.pk, three.pk]),
        ("post_add", [one.pk]),
    ] == get_recorded()


def test_the_other_side_records_the_reverse() -> None:
    [tag] = tags("a")
    one, two = order(), order("A-2")
    tag.orders.add(one, two)
    tag.orders.remove(one)
    tag.orders.set([one])
    tag.orders.clear()
    assert [
        ("post_add", [one.pk, two.pk]),
        ("post_remove", [one.pk]),
        ("post_remove", [two.pk]),
        ("post_add", [one.pk]),
        ("post_clear", [one.pk]),
    ] == get_recorded()
    event = get_newest_event(Through, "m2m_changed")
    args = event.data["args"]
    assert (str(tag.pk), "shop.Tag", "shop.Order", True) == (
        event.object_key,
        args["object"],
        args["model"],
        args["reverse"],
    )


def test_creating_through_the_manager_is_a_creation_and_an_addition() -> None:
    made = order()
    tag = made.tags.create(name="a")
    assert [("post_add", [tag.pk])] == get_recorded()
    assert made.tags.get_or_create(name="b")[1]
    assert 2 == len(get_events(Tag, "post_save"))


def test_a_symmetrical_relation_is_recorded_once() -> None:
    ann, bob = Friend.objects.create(name="Ann"), Friend.objects.create(name="Bob")
    through = Friend.friends.through
    ann.friends.add(bob)
    assert 2 == through.objects.count()
    bob.friends.remove(ann)
    ann.friends.add(bob)
    ann.friends.clear()
    assert 0 == through.objects.count()
    assert [
        ("post_add", [bob.pk]),
        ("post_remove", [ann.pk]),
        ("post_add", [bob.pk]),
        ("post_clear", [bob.pk]),
    ] == get_recorded(through)
    assert [] == get_events(through, "bulk_create", "bulk_delete")


def test_an_explicit_through_model_is_recorded_like_any() -> None:
    club = Club.objects.create(name="Analysts")
    ada, bob = Person.objects.create(name="Ada"), Person.objects.create(name="Bob")
    club.members.add(ada, through_defaults={"role": "chair"})
    ada.clubs.remove(club)
    bob.clubs.set([club])
    club.members.clear()
    assert [
        ("post_add", [ada.pk]),
        ("post_remove", [club.pk]),
        ("post_add", [club.pk]),
        ("post_clear", [bob.pk]),
    ] == get_recorded(Membership)


@pytest.mark.parametrize("listening", [False, True])
def test_a_relation_by_other_columns_than_the_keys_records_the_keys(listening: bool) -> None:
    Coded.objects.create(code="unrelated")
    holder, one, two = Holder.objects.create(code="h"), Coded.objects.create(code="c"), Coded.objects.create(code="d")
    with connect_receiver(Holding) if listening else nullcontext():
        holder.coded.add(one, two)
        one.holders.remove(holder)
        holder.coded.clear()
        one.holders.add(holder)
    assert [
        ("post_add", [one.pk, two.pk]),
        ("post_remove", [holder.pk]),
        ("post_clear", [two.pk]),
        ("post_add", [holder.pk]),
    ] == [entry for entry in get_recorded(Holding) if entry[0].startswith("post_")]
    for subject, number in ((one, 3), (two, 2), (holder, 4)):
        found = [event for event in history(subject) if event.data["args"].get("action", "").startswith("post_")]
        assert number == len(found)
    revert(get_newest_event(Holding, "m2m_changed"))
    assert 0 == Holding.objects.count()


def test_a_row_of_an_explicit_through_model_that_is_saved_is_a_save() -> None:
    club, ada = Club.objects.create(name="Analysts"), Person.objects.create(name="Ada")
    Membership.objects.create(club=club, person=ada)
    assert [] == get_recorded(Membership)
    assert 1 == len(get_events(Membership, "post_save"))


def test_the_asynchronous_twins_are_recorded_as_well() -> None:
    one, two = tags("a", "b")
    made = order()

    async def work() -> None:
        await made.tags.aadd(one, two)
        await made.tags.aremove(one)
        await made.tags.aset([one])
        await made.tags.aclear()

    async_to_sync(work)()
    assert ["post_add", "post_remove", "post_remove", "post_add", "post_clear"] == [
        action for action, _ in get_recorded()
    ]


def test_a_rolled_back_change_is_not_recorded() -> None:
    [tag] = tags("a")
    made = order()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        made.tags.add(tag)
        raise ZeroDivisionError
    assert [] == get_recorded()


@pytest.mark.django_db(transaction=True)
def test_outside_of_a_transaction_change_and_event_commit_together() -> None:
    one, two = tags("a", "b")
    made = order()
    made.tags.add(one, two)
    made.tags.remove(one)
    made.tags.clear()
    assert not connection.in_atomic_block
    assert [("post_add", [one.pk, two.pk]), ("post_remove", [one.pk]), ("post_clear", [two.pk])] == get_recorded()


@pytest.mark.parametrize("listening", [False, True])
def test_a_large_change_is_recorded_whole_by_several_events(listening: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_arguments, "MAX_KEYS_PER_EVENT", 2)
    made = order()
    some = tags(*"abcde")
    keys = [tag.pk for tag in some]
    with connect_receiver() if listening else nullcontext():
        made.tags.add(*some)
        made.tags.clear()
    events = [event for event in get_events(Through, "m2m_changed") if event.data["args"]["action"].startswith("post_")]
    assert [(1, 3), (2, 3), (3, 3)] * 2 == [
        (event.data["args"]["part"], event.data["args"]["parts"]) for event in events
    ]
    assert keys * 2 == [
        key for event in events for key in event.data["args"].get("added", event.data["args"].get("removed"))
    ]
    assert {str(made.pk)} == {event.object_key for event in events}
    told = [event.data["args"]["action"] for event in history(some[-1]) if event.signal == "m2m_changed"]
    assert ["post_clear", "post_add"] == told


def test_secret_keys_are_recorded_by_a_digest() -> None:
    made = order()
    key = Key.objects.create(secret_key="veil-1")
    made.keys.add(key)
    with connect_receiver(Key.orders.through):
        made.keys.remove(key)
        made.keys.add(key)
    key.orders.clear()
    events = get_events(Key.orders.through, "m2m_changed")
    assert 5 <= len(events)
    assert "veil" not in str([(event.object_key, event.object_label, event.data) for event in events])


@pytest.mark.parametrize(
    "setting",
    [
        {"IGNORE": ["shop.Order_tags"]},
        {"MODELS": {"shop.Order_tags": {"record": False}}},
        {"MODELS": {"shop.Order": {"record": False}}},
        {"MODELS": {"shop.Order": {"exclude": ["tags"]}}},
        {"RECORD": ["post_save"]},
    ],
    ids=str,
)
def test_a_table_that_is_left_out_is_left_out(setting: dict[str, Any]) -> None:
    with override_settings(SIGNALBOX=setting):
        [tag] = tags("a")
        made = order()
        made.tags.add(tag)
        made.tags.clear()
        assert [] == get_events(Through, "m2m_changed", "bulk_create", "bulk_delete")


def test_a_relation_that_is_left_out_is_left_out_from_both_sides() -> None:
    said = {"shop.Order": {"exclude": ["tags"]}, "shop.Club": {"exclude": ["members"]}}
    with override_settings(SIGNALBOX={"MODELS": said}):
        [tag] = tags("a")
        made = order()
        tag.orders.add(made)
        with connect_receiver():
            made.tags.clear()
            tag.orders.add(made)
        made.delete()
        club, ada = Club.objects.create(name="Analysts"), Person.objects.create(name="Ada")
        club.members.add(ada)
        ada.clubs.clear()
        assert [] == get_events(Through, "m2m_changed", "bulk_create", "bulk_delete")
        assert [] == get_events(Membership, "m2m_changed", "bulk_create", "bulk_delete")


def test_the_keys_of_a_relation_that_is_to_be_hidden_are_not_recorded() -> None:
    [tag] = tags("a")
    made = order()
    said = {"shop.Order": {"redact": ["tags"]}, "shop.Club": {"redact": ["members"]}}
    with override_settings(SIGNALBOX={"MODELS": said}):
        made.tags.add(tag)
        tag.orders.clear()
        with connect_receiver():
            made.tags.add(tag)
            made.tags.remove(tag)
        events = get_events(Through, "m2m_changed")
        assert [(REDACTED, 1)] * 4 == [
            (args.get("added", args.get("removed")), args["count"])
            for event in events
            if (args := event.data["args"])["action"].startswith("post_")
        ]
        assert {REDACTED, None} == {event.data["args"].get("pk_set") for event in events}
        with pytest.raises(RevertError, match="are redacted, so they were not recorded"):
            signalbox.revert(events[0])
        club, ada = Club.objects.create(name="Analysts"), Person.objects.create(name="Ada")
        club.members.add(ada)
        assert REDACTED == get_newest_event(Membership, "m2m_changed").data["args"]["added"]
        with override_settings(SIGNALBOX={"BULK": "rows", "MODELS": {"shop.Order": {"redact": ["tags"]}}}):
            made.tags.add(tag)
            made.delete()
        assert {"tag": REDACTED, "order": REDACTED}.items() <= get_newest_event(Through, "bulk_delete").data[
            "row"
        ].items()


# ------------------------------------------------------------------ receivers


def test_a_receiver_gets_the_same_arguments_and_is_recorded() -> None:
    one, two = tags("a", "b")
    made = order()
    made.tags.add(one)
    with connect_receiver() as seen:
        made.tags.add(one, two)
        made.tags.remove(two)
        made.tags.clear()
    assert [
        ("pre_add", {two.pk}),
        ("post_add", {two.pk}),
        ("pre_remove", {two.pk}),
        ("post_remove", {two.pk}),
        ("pre_clear", None),
        ("post_clear", None),
    ] == seen
    events = get_events(Through, "m2m_changed")[1:]
    assert [action for action, _ in seen] == [event.data["args"]["action"] for event in events]
    assert all(1 == len(event.data["receivers"]) for event in events)
    assert ([two.pk], [two.pk], [one.pk]) == (
        events[1].data["args"]["added"],
        events[3].data["args"]["removed"],
        events[5].data["args"]["removed"],
    )


def test_with_a_receiver_an_addition_of_nothing_is_recorded_as_one() -> None:
    [tag] = tags("a")
    made = order()
    made.tags.add(tag)
    with connect_receiver() as seen:
        made.tags.add(tag)
    assert [("pre_add", set()), ("post_add", set())] == seen
    assert ("post_add", []) == get_recorded()[-1]


def test_a_receiver_that_raises_undoes_the_change() -> None:
    [tag] = tags("a")
    made = order()

    def refuse(action: str, **kwargs: Any) -> None:
        if action == "post_add":
            raise ValueError("no")

    m2m_changed.connect(refuse, sender=Through)
    try:
        with pytest.raises(ValueError, match="no"), transaction.atomic():
            made.tags.add(tag)
    finally:
        m2m_changed.disconnect(refuse, sender=Through)
    assert 0 == made.tags.count()
    assert [] == get_recorded()


def test_managers_within_receivers_do_not_meet() -> None:
    [tag] = tags("a")
    made, other = order(), order("A-2")

    def copy(action: str, instance: Any, **kwargs: Any) -> None:
        if action == "post_add" and instance == made:
            other.tags.add(tag)

    m2m_changed.connect(copy, sender=Through)
    try:
        made.tags.add(tag)
    finally:
        m2m_changed.disconnect(copy, sender=Through)
    added = {event.object_key: event.data["args"].get("added") for event in get_events(Through, "m2m_changed")}
    assert {str(made.pk): [tag.pk], str(other.pk): [tag.pk]} == added


def test_statements_of_receivers_on_the_managers_table_are_recorded() -> None:
    club = Club.objects.create(name="Analysts")
    ada, bob, eve = (Person.objects.create(name=name) for name in ("Ada", "Bob", "Eve"))
    club.members.add(ada, bob)

    def hear(action: str, instance: Club, **kwargs: Any) -> None:
        if action == "post_add":
            Membership.objects.filter(club=instance).update(role="admin")
        elif action == "pre_remove":
            Membership.objects.filter(person=eve).delete()
        elif action == "pre_clear":
            Membership.objects.bulk_create([Membership(club=instance, person=bob)])

    m2m_changed.connect(hear, sender=Membership)
    try:
        club.members.add(eve)
        club.members.remove(ada)
        club.members.clear()
    finally:
        m2m_changed.disconnect(hear, sender=Membership)
    assert ("update", 3) == (
        get_newest_event(Membership, "update").signal,
        get_newest_event(Membership, "update").data["args"]["count"],
    )
    assert 1 == len(get_events(Membership, "bulk_create"))
    [deleted] = get_events(Membership, "bulk_delete", "post_delete")
    assert 1 == deleted.data["args"]["count"]
    posts = [entry for entry in get_recorded(Membership) if entry[0].startswith("post_")]
    assert [
        ("post_add", [ada.pk, bob.pk]),
        ("post_add", [eve.pk]),
        ("post_remove", [ada.pk]),
        ("post_clear", [bob.pk]),
    ] == posts


def test_a_table_with_receivers_of_deletes_is_recorded_too() -> None:
    [tag] = tags("a")
    made = order()
    made.tags.add(tag)

    def hear(**kwargs: Any) -> None:
        pass

    post_delete.connect(hear, sender=Through)
    try:
        made.tags.remove(tag)
    finally:
        post_delete.disconnect(hear, sender=Through)
    assert ("post_remove", [tag.pk]) == get_recorded()[-1]


# ------------------------------------------------------------------ at the cost of bare Django


def shapes(action: Callable[[], Any]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        action()
    statements = [query["sql"].split(" RETURNING ")[0] for query in captured]
    return ["".join(letter for letter in sql if not letter.isdigit()) for sql in statements]


@pytest.mark.parametrize("listening", [False, True])
def test_statements_are_those_of_bare_django(listening: bool) -> None:
    some = tags(*"abcde")

    def work() -> None:
        made = order()
        made.tags.add(*some)
        made.tags.add(some[0])
        made.tags.remove(some[1])
        made.tags.set(some[2:])
        some[0].orders.add(made)
        made.tags.clear()

    if not listening:
        assert bare(lambda: shapes(work)) == shapes(work)
        return
    with connect_receiver():
        assert bare(lambda: shapes(work)) == shapes(work)


@pytest.mark.django_db(transaction=True)
def test_additions_cost_one_statement_more_for_each_transaction() -> None:
    some = tags(*"abcdefghij")
    with transaction.atomic():
        order().tags.add(some[0])  # the first addition asks the catalogue

    def statements(additions: int) -> list[str]:
        made = [order(str(number)) for number in range(additions)]
        with sent() as found, transaction.atomic():
            for one in made:
                one.tags.add(*some)
        return found

    for additions in (1, 3):
        without, found = bare(lambda: statements(additions)), statements(additions)  # noqa: B023 - it is called here
        catalogue = [sql for sql in found if "pg_catalog" in sql or "sqlite_master" in sql]
        ours = [sql for sql in found if "signalbox" in sql.lower() and sql not in catalogue]
        assert len(without) == len(found) - len(ours) - len(catalogue)
        assert {"postgresql": 1, "sqlite": 1}.get(connection.vendor, 0) == len(catalogue)
        if connection.vendor == "sqlite":  # its driver has no atomic call for several rows
            assert additions == len([sql for sql in ours if sql.startswith("INSERT")])
            assert (0 if additions == 1 else 2) == len([sql for sql in ours if not sql.startswith("INSERT")])
        else:
            assert 1 == len(ours)


def test_uninstalling_leaves_the_managers_as_django_made_them() -> None:
    def methods() -> list[Any]:
        made = type(order().tags)
        return [made.__dict__.get(name) for name in ("_add_items", "_remove_items", "clear", "_clear_base")]

    with_recording = methods()
    without = bare(methods)
    assert all(method is None or method.__module__.startswith("django.") for method in without)
    assert [method and method.__qualname__ for method in without] == [
        method and method.__qualname__ for method in with_recording
    ]
    assert any(a is not b for a, b in zip(with_recording, without, strict=True))
