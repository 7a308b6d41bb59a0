"""The names that users import: their types as a type checker sees them, and their documentation."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import is_dataclass
from enum import Enum
from importlib import import_module
from inspect import getdoc, getsource, signature
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest

import signalbox
from signalbox.core import loggers
from signalbox.pipeline.recorded_operations import OPERATIONS

ROOT = Path(__file__).parent.parent
DOCS = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]

MODULES = (
    "signalbox",
    "signalbox.conf",
    "signalbox.testing",
    "signalbox.admin",
    "signalbox.middleware",
    "signalbox.urls",
    "signalbox.logs",
    "signalbox.contrib.prometheus.views",
    "signalbox.contrib.prometheus.deliveries",
    "signalbox.outbox.health",
    "signalbox.doctor",
)

IMPORTS = """
from __future__ import annotations
import signalbox
import signalbox.admin, signalbox.conf, signalbox.doctor, signalbox.middleware
import signalbox.contrib.prometheus.deliveries, signalbox.contrib.prometheus.views, signalbox.logs
import signalbox.outbox.health, signalbox.testing, signalbox.urls
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models.signals import post_save
from django.dispatch import Signal
from signalbox.models import Event
from signalbox.testing import RecordedEvents
from tests.shop.models import Order
event = Event()
order = Order()
"""

RIGHT = """
signalbox.start_recording()
signalbox.stop_recording()
signalbox.urls.probe
signalbox.register_signal(Signal(), "shop.signals.paid")
signalbox.register_signal(name="shop.signals.paid", signal=Signal())
signalbox.configure_model(Order)
signalbox.configure_model(Order, exclude=["note"], redact=("number",), record=True)
signalbox.configure_model(Order, exclude={"note"}, redact=frozenset({"number"}))
signalbox.set_actor("nightly job")
signalbox.set_actor(User())
signalbox.set_actor(None)
signalbox.revert(event).pk
signalbox.revert(next(iter(signalbox.history(order))))
signalbox.revert(event, use_newer_state=False, restore_relations=True)
signalbox.preview_revert(event, restore_relations=True).fields[0].restored_label
signalbox.history(Order, 17).events(before=3, limit=2)
signalbox.history(Order, pk=(17, "maths"), using="default").diff(event.timestamp, event.timestamp)
signalbox.history(order, using="other").as_of(event.timestamp).unknown_fields
signalbox.erase(actor=User(), objects=[order, "shop.Order:17", (Order, 17)], keys=True, by="officer").places["values"]
signalbox.receiver([post_save, "bulk_create"], sender="shop.Order", durable=True, retries=3, backoff=0.5, key=None)
signalbox.receiver(post_save, durable=True, backoff=lambda attempt: 2.0**attempt, timeout=None, on_dead="skip")
signalbox.receiver("post_save", sender=Order, weak=False, dispatch_uid="invoice", after_commit=True)
signalbox.testing.assert_sent(post_save, sender="shop.Order", times=2, created=True)
signalbox.testing.assert_not_sent(post_save, sender=None, instance=order)
signalbox.testing.mute_receivers(post_save, print)
signalbox.testing.run_deliveries("shop.receivers.send_invoice", using="default", limit=10)[0].attempts
signalbox.doctor.examine(rules=["dead-receiver"], apps={"shop"})[0].severity >= signalbox.doctor.Severity.WARNING
""".strip().splitlines()
"""Statements without an error."""

WRONG = {
    "signalbox.histroy": "attr-defined",
    "from signalbox import revret": "attr-defined",
    "from signalbox.testing import capture_event": "attr-defined",
    "signalbox.testing.record": "attr-defined",
    "signalbox.admin.HistoryMixin": "attr-defined",
    "signalbox.start_recording(True)": "call-arg",
    "signalbox.stop_recording(now=True)": "call-arg",
    "signalbox.register_signal('post_save', 'name')": "arg-type",
    "signalbox.register_signal(Signal())": "call-arg",
    "signalbox.register_signal(Signal(), 7)": "arg-type",
    "signalbox.configure_model('shop.Order', record=False)": "arg-type",
    "signalbox.configure_model(Order, record='no')": "arg-type",
    "signalbox.configure_model(Order, exclude='note')": "arg-type",
    "signalbox.configure_model(Order, hide=['note'])": "call-arg",
    "signalbox.set_actor(7)": "arg-type",
    "signalbox.set_actor()": "call-arg",
    "signalbox.trace(7)": "arg-type",
    "signalbox.trace('import', actor=7)": "arg-type",
    "signalbox.trace('import', kind=None)": "arg-type",
    "signalbox.revert(17)": "arg-type",
    "signalbox.revert(event, using='other')": "call-arg",
    "signalbox.history(Order)": "call-overload",
    "signalbox.history('shop.Order', 17)": "call-overload",
    "signalbox.history(order, using=7)": "call-overload",
    "signalbox.history(order).as_of('2026-03-01')": "arg-type",
    "signalbox.history(order).as_off(event.timestamp)": "attr-defined",
    "signalbox.history(order).events(limit='10')": "arg-type",
    "signalbox.receiver(7)": "arg-type",
    "signalbox.receiver(post_save, retrys=3)": "call-arg",
    "signalbox.receiver(post_save, durable=True, retries='3')": "arg-type",
    "signalbox.receiver(post_save, durable=True, on_dead='stop')": "arg-type",
    "signalbox.receiver(post_save)(7)": "type-var",
    "signalbox.testing.capture_events(post_save)": "call-arg",
    "signalbox.testing.mute_receivers('post_save')": "arg-type",
    "signalbox.testing.assert_sent('post_save')": "arg-type",
    "signalbox.testing.assert_sent(post_save, times='1')": "arg-type",
    "signalbox.testing.assert_not_sent('post_save')": "arg-type",
    "signalbox.testing.run_deliveries(7)": "arg-type",
    "signalbox.testing.run_deliveries(limit='10')": "arg-type",
    "RecordedEvents([]).filter(7)": "arg-type",
    "RecordedEvents([])[0].chnages": "attr-defined",
    "signalbox.doctor.examine(rules=7)": "arg-type",
}
"""Statements with an error, and the error's code."""

