"""The models of every site of the comparison: an order of ten fields with tags and lines, and its customer."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import count
from typing import Any

from django.conf import settings
from django.db import models

from benchmarks import corpus
from benchmarks.comparison.registration import register

_numbers = count(1)
_TEXT = corpus.ordinary(500)


class Customer(models.Model):
    name = models.CharField(max_length=100)
    password = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
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
    tags = models.ManyToManyField(Tag)

    def __str__(self) -> str:
        return self.number


class Line(models.Model):
    order = models.ForeignKey(Order, models.CASCADE)
    sku = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.sku


def new_order(**values: Any) -> Order:
    """Return an order that is not saved."""
    number = next(_numbers)
    defaults = {
        "customer_id": 1,
        "number": f"A-2026-{number:06}",
        "title": f"Binding of {number} volumes in green linen",
        "text": _TEXT,
        "price": Decimal(number % 10_000) / 100,
        "weight": number % 100 / 8,
        "quantity": number % 50,
        "paid": number % 2 == 0,
        "due": dt.date(2026, 6, 1) + dt.timedelta(days=number % 200),
        "placed": dt.datetime(2026, 4, 21, 8, 30, 12, 123456, dt.UTC) + dt.timedelta(seconds=number),
    }
    return Order(**defaults | values)


register(settings.PEER.name, Customer, Order, Line, relation=Order.tags)
