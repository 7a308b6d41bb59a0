"""OpenTelemetry: the spans of requests and of the drivers are compared."""

from __future__ import annotations

from typing import Any

from tests.neighbours import telemetry
from tests.neighbours.observing import Observer
from tests.neighbours.works import books

OWN = "signalbox_"
"""What the names of Signalbox's tables begin with: the drivers' instrumentation has spans for its statements too."""


def work(observe: Observer) -> None:
    """Do the work with books."""
    telemetry.SPANS.clear()
    books.everything(observe)
    spans = [one for one in telemetry.SPANS.get_finished_spans() if not declared(statement(one))]
    observe.keep(f"spans, {observe.how}", [described(one) for one in spans])


def declared(sql: str) -> bool:
    """Return whether a span is left out: it writes Signalbox's own rows, or is a BEGIN, which may be Signalbox's."""
    return OWN in sql or (sql.partition(" ")[0].rstrip(";") == "BEGIN" and ";" not in sql)


def statement(one: Any) -> str:
    return str((one.attributes or {}).get("db.statement", ""))


def described(one: Any) -> dict[str, Any]:
    """Return what a span says, but for moments and random keys."""
    kept = ("db.statement", "db.system", "http.method", "http.route", "http.status_code", "http.target")
    return {
        "name": one.name,
        "kind": one.kind.name,
        "status": [one.status.status_code.name, one.status.description],
        "attributes": {name: value for name, value in (one.attributes or {}).items() if name in kept},
        "events": [[event.name, (event.attributes or {}).get("exception.type")] for event in one.events],
        "root": one.parent is None,
    }
