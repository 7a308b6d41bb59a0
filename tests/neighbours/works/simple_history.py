"""django-simple-history: the rows of its historical models are among those that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import models
from simple_history.models import HistoricalRecords
from simple_history.utils import bulk_create_with_history, bulk_update_with_history, update_change_reason

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Author, Tag


class Article(models.Model):
    title = models.CharField(max_length=50, unique=True)
    author = models.ForeignKey(Author, models.CASCADE)
    tags = models.ManyToManyField(Tag)
    data = models.JSONField(default=dict)
    views = models.IntegerField(default=0)
    history = HistoricalRecords(m2m_fields=[tags])

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
    """Do the work with articles, and read their history."""
    common.everything(observe, ARTICLES)
    common.requests(observe)
    article = ARTICLES.saved(f"With a history, {observe.how}")
    made = [ARTICLES.made(f"Many {number}, {observe.how}") for number in range(3)]

    def revert() -> Any:
        ARTICLES.changed(article).save()
        article.history.earliest().instance.save()
        return Article.objects.get(pk=article.pk), article.history.count()

    def changed_with_history() -> Any:
        instances = [ARTICLES.changed(one) for one in ARTICLES.named(*(one.title for one in made))]
        return bulk_update_with_history(instances, Article, ["data", "views"], batch_size=2)

    def without_history() -> Any:
        article.skip_history_when_saving = True
        article.save()
        del article.skip_history_when_saving
        return article.history.count()

    observe("revert", revert)
    observe("reason", lambda: (update_change_reason(article, "A reason"), article.history.latest()))
    observe("bulk_create_with_history", lambda: bulk_create_with_history(made, Article))
    observe("bulk_update_with_history", changed_with_history)
    observe("save without history", without_history)
    observe("difference", lambda: article.history.latest().diff_against(article.history.earliest()).changed_fields)
    observe("history of the deleted", lambda: (article.delete(), Article.history.filter(title=article.title).count()))
