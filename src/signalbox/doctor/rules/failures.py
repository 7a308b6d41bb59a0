"""Receivers that swallow errors, raise them, or take their time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.recorded_stats import ReceiverStats
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.runtime import Connection
from signalbox.doctor.source_model import Function

SLOW_P95_US: Final = 100_000
"""Microseconds of the 95th percentile from which on a receiver is called slow."""
MIN_RUNS: Final = 20
"""How many runs it takes to speak of a percentile."""


@rule(
    15,
    "swallowed-exception",
    Severity.WARNING,
    "a receiver with a bare `except:`, or one that drops every exception without a word",
)
def swallowed_exception(project: Project) -> Iterator[Fault]:
    """Find receivers whose errors nobody will hear of."""
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
                        "the next query fails, at another place. And a mistake in the receiver's own code looks "
                        "like work done.",
                        hint="Catch the exceptions that you expect, and log the rest with logger.exception().",
                    )


def _iter_broad_handlers(function: Function, node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and effect of what catches too much."""
    if isinstance(node, ast.Try):
        for handler in node.handlers:
            if any(isinstance(inner, ast.Raise) for inner in ast.walk(handler)):
                continue
            is_silent = all(map(_is_silent, handler.body))
            if handler.type is None:
                stop_requests = "Ctrl-C and a worker's shutdown"
                yield (
                    handler.lineno,
                    f"Whatever goes wrong in the receiver goes unseen, {stop_requests} too."
                    if is_silent
                    else f"It catches everything, {stop_requests} too: the process goes on as if nobody had asked it "
                    "to stop.",
                )
            elif is_silent and _is_broad(function, handler.type):
                yield handler.lineno, "Whatever goes wrong in the receiver goes unseen."
    elif isinstance(node, ast.With):
        for item in node.items:
            call = item.context_expr
            if (
                isinstance(call, ast.Call)
                and function.resolve(call.func) == "contextlib.suppress"
                and any(_is_broad(function, argument) for argument in call.args)
            ):
                yield call.lineno, "Whatever goes wrong within goes unseen."


def _is_broad(function: Function, node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_is_broad(function, element) for element in node.elts)
    return syntax.get_dotted_name(node).rpartition(".")[2] in {"Exception", "BaseException"}


def _is_silent(node: ast.stmt) -> bool:
    """Whether the statement leaves no trace of the exception: nothing is called, and no other value is made of it."""
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
    """Find receivers that fail in practice."""
    for stats in project.receiver_stats:
        if stats.failures:
            share = f"{stats.failures} of {stats.runs} recorded runs"
            yield _build_fault(
                project,
                stats,
                message=f"It raised in {share}, last: {stats.last_error}.",
                reason="send() stops at the first receiver that raises: those after it don't run, and the save, the "
                "login or the request that sent the signal fails.",
                hint="Mend the cause. What the sender can do without belongs after commit: @receiver(..., "
                "durable=True) tries it again.",
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
    """Find receivers that make their senders wait."""
    for stats in project.receiver_stats:
        if stats.runs >= MIN_RUNS and stats.p95_us > SLOW_P95_US:
            yield _build_fault(
                project,
                stats,
                message=f"Of {stats.runs} recorded runs, one in twenty took more than {stats.p95_us / 1000:.0f} ms.",
                reason="A receiver runs inside save(), the login or the request that sends its signal, and inside the "
                "open transaction with its locks.",
                hint="Do the slow part after commit in a worker: @receiver(..., durable=True).",
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
