"""django-cachalot: which queries reach the database, what is read from the cache, and what is invalidated."""

from __future__ import annotations

from typing import Any

from cachalot.api import cachalot_disabled, invalidate
from cachalot.signals import post_invalidation
from django.db import IntegrityError, connection, transaction

from tests.neighbours.observing import Observer
from tests.neighbours.works import books, common
from tests.neighbours.works.models import Book, Tag

invalidations: list[str] = []


def invalidated(sender: Any, **kwargs: Any) -> None:
    invalidations.append(str(sender))


def work(observe: Observer) -> None:
    """Do the work with books, and read between writes."""
    post_invalidation.connect(invalidated)
    invalidations.clear()
    books.everything(observe)
    reads(observe)
    observe.keep(f"invalidated tables, {observe.how}", sorted(set(invalidations)))


def reads(observe: Observer) -> None:
    """Read what is in the cache after each kind of write."""

    def names() -> list[str]:
        with cachalot_disabled():
            stored = list(Tag.objects.order_by("pk").values_list("name", flat=True))
        cached = list(Tag.objects.order_by("pk").values_list("name", flat=True))
        return cached if cached == stored else [f"The cache has {cached}, the database {stored}."]

    def rolled_back() -> Any:
        try:
            with transaction.atomic():
                Tag.objects.create(name=f"rolled back {observe.how}")
                inside = names()
                raise common.Undone
        except common.Undone:
            return inside, names()

    def failed() -> Any:
        try:
            Tag.objects.create(name=f"read {observe.how}")
        except IntegrityError as error:
            return error, names()

    def by_hand() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE works_tag SET name = %s WHERE id = %s", [f"raw {observe.how}", tag.pk])
        return names()

    tag = Tag.objects.create(name=f"read {observe.how}")
    observe("cache after create", names)
    observe("cache, read again", names)
    observe("cache after a create that fails", failed)
    tag.name = f"changed {observe.how}"
    observe("cache after save", lambda: (tag.save(), names()))
    observe("cache after update", lambda: (Tag.objects.filter(pk=tag.pk).update(name=f"new {observe.how}"), names()))
    observe("cache after a raw update", by_hand)
    observe("cache after bulk_create", lambda: (Tag.objects.bulk_create([Tag(name=f"b {observe.how}")]), names()))
    observe("cache after rollback", rolled_back)
    observe("cache after invalidate", lambda: (invalidate(Tag), names()))
    book = Book.objects.create(title=f"Cached {observe.how}", author=books.author())
    observe("cache of a relation", lambda: list(book.tags.all()))
    observe("cache of a relation after add", lambda: (book.tags.add(tag), list(book.tags.all())))
    observe("cache of a relation after clear", lambda: (book.tags.clear(), list(book.tags.all())))
    observe("cache after delete", lambda: (Tag.objects.filter(pk=tag.pk).delete(), names()))
