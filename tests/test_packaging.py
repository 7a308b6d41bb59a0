from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from signalbox import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    with ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_says_that_it_is_typed(wheel: set[str]) -> None:
    assert "signalbox/py.typed" in wheel


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: set[str]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    package = {name.removeprefix("src/") for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    shipped = {name for name in wheel if ".dist-info/" not in name}
    assert package == shipped


def test_the_wheel_carries_the_licence(wheel: set[str]) -> None:
    assert f"django_signalbox-{__version__}.dist-info/licenses/LICENSE" in wheel


def test_files_that_git_ignores_are_not_in_the_sdist() -> None:
    """Hatchling reads only the file at the root."""
    listed = subprocess.run(["git", "ls-files", "*.gitignore"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert [".gitignore"] == listed.stdout.split()


def test_django_is_the_only_required_dependency() -> None:
    requirements = [Requirement(text) for text in metadata.requires("django-signalbox") or []]
    assert ["django"] == [requirement.name.lower() for requirement in requirements if not requirement.marker]


def test_the_extras_are_those_that_the_project_promises() -> None:
    assert {"fast", "celery", "tasks", "cli", "metrics", "otel", "debug-toolbar"} == set(
        metadata.metadata("django-signalbox").get_all("Provides-Extra", [])
    )


def test_the_version_is_the_newest_of_the_changelog_or_still_to_be_released() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [Version(heading) for heading in headings if heading != "Unreleased"]
    assert "Unreleased" == headings[0]
    assert sorted(released, reverse=True) == released
    assert all(version <= Version(__version__) for version in released)
    assert __version__ == metadata.version("django-signalbox")


def test_every_python_of_the_classifiers_is_in_the_matrix() -> None:
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    djangos = re.findall(r"Django :: (\d\.\d+)", "\n".join(PROJECT["classifiers"]))
    matrix = re.search(r"^MATRIX \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert matrix is not None
    assert [f"{python}/{django}" for python, django in zip(pythons, djangos, strict=True)] == matrix[1].split()


def test_constraints_are_exact_versions_without_an_address() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [] == [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]


def test_constraints_leave_django_to_the_matrix() -> None:
    names = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert "django" not in names


def test_every_tool_of_the_dependency_groups_is_pinned() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = [Requirement(entry) for group in groups.values() for entry in group if isinstance(entry, str)]
    assert [] == sorted({requirement.name.lower() for requirement in wanted} - pinned)
