"""The doctor on the command line: its options, its output, its exit code."""

from __future__ import annotations

import io
import json
import subprocess
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.core.management import CommandError

from signalbox.doctor.project import Project
from signalbox.doctor.rules import RULES, Fault
from signalbox.management.subcommands import doctor as doctor_command
from tests.doctor.sites import PROJECTS_DIR, run_python
from tests.json_tables import find_differences, read_types

_RUN = """
import sys
from argparse import ArgumentParser
import django
django.setup()
from signalbox.management.subcommands import doctor
parser = ArgumentParser()
doctor.add_arguments(parser)
sys.exit(doctor.run(vars(parser.parse_args()), sys.stdout))
"""


def doctor(*arguments: str, project: str = "seed_site") -> subprocess.CompletedProcess[str]:
    settings = "builtinsignals.settings" if project == "seed_site" else "settings"
    return run_python(PROJECTS_DIR / project, ["-c", _RUN, *arguments], debug=False, settings=settings)


def options(*arguments: str) -> dict[str, Any]:
    parser = ArgumentParser()
    doctor_command.add_arguments(parser)
    return vars(parser.parse_args(arguments))


def test_it_prints_the_report_and_succeeds() -> None:
    done = doctor()

    assert 0 == done.returncode, done.stderr
    assert "blog/signals.py:" in done.stdout
    assert "> " in done.stdout
    assert done.stdout.endswith("The doctor found 1 error, 4 warnings, 2 notes.\n")


def test_json_gives_each_finding_on_a_line_of_its_own() -> None:
    found = [json.loads(line) for line in doctor("--json").stdout.splitlines()]

    assert ["shadowed-receiver", *["exposed-secret"] * 3, "wrong-signature"] == [
        f["rule"] for f in found if f["severity"] != "info"
    ]
    assert [] == find_differences(read_types("Finding"), found)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--fail-on", "error"], 1),
        (["--fail-on", "warning"], 1),
        (["--fail-on", "error", "--rule", "exposed-secret"], 0),
        (["--fail-on", "warning", "--rule", "exposed-secret"], 1),
        (["--fail-on", "warning", "--rule", "connected-twice"], 0),
        (["--rule", "shadowed-receiver"], 0),
    ],
)
def test_it_fails_from_the_requested_severity_on(arguments: list[str], code: int) -> None:
    assert code == doctor(*arguments).returncode


@pytest.mark.parametrize("level", ["warning", "error"])
def test_it_fails_at_any_severity_where_a_rule_has_failed_itself(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    def fail(project: Project) -> Iterator[Fault]:
        raise LookupError("a mistake")

    monkeypatch.setitem(RULES, "exposed-secret", replace(RULES["exposed-secret"], check=fail))

    assert 1 == doctor_command.run(options("--rule", "exposed-secret", "--fail-on", level), io.StringIO())


def test_a_healthy_project_gets_one_line() -> None:
    assert "The doctor found nothing.\n" == doctor("--fail-on", "warning", project="near_misses").stdout


def test_rules_and_apps_may_be_named_several_times() -> None:
    found = options("--rule", "exposed-secret", "--rule", "D002", "--app", "blog", "--app", "auth")

    assert (["exposed-secret", "D002"], ["blog", "auth"]) == (found["rule"], found["app"])


def test_the_help_names_every_rule() -> None:
    parser = ArgumentParser(prog="doctor")
    doctor_command.add_arguments(parser)
    words = parser.format_help().replace(",", " ").split()

    assert [] == [name for name in RULES if name not in "".join(words)]


@pytest.mark.parametrize("arguments", [["--rule", "nothing"], ["--app", "nothing"]])
def test_a_name_that_is_not_there_is_an_error_of_the_command(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="nothing") as raised:
        doctor_command.run(
            {**options(*arguments), "rule": options(*arguments)["rule"] or ["exposed-secret"]}, io.StringIO()
        )
    assert 2 == raised.value.returncode
