"""The person whose data is erased: an actor, and objects, with the places in which events mention them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, TypeAlias

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Model

from signalbox.instrumentation import model_metadata
from signalbox.queries.model_keys import get_sender_labels

ObjectSelector: TypeAlias = Model | str | tuple[str | type[Model], object]
"""An object: an instance, ``"shop.Customer:17"``, or the model or its label and the primary key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedObject:
    """One object whose data is erased."""

    label: str
    """Label of its model."""
    key: str
    """Its primary key as events contain it."""
    senders: frozenset[str]
    """Senders of its own events: its model, proxies, and the tables of parents and children."""
    foreign_keys: Mapping[str, frozenset[str]]
    """Label of each model that refers to it, and the names of the foreign keys."""
    throughs: frozenset[str]
    """Labels of the tables of its many-to-many relations, from both sides."""
    target_fields: Mapping[tuple[str, str], str]
    """By label and name of each foreign key to another column than the primary key: the name of its target field."""
    target_values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Values that the object has had in these target fields."""

    def __str__(self) -> str:
        return f"{self.label}:{self.key}"

    def is_key(self, recorded: Any) -> bool:
        """Return whether a recorded key is that of the object."""
        return _to_key_text(recorded) == self.key

    def get_foreign_key_values(self, sender: str, name: str) -> frozenset[str]:
        """Return the values with which a foreign key of ``sender`` refers to the object, as texts."""
        target = self.target_fields.get((sender, name))
        return frozenset((self.key,)) if target is None else self.target_values.get(target, frozenset())

    def is_foreign_key(self, sender: str, name: str, recorded: Any) -> bool:
        """Return whether a recorded value of a foreign key of ``sender`` refers to the object."""
        return _to_key_text(recorded) in self.get_foreign_key_values(sender, name)

    def is_reference(self, recorded: Any) -> bool:
        """Return whether a recorded value is an argument that was the object."""
        return (
            isinstance(recorded, dict)
            and recorded.keys() == {"model", "pk"}
            and recorded["model"] in self.senders
            and self.is_key(recorded["pk"])
        )


def _to_key_text(recorded: Any) -> str | None:
    """Return a recorded key as an object key; None if it is not a key."""
    if isinstance(recorded, dict | bool | None):
        return None
    return json.dumps(recorded, separators=(",", ":")) if isinstance(recorded, list) else str(recorded)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Whose data is erased."""

    actor: str = ""
    """The actor's key; empty if no actor is selected."""
    objects: tuple[SelectedObject, ...] = ()
    keys: bool = False
    """Whether keys are erased too."""
    logins: frozenset[str] = frozenset()
    """Names with which the actor logs in."""
    names: tuple[str, ...] = ()
    """Labels of the actor and the objects, which are replaced in texts of other events."""

    def with_names(self, logins: Iterable[str], names: Iterable[str]) -> Selection:
        """Return the selection with names that were found in the event log."""
        known = sorted({*self.names, *names, *logins} - {""}, key=lambda name: (-len(name), name))
        return replace(
            self, logins=self.logins | {name.strip().casefold() for name in logins if name}, names=tuple(known)
        )

    def build_pattern(self) -> re.Pattern[str] | None:
        """Return the pattern that finds the names as whole words, or None without names."""
        if not self.names:
            return None
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, self.names))})(?!\w)", re.IGNORECASE)


def build_selection(actor: Model | str | int | None, objects: Iterable[ObjectSelector], keys: bool) -> Selection:
    """Return the selection for the arguments of ``erase()``.

    Raises:
        TypeError: an argument has another type than documented.
        ValueError: nothing is selected, a model does not exist, or a key is not one of its model.
    """
    if isinstance(objects, str | Model) or not isinstance(objects, Iterable):
        raise TypeError(f"erase() was given objects={objects!r}; a list was expected: objects=[{objects!r}].")
    selected = {(one.label, one.key): one for one in map(_parse_object, objects)}
    selection = Selection(actor=_parse_actor(actor), objects=tuple(selected.values()), keys=keys)
    if not selection.actor and not selection.objects:
        raise ValueError(
            "Neither an actor nor an object was given. Name a person's user as actor=7 (--actor 7) and its objects as "
            'objects=["shop.Customer:17"] (--object shop.Customer:17).'
        )
    return selection


