"""Finds secrets that Django names: in fields of models and in the URL pattern of a request."""

from __future__ import annotations

from typing import Any

from django.db import models

from signalbox.serialization.encoder.introspection import get_instance_dict
from signalbox.serialization.encoder.protocol import RedactorProtocol
from signalbox.serialization.encrypted_fields import is_encrypted_field


def has_secret_pk(model: type[models.Model], redactor: RedactorProtocol) -> bool:
    """Return whether a model's primary key, or a part of it, is a secret (see `is_secret_field`)."""
    meta = model._meta
    return any(is_secret_field(field, model, redactor) for field in getattr(meta, "pk_fields", (meta.pk,)))


def is_secret_field(field: Any, model: type[models.Model], redactor: RedactorProtocol) -> bool:
    """Return whether the values of a field are secret.

    They are if the name of the field is secret, if the settings say so, or if a package encrypts the field. The text
    that is the primary key of a model with a secret name, as of `Token`, is secret, as is a foreign key to a secret
    field.
    """
    seen: list[Any] = []
    while field not in seen:
        labels = {one._meta.label_lower for one in (model, field.model, model._meta.concrete_model or model)}
        if redactor.is_secret(field.name) or any(redactor.is_configured_field(label, field.name) for label in labels):
            return True
        if is_encrypted_field(field) and not any(redactor.is_clear_field(label, field.name) for label in labels):
            return True
        if field.primary_key and isinstance(field, models.CharField | models.TextField):
            return redactor.is_secret(f"{model._meta.object_name}_{field.name}")
        if not field.is_relation or not isinstance(field.related_model, type):
            return False
        seen.append(field)
        model, field = field.related_model, field.target_field
    return False


def redact_request_path(path: str, request: Any, *, redactor: RedactorProtocol) -> str:
    """Return a request's path without the parts that have a secret name in its URL pattern: `activate/<str:token>/`.

    If a converter has changed such a part so that the path does not contain it, the pattern is returned.
    """
    match = get_instance_dict(request).get("resolver_match")
    if match is None:
        return path
    for name, value in match.kwargs.items():
        if redactor.is_secret(name) and (text := str(value)):
            if text not in path:
                return f"/{match.route}"
            path = path.replace(text, redactor.placeholder)
    return path
