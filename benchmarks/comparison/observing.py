"""Does each operation once, and reads from the tables what the package has stored of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client

from benchmarks.comparison.crashes import count_crashes
from benchmarks.comparison.models import Customer, Line, Order, Tag, new_order
from benchmarks.comparison.records import CONTEXT_TABLES, Records

OLD, NEW = "Old-binding", "New-binding"
"""Beginnings of values that are in no other row."""
SECRET = "Clear-text-of-a-password"
ACTOR = 734_501
"""A primary key whose digits are in no other value."""

Observation = dict[str, Any]


class Observer:
    """Counts the records of an operation, and searches them for keys and values."""

    def __init__(self) -> None:
        self._records = Records()

    def observe(self, work: Callable[[], object], keys: Sequence[int] = (), *, shared: str = "") -> Observation:
        """Return what was stored of ``work``, which concerns the objects with ``keys``.

        ``rows`` is the number of records, ``keys`` how many of the keys they contain, ``old`` and ``new`` how many
        objects' values. With ``shared``, all objects have the same value, which ends with that text.
        """
        before = self._records.read()
        work()
        stored = self._records.read() - before
        texts = [text for _, text in stored]
        return {
            "rows": sum(table not in CONTEXT_TABLES for table, _ in stored),
            "keys": _count(texts, map(str, keys)),
            "of": len(keys),
            "old": _count(texts, (f"{OLD}-{shared or key}" for key in keys)),
            "new": _count(texts, (f"{NEW}-{shared or key}" for key in keys)),
            "rolled_back": sum("rolled_back" in text for text in texts),
            "actor": any(str(ACTOR) in text for text in texts),
            "secret": any(SECRET in text for text in texts),
        }


def _count(texts: Sequence[str], wanted: Iterator[str]) -> int:
    return sum(any(word in text for text in texts) for word in wanted)


def _order(key: int, word: str = NEW) -> Order:
    return new_order(pk=key, title=f"{word}-{key}")


def _saved(key: int) -> Order:
    """Return an order that is saved, and loaded from the database."""
    _order(key, OLD).save()
    return Order.objects.get(pk=key)


def _change(order: Order) -> None:
    order.title = f"{NEW}-{order.pk}"
    order.save()


def _roll_back(work: Callable[[], object]) -> None:
    with transaction.atomic():
        work()
        transaction.set_rollback(True)


def observe_all() -> dict[str, Observation]:
    """Return what was stored of each operation, by its name."""
    observe = Observer().observe
    found = {"create": observe(lambda: _order(610_001).save(), [610_001])}
    order = _saved(610_002)
    found["change"] = observe(lambda: _change(order), [610_002])
    found["unchanged"] = observe(Order.objects.get(pk=610_002).save, [610_002])

    many = list(range(620_001, 620_101))
    found["bulk_create"] = observe(lambda: Order.objects.bulk_create(map(_order, many)), many)
    orders = Order.objects.filter(pk__in=many)
    orders.update(title=f"{OLD}-many")
    found["update"] = observe(lambda: orders.update(title=f"{NEW}-many"), many, shared="many")

    order = _saved(630_001)
    lines = list(range(630_002, 630_012))
    for key in lines:
        Line.objects.create(pk=key, order=order, sku=f"{OLD}-{key}")
    found["delete"] = observe(order.delete, [630_001, *lines])

    order = _saved(640_001)
    tags = [Tag.objects.create(pk=key, name=f"{NEW}-{key}").pk for key in range(640_002, 640_012)]
    found["add_tags"] = observe(lambda: order.tags.add(*tags), tags)

    order = _saved(650_001)
    found["rollback"] = observe(lambda: _roll_back(lambda: _change(order)), [650_001])
    found["after_rollback"] = observe(order.save, [650_001])

    customer = Customer(name="A customer", password=SECRET)
    found["secret"] = observe(customer.save)
    client = Client(raise_request_exception=True)
    client.force_login(get_user_model().objects.create_user("actor", pk=ACTOR))
    found["actor"] = observe(lambda: client.post("/save-for-user/"))
    found["unread_actor"] = observe(lambda: client.post("/save/"))
    found["crash"] = count_crashes(lambda key: _order(key).save(), range(660_001, 661_000))
    found["crash_in_transaction"] = count_crashes(_save_in_transaction, range(670_001, 671_000))
    return found


def _save_in_transaction(key: int) -> None:
    with transaction.atomic():
        _order(key).save()