RESULTS = {
    "signalbox.receiver(post_save)(print_order)": "def (sender: type[Order], instance: Order, **kwargs: object) -> str",
    "signalbox.trace('import').__enter__().id": "str",
    "signalbox.history(order)": "ObjectHistory",
    "list(signalbox.history(Order, 17))": "list[Event]",
    "signalbox.history(order).as_of(event.timestamp)": "ObjectState",
    "signalbox.revert(event)": "Model",
    "signalbox.preview_revert(event)": "RevertPreview",
    "signalbox.testing.capture_events().__enter__()": "RecordedEvents",
    "RecordedEvents([])[0].changes": "Mapping[str, Any]",
    "RecordedEvents([]).filter(post_save, 'shop.Order').signals": "list[str]",
    "signalbox.testing.assert_sent(post_save).__enter__()": "list[tuple[object, dict[str, Any], fallback=Send]]",
    "signalbox.testing.run_deliveries()": "list[Delivery]",
}
"""Expressions and their types."""

ACCEPTED = ("Mapping[str, Any]", "dict[str, Any]", "dict[str, list[Any]]", "def (*Any, **Any) -> Any", "(*Any, **Any)")
"""Types of JSON data, of arguments of any signal, and of any receiver: only these contain ``Any``."""


SPAN_ATTRIBUTES = ("signal", "sender", "receiver", "outcome", "span", "attempt", "trace_id")
"""Attributes of spans of OpenTelemetry, without their prefix."""


class Answer(NamedTuple):
    """A message of the type checker."""

    line: int
    severity: str
    text: str
    code: str


def class_attributes(name: str) -> list[str]:
    """Return the public methods and properties of a class, and nothing of anything else."""
    module, _, attribute = name.rpartition(".")
    value = getattr(import_module(module), attribute)
    own = vars(value) if isinstance(value, type) else {}
    return [attribute for attribute in own if not attribute.startswith("_")]


NAMES = [f"{module}.{name}" for module in MODULES for name in import_module(module).__all__]
ATTRIBUTES = list(enumerate((name, attribute) for name in NAMES for attribute in class_attributes(name)))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, list[Answer]]:
    """The type checker's messages for each line of one program, which contains every statement of this module."""
    folder = tmp_path_factory.mktemp("program")
    statements = [
        *IMPORTS.strip().splitlines(),
        "def print_order(sender: type[Order], instance: Order, **kwargs: object) -> str: return ''",
        "class OrderAdmin(signalbox.admin.HistoryAdminMixin, admin.ModelAdmin[Order]): pass",
        *(f"reveal_type({name})" for name in [*NAMES, *RESULTS]),
        *(f"def reveal_{i}(x: {name}) -> None: reveal_type(x.{attribute})" for i, (name, attribute) in ATTRIBUTES),
        *RIGHT,
        *WRONG,
    ]
    (folder / "program.py").write_text("\n".join(statements))
    (folder / "mypy.ini").write_text(
        "[mypy]\nstrict = true\nfollow_imports = silent\nplugins = mypy_django_plugin.main\n"
        f"mypy_path = {ROOT / 'src'}:{ROOT}\nexplicit_package_bases = true\n"
        "[mypy.plugins.django-stubs]\ndjango_settings_module = tests.settings\n"
    )
    cache = request.config.cache
    assert cache is not None
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(cache.mkdir("mypy")), "--no-error-summary", "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, list[Answer]] = {statement: [] for statement in statements}
    for row in result.stdout.splitlines():
        match = re.fullmatch(r"program\.py:(\d+): (error|note): (.+?)(?:  \[([\w-]+)\])?", row)
        assert match is not None, result.stdout + result.stderr
        answer = Answer(int(match[1]), match[2], match[3], match[4] or "")
        found[statements[answer.line - 1]].append(answer)
    assert result.returncode == 1, result.stdout + result.stderr
    return found


