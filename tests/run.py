"""Run the suite: in full on SQLite, then what concerns every database on each of the others, and what concerns
transactions with another journal of SQLite's and with a pool of connections.

`python -m tests.run [-m EXPRESSION] [pytest's arguments]`; SIGNALBOX_TEST_DATABASES="sqlite postgres" runs these alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import django

from tests import services

WORKER_OPTIONS = ("-n", str(2 * (os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder")
"""Most tests wait for processes and servers more than they compute: two files at a time for each core. They begin in
the order of tests.conftest, longest first; pytest-xdist would begin with those of the most tests."""

TESTS_DIR = Path(__file__).parent

VARIANTS = ("sqlitewal", "postgrespool")
"""Databases that differ from another one in how transactions come to be alone."""


def find_test_files(markers: tuple[str, ...]) -> list[str]:
    """Return the files with tests of any of these markers: to collect the others as well takes each worker a while."""
    texts = {path: path.read_text() for path in sorted(TESTS_DIR.rglob("test_*.py"))}
    named = [str(path) for path, text in texts.items() if any(f"mark.{marker}" in text for marker in markers)]
    return [str(TESTS_DIR / "exactness"), *(name for name in named if "/exactness/" not in name)]  # see tests.conftest


def run_pytest(database: str, marker: str, arguments: list[str]) -> tuple[int, str]:
    """Run pytest on `database`, showing its output as it comes; return its exit status and its last line."""
    command = [sys.executable, "-m", "pytest", *WORKER_OPTIONS, *arguments, *(["-m", marker] if marker else [])]
    if sys.stdout.isatty():
        command.append("--color=yes")
    environment = {**os.environ, "SIGNALBOX_TEST_DB": database}
    environment.pop("SIGNALBOX_TEST_RUN", None)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        # Tests start hundreds of processes, and each would compile Signalbox anew, which takes as long as the rest of
        # its start. Nothing is written beside the sources, as was asked for, but into the tests' environment.
        environment.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix, "pycache")))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        output = b""
        while chunk := os.read(process.stdout.fileno(), 65536):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            output = (output + chunk)[-4096:]
    lines = output.decode(errors="replace").splitlines()
    return process.returncode, lines[-1].strip("= ") if lines else "pytest said nothing"


def main() -> int:
    """Return 0 if every run passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", allow_abbrev=False)
    parser.add_argument("-m", dest="marker", default="", metavar="EXPRESSION", help="as pytest's, for every database")
    options, arguments = parser.parse_known_args()
    # A shell lets what it starts in the background ignore Ctrl-C, and all that this starts in turn; tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    title = f"Python {platform.python_version()}, Django {django.get_version()}"
    summary, failed = [], False
    chosen = os.environ.get("SIGNALBOX_TEST_DATABASES", "").split() or list(services.DATABASE_SERVICES)
    for database in chosen:
        server = services.DATABASE_SERVICES[database]
        print(f"\n{title}: {database}", flush=True)
        started = monotonic()
        if server and (reason := services.get_unavailable_reason(server)):
            status, line = (
                int(services.are_services_required()),
                f"{'FAILED' if services.are_services_required() else 'skipped'}: {reason}",
            )
            print(line, flush=True)
        else:
            marker, places = options.marker, []
            if database != "sqlite":
                markers = ("transactions",) if database in VARIANTS else ("every_database", str(server))
                concerned = " or ".join(markers)
                marker = f"({marker}) and ({concerned})" if marker else concerned
                if not any(Path(word.partition("::")[0]).exists() for word in arguments):
                    places = find_test_files(markers)
            status, line = run_pytest(database, marker, [*arguments, *places])
        failed |= status != 0
        summary.append(f"{database:<13} {monotonic() - started:6.1f} s  {line}")
    print(f"\n{title}: {'FAILED' if failed else 'passed'}", *summary, sep="\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
