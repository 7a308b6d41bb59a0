"""A realistic row: ten fields with a text and a foreign key, and tags."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import count

from django.db import models

_numbers = count(1)


class Customer(models.Model):
    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Row(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE)
    number = models.CharField(max_length=20)
    title = models.CharField(max_length=200)
    text = models.TextField()
    price = models.DecimalField(max_digits=10, decimal_places=2)
    weight = models.FloatField()
    quantity = models.PositiveIntegerField()
    paid = models.BooleanField()
    due = models.DateField()
    placed = models.DateTimeField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.number


class Order(Row):
    tags = models.ManyToManyField(Tag)


class Offer(Row):
    """The same with a field whose values can change in place."""

    options = models.JSONField()


def new_order(text: str, **values: object) -> Order:
    """Return an order that isn't saved."""
    return Order(**_values(text), **values)


def new_offer(text: str) -> Offer:
    """Return an offer that isn't saved."""
    return Offer(**_values(text), options={"colour": "green", "sizes": [1, 2, 3], "gift": False})


def _values(text: str) -> dict[str, object]:
    number = next(_numbers)
    return {
        "customer_id": 1 + number % 10,
        "number": f"A-2026-{number:06}",
        "title": f"Binding of {number} volumes in green linen",
        "text": text,
        "price": Decimal(number % 10_000) / 100,
        "weight": number % 100 / 8,
        "quantity": number % 50,
        "paid": number % 2 == 0,
        "due": dt.date(2026, 6, 1) + dt.timedelta(days=number % 200),
        "placed": dt.datetime(2026, 4, 21, 8, 30, 12, 123456, dt.UTC) + dt.timedelta(seconds=number),
    }
