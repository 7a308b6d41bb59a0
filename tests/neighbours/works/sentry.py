"""Sentry's client: the transactions with their spans, the errors and their breadcrumbs are compared."""

from __future__ import annotations

from functools import partial
from io import StringIO
from typing import Any

import sentry_sdk
from django.core.handlers.wsgi import WSGIHandler
from django.test import RequestFactory

from tests.neighbours import telemetry
from tests.neighbours.observing import Observer
from tests.neighbours.works import books


def work(observe: Observer) -> None:
    """Do the work with books in a transaction of Sentry's; requests have their own."""
    sentry_sdk.get_isolation_scope().clear_breadcrumbs()
    with sentry_sdk.start_transaction(op="task", name="work"):
        books.everything(observe)
        sentry_sdk.capture_message("The work is done.")
    for path in ("/write/", "/failure/", "/query-failure/"):
        observe(f"WSGI {path}", partial(served, path))
    sentry_sdk.flush()
    for number, envelope in enumerate(telemetry.ENVELOPES):
        for item in envelope.items:
            if item.payload.json is not None:
                observe.keep(f"{observe.how} {number}, {item.type}", described(item.payload.json))
    telemetry.ENVELOPES.clear()


def served(path: str) -> Any:
    """Return status and content of a response as a server has it: the test client leaves Sentry's handler out."""
    found: list[Any] = []
    environ = RequestFactory().get(path).environ
    environ["wsgi.errors"] = StringIO()
    handler: Any = WSGIHandler()
    response = handler(environ, lambda status, headers, *_: found.append(status))
    try:
        return [*found, b"".join(response)]
    finally:
        response.close()


def described(event: dict[str, Any]) -> dict[str, Any]:
    """Return what an event says, but for moments, random keys and what Signalbox's own middleware adds."""
    exceptions = event.get("exception", {}).get("values", [])
    return {
        "transaction": event.get("transaction"),
        "level": event.get("level"),
        "message": event.get("message"),
        "logger": event.get("logger"),
        "status": event.get("contexts", {}).get("trace", {}).get("status"),
        "exceptions": [exception(one) for one in exceptions],
        "breadcrumbs": [breadcrumb(one) for one in event.get("breadcrumbs", {}).get("values", [])],
        "spans": [span(one) for one in event.get("spans", []) if not own(one)],
    }


def own(one: dict[str, Any]) -> bool:
    """Return whether a span is that of the middleware which the site with Signalbox has more."""
    return one["op"] == "middleware.django" and "signalbox." in one["description"]


def exception(one: dict[str, Any]) -> dict[str, Any]:
    frames = one.get("stacktrace", {}).get("frames", [])
    # The frames that Sentry groups errors by.
    site = [[f["module"], f["function"]] for f in frames if f.get("in_app") and "signalbox." not in f["module"]]
    return {"type": one["type"], "module": one["module"], "value": one["value"], "frames": site}


def breadcrumb(one: dict[str, Any]) -> list[Any]:
    return [one.get("category"), one.get("message"), one.get("level"), one.get("data")]


def span(one: dict[str, Any]) -> list[Any]:
    kept = ("db.system", "db.params", "db.paramstyle", "db.operation", "db.name")
    data = {name: value for name, value in one.get("data", {}).items() if name in kept and name != "db.name"}
    return [one["op"], one["description"], one.get("status"), one.get("origin"), data]
