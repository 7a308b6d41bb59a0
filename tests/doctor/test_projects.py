"""The rules against whole projects: one with every defect, one with what only looks like one, and the seed's."""

from __future__ import annotations

import pytest

from tests.doctor.sites import PROJECTS, actual, examine, expected

debug_on_and_off = pytest.mark.parametrize("debug", [True, False], ids=["DEBUG on", "DEBUG off"])


@debug_on_and_off
@pytest.mark.parametrize(
    ("project", "settings"),
    [("defects", "settings"), ("near_misses", "settings"), ("seed_site", "builtinsignals.settings")],
)
def test_a_project_has_exactly_the_findings_that_its_comments_say(project: str, settings: str, debug: bool) -> None:
    findings = examine(PROJECTS / project, settings=settings, debug=debug)

    assert expected(PROJECTS / project) == actual(findings)
