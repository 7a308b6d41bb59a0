from __future__ import annotations

import datetime as dt
import subprocess
import sys
from decimal import Decimal

import pytest
from django.conf import settings
from django.core import serializers
from django.db import connections, models

from tests.shop.fields import Money
from tests.shop.models import Club, Document, Enrolment, Item10, Measure, Membership, Note, Order, Person, Restaurant

pytestmark = pytest.mark.every_database


@pytest.mark.django_db(databases=["default", "other"])
def test_both_databases_are_of_the_engine_under_test_and_separate() -> None:
    Person.objects.using("other").create(name="Ada")
    assert 0 == Person.objects.count()
    assert 1 == Person.objects.using("other").count()
    modules = {type(connections[alias]).__module__ for alias in ("default", "other")}
    assert {settings.DATABASES["default"]["ENGINE"] + ".base"} == modules


@pytest.mark.django_db
def test_ten_fields_come_back_as_they_were() -> None:
    item = Item10(
        name="Käse",
        description="",
        count=-1,
        price=Decimal("9.90"),
        weight=0.5,
        active=False,
        day=dt.date(2024, 2, 29),
        moment=dt.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=dt.UTC),
        data={"a": [1, None, "ß"]},
    )
    item.save()
    fields = [field.attname for field in Item10._meta.concrete_fields]
    assert 10 == len(fields)
    loaded = Item10.objects.get()
    assert [getattr(item, name) for name in fields] == [getattr(loaded, name) for name in fields]


@pytest.mark.django_db
def test_a_value_of_a_field_of_ones_own_survives_the_table_and_the_serializer() -> None:
    Note.objects.create(text="tea", price=Money(Decimal("12.50"), "EUR"))
    note = Note.objects.get()
    assert Money(Decimal("12.50"), "EUR") == note.price
    [copy] = serializers.deserialize("json", serializers.serialize("json", [note]))
    assert isinstance(copy.object, Note)
    assert note.price == copy.object.price


@pytest.mark.django_db
def test_keys_of_every_kind_find_their_row() -> None:
    person = Person.objects.create(name="Ada")
    rows: list[models.Model] = [
        Document.objects.create(title="Notes"),
        Enrolment.objects.create(person=person, course="maths"),
        Restaurant.objects.create(name="Golden Lion", stars=3),
    ]
    assert rows == [type(row)._default_manager.get(pk=row.pk) for row in rows]


@pytest.mark.django_db
def test_the_database_computes_the_area() -> None:
    measure = Measure.objects.create(width=6, height=7)
    measure.refresh_from_db()
    assert 42 == measure.area


@pytest.mark.django_db
def test_a_club_has_members_with_a_role() -> None:
    club = Club.objects.create(name="Analysts")
    club.members.add(Person.objects.create(name="Ada"), through_defaults={"role": "chair"})
    assert "chair" == Membership.objects.get().role


@pytest.mark.django_db(transaction=True)
def test_a_process_that_a_test_starts_sees_what_the_test_committed() -> None:
    Order.objects.create(number="A-1")
    code = "import django; django.setup(); from tests.shop.models import Order; print(Order.objects.get().number)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "A-1" == child.stdout.strip()
