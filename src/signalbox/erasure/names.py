"""Finds the names of a selection's actor and objects, including earlier ones, in the event log and in their tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import DatabaseError
from django.db.models import Q, QuerySet

from signalbox.erasure.roles import get_recorded_values
from signalbox.erasure.row_batches import iter_by_id
from signalbox.erasure.selection import SelectedObject, Selection
from signalbox.models import Event
from signalbox.queries.model_keys import get_sender_labels
from signalbox.serialization.encoder import ERASED
from signalbox.serialization.redaction import REDACTED


class NameFinder:
    """Finds the names of a selection in the tables of one database."""

    def __init__(self, alias: str, selection: Selection) -> None:
        self._alias = alias
        self._selection = selection
        self._events: QuerySet[Event] = QuerySet(Event, using=alias)

    def find(self) -> Selection:
        """Return the selection with the names of the actor and the objects, including earlier ones."""
        names = [*self.find_logins(), *self._find_actor_labels()] if self._selection.actor else []
        found = self._selection.with_names(names, self._find_object_labels())
        return replace(found, objects=tuple(map(self.find_target_values, found.objects)))

    def find_logins(self) -> list[str]:
        """Return the user names and email addresses of the actor, the present and the recorded ones."""
        return [*_find_current_logins(self._selection.actor), *self._find_earlier_logins()]

    def _find_earlier_logins(self) -> list[str]:
        """Return the user names and email addresses that the user's events contain."""
        try:
            model: Any = get_user_model()
            names = {model.USERNAME_FIELD, model.get_email_field_name()}
        except (ImproperlyConfigured, AttributeError):  # a user model without them
            return []
        found = self._find_recorded_values(get_sender_labels(model), self._selection.actor, names)
        return [value for values in found.values() for value in values]

    def find_target_values(self, one: SelectedObject) -> SelectedObject:
        """Return the object with its values of the fields, other than the primary key, that foreign keys refer to."""
        names = set(one.target_fields.values())
        if not names:
            return one
        found = self._find_recorded_values(one.senders, one.key, names)
        try:
            rows: QuerySet[Any] = QuerySet(apps.get_model(one.label), using=self._alias)
            for values in rows.filter(pk=one.key).values(*names):
                for name, value in values.items():
                    found[name].add(str(value))
        except (DatabaseError, ValueError, TypeError, ValidationError):  # another database has the table
            pass
        return replace(one, target_values={name: frozenset(values) for name, values in found.items()})

    def _find_recorded_values(self, senders: Iterable[str], key: str, names: set[str]) -> dict[str, set[str]]:
        """Return the texts and numbers that the events of an object contain as values of fields."""
        found: dict[str, set[str]] = {name: set() for name in names}
        own = Q(object_key=key) | Q(object_key="", signal="update")
        for event in iter_by_id(self._events.filter(own, sender__in=list(senders))):
            for name in names:
                for value in get_recorded_values(event, key, name):
                    if isinstance(value, str | int) and value not in ("", ERASED, REDACTED):
                        found[name].add(str(value))
        return found

    def _find_actor_labels(self) -> list[str]:
        rows = self._events.filter(actor_key=self._selection.actor).order_by()
        return [label for label in rows.values_list("actor_label", flat=True).distinct() if label != ERASED]

    def _find_object_labels(self) -> list[str]:
        found: list[str] = []
        for one in self._selection.objects:
            rows = self._events.filter(sender__in=one.senders, object_key=one.key).order_by()
            found += rows.values_list("object_label", flat=True).distinct()
        return [label for label in found if label and label != ERASED]


def _find_current_logins(actor: str) -> list[str]:
    """Return the names with which a user logs in, in lower case; none if the user does not exist."""
    try:
        model: Any = get_user_model()
        user: Any = QuerySet(model).filter(pk=actor).first()
    except (ImproperlyConfigured, ValueError, TypeError, ValidationError, DatabaseError):
        return []
    if user is None:
        return []
    names = (user.get_username(), getattr(user, model.get_email_field_name(), ""))
    return [str(name).casefold() for name in names if name]
