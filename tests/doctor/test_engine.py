"""An examination: the selection of rules and findings, and the failure of a rule."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.signals import request_finished

from signalbox.doctor import Severity, examine
from signalbox.doctor.project import Project
from signalbox.doctor.rules import RULES, Fault, Rule
from tests.doctor.sites import PROJECTS_DIR, examine_project


def _raise(project: Project) -> Iterator[Fault]:
    raise LookupError("a mistake")


def _find(project: Project) -> Iterator[Fault]:
    yield Fault(path="", line=0, signal="post_save", message="Nothing.", reason="It is a test.", hint="None.")


def _find_here(project: Project) -> Iterator[Fault]:
    line = next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.startswith("TOKEN"))
    yield Fault(
        path=__file__, line=line, signal="", receiver="partial(f, token='ab12')", message="", reason="", hint=""
    )


TOKEN = "sk_live_hunter2"


def _rule(name: str, find: Callable[[Project], Iterator[Fault]]) -> Rule:
    return Rule(
        id=f"signalbox.{name}",
        name=name,
        severity=Severity.ERROR,
        include_packages=True,
        needs_recorded_events=False,
        description="",
        check=find,
    )


def test_a_rule_that_raises_is_named_and_logged_and_costs_no_other_findings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(RULES, "broken", _rule("broken", _raise))
    monkeypatch.setitem(RULES, "sound", _rule("sound", _find))

    with caplog.at_level(logging.ERROR, "signalbox.doctor"):
        failed, sound = examine(rules=["broken", "sound"], use_recorded_events=False)

    assert ("signalbox.sound", "Nothing.") == (sound.id, sound.message)
    assert ("signalbox.D000", Severity.ERROR) == (failed.id, failed.severity)
    assert "The rule broken (signalbox.broken) failed and found nothing: LookupError." == failed.message
    assert "The doctor's rule broken failed." in caplog.text


@pytest.mark.parametrize("name", ["exposed-secret", "signalbox.D009", "D009"])
def test_a_rule_is_selected_by_its_name_or_id(name: str) -> None:
    findings = examine_project(PROJECTS_DIR / "defects", debug=False, rules=[name])

    assert {"exposed-secret"} == {finding["rule"] for finding in findings}
    assert {"shop/secrets.py"} == {finding["location"].rpartition(":")[0] for finding in findings}


def test_an_unknown_rule_is_refused_with_the_known_rules() -> None:
    with pytest.raises(ValueError, match=r"Unknown rule 'secrets'. Known rules: dead-receiver, shadowed-receiver"):
        examine(rules=["secrets"])


def test_an_unknown_app_is_refused_with_the_known_apps() -> None:
    with pytest.raises(ValueError, match=r"Unknown app 'shopp'. Known apps: .*signalbox"):
        examine(apps=["shopp"], use_recorded_events=False)


def test_only_findings_of_the_selected_app_are_reported() -> None:
    findings = examine_project(PROJECTS_DIR / "defects", debug=False, apps=["quiet", "auth"])

    assert {"quiet", "auth"} >= {finding["app"] for finding in findings}


def test_the_most_severe_findings_come_first() -> None:
    ranks = {"error": 0, "warning": 1, "info": 2}

    severities = [ranks[f["severity"]] for f in examine_project(PROJECTS_DIR / "defects", debug=False)]

    assert sorted(severities) == severities
    assert {0, 1, 2} == set(severities)


def test_a_finding_shows_the_source_around_its_location() -> None:
    finding = next(
        f
        for f in examine_project(PROJECTS_DIR / "seed_site", debug=False, settings="builtinsignals.settings")
        if f["id"].endswith("2")
    )

    assert "shadowed-receiver" == finding["rule"]
    assert "blog.signals.log_out" == finding["receiver"]
    assert "user_logged_out" == finding["signal"]
    highlighted = [line for line in finding["excerpt"] if line["highlighted"]]
    assert ["@receiver(user_logged_out, sender=User)  # D002"] == [line["text"] for line in highlighted]
    assert 5 == len(finding["excerpt"])


def test_a_shadowed_receiver_has_another_message_with_debug_on_and_off() -> None:
    def get_message(*, debug: bool) -> str:
        findings = examine_project(PROJECTS_DIR / "defects", debug=debug, rules=["shadowed-receiver"])
        return str(next(f["message"] for f in findings if f["receiver"].endswith("twin")))

    assert get_message(debug=True).startswith("This twin never runs in production. It works by accident while DEBUG")
    assert get_message(debug=False).startswith("This twin never runs. With DEBUG on it would run by accident")


_SETTINGS = """
import os

SECRET_KEY = "a patient's"
DEBUG = os.environ["DEBUG"] == "1"
INSTALLED_APPS = ["shop"]
"""
_POPPED = """
from django.apps import AppConfig
from django.db.backends.signals import connection_created


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        handlers = [make()]
        connection_created.connect(handlers.pop())


def make():
    def made(sender, **kwargs):
        pass

    return made
"""


def popped(directory: Path) -> Path:
    """Write a project whose source does not show how it connects a receiver."""
    (directory / "shop").mkdir()
    (directory / "settings.py").write_text(_SETTINGS)
    (directory / "shop" / "__init__.py").touch()
    (directory / "shop" / "apps.py").write_text(_POPPED)
    return directory


def test_a_receiver_that_only_the_cache_references_is_found_with_debug_on(tmp_path: Path) -> None:
    (finding,) = examine_project(popped(tmp_path), debug=True)

    assert ("signalbox.D001", "shop/apps.py:15", "shop.apps.make.<locals>.made", "error") == (
        finding["id"],
        finding["location"],
        finding["receiver"],
        finding["severity"],
    )
    assert finding["message"].startswith("The receiver never runs in production. It works by accident while DEBUG")


@pytest.mark.parametrize("apps", [None, ["shop"]])
def test_with_debug_off_it_is_reported_as_collected_whichever_apps_are_named(
    tmp_path: Path, apps: list[str] | None
) -> None:
    (finding,) = examine_project(popped(tmp_path), debug=False, apps=apps)

    assert ("signalbox.D001", "", "connection_created") == (finding["id"], finding["location"], finding["signal"])


def test_the_garbage_collector_works_again_afterwards_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[bool] = []

    def find(project: Project) -> Iterator[Fault]:
        during.append(gc.isenabled())
        return iter(())

    monkeypatch.setitem(RULES, "sound", _rule("sound", find))

    examine(rules=["sound"], use_recorded_events=False)
    assert ([False], True) == (during, gc.isenabled())

    gc.disable()
    try:
        examine(rules=["sound"], use_recorded_events=False)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_doctor_changes_no_list_of_receivers() -> None:
    before = list(request_finished.receivers)

    examine(use_recorded_events=False)

    assert before == list(request_finished.receivers)


def test_imports_of_a_urlconf_outside_of_apps_run_with_the_first_request() -> None:
    findings = examine_project(PROJECTS_DIR / "defects", debug=False, rules=["never-imported"])

    severities = {finding["location"].rpartition(":")[0]: finding["severity"] for finding in findings}
    assert ("warning", "error") == (severities["shop/views.py"], severities["shop/forgotten.py"])


def test_source_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "here", _rule("here", _find_here))

    (finding,) = examine(rules=["here"], use_recorded_events=False)

    assert ['TOKEN = "[redacted]"'] == [line.text for line in finding.excerpt if line.highlighted]
    assert "ab12" not in finding.receiver
