"""django-countries: models whose values are countries, one or several."""

from __future__ import annotations

from typing import Any

from django.db import models
from django_countries.fields import CountryField

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Tag


class Trip(models.Model):
    title = models.CharField(max_length=50, unique=True)
    country = CountryField(default="DE")
    tags = models.ManyToManyField(Tag)
    data = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.title} {self.country}"


class Tour(models.Model):
    title = models.CharField(max_length=50, unique=True)
    countries = CountryField(multiple=True, default=["DE"])

    def __str__(self) -> str:
        return self.title


TRIPS = common.Subject(
    model=Trip,
    values=lambda text: {"title": text},
    change={"country": "FR"},
    relation="tags",
    related=lambda text: Tag.objects.create(name=text),
)
TOURS = common.Subject(model=Tour, values=lambda text: {"title": text}, change={"countries": ["FR", "IT"]})


def work(observe: Observer) -> None:
    """Do the work with both models, and read the countries' names."""
    for subject in (TRIPS, TOURS):
        common.everything(observe, subject)
    common.requests(observe)
    trip, tour = TRIPS.saved(f"Named, {observe.how}"), TOURS.saved(f"Named, {observe.how}")

    def named() -> Any:
        trip.refresh_from_db()
        tour.refresh_from_db()
        return trip.country.name, trip.get_country_display(), [country.name for country in tour.countries]

    observe("names", named)
    observe("filter by a name", lambda: list(Trip.objects.filter(country__name="Germany").order_by("pk")))
