"""Recorded values as text."""

from __future__ import annotations

import json
from typing import Any

from signalbox.core.display_names import get_value_label
from signalbox.serialization import encoder


def format_value(value: Any) -> str:
    """Return a recorded value as text; an empty text in quotes, to distinguish it from no value."""
    if encoder.is_recorded_expression(value):
        return str(value[encoder.EXPRESSION_KEY])
    if encoder.is_not_restorable(value):
        return encoder.describe_not_restorable(value)
    value = encoder.unwrap_literal(value)
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def format_labelled(value: Any, label: str) -> str:
    """Return a recorded value as text, with its label."""
    return f"{format_value(value)} · {label}" if label else format_value(value)


def format_field(labels: Any, name: str, value: Any) -> str:
    """Return a field's recorded value as text, with its label in an event's ``labels``."""
    return format_labelled(value, get_value_label(labels, name, encoder.unwrap_literal(value)))
