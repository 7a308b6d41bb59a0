"""Searches a text for several shapes of secrets, after a cheap first look that is derived from the table of shapes."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import re

    from signalbox.serialization.redaction.names import Names


class Shape(NamedTuple):
    """One shape that secrets have in a text: its signs, and the function that takes it out."""

    signs: Sequence[str | tuple[str, ...]]
    """Every text with the shape contains all of these; of a tuple it contains one."""
    take_out: Callable[[str, Names], str]
    """Return the text without the secrets of this shape, or the same text if it has none."""
    probe: Callable[[str], object] | None = None
    """True of every text with the shape. For shapes whose signs are frequent."""
    json_probe: Callable[[str], object] | None = None
    """True of JSON that contains a text with the shape. None: `probe` is."""
    has_long_word: bool = False
    """Every text with the shape contains a word of `LONG_WORD` characters: letters, digits, "_" and "-"."""
    ignore_case: bool = False
    """The text may have the signs in upper or lower case. They, and the probe, are for its lower case."""


def replace(pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str]) -> Callable[[str, Names], str]:
    """Return a `take_out` that does not need a redactor."""
    return lambda text, redactor: pattern.sub(by, text)


def ask(pattern: re.Pattern[str], by: Callable[[re.Match[str], Names], str]) -> Callable[[str, Names], str]:
    """Return a `take_out` that asks the redactor about each match."""
    return lambda text, redactor: pattern.sub(lambda match: by(match, redactor), text)


LONG_WORD: Final = 20
"""Most texts do not have a word of 20 characters, and most tokens are one."""
_WORD_TO_X: Final = bytes(
    ord("x") if code >= 128 or chr(code).isalnum() or chr(code) in "_-" else ord(" ") for code in range(256)
)
_LONG_WORD_OF_X: Final = b"x" * LONG_WORD
_MIN_SHAPES_WITH_WORD: Final = 3
"""Probes that cost as much as the search for a long word."""
_FREQUENT_CHARS: Final = string.ascii_lowercase + string.digits + " "
"""Characters that nearly all texts contain: to search for them selects nothing."""
_USUAL_CHARS: Final = '":,.-_'
"""Characters that many texts contain, and nearly all JSON."""
_MAX_SELECTIONS: Final = 4096


@dataclass(frozen=True, slots=True)  # its attributes are read faster than those of a named tuple
class _Look:
    """The tests of one shape, in the order of their cost."""

    rare_chars: str
    """Every text with the shape contains one of these characters, if there are any."""
    has_long_word: bool
    ignore_case: bool
    sign: str
    """Every text with the shape contains it; or empty."""
    signs: tuple[tuple[str, ...], ...]
    """Every text with the shape contains one of each tuple."""
    probe: Callable[[str], object] | None
    take_out: Callable[[str, Names], str]


@dataclass(frozen=True, slots=True)
class _Selection:
    """The shapes that a text can have, by the rare characters that it contains."""

    looks: tuple[_Look, ...]
    looks_without_word: tuple[_Look, ...]
    """Those of them that need no long word."""
    is_word_probed: bool
    """Whether to search the text for a long word first."""


class Search:
    """Takes several shapes out, in their order: a later shape is searched in the result of an earlier one.

    Most texts contain the signs of few shapes, and signs are found much faster than patterns.
    The rarest characters of the signs are searched first, each once, and they select the shapes.
    """

    __slots__ = ("_looks", "_rare_chars", "_selections")

    def __init__(self, shapes: Iterable[Shape], *, in_json: bool = False) -> None:
        """Derive the first look from ``shapes``. ``in_json``: expect the signs as JSON writes them."""
        self._looks = tuple(_build_look(shape, in_json) for shape in shapes)
        self._rare_chars = "".join(sorted({char for look in self._looks for char in look.rare_chars}))
        self._selections: dict[str, _Selection] = {}

    def redact(self, text: str, redactor: Names) -> str:
        """Return the text without the secrets of these shapes."""
        lower = ""
        for look in self._select(text):
            if look.ignore_case and not lower:
                lower = text.lower()
            where = lower if look.ignore_case else text
            if (
                look.sign in where
                and (not look.signs or _has(where, look.signs))
                and (look.probe is None or look.probe(where))
                and (clean := look.take_out(text, redactor)) != text
            ):
                text, lower = clean, ""  # the placeholder adds no rare character, so the selection is still right
        return text

    def may_change(self, text: str) -> bool:
        """Return whether the text, or JSON, has the signs of one of these shapes. If not, `redact` changes nothing."""
        for look in self._select(text):
            where = text.lower() if look.ignore_case else text
            if (
                look.sign in where
                and (not look.signs or _has(where, look.signs))
                and (look.probe is None or look.probe(where))
            ):
                return True
        return False

    def _select(self, text: str) -> tuple[_Look, ...]:
        """Return the shapes whose rare characters the text contains, and whose long word it can contain."""
        chars = "".join([char for char in self._rare_chars if char in text])
        selection = self._selections.get(chars)
        if selection is None:
            selection = self._remember_selection(chars)
        if len(text) < LONG_WORD or (selection.is_word_probed and not _has_long_word(text)):
            return selection.looks_without_word
        return selection.looks

    def _remember_selection(self, chars: str) -> _Selection:
        """Return the shapes that these rare characters allow."""
        looks = tuple(look for look in self._looks if not look.rare_chars or not {*chars}.isdisjoint(look.rare_chars))
        without_word = tuple(look for look in looks if not look.has_long_word)
        if len(self._selections) >= _MAX_SELECTIONS:
            self._selections.clear()
        is_word_probed = len(looks) - len(without_word) >= _MIN_SHAPES_WITH_WORD
        selection = self._selections[chars] = _Selection(looks, without_word, is_word_probed)
        return selection


def _build_look(shape: Shape, in_json: bool) -> _Look:
    """Order the signs of a shape by their cost, without the sign that the rare characters prove."""
    signs = [(sign,) if isinstance(sign, str) else sign for sign in shape.signs]
    if in_json:
        signs = [tuple(json.dumps(sign)[1:-1] for sign in one_of) for one_of in signs]
    rare_chars = min(
        (_find_rare_chars(one_of, shape.ignore_case) for one_of in signs), key=_estimate_frequency, default=""
    )
    signs = [one_of for one_of in signs if one_of != tuple(rare_chars)]
    sign = next((one_of[0] for one_of in signs if len(one_of) == 1), "")
    return _Look(
        rare_chars,
        shape.has_long_word,
        shape.ignore_case,
        sign,
        tuple(one_of for one_of in signs if one_of != (sign,)),
        shape.json_probe or shape.probe if in_json else shape.probe,
        shape.take_out,
    )


def _find_rare_chars(one_of: Iterable[str], ignore_case: bool) -> str:
    """Return a character of each sign, the one that the fewest texts contain. Empty if a sign has only frequent ones.

    With ``ignore_case`` a letter can have another case in the text, so it selects nothing.
    """
    rare_chars = ""
    for sign in one_of:
        candidates = [char for char in sign if char not in _FREQUENT_CHARS and not (ignore_case and char.isalpha())]
        if not candidates:
            return ""
        rare_chars += min(candidates, key=_estimate_frequency)
    return rare_chars


def _estimate_frequency(chars: str) -> float:
    """Return a number that is higher the more texts contain one of these characters. It is infinite without any."""
    return sum(2 if char in _USUAL_CHARS else 1 if char.isalpha() else 0 for char in chars) if chars else math.inf


def _has_long_word(text: str) -> bool:
    """Return whether the text contains a word of `LONG_WORD` characters. Those beyond ASCII are taken for letters."""
    return text.encode("utf-8", "surrogatepass").translate(_WORD_TO_X).find(_LONG_WORD_OF_X) >= 0


def _has(text: str, signs: tuple[tuple[str, ...], ...]) -> bool:
    """Return whether the text contains one of each tuple."""
    for one_of in signs:
        for sign in one_of:
            if sign in text:
                break
        else:
            return False
    return True
