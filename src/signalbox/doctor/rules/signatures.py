"""Receivers whose signature does not match the signal's arguments."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator

from signalbox.core import catalog
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project, Subscription
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.runtime_model import Parameter


@rule(
    8,
    "wrong-signature",
    Severity.ERROR,
    "no `**kwargs`, a required argument that the signal doesn't send, a misspelt one",
    include_packages=True,
)
def wrong_signature(project: Project) -> Iterator[Fault]:
    """Find receivers that a send can't call, and parameters that never receive a value."""
    reported: set[tuple[str, str, int]] = set()
    for connection in project.runtime.connections:
        key = (connection.signal, connection.path, connection.line)
        sent_arguments = _get_sent_arguments(project, connection.signal)
        if sent_arguments and connection.parameters is not None and key not in reported:
            reported.add(key)
            yield from _check_parameters(project, connection.parameters, sent_arguments, *key, connection.receiver)
    for subscription in project.subscriptions:
        key = (subscription.signal, subscription.function.path, subscription.function.line)
        sent_arguments = _get_sent_arguments(project, subscription.signal)
        if (
            sent_arguments
            and key not in reported
            and not subscription.function.has_unknown_decorator
            and not subscription.after_commit
        ):
            yield from _check_parameters(
                project, tuple(_iter_parameters(subscription)), sent_arguments, *key, subscription.receiver
            )


def _get_sent_arguments(project: Project, signal: str) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return the arguments of every send and those of any send; ``None`` if they are unknown."""
    entry = catalog.BUILTIN_SIGNALS.get(signal)
    if entry:
        optional = set(entry.optional)
        if signal == "request_started" and not project.runtime.asgi:
            optional.discard("environ")  # sent under WSGI only
        always = {"sender", "signal", *entry.args} - optional
        return frozenset(always), frozenset({"sender", "signal", *entry.args})
    sends = [send for send in project.source.send_calls if send.signal == signal]
    if not sends or project.escapes(signal) or any(send.argument_names is None for send in sends):
        return None
    argument_sets = [send.argument_names for send in sends if send.argument_names is not None]
    base = {"sender", "signal"}
    return frozenset(base | frozenset.intersection(*argument_sets)), frozenset(base.union(*argument_sets))


def _iter_parameters(subscription: Subscription) -> Iterator[Parameter]:
    arguments = subscription.function.parameters
    positional = [*arguments.posonlyargs, *arguments.args]
    if subscription.function.is_method and subscription.connect and not subscription.connect.is_decorator:
        positional = positional[1:]  # bound when it is connected
    first_default = len(positional) - len(arguments.defaults)
    for index, argument in enumerate(positional):
        yield Parameter(
            name=argument.arg,
            kind="positional" if argument in arguments.posonlyargs else "keyword",
            required=index < first_default,
        )
    if arguments.vararg:
        yield Parameter(name=arguments.vararg.arg, kind="args", required=False)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield Parameter(name=argument.arg, kind="keyword", required=default is None)
    if arguments.kwarg:
        yield Parameter(name=arguments.kwarg.arg, kind="kwargs", required=False)


def _check_parameters(
    project: Project,
    parameters: Iterable[Parameter],
    sent_arguments: tuple[frozenset[str], frozenset[str]],
    signal: str,
    path: str,
    line: int,
    receiver: str,
) -> Iterator[Fault]:
    always, possible = sent_arguments
    parameters = list(parameters)
    keyword_names = {parameter.name for parameter in parameters if parameter.kind == "keyword"}
    open_ended = any(parameter.kind == "kwargs" for parameter in parameters)

    def fault(message: str, reason: str, hint: str, severity: Severity = Severity.ERROR) -> Fault:
        return Fault(
            path=path,
            line=line,
            signal=signal,
            receiver=receiver,
            message=message,
            reason=reason,
            hint=hint,
            severity=severity,
        )

    positional = [p.name for p in parameters if p.kind == "positional" and p.required]
    if positional:
        yield fault(
            "Each send raises TypeError.",
            f"{' and '.join(positional)} can't be passed by keyword, and Django passes every argument by keyword.",
            "Remove the slash from the signature.",
        )
    for parameter in parameters:
        if parameter.kind == "keyword" and parameter.name not in possible:
            suggestion = next(iter(difflib.get_close_matches(parameter.name, possible - keyword_names, 1, 0.75)), "")
            if parameter.required and parameter.name == "self":
                yield fault(
                    "Each send raises TypeError.",
                    "The function is connected while its class is created. It is not a bound method yet, so Django "
                    "passes no self.",
                    "Make it a function of the module, or connect the bound method.",
                )
            elif parameter.required:
                yield fault(
                    "Each send raises TypeError.",
                    f"{signal} sends no {parameter.name}" + (f"; it sends {suggestion}." if suggestion else "."),
                    f"Rename it to {suggestion}." if suggestion else f"Remove {parameter.name}, or give it a default.",
                )
            elif suggestion:
                yield fault(
                    f"{parameter.name} always has its default.",
                    f"{signal} sends no {parameter.name}; it sends {suggestion}, which goes into **kwargs.",
                    f"Rename it to {suggestion}.",
                    Severity.WARNING,
                )
    sometimes_missing = [
        p.name for p in parameters if p.kind == "keyword" and p.required and p.name in possible - always
    ]
    if sometimes_missing:
        yield _build_sometimes_fault(project, sometimes_missing, signal, fault)
    if not open_ended:
        missing = sorted(always - keyword_names)
        yield fault(
            "Each send raises TypeError; with DEBUG on, connect() refuses it."
            if missing
            else "It runs. With DEBUG on, connect() refuses it, and an argument that a later Django adds breaks it.",
            "It has no **kwargs" + (f" and takes no {', '.join(missing)}." if missing else "."),
            "Add **kwargs to the signature.",
            Severity.ERROR if missing else Severity.WARNING,
        )


def _build_sometimes_fault(project: Project, names: list[str], signal: str, build_fault: Callable[..., Fault]) -> Fault:
    name_list = " and ".join(names)
    defaults = ", ".join(f"{name}=None" for name in names)
    if signal == "request_started":
        other = "ASGI" if "environ" in names else "WSGI"
        return build_fault(
            f"Under {other} each request raises TypeError."
            if project.runtime.asgi
            else "Each request raises TypeError.",
            f"Under WSGI request_started sends environ, under ASGI scope; {name_list} is required here.",
            f"Write {defaults}.",
        )
    if signal == "post_migrate":
        return build_fault(
            "manage.py flush raises TypeError, and so does the end of each TransactionTestCase.",
            f"migrate sends {name_list}, flush doesn't.",
            f"Write {defaults}.",
            Severity.WARNING,
        )
    return build_fault(
        "Some sends raise TypeError.",
        f"Not every send of {signal} passes {name_list}.",
        f"Write {defaults}, or pass it in every send.",
    )
