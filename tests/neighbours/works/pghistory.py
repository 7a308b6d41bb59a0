"""django-pghistory: the rows that its triggers write, and their context, are among those that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pghistory
import pgtrigger
from django.db import models

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Author, Tag


@pghistory.track()
class Article(models.Model):
    title = models.CharField(max_length=50, unique=True)
    author = models.ForeignKey(Author, models.CASCADE)
    tags = models.ManyToManyField(Tag)
    data = models.JSONField(default=dict)
    views = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.title


class Protected(models.Model):
    title = models.CharField(max_length=50, unique=True)

    class Meta:
        triggers = [
            pgtrigger.Protect(name="protect_deletes", operation=pgtrigger.Delete),
            pgtrigger.ReadOnly(name="read_only", fields=["title"]),
        ]

    def __str__(self) -> str:
        return self.title


def values(text: str) -> Mapping[str, Any]:
    return {"title": text, "author": Author.objects.get_or_create(name="An author")[0], "data": {"n": [1]}}


ARTICLES = common.Subject(
    model=Article,
    values=values,
    change={"data": {"n": [1, 2], "more": None}, "views": 7},
    relation="tags",
    related=lambda text: Tag.objects.create(name=text),
)


def work(observe: Observer) -> None:
    """Do the work with articles, outside of a context and within."""
    common.everything(observe, ARTICLES)
    common.requests(observe)

    def in_context() -> Any:
        with pghistory.context(reason="A reason", how=observe.how):
            article = ARTICLES.saved(f"In a context, {observe.how}")
            ARTICLES.changed(article).save()
            ARTICLES.named(article.title).update(views=9)
            Article.objects.bulk_create([ARTICLES.made(f"In a context {n}, {observe.how}") for n in range(3)])
            article.tags.add(Tag.objects.get_or_create(name="A tag")[0])
            ARTICLES.named(f"In a context 1, {observe.how}").delete()
            article.delete()

    def failed_in_context() -> Any:
        with pghistory.context(reason="A failure"):
            return ARTICLES.saved(f"In a context 0, {observe.how}")

    protected = Protected.objects.create(title=observe.how)
    observe("context", in_context)
    observe("create that fails in a context", failed_in_context)
    observe("delete that a trigger refuses", protected.delete)
    observe("queryset's delete that a trigger refuses", lambda: Protected.objects.all().delete())
    observe("update that a trigger refuses", lambda: Protected.objects.update(title="other"))
    protected.title = "other"
    observe("save that a trigger refuses", protected.save)
    events = Article.pgh_event_model.objects.order_by("pk")
    observe("events", lambda: list(events.values_list("pgh_label", "title", "views", "pgh_context__metadata")))
