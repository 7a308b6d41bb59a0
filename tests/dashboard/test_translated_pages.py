"""Each text of the rendered pages passes through a catalogue, also the texts that views and tags return."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import translation

from signalbox.instrumentation import recording_state
from signalbox.models import Delivery, Error, Event, Trace
from tests.dashboard.browsing import ERROR_FINGERPRINT, FIRST_TRACE_ID, AddEvent
from tests.dashboard.test_translation import CODE_ELEMENTS, TEXT_ATTRIBUTES, TextFinder

pytestmark = [pytest.mark.slow, pytest.mark.django_db(databases="__all__")]

VOID_ELEMENTS = frozenset({"br", "img", "input", "line", "link", "meta", "path", "rect", "use", "wbr"})

RECORDED = re.compile(
    r"boss|ada|UTC|ann|(Order|Stock|Coupon|Customer|Mail) .+|SUMMER|Ada Lovelace|Invoice|SMTPException: 451 busy"
    r"|ConnectionError: .+|TimeLimitExceeded: .+|ValueError: no|The worker was killed|no price for .+|PriceError"
    r"|saved|post_save Order 7|null|JSON Lines|CSV|CloudEvents|default|other|auth|contenttypes|django|functools"
    r"|messages|signalbox|tests|\d{4}-\d\d-\d\d [\d:]+ UTC|event|trace|delivery|error|POST /orders/"
)
"""Recorded values, and names of formats, databases, modules and tables."""

SHARED = re.compile(
    r"number a → b|deleted|(\d+ )?(model|bulk|auth|custom|management|database|request|test|task)(, .+)?"
    r"|Sent when .+|True .+|The (model class|object in question)\.|Alias of .+|Names of .+"
    r"|The value of .+ was not recorded\.|.+ does not exist any more: .+"
)
"""Texts that the command line prints too: summaries, groups of signals, the documentation of signals, revert errors."""


LOSSES = {" ".join(state.patch.lost_without.split()).strip(" ·,:") for state in recording_state.get_patch_states()[1]}
"""What is lost without each replaced method of Django. The command line prints the same."""


class PageReader(TextFinder):
    """Collects the texts of a page that are outside of code, times and the marks of a catalogue."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = (dict(attrs).get("class") or "").split()
        is_code = tag in CODE_ELEMENTS | {"time"} or "mono" in classes
        if tag not in VOID_ELEMENTS:
            self.elements.append((tag, is_code))
            self.code_depth += is_code
        if not self.code_depth:
            for name, value in attrs:
                if name in TEXT_ATTRIBUTES:
                    self.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        while self.elements:
            name, is_code = self.elements.pop()
            self.code_depth -= is_code
            if name == tag:
                return


def remove_translated(content: str) -> str:
    """Return the content without what is between the marks of the catalogue, which may be nested."""
    kept, depth = [], 0
    for part in re.split("([⟦⟧])", content):
        depth += {"⟦": 1, "⟧": -1}.get(part, 0)
        if not depth and part != "⟧":
            kept.append(part)
    return "".join(kept)


def find_untranslated(content: str) -> Iterator[str]:
    reader = PageReader()
    reader.feed(remove_translated(content))
    reader.close()
    for text in reader.found:
        plain = " ".join(text.split()).strip(" ·,:")
        if not (RECORDED.fullmatch(plain) or SHARED.fullmatch(plain) or plain in LOSSES):
            yield plain


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue that marks each text."""
    functions: dict[str, Callable[..., str]] = {
        "gettext": lambda text: f"⟦{text}⟧",
        "ngettext": lambda one, many, number: f"⟦{one if number == 1 else many}⟧",
        "pgettext": lambda context, text: f"⟦{text}⟧",
    }
    for name, function in functions.items():
        monkeypatch.setattr(translation._trans, name, function)  # type: ignore[attr-defined]


@pytest.fixture
def boss(client: Client) -> User:
    user = User.objects.create_superuser("boss")
    client.force_login(user)
    Event.objects.all().delete()
    Trace.objects.all().delete()
    return user


def test_an_unmarked_text_is_found() -> None:
    assert ["Hello there"] == list(find_untranslated("<p>⟦one ⟦two⟧ three⟧ <b>Hello there</b> <code>no</code></p>"))


def test_no_page_has_a_text_that_is_not_marked(
    client: Client,
    boss: User,
    retried_trace: Trace,
    add_error: Callable[..., Error],
    add_event: AddEvent,
    durable_receiver: str,
    marked: None,
) -> None:
    add_error(trace_id=FIRST_TRACE_ID)
    deleted = add_event(signal="post_delete", data={"row": {"id": 7, "number": "x"}})
    receivers = [{"name": "a.b", "location": "x.py:1", "duration_us": 3, "error": "ValueError: no"}]
    data = {"changes": {"number": ["a", "b"]}, "receivers": receivers, "args": {"created": False}}
    changed = add_event(data=data)
    dead, done = (Delivery.objects.filter(state=state).first() for state in ("dead", "done"))
    assert dead
    assert done
    paths = [
        *("", "?q=nothing", f"trace/{FIRST_TRACE_ID}/", f"trace/{FIRST_TRACE_ID}/tree/", "trace/x/", "checklist/"),
        *(f"event/{deleted.pk}/", f"event/{deleted.pk}/revert/", f"event/{changed.pk}/", "event/9999/"),
        *("object/?sender=shop.Order&key=7", "object/?sender=shop.Order&key=99", "object/", "map/"),
        *("receiver/?name=shop.signals.send_invoice", f"receiver/?name={durable_receiver}", "receiver/?name=no"),
        *("receiver/findings/?name=shop.signals.send_invoice", "signal/?name=post_save", "signal/?name=no"),
        *("deliveries/", "deliveries/?state=dead", "deliveries/?view=list", "deliveries/?receiver=zzz"),
        *("deliveries/?state=abandoned", "deliveries/?using=no"),
        *(f"deliveries/{dead.pk}/", f"deliveries/{done.pk}/", "deliveries/999/"),
        *("errors/", "errors/?text=zzz", "errors/?state=resolved", f"errors/{ERROR_FINGERPRINT}/", "errors/x/"),
        *(f"errors/{ERROR_FINGERPRINT}/findings/", f"errors/{'0' * 32}/", "health/", "doctor/"),
    ]
    pages = {path: client.get(f"/signalbox/{path}") for path in paths}
    selected: dict[str, Any] = {"action": "retry", "id": dead.pk, "using": "default"}
    pages["confirm"] = client.post("/signalbox/deliveries/confirm/", selected)
    User.objects.filter(pk=boss.pk).update(is_superuser=False)
    pages["forbidden"] = client.get("/signalbox/")
    assert {200, 403, 404} == {page.status_code for page in pages.values()}
    found = {path: list(find_untranslated(page.content.decode())) for path, page in pages.items()}
    assert {} == {path: texts for path, texts in found.items() if texts}
