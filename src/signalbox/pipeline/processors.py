"""Call the project's event processor: ``SIGNALBOX["EVENT_PROCESSOR"]`` can drop an event or add to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from django.utils.module_loading import import_string

from signalbox import conf
from signalbox.core import interrupts, query_guard
from signalbox.serialization import encoder
from signalbox.serialization.redaction import Redactor

logger = logging.getLogger("signalbox")

ProcessorFunction: TypeAlias = Callable[[Mapping[str, Any]], Any]

_logged_processors: set[str] = set()


def get_configured_processor() -> ProcessorFunction | None:
    """Return the configured callable, or ``None`` if there is none or it can't be imported or called."""
    named = conf.get().EVENT_PROCESSOR
    if named is None or callable(named):
        return named
    found = _import_processor(named)
    if isinstance(found, str):
        _log_once(named, f"{found}. Every event is written")
        return None
    return found


def get_error() -> str | None:
    """Return why the configured processor can't be called, or ``None`` if it can."""
    named = conf.get().EVENT_PROCESSOR
    found = _import_processor(named) if isinstance(named, str) else None
    return found if isinstance(found, str) else None


def _import_processor(path: str) -> ProcessorFunction | str:
    """Return the callable with this dotted path, or what is wrong with it."""
    try:
        found: Any = import_string(path)
    except Exception as error:  # noqa: BLE001 - the project's own module, which may raise anything
        interrupts.raise_if_interrupt(error)
        return "can't be imported"
    return found if callable(found) else "is not callable"


def apply(processor: ProcessorFunction, columns: Mapping[str, Any], data: str) -> str | None:
    """Call ``processor`` for an event and return the JSON text to store, or ``None`` to drop the event.

    The processor receives the event's columns and ``data``, read-only. It returns ``False`` to drop the event, a
    mapping to store under ``extra`` (bounded and redacted like other data), or any other value to keep the event as it
    is. An exception is logged and the event is written. A database query raises ``QueryForbidden``.
    """
    try:
        answer, extra = query_guard.call_isolated(
            _call, processor, MappingProxyType({**columns, "data": json.loads(data)})
        )
    except Exception as error:  # noqa: BLE001 - the project's own code; it must not cost events
        interrupts.raise_if_interrupt(error)
        name = getattr(processor, "__qualname__", type(processor).__qualname__)
        _log_once(name, "raised an exception. The event is written", exc_info=True)
        return data
    if answer is False:
        return None
    if extra:
        text = encoder.dumps(
            encoder.encode(extra, redactor=Redactor(conf.get().REDACT, conf.get_fields_by_option("redact")))
        )
        return data[:-1] + ("," if data != "{}" else "") + f'"extra":{text}}}'
    return data


def _call(processor: ProcessorFunction, event: Mapping[str, Any]) -> tuple[Any, dict[str, Any] | None]:
    answer = processor(event)
    return answer, dict(answer) if isinstance(answer, Mapping) else None


def _log_once(name: str, message: str, *, exc_info: bool = False) -> None:
    """Log ``message`` once per processor, as one that fails usually fails for every event."""
    if name not in _logged_processors:
        _logged_processors.add(name)
        logger.error('SIGNALBOX["EVENT_PROCESSOR"] %s %s.', name, message, exc_info=exc_info)