def _parse_actor(actor: Any) -> str:
    if actor is None:
        return ""
    if isinstance(actor, Model):
        actor = actor.pk
        if actor is None:
            raise ValueError("The actor is a user without a primary key. A saved user, or its key, was expected.")
    if isinstance(actor, bool | bytes | list | tuple | dict | set) or not str(actor).strip():
        raise TypeError(f"The actor {actor!r} can't be read. A user, or a user's primary key, was expected.")
    return str(actor).strip()


def _parse_object(selector: Any) -> SelectedObject:
    if isinstance(selector, Model):
        if selector.pk is None:
            raise ValueError(f"An unsaved {selector._meta.label} was given. An object with a primary key was expected.")
        return _build_object(type(selector), selector.pk)
    if isinstance(selector, str):
        label, colon, text = selector.partition(":")
        if not (colon and text):
            raise ValueError(f"The object {selector!r} can't be read. MODEL:KEY was expected, as shop.Customer:17.")
        return _build_object(_get_model(label), _read_key(_get_model(label), text))
    if isinstance(selector, tuple) and len(selector) == 2:
        model, key = selector
        model = _get_model(model) if isinstance(model, str) else model
        if isinstance(model, type) and issubclass(model, Model):
            return _build_object(model, _read_key(model, key) if isinstance(key, str) else key)
    raise TypeError(
        f"The object {selector!r} can't be read. A model instance, ('shop.Customer', 17) or 'shop.Customer:17' was "
        "expected."
    )


def _get_model(label: str) -> type[Model]:
    try:
        model: type[Model] = apps.get_model(label)
    except (LookupError, ValueError):
        known = [one._meta.label for one in apps.get_models(include_auto_created=True)]
        close = get_close_matches(label, known, n=1)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown model {label!r}. app_label.Model was expected.{suggestion}") from None
    if model._meta.swapped:
        raise ValueError(f"{model._meta.label} is not in use: {model._meta.swapped} replaces it.")
    return model


def _read_key(model: type[Model], text: str) -> Any:
    """Return a primary key for its text; the text itself if it is the digest of a secret key."""
    fields: list[Any] = list(model._meta.pk_fields)
    try:
        if len(fields) > 1:
            parts = json.loads(text)
            if not isinstance(parts, list) or len(parts) != len(fields):
                raise ValueError
            return tuple(parts)
        target = fields[0]
        while target.is_relation:
            target = target.target_field
        return target.to_python(text)
    except (TypeError, ValueError, ValidationError):
        if model_metadata.get_metadata(model).has_secret_pk:
            return text
        raise ValueError(
            f"{text!r} is not a primary key of {model._meta.label}. Its value was expected; of a composite key the "
            'JSON, as [17,"maths"].'
        ) from None


def _build_object(model: type[Model], pk: Any) -> SelectedObject:
    object_key = model_metadata.get_metadata(model).format_key(pk)
    if not object_key:
        raise ValueError(f"A {model._meta.label} with the key {pk!r} has no primary key. One was expected.")
    senders = frozenset(get_sender_labels(model))
    foreign_keys: dict[str, frozenset[str]] = {}
    target_fields: dict[tuple[str, str], str] = {}
    for other in apps.get_models(include_auto_created=True):
        fields: list[Any] = list(other._meta.concrete_fields)
        names = {one.name for one in fields if one.is_relation and one.related_model._meta.label in senders}
        if names and other._meta.label not in senders:
            foreign_keys[other._meta.label] = frozenset(names)
        elif names:  # a relation of the model to itself, but not the link of a child to its parent
            own = {one.name for one in fields if one.name in names and not one.primary_key}
            if own:
                foreign_keys[other._meta.label] = frozenset(own)
        for one in fields:
            if one.name in names and not one.target_field.primary_key:
                target_fields[other._meta.label, one.name] = one.target_field.name
    meta = model._meta
    relations = [one for one in meta.related_objects if one.many_to_many]
    throughs: list[Any] = [one.remote_field.through for one in meta.many_to_many]
    throughs += [one.through for one in relations]  # type: ignore[attr-defined]
    return SelectedObject(
        label=meta.label,
        key=object_key,
        senders=senders,
        foreign_keys=foreign_keys,
        throughs=frozenset(one._meta.label for one in throughs),
        target_fields=target_fields,
    )
