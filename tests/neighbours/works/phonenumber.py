"""django-phonenumber-field: models whose values are phone numbers."""

from __future__ import annotations

from typing import Any

from django.db import models
from phonenumber_field.modelfields import PhoneNumberField
from phonenumber_field.phonenumber import PhoneNumber

from tests.neighbours.observing import Observer
from tests.neighbours.works import common
from tests.neighbours.works.models import Tag


class Contact(models.Model):
    title = models.CharField(max_length=50, unique=True)
    phone = PhoneNumberField(region="DE")
    mobile = PhoneNumberField(null=True, blank=True)
    tags = models.ManyToManyField(Tag)
    data = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.title} {self.phone}"


CONTACTS = common.Subject(
    model=Contact,
    values=lambda text: {"title": text, "phone": "030 901820"},
    change={"phone": PhoneNumber.from_string("+41446681800"), "mobile": "+493012345678"},
    relation="tags",
    related=lambda text: Tag.objects.create(name=text),
)


def work(observe: Observer) -> None:
    """Do the work with contacts, and save numbers that are none."""
    common.everything(observe, CONTACTS)
    common.requests(observe)
    wrong = Contact(title=f"Wrong, {observe.how}", phone="not a number")

    def compare() -> Any:
        found = CONTACTS.get(wrong.title)
        return found.phone, found.phone.is_valid(), found.phone == wrong.phone, found.mobile

    observe("wrong number", wrong.save)
    observe("wrong number, read", compare)
    observe("find by a number", lambda: list(Contact.objects.filter(phone="+41446681800").order_by("pk")))
