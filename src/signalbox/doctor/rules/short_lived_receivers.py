"""Receivers that are collected when the connecting statement or function ends."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import app_ready
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.source_model import ConnectCall, Function
from signalbox.doctor.syntax import get_dotted_name, is_weak_connect

DEBUG_NOTE: Final = (
    "It works by accident while DEBUG is on: Django's check of the signature keeps it in a cache. With DEBUG off it "
    "is collected."
)


@rule(
    3,
    "short-lived-receiver",
    Severity.ERROR,
    "a lambda, nested function, partial or method of a temporary object connected weakly",
    include_packages=True,
)
def short_lived_receiver(project: Project) -> Iterator[Fault]:
    """Find receivers that lose their last reference when the statement or the enclosing function ends."""
    executed = app_ready.find_executed_functions(project)
    for connect in project.source.connect_calls:
        description = _describe_temporary(project, connect, executed) if connect.weak is True else None
        if description is None:
            continue
        for signal in connect.signals:
            if not project.is_kept_alive(connect, signal) and not _is_alive(project, connect, signal):
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.function.dotted_name if connect.function else connect.receiver_text,
                    message=f"The receiver is collected at once and never runs. {DEBUG_NOTE}"
                    if connect.kind not in {"method", "other"}
                    else "The receiver is collected at once and never runs, with DEBUG on or off.",
                    reason=f"connect() refers to it weakly, and nothing else refers to {description}.",
                    hint="Connect a function of the module, or use weak=False and a dispatch_uid.",
                )


def _is_alive(project: Project, connect: ConnectCall, signal: str) -> bool:
    """Return True if the process has a live receiver of the class, which may keep itself alive in ``__init__()``."""
    expected = connect.receiver_path
    if connect.kind == "method":
        expected += f".{connect.receiver_text.rpartition('.')[2]}"
    return connect.kind in {"method", "temporary", "other"} and any(
        c.signal == signal and c.receiver == expected and not c.kept_by_debug_cache for c in project.runtime.connections
    )


def _describe_temporary(project: Project, connect: ConnectCall, executed: frozenset[Function]) -> str | None:
    """Return a description of the receiver; ``None`` if it may stay referenced."""
    function = connect.function
    match connect.kind:
        case "lambda":
            return "the lambda" if _is_only_connected(connect) else None
        case "partial":
            return "the partial" if _is_only_connected(connect) else None
        case "method":
            owner = connect.receiver_path.rpartition(".")[2]
            return (
                f"the {owner} that the method belongs to"
                if owner[:1].isupper() and _is_only_connected(connect)
                else None
            )
        case "temporary":
            owner = connect.receiver_path.rpartition(".")[2]
            if project.get_factory_product(connect):
                return f"the function that {owner}() makes" if _is_only_connected(connect) else None
            return f"the {owner} made here" if owner[:1].isupper() and _is_only_connected(connect) else None
        case "other" if _connects_own_method(project, connect, executed):
            owner = connect.receiver_path.rpartition(".")[0].rpartition(".")[2]
            return f"the {owner} that the method belongs to"
        case "function" if (
            function
            and function.enclosing_function
            and function.enclosing_function is connect.enclosing_function
            and not function.has_unknown_decorator
        ):
            return (
                f"the function {connect.receiver_text} once {function.enclosing_function.name}() returns"
                if _is_only_connected(connect)
                else None
            )
        case _:
            return None


def _connects_own_method(project: Project, connect: ConnectCall, executed: frozenset[Function]) -> bool:
    """Return True if an object of a loaded module connected its own method unconditionally."""
    function, scope = connect.function, connect.enclosing_function
    return (
        function is not None
        and function.is_method
        and not function.decorators
        and connect.receiver_text.startswith("self.")
        and scope in executed
        and not connect.is_conditional
        and not connect.in_loop
        and connect.dispatch_uid is None
        and app_ready.is_always_called(scope, connect.line)
        and not any((signal, function.name) in project.source.disconnected for signal in connect.signals)
        and not any((signal, "*") in project.source.disconnected for signal in connect.signals)
        and project.is_up_to_date(function)
        and _is_sender_loaded(project, connect)
    )


def _is_sender_loaded(project: Project, connect: ConnectCall) -> bool:
    """Return True unless the sender is the label of a model that was not loaded yet."""
    if isinstance(connect.sender_node, ast.Constant):
        return str(connect.sender_node.value).lower() in project.runtime.models
    return not connect.sender_path.endswith("AUTH_USER_MODEL")


def _is_only_connected(connect: ConnectCall) -> bool:
    """Return True if only ``connect()`` holds the receiver, and the enclosing function ends after that."""
    owner = (
        connect.receiver_node.value
        if connect.kind == "method" and isinstance(connect.receiver_node, ast.Attribute)
        else connect.receiver_node
    )
    if isinstance(owner, ast.Call | ast.Lambda):
        return True  # made in the call itself: nothing else can hold it
    if isinstance(owner, ast.Name):
        name = owner.id
    elif connect.function and owner is None:
        name = connect.function.name
    else:
        return False
    scope = connect.enclosing_function  # without one, a name of the module holds the receiver
    return scope is not None and not _may_escape(scope, name) and not _makes_later_calls(scope, connect)


def _may_escape(scope: Function, name: str) -> bool:
    """Return True if a local value may outlive its function, or be used by more than calls and ``connect()``."""
    harmless: set[ast.AST] = set()
    for node in ast.walk(scope.node):
        if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await | ast.Global | ast.Nonlocal):
            return True
        if isinstance(node, ast.Call):
            harmless.add(node.func)
            if isinstance(node.func, ast.Attribute) and node.func.attr == "disconnect":
                return True
            if is_weak_connect(node):
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    harmless.update(ast.walk(argument))
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) and node not in harmless
        for node in ast.walk(scope.node)
    )


def _makes_later_calls(scope: Function, connect: ConnectCall) -> bool:
    """Return True if the function calls other code while its local names still hold the receiver."""
    for statement in scope.body:
        if statement.lineno <= connect.line <= (statement.end_lineno or 0):
            continue
        if statement.lineno > connect.line and not isinstance(
            statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
        ):
            for node in ast.walk(statement):
                if isinstance(node, ast.Call):
                    called_name = get_dotted_name(node.func).rpartition(".")[2]
                    if (
                        called_name not in {"connect", "debug", "info", "partial", "wraps"}
                        and not called_name[:1].isupper()
                    ):
                        return True
    return False
