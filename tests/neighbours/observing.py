"""Records what a site's work does: statements, results, exceptions, signals, log records and rows, as JSON.

What differs between two runs of the same work is replaced by a word: moments, random keys, thread numbers.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connections, models
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext

VOLATILE = [
    (re.compile(r"\b[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b"), "<traceparent>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)?"), "<moment>"),
    (re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"[.\w-]+:\w{6}:[\w-]{43}"), "<signed>"),
    (re.compile(r"\b[a-z0-9]{32}\b"), "<session>"),
    (re.compile(r"\bs\d{5,}_x(\d+)\b"), r"s<thread>_x\1"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "<moment>"),
    (re.compile(r"md5\$\w+\$<uuid>|!\w{40}\b"), "<password>"),
    (re.compile(r"csrfmiddlewaretoken\" value=\"\w+\""), 'csrfmiddlewaretoken" value="<token>"'),
    (re.compile(r"\b0x[0-9a-f]+\b"), "<address>"),
    (re.compile(r"_django_curs_\w+"), "<cursor>"),
]
SIGNALS = {
    "pre_save": pre_save,
    "post_save": post_save,
    "pre_delete": pre_delete,
    "post_delete": post_delete,
    "m2m_changed": m2m_changed,
}
HOWS = ("unobserved", "wrapped", "logged")
"""How statements are observed. Each way changes what Django does, so that the work is done once in each."""


_KEYS = re.compile(r"(?<= IN \()[\d, ]+(?=\))")
_ESCAPES = re.compile(r"\bE'(?:[^'\\]|\\.|'')*'")
_decode = json.JSONDecoder().raw_decode
unordered = False
"""Whether the keys of JSON objects come in an order that differs from run to run."""


def stable(text: str) -> str:
    """Return ``text`` with a word in the place of each part that differs from run to run.

    Lists of keys are sorted: they come from queries without an order.
    """
    for pattern, word in VOLATILE:
        text = pattern.sub(word, text)
    text = _KEYS.sub(lambda found: ", ".join(sorted(found[0].split(", "), key=int)), text)
    return in_order(text) if unordered and '{"' in text else text


def in_order(text: str) -> str:
    """Return ``text`` with the keys of its JSON objects in alphabetical order.

    In PostgreSQL's literals with escapes, a backslash of JSON is written twice.
    """
    text = _ESCAPES.sub(lambda found: found[0].replace("\\\\", "\\"), text)
    done = ""
    while (start := text.find('{"')) >= 0:
        try:
            found, end = _decode(text, start)
        except ValueError:
            found, end = None, start + 1
        done += text[:start] + (text[start:end] if found is None else json.dumps(found, sort_keys=True))
        text = text[end:]
    return done + text


def plain(value: Any) -> Any:
    """Return ``value`` as JSON values; of an object of another type, its type and what it shows of itself."""
    match value:
        case None | bool() | int() | float():
            return value
        case str() if type(value) is str:
            return stable(value)
        case models.Model():
            return {
                "model": value._meta.label,
                "adding": value._state.adding,
                "values": {f.attname: plain(getattr(value, f.attname)) for f in loaded(value)},
            }
        case HttpResponse():
            found: dict[str, Any] = {"status": value.status_code, "headers": headers(value)}
            if settings.DEBUG and value.status_code >= 400:  # Django's page shows frames, settings and paths
                found["headers"].pop("Content-Length", None)
                return found
            return {**found, "content": stable(value.content.decode(errors="replace"))}
        case BaseException():
            return failure(value)
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case models.QuerySet() | list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=repr)
        case Decimal() | dt.date() | dt.timedelta() | bytes():
            return stable(f"{type(value).__name__} {value!s}")
    kind = type(value)
    if kind.__name__ in ("Json", "Jsonb") and kind.__module__.startswith("psycopg"):
        return {kind.__name__: plain(value.obj)}  # its text is shortened, and shows an order of keys that is not kept
    return stable(f"{kind.__module__}.{kind.__qualname__} {value!s}")


def loaded(instance: models.Model) -> Iterable[Any]:
    """Return the fields of ``instance`` whose values it has."""
    deferred = instance.get_deferred_fields()
    return (field for field in instance._meta.concrete_fields if field.attname not in deferred)


def headers(response: HttpResponse) -> dict[str, str]:
    """Return a response's headers, and the names of its cookies."""
    found = {name: stable(value) for name, value in response.headers.items() if name != "Server-Timing"}
    return {**found, "cookies": " ".join(sorted(response.cookies))}


