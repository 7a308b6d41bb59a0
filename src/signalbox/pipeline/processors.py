"""The project's own say in what is kept: ``SIGNALBOX["KEEP"]`` names a callable that may drop an event or add to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from django.utils.module_loading import import_string

from signalbox import conf
from signalbox.core import query_guard
from signalbox.serialization import encoder
from signalbox.serialization.redaction import Redactor

logger = logging.getLogger("signalbox")

ProcessorFunction: TypeAlias = Callable[[Mapping[str, Any]], Any]

_logged_processors: set[str] = set()


def get_configured_processor() -> ProcessorFunction | None:
    """Return the callable that the setting names; ``None`` where it names none, or none that can be called."""
    named = conf.get().KEEP
    if named is None or callable(named):
        return named
    found = _import_processor(named)
    if isinstance(found, str):
        _log_once(named, f"{found}: every event is kept")
        return None
    return found


def get_error() -> str | None:
    """Return why what the setting names can't be asked; ``None`` where it can."""
    named = conf.get().KEEP
    found = _import_processor(named) if isinstance(named, str) else None
    return found if isinstance(found, str) else None


def _import_processor(path: str) -> ProcessorFunction | str:
    """Return the callable with this dotted path, or what is wrong with it."""
    try:
        found: Any = import_string(path)
    except Exception:  # noqa: BLE001 - the project's own module, which may raise anything
        return "can't be imported"
    return found if callable(found) else "is no callable"


def apply(processor: ProcessorFunction, columns: Mapping[str, Any], data: str) -> str | None:
    """Return the JSON text that is stored of an event, ``None`` if ``keep`` drops it.

    ``keep`` is given the event's columns and its ``data``, read-only, and answers ``False`` to drop it, a mapping to be
    stored under ``extra`` (bounded and without secrets, as everything), or anything else to keep it as it is. What it
    raises is logged, and the event kept. It may not ask the database.
    """
    try:
        with query_guard.isolated():
            answer = processor(MappingProxyType({**columns, "data": json.loads(data)}))
            extra = dict(answer) if isinstance(answer, Mapping) else None
    except Exception:  # noqa: BLE001 - the project's own code; it must not cost events
        _log_once(getattr(processor, "__qualname__", "KEEP"), "raised: the event is kept", exc_info=True)
        return data
    if answer is False:
        return None
    if extra:
        text = encoder.dumps(
            encoder.encode(extra, redactor=Redactor(conf.get().REDACT, conf.get_fields_by_option("redact")))
        )
        return data[:-1] + ("," if data != "{}" else "") + f'"extra":{text}}}'
    return data


def _log_once(name: str, message: str, *, exc_info: bool = False) -> None:
    """Log ``what`` once per callable: a sampler that fails does so at every event."""
    if name not in _logged_processors:
        _logged_processors.add(name)
        logger.error('SIGNALBOX["KEEP"] %s %s.', name, message, exc_info=exc_info)
