"""Receivers that print, log or store secrets."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.scopes import Frame
from signalbox.doctor.taint import SecretFinder, is_secret_name

_LOG_METHODS: Final = frozenset({"debug", "info", "warning", "warn", "error", "critical", "exception", "log"})
_STORE_METHODS: Final = frozenset({"create", "acreate", "get_or_create", "update_or_create", "write", "writelines"})
_CACHE_METHODS: Final = frozenset({"set", "aset", "add", "aadd", "set_many", "aset_many", "get_or_set"})


@rule(
    9,
    "exposed-secret",
    Severity.WARNING,
    "a receiver that prints, logs or stores a password, credentials, a token, a cookie or the whole environ",
)
def exposed_secret(project: Project) -> Iterator[Fault]:
    """Find secrets that a receiver passes to ``print()``, a logger, a file, a cache or a table."""
    reported: set[tuple[str, int, str]] = set()
    for subscription in project.subscriptions:
        for frame in project.get_frames(subscription):
            path = frame.function.path
            for call, conditions in frame.function.calls:
                sink, arguments = _find_sink(project, frame, call)
                if not arguments:
                    continue
                secret_finder = SecretFinder(
                    project=project, subscription=subscription, frame=frame, is_conditional=bool(conditions)
                )
                for secret in (secret for argument in arguments for secret in secret_finder.find_secrets(argument)):
                    text = ast.unparse(secret.node)
                    key = (path, secret.node.lineno, text)
                    if key in reported or (sink == "stores" and not secret.is_critical):
                        continue
                    reported.add(key)
                    yield Fault(
                        path=path,
                        line=secret.node.lineno,
                        signal=subscription.signal,
                        receiver=subscription.receiver,
                        message=f"It {sink} {text}: {secret.description}.",
                        reason="Output, logs, caches and ordinary tables are copied and read by people who must not "
                        "know the secret.",
                        hint="Remove it. Name the user by key, the request by path.",
                        severity=secret.severity,
                    )


def _find_sink(project: Project, frame: Frame, call: ast.Call) -> tuple[str, list[ast.expr]]:
    """Return a verb for the call's effect and the exposed arguments; an empty list if the call exposes nothing."""
    name = syntax.get_called_name(frame.function, call)
    owner, _, method = name.rpartition(".")
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    if name in {"print", "pprint.pprint", "builtins.print"}:
        return "prints", values
    if method in _LOG_METHODS and ("log" in owner.lower() or owner == "messages"):
        return "logs", values
    if method in {"write", "writelines"} and owner.rpartition(".")[2] in {"stdout", "stderr"}:
        return "prints", values
    if (method in _STORE_METHODS and owner) or (
        method in _CACHE_METHODS and owner.rpartition(".")[2].startswith("cache")
    ):
        return "stores", _get_stored_values(call)
    if method in {"save", "asave"} and isinstance(call.func, ast.Attribute):
        created_value = frame.resolve_value(call.func.value)
        if isinstance(created_value, ast.Call) and project.get_model(frame.function.resolve(created_value.func)):
            return "stores", _get_stored_values(created_value)
    return "", []


def _get_stored_values(call: ast.Call) -> list[ast.expr]:
    """Return the stored arguments, except those for a field with a secret name."""
    return [*call.args, *(keyword.value for keyword in call.keywords if not is_secret_name(keyword.arg or ""))]
