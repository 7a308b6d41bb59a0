"""Examines the fixture projects, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

PROJECTS_DIR = Path(__file__).parent / "projects"
SRC_DIR = Path(__file__).parents[2] / "src"

_EXAMINE_SCRIPT = """
import importlib, json, sys
import django
django.setup()
from signalbox.doctor import examine
options = json.loads(sys.argv[1])
if before := options.pop("before", None):
    importlib.import_module(before)
for finding in examine(**options):
    print(json.dumps(finding.to_dict()), file=sys.stderr)
"""


def examine_project(project: Path, *, debug: bool, settings: str = "settings", **options: Any) -> list[dict[str, Any]]:
    """Return the findings on a project, examined in a process of its own.

    The option ``before`` names a module to import first.
    """
    lines = _run_examination(project, json.dumps({"use_recorded_events": False, **options}), debug, settings)
    return [json.loads(line) for line in lines]


@cache
def _run_examination(project: Path, options: str, debug: bool, settings: str) -> tuple[str, ...]:
    """Return the lines of one examination. The result is cached, as several tests use it."""
    done = run_python(project, ["-c", _EXAMINE_SCRIPT, options], debug=debug, settings=settings)
    assert 0 == done.returncode, done.stderr
    return tuple(line for line in done.stderr.splitlines() if line.startswith("{"))


def run_python(
    project: Path, arguments: Sequence[str], *, debug: bool, settings: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a project's directory."""
    environment = {
        **os.environ,
        "DEBUG": str(int(debug)),
        "DJANGO_SETTINGS_MODULE": settings,
        "PYTHONPATH": os.pathsep.join([str(project), str(SRC_DIR)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(  # our own interpreter and fixtures
        [sys.executable, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read_expected_findings(project: Path) -> list[tuple[str, int, str]]:
    """Return file, line and rule of each finding that a comment of the project announces.

    ``# D002 D014`` announces findings in its own line. ``# no location: D022`` announces one without file and line.
    """
    found = []
    for path in project.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            comment = re.search(r"# (no location: )?((?:D\d{3} ?)+)$", line)
            if comment:
                place = ("", 0) if comment[1] else (str(path.relative_to(project)), number)
                found += [(*place, rule) for rule in comment[2].split()]
    return sorted(found)


def summarize_findings(findings: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """Return file, line and id of each finding."""
    locations = (finding["location"].rpartition(":") for finding in findings)
    return sorted(
        (path, int(line or 0), finding["id"].removeprefix("signalbox."))
        for (path, _, line), finding in zip(locations, findings, strict=True)
    )
