"""factory_boy: objects that its factories make, with relations, and without signals."""

from __future__ import annotations

from typing import Any

import factory
from django.db.models import signals
from factory.django import DjangoModelFactory, mute_signals

from tests.neighbours.observing import Observer
from tests.neighbours.works import books
from tests.neighbours.works.models import Author, Book, Chapter, Tag


class AuthorFactory(DjangoModelFactory):
    class Meta:
        model = Author
        django_get_or_create = ("name",)

    name = factory.Sequence(lambda n: f"Author {n}")


class ChapterFactory(DjangoModelFactory):
    class Meta:
        model = Chapter

    title = factory.Sequence(lambda n: f"Chapter {n}")


class BookFactory(DjangoModelFactory):
    class Meta:
        model = Book
        skip_postgeneration_save = True

    title = factory.Sequence(lambda n: f"Book {n}")
    author = factory.SubFactory(AuthorFactory)
    chapter = factory.RelatedFactory(ChapterFactory, factory_related_name="book")

    @factory.post_generation
    def tags(self, create: bool, extracted: Any, **kwargs: Any) -> None:
        if create and extracted:
            self.tags.add(*extracted)


@mute_signals(signals.pre_save, signals.post_save)
class SilentFactory(DjangoModelFactory):
    class Meta:
        model = Book

    title = factory.Sequence(lambda n: f"Silent book {n}")
    author = factory.SubFactory(AuthorFactory)


def work(observe: Observer) -> None:
    """Do the work with books, and make objects by factories."""
    books.everything(observe)
    tag = Tag.objects.get_or_create(name="Of factories")[0]

    def muted() -> Any:
        with mute_signals(signals.pre_save, signals.post_save, signals.post_delete):
            book = BookFactory()
            book.save()
            inside = signals.post_save.receivers == []
            book.delete()
        return inside, len(signals.post_save.receivers) > 0, BookFactory()

    def build() -> Any:
        book = BookFactory.build(author=AuthorFactory(), chapter=None)
        return book._state.adding, (book.save(), book)

    observe("create", BookFactory)
    observe("create with tags", lambda: list(BookFactory(tags=[tag]).tags.all()))
    observe("create of many", lambda: BookFactory.create_batch(3))
    observe("create of one that exists", lambda: AuthorFactory(name="Author 0"))
    observe("create that fails", lambda: BookFactory(title=Book.objects.latest("pk").title))
    observe("build", build)
    observe("without signals", muted)
    observe("factory without signals", SilentFactory)
    observe("after it", BookFactory)
