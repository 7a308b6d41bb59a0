"""Receivers connected while requests are served."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Final

from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.source_model import ConnectCall, Function

MIN_DUPLICATES: Final = 25
"""Number of receivers with the same code and sender that is reported as a leak."""
_REQUEST_METHODS: Final = frozenset(
    """get post put patch delete head options dispatch form_valid form_invalid get_queryset get_context_data list
    retrieve create update partial_update destroy perform_create perform_update perform_destroy process_request
    process_view process_response process_exception save asave clean full_clean save_model delete_model
    changelist_view"""
    "".split()
)
_REQUEST_CLASS_SUFFIXES: Final = (
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
_PER_REQUEST_CLASS_SUFFIXES: Final = ("Form", "Serializer", "View", "ViewSet")
"""Bases of classes that are instantiated for each request, unlike middleware and admin classes."""
_REQUEST_TIME_SIGNALS: Final = frozenset(
    """request_started request_finished user_logged_in user_logged_out pre_init post_init pre_save post_save pre_delete
    post_delete m2m_changed got_request_exception""".split()
)


@rule(
    18,
    "connect-in-request",
    Severity.WARNING,
    "a receiver connected while requests are served: their number grows",
    include_packages=True,
)
def connect_in_request(project: Project) -> Iterator[Fault]:
    """Find connections that are made repeatedly."""
    request_time_functions = {
        (subscription.function.path, subscription.function.line)
        for subscription in project.subscriptions
        if subscription.signal in _REQUEST_TIME_SIGNALS
    }
    for connect in project.source.connect_calls:
        request_function = _get_request_function(connect.enclosing_function, request_time_functions)
        if not request_function or connect.weak is None or _has_disconnect(connect):
            continue
        for signal in connect.signals:
            if _adds_connection_each_call(connect):
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.receiver_path or connect.receiver_text,
                    message="Each call adds a receiver that is never disconnected: every send gets slower, and the "
                    "memory of the process grows.",
                    reason=f"{connect.receiver_text} is another object, or has another dispatch_uid or sender, each "
                    f"time that {request_function} runs, and Django keeps them all.",
                    hint="Connect one function once, in ready() of the app config.",
                    severity=Severity.ERROR,
                )
            elif connect.kind == "function" and not (connect.function and connect.function.enclosing_function):
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.receiver_path,
                    message=f"A process has this receiver only after {request_function} has run once, and then "
                    "permanently.",
                    reason="The connection is made during a request, and it belongs to the process, not to the "
                    "request.",
                    hint="Connect it once, in ready() of the app config.",
                )
    yield from _find_duplicates(project)


def _get_request_function(function: Function | None, request_time_functions: set[tuple[str, int]]) -> str:
    """Return a description of the enclosing function that runs for each request; empty if there is none."""
    while function is not None:
        parameters = [argument.arg for argument in (*function.parameters.posonlyargs, *function.parameters.args)]
        call_parameters = parameters[1:] if function.is_method else parameters
        if call_parameters[:1] in (["request"], ["req"]) and not function.is_app_config_hook:
            return f"{function.name}()"
        if (function.path, function.line) in request_time_functions:
            return f"{function.name}()"
        bases = tuple(base.rpartition(".")[2] for base in function.bases)
        if (
            function.is_method
            and function.name == "__init__"
            and any(base.endswith(_PER_REQUEST_CLASS_SUFFIXES) for base in bases)
        ):
            return f"{function.qualname}()"
        if (
            function.is_method
            and function.name in _REQUEST_METHODS
            and any(base.endswith(_REQUEST_CLASS_SUFFIXES) for base in bases)
        ):
            return f"{function.qualname}()"
        function = function.enclosing_function
    return ""


def _has_disconnect(connect: ConnectCall) -> bool:
    """Return True if the enclosing function also disconnects."""
    nodes = ast.walk(connect.enclosing_function.node) if connect.enclosing_function else ()
    return any(isinstance(node, ast.Attribute) and node.attr == "disconnect" for node in nodes)


def _adds_connection_each_call(connect: ConnectCall) -> bool:
    """Return True if each call adds a connection: its receiver is a new object, or its ``dispatch_uid`` changes."""
    if connect.dispatch_uid is not None and not isinstance(connect.dispatch_uid, ast.Constant):
        return connect.kind == "function" or connect.weak is False
    if isinstance(connect.dispatch_uid, ast.Constant):
        return False
    if connect.weak is True:
        return False
    is_nested = (
        connect.kind == "function" and connect.function is not None and connect.function.enclosing_function is not None
    )
    return (
        is_nested
        or connect.kind in {"lambda", "partial", "method", "temporary"}
        or connect.receiver_text.startswith("self.")
    )


def _find_duplicates(project: Project) -> Iterator[Fault]:
    """Find many live receivers with the same code and sender."""
    duplicates = Counter(
        (c.signal, c.path, c.line, c.sender_key, c.receiver)
        for c in project.runtime.connections
        if c.is_alive and c.path and not c.ends_with_its_object  # as Django's file storages connect theirs
    )
    for (signal, path, line, _, receiver), count in duplicates.items():
        if count >= MIN_DUPLICATES:
            yield Fault(
                path=path,
                line=line,
                signal=signal,
                receiver=receiver,
                message=f"{count} receivers with the same code are connected to the same sender, so each send runs it "
                f"{count} times.",
                reason="A new function or object is connected repeatedly, and none is ever disconnected.",
                hint="Connect one function once, in ready(), or use a constant dispatch_uid.",
            )
