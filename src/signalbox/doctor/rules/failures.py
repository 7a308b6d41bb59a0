"""Receivers that swallow exceptions, raise them or are slow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.core.receiver_stats import ReceiverStats
from signalbox.core.text import format_duration
from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.runtime_model import Connection
from signalbox.doctor.source_model import Function

SLOW_P95_US: Final = 100_000
"""95th percentile of the duration above which a receiver is slow, in microseconds."""
MIN_RUNS: Final = 20
"""Minimum number of runs for a percentile."""


@rule(
    15,
    "swallowed-exception",
    Severity.WARNING,
    "a receiver with a bare `except:`, or one that discards every exception silently",
)
def swallowed_exception(project: Project) -> Iterator[Fault]:
    """Find receivers whose exceptions are never reported."""
    reported: set[tuple[str, int]] = set()
    for subscription in project.subscriptions:
        for step in subscription.function.steps:
            for line, message in _iter_broad_handlers(subscription.function, step.node):
                key = (subscription.function.path, line)
                if key not in reported:
                    reported.add(key)
                    yield Fault(
                        path=key[0],
                        line=key[1],
                        signal=subscription.signal,
                        receiver=subscription.receiver,
                        message=message,
                        reason="A database error that is caught within a transaction leaves the transaction broken: "
                        "the next query fails, at another place. An error in the receiver's own code looks like "
                        "success.",
                        hint="Catch the exceptions that you expect, and log the rest with logger.exception().",
                    )


def _iter_broad_handlers(function: Function, node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and effect of each handler that catches too much."""
    if isinstance(node, ast.Try):
        for handler in node.handlers:
            if any(isinstance(inner, ast.Raise) for inner in ast.walk(handler)):
                continue
            is_silent = all(map(_is_silent, handler.body))
            if handler.type is None:
                stop_requests = "Ctrl-C and a worker's shutdown"
                yield (
                    handler.lineno,
                    f"No exception in the receiver is reported, including {stop_requests}."
                    if is_silent
                    else f"It catches every exception, including {stop_requests}: the process does not stop.",
                )
            elif is_silent and _is_broad(function, handler.type):
                yield handler.lineno, "No exception in the receiver is reported."
    elif isinstance(node, ast.With):
        for item in node.items:
            call = item.context_expr
            if (
                isinstance(call, ast.Call)
                and function.resolve(call.func) == "contextlib.suppress"
                and any(_is_broad(function, argument) for argument in call.args)
            ):
                yield call.lineno, "No exception in the block is reported."


def _is_broad(function: Function, node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_is_broad(function, element) for element in node.elts)
    return syntax.get_dotted_name(node).rpartition(".")[2] in {"Exception", "BaseException"}


def _is_silent(node: ast.stmt) -> bool:
    """Return True if the statement ignores the exception: it calls nothing and assigns only constants."""
    match node:
        case ast.Pass() | ast.Continue() | ast.Break():
            return True
        case ast.Return(value=value):
            return value is None or isinstance(value, ast.Constant)
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name()], value=ast.Constant()):
            return True
        case _:
            return False


@rule(
    16,
    "raising-receiver",
    Severity.ERROR,
    "a receiver that raised in the recorded events",
    needs_recorded_events=True,
    include_packages=True,
)
def raising_receiver(project: Project) -> Iterator[Fault]:
    """Find receivers that raised in the recorded events."""
    for stats in project.receiver_stats:
        if stats.errors:
            share = f"{stats.errors} of {stats.calls} recorded runs"
            yield _build_fault(
                project,
                stats,
                message=f"It raised in {share}, last: {stats.last_error}.",
                reason="send() stops at the first receiver that raises: the receivers after it don't run, and the "
                "save, login or request that sent the signal fails.",
                hint="Fix the cause. Run work that the sender does not need after commit: @receiver(..., "
                "durable=True) retries it.",
            )


@rule(
    17,
    "slow-receiver",
    Severity.WARNING,
    "a receiver whose p95 is over 100 ms in the recorded events",
    needs_recorded_events=True,
    include_packages=True,
)
def slow_receiver(project: Project) -> Iterator[Fault]:
    """Find receivers that were slow in the recorded events."""
    for stats in project.receiver_stats:
        if stats.calls >= MIN_RUNS and stats.p95_us > SLOW_P95_US:
            limit = format_duration(stats.p95_us)
            yield _build_fault(
                project,
                stats,
                message=f"Of {stats.calls} recorded runs, one in twenty took more than {limit}.",
                reason="A receiver runs inside save(), the login or the request that sends its signal, and inside the "
                "open transaction with its locks.",
                hint="Run the slow part after commit in a worker: @receiver(..., durable=True).",
            )


def _build_fault(project: Project, stats: ReceiverStats, *, message: str, reason: str, hint: str) -> Fault:
    connection = _find_connection(project, stats)
    return Fault(
        path=connection.path if connection else "",
        line=connection.line if connection else 0,
        signal=stats.signal,
        receiver=stats.receiver,
        message=message,
        reason=reason,
        hint=hint,
    )


def _find_connection(project: Project, stats: ReceiverStats) -> Connection | None:
    matching = [c for c in project.runtime.connections if c.receiver == stats.receiver]
    return next((c for c in matching if c.signal == stats.signal), next(iter(matching), None))
