"""Creates the event processors that ``SIGNALBOX["PROCESSORS"]`` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.module_loading import import_string

from signalbox import conf
from signalbox.core import interrupts, loggers
from signalbox.pipeline import processors
from signalbox.pipeline.processors import EventProcessor

logger = loggers.get_logger("processors")


def configure() -> None:
    """Create the processors that the setting names, and install them in place of the previous ones."""
    built = []
    for entry in conf.get().PROCESSORS:
        found = _build_processor(entry)
        if isinstance(found, EventProcessor):
            built.append(found)
        else:
            logger.error('SIGNALBOX["PROCESSORS"]: %s %s. Events are recorded without it.', format_entry(entry), found)
    processors.set_project_processors(built)


def get_errors() -> list[tuple[object, str]]:
    """Return the entries of the setting that can't be used, each with the reason."""
    built = [(entry, _build_processor(entry)) for entry in conf.get().PROCESSORS]
    return [(entry, found) for entry, found in built if isinstance(found, str)]


def _build_processor(entry: Any) -> EventProcessor | str:
    """Return the processor that an entry of the setting describes, or the reason why it cannot be used."""
    path, options = (entry["PROCESSOR"], entry.get("OPTIONS", {})) if isinstance(entry, Mapping) else (entry, {})
    try:
        found: Any = import_string(path) if isinstance(path, str) else path
        if isinstance(found, type):
            found = found(**options)
    except Exception as error:  # noqa: BLE001 - the project's own module, which may raise anything
        interrupts.raise_if_interrupt(error)
        return f"can't be used: {type(error).__name__}: {error}".rstrip(".")
    return found if isinstance(found, EventProcessor) else "is not a subclass of signalbox.EventProcessor"


def format_entry(entry: object) -> str:
    """Return an entry of the setting for a message, without its options."""
    found = entry.get("PROCESSOR") if isinstance(entry, Mapping) else entry
    return str(found) if isinstance(found, str | type) else type(found).__qualname__
