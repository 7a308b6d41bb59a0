"""Names of the objects in many-to-many changes: those that were recorded, otherwise their present ones.

A change records the labels of objects that were given as instances. Others are looked up when a page is read, with one
query for each model and database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import DatabaseError, connections, transaction
from django.db.models import Model, QuerySet
from django.utils.connection import ConnectionDoesNotExist

from signalbox.core import interrupts, loggers
from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from signalbox.serialization import encoder

logger = loggers.get_logger("dashboard")

MAX_SHOWN_KEYS: Final = 3
"""Maximum number of keys of a many-to-many change in a summary. Names of others are not looked up."""

MAX_NAMES: Final = 500
"""Maximum number of objects of one model whose names are looked up for a page."""


def get_changed_keys(args: Mapping[str, Any]) -> list[Any] | None:
    """Return the keys of a many-to-many change, None if they were not recorded."""
    return next((args[part] for part in ("added", "removed", "pk_set") if isinstance(args.get(part), list)), None)


def get_recorded_names(args: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels that a many-to-many change recorded, by key as text."""
    labels = args.get("labels")
    found: dict[str, str] = {}
    for names in labels.values() if isinstance(labels, dict) else ():
        if isinstance(names, dict):
            found |= {str(key): str(label) for key, label in names.items()}
    return found


def load_current_names(events: Iterable[Event]) -> None:
    """Set ``current_names`` of many-to-many changes whose keys have no recorded label.

    Sends one query for each model and database, and none without such changes. An object that does not exist, or whose
    ``__str__`` fails or queries, has no name.
    """
    wanted: defaultdict[tuple[str, str], dict[str, list[Event]]] = defaultdict(dict)
    for event in events:
        args = event.data.get("args") if isinstance(event.data, dict) else None
        if event.signal != "m2m_changed" or not isinstance(args, dict):
            continue
        recorded, keys = get_recorded_names(args), wanted[str(args.get("model") or ""), event.database]
        for key in (get_changed_keys(args) or [])[:MAX_SHOWN_KEYS]:
            if not encoder.is_erased(key) and str(key) not in recorded and (str(key) in keys or len(keys) < MAX_NAMES):
                keys.setdefault(str(key), []).append(event)
    for (label, alias), waiting in wanted.items():
        for key, name in _find_names(label, alias, waiting).items():
            for event in waiting[key]:
                event.current_names = {**event.current_names, key: name}


def _find_names(label: str, alias: str, keys: Iterable[str]) -> dict[str, str]:
    """Return the names of objects of a model that exist, by key as text."""
    try:
        model = apps.get_model(label)
        connection = connections[alias]
    # The model or the database was removed from the project.
    except (LookupError, ValueError, ConnectionDoesNotExist, ImproperlyConfigured):
        return {}
    metadata = model_metadata.get_metadata(model)
    if not metadata.has_str or metadata.has_secret_pk or len(model._meta.pk_fields) > 1:
        return {}
    by_value = {}
    for key in keys:
        try:
            by_value[model._meta.pk.to_python(key)] = key
        except (ValidationError, TypeError, ValueError, OverflowError):  # it is a key of an earlier model
            continue
    if not by_value:
        return {}
    read = partial(_read_objects, model, alias, list(by_value))
    try:
        if connection.in_atomic_block:  # of ATOMIC_REQUESTS: an error must not abort it
            with transaction.atomic(using=alias):
                found = read()
        else:
            found = read()
    except (DatabaseError, OverflowError):  # the table or a column does not exist, or the database is not available
        logger.warning("The names of objects of %s could not be read.", label, exc_info=True)
        return {}
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("The names of objects of %s could not be read.", label)
        return {}
    names = {by_value[one.pk]: metadata.get_label(one, None) for one in found if one.pk in by_value}
    return {key: name for key, name in names.items() if name}


def _read_objects(model: type[Model], alias: str, values: list[Any]) -> list[Model]:
    return list(QuerySet(model).using(alias).filter(pk__in=values))
