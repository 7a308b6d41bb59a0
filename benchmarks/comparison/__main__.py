"""Compares Signalbox with other packages: ``make bench-peers``, which makes an environment for each of them.

Each site is a process with its own environment and its own database. In each round all sites do the same operation, in
another order than in the round before. A figure is the median of the rounds' ratios to bare Django in the same round.
What was stored is read from the tables.

    python -m benchmarks.comparison --quick
    python -m benchmarks.comparison --database sqlite --rounds 10
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks.comparison import report  # noqa: E402
from benchmarks.comparison.peers import BARE, DATABASES, PEERS, Peer  # noqa: E402
from tests import services  # noqa: E402

ENVIRONMENTS = ROOT / ".venv-peers"
WARM_UP = 2
"""Rounds of each operation that are not counted."""


class Site:
    """A process of one package, which answers requests over its pipes."""

    def __init__(self, peer: Peer, database: str) -> None:
        self.peer = peer
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "benchmarks.comparison.settings",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *([str(ROOT / "src")] if peer.name == "signalbox" else [])]),
            "PYTHONHASHSEED": "0",
            "SIGNALBOX_COMPARISON_PEER": peer.name,
            "SIGNALBOX_COMPARISON_DATABASE": database,
            "SIGNALBOX_COMPARISON_NAME": f"signalbox_peers_{os.getpid()}_{peer.name}".replace("-", "_"),
        }
        self._process = subprocess.Popen(
            [str(get_python(peer)), "-m", "benchmarks.comparison.site"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def call(self, name: str, *arguments: object) -> Any:
        """Return what the process answers. Raises RuntimeError if it ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process, which deletes its database."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the site with {self.peer.title} ended; its output above says why")
        return json.loads(line)


class Progress:
    """Writes the current step to standard error: on one line of a terminal, otherwise on a line for each step."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = time.monotonic()
        self._last = ""

    def show(self, step: str, detail: str = "") -> None:
        """Show ``step``, with a detail that only a terminal shows."""
        seconds = time.monotonic() - self._started
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K[{seconds:4.0f} s] {step} {detail}")
        elif step != self._last:
            sys.stderr.write(f"[{seconds:4.0f} s] {step}\n")
        self._last = step
        sys.stderr.flush()

    def end(self) -> None:
        """End the line of a terminal."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def get_python(peer: Peer) -> Path:
    """Return the interpreter of the environment that has ``peer``."""
    return ENVIRONMENTS / peer.name / "bin" / "python"


def measure(database: str, rounds: int, rows: int, results: dict[str, Any], progress: Progress) -> None:
    """Add to ``results`` what was measured and observed on ``database``."""
    label = DATABASES[database]
    sites: list[Site] = []
    try:
        for peer in (BARE, *(peer for peer in PEERS if database in peer.databases)):
            progress.show(f"{label}: creating the databases", peer.title)
            sites.append(Site(peer, database))
            if version := sites[-1].about["version"]:
                results["versions"][peer.name] = version
        results["databases"][database] = sites[0].about["database"]
        results["bytes"][database], results["observed"][database] = {}, {}
        for site in sites:
            progress.show(f"{label}: counting bytes", site.peer.title)
            results["bytes"][database][site.peer.name] = site.call("measure_bytes", rows)
        for operation in report.OPERATIONS:
            found: list[dict[str, float]] = []
            for number in range(rounds + WARM_UP):
                progress.show(f"{label}: {operation.title}", f"(round {number + 1} of {rounds + WARM_UP})")
                turn = number % len(sites)
                found.append({s.peer.name: s.call(operation.name) for s in [*sites[turn:], *sites[:turn]]})
            found = found[WARM_UP:]
            results["figures"].append(
                {
                    "database": database,
                    "operation": operation.name,
                    "bare": median(one[BARE.name] for one in found),
                    "ratios": {
                        site.peer.name: round(median(one[site.peer.name] / one[BARE.name] for one in found), 3)
                        for site in sites[1:]
                    },
                }
            )
        for site in sites[1:]:
            progress.show(f"{label}: reading what was stored", site.peer.title)
            results["observed"][database][site.peer.name] = site.call("observe_all")
    finally:
        progress.end()
        for site in sites:
            site.close()


def describe_machine() -> str:
    """Return the number of cores and their model."""
    model = platform.machine()
    if (path := Path("/proc/cpuinfo")).exists():
        lines = [line.partition(":") for line in path.read_text().splitlines()]
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), model)
    return f"{os.cpu_count()} cores ({model})"


def parse_options() -> argparse.Namespace:
    """Return the options. Exits if an environment or a database is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="make bench-peers")
    parser.add_argument("--quick", action="store_true", help="few rounds, and the documents stay unchanged")
    parser.add_argument("--rounds", type=int, help="rounds of each operation (default: 30, and 4 with --quick)")
    parser.add_argument("--database", choices=tuple(DATABASES), action="append", help="default: both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument("--render", action="store_true", help="only write the documents again, from earlier results")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; at least 1 is needed. Leave it out for the default.")
    options.database = options.database or list(DATABASES)
    if options.render:
        return options
    missing = [peer.name for peer in (BARE, *PEERS) if not get_python(peer).exists()]
    if missing:
        parser.error(f"no environment in {ENVIRONMENTS} has {', '.join(missing)}. Run `make bench-peers`.")
    if "postgres" in options.database and (reason := services.get_unavailable_reason("postgres")):
        parser.error(f"PostgreSQL is unavailable: {reason}. Or measure SQLite only, by --database sqlite.")
    return options


def main() -> int:
    """Return the exit code."""
    options = parse_options()
    if options.render:
        report.write_documents(report.read_results())
        return 0
    rounds = options.rounds or (4 if options.quick else 30)
    python = subprocess.check_output(
        [str(get_python(BARE)), "-c", "import platform; print(platform.python_version())"], text=True
    ).strip()
    results: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": describe_machine(),
        "load": [round(os.getloadavg()[0], 1)],
        "python": python,
        "rounds": rounds,
        "versions": {},
        "databases": {},
        "figures": [],
        "bytes": {},
        "observed": {},
    }
    if results["load"][0] > 1:
        sys.stderr.write(f"the machine is busy (load {results['load'][0]}): figures vary\n")
    try:
        for database in options.database:
            measure(database, rounds, 500 if options.quick else 2_000, results, Progress())
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was written\n")
        return 130
    results["load"].append(round(os.getloadavg()[0], 1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(report.build_comparison(results))
    if options.quick or set(options.database) != set(DATABASES):
        sys.stderr.write(
            "docs/comparison.md and README.md are unchanged: only whole runs on both databases write them\n"
        )
        return 0
    report.write_results(results)
    report.write_documents(results)
    sys.stderr.write("docs/comparison.md and README.md were written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
