"""Removes secrets from the key and the label of an actor."""

from __future__ import annotations

from django.db.models import Model

from signalbox.core import actors, object_keys
from signalbox.instrumentation import model_metadata
from signalbox.serialization.configured_redactor import get_redactor


def redact_actor(key: str, label: str, user_model: type | None) -> tuple[str, str]:
    """Return the key and the label of an actor as they are stored.

    A digest replaces a key that is secret. A label loses its secrets. It is replaced as a whole if it is a field of the
    user that is not recorded.
    """
    redactor = get_redactor()
    if user_model is not None and issubclass(user_model, Model):
        metadata = model_metadata.get_metadata(user_model)
        if metadata.has_secret_pk and key:
            key = object_keys.key_to_text(key, secret=True)
        if metadata.hides(getattr(user_model, "USERNAME_FIELD", "username")):
            return key, redactor.placeholder
    if not key.isdecimal() or len(key) > _MAX_PLAIN_DIGITS:
        key = object_keys.key_to_text(key, redact=redactor.redact_data)
    return key, redactor.redact_text(label[:_MAX_LABEL])


_MAX_PLAIN_DIGITS = 10
_MAX_LABEL = 1_000
"""Characters of a label that are searched for secrets. Fewer are stored."""


def install() -> None:
    """Remove secrets from every actor from now on."""
    actors.redact_actor = redact_actor