def shorten(text: str) -> str:
    """Return a revealed type without the modules of its classes."""
    revealed = re.fullmatch(r'Revealed type is "(.+)"', text)
    assert revealed is not None, text
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", revealed[1])


def revealed_type(answers: list[Answer]) -> str:
    [answer] = answers
    return shorten(answer.text)


def contains_any(revealed: str) -> bool:
    for accepted in ACCEPTED:
        revealed = revealed.replace(accepted, "")
    return re.search(r"\bAny\b", revealed) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_type(name: str, answers: dict[str, list[Answer]]) -> None:
    found = revealed_type(answers[f"reveal_type({name})"])
    assert not contains_any(found), found


def test_every_attribute_of_a_public_class_has_a_type(answers: dict[str, list[Answer]]) -> None:
    revealed = {line: revealed_type(found) for line, found in answers.items() if line.startswith("def reveal_")}
    assert len(revealed) > 30
    assert {} == {line: found for line, found in revealed.items() if contains_any(found)}


def test_any_is_found_in_a_type() -> None:
    assert contains_any("def (pk: Any) -> str")
    assert contains_any("Any")
    assert not contains_any("def (x: def (*Any, **Any) -> object) -> Mapping[str, Any]")


@pytest.mark.parametrize("statement", RIGHT)
def test_a_correct_use_has_no_error(statement: str, answers: dict[str, list[Answer]]) -> None:
    assert [] == answers[statement]


@pytest.mark.parametrize("statement", WRONG)
def test_a_wrong_use_is_an_error(statement: str, answers: dict[str, list[Answer]]) -> None:
    errors = [answer.code for answer in answers[statement] if answer.severity == "error"]
    assert [WRONG[statement]] == errors


@pytest.mark.parametrize("expression", RESULTS)
def test_a_result_has_its_type(expression: str, answers: dict[str, list[Answer]]) -> None:
    assert RESULTS[expression] == revealed_type(answers[f"reveal_type({expression})"])


# ------------------------------------------------------------------ at run time


INSPECTED = """
import inspect
import signalbox
inspect.getmembers(signalbox)
import django
from django.conf import settings
settings.configure(INSTALLED_APPS={apps})
inspect.getmembers(signalbox)
django.setup()
print(set(signalbox.__all__) - dict(inspect.getmembers(signalbox)).keys() == set({missing}))
"""


def test_every_public_name_exists() -> None:
    for module in MODULES:
        for name in import_module(module).__all__:
            assert getattr(import_module(module), name) is not None


def test_a_misspelt_name_of_the_package_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'signalbox' has no attribute 'histroy'"):
        getattr(signalbox, "histroy")  # noqa: B009 - the type checker knows that there is none
    assert set(signalbox.__all__) <= set(dir(signalbox))


