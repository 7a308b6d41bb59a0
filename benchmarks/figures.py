"""Defines the figures of `benchmarks/recording.py`, their aims, and the table in the documentation."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import document_tables

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCE = 0.03
"""A figure is met if two of three runs are at most this much above the aim."""
DATABASES = {"sqlitewal": "SQLite, WAL", "postgres": "PostgreSQL", "mariadb": "MariaDB"}


class Figure(NamedTuple):
    """One row of the table: a ratio to bare Django."""

    name: str
    work: str
    """The method of `benchmarks.site.work.Work`."""
    sqlite: float | None = None
    """The aim on SQLite in WAL mode."""
    postgres: float | None = None
    sqlite_orjson: float | None = None
    """The aim with orjson, if it differs."""
    postgres_orjson: float | None = None
    autocommit: str = "atomic"
    characters: int = 500
    """Number of characters of the row's text."""
    rounds: int = 40
    events: int = 1
    """Minimum number of events that its work must write."""

    def aim(self, database: str, json: str) -> float | None:
        """Return the aim, or None if the figure has none."""
        aims = {"sqlitewal": (self.sqlite, self.sqlite_orjson), "postgres": (self.postgres, self.postgres_orjson)}
        standard, orjson = aims.get(database, (None, None))
        return orjson if json == "orjson" else standard


FIGURES = (
    Figure('autocommit save, `"atomic"`', "autocommit_save", 1.6, 2.2, rounds=60, events=10),
    Figure(
        'autocommit saves, `"after"`, 100 in one trace, flush included',
        "autocommit_saves_in_trace",
        1.25,
        1.25,
        autocommit="after",
        rounds=30,
        events=100,
    ),
    Figure("one save per transaction", "save_1", 1.45, 1.55, rounds=60, events=10),
    Figure("100 saves per transaction", "save_100", 1.28, 1.20, 1.22, 1.15, rounds=60, events=100),
    Figure("update of 2 fields, 100 per transaction", "update_100", 1.25, 1.10, events=100),
    Figure("delete, 100 per transaction", "delete_100", 1.35, 1.20, events=100),
    Figure("add 10 tags", "add_10_tags", 1.32, 1.25, rounds=60, events=5),
    Figure("`update()` of 1,000", "update_1000", 1.75, 1.25),
    Figure("`bulk_create` of 1,000", "bulk_create_1000", 1.06, 1.06, rounds=20),
    Figure("load 10,000 without mutable fields: time", "load_orders", 1.07, 1.07, rounds=12, events=0),
    Figure("load 10,000 without mutable fields: memory", "memory_orders", 1.1, 1.1, rounds=1, events=0),
    Figure("load 10,000 with a small JSON field: time", "load_offers", 1.6, 1.6, rounds=12, events=0),
    Figure("load 10,000 with a small JSON field: memory", "memory_offers", 1.5, 1.5, rounds=1, events=0),
    Figure('request with session and user that saves one row, `"atomic"`', "request", 1.40, 1.40, events=5),
    Figure(
        'request with session and user that saves one row, `"after"`',
        "request",
        1.25,
        1.25,
        autocommit="after",
        events=5,
    ),
    Figure("autocommit save, 5,000 characters", "autocommit_save", characters=5_000, rounds=60, events=10),
    Figure("one save per transaction, 5,000 characters", "save_1", characters=5_000, rounds=60, events=10),
    Figure("100 saves per transaction, 5,000 characters", "save_100", characters=5_000, events=100),
    Figure("update of 2 fields, 100 per transaction, 5,000 characters", "update_100", characters=5_000, events=100),
    Figure("delete, 100 per transaction, 5,000 characters", "delete_100", characters=5_000, rounds=20, events=100),
    Figure("bytes stored per row", "stored", rounds=1, events=2_000),
    Figure("bytes stored per row, 5,000 characters", "stored", characters=5_000, rounds=1, events=2_000),
)


def is_met(ratios: list[float], aim: float) -> bool:
    """Return True if two of three runs are within the tolerance, or more than half of fewer runs."""
    return 2 * sum(round(ratio, 2) <= round(aim + TOLERANCE, 2) for ratio in ratios) > len(ratios)


def bare(figure: Figure, value: float) -> str:
    """Return the figure of bare Django with its unit."""
    if figure.work == "stored" or figure.work.startswith("memory"):
        return f"{value:,.0f} B"
    return f"{value * 1e3:,.1f} ms" if value >= 0.01 else f"{value * 1e6:,.0f} µs"


def cell(figure: Figure, database: str, measured: dict[str, Any]) -> tuple[str, str, str]:
    """Return the table's three texts for one figure on one database: bare, ratio (with orjson), aim (with orjson)."""
    aims = [figure.aim(database, json) for json in ("standard", "orjson")]
    ratios = [measured.get("ratios", {}).get(json, []) for json in ("standard", "orjson")]
    if not any(ratios):
        return "", "not measured", _pair([f"{aim:.2f}" if aim else "" for aim in aims])
    value = median(measured["bare"])
    if figure.work == "stored":
        return bare(figure, value), _pair([f"+{(median(one) - 1) * value:,.0f} B" if one else "" for one in ratios]), ""
    texts = [f"{median(found):.2f}" if found else "" for found in ratios]
    for index, (found, aim) in enumerate(zip(ratios, aims, strict=True)):
        if aim and found and not is_met(found, aim):
            texts[index] = f"**{texts[index]}**"
    return bare(figure, value), _pair(texts), _pair([f"{aim:.2f}" if aim else "" for aim in aims])


def _pair(texts: list[str]) -> str:
    return f"{texts[0]} ({texts[1]})" if texts[1] else texts[0]


def table(report: dict[str, Any]) -> str:
    """Return the table in Markdown, with the date, the machine and the versions."""
    databases = [name for name in DATABASES if name in report["databases"]]
    found = {(row["database"], row["name"]): row for row in report["figures"]}
    heads = ["realistic row"]
    for name in databases:
        heads += [f"{DATABASES[name]}: bare", "ratio", *(["aim"] if name != "mariadb" else [])]
    lines = [heads, ["---"] * len(heads)]
    load = f"load {report['load'][0]} before and {report['load'][1]} after"
    for figure in FIGURES:
        if not any((name, figure.name) in found for name in databases):
            continue
        line = [figure.name]
        for name in databases:
            texts = cell(figure, name, found.get((name, figure.name), {}))
            line += texts if name != "mariadb" else texts[:2]
        lines.append(line)
    versions = ", ".join([*report["versions"], *report["databases"].values()])
    return "\n".join(
        [
            f"Measured on {report['date']}: {report['machine']}, {load}; {versions}; whole runs: {report['runs']}.",
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
        ]
    )


def write(path: Path, report: dict[str, Any]) -> None:
    """Replace the table in the document. Raises ValueError if its comments are missing."""
    document_tables.replace(path, "recording", table(report))
