"""Run the suite: all tests on SQLite, tests about every database on each of the others, and tests about transactions
with the WAL journal of SQLite and with a connection pool.

`python -m tests.run [-m EXPRESSION] [pytest's arguments]`; SIGNALBOX_TEST_DATABASES="sqlite postgres" runs only these.
`python -m tests.run --quick` runs the tests on SQLite that need no service, without the slow ones.
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
"""Two workers for each core, because many tests wait for processes and servers. Files start in the order of
tests.conftest, the longest first; by default pytest-xdist starts with the file that has the most tests."""

QUICK = "not (slow or crash or browser or redis or rabbitmq or postgres or mariadb)"
"""Tests of a quick run. They need no service, and less than 3 minutes on two cores."""

TESTS_DIR = Path(__file__).parent

VARIANTS = ("sqlitewal", "postgrespool")
"""Variants of another database, in which only transactions work differently."""


def find_test_files(markers: tuple[str, ...]) -> list[str]:
    """Return the files with tests of any of these markers. Collecting all files takes each worker several seconds."""
    texts = {path: path.read_text() for path in sorted(TESTS_DIR.rglob("test_*.py"))}
    named = [str(path) for path, text in texts.items() if any(f"mark.{marker}" in text for marker in markers)]
    return [str(TESTS_DIR / "exactness"), *(name for name in named if "/exactness/" not in name)]  # see tests.conftest


def run_pytest(database: str, marker: str, arguments: list[str]) -> tuple[int, str]:
    """Run pytest on `database` and show its output. Return its exit status and its last line."""
    command = [sys.executable, "-m", "pytest", *WORKER_OPTIONS, *arguments, *(["-m", marker] if marker else [])]
    if sys.stdout.isatty():
        command.append("--color=yes")
    environment = {**os.environ, "SIGNALBOX_TEST_DB": database}
    environment.pop("SIGNALBOX_TEST_RUN", None)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        # Tests start hundreds of processes. Without a cache each compiles Signalbox, which doubles the time of its
        # start. The cache is in the tests' environment, so that nothing is written beside the sources.
        environment.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix, "pycache")))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        output = b""
        while chunk := os.read(process.stdout.fileno(), 65536):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            output = (output + chunk)[-4096:]
    lines = output.decode(errors="replace").splitlines()
    return process.returncode, lines[-1].strip("= ") if lines else "pytest printed nothing"


def main() -> int:
    """Return 0 if every run passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", allow_abbrev=False)
    parser.add_argument("-m", dest="marker", default="", metavar="EXPRESSION", help="as pytest's, for every database")
    parser.add_argument("--quick", action="store_true", help="only on SQLite, without slow tests and services")
    options, arguments = parser.parse_known_args()
    # A background process of a shell ignores Ctrl-C, and so do its child processes. Tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    title = f"Python {platform.python_version()}, Django {django.get_version()}"
    summary, failed = [], False
    chosen = os.environ.get("SIGNALBOX_TEST_DATABASES", "").split() or list(services.DATABASE_SERVICES)
    if options.quick:
        chosen, options.marker = ["sqlite"], options.marker or QUICK
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
