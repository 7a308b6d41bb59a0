"""django-auditlog: its log entries are among the rows that are compared."""

from __future__ import annotations

from typing import Any

from auditlog.context import disable_auditlog, set_actor
from auditlog.models import LogEntry
from auditlog.registry import auditlog
from django.contrib.auth.models import User

from tests.neighbours.observing import Observer
from tests.neighbours.works import books
from tests.neighbours.works.models import Author, Book

auditlog.register(Book, m2m_fields={"tags"}, serialize_data=True)
auditlog.register(Author)


def work(observe: Observer) -> None:
    """Do the work with books, and read the entries."""
    books.everything(observe)
    user = User.objects.create(username=observe.how)

    def as_actor() -> Any:
        with set_actor(user):
            return books.BOOKS.saved(f"By an actor, {observe.how}")

    def disabled() -> Any:
        with disable_auditlog():
            return books.BOOKS.saved(f"Without an entry, {observe.how}")

    book = observe("save by an actor", as_actor)
    observe("save without an entry", disabled)
    observe("entries of an object", lambda: list(LogEntry.objects.get_for_object(book)))
    observe("changes of an object", lambda: [entry.changes_display_dict for entry in book_entries(book)])


def book_entries(book: Any) -> Any:
    return LogEntry.objects.get_for_object(book).order_by("pk")
