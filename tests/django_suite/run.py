"""Run Django's own test suite with Signalbox first in INSTALLED_APPS, recording everything.

`python -m tests.django_suite.run [--databases "sqlite postgres"] [--baseline] [LABEL ...]`: the labels are those of
Django's `runtests.py`; `short` is the modules of `SHORT`; without a label the whole suite is run.

A test that fails is run again without Signalbox, and with it, together with the others that failed. It counts if it
passes without Signalbox and `expected.toml` doesn't list it. A listed test that passes counts as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from tests import services
from tests.django_suite import sources

HERE = Path(__file__).parent
DATABASES: Final = ("sqlite", "postgres")

SHORT: Final = """
    admin_checks asgi async backends basic bulk_create composite_pk contenttypes_tests custom_managers custom_pk
    defer defer_regress delete delete_regress dispatch fixtures force_insert_update from_db_value
    generic_relations get_or_create handlers known_related_objects m2m_intermediary m2m_multiple m2m_recursive
    m2m_regress m2m_signals m2m_through m2m_through_regress managers_regress many_to_many many_to_one
    many_to_one_null middleware_exceptions migrate_signals migrations.test_commands model_inheritance
    model_inheritance_regress model_regress multiple_database mutually_referential one_to_one
    order_with_respect_to prefetch_related proxy_models queries.test_bulk_update raw_query requests_tests
    save_delete_hooks select_for_update select_related serializers servers
    sessions_tests.tests.DatabaseSessionTests settings_tests signals sites_tests swappable_models tasks
    test_client test_runner test_utils transaction_hooks transactions unmanaged_models update update_only_fields
    wsgi
""".split()
"""What touches the ORM, transactions, signals, requests and tests: for each change, while the whole is for releases."""

PROGRESS: Final = 15.0
"""Seconds between two lines of progress."""
HANGS_AFTER: Final = 600.0
"""Seconds without the end of a test, after which a run is ended."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A test that may fail with Signalbox."""

    test: str
    django: Sequence[str]
    databases: Sequence[str]
    reason: str


def expected() -> list[Expected]:
    """Return the entries of `expected.toml`. Raises TypeError if one lacks a value or has an unknown one."""
    return [Expected(**entry) for entry in tomllib.loads((HERE / "expected.toml").read_text()).get("expected", [])]


@dataclass(slots=True)
class Run:
    """The results of a run of Django's tests. The names are ids of tests, or of the preparation of a class."""

    ended: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Tracebacks, by test."""
    complete: bool = False
    """Whether all tests were run: a worker can end the run before."""
    seconds: float = 0
    broken: str = ""
    """Why the run didn't come to its end; empty if it did."""

    def __str__(self) -> str:
        """Return the numbers of the run."""
        numbers = f"{len(self.ended):,} tests, {len(self.failed)} failed, {len(self.skipped):,} skipped"
        return f"{numbers}, {self.seconds:.0f} s"

    def take(self, line: str) -> str:
        """Parse one line of the runner, and return the name of the test."""
        report: dict[str, str] = json.loads(line)
        if "failed" in report:
            name = report["failed"]
            self.failed[name] = self.failed.get(name, "") + report["text"]
            return name
        if "complete" in report:
            self.complete = True
            return ""
        if "skipped" in report:
            self.skipped.add(report["skipped"])
            return report["skipped"]
        self.ended.add(report["ended"])
        return report["ended"]


def short() -> list[str]:
    """Return the labels of `SHORT` whose modules this Django has: `tasks` is in 6.0 and later."""
    return [name for name in SHORT if (sources.directory() / name.partition(".")[0]).is_dir()]


def label(name: str) -> str:
    """Return the label that runs the test of this id again.

    >>> label("setUpClass (basic.tests.ModelTest)")
    'basic.tests.ModelTest'
    >>> label("unittest.loader._FailedTest.basic.tests")
    'basic.tests'
    """
    prepares = re.fullmatch(r"(?:setUp|tearDown)(?:Class|Module) \((.+)\)", name)
    return prepares[1] if prepares else name.removeprefix("unittest.loader._FailedTest.")


