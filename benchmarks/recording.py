"""Measures the cost of recording a realistic row, as a ratio to plain Django, with the `json` module and with orjson.

Each site is a process with its own database: bare Django, and Signalbox (`RECORD = "audit"`) with each encoder and each
way of AUTOCOMMIT that a figure needs. The sites alternate, in another order in each round. A run's figure is the
median of its rounds' ratios. A figure is met when it is within 0.03 of its aim in two of three runs.

    python benchmarks/recording.py --runs 3 --json recording.json --write
    python benchmarks/recording.py --quick --database sqlitewal --only '*save*'

Databases: SQLite in WAL mode (a file), PostgreSQL at SIGNALBOX_TEST_POSTGRES, MariaDB at SIGNALBOX_TEST_MARIADB.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.figures import DATABASES, FIGURES, Figure, cell, is_met, table, write  # noqa: E402
from tests import services  # noqa: E402

DOCUMENT = ROOT / "docs" / "benchmarks.md"
WARM_UP = 2
"""Warm-up rounds of each figure, which are not counted."""


def encoders() -> tuple[str, ...]:
    """Return the JSON encoders that can be measured here."""
    return ("standard", "orjson") if find_spec("orjson") else ("standard",)


def settings(autocommit: str) -> dict[str, str] | None:
    """Return `SIGNALBOX` for a way of AUTOCOMMIT, None if this version doesn't have it."""
    from signalbox.conf import Config

    if "AUTOCOMMIT" in {field.name for field in dataclasses.fields(Config)}:
        return {"RECORD": "audit", "AUTOCOMMIT": autocommit}
    return {"RECORD": "audit"} if autocommit == "atomic" else None


class Site:
    """A process that does the work that its standard input names."""

    def __init__(self, database: str, name: str, setting: dict[str, str] | None, encoder: str) -> None:
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "benchmarks.site.settings",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            "PYTHONHASHSEED": "0",
            "SIGNALBOX_BENCH_DATABASE": database,
            "SIGNALBOX_BENCH_NAME": f"signalbox_bench_{os.getpid()}_{name}".replace(" ", "_"),
            "SIGNALBOX_BENCH_SETTING": json.dumps(setting or {}),
            "SIGNALBOX_BENCH_JSON": encoder,
        }
        self.name = name
        self.recorded = setting is not None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.site"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def work(self, figure: Figure) -> float:
        """Return the measurement of the figure's work. Raises RuntimeError if it was not recorded."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([figure.work, figure.characters]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if self.recorded and answer["events"] < figure.events:
            raise RuntimeError(f"{figure.name}: {answer['events']} events, {figure.events} were expected")
        return float(answer["result"])

    def close(self) -> None:
        """End the process, which deletes its database."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the site {self.name!r} ended")
        return json.loads(line)  # type: ignore[no-any-return]


class Run:
    """One run over one database: its sites, which are started when a figure needs them."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._sites: dict[str, Site] = {}

    def site(self, name: str, setting: dict[str, str] | None = None, encoder: str = "standard") -> Site:
        """Return the site with this name."""
        if name not in self._sites:
            self._sites[name] = Site(self._database, name, setting, encoder)
        return self._sites[name]

    def measure(self, figure: Figure, rounds: int) -> tuple[float, dict[str, float]] | None:
        """Return the bare figure, and the ratio for each encoder; None if the figure can't be measured."""
        setting = settings(figure.autocommit)
        if setting is None:
            return None
        sites = [self.site("bare")]
        sites += [self.site(f"{figure.autocommit} {encoder}", setting, encoder) for encoder in encoders()]
        found: list[dict[str, float]] = []
        for number in range(rounds if rounds == 1 else rounds + WARM_UP):
            turn = number % len(sites)
            found.append({site.name: site.work(figure) for site in [*sites[turn:], *sites[:turn]]})
        found = found[-rounds:]
        names = {encoder: f"{figure.autocommit} {encoder}" for encoder in encoders()}
        return median(one["bare"] for one in found), {
            encoder: median(one[name] / one["bare"] for one in found) for encoder, name in names.items()
        }

    def about(self) -> str:
        """Return the database's name and version."""
        return str(self.site("bare").about["database"])

    def close(self) -> None:
        """End every site."""
        for site in self._sites.values():
            site.close()


