"""django-cacheops: which queries reach the database, what is read from Redis, and what is invalidated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cacheops import invalidate_obj
from cacheops.redis import redis_client
from cacheops.signals import cache_invalidated, cache_read
from django.conf import settings
from django.db import IntegrityError, transaction

from tests.neighbours.observing import Observer
from tests.neighbours.works import books, common
from tests.neighbours.works.models import Book, Tag

seen: list[Any] = []


def was_read(sender: Any, func: Any, hit: bool, **kwargs: Any) -> None:
    seen.append(["read", sender, bool(hit)])


def was_invalidated(sender: Any, obj_dict: Any, **kwargs: Any) -> None:
    seen.append(["invalidated", sender, obj_dict])


@contextmanager
def kept_apart() -> Iterator[None]:
    """Delete this run's keys at its end."""
    try:
        yield
    finally:
        for key in redis_client.scan_iter(f"{settings.CACHEOPS_PREFIX(None)}*"):
            redis_client.delete(key)


def work(observe: Observer) -> None:
    """Do the work with books, and read between writes."""
    cache_read.connect(was_read)
    cache_invalidated.connect(was_invalidated)
    seen.clear()
    with kept_apart():
        books.everything(observe)
        reads(observe)
    observe.keep(f"cache, {observe.how}", seen)


def reads(observe: Observer) -> None:
    """Read what is in the cache after each kind of write."""

    def names() -> list[str]:
        stored = list(Tag.objects.order_by("pk").nocache().values_list("name", flat=True))
        cached = [tag.name for tag in Tag.objects.order_by("pk")]
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

    tag = Tag.objects.create(name=f"read {observe.how}")
    observe("cache after create", names)
    observe("cache, read again", names)
    observe("cache after a create that fails", failed)
    tag.name = f"changed {observe.how}"
    observe("cache after save", lambda: (tag.save(), names()))
    observe("cache after bulk_create", lambda: (Tag.objects.bulk_create([Tag(name=f"b {observe.how}")]), names()))
    changed = Tag.objects.filter(pk=tag.pk)
    observe("cache after invalidated_update", lambda: (changed.invalidated_update(name=f"new {observe.how}"), names()))
    observe("cache after rollback", rolled_back)
    observe("cache after invalidate_obj", lambda: (invalidate_obj(tag), names()))
    book = Book.objects.create(title=f"Cached {observe.how}", author=books.author())
    observe("cache of a relation", lambda: list(book.tags.all()))
    observe("cache of a relation after add", lambda: (book.tags.add(tag), list(book.tags.all())))
    observe("cache of a relation after clear", lambda: (book.tags.clear(), list(book.tags.all())))
    observe("cache after delete", lambda: (Tag.objects.filter(pk=tag.pk).delete(), names()))
