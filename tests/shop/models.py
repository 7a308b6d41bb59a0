"""A shop, with one model for each way in which a Django model can be odd."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

from tests.shop.fields import MoneyField, VectorField


class Customer(models.Model):
    name = models.CharField(max_length=100)
    email = models.EmailField(blank=True)
    api_token = models.CharField(max_length=100, blank=True)

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    class Status(models.TextChoices):
        OPEN = "open", "Open"
        PAID = "paid", "Paid"
        SENT = "sent", "Sent"

    customer = models.ForeignKey(Customer, models.SET_NULL, null=True, blank=True, related_name="orders")
    number = models.CharField(max_length=20)
    status = models.CharField(max_length=10, choices=Status, default=Status.OPEN)
    total = models.DecimalField(max_digits=12, decimal_places=2, default=Decimal(0))
    note = models.TextField(blank=True)
    meta = models.JSONField(default=dict, blank=True)
    placed = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)
    tags = models.ManyToManyField(Tag, blank=True, related_name="orders")

    def __str__(self) -> str:
        return f"Order {self.number}"


class OrderLine(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    sku = models.CharField(max_length=40)
    quantity = models.PositiveIntegerField(default=1)
    price = models.DecimalField(max_digits=10, decimal_places=2, default=Decimal(0))


class ExpressOrder(Order):
    """A proxy: another class, the same table."""

    class Meta:
        proxy = True


class Item10(models.Model):
    """Ten concrete fields, for measuring."""

    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    count = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=10, decimal_places=2, default=Decimal(0))
    weight = models.FloatField(default=0.0)
    active = models.BooleanField(default=True)
    day = models.DateField(null=True, blank=True)
    moment = models.DateTimeField(null=True, blank=True)
    data = models.JSONField(default=dict, blank=True)


class Uniq(models.Model):
    k = models.CharField(max_length=50, unique=True)


class Hold(models.Model):
    """Its foreign key is checked by the database, not by Django's collector."""

    uniq = models.ForeignKey(Uniq, models.DO_NOTHING)


class Ref(models.Model):
    """Where constraints are deferrable, a reference to an order that isn't there fails at COMMIT."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="refs")


class Tagged(models.Model):
    """A word about any object."""

    # An app without migrations can't hold to the table of one that has them.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_key = models.PositiveBigIntegerField()
    about = GenericForeignKey("content_type", "object_key")
    word = models.CharField(max_length=20)


class Place(models.Model):
    name = models.CharField(max_length=50)
    labels = GenericRelation(Tagged, object_id_field="object_key")


class Restaurant(Place):
    """Multi-table inheritance: one save writes two rows."""

    stars = models.PositiveSmallIntegerField(default=0)


class Document(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    title = models.CharField(max_length=100)


class Word(models.Model):
    text = models.CharField(max_length=50, primary_key=True)
    meaning = models.TextField(blank=True)


class Phrase(models.Model):
    text = models.CharField(max_length=50, primary_key=True)
    meaning = models.TextField(blank=True)


class Sentence(models.Model):
    phrase = models.ForeignKey(Phrase, models.CASCADE, related_name="sentences")
    also = models.ManyToManyField(Phrase, related_name="other_sentences")


class Ticket(models.Model):
    """Its number is let in."""

    token = models.BigIntegerField(primary_key=True)
    note = models.CharField(max_length=20, blank=True)


class SeasonTicket(Ticket):
    """Its key is a foreign key that holds a secret."""

    year = models.IntegerField(default=2026)


class Big(models.Model):
    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50, blank=True)


class Person(models.Model):
    name = models.CharField(max_length=50)


class Club(models.Model):
    name = models.CharField(max_length=50)
    members = models.ManyToManyField(Person, through="Membership", related_name="clubs")


class Membership(models.Model):
    person = models.ForeignKey(Person, models.CASCADE)
    club = models.ForeignKey(Club, models.CASCADE)
    role = models.CharField(max_length=20, default="member")


class Coded(models.Model):
    code = models.CharField(max_length=20, unique=True)


class Holder(models.Model):
    """Its relation's rows hold codes, not primary keys."""

    code = models.CharField(max_length=20, unique=True)
    coded = models.ManyToManyField(Coded, through="Holding", related_name="holders")


class Holding(models.Model):
    holder = models.ForeignKey(Holder, models.CASCADE, to_field="code")
    coded = models.ForeignKey(Coded, models.CASCADE, to_field="code")


class Enrolment(models.Model):
    """A primary key of two columns."""

    pk = models.CompositePrimaryKey("person_id", "course")
    person = models.ForeignKey(Person, models.CASCADE)
    course = models.CharField(max_length=20)
    grade = models.CharField(max_length=2, blank=True)


class Friend(models.Model):
    name = models.CharField(max_length=50)
    friends = models.ManyToManyField("self", blank=True)


class Measure(models.Model):
    """The database computes the area."""

    width = models.IntegerField()
    height = models.IntegerField()
    area = models.GeneratedField(
        expression=models.F("width") * models.F("height"), output_field=models.IntegerField(), db_persist=True
    )


class Attachment(models.Model):
    name = models.CharField(max_length=50, blank=True)
    file = models.FileField(upload_to="attachments/")


class Note(models.Model):
    text = models.CharField(max_length=100, blank=True)
    price = MoneyField()


class Embedding(models.Model):
    vector: Any = VectorField()
    word = models.CharField(max_length=50, blank=True)


class Key(models.Model):
    """Its primary key is a secret."""

    secret_key = models.CharField(max_length=40, primary_key=True)
    note = models.CharField(max_length=20, blank=True)
    orders = models.ManyToManyField(Order, related_name="keys")


class NamedManager(models.Manager["Named"]):
    def get_by_natural_key(self, code: str) -> Named:
        return self.get(code=code)


class Named(models.Model):
    """Fixtures know it by its code."""

    code = models.CharField(max_length=20, unique=True)
    title = models.CharField(max_length=20)

    objects = NamedManager()

    def natural_key(self) -> tuple[str]:
        return (self.code,)


class UnarchivedManager(models.Manager["Paper"]):
    def get_queryset(self) -> models.QuerySet[Paper]:
        return super().get_queryset().filter(archived=False)


class Paper(models.Model):
    """Even its base manager hides what was put away."""

    title = models.CharField(max_length=20)
    archived = models.BooleanField(default=False)

    objects = UnarchivedManager()
    all_objects = models.Manager["Paper"]()

    class Meta:
        base_manager_name = "objects"