def run(database: str, labels: Sequence[str], *, title: str, parallel: int, baseline: bool = False) -> Run:
    """Run the tests of `labels`, all if there are none, and show progress. What they print goes to a file in the cache.

    A run that hangs is ended: the tracebacks of its processes are in the file.
    """
    log = sources.CACHE / f"{sources.VERSION}-{title.replace(' ', '-')}.log"
    command = [sys.executable, str(HERE / "driver.py"), "--parallel", str(parallel)]
    command += [*(["--baseline"] if baseline else []), str(sources.directory()), *labels]
    reading, writing = os.pipe()
    tests = sources.directory()
    temporary = tempfile.mkdtemp(prefix="django_suite_")
    environment = {
        **os.environ,
        "TMPDIR": temporary,  # tests leave files there
        "SIGNALBOX_SUITE_DATABASE": database,
        "SIGNALBOX_SUITE_REPORT": str(writing),
        # The rows of tests need not survive a crash of the machine.
        "PGOPTIONS": "-c synchronous_commit=off",
    }
    result, started = Run(), monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=tests,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            start_new_session=True,  # so that its workers can be ended with it
        )
    os.close(writing)
    try:
        result.broken = follow(process, reading, result, title)
        if not result.broken and (process.wait() != bool(result.failed) or not result.complete):
            result.broken = f"the run ended with status {process.returncode} before its end"
    finally:
        os.close(reading)
        end(process)
        shutil.rmtree(temporary, ignore_errors=True)
    result.seconds = monotonic() - started
    if result.broken:
        result.broken += f"; see {log}"
    return result


def follow(process: subprocess.Popen[bytes], reading: int, result: Run, title: str) -> str:
    """Read the reports of `process` into `result` until it ends.

    Return the reason if the process had to be ended, otherwise an empty text.
    """
    started = shown = last = monotonic()
    rest, at = b"", ""
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=1):
                chunk = os.read(reading, 65536)
                if not chunk:
                    return ""
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    failed = len(result.failed)
                    at = result.take(line.decode())
                    if len(result.failed) > failed:
                        print(f"  {title}: failed: {at}", flush=True)
                last = monotonic()
            elif process.poll() is not None:
                return ""  # a process that a test has left behind may have the pipe open
            now = monotonic()
            if now - shown >= PROGRESS:
                shown = now
                module = label(at).partition(".")[0] or "preparing"
                number = f", {len(result.failed)} failed" if result.failed else ""
                print(f"  {title}: {len(result.ended):6,} tests{number}, {now - started:4.0f} s  {module}", flush=True)
            if now - last > HANGS_AFTER:
                os.killpg(process.pid, signal.SIGABRT)
                return f"no test ended for {HANGS_AFTER:.0f} s, the last one was {at or 'none'}"


def end(process: subprocess.Popen[bytes]) -> None:
    """End the remaining processes of a run, with its workers."""
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(5)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counted results of a run with Signalbox. The names are ids of tests."""

    failed: list[str]
    """Fail with Signalbox only, and aren't expected to."""
    expected: list[Expected]
    """Fail with Signalbox only, as expected."""
    passed: list[str]
    """Were run and are expected to fail, but don't."""
    alike: list[str]
    """Fail without Signalbox as well."""


def judge(whole: Run, without: Run, allowed: Sequence[Expected]) -> Verdict:
    """Compare a run with Signalbox and one without it, of the tests that failed in the first.

    A failed preparation of a class or a module counts for the whole of it: with Signalbox another part may fail.
    """
    reasons = {entry.test: entry for entry in allowed}
    labels = {label(name) for name in without.failed}
    alike = sorted(name for name in whole.failed if label(name) in labels)
    own = sorted(whole.failed.keys() - {*alike})
    return Verdict(
        failed=[name for name in own if name not in reasons],
        expected=[reasons[name] for name in own if name in reasons],
        passed=sorted(name for name in reasons if name in whole.ended and name not in whole.failed),
        alike=alike,
    )


