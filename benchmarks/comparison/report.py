"""Turns the results of the comparison into the tables of docs/comparison.md and README.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import document_tables
from benchmarks.comparison.peers import DATABASES, PEERS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.json"
DOCUMENT, README = ROOT / "docs" / "comparison.md", ROOT / "README.md"
COMMAND = "make bench-peers"

Results = dict[str, Any]


class Operation(NamedTuple):
    """An operation that is timed, by a method of `benchmarks.comparison.work.Work`."""

    name: str
    title: str
    observation: str
    """The observation that says whether a package records it; empty if each does."""


OPERATIONS = (
    Operation("create", "create one row", "create"),
    Operation("save_changed", "load, change two fields and save", "change"),
    Operation("save_unchanged", "load and save without a change", "unchanged"),
    Operation("bulk_create", "`bulk_create()` of 100", "bulk_create"),
    Operation("update", "`update()` of 100 rows", "update"),
    Operation("delete_cascade", "delete a row and, by cascade, 10 others", "delete"),
    Operation("add_tags", "`add()` of 10 tags", "add_tags"),
    Operation("transaction", "100 saves in one transaction", "create"),
    Operation("rollback", "10 saves that are rolled back", ""),
)


class Question(NamedTuple):
    """A row of the table of stored records."""

    title: str
    observation: str
    describe: Callable[[dict[str, Any]], str]
    in_readme: bool = False


def describe_records(found: dict[str, Any], value: str = "value") -> str:
    """Return the number of records, and how much of the objects they contain."""
    if not found["rows"]:
        return "no record"
    number = "1 record" if found["rows"] == 1 else f"{found['rows']} records"
    kinds = [kind for kind in ("old", "new") if found[kind]]
    values = f"{' and '.join(kinds)} {value}{'' if found['of'] == 1 else 's'}"
    complete = max(found["old"], found["new"])
    if not kinds:
        return f"{number}, keys only" if found["keys"] else f"{number}, no keys"
    if complete < found["of"]:
        return f"{number}, {found['keys']} keys, {values} of {complete}"
    return f"{number}, {values}"


def describe_rollback(found: dict[str, Any]) -> str:
    """Return whether records of a change that was undone exist."""
    if not found["rows"]:
        return "no record"
    if found["rolled_back"] == found["rows"]:
        return f"{found['rows']} record, marked as rolled back"
    return "a record of a change that did not happen"


def describe_crashes(found: dict[str, Any]) -> str:
    """Return at how many of the moments the record was lost."""
    if found["phantom"]:
        return f"record without row at {found['phantom']} of {found['crashes']} moments"
    return f"lost at {found['lost']} of {found['crashes']} moments" if found["lost"] else "kept"


def describe_secret(found: dict[str, Any]) -> str:
    """Return whether the value was stored."""
    return "stored in clear text" if found["secret"] else "not stored"


def describe_actor(found: dict[str, Any]) -> str:
    """Return whether the user was stored."""
    return "stored" if found["actor"] else "not stored"


QUESTIONS = (
    Question("create", "create", describe_records),
    Question("save with a change", "change", describe_records, in_readme=True),
    Question("save without a change", "unchanged", describe_records),
    Question("`bulk_create()` of 100", "bulk_create", describe_records, in_readme=True),
    Question("`update()` of 100 rows", "update", describe_records, in_readme=True),
    Question("delete of a row and, by cascade, of 10 others", "delete", describe_records),
    Question("`add()` of 10 tags", "add_tags", lambda found: describe_records({**found, "old": 0}, "label")),
    Question("a change that is rolled back", "rollback", describe_rollback, in_readme=True),
    Question("the same change, saved again", "after_rollback", describe_records),
    Question("process killed during a save in autocommit", "crash", describe_crashes, in_readme=True),
    Question("process killed during a save in a transaction", "crash_in_transaction", describe_crashes),
    Question("the user, in a view that reads `request.user`", "actor", describe_actor),
    Question("the user, in a view that does not", "unread_actor", describe_actor),
    Question("the value of a field `password`", "secret", describe_secret, in_readme=True),
)


def build_comparison(results: Results) -> str:
    """Return the generated part of docs/comparison.md."""
    load = f"load {results['load'][0]} before and {results['load'][-1]} after"
    databases = ", ".join(results["databases"].values())
    parts = [
        f"Measured on {results['date']} by `{COMMAND}`, {results['rounds']} rounds, on {results['machine']}, {load}.",
        f"Python {results['python']}, {databases}.",
        build_versions(results),
        "## What was stored",
        build_observations(results, QUESTIONS),
    ]
    for database in results["databases"]:
        parts += [f"## What it costs on {DATABASES[database]}", build_figures(results, database)]
    parts += ["## What it takes", build_bytes(results)]
    return "\n\n".join(parts)


def build_versions(results: Results) -> str:
    """Return the versions of the packages in a sentence."""
    versions = [f"Django {results['versions']['django']}"]
    versions += [
        f"{peer.distribution} {results['versions'][peer.name]}" for peer in PEERS if peer.name in results["versions"]
    ]
    return f"Versions: {', '.join(versions)}. Signalbox is that of this working copy."


def build_observations(results: Results, questions: Sequence[Question]) -> str:
    """Return the table of stored records. A cell has both databases' answers if they differ."""
    rows = [["", *(peer.title for peer in PEERS)]]
    for question in questions:
        row = [question.title]
        for peer in PEERS:
            answers = {
                DATABASES[database]: question.describe(observed[peer.name][question.observation])
                for database, observed in results["observed"].items()
                if peer.name in observed
            }
            same = len(set(answers.values())) <= 1
            row.append(next(iter(answers.values()), "") if same else "; ".join(f"{k}: {v}" for k, v in answers.items()))
        rows.append(row)
    return _build_table(rows)


