"""One examination: which rules are asked, whose findings are shown, and what a mistake in a rule costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from django.core.signals import request_finished

from signalbox.doctor import Severity, examine
from signalbox.doctor.project import Project
from signalbox.doctor.rules import RULES, Fault, Rule
from tests.doctor.sites import PROJECTS
from tests.doctor.sites import examine as examine_project


def _raise(project: Project) -> Iterator[Fault]:
    raise LookupError("a mistake")


def _find(project: Project) -> Iterator[Fault]:
    yield Fault(path="", line=0, signal="post_save", happens="Nothing.", why="It is a test.", remedy="None.")


def _rule(name: str, find: Callable[[Project], Iterator[Fault]]) -> Rule:
    return Rule(
        id=f"signalbox.{name}",
        name=name,
        severity=Severity.ERROR,
        packages=True,
        records=False,
        finds="",
        find=find,
    )


def test_a_rule_that_raises_is_named_and_logged_and_costs_no_other_findings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(RULES, "broken", _rule("broken", _raise))
    monkeypatch.setitem(RULES, "sound", _rule("sound", _find))

    with caplog.at_level(logging.ERROR, "signalbox.doctor"):
        sound, failed = examine(rules=["broken", "sound"], records=False)

    assert ("signalbox.sound", "Nothing.") == (sound.id, sound.happens)
    assert ("signalbox.D000", Severity.WARNING) == (failed.id, failed.severity)
    assert "The rule broken (signalbox.broken) failed and found nothing: LookupError." == failed.happens
    assert "The doctor's rule broken failed." in caplog.text


@pytest.mark.parametrize("name", ["secret", "signalbox.D009", "D009"])
def test_a_rule_is_asked_by_its_name_or_id(name: str) -> None:
    findings = examine_project(PROJECTS / "defects", debug=False, rules=[name])

    assert {"secret"} == {finding["rule"] for finding in findings}
    assert {"shop/secrets.py"} == {finding["place"].rpartition(":")[0] for finding in findings}


def test_an_unknown_rule_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"There is no rule 'secrets'. The rules are: dead-receiver, shadowed-receiver"
    ):
        examine(rules=["secrets"])


def test_an_unknown_app_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"There is no app 'shopp'. Installed are: .*signalbox"):
        examine(apps=["shopp"], records=False)


def test_the_findings_of_one_app_are_its_own() -> None:
    findings = examine_project(PROJECTS / "defects", debug=False, apps=["quiet", "auth"])

    assert {"quiet", "auth"} >= {finding["app"] for finding in findings}


def test_the_worst_come_first() -> None:
    ranks = {"error": 0, "warning": 1, "info": 2}

    severities = [ranks[f["severity"]] for f in examine_project(PROJECTS / "defects", debug=False)]

    assert sorted(severities) == severities
    assert {0, 1, 2} == set(severities)


def test_a_finding_shows_the_source_around_its_place() -> None:
    finding = next(
        f
        for f in examine_project(PROJECTS / "seed_site", debug=False, settings="builtinsignals.settings")
        if f["id"].endswith("2")
    )

    assert "shadowed-receiver" == finding["rule"]
    assert "blog.signals.log_out" == finding["receiver"]
    assert "user_logged_out" == finding["signal"]
    marked = [line for line in finding["excerpt"] if line["marked"]]
    assert ["@receiver(user_logged_out, sender=User)  # D002"] == [line["text"] for line in marked]
    assert 5 == len(finding["excerpt"])


def test_a_shadowed_receiver_is_told_apart_with_debug_on_and_off() -> None:
    def happens(*, debug: bool) -> str:
        findings = examine_project(PROJECTS / "defects", debug=debug, rules=["shadowed-receiver"])
        return str(next(f["happens"] for f in findings if f["receiver"].endswith("twin")))

    assert happens(debug=True).startswith("This twin never runs in production. It works as long as DEBUG is on")
    assert happens(debug=False).startswith("This twin never runs. With DEBUG on it would, by accident")


def test_the_doctor_changes_no_list_of_receivers() -> None:
    before = list(request_finished.receivers)

    examine(records=False)

    assert before == list(request_finished.receivers)
