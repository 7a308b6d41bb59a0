"""The rules against whole projects: one with every defect, one with harmless look-alikes, and the seed project."""

from __future__ import annotations

import re

import pytest

from signalbox.doctor.rules import RULES
from tests.doctor.sites import PROJECTS_DIR, examine_project, read_expected_findings, summarize_findings

debug_on_and_off = pytest.mark.parametrize("debug", [True, False], ids=["DEBUG on", "DEBUG off"])


@debug_on_and_off
@pytest.mark.parametrize(
    ("project", "settings"),
    [("defects", "settings"), ("near_misses", "settings"), ("seed_site", "builtinsignals.settings")],
)
def test_a_project_has_exactly_the_findings_that_its_comments_say(project: str, settings: str, debug: bool) -> None:
    findings = examine_project(PROJECTS_DIR / project, settings=settings, debug=debug)

    assert read_expected_findings(PROJECTS_DIR / project) == summarize_findings(findings)


@pytest.mark.slow
@debug_on_and_off
def test_recorded_events_and_deliveries_show_raising_slow_and_dead_receivers(debug: bool) -> None:
    findings = examine_project(PROJECTS_DIR / "recorded", debug=debug, use_recorded_events=True, before="work")

    assert read_expected_findings(PROJECTS_DIR / "recorded") == summarize_findings(findings)
    messages = {finding["id"].removeprefix("signalbox."): finding["message"] for finding in findings}
    assert "It raised in 1 of 1 recorded runs, last: LookupError: no such group." == messages["D016"]
    found = re.fullmatch(r"Of 20 recorded runs, one in twenty took more than (\d+) ms\.", messages["D017"])
    assert found is not None
    assert int(found[1]) >= 100  # the rest is the machine's


def test_every_rule_has_a_defect_among_the_fixtures() -> None:
    found = {
        rule for project in ("defects", "recorded") for _, _, rule in read_expected_findings(PROJECTS_DIR / project)
    }

    assert {rule.id.removeprefix("signalbox.") for rule in RULES.values()} == found