def last_error(text: str) -> str:
    """Return the last line of a traceback that names an exception, in at most 200 characters."""
    lines = text.strip().splitlines()
    errors = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Warning|Failure|\w*Exit)\b", line)]
    return (errors or lines or [""])[-1][:200]


def check(database: str, labels: Sequence[str], parallel: int) -> bool:
    """Run the tests with Signalbox and show the results that count. Return True if there are none."""
    whole = run(database, labels, title=database, parallel=parallel)
    print(f"{database}: {whole}", flush=True)
    without, repeated = Run(), Run()
    if whole.failed:
        again = sorted({label(name) for name in whole.failed})
        print(f"{database}: those that failed are run without Signalbox, and again with it", flush=True)
        without = run(database, again, title=f"{database} without", parallel=1, baseline=True)
        repeated = run(database, again, title=f"{database} again", parallel=1)
    release = ".".join(sources.VERSION.split(".")[:2])
    allowed = [entry for entry in expected() if release in entry.django and database in entry.databases]
    verdict = judge(whole, without, allowed)
    problems = [done.broken for done in (whole, without, repeated) if done.broken]
    if not whole.ended and not whole.failed:
        problems.append("no test was run")

    for name in verdict.alike:
        print(f"{database}: fails without Signalbox as well: {name}")
    for entry in verdict.expected:
        print(f"{database}: expected: {entry.test}: {entry.reason}")
    for name in verdict.failed:
        note = "" if name in repeated.failed else " (passes when only the tests that failed are run)"
        print(f"{database}: FAILED: {name}{note}\n    {last_error(whole.failed[name])}")
    for name in verdict.passed:
        print(f"{database}: FAILED: {name} passes, remove it from expected.toml")
    for problem in problems:
        print(f"{database}: FAILED: {problem}")
    if verdict.failed:
        failures = sources.CACHE / f"{sources.VERSION}-{database}-failures.txt"
        failures.write_text("".join(f"{'=' * 70}\n{name}\n{whole.failed[name]}\n" for name in verdict.failed))
        print(f"{database}: the tracebacks are in {failures}")
    return not (verdict.failed or verdict.passed or problems)


def main() -> int:
    """Return 0 if nothing counts on any database."""
    parser = argparse.ArgumentParser(prog="python -m tests.django_suite.run")
    parser.add_argument("--databases", default=" ".join(DATABASES), metavar="NAMES")
    parser.add_argument("--parallel", type=int, default=2, metavar="PROCESSES")
    parser.add_argument("--baseline", action="store_true", help="run once, without Signalbox, and only count")
    parser.add_argument("labels", nargs="*", metavar="LABEL")
    options = parser.parse_args()
    # A process that a shell starts in the background ignores Ctrl-C otherwise; both signals end the workers too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    labels = [one for name in options.labels for one in (short() if name == "short" else [name])]
    title = f"Django {sources.VERSION}, Python {platform.python_version()}"
    passed = True
    for database in options.databases.split():
        if database not in DATABASES:
            parser.error(f"{database!r} isn't one of {', '.join(DATABASES)}")
        print(f"\n{title}: {database}", flush=True)
        if database != "sqlite" and (reason := services.get_unavailable_reason(database)):
            print(f"{'FAILED' if services.are_services_required() else 'skipped'}: {reason}", flush=True)
            passed &= not services.are_services_required()
        elif options.baseline:
            done = run(database, labels, title=f"{database} without", parallel=options.parallel, baseline=True)
            print(f"{database}: {done} {done.broken}", *(f"    {name}" for name in sorted(done.failed)), sep="\n")
            passed &= not done.broken
        else:
            passed &= check(database, labels, options.parallel)
    print(f"\n{title}: {'passed' if passed else 'FAILED'}")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
