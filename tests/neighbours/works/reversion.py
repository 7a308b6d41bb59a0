"""django-reversion: its revisions and versions are among the rows that are compared."""

from __future__ import annotations

from typing import Any

import reversion
from django.db import transaction
from reversion.models import Version

from tests.neighbours.observing import Observer
from tests.neighbours.works import books, common
from tests.neighbours.works.models import Book, Chapter

reversion.register(Chapter)
reversion.register(Book, follow=["chapters"])


def work(observe: Observer) -> None:
    """Do the work with books, outside of revisions and within."""
    books.everything(observe)
    title = f"Revised, {observe.how}"

    def created() -> Any:
        with reversion.create_revision():
            reversion.set_comment("The first")
            book = books.BOOKS.saved(title)
            Chapter.objects.create(book=book, title="One")
            return book

    def changed() -> Any:
        with reversion.create_revision():
            reversion.set_comment("The second")
            book = books.BOOKS.changed(books.BOOKS.get(title))
            book.save()
            book.chapters.all().delete()
            reversion.add_to_revision(book)

    def failed() -> Any:
        with reversion.create_revision():
            books.BOOKS.saved(f"Never, {observe.how}")
            raise common.Undone

    def rolled_back() -> Any:
        with transaction.atomic():
            with reversion.create_revision(atomic=True):
                books.BOOKS.changed(books.BOOKS.get(title)).save()
            transaction.set_rollback(True)
        return Version.objects.get_for_object(books.BOOKS.get(title)).count()

    def reverted() -> Any:
        book = books.BOOKS.get(title)
        Version.objects.get_for_object(book).last().revision.revert()
        return Book.objects.get(pk=book.pk), list(book.chapters.all())

    def everything_in_a_revision() -> None:
        with reversion.create_revision():
            books.author()
            Book.objects.bulk_create([books.BOOKS.made(f"Bulk {n}, {observe.how}") for n in range(3)])
            books.BOOKS.named(f"Bulk 1, {observe.how}").update(title=f"Bulk 4, {observe.how}")
            books.BOOKS.get(f"Bulk 0, {observe.how}").delete()

    observe("revision", created)
    observe("second revision", changed)
    observe("revision that fails", failed)
    observe("revision that is rolled back", rolled_back)
    observe("revert", reverted)
    observe("bulk work in a revision", everything_in_a_revision)
    observe("versions", lambda: [(v.object_repr, v.field_dict) for v in Version.objects.order_by("pk")])