def build_figures(results: Results, database: str) -> str:
    """Return the table of ratios to bare Django on ``database``."""
    peers = [peer for peer in PEERS if database in peer.databases]
    rows = [["", "bare Django", *(peer.title for peer in peers)]]
    measured = {figure["operation"]: figure for figure in results["figures"] if figure["database"] == database}
    for operation in OPERATIONS:
        figure = measured[operation.name]
        cells = [f"{figure['bare'] * 1_000:,.2f} ms"]
        for peer in peers:
            ratio = f"{figure['ratios'][peer.name]:.2f}"
            observed = results["observed"][database][peer.name].get(operation.observation, {"rows": 1})
            cells.append(ratio if observed["rows"] else f"{ratio} (no record)")
        rows.append([operation.title, *cells])
    return _build_table(rows)


def build_bytes(results: Results) -> str:
    """Return the table of bytes for each record, in addition to the row's own."""
    rows = [["", "bare Django", *(peer.title for peer in PEERS)]]
    for name, title in (("create", "created row"), ("change", "changed row")):
        for database, sizes in results["bytes"].items():
            bare = sizes["django"][name]
            cells = [f"+{sizes[p.name][name] - bare:,.0f}" if p.name in sizes else "" for p in PEERS]
            rows.append([f"{title}, {DATABASES[database]}", f"{bare:,.0f}", *cells])
    return _build_table(rows)


def build_summary(results: Results) -> str:
    """Return the generated part of README.md."""
    rows = build_observations(results, [question for question in QUESTIONS if question.in_readme]).splitlines()
    measured = {f["operation"]: f for f in results["figures"] if f["database"] == "postgres"}
    for operation in OPERATIONS:
        if operation.name in ("create", "transaction"):
            ratios = [f"{measured[operation.name]['ratios'][peer.name]:.2f}" for peer in PEERS]
            rows.append(f"| {operation.title}: time, as a ratio to bare Django | {' | '.join(ratios)} |")
    sizes = results["bytes"]["postgres"]
    bare = sizes["django"]["create"]
    cells = [f"{sizes[peer.name]['create'] - bare:,.0f}" for peer in PEERS]
    rows.append(f"| bytes for each created row | {' | '.join(cells)} |")
    return "\n".join(rows)


def write_documents(results: Results) -> None:
    """Replace the tables of both documents. Raises ``ValueError`` if the comments around them are missing."""
    document_tables.replace(DOCUMENT, "comparison", build_comparison(results))
    document_tables.replace(README, "comparison", build_summary(results))


def read_results() -> Results:
    """Return the results of the last whole run."""
    results: Results = json.loads(RESULTS.read_text())
    return results


def write_results(results: Results) -> None:
    """Keep the results of a whole run."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def _build_table(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
