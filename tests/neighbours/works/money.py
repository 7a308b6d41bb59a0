"""django-money: models whose values are amounts of money in two columns."""

from __future__ import annotations

from typing import Any

from django.db import models
from djmoney.models.fields import MoneyField
from djmoney.money import Money

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Tag


class Account(models.Model):
    title = models.CharField(max_length=50, unique=True)
    balance = MoneyField(max_digits=14, decimal_places=2, default_currency="EUR")
    limit = MoneyField(max_digits=14, decimal_places=2, null=True, default_currency="EUR")
    tags = models.ManyToManyField(Tag)
    data = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.title} {self.balance}"


ACCOUNTS = common.Subject(
    model=Account,
    values=lambda text: {"title": text, "balance": Money(10, "EUR")},
    change={"balance": Money("12.50", "USD"), "limit": Money(100, "CHF")},
    relation="tags",
    related=lambda text: Tag.objects.create(name=text),
)


def work(observe: Observer) -> None:
    """Do the work with accounts, and compute in the database."""
    common.everything(observe, ACCOUNTS)
    common.requests(observe)
    account = ACCOUNTS.saved(f"Computed, {observe.how}")

    def add_by_save() -> Any:
        account.balance = models.F("balance") + Money(5, "EUR")
        account.save()
        account.refresh_from_db()
        return account

    def add_by_update() -> Any:
        return Account.objects.filter(pk=account.pk).update(balance=models.F("balance") + Money(5, "EUR"))

    def mixed() -> Any:
        account.balance += Money(5, "USD")

    observe("add by save", add_by_save)
    observe("add by update", add_by_update)
    observe("add of another currency", mixed)
    observe("filter by money", lambda: list(Account.objects.filter(balance__gt=Money(1, "EUR")).order_by("pk")))
