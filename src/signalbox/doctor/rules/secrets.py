"""Receivers that give secrets away."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.scopes import Frame
from signalbox.doctor.taint import Secrecy, is_secret

_LOG: Final = frozenset({"debug", "info", "warning", "warn", "error", "critical", "exception", "log"})
_STORES: Final = frozenset({"create", "acreate", "get_or_create", "update_or_create", "write", "writelines"})
_CACHES: Final = frozenset({"set", "aset", "add", "aadd", "set_many", "aset_many", "get_or_set"})


@rule(
    9,
    "secret",
    Severity.WARNING,
    "a receiver that prints, logs or stores a password, credentials, a token, a cookie or the whole environ",
)
def secret(project: Project) -> Iterator[Fault]:
    """Find secrets that a receiver hands to print(), a logger, a file, a cache or a table."""
    told: set[tuple[str, int, str]] = set()
    for heard in project.heard:
        for frame in project.frames(heard):
            path = frame.function.path
            for call, conditions in frame.function.calls:
                sink, arguments = _sink(project, frame, call)
                if not arguments:
                    continue
                secrecy = Secrecy(project=project, heard=heard, frame=frame, chosen=bool(conditions))
                for given in (given for argument in arguments for given in secrecy.of(argument)):
                    text = ast.unparse(given.node)
                    place = (path, given.node.lineno, text)
                    if place in told or (sink == "stores" and not given.grave):
                        continue
                    told.add(place)
                    yield Fault(
                        path=path,
                        line=given.node.lineno,
                        signal=heard.signal,
                        receiver=heard.receiver,
                        happens=f"It {sink} {text}: {given.what}.",
                        why="Output and logs are kept, copied and read by more people than may know it, and so are "
                        "caches, and tables that aren't made for it.",
                        remedy="Leave it out; name the user by key, the request by path.",
                        severity=given.severity,
                    )


def _sink(project: Project, frame: Frame, call: ast.Call) -> tuple[str, list[ast.expr]]:
    """Return what the call does, as a verb, and with what; nothing if it gives nothing away."""
    name = syntax.called(frame.function, call)
    owner, _, last = name.rpartition(".")
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if name in {"print", "pprint.pprint", "builtins.print"}:
        return "prints", given
    if last in _LOG and ("log" in owner.lower() or owner == "messages"):
        return "logs", given
    if last in {"write", "writelines"} and owner.rpartition(".")[2] in {"stdout", "stderr"}:
        return "prints", given
    if (last in _STORES and owner) or (last in _CACHES and owner.rpartition(".")[2].startswith("cache")):
        return "stores", _stored(call)
    if last in {"save", "asave"} and isinstance(call.func, ast.Attribute):
        made = frame.value(call.func.value)
        if isinstance(made, ast.Call) and project.model(frame.function.resolve(made.func)):
            return "stores", _stored(made)
    return "", []


def _stored(call: ast.Call) -> list[ast.expr]:
    """Return what is stored, but for what goes into a field that is made for secrets."""
    return [*call.args, *(keyword.value for keyword in call.keywords if not is_secret(keyword.arg or ""))]
