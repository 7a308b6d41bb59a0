"""Texts of the pages are marked for translation, and translated where a catalogue has them."""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.template import Context, Template
from django.test import Client
from django.utils import translation

import signalbox
from signalbox.dashboard import languages

PACKAGE = Path(signalbox.__file__).parent
TEMPLATES = sorted(path.relative_to(PACKAGE / "templates").as_posix() for path in PACKAGE.rglob("templates/**/*.html"))

TEXT_ATTRIBUTES = frozenset({"aria-label", "title", "placeholder", "alt", "data-label"})
CODE_ELEMENTS = frozenset({"code", "kbd", "pre", "script", "style"})

NAMES = frozenset({"Signalbox", "None", "ms"})
"""Words and units that are the same in each language."""

EXAMPLE = re.compile(r"[\w.:/-]*[._:\d][\w.:/-]*")
"""Code, such as ``post_save``, ``auth.User`` or ``p95``."""


class TextFinder(HTMLParser):
    """Collects texts with words, and attributes that users read."""

    def __init__(self) -> None:
        super().__init__()
        self.code_depth = 0
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.code_depth += tag in CODE_ELEMENTS
        for name, value in attrs:
            if name in TEXT_ATTRIBUTES and not (name == "data-label" and (value or "").isidentifier()):
                self.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.code_depth -= tag in CODE_ELEMENTS

    def handle_data(self, data: str) -> None:
        if not self.code_depth:
            self.add(data)

    def add(self, text: str) -> None:
        for part in text.split():
            word = part.strip("()·,;.:?!…/+→←")
            if re.search("[A-Za-z]{2}", word) and word not in NAMES and not EXAMPLE.fullmatch(word):
                self.found.append(text.strip())
                return


def find_unmarked_texts(source: str) -> Iterator[str]:
    """Yield texts of a template outside of ``{% translate %}`` and ``{% blocktranslate %}``."""
    source = re.sub(r"{% (blocktranslate|comment)\b.*?{% end\1 %}", "", source, flags=re.DOTALL)
    finder = TextFinder()
    finder.feed(re.sub(r"{%.*?%}|{{.*?}}|{#.*?#}", "", source, flags=re.DOTALL))
    finder.close()
    yield from finder.found
    for tag in re.findall(r"{{.*?}}|{% include .*?%}", source):
        # A class or another attribute is not a text: only words with a capital letter are.
        found = re.findall(r'(?:\|(?:default|yesno):|=)"([A-Z][a-z][^"]*)"', tag)
        yield from (text for text in found if text not in NAMES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_no_text_that_is_not_marked_for_translation(name: str) -> None:
    source = (PACKAGE / "templates" / name).read_text(encoding="utf-8")
    assert [] == list(find_unmarked_texts(source)), 'Write {% translate "…" %}, or {% blocktranslate %} with variables.'


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("<p>Hello there</p>", ["Hello there"]),
        ('<a title="Open it" href="x">{{ name }}</a>', ["Open it"]),
        ("{{ number }} events", ["events"]),
        ('{{ name|default:"Trace" }}', ["Trace"]),
        ('{% translate "Hello" %} {% blocktranslate %}{{ a }} b{% endblocktranslate %}', []),
        ('<code>manage.py migrate</code> <kbd>Enter</kbd> <input placeholder="auth.User:12"> Signalbox p95', []),
        ('<p class="big {{ ok|yesno:"good,bad" }}">{{ name|default:_("Trace") }}</p>', []),
    ],
)
def test_unmarked_texts_are_found(source: str, found: list[str]) -> None:
    assert found == list(find_unmarked_texts(source))


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("static/signalbox/*.js")), ids=lambda path: path.name)
def test_a_script_has_no_text_of_its_own(path: Path) -> None:
    """Texts of scripts are in ``dashboard/script_texts.py``."""
    source = re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    source = re.sub(r"\$\{[^}]*\}", "", source)
    literals = re.findall(r'"([^"\n]*)"|`([^`]*)`', source)
    texts = [one or other for one, other in literals]
    sentences = [text for text in texts if re.match(r"[A-Z][a-z]+( |…|$)", text) and text not in EVENT_NAMES]
    assert [] == sentences


EVENT_NAMES = frozenset({"Enter", "Escape", "Tab"})
"""Names of keys."""


def write_catalogue(path: Path, texts: dict[str, str]) -> None:
    """Write a compiled catalogue, as ``msgfmt`` does. The texts must be sorted by their bytes."""
    header = {"": "Content-Type: text/plain; charset=utf-8\n"}
    pairs = sorted((key.encode(), text.encode()) for key, text in (header | texts).items())
    offset = 28 + 16 * len(pairs)
    tables, data = [b"", b""], b""
    for column in (0, 1):
        for pair in pairs:
            tables[column] += struct.pack("<2I", len(pair[column]), offset + len(data))
            data += pair[column] + b"\0"
    path.parent.mkdir(parents=True)
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, offset)
    path.write_bytes(head + tables[0] + tables[1] + data)


@pytest.mark.django_db(databases="__all__")
def test_a_page_is_shown_in_the_active_language(operator_client: Client, settings: Any, tmp_path: Path) -> None:
    texts = {"Deliveries": "Zustellungen", "Live": "Direkt", "Outcome": "Ergebnis", languages.KNOWN_TEXT: "Empfänger"}
    write_catalogue(tmp_path / "de/LC_MESSAGES/django.mo", texts)
    settings.LOCALE_PATHS = [tmp_path]
    with translation.override("de"):
        content = operator_client.get("/signalbox/").content.decode()
    assert '<html lang="de">' in content
    assert "Zustellungen" in content
    assert '"live": "Direkt"' in content


@pytest.mark.django_db(databases="__all__")
def test_a_page_is_english_in_a_language_without_a_catalogue(operator_client: Client) -> None:
    """Django's own catalogues have some of the words, such as "Duration": a page would mix two languages."""
    with translation.override("de"):
        content = operator_client.get("/signalbox/").content.decode()
        assert "de" == translation.get_language()
    assert '<html lang="en">' in content
    assert "Zeitspanne" not in content
    assert ">Duration<" in content


def test_a_variant_of_english_is_not_replaced() -> None:
    with translation.override("en-gb"), languages.use_complete_language():
        assert "en-gb" == translation.get_language()


def test_a_translated_text_is_escaped_in_an_attribute() -> None:
    source = '{% load i18n %}<a title="{% translate text %}"></a>'
    assert "&quot;" in Template(source).render(Context({"text": 'a "b"'}))


@pytest.mark.parametrize("path", sorted((PACKAGE / "dashboard").glob("*.py")), ids=lambda path: path.name)
def test_the_text_of_a_404_is_marked_for_translation(path: Path) -> None:
    raised = [node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
    calls = [call for call in raised if isinstance(call, ast.Call) and ast.unparse(call.func) == "Http404"]
    unmarked = [
        ast.unparse(call) for call in calls if any(isinstance(text, ast.Constant | ast.JoinedStr) for text in call.args)
    ]
    assert [] == unmarked


def test_a_style_has_no_text_of_its_own() -> None:
    contents = re.findall(r'content: "([^"]*)"', (PACKAGE / "static/signalbox/signalbox.css").read_text())
    assert [] == [text for text in contents if re.search("[A-Za-z]", text)]