def failure(error: BaseException) -> dict[str, Any]:
    """Return class and message of an exception and of its causes, with the database's own code."""
    found: dict[str, Any] = {"class": f"{type(error).__module__}.{type(error).__qualname__}"}
    found["message"] = stable(str(error))
    for name in ("sqlstate", "sqlite_errorname"):
        if code := getattr(error, name, None):
            found[name] = code
    if error.__cause__ is not None:
        found["cause"] = failure(error.__cause__)
    return found


class Log(logging.Handler):
    """Keeps log records from WARNING upwards: the site's, and those of Signalbox by themselves."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.site: list[str] = []
        self.signalbox: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = stable(f"{record.name} {record.levelname} {record.getMessage()}")
        if record.exc_info and record.exc_info[1]:
            text += f": {failure(record.exc_info[1])}"
        own = record.name == "signalbox" or record.name.startswith("signalbox.")
        (self.signalbox if own else self.site).append(text)


class Observer:
    """Runs the steps of a site's work and keeps what each of them did."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, Any]] = {}
        self.neighbour: dict[str, Any] = {}
        """What the neighbour itself has recorded."""
        self.how = "unobserved"
        self._signals: list[Any] = []
        self._statements: list[Any] = []
        self.sent: set[tuple[str, str]] = set()
        """Signal and sender of each send of Django's about a model of the site."""
        self.refusing: str = ""
        """The signal whose receiver raises an exception."""
        self.log = Log()
        logging.getLogger().addHandler(self.log)
        self._receivers = []
        for name, signal in SIGNALS.items():
            receiver = partial(self._receive, name)
            self._receivers.append(receiver)
            signal.connect(receiver, weak=False)

    def __call__(self, name: str, action: Callable[[], Any]) -> Any:
        """Run ``action`` as the step ``name``, keep what it did, and return its result; ``None`` if it raised."""
        name = f"{name}, {self.how}"
        if name in self.steps:
            raise ValueError(f"There are two steps {name!r}.")
        self._signals, self._statements = [], []
        step: dict[str, Any] = {}
        result = None
        logged: list[CaptureQueriesContext] = []
        with ExitStack() as stack:
            for connection in connections.all(initialized_only=True):
                if self.how == "wrapped":
                    stack.enter_context(connection.execute_wrapper(self._execute))
                elif self.how == "logged":
                    logged.append(stack.enter_context(CaptureQueriesContext(connection)))
            try:
                result = action()
                step["result"] = plain(result)
            except Exception as error:  # noqa: BLE001 - it is what the site would see
                step["exception"] = failure(error)
        for context in logged:
            self._statements += [stable(str(query["sql"])) for query in context.captured_queries]
        step["statements"] = self._statements
        step["signals"] = self._signals
        self.steps[name] = step
        return result

    def keep(self, name: str, value: Any) -> None:
        """Keep ``value`` as something that the neighbour has recorded."""
        self.neighbour[name] = plain(value)

    def _execute(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        found = plain(params)
        if isinstance(found, list) and " IN (%s, " in str(sql) and all(type(key) is int for key in found):
            found.sort()  # as in ``stable``
        self._statements.append([stable(str(sql)), found, many])
        return execute(sql, params, many, context)

    def _receive(self, name: str, *, sender: Any, **kwargs: Any) -> None:
        if sender._meta.app_label not in ("works", "auth"):
            return
        self.sent.add((name, sender._meta.label))
        kept = {key: plain(kwargs[key]) for key in sorted(kwargs) if key not in ("signal", "origin", "model")}
        self._signals.append([name, sender._meta.label, kept])
        if self.refusing == name:
            raise ValueError(f"A receiver of {name} refuses.")


def rows(volatile: frozenset[str]) -> dict[str, list[Any]]:
    """Return what every table of the site holds, those of Signalbox and of sessions excepted."""
    found = {}
    for model in apps.get_models(include_auto_created=True):
        label = model._meta.label
        if model._meta.app_label in ("signalbox", "contenttypes", "sessions") or label.startswith("auth.Permission"):
            continue
        if not model._meta.managed or model._meta.proxy or label in volatile:
            continue
        fields = [f for f in model._meta.local_concrete_fields if f"{label}.{f.attname}" not in volatile]
        columns = ", ".join(f'"{field.column}"' for field in fields)
        with connections["default"].cursor() as cursor:
            cursor.execute(f'SELECT {columns} FROM "{model._meta.db_table}"')
            found[label] = sorted((plain(row) for row in cursor.fetchall()), key=repr)
    return found
