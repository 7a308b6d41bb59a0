"""django-model-utils: models that use its fields, base classes, managers and tracker."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from django.db import models
from model_utils import Choices, FieldTracker
from model_utils.fields import MonitorField, SplitField, StatusField, UrlsafeTokenField
from model_utils.managers import InheritanceManager
from model_utils.models import SoftDeletableModel, StatusModel, TimeStampedModel

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Tag

numbers = itertools.count()


class Document(TimeStampedModel, StatusModel):
    STATUS = Choices(("draft", "Draft"), ("published", "Published"))
    KINDS = Choices("letter", "report")

    title = models.CharField(max_length=50, unique=True)
    body = SplitField(default="")
    kind = StatusField(choices_name="KINDS")
    token = UrlsafeTokenField(max_length=32, factory=lambda length: f"token {next(numbers)}")
    published_at = MonitorField(monitor="status", when=["published"], null=True, default=None)
    data = models.JSONField(default=dict)
    tags = models.ManyToManyField(Tag)
    tracker = FieldTracker(fields=["title", "status", "kind", "data"])

    def __str__(self) -> str:
        return self.title


class Place(models.Model):
    title = models.CharField(max_length=50, unique=True)
    objects = InheritanceManager()

    def __str__(self) -> str:
        return self.title


class Restaurant(Place):
    stars = models.IntegerField(default=0)
    data = models.JSONField(default=dict)
    tracker = FieldTracker(fields=["stars"])


class Note(SoftDeletableModel):
    title = models.CharField(max_length=50, unique=True)
    pages = models.IntegerField(default=0)
    objects: Any = models.Manager()

    def __str__(self) -> str:
        return self.title


def document(text: str) -> Mapping[str, Any]:
    return {"title": text, "body": f"An excerpt.\n\n<!-- split -->\n\nThe rest of {text}.", "data": {"n": [1]}}


DOCUMENTS = common.Subject(
    model=Document,
    values=document,
    change={"status": "published", "kind": "report", "data": {"n": [2]}},
    relation="tags",
    related=lambda text: Tag.objects.create(name=text),
)
RESTAURANTS = common.Subject(
    model=Restaurant,
    values=lambda text: {"title": text, "data": {"n": [1]}},
    change={"stars": 3, "data": {"n": [2]}},
    bulk=False,
)
NOTES = common.Subject(model=Note, values=lambda text: {"title": text}, change={"pages": 3})


def work(observe: Observer) -> None:
    """Do the work with each model, and ask the tracker and the managers."""
    for subject in (DOCUMENTS, RESTAURANTS, NOTES):
        common.everything(observe, subject)
    common.requests(observe)
    one = DOCUMENTS.saved(f"Tracked, {observe.how}")
    restaurant = RESTAURANTS.saved(f"Tracked, {observe.how}")

    def tracked(instance: Any, name: str, value: Any) -> Any:
        before = instance.tracker.changed(), instance.tracker.has_changed(name)
        setattr(instance, name, value)
        unsaved = instance.tracker.changed(), instance.tracker.previous(name)
        instance.save(update_fields=[name])
        return before, unsaved, instance.tracker.changed()

    def tracked_in_place() -> Any:
        found = Document.objects.get(pk=one.pk)
        found.data["n"].append(3)
        before = found.tracker.changed()
        found.save()
        found.refresh_from_db()
        return before, found.tracker.changed(), found.tracker.saved_data

    observe("tracker", lambda: tracked(one, "kind", "report"))
    observe("tracker of a subclass", lambda: tracked(restaurant, "stars", 2))
    observe("tracker of a changed list", tracked_in_place)
    observe("excerpt", lambda: (one.body.excerpt, one.body.content, one.body.has_more))
    observe("statuses", lambda: (Document.draft.count(), Document.published.count()))
    observe("subclasses", lambda: list(Place.objects.select_subclasses().order_by("pk")))
    observe("update of subclasses", lambda: Place.objects.select_subclasses().update(title=models.F("title")))
    note = NOTES.saved(f"Soft, {observe.how}")
    observe("soft delete", lambda: (note.delete(), note.is_removed, Note.objects.filter(pk=note.pk).count()))
    observe("hard delete", lambda: note.delete(soft=False))
    observe("soft delete of many", lambda: (Note.available_objects.all().delete(), Note.available_objects.count()))
