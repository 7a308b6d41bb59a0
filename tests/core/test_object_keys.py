"""Object keys of events, for each kind of primary key."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core import serializers
from django.db import connection, models
from django.db.models.signals import post_save
from django.test import override_settings
from django.utils import timezone

from signalbox import receiver
from signalbox.core import object_keys
from signalbox.instrumentation import signal_arguments
from signalbox.outbox.durable_receiver import CannotBeDurable
from signalbox.queries.object_history import history
from signalbox.serialization.redaction import REDACTED
from tests.events import get_events, get_newest_event, get_object_event
from tests.shop.models import (
    Big,
    Document,
    Enrolment,
    Key,
    Named,
    Order,
    Person,
    Phrase,
    Restaurant,
    SeasonTicket,
    Sentence,
    Tag,
    Ticket,
    Word,
)

database = [pytest.mark.every_database, pytest.mark.django_db]

KEY = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (7, "7"),
        (-(2**63), "-9223372036854775808"),
        (2**200, str(2**200)),
        ("", ""),
        ("a/b?c=d&é…", "a/b?c=d&é…"),
        ("a\0b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        (KEY, str(KEY)),
        (Decimal("1.50"), "1.50"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        ((1, "maths"), '[1,"maths"]'),
        ([1, "maths"], '[1,"maths"]'),
        ((1, KEY), f'[1,"{KEY}"]'),
        ((None, None), ""),
        ((1, None), ""),
    ],
    ids=str,
)
def test_a_key_is_text(value: Any, text: str) -> None:
    assert text == object_keys.key_to_text(value)


def test_a_long_key_ends_in_a_digest_of_the_whole() -> None:
    one, other = "x" * 300 + "a", "x" * 300 + "b"
    assert object_keys.key_to_text("x" * 200) == "x" * 200
    assert 197 <= len(object_keys.key_to_text(one)) <= 200
    assert object_keys.key_to_text(one) != object_keys.key_to_text(other)
    assert object_keys.key_to_text(one) == object_keys.key_to_text(one)
    assert 200 >= len(object_keys.key_to_text((one, other)))


def test_a_secret_key_is_a_digest_that_only_this_site_makes(settings: Any) -> None:
    here = object_keys.key_to_text("veil", secret=True)
    assert "veil" not in here
    assert here == object_keys.key_to_text("veil", secret=True)
    assert here != object_keys.key_to_text("veil2", secret=True)
    assert here == object_keys.key_to_text(here, secret=True)
    settings.SECRET_KEY = "another"
    assert here != object_keys.key_to_text("veil", secret=True)


def test_a_secret_number_is_a_digest_too() -> None:
    assert object_keys.key_to_text("7", secret=True) == object_keys.key_to_text(7, secret=True)
    assert "7" != object_keys.key_to_text(7, secret=True)


def everywhere(test: Any) -> Any:
    for mark in database:
        test = mark(test)
    return test


def made(kind: str) -> models.Model:
    person = Person.objects.create(name="Ada")
    kinds: dict[str, Any] = {
        "uuid": lambda: Document(id=KEY, title="Notes"),
        "text": lambda: Word(text='odd "key"/?…ß\'', meaning="x"),
        "big": lambda: Big(id=2**63 - 1, name="x"),
        "negative": lambda: Big(id=-(2**63), name="x"),
        "composite": lambda: Enrolment(person=person, course='m,a"ths', grade="B"),
        "secret": lambda: Key(secret_key="veil-1", note="x"),
        "natural": lambda: Named(code="n/1", title="x"),
    }
    one: models.Model = kinds[kind]()
    return one


FIELD = {"Document": "title", "Word": "meaning", "Big": "name", "Enrolment": "grade", "Key": "note", "Named": "title"}


@everywhere
@pytest.mark.parametrize("kind", ["uuid", "text", "big", "negative", "composite", "secret", "natural"])
def test_an_object_is_found_again_by_its_key(kind: str) -> None:
    one = made(kind)
    field = FIELD[type(one).__name__]
    one.save(force_insert=True)
    setattr(one, field, "y")
    one.save()
    manager: Any = type(one)._default_manager
    manager.update(**{field: "z"})
    key = one.pk
    one.delete()
    signals = ["post_delete", "update", "post_save", "post_save"]
    assert signals == [event.signal for event in history(type(one), key)]
    assert "veil" not in str([(event.object_key, event.object_label, event.data) for event in history(type(one), key)])


@everywhere
@pytest.mark.skipif(connection.vendor == "postgresql", reason="PostgreSQL's own tables hold no NUL either")
def test_a_key_with_replaced_characters_is_found_by_the_key_and_by_its_stored_form() -> None:
    Word.objects.create(text="a\0b", meaning="x")
    Word.objects.filter(text="a\0b").update(meaning="y")
    for key in ("a\0b", "a\ufffdb"):
        assert ["update", "post_save"] == [event.signal for event in history(Word, key)]


@everywhere
def test_a_key_may_be_given_in_any_form_that_its_field_reads() -> None:
    from io import StringIO

    from django.core.management import call_command

    Document.objects.create(id=KEY, title="x")
    person = Person.objects.create(name="Ada")
    Enrolment.objects.create(person=person, course="7")
    lion = Restaurant.objects.create(name="Lion")
    for model, forms in (
        (Document, (KEY, str(KEY), KEY.hex, str(KEY).upper(), f"{{{KEY}}}")),
        (Enrolment, ((person.pk, "7"), (str(person.pk), 7), [person.pk, "7"])),
        (Person, (person.pk, str(person.pk))),
        (Restaurant, (lion.pk, str(lion.pk))),
    ):
        for form in forms:
            assert ["post_save"] == [event.signal for event in history(model, form)]
            assert history(model, form).as_of(timezone.now()).exists
    for label, form in (("shop.Document", KEY.hex.upper()), ("shop.Enrolment", f'["{person.pk}",7]')):
        output = StringIO()
        call_command("signalbox", "history", label, form, stdout=output)
        assert "created" in output.getvalue()


@everywhere
def test_a_key_in_another_spelling_is_recorded_as_the_field_reads_it() -> None:
    made = Document.objects.create(id="550E8400E29B41D4A716446655440000", title="a")
    made.title = "b"
    made.save()
    Document.objects.get().delete()
    assert 3 == len(list(history(Document, made.id)))
    assert {"550e8400-e29b-41d4-a716-446655440000"} == {
        e.object_key for e in get_events(Document, "post_save", "post_delete")
    }


@everywhere
def test_objects_of_a_fixture_with_natural_keys_are_found_by_their_primary_key() -> None:
    Named.objects.create(code="n/1", title="old")
    text = '[{"model": "shop.named", "fields": {"code": "n/1", "title": "new"}}]'
    [loaded] = serializers.deserialize("json", text)
    loaded.save()
    one = Named.objects.get(code="n/1")
    event = get_object_event(one)
    assert (True, False) == (event.data["args"]["raw"], event.data["args"]["created"])
    assert ["new"] == event.data["changes"]["title"]
    assert 2 == len(list(history(one)))


@everywhere
def test_an_object_without_a_key_yet_has_none() -> None:
    assert "" == object_keys.key_to_text(Tag().pk)
    assert "" == object_keys.key_to_text(Enrolment().pk)
    order = Order.objects.create(number="A-1")
    assert [str(order.pk)] == [event.object_key for event in get_events(Order, "post_save")]


def everything() -> str:
    return str([(event.object_key, event.object_label, event.data) for event in get_events()])


@everywhere
def test_a_secret_number_is_recorded_as_a_digest_by_every_operation() -> None:
    one = Ticket.objects.create(token=123456789)
    one.note = "x"
    one.save()
    Ticket.objects.bulk_create([Ticket(token=123456788)])
    Ticket.objects.update(note="z")
    Ticket.objects.bulk_update([one], ["note"])
    with override_settings(SIGNALBOX={"BULK": "rows"}):
        Ticket.objects.update(note="y")
    season = SeasonTicket.objects.create(token=123456787)
    SeasonTicket.objects.update(year=2027)
    season.delete()
    Ticket.objects.all()._raw_delete("default")
    assert "12345678" not in everything()
    signals = ["bulk_delete", "update", "bulk_update", "update", "post_save", "post_save"]
    assert signals == [event.signal for event in history(Ticket, 123456789)]


@pytest.fixture
def hidden_phrases() -> Iterator[None]:
    with override_settings(SIGNALBOX={"MODELS": {"shop.Phrase": {"redact": ["text"]}}}):
        yield


@everywhere
@pytest.mark.usefixtures("hidden_phrases")
def test_a_secret_key_is_recorded_as_a_digest_in_every_column() -> None:
    phrase = Phrase.objects.create(text="veil-1", meaning="a")
    Phrase.objects.bulk_create([Phrase(text="veil-2")])
    Phrase.objects.update(meaning="b")
    sentence = Sentence.objects.create(phrase=phrase)
    sentence.also.add(phrase, Phrase.objects.get(text="veil-2"))
    phrase.other_sentences.clear()
    Sentence.objects.update(phrase="veil-2")
    Phrase.objects.get(text="veil-2").delete()
    phrase.delete()
    assert "veil" not in everything()
    assert ["post_delete", "m2m_changed", "m2m_changed", "update", "post_save"] == [
        event.signal for event in history(Phrase, "veil-1")
    ]
    assert REDACTED == get_newest_event(Sentence, "update").data["args"]["values"]["phrase"]


def hear(**kwargs: Any) -> None:
    pass


@pytest.mark.usefixtures("hidden_phrases")
def test_a_durable_receiver_can_not_have_a_sender_with_a_secret_key() -> None:
    with pytest.raises(CannotBeDurable, match=r"the primary key of shop\.Phrase is a secret"):
        receiver(post_save, sender=Phrase, durable=True)(hear)


@pytest.mark.usefixtures("hidden_phrases")
def test_an_argument_with_a_secret_key_does_not_contain_the_key() -> None:
    assert {"phrase": {"model": "shop.Phrase", "pk": REDACTED}} == signal_arguments.encode_arguments(
        {"phrase": Phrase(text="veil-1")}
    )


class _Unprintable:
    """A key whose own text is not text."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307


def test_a_key_without_a_text_is_named_by_its_class() -> None:
    assert "<_Unprintable>" == object_keys.key_to_text(_Unprintable())
    assert '[1,"<_Unprintable>"]' == object_keys.key_to_text((1, _Unprintable()))
