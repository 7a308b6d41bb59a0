"""django-polymorphic: objects of several classes behind one manager."""

from __future__ import annotations

from typing import Any

from django.db import models
from polymorphic.models import PolymorphicModel

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Tag


class Shape(PolymorphicModel):
    title = models.CharField(max_length=50, unique=True)
    data = models.JSONField(default=dict)
    tags = models.ManyToManyField(Tag)

    def __str__(self) -> str:
        return self.title


class Circle(Shape):
    radius = models.IntegerField(default=1)


class Square(Shape):
    side = models.IntegerField(default=1)
    inside = models.ForeignKey(Circle, models.CASCADE, null=True, related_name="squares")


def shape(model: Any, **change: Any) -> common.Subject:
    return common.Subject(
        model=model,
        values=lambda text: {"title": text, "data": {"n": [1]}},
        change={"data": {"n": [2]}, **change},
        relation="tags",
        related=lambda text: Tag.objects.create(name=text),
        bulk=model is Shape,
    )


SHAPES = [shape(Shape), shape(Circle, radius=5), shape(Square, side=5)]


def work(observe: Observer) -> None:
    """Do the work with each class, and with all of them by the manager of the first."""
    for subject in SHAPES:
        common.everything(observe, subject)
    common.requests(observe)
    circle = Circle.objects.create(title=f"Around, {observe.how}", radius=2)
    Square.objects.create(title=f"Inside, {observe.how}", inside=circle)

    def save_all() -> Any:
        for one in Shape.objects.order_by("pk"):
            one.data["seen"] = type(one).__name__
            one.save()
        return list(Shape.objects.order_by("pk"))

    def bulk_created() -> Any:
        return Circle.objects.bulk_create([Circle(title=f"Bulk, {observe.how}")])

    observe("all classes", lambda: list(Shape.objects.order_by("pk")))
    observe("save of all classes", save_all)
    observe("instance_of", lambda: list(Shape.objects.instance_of(Circle).order_by("pk")))
    observe("filter across classes", lambda: list(Shape.objects.filter(Circle___radius__gt=1).order_by("pk")))
    observe("not polymorphic", lambda: list(Shape.objects.non_polymorphic().order_by("pk")))
    observe("bulk_create of a subclass", bulk_created)
    observe("update across classes", lambda: Shape.objects.update(data={}))
    observe("cascade", circle.delete)
    observe("delete of all classes", lambda: Shape.objects.all().delete())
