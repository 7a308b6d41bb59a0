"""Models as a site has them, for neighbours that bring none of their own; a neighbour's work adds its models."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.db import models


class Author(models.Model):
    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name


class Book(models.Model):
    class Kind(models.TextChoices):
        NOVEL = "novel"
        POEMS = "poems"

    title = models.CharField(max_length=50, unique=True)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.NOVEL)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    tags = models.ManyToManyField(Tag, related_name="books")
    data = models.JSONField(default=dict)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    published = models.DateField(null=True)

    def __str__(self) -> str:
        return self.title


class Chapter(models.Model):
    book = models.ForeignKey(Book, models.CASCADE, related_name="chapters")
    title = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.title


import_module(settings.WORK)
