"""Short names of signals and senders, and labels of values, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from signalbox.core import catalog


def get_signal_group(signal: str) -> str:
    """Return a signal's group by its name: ``model`` for ``post_save``, ``custom`` if it is not one of Django's."""
    entry = catalog.BUILTIN_SIGNALS.get(signal)
    return entry.group if entry else "custom"


def short_name(dotted: str) -> str:
    """Return the last part of a dotted name."""
    return dotted.rpartition(".")[2]


def qualifier(dotted: str) -> str:
    """Return a dotted name without its last part, with the dot that follows it."""
    before, dot, _ = dotted.rpartition(".")
    return before + dot


def short_sender(sender: str) -> str:
    """Return a model's label as it is, and of a longer dotted name the last part."""
    return sender if sender.count(".") < 2 else short_name(sender)


def get_value_label(labels: Any, name: str, value: Any) -> str:
    """Return the label of a field's value: of a choice, or of the object that a foreign key pointed at.

    Args:
        labels: ``{field: {value as text: label}}``, as events contain it. Everything else has no labels.
        name: Name of the field.
        value: The value, or a list of values.

    Returns:
        The label, several separated by commas, or an empty text.
    """
    found = labels.get(name) if isinstance(labels, Mapping) else None
    if not isinstance(found, Mapping):
        return ""
    values = value if isinstance(value, list) else [value]
    texts = [found.get(str(one)) for one in values if not isinstance(one, list | dict)]
    return ", ".join(str(text) for text in texts if text)
