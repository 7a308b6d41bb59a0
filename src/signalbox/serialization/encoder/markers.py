"""Dicts with one key that mark a recorded value as something other than JSON of the application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

EXPRESSION_KEY: Final = "expression"
"""The only key of the dict that replaces a value which the database computed and did not return."""

LITERAL_KEY: Final = "literal"
"""The only key of the dict that contains an application's own dict which has one of these keys."""

NOT_RESTORABLE_KEY: Final = "not_restorable"
"""The only key of the mark that replaces a value which its field can't read back. Its text is for people."""

ERASED_KEY: Final = "erased"
"""The only key of the mark that replaces a value which was erased."""

ERASED: Final = "[erased]"
"""The text that replaces an erased text, and that pages and commands show for an erased value."""

WRAPPER_KEYS: Final = frozenset({ERASED_KEY, EXPRESSION_KEY, LITERAL_KEY, NOT_RESTORABLE_KEY})


def is_recorded_expression(recorded: Any) -> bool:
    """Return whether a recorded value is the text of an expression, whose value the database did not return."""
    return isinstance(recorded, dict) and recorded.keys() == {EXPRESSION_KEY}


class NotRestorable(dict[str, str]):
    """Replaces a value that its field can't read back. By its class it is not a value of a JSON field."""

    def __init__(self, text: str) -> None:
        super().__init__({NOT_RESTORABLE_KEY: text})


def is_not_restorable(recorded: Any) -> bool:
    """Return whether a field's recorded value can't be read back: it is only described, or was erased."""
    return isinstance(recorded, dict) and (recorded.keys() == {NOT_RESTORABLE_KEY} or is_erased(recorded))


def build_erased_mark() -> dict[str, str]:
    """Return the mark that replaces an erased value. A value of a JSON field that equals it has a `LITERAL_KEY`."""
    return {ERASED_KEY: ERASED}


def is_erased(recorded: Any) -> bool:
    """Return whether a recorded value, or a recorded key in a list, was erased."""
    return isinstance(recorded, dict) and recorded == {ERASED_KEY: ERASED}


def contains_erased(recorded: Any) -> bool:
    """Return whether a recorded value, or a value within it, was erased."""
    if isinstance(recorded, dict):
        return is_erased(recorded) or any(map(contains_erased, recorded.values()))
    return isinstance(recorded, list) and any(map(contains_erased, recorded))


def describe_not_restorable(recorded: Mapping[str, Any]) -> str:
    """Return the text that people see for a value that ``is_not_restorable()``."""
    return ERASED if ERASED_KEY in recorded else f"{recorded[NOT_RESTORABLE_KEY]} (not restorable)"


def unwrap_literal(recorded: Any) -> Any:
    """Return the recorded value of a field, or one of the two values of a change, without its `LITERAL_KEY`."""
    return recorded[LITERAL_KEY] if isinstance(recorded, dict) and recorded.keys() == {LITERAL_KEY} else recorded


def unwrap_row_literal(recorded: Any) -> Any:
    """Return the recorded value of a field in a whole row, where a list of two is encoded like a change."""
    return (
        [unwrap_literal(part) for part in recorded]
        if isinstance(recorded, list) and len(recorded) <= 2
        else unwrap_literal(recorded)
    )
