"""The page of each rule: its examples are projects that the doctor examines."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from signalbox.doctor.rules import RULES, Rule
from tests.doctor.sites import examine_project, summarize_findings
from tests.doctor.test_report import finding

PAGES = Path(__file__).parents[2] / "docs" / "rules"
SECTIONS = ["What happens", "Broken", "Fixed", "How the doctor finds it", "Limits", "Silence it"]

PROJECT = {
    "settings.py": """
import os
from pathlib import Path
SECRET_KEY = "not a secret"
DEBUG = os.environ["DEBUG"] == "1"
INSTALLED_APPS = ["signalbox", "django.contrib.auth", "django.contrib.contenttypes", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).with_name("db.sqlite3")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
""",
    "shop/__init__.py": "",
    "shop/apps.py": """
import importlib.util
from django.apps import AppConfig
class ShopConfig(AppConfig):
    name = "shop"
    def ready(self):
        from shop import receivers
""",
    "shop/receivers.py": "",
    "shop/models.py": """
from django.db import models
class Tag(models.Model):
    name = models.CharField(max_length=20)
class Order(models.Model):
    number = models.CharField(max_length=20)
    total = models.IntegerField(default=0)
    tags = models.ManyToManyField(Tag)
""",
}
"""The project that the examples are a part of: an app that imports its receivers in ready(), and two models."""

SETUP = """
from django.core.management import call_command
from shop.models import Order
from signalbox.models import Delivery
call_command("migrate", run_syncdb=True, verbosity=0)
"""

WORK = {
    "D016": """
try:
    Order.objects.create(number="B-7")
except KeyError:
    pass
""",
    "D017": """
for number in range(20):
    Order.objects.create(number=number)
""",
    "D022": """
Delivery.objects.create(
    receiver="shop.receivers.send_invoice", queue="default", span=1, run_at=1, created=1, payload={}, state="pending",
    deferred_since=1,
)
""",
    "D023": """
Order.objects.create(number="A-1")
call_command("signalbox", "work", "--burst")
""",
}
"""What a site does before the doctor runs, for the rules that read recorded events and deliveries."""

PARAMETERS = [
    pytest.param(rule, id=rule.id, marks=() if rule.name == "shadowed-receiver" else pytest.mark.slow)
    for rule in RULES.values()
]
"""Each examination starts a process."""


def get_number(rule: Rule) -> str:
    return rule.id.removeprefix("signalbox.")


def read_page(rule: Rule) -> str:
    return (PAGES / f"{get_number(rule)}.md").read_text(encoding="utf-8")


def read_section(page: str, title: str) -> str:
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def write_project(folder: Path, rule: Rule, section: str) -> Path:
    """Write the project of an example."""
    blocks = re.findall(r"```python\n# (shop/\w+\.py)\n(.*?)```", read_section(read_page(rule), section), re.DOTALL)
    assert blocks
    for name, text in {**PROJECT, **dict(blocks)}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if work := WORK.get(get_number(rule)):
        (folder / "work.py").write_text(SETUP + work, encoding="utf-8")
    return folder


def find_rules(project: Path, rule: Rule) -> list[str]:
    options: dict[str, Any] = {"use_recorded_events": True, "before": "work"} if get_number(rule) in WORK else {}
    findings = examine_project(project, debug=False, **options)
    return [number for _, _, number in summarize_findings(findings)]


@pytest.mark.parametrize("rule", PARAMETERS)
def test_the_doctor_finds_only_this_rule_in_the_broken_example(rule: Rule, tmp_path: Path) -> None:
    assert [get_number(rule)] == find_rules(write_project(tmp_path, rule, "Broken"), rule)


@pytest.mark.parametrize("rule", PARAMETERS)
def test_the_doctor_finds_nothing_in_the_fixed_example(rule: Rule, tmp_path: Path) -> None:
    assert [] == find_rules(write_project(tmp_path, rule, "Fixed"), rule)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_page_names_its_rule_and_has_every_section(rule: Rule) -> None:
    page = read_page(rule)

    assert page.startswith(f"# {get_number(rule)}: {rule.name}\n\n`{rule.id}`, severity {rule.severity.label}. ")
    assert SECTIONS == re.findall(r"^## (.+)$", page, re.MULTILINE)


def test_every_rule_has_a_page_and_no_page_is_without_a_rule() -> None:
    numbers = ["D000", *(get_number(rule) for rule in RULES.values())]
    assert numbers == sorted(path.stem for path in PAGES.glob("*.md"))


def test_a_finding_links_to_the_published_page_of_its_rule() -> None:
    address = tomllib.loads((PAGES.parents[1] / "pyproject.toml").read_text())["project"]["urls"]["Documentation"]

    assert f"{address}rules/D009.html" == finding().url
