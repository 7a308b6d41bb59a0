"""Numbers of payment cards, by their beginning, their length and Luhn's check (ISO/IEC 7812-1:2017, November 2026)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from signalbox.serialization.redaction.placeholder import REDACTED

_SEPARATORS: Final = " .\u00a0\u2007\u2009\u202f\u2010\u2011\u2012\u2013-"
"""Separators of the groups of a number: spaces (also non-breaking, thin and figure spaces), dots and dashes."""
_SEPARATOR: Final = f"[{_SEPARATORS}]"
_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
SHORTEST_NUMBER: Final = 13
_START: Final = r"(?:(?<![A-Za-z0-9_.][0-9])|(?<=\\[nrt][0-9]))"
"""A number begins a word, or follows an escaped line break."""
DIGIT_RUN = re.compile(rf"[0-9]{_START}(?:{_SEPARATOR}?[0-9]){{12,}}+(?![A-Za-z0-9_])")
# In data a number may be another's: only the lengths and beginnings that cards have, in the groups that cards have.
MIN_CARD_DIGITS: Final = 14
PAYMENT_CARD = re.compile(
    rf"[0-9]{_START}(?<!-[0-9])"
    rf"(?:[0-9]{{13,18}}|[0-9]{{3}}({_SEPARATOR})[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{2,7}}"
    rf"|[0-9]{{3}}({_SEPARATOR})[0-9]{{6}}\2[0-9]{{4,5}})"
    r"(?![A-Za-z0-9_-]|\.[0-9])"
)
_LONGEST_DOTTED_GROUP: Final = 6
"""Digits between two dots. More of them after a dot are a fraction."""
_CARD_BRANDS = re.compile(
    r"4(?:[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}"
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|62[0-9]{14,17}"
)
_IBAN_BEGINNING = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2} (?:[A-Z0-9]{4} ){0,7}\Z")
"""The groups of an IBAN (ISO 13616-1:2020, November 2026) before one of its groups."""
_IBAN_GROUP = re.compile(r" ([A-Z0-9]{1,4})(?![A-Za-z0-9])")
_MIN_IBAN: Final = 15
_MAX_IBAN: Final = 34


def redact_cards(match: re.Match[str]) -> str:
    """Replace the card numbers in a run of digit groups."""
    done = max(0, _find_iban_end(match) - match.start())
    parts = re.split(f"({_SEPARATOR})", match[0][done:])
    out: list[str] = [match[0][:done]]
    start = 0
    while start < len(parts):
        is_fraction = start > 0 and parts[start - 1] == "."
        end = 0 if is_fraction else _find_card_end(parts, start)
        out.append(REDACTED if end else parts[start])
        start = end or start + 1
    return "".join(out)


def _find_card_end(parts: Sequence[str], start: int) -> int:
    """Return the index after the card number that begins at this group, or 0. Only its last group may be short."""
    digits = ""
    for index in range(start, len(parts), 2):
        digits += parts[index]
        if len(digits) > 19 or not digits.isdigit():
            return 0
        if index > start and parts[index - 1] == "." and len(parts[index]) > _LONGEST_DOTTED_GROUP:
            return 0
        if len(digits) >= 13 and _is_card(digits):
            return index + 1
        if len(parts[index]) < 4:
            return 0
    return 0


def redact_payment_card(match: re.Match[str]) -> str:
    """Replace a number that is a payment card's by its beginning, its length and its check."""
    digits = re.sub(_SEPARATOR, "", match[0])
    if _find_iban_end(match) >= match.end():
        return match[0]
    return REDACTED if _CARD_BRANDS.fullmatch(digits) and _passes_luhn(digits) else match[0]


def _find_iban_end(match: re.Match[str]) -> int:
    """Return the index after the IBAN with right check digits in whose groups the number is, or 0."""
    beginning = _IBAN_BEGINNING.search(match.string, max(0, match.start() - _MAX_IBAN - 9), match.start())
    if beginning is None:
        return 0
    start = beginning.start()
    iban, end, found = match.string[start : start + 4], start + 4, 0
    while len(iban) < _MAX_IBAN and (group := _IBAN_GROUP.match(match.string, end)):
        iban, end = iban + group[1], group.end()
        if len(iban) >= _MIN_IBAN and _has_check_digits(iban):
            found = end
    return found


def _has_check_digits(iban: str) -> bool:
    """Return whether the check digits of an IBAN without blanks are right."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def _is_card(digits: str) -> bool:
    """Return whether the digits begin as a card does (3 to 6, or 2221 to 2720) and satisfy Luhn's check."""
    if digits[0] not in "3456" and not (len(digits) == 16 and "2221" <= digits[:4] <= "2720"):
        return False
    return _passes_luhn(digits)


def _passes_luhn(digits: str) -> bool:
    """Return whether the digits satisfy Luhn's check."""
    total = sum(map(int, digits[-1::-2]))
    return (total + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])) % 10 == 0


def has_digits(number: int) -> Callable[[str], bool]:
    """Return a probe for a number of digits in a row, with separators between them or without."""
    row = b"0" * number
    separators = _SEPARATORS.encode()
    return lambda text: (
        len(text) >= number
        and text.encode("utf-8", "surrogatepass").translate(_DIGITS_TO_ZERO, separators).find(row) >= 0
    )
