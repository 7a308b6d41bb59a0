"""Values of secret names in XML and in the body of a form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from signalbox.serialization.redaction.placeholder import REDACTED

if TYPE_CHECKING:
    from signalbox.serialization.redaction.names import Names

_XML_START_TAG = re.compile(r"<([\w.:-]{1,80}+)(?:\s[^<>]{0,200}+)?+>")
_MAX_ELEMENT_LENGTH: Final = 4096
# The head of one part of a form's body (RFC 7578), up to its value.
_MULTIPART_HEADER = re.compile(
    r"\bname=\"([^\"\r\n]{1,80}+)\"[^\r\n]{0,200}+(?:\r?\n[^\r\n]{1,200}+){0,8}+\r?\n(?=\r?\n)"
)


def replace_spans(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Replace each span of the text by the placeholder. Spans that overlap the previous one are skipped."""
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        if done <= start < end:
            pieces += text[done:start], REDACTED
            done = end
    return "".join([*pieces, text[done:]])


def find_secret_elements(text: str, redactor: Names) -> Iterator[tuple[int, int]]:
    """Return the spans between the tags of a secret name, `<password>…</password>`."""
    for tag in _XML_START_TAG.finditer(text):
        if redactor.is_secret(tag[1]):
            yield tag.end(), text.find(f"</{tag[1]}", tag.end(), tag.end() + _MAX_ELEMENT_LENGTH)


def find_secret_parts(text: str, redactor: Names) -> Iterator[tuple[int, int]]:
    """Return the spans of the values with a secret name in a form's body, up to the next boundary."""
    end = 0
    for head in _MULTIPART_HEADER.finditer(text):
        if head.start() >= end and redactor.is_secret(head[1]):
            end = text.find("\n--", head.end())
            end = len(text) if end < 0 else end
            yield head.end() + (2 if text.startswith("\r", head.end()) else 1), end
