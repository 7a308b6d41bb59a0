"""Checks that the history of a row restores its values: equal in SQL, for any field and any values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db import connection, models
from django.utils import timezone

import signalbox
from signalbox.core.event import UNKNOWN
from signalbox.serialization import field_values
from signalbox.serialization.configured_redactor import get_redactor
from tests.events import get_newest_event


@contextmanager
def table(
    *fields: models.Field[Any, Any],
    targets: tuple[type[models.Model], ...] = (),
    model: type[models.Model] | None = None,
) -> Iterator[type[models.Model]]:
    """Create the table of ``model`` while the block runs, after those of ``targets``.

    Without a model it is one ``shop.Kept`` with the fields ``value``, ``value2``, …
    """
    if model is None:
        names = ["value", *(f"value{number}" for number in range(2, len(fields) + 1))]
        attributes = dict(zip(names, fields, strict=True))
        meta = type("Meta", (), {"app_label": "shop"})
        model = type("Kept", (models.Model,), {"__module__": __name__, "Meta": meta, **attributes})
    every = (*targets, model)
    try:
        with connection.schema_editor() as editor:
            for one in every:
                editor.create_model(one)
        try:
            yield model
        finally:
            with connection.schema_editor() as editor:
                for one in reversed(every):
                    editor.delete_model(one)
    finally:
        for one in every:
            apps.all_models["shop"].pop(one._meta.model_name or "", None)
        apps.clear_cache()


def get_columns(model: type[models.Model], pk: Any) -> list[Any]:
    """Return what the database holds in the row's columns but the key, as its driver gives it."""
    columns = [
        connection.ops.quote_name(str(field.column)) for field in model._meta.concrete_fields if not field.primary_key
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(columns)} FROM {connection.ops.quote_name(model._meta.db_table)} WHERE id = %s", [pk]
        )
        return [bytes(value) if isinstance(value, memoryview) else value for value in cursor.fetchone() or ()]


def check_restored(model: type[models.Model], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Create a row, change and delete it, and assert that the history restores what the columns held."""
    row = model._base_manager.create(**first)
    created, before = timezone.now(), get_columns(model, row.pk)
    row = model._base_manager.get(pk=row.pk)  # as a request does, which reads the row that it changes
    for name, value in second.items():
        setattr(row, name, value)
    row.save()
    after = get_columns(model, row.pk)
    history = signalbox.history(row)
    update = get_newest_event(model, "post_save", object_key=history.key)
    assert (before != after) <= bool(update.data["changes"]), "a change was not recorded"
    _check_as_of(history, created, before)
    if update.data["changes"]:
        signalbox.revert(update)
        assert before == get_columns(model, row.pk), f"reverted {update.data['changes']}"
    pk, kept = row.pk, get_columns(model, row.pk)
    model._base_manager.get(pk=pk).delete()
    signalbox.revert(get_newest_event(model, "post_delete", object_key=history.key))
    assert kept == get_columns(model, pk), "the deleted row is another one"


def _check_as_of(history: Any, when: dt.datetime, expected: list[Any]) -> None:
    """Write the values of an earlier time into a copy of the row, and assert that its columns are the same."""
    state = history.as_of(when)
    model = history.model
    values = {}
    for field in model._meta.concrete_fields:
        recorded = state[field.name]
        assert recorded is not UNKNOWN, f"{field.name} is not known"
        if not field.primary_key:
            reader = field_values.build_recorder(field, get_redactor())
            values[field.attname] = None if recorded is None else reader.read(recorded)
    copy = model._base_manager.create(**values)
    assert expected == get_columns(model, copy.pk), f"as_of() gives {dict(state)}"
    copy.delete()