def missing(database: str) -> str | None:
    """Return the reason why the database cannot be measured, or None."""
    return None if database == "sqlitewal" else services.get_unavailable_reason(database)


def machine() -> str:
    """Return a description of the machine."""
    model = platform.machine()
    if (path := Path("/proc/cpuinfo")).exists():
        lines = [line.partition(":") for line in path.read_text().splitlines()]
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), model)
    return f"{os.cpu_count()} cores ({model})"


def parse_options() -> argparse.Namespace:
    """Return the options of the command line, with the selected ``figures``. Exits if they are invalid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=tuple(DATABASES), action="append", help="default: all available ones")
    parser.add_argument("--runs", type=int, default=1, help="whole runs; a figure is met in two of three")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="figures whose name matches, as '*save*'")
    parser.add_argument("--quick", action="store_true", help="a sixth of the rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--write", action="store_true", help=f"write the table to {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.write and (options.quick or options.only != "*"):
        parser.error("--write publishes whole runs. Leave out --quick and --only.")
    figures = [one for one in FIGURES if fnmatch(one.name, options.only) or fnmatch(one.name, f"*{options.only}*")]
    figures.sort(key=lambda one: one.work != "stored")  # stored bytes first, while no table has free space
    if not figures:
        parser.error(f"no figure matches {options.only!r}. Use one of {', '.join(one.name for one in FIGURES)}.")
    options.figures = figures
    return options


def main() -> None:
    """Measure the figures and print each result."""
    options = parse_options()
    report: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine(),
        "versions": [f"Python {platform.python_version()}", f"Django {version('Django')}"],
        "load": [round(os.getloadavg()[0], 1)] * 2,
        "runs": options.runs,
        "databases": {},
        "figures": [],
    }
    if "orjson" in encoders():
        report["versions"].append(f"orjson {version('orjson')}")
    if report["load"][0] > 1:
        print(f"the machine is busy (load {report['load'][0]}): figures vary", file=sys.stderr)
    for database in options.database or DATABASES:
        if reason := missing(database):
            print(f"{DATABASES[database]} is skipped: {reason}", flush=True)
            continue
        rows = {one.name: {"database": database, "name": one.name, "bare": [], "ratios": {}} for one in options.figures}
        for number in range(options.runs):
            print(f"\n{DATABASES[database]}, run {number + 1} of {options.runs}", flush=True)
            measure_run(database, options, rows, report)
        report["figures"] += rows.values()
        report["load"][1] = round(os.getloadavg()[0], 1)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{table(report)}")
    if options.write:
        write(DOCUMENT, report)


def measure_run(
    database: str, options: argparse.Namespace, rows: dict[str, dict[str, Any]], report: dict[str, Any]
) -> None:
    """Measure each figure once on ``database``. Add the results to ``rows``, and the server's version to ``report``."""
    figures = options.figures
    run = Run(database)
    try:
        report["databases"][database] = run.about()
        for index, figure in enumerate(figures, 1):
            print(f"{index:3}/{len(figures)} {figure.name:62}", end="", flush=True)
            row = rows[figure.name]
            rounds = max(1, figure.rounds // 6) if options.quick else figure.rounds
            if (found := run.measure(figure, rounds)) is not None:
                row["bare"].append(found[0])
                for encoder, ratio in found[1].items():
                    row["ratios"].setdefault(encoder, []).append(ratio)
            print(shown(figure, database, row), flush=True)
    finally:
        run.close()


def shown(figure: Figure, database: str, row: dict[str, Any]) -> str:
    """Return the text for the terminal: the last run's figures, and ``missed`` if an aim is not met so far."""
    last = {"bare": row["bare"][-1:], "ratios": {encoder: found[-1:] for encoder, found in row["ratios"].items()}}
    bare_text, ratio, aim = cell(figure, database, last)
    met = all(
        is_met(found, wanted) for encoder, found in row["ratios"].items() if (wanted := figure.aim(database, encoder))
    )
    return f"{bare_text:>12} {ratio.replace('*', ''):>22}{aim:>16}{'' if met else '  missed'}"


if __name__ == "__main__":
    main()
