"""The findings of the doctor in popular packages are correct and listed in its documentation.

It needs ``tests/doctor/popular-packages.txt`` installed, to the version, as ``make wild`` does; else it is skipped, or
fails where SIGNALBOX_REQUIRE_PACKAGES is set.
"""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

import pytest

from tests.doctor.sites import PROJECTS_DIR, examine_project
from tests.doctor.test_docs import PAGE

PINS = re.findall(
    r"^([\w-]+)(?:\[[\w,]+\])?==(\S+)$", (Path(__file__).parent / "popular-packages.txt").read_text(), re.MULTILINE
)
APPS = """wagtailforms wagtailredirects wagtailsearchpromotions wagtailsettings wagtailembeds wagtailsites wagtailusers
wagtailsnippets wagtaildocs wagtailimages wagtailsearch wagtailadmin wagtailcore modelcluster modelsearch taggit admin
admindocs auth contenttypes flatpages humanize messages redirects sessions sitemaps sites staticfiles syndication
rest_framework authtoken allauth account mfa socialaccount usersessions debug_toolbar guardian simple_history actstream
auditlog axes easy_thumbnails easyaudit imagekit oauth2_provider organizations reversion silk waffle""".split()


def differing() -> list[str]:
    found = []
    for name, version in PINS:
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "not installed"
        if installed != version:
            found.append(f"{name}=={version} ({installed})")
    return found


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _packages() -> None:
    if missing := differing():
        reason = f"needs popular-packages.txt ({len(missing)} differ, {missing[0]} first): run `make wild`"
        if os.environ.get("SIGNALBOX_REQUIRE_PACKAGES"):
            pytest.fail(f"{reason} (SIGNALBOX_REQUIRE_PACKAGES is set)", pytrace=False)
        pytest.skip(reason)


def listed() -> set[tuple[str, str]]:
    """Return location and rule of each row of the documentation's table of findings in popular packages."""
    return {
        (location, rule)
        for location, rule in re.findall(r"^\| [^|]+ \| `([^`|]+:\d+)` \| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    }


@pytest.mark.parametrize("debug", [True, False], ids=["DEBUG on", "DEBUG off"])
def test_every_finding_in_the_packages_is_one_that_the_documentation_lists(debug: bool) -> None:
    findings = examine_project(PROJECTS_DIR / "popular_packages", debug=debug, apps=APPS)

    # A package's signals are made for others to hear.
    assert listed() == {(f["location"], f["rule"]) for f in findings if f["rule"] != "never-received"}


@pytest.mark.parametrize("debug", [True, False], ids=["DEBUG on", "DEBUG off"])
def test_by_default_packages_are_examined_only_by_rules_that_include_packages(debug: bool) -> None:
    findings = examine_project(PROJECTS_DIR / "popular_packages", debug=debug)

    assert {"global-receiver"} == {f["rule"] for f in findings}
    assert {"info"} == {f["severity"] for f in findings}
