"""Values of secret names in XML and in the body of a form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from signalbox.serialization.redaction.placeholder import REDACTED

if TYPE_CHECKING:
    from signalbox.serialization.redaction.names import Names

_XML_START_TAG = re.compile(r"<([\w.:-]{1,80}+)(?:\s[^<>]{0,200}+)?+>")
_MAX_ELEMENT_LENGTH: Final = 4096


class _MultipartLines(NamedTuple):
    """The patterns of a form's body (RFC 7578), for one form of its line ends."""

    header: re.Pattern[str]
    """The head of one part, up to its value."""
    boundary: re.Pattern[str]


def _build_multipart_lines(end: str, char: str) -> _MultipartLines:
    header = rf"\bname=\"([^\"\r\n]{{1,80}}+)\"{char}{{0,200}}+(?:{end}{char}{{1,200}}+){{0,8}}+{end}{end}"
    return _MultipartLines(re.compile(header), re.compile(f"{end}--"))


_MULTIPART_LINES: Final = (
    _build_multipart_lines(r"\r?\n", r"[^\r\n]"),
    _build_multipart_lines(r"(?:\\r)?\\n", r"[^\r\n\\]"),  # in the ``repr()`` of bytes
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


def redact_secret_parts(text: str, redactor: Names) -> str:
    """Take out the values with a secret name in a form's body."""
    for lines in _MULTIPART_LINES:
        text = replace_spans(text, _find_secret_parts(text, redactor, lines))
    return text


def _find_secret_parts(text: str, redactor: Names, lines: _MultipartLines) -> Iterator[tuple[int, int]]:
    """Return the spans of the values with a secret name in a form's body, up to the next boundary."""
    end = 0
    for head in lines.header.finditer(text):
        if head.start() >= end and redactor.is_secret(head[1]):
            boundary = lines.boundary.search(text, head.end())
            end = boundary.start() if boundary else len(text)
            yield head.end(), end
