"""The comparison with other packages: its documents agree with its results, and its claims about Signalbox are true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import document_tables
from benchmarks.comparison import report
from benchmarks.comparison.peers import BARE, DATABASES, PEERS

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "comparison" / "requirements"


def read_pins(name: str) -> dict[str, str]:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    pins = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {package.partition("[")[0]: version for package, _, version in pins}


def test_the_page_shows_the_tables_of_the_results() -> None:
    assert report.build_comparison(report.read_results()) == document_tables.read(report.DOCUMENT, "comparison").strip()


def test_the_readme_shows_a_part_of_the_same_results() -> None:
    assert report.build_summary(report.read_results()) == document_tables.read(report.README, "comparison").strip()


def test_every_package_is_measured_on_its_databases_with_its_pinned_version() -> None:
    results = report.read_results()
    for database in DATABASES:
        names = {peer.name for peer in PEERS if database in peer.databases}
        measured = [figure for figure in results["figures"] if figure["database"] == database]
        assert [operation.name for operation in report.OPERATIONS] == [figure["operation"] for figure in measured]
        assert all(names == set(figure["ratios"]) for figure in measured)
        assert names == set(results["observed"][database])
        assert names | {BARE.name} == set(results["bytes"][database])
    for peer in (BARE, *PEERS):
        if peer.distribution:
            assert read_pins(peer.name)[peer.distribution] == results["versions"][peer.name]


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.iterdir()), ids=lambda path: path.name)
def test_the_pins_of_an_environment_are_exact_and_name_no_registry(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert re.fullmatch(r"#.*|[a-z_-]+(\[[a-z]+\])?==[0-9.a-z]+", line), line


def test_a_lost_record_and_one_without_its_row_are_described_as_such() -> None:
    lost = report.describe_crashes({"crashes": 11, "lost": 6, "phantom": 0})
    phantom = report.describe_crashes({"crashes": 4, "lost": 0, "phantom": 1})
    kept = report.describe_crashes({"crashes": 4, "lost": 0, "phantom": 0})
    assert ["lost at 6 of 11 moments", "record without row at 1 of 4 moments", "kept"] == [lost, phantom, kept]


def test_a_record_of_a_change_that_was_rolled_back_is_described_by_what_it_says() -> None:
    silent = report.describe_rollback({"rows": 1, "rolled_back": 0})
    marked = report.describe_rollback({"rows": 1, "rolled_back": 1})
    none = report.describe_rollback({"rows": 0, "rolled_back": 0})
    assert ["a record of a change that did not happen", "1 record, marked as rolled back", "no record"] == [
        silent,
        marked,
        none,
    ]


def run_site(database: str) -> dict[str, dict[str, Any]]:
    """Return what this version of Signalbox stores of each operation."""
    name = f"signalbox_comparison_{os.getpid()}"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "benchmarks.comparison.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        "SIGNALBOX_COMPARISON_PEER": "signalbox",
        "SIGNALBOX_COMPARISON_DATABASE": database,
        "SIGNALBOX_COMPARISON_NAME": name,
    }
    command = [sys.executable, "-m", "benchmarks.comparison.site"]
    run = subprocess.run(
        command,
        check=False,
        input='["observe_all"]\n',
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert 0 == run.returncode, run.stderr
    observed: dict[str, dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    return observed


@pytest.mark.slow
def test_signalbox_stores_what_the_comparison_says() -> None:
    database = "postgres" if "postgres" in os.environ.get("SIGNALBOX_TEST_DB", "") else "sqlite"
    published = report.read_results()["observed"][database]["signalbox"]
    observed = run_site(database)
    for question in report.QUESTIONS:
        name = question.observation
        assert question.describe(published[name]) == question.describe(observed[name]), question.title
