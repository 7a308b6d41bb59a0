"""The work with books, which neighbours without models of their own do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Author, Book, Chapter, Tag


def author() -> Any:
    return Author.objects.get_or_create(name="An author")[0]


def values(text: str) -> Mapping[str, Any]:
    return {"title": text, "author": author(), "data": {"pages": [1, 2], "note": None}, "price": Decimal("9.90")}


BOOKS = common.Subject(
    model=Book,
    values=values,
    change={
        "kind": Book.Kind.POEMS,
        "data": {"pages": [1, 2, 3], "deep": {"more": "text"}},
        "price": Decimal("12.50"),
        "published": dt.date(2020, 2, 29),
    },
    relation="tags",
    related=lambda text: Tag.objects.create(name=text),
)


def cascades(observe: Observer) -> None:
    """Delete what other objects point at."""
    writer = Author.objects.create(name=f"Of many books, {observe.how}")
    for number in range(3):
        book = Book.objects.create(title=f"Of many {number}, {observe.how}", author=writer)
        book.chapters.bulk_create([Chapter(book=book, title=f"{n}") for n in range(3)])
        book.tags.add(Tag.objects.get_or_create(name="Of many")[0])
    observe("cascade, some chapters", lambda: Chapter.objects.filter(book__author=writer, title="0").delete())
    observe("cascade, one book", lambda: writer.books.first().delete())
    observe("cascade, author", writer.delete)


def everything(observe: Observer) -> None:
    """Do all of the work with books, and send requests."""
    common.everything(observe, BOOKS)
    cascades(observe)
    common.requests(observe)
