"""A site does the same with and without Signalbox, beside each of the packages that sites have.

It needs ``tests/neighbours/requirements.txt`` installed, to the version, as ``make neighbours`` does; else it is
skipped, or fails where SIGNALBOX_REQUIRE_NEIGHBOURS is set.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.neighbours.comparing import (
    differences,
    with_sorted_keys,
    without_begin,
    without_measurements,
    without_repetition,
    without_returning,
)
from tests.neighbours.sites import SITES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PINS = re.findall(r"^([\w-]+)(?:\[[\w,]+\])?==(\S+)$", (HERE / "requirements.txt").read_text(), re.MULTILINE)
CASES = [
    (name, database, place) for name, site in SITES.items() for database in site.databases for place in site.places
]
SHOWN = 20
"""Differences that a failure shows; it says how many more there are."""


def differing() -> list[str]:
    """Return the packages that are missing here, or installed in another version."""
    found = []
    for name, version in PINS:
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "not installed"
        if installed != version:
            found.append(f"{name}=={version} ({installed})")
    return found


def parameters() -> list[Any]:
    # What a case has observed is asked for by several tests: they run in one process.
    return [
        pytest.param(*case, id=" ".join(case), marks=pytest.mark.xdist_group(f"{case[0]} {case[1]}")) for case in CASES
    ]


pytestmark = [pytest.mark.slow, pytest.mark.parametrize(("name", "database", "place"), parameters())]


@pytest.fixture(autouse=True)
def _neighbours(name: str, database: str) -> None:
    if missing := differing():
        needed = f"needs neighbours/requirements.txt ({len(missing)} differ, {missing[0]} first): run `make neighbours`"
        if os.environ.get("SIGNALBOX_REQUIRE_NEIGHBOURS"):
            pytest.fail(f"{needed} (SIGNALBOX_REQUIRE_NEIGHBOURS is set)", pytrace=False)
        pytest.skip(needed)
    for service in (*SITES[name].services, *(["postgres"] if database == "postgres" else [])):
        if reason := services.get_unavailable_reason(service):
            if services.are_services_required():
                pytest.fail(f"{reason} (SIGNALBOX_REQUIRE_SERVICES is set)", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the sites' databases and records."""
    return tmp_path_factory.mktemp("neighbours")


@cache
def observed(name: str, database: str, place: str, directory: Path) -> dict[str, Any]:
    """Return what the site of a neighbour does, in a process of its own, with Signalbox in ``place``."""
    result = directory / f"{name}-{database}-{place}.json"
    with _database(name, database, place, directory) as database_name:
        environment = {
            **os.environ,
            "NEIGHBOUR": name,
            "NEIGHBOUR_DATABASE": database,
            "NEIGHBOUR_NAME": database_name,
            "NEIGHBOUR_SIGNALBOX": place,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "PYTHONHASHSEED": "0",
        }
        done = subprocess.run(  # our own interpreter and module
            [sys.executable, "-m", "tests.neighbours.run", str(result)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(result.read_text())
    return found


@contextmanager
def _database(name: str, database: str, place: str, directory: Path) -> Iterator[str]:
    """Yield the name of an empty database."""
    if database == "sqlite":
        yield str(directory / f"{name}-{place}.sqlite3")
        return
    import psycopg

    found = f"signalbox_neighbours_{os.getpid()}_{name}_{place}"
    with psycopg.connect(services.ADDRESSES["postgres"], autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {found}")
        try:
            yield found
        finally:
            connection.execute(f"DROP DATABASE {found} WITH (FORCE)")


def compare(what: str, without: Any, with_it: Any) -> None:
    """Fail with the differences between two records."""
    found = list(differences(what, *(with_sorted_keys(without_returning(one)) for one in (without, with_it))))
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        pytest.fail("\n".join([f"{len(found)} differences", *found[:SHOWN], *more]), pytrace=False)


def test_results_exceptions_and_signals_are_the_same(name: str, database: str, place: str, directory: Path) -> None:
    without, with_it = (observed(name, database, where, directory) for where in ("absent", place))
    kept = [
        {step: {key: value for key, value in did.items() if key != "statements"} for step, did in one["steps"].items()}
        for one in (without, with_it)
    ]

    compare("step", *kept)
    compare("log", without["log"], with_it["log"])


def test_statements_are_the_same(name: str, database: str, place: str, directory: Path) -> None:
    without, with_it = (observed(name, database, where, directory) for where in ("absent", place))
    kept = [{step: did["statements"] for step, did in one["steps"].items()} for one in (without, with_it)]

    assert any(kept[0].values())
    if name == "cachalot":
        # It drops its results at each write, but not those of a write that fails in a block, as it does with
        # ``AUTOCOMMIT = "atomic"``. The next read is then answered from the cache, correctly: nothing was written.
        for step in kept[0]:
            if step.startswith("cache after a create that fails"):
                kept[0][step] = without_repetition(kept[0][step])
    compare("step", *(without_measurements(steps) if name == "silk" else steps for steps in kept))


def test_the_neighbour_records_and_stores_the_same(name: str, database: str, place: str, directory: Path) -> None:
    without, with_it = (observed(name, database, where, directory) for where in ("absent", place))

    assert any(without["rows"].values())
    recorded = with_it["neighbour"]
    compare("recorded", without["neighbour"], without_begin(recorded) if database == "sqlite" else recorded)
    compare("rows of", without["rows"], with_it["rows"])


def test_signalbox_records_the_work_without_warnings(name: str, database: str, place: str, directory: Path) -> None:
    without, with_it = (observed(name, database, where, directory) for where in ("absent", place))
    sent = {(signal, sender) for signal, sender in with_it["sent"] if not signal.startswith("pre_")}

    assert without["loaded"] == []  # Signalbox's modules, on the site without it
    assert with_it["complaints"] == []
    assert sent - {(signal, sender) for signal, sender, _ in with_it["recorded"]} == set()
    assert not any(signal.startswith("of ") for signal, _, _ in with_it["recorded"])  # another tenant's rows
