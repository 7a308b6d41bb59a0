"""Receivers connected while requests are served."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Final

from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.source_model import Connect, Function

MANY: Final = 25
"""Receivers of one sender with one piece of code from which on they are taken for a leak."""
_HANDLERS: Final = frozenset(
    """get post put patch delete head options dispatch form_valid form_invalid get_queryset get_context_data list
    retrieve create update partial_update destroy perform_create perform_update perform_destroy process_request
    process_view process_response process_exception save asave clean full_clean save_model delete_model
    changelist_view"""
    "".split()
)
_SERVING: Final = (
    "View",
    "ViewSet",
    "Middleware",
    "MiddlewareMixin",
    "Form",
    "Model",
    "Admin",
    "Serializer",
    "Consumer",
)
_MADE_EACH_TIME: Final = ("Form", "Serializer", "View", "ViewSet")
"""Bases of classes of which each request makes an object; of middleware and admin classes there is one."""
_HOT: Final = frozenset(
    """request_started request_finished user_logged_in user_logged_out pre_init post_init pre_save post_save pre_delete
    post_delete m2m_changed got_request_exception""".split()
)


@rule(
    18, "leaks", Severity.WARNING, "a receiver connected while requests are served: their number grows", packages=True
)
def leaks(project: Project) -> Iterator[Fault]:
    """Find connections made again and again."""
    hot = {(heard.function.path, heard.function.line) for heard in project.heard if heard.signal in _HOT}
    for connect in project.source.connects:
        serving = _serving(connect.scope, hot)
        if not serving or connect.weak is None or _disconnects(connect):
            continue
        for signal in connect.signals:
            if _new_each_time(connect):
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.target or connect.receiver,
                    happens="Each call adds one more receiver, which is never taken away: every send gets slower, "
                    "and the memory of the process grows.",
                    why=f"{connect.receiver} is another object, or has another dispatch_uid or sender, each time "
                    f"that {serving} runs, and Django keeps them all.",
                    remedy="Connect one function once, in ready() of the app config.",
                    severity=Severity.ERROR,
                )
            elif connect.kind == "function" and not (connect.function and connect.function.outer):
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.target,
                    happens=f"Until {serving} has run in a process, that process has no such receiver; then it has "
                    "it for good.",
                    why="The connection is made while work is done, and it belongs to the process, not to the request.",
                    remedy="Connect it once, in ready() of the app config.",
                )
    yield from _crowds(project)


def _serving(scope: Function | None, hot: set[tuple[str, int]]) -> str:
    """Return the function that runs for a request, in words; nothing if it may be one that runs once."""
    while scope is not None:
        parameters = [argument.arg for argument in (*scope.parameters.posonlyargs, *scope.parameters.args)]
        own = parameters[1:] if scope.method else parameters
        if own[:1] in (["request"], ["req"]) and not scope.ready:
            return f"{scope.node_name}()"
        if (scope.path, scope.line) in hot:
            return f"{scope.node_name}()"
        bases = tuple(base.rpartition(".")[2] for base in scope.bases)
        if scope.method and scope.node_name == "__init__" and any(base.endswith(_MADE_EACH_TIME) for base in bases):
            return f"{scope.qualname}()"
        if scope.method and scope.node_name in _HANDLERS and any(base.endswith(_SERVING) for base in bases):
            return f"{scope.qualname}()"
        scope = scope.outer
    return ""


def _disconnects(connect: Connect) -> bool:
    """Whether the function takes back what it connects."""
    inside = ast.walk(connect.scope.node) if connect.scope else ()
    return any(isinstance(node, ast.Attribute) and node.attr == "disconnect" for node in inside)


def _new_each_time(connect: Connect) -> bool:
    """Whether each call leaves one more connection: of an object that is kept, or of a key that changes."""
    if connect.uid is not None and not isinstance(connect.uid, ast.Constant):
        return connect.kind == "function" or connect.weak is False
    if isinstance(connect.uid, ast.Constant):
        return False
    if connect.weak is True:
        return False
    nested = connect.kind == "function" and connect.function is not None and connect.function.outer is not None
    return (
        nested or connect.kind in {"lambda", "partial", "method", "temporary"} or connect.receiver.startswith("self.")
    )


def _crowds(project: Project) -> Iterator[Fault]:
    """Find crowds of living receivers that share their code and their sender: one more came each time."""
    crowds = Counter(
        (c.signal, c.path, c.line, c.sender_key, c.receiver) for c in project.runtime.connections if c.alive and c.path
    )
    for (signal, path, line, _, receiver), count in crowds.items():
        if count >= MANY:
            yield Fault(
                path=path,
                line=line,
                signal=signal,
                receiver=receiver,
                happens=f"{count} receivers with the same code hear the same sender, so that each send runs it "
                f"{count} times.",
                why="A new function or object is connected again and again, strongly or held by something, and none "
                "is ever disconnected.",
                remedy="Connect one function once, in ready(); or give them one dispatch_uid.",
            )
