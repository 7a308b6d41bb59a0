"""``SIGNALBOX["EVENT_PROCESSOR"]``: the project drops events or adds to them, and can do no harm by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.signals import post_save
from django.test import override_settings

from signalbox import conf
from signalbox.models import Event
from signalbox.pipeline import processors
from signalbox.serialization.redaction import REDACTED
from tests.events import get_events, get_newest_event
from tests.shop.models import Order, Tag

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


@contextmanager
def keep(judge: Any) -> Iterator[None]:
    processors._logged_processors.clear()
    with override_settings(SIGNALBOX={"EVENT_PROCESSOR": judge}):
        yield


def no_tags(event: Mapping[str, Any]) -> bool:
    return bool(event["sender"] != "shop.Tag")


def test_an_event_is_dropped_by_false_and_its_change_is_not() -> None:
    with keep(f"{__name__}.no_tags"):
        Tag.objects.create(name="a")
        Order.objects.create(number="A-1")
        assert [] == get_events(Tag, "post_save")
        assert 1 == len(get_events(Order, "post_save"))
        assert Tag.objects.exists()


@pytest.mark.parametrize("answer", [None, True, 0, "", {}, "text"], ids=repr)
def test_anything_but_false_keeps_it(answer: Any) -> None:
    with keep(lambda event: answer):
        Tag.objects.create(name="a")
        assert "extra" not in get_newest_event(Tag, "post_save").data


def test_a_mapping_is_added() -> None:
    with keep(lambda event: {"tenant": 7, "password": "hush-1"}):
        Tag.objects.create(name="a")
        assert {"tenant": 7, "password": REDACTED} == get_newest_event(Tag, "post_save").data["extra"]


def test_what_is_added_is_bounded() -> None:
    with keep(lambda event: {"much": "x" * 10**6, "self": event, "list": list(range(10**5))}):
        Tag.objects.create(name="a")
        assert 20_000 > len(str(get_newest_event(Tag, "post_save").data["extra"]))


def test_it_is_given_the_columns_and_the_data_read_only() -> None:
    seen: list[Mapping[str, Any]] = []

    def look(event: Mapping[str, Any]) -> None:
        seen.append(event)
        event["sender"] = "another"  # type: ignore[index]

    with keep(look):
        tag = Tag.objects.create(name="a")
        event = get_newest_event(Tag, "post_save")
    [given] = [one for one in seen if one["sender"] == "shop.Tag" and one["signal"] == "post_save"]
    assert {field.name for field in Event._meta.concrete_fields} - {"id"} == set(given)
    assert ("shop.Tag", str(tag.pk), {"id": tag.pk, "name": "a"}) == (
        event.sender,
        given["object_key"],
        given["data"]["row"],
    )


def test_what_it_raises_is_logged_once_and_the_event_kept(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(event: Any) -> None:
        raise ValueError("no")

    with caplog.at_level(logging.ERROR), keep(refuse):
        Tag.objects.create(name="a")
        Tag.objects.create(name="b")
        assert 2 == len(get_events(Tag, "post_save"))
    [record] = [record for record in caplog.records if "EVENT_PROCESSOR" in record.message]
    assert "refuse" in record.message
    assert record.exc_info


def test_what_cannot_be_imported_keeps_everything_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), keep("nowhere.keep"):
        Tag.objects.create(name="a")
        assert 1 == len(get_events(Tag, "post_save"))
    assert ['SIGNALBOX["EVENT_PROCESSOR"] nowhere.keep can\'t be imported. Every event is written.'] == [
        record.message for record in caplog.records
    ]


def test_what_is_no_callable_keeps_everything_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), keep("os.sep"):
        Tag.objects.create(name="a")
        assert 1 == len(get_events(Tag, "post_save"))
    assert ['SIGNALBOX["EVENT_PROCESSOR"] os.sep is not callable. Every event is written.'] == [
        record.message for record in caplog.records
    ]


def test_the_checks_tell_what_is_no_callable() -> None:
    [(path, message, _)] = conf.get_errors({"EVENT_PROCESSOR": 7})
    assert ("EVENT_PROCESSOR",) == path
    assert 'SIGNALBOX["EVENT_PROCESSOR"] is 7. Expected a callable or its dotted path.' == message
    assert [] == conf.get_errors({"EVENT_PROCESSOR": None})


@pytest.mark.django_db(transaction=True)
def test_what_was_added_stays_when_the_receivers_have_run() -> None:
    def hear(**kwargs: Any) -> None:
        pass

    post_save.connect(hear, sender=Tag)
    try:
        with keep(lambda event: {"tenant": 7}):
            Tag.objects.create(name="a")
            data = get_newest_event(Tag, "post_save").data
    finally:
        post_save.disconnect(hear, sender=Tag)
    assert (1, {"tenant": 7}) == (len(data["receivers"]), data["extra"])


@pytest.mark.django_db(transaction=True)
def test_events_of_no_transaction_and_of_one_rolled_back_are_judged_too() -> None:
    with keep(no_tags):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Tag.objects.create(name="a")
            Order.objects.create(number="A-1")
            raise ZeroDivisionError
        found = [event.sender for event in Event.objects.filter(outcome="rolled_back", signal="post_save")]
    assert ["shop.Order"] == found


def count_what_is_not_there() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM nothing_there")


def count_and_go_on() -> None:
    with suppress(Exception):
        count_what_is_not_there()


def save_another() -> None:
    with suppress(Exception):
        Tag.objects.create(name="another")


def save_another_in_a_block() -> None:
    with suppress(Exception), transaction.atomic():
        Tag.objects.create(name="another")


def update_all() -> None:
    with suppress(Exception):
        Tag.objects.update(name="another")


def undo() -> None:
    with suppress(Exception):
        connection.rollback()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "query",
    [count_what_is_not_there, count_and_go_on, save_another, save_another_in_a_block, update_all, undo],
    ids=lambda query: query.__name__,
)
@pytest.mark.parametrize("where", ["autocommit", "atomic", "read within"])
def test_it_may_not_ask_the_database_and_takes_no_transaction_along(query: Callable[[], None], where: str) -> None:
    asked = []

    def ask(event: Mapping[str, Any]) -> None:
        if event["sender"] == "shop.Tag" and event["signal"] == "post_save":
            asked.append(event)
            query()

    with keep(ask):
        if where == "autocommit":
            Tag.objects.create(name="a")
        else:
            with transaction.atomic():
                Tag.objects.create(name="a")
                if where == "read within":
                    assert 1 == len(get_events(Tag, "post_save"))
                Order.objects.create(number="A-1")
        assert 1 == len(get_events(Tag, "post_save"))
    assert 1 == len(asked)
    assert ["a"] == list(Tag.objects.values_list("name", flat=True))
    assert (True, False, False) == (
        connection.get_autocommit(),
        connection.in_atomic_block,
        connection.needs_rollback,
    )


def test_an_answer_that_cannot_be_read_keeps_the_event(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Mapping[str, Any]):
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[str]:
            raise ValueError("no")

        def __getitem__(self, name: str) -> Any:
            raise KeyError(name)

    with caplog.at_level(logging.ERROR), keep(lambda event: Broken()):
        Tag.objects.create(name="a")
        assert 1 == len(get_events(Tag, "post_save"))
    assert any("EVENT_PROCESSOR" in record.message and record.exc_info for record in caplog.records)
