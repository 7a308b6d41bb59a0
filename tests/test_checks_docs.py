"""``docs/checks.md`` has every system check, with its level and its texts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from signalbox import conf
from signalbox.outbox import registration

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
LEVELS = {"Error": "error", "CheckWarning": "warning", "Warning": "warning"}
CONSTANTS = {
    "conf.DISABLED_VARIABLE": conf.DISABLED_VARIABLE,
    "NOT_INSTALLED": registration.NOT_INSTALLED,
    "ours": "signalbox.middleware.TraceMiddleware",
}
"""Expressions whose value is the same in each project."""

ELSEWHERE = {
    "The environment variable SIGNALBOX_DISABLED is …, which is not a known value. Recording is on.",
    'SIGNALBOX["DURABLE"]["DISPATCHER"] is "…", which is not installed.',
}
"""Messages that the source creates before the call with the id."""


class Message(NamedTuple):
    """A message that the source creates, with ``…`` for each value."""

    number: str
    level: str
    texts: tuple[str, ...]


def read_messages() -> Iterator[Message]:
    """Yield each message with an id of its own in the source."""
    for path in sorted((ROOT / "src" / "signalbox").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {keyword.arg: keyword.value for keyword in node.keywords}
                number = getattr(keywords.get("id"), "value", None)
                if isinstance(number, str) and re.fullmatch(r"signalbox\.[EW]\d{3}", number):
                    level = LEVELS[ast.unparse(node.func).rpartition(".")[2]]
                    texts = map(build_template, [*node.args, keywords["hint"]])
                    yield Message(number.removeprefix("signalbox."), level, tuple(filter(None, texts)))


def build_template(node: Any) -> str:
    """Return a text of the source with ``…`` for each value; empty if the text is in a variable."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr():
            parts = [
                part.value if isinstance(part, ast.Constant) else CONSTANTS.get(ast.unparse(part.value), "…")
                for part in node.values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            ]
            return "".join(map(str, parts))
    return ""


MESSAGES = list(read_messages())


def test_the_table_has_every_id_with_its_level() -> None:
    table = PAGE.partition("<!-- checks -->")[2].partition("<!-- end of checks -->")[0]
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \|", table, re.MULTILINE)
    assert len(MESSAGES) > 20
    assert {(message.number, message.number.lower(), message.level) for message in MESSAGES} == set(rows)
    assert [number for number, _, _ in rows] == re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.number)
def test_a_check_has_its_section_with_its_texts(message: Message) -> None:
    section = PAGE.partition(f"\n## {message.number}\n")[2].partition("\n## ")[0]
    quoted = re.findall(r"^> (.+)$", section, re.MULTILINE)
    assert section
    assert [] == [text for text in message.texts if text not in quoted]


def test_the_page_shows_no_text_that_the_source_does_not_have() -> None:
    texts = {text for message in MESSAGES for text in message.texts}
    assert ELSEWHERE == {line for line in re.findall(r"^> (.+)$", PAGE, re.MULTILINE) if line not in texts}
