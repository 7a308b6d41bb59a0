"""Encodes a send: the label of its sender, its object, and its arguments with a limited size and without secrets."""

from __future__ import annotations

import sys
from types import NoneType
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.db.models import Model

from signalbox.core.text import fit_column
from signalbox.instrumentation import model_metadata
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.redaction import redact_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from signalbox.core.event import PendingEvent

MAX_KEYS_PER_EVENT = 1000
"""Keys of a many-to-many change in one event. A larger change has several events."""


def get_sender_label(sender: Any) -> str:
    """Return the label of a model, the dotted name of a class, the name of an app, or a string itself."""
    if sender is None or sender is NoneType:  # user_logged_out of an anonymous user has NoneType as its sender
        return ""
    if isinstance(sender, type):
        meta = getattr(sender, "_meta", None)
        label = getattr(meta, "label", None)
        return fit_column(label if isinstance(label, str) else f"{sender.__module__}.{sender.__qualname__}", 200)
    if isinstance(sender, AppConfig):
        return fit_column(sender.name, 200)
    if isinstance(sender, str):
        return fit_column(get_redactor().redact_text(sender[:1000]), 200)
    return fit_column(f"{type(sender).__module__}.{type(sender).__qualname__}", 200)


def get_sender_model(sender: Any) -> type[Model] | None:
    """Return ``sender`` if it is a model class, otherwise None."""
    return sender if isinstance(sender, type) and issubclass(sender, Model) else None


def set_object_if_model(event: PendingEvent, instance: Any) -> None:
    """Set the event's object to ``instance`` if it is a model instance."""
    if isinstance(instance, Model):
        metadata = model_metadata.get_metadata(instance.__class__)
        event.key = metadata.get_key(instance)
        event.label = metadata.get_label(instance, None) if metadata.has_str else ""


def encode_arguments(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a send as JSON data, with a limited size and without secrets."""
    redactor = get_redactor()
    return {
        name: special(value)
        if (special := ARGUMENT_ENCODERS.get(name)) is not None
        else redactor.placeholder
        if redactor.should_redact(name, value)
        else encoder.encode(value, redactor=redactor)
        for name, value in named.items()
    }


def _encode_environ(environ: Any) -> dict[str, Any]:
    """Return the method, path, host and user agent of a WSGI environ. The rest holds cookies and other secrets."""
    get = environ.get
    facts = {
        "method": get("REQUEST_METHOD", ""),
        "path": format_path(get("PATH_INFO", ""), get("QUERY_STRING", "")),
        "host": get("HTTP_HOST", ""),
        "user_agent": get("HTTP_USER_AGENT", ""),
    }
    return _encode_texts(facts)


def _encode_asgi_scope(scope: Any) -> dict[str, Any]:
    """Return the method, path, host and user agent of an ASGI scope."""
    headers = dict(scope.get("headers", ()))
    return _encode_texts(
        {
            "method": scope.get("method", ""),
            "path": format_path(scope.get("path", ""), scope.get("query_string", b"")),
            "host": headers.get(b"host", b"").decode("latin-1"),
            "user_agent": headers.get(b"user-agent", b"").decode("latin-1"),
        }
    )


def format_path(path: str, query: str | bytes) -> str:
    """Return a request's path with its query as readable text, without secrets.

    The query of an ASGI scope is bytes by the specification. Django's AsyncClient passes text.
    """
    path, text = _decode_latin1(path), _decode_latin1(query if isinstance(query, str) else query.decode("latin-1"))
    return redact_path(f"{path}?{text}" if text else path, get_redactor())


def _decode_latin1(text: str) -> str:
    """Decode bytes that WSGI passes as Latin-1. Other text is returned as it is."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _encode_texts(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: encoder.encode(value, redactor=get_redactor()) for name, value in facts.items()}


def _encode_request(request: Any) -> Any:
    if request is None:
        return None
    return _encode_texts({"method": request.method, "path": format_request_path(request, request.path)})


def format_request_path(request: Any, path: str) -> str:
    """Return ``path`` with the query of ``request``, without the URL arguments that are secret by their names."""
    query = getattr(request, "META", {}).get("QUERY_STRING", "")
    return format_path(encoder.redact_request_path(path, request, redactor=get_redactor()), query)


def _encode_migration_plan(migrations: Any) -> list[Any]:
    """Return a migration plan as ``[["shop.0001_initial", rolled back], …]``."""
    return [[f"{migration.app_label}.{migration.name}", backwards] for migration, backwards in migrations or ()][:200]


def _encode_connection(connection: Any) -> dict[str, str]:
    return {"alias": connection.alias, "vendor": connection.vendor}


def encode_keys(values: Any, model: type[Model]) -> list[int | str]:
    """Return primary keys of ``model`` as they are recorded, sorted: numbers first."""
    metadata = model_metadata.get_metadata(model)
    if not metadata.has_secret_pk and {int}.issuperset(map(type, values)):
        return sorted(values)
    return sorted([encode_key(key, metadata) for key in values], key=lambda key: (isinstance(key, str), key))


def encode_key(value: Any, metadata: model_metadata.ModelMetadata) -> int | str:
    """Return a primary key of the model that ``metadata`` describes as it is recorded."""
    return value if type(value) is int and not metadata.has_secret_pk else metadata.format_key(value)


ARGUMENT_ENCODERS: Mapping[str, Callable[[Any], Any]] = {
    "environ": lambda value: _encode_environ(value) if hasattr(value, "get") else None,
    "scope": lambda value: _encode_asgi_scope(value) if hasattr(value, "get") else None,
    "request": lambda value: _encode_request(value) if hasattr(value, "get_full_path") else None,
    "plan": lambda value: (
        _encode_migration_plan(value) if isinstance(value, list) else encoder.encode(value, redactor=get_redactor())
    ),
    "connection": lambda value: _encode_connection(value) if hasattr(value, "vendor") else None,
}
"""Encoders of the arguments that the general encoder does not cover, by name."""


def get_current_exception() -> dict[str, str] | None:
    """Return the exception that is being handled as an argument of the event, None if there is none.

    For signals that report an exception but do not pass it.
    """
    error = sys.exc_info()[1]
    return None if error is None else {"exception": encoder.format_exception(error, redactor=get_redactor())}