@pytest.mark.parametrize(("apps", "missing"), [([], "signalbox.__all__"), (["signalbox"], "[]")])
def test_every_name_that_is_listed_can_be_read(apps: list[str], missing: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}

    done = subprocess.run(
        [sys.executable, "-c", INSPECTED.format(apps=apps, missing=missing)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_the_package_is_imported_without_django() -> None:
    program = "import sys, signalbox; print([name for name in sys.modules if name.startswith('django')])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[]" == result.stdout.strip()


# ------------------------------------------------------------------ documentation


def read_reference() -> dict[str, set[str]]:
    """Return the names in the tables of the API reference, by module."""
    documented: dict[str, set[str]] = {}
    module = ""
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## (?:`([\w.]+)`|.+)", line):
            module = heading[1] or ""
        elif row := re.match(r"\| `(\w+)` \|" if module else r"\| `([\w.]+)` \| `(\w+)` \|", line):
            documented.setdefault(module or row[1], set()).add(row[1] if module else row[2])
    return documented


def test_the_reference_has_every_public_name_and_no_other() -> None:
    assert {module: set(import_module(module).__all__) for module in MODULES} == read_reference()


def read_directives() -> list[str]:
    """Return the names whose docstrings the API reference includes."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return re.findall(r"^\.\. (?:auto)?(?:function|class|exception|data):: ([\w.]+)$", text, re.MULTILINE)


def test_the_reference_includes_the_docstring_of_every_public_name_once() -> None:
    assert sorted(NAMES) == sorted(read_directives())


NOT_CALLED_BY_A_PROJECT = (
    *("signalbox.ObjectHistory", "signalbox.ObjectState", "signalbox.PurgeError"),
    *("signalbox.testing.RecordedEvent", "signalbox.testing.RecordedEvents"),
    *("signalbox.middleware.TraceMiddleware", "signalbox.logs.TraceFilter"),
    *("signalbox.urls.probe", "signalbox.contrib.prometheus.views.metrics", "signalbox.outbox.health.view"),
)
"""Results of functions, and what Django calls."""


def get_parameters(value: Any) -> list[str]:
    """Return the parameters with which a project calls a public name."""
    if isinstance(value, type) and (
        is_dataclass(value) or issubclass(value, BaseException | Enum | tuple) or value.__init__ is object.__init__
    ):
        return []
    return [f"{'*' * (one.kind is one.VAR_POSITIONAL)}{one.name}" for one in signature(value).parameters.values()]


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_has_every_parameter(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    value = getattr(import_module(module), attribute)
    if not callable(value):
        return
    text = getdoc(value) or ""
    listed = re.findall(r"^ {4}(\*{0,2}\w+): ", text.partition("Args:\n")[2].partition("\n\n")[0], re.MULTILINE)
    assert text
    if name not in NOT_CALLED_BY_A_PROJECT:
        # **options are listed by their names.
        parameters = [one for one in get_parameters(value) if one not in ("options", "args")]
        assert [] == [one for one in parameters if one not in listed]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_about_an_attribute_has_no_colon(name: str) -> None:
    """Sphinx takes the words before it for the type of the attribute."""
    module, _, attribute = name.rpartition(".")
    value = getattr(import_module(module), attribute)
    if not isinstance(value, type):
        return
    [tree] = ast.parse(dedent(getsource(value))).body
    assert isinstance(tree, ast.ClassDef)
    lines = [
        node.value.value.splitlines()[0]
        for node in tree.body[1:]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    properties = [one for one in vars(value).values() if isinstance(one, property)]
    lines += [text.splitlines()[0] for one in properties if (text := getdoc(one))]
    assert [] == [line for line in lines if ":" in re.sub(r"``.*?``", "", line)]


def find_used_names(text: str) -> set[str]:
    """Return the dotted names of this package that a document imports or mentions."""
    imported = {
        f"{module}.{name.strip()}"
        for module, names in re.findall(r"\bfrom (signalbox[\w.]*) import ([\w, ]+)", text)
        for name in names.split(",")
    }
    mentioned = re.findall(r"(?<![\w./-])signalbox(?:\.[A-Za-z]\w*)+", text)
    # Ids of checks, names of permissions, recorded operations and loggers, and attributes of spans have the same form.
    other = re.compile(r"signalbox\.(?:[DEW]\d{3}|(?:view|change|delete|export)_\w+)")
    unrelated = {*OPERATIONS, *loggers.NAMES, *(f"signalbox.{name}" for name in SPAN_ATTRIBUTES)}
    return {name for name in {*imported, *mentioned} - unrelated if not other.fullmatch(name)}


PANEL = "signalbox.contrib.debug_toolbar.panels.SignalboxPanel"
"""A name in a setting. It can be imported only with django-debug-toolbar."""


def is_public(name: str) -> bool:
    """Return True for a public name, its attributes, and a module or package of public names."""
    if name.startswith(("signalbox.pytest_plugin", "signalbox.contrib.opentelemetry", PANEL)):
        return True
    if any(f"{module}.".startswith(f"{name}.") for module in MODULES):
        return True
    module = max((module for module in MODULES if name.startswith(f"{module}.")), key=len)
    return name.removeprefix(f"{module}.").partition(".")[0] in import_module(module).__all__


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_a_name_that_the_documentation_uses_is_public(path: Path) -> None:
    used = find_used_names(path.read_text(encoding="utf-8"))
    assert [] == sorted(name for name in used if not is_public(name))


def test_names_are_found_in_a_document() -> None:
    text = "`signalbox.D001`, `signalbox.view_event`, `signalbox.revert(event)`, from signalbox.admin import A, B"
    assert {"signalbox.revert", "signalbox.admin", "signalbox.admin.A", "signalbox.admin.B"} == find_used_names(text)
    assert ["signalbox.revert", "signalbox.admin"] == [
        name for name in ("signalbox.revert", "signalbox.admin", "signalbox.admin.A") if is_public(name)
    ]
