"""Gets the sources of the Django that is installed here, and what its tests need.

`python -m tests.django_suite.sources` installs the requirements; what can't be installed is left out with a line that
says so, and Django skips the tests that need it.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "django-suite"
VERSION = django.get_version()
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def directory() -> Path:
    """Return the directory of Django's tests, after a download if it's missing."""
    sources = CACHE / f"django-{VERSION}"
    tests = sources / "tests"
    if not (tests / "runtests.py").exists():
        print(f"downloading the sources of Django {VERSION}", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        command = (*PIP, "download", "--no-deps", "--no-binary", "Django", "--dest", str(CACHE), f"Django=={VERSION}")
        subprocess.run(command, check=True)
        (archive,) = (path for path in CACHE.glob("*.tar.gz") if path.name.lower() == f"django-{VERSION}.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(CACHE, filter="data")
        archive.unlink()
    return tests


def requirements(text: str) -> list[str]:
    """Return the requirements in the text of a requirements file; options and comments are left out."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def install() -> None:
    """Install what Django's tests need, one by one where not all of it can be installed."""
    needed = requirements((directory() / "requirements" / "py3.txt").read_text())
    # Few of them have to be compiled, and those need libraries that sites rarely have.
    command = (*PIP, "install", "--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt"))
    if not subprocess.run((*command, *needed), check=False, capture_output=True).returncode:
        return
    for requirement in needed:
        if subprocess.run((*command, requirement), check=False, capture_output=True).returncode:
            print(f"left out, as it can't be installed here: {requirement}", flush=True)


if __name__ == "__main__":
    install()
