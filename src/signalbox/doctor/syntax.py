"""Helpers for the syntax of functions: the expressions that run, and their conditions."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from signalbox.doctor.source_model import Function


class Condition(NamedTuple):
    """A condition on which a place is reached."""

    test: ast.expr | None
    """The tested expression; ``None`` for other conditions, such as an exception or a pattern."""
    expected: bool
    """The truth value on which the place is reached."""


Conditions: TypeAlias = tuple[Condition, ...]
Evaluator: TypeAlias = Callable[[ast.expr], bool | None]
"""Returns the known truth value of an expression; ``None`` if unknown."""

SEND_METHODS: Final = frozenset({"send", "send_robust", "asend", "asend_robust"})
UNKNOWN_CONDITION: Final = Condition(None, True)


class Step(NamedTuple):
    """One expression or statement that runs when the function does."""

    node: ast.AST
    """Its syntax."""
    conditions: Conditions
    """Its conditions: an enclosing ``if``, or an earlier one that may return, raise or end an iteration."""


_SCOPE_NODES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_LOOP_NODES = (ast.For, ast.AsyncFor, ast.While)
_BLOCK_FIELDS = ("body", "orelse", "finalbody", "handlers", "cases")
_COMPOUND_NODES = (ast.If, ast.Match, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, *_LOOP_NODES)


def parse_module(text: str) -> ast.Module | None:
    """Return the syntax tree of a file; ``None`` if this version of Python can't parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escape sequences
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def collect_steps(body: list[ast.stmt]) -> list[Step]:
    """Return the steps of a function with this body, without those of inner functions."""
    found: list[Step] = []
    _collect_block(body, (), found)
    return found


def is_reached(conditions: Conditions, evaluate: Evaluator) -> bool | None:
    """Return True if a place is always reached, False if never, ``None`` if unknown."""
    answers = [None if c.test is None else _is_met(c, evaluate) for c in conditions]
    return False if False in answers else None if None in answers else True


def _is_met(condition: Condition, evaluate: Evaluator) -> bool | None:
    answer = evaluate_truth(condition.test, evaluate) if condition.test else None
    return None if answer is None else answer is condition.expected


def evaluate_truth(test: ast.expr, evaluate: Evaluator) -> bool | None:
    """Return the truth value of ``test``; ``None`` if it does not follow from the known values."""
    answer = evaluate(test)
    if answer is not None:
        return answer
    match test:
        case ast.Constant(value=value):
            return bool(value)
        case ast.UnaryOp(op=ast.Not()):
            inner = evaluate_truth(test.operand, evaluate)
            return None if inner is None else not inner
        case ast.BoolOp():
            answers = [evaluate_truth(value, evaluate) for value in test.values]
            decisive_answer = isinstance(test.op, ast.Or)
            return decisive_answer if decisive_answer in answers else None if None in answers else not decisive_answer
        case ast.Compare(ops=[ast.Is() | ast.Eq()], comparators=[ast.Constant(value=bool() as value)]):
            inner = evaluate_truth(test.left, evaluate)
            return None if inner is None else inner is value
        case ast.Compare(ops=[ast.IsNot() | ast.NotEq()], comparators=[ast.Constant(value=bool() as value)]):
            inner = evaluate_truth(test.left, evaluate)
            return None if inner is None else inner is not value
        case _:
            return None


def _collect_block(body: list[ast.stmt], conditions: Conditions, steps: list[Step]) -> None:
    for node in body:
        _collect_node(node, conditions, steps)
        if isinstance(node, _COMPOUND_NODES):
            conditions += _get_conditions_after(node)


def _get_conditions_after(node: ast.stmt) -> Conditions:
    """Return the conditions on which the statements after ``node`` run."""
    if not may_exit(node):
        return ()
    if isinstance(node, ast.If):
        body, orelse = (any(map(may_exit, block)) for block in (node.body, node.orelse))
        if body and not orelse and _always_exits(node.body):
            return (Condition(node.test, False),)
        if orelse and not body and _always_exits(node.orelse):
            return (Condition(node.test, True),)
    return (UNKNOWN_CONDITION,)


def _always_exits(block: list[ast.stmt]) -> bool:
    return isinstance(block[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def may_exit(node: ast.AST, in_loop: bool = False) -> bool:
    """Return True if a statement in ``node`` may end the function, or an iteration of a loop around it."""
    if isinstance(node, ast.Return | ast.Raise):
        return True
    if isinstance(node, ast.Continue | ast.Break):
        return not in_loop
    if isinstance(node, _SCOPE_NODES):
        return False
    in_loop = in_loop or isinstance(node, _LOOP_NODES)
    return any(may_exit(child, in_loop) for block in _BLOCK_FIELDS for child in getattr(node, block, ()))


def _collect_node(node: ast.AST, conditions: Conditions, steps: list[Step]) -> None:
    if isinstance(node, _SCOPE_NODES):
        return
    steps.append(Step(node, conditions))
    if isinstance(node, ast.Name | ast.Constant):
        return  # a fast path: they have no child steps, and half of all nodes are such
    if isinstance(node, _COMPOUND_NODES):
        _collect_compound_statement(node, conditions, steps)
    else:
        _collect_expression(node, conditions, steps)


def _collect_compound_statement(node: ast.AST, conditions: Conditions, steps: list[Step]) -> None:
    match node:
        case ast.If() | ast.While():
            _collect_node(node.test, conditions, steps)
            _collect_block(node.body, (*conditions, Condition(node.test, True)), steps)
            _collect_block(node.orelse, (*conditions, Condition(node.test, False)), steps)
        case ast.Try() | ast.TryStar():
            _collect_block(node.body, conditions, steps)
            for handler in node.handlers:
                _collect_block(handler.body, (*conditions, UNKNOWN_CONDITION), steps)
            _collect_block(node.orelse, conditions, steps)
            _collect_block(node.finalbody, conditions, steps)
        case ast.For() | ast.AsyncFor():
            _collect_node(node.iter, conditions, steps)
            body_conditions = (*conditions, UNKNOWN_CONDITION) if _is_filtered(node.iter) else conditions
            _collect_block(node.body, body_conditions, steps)
            _collect_block(node.orelse, conditions, steps)
        case ast.With() | ast.AsyncWith():
            for item in node.items:
                _collect_node(item.context_expr, conditions, steps)
            _collect_block(node.body, conditions, steps)
        case ast.Match():
            _collect_node(node.subject, conditions, steps)
            for case in node.cases:
                _collect_block(case.body, (*conditions, UNKNOWN_CONDITION), steps)


def _collect_expression(node: ast.AST, conditions: Conditions, steps: list[Step]) -> None:
    match node:
        case ast.Attribute():
            _collect_node(node.value, conditions, steps)
        case ast.Call():
            for part in (node.func, *node.args, *(keyword.value for keyword in node.keywords)):
                _collect_node(part, conditions, steps)
        case ast.IfExp():
            _collect_node(node.test, conditions, steps)
            _collect_node(node.body, (*conditions, Condition(node.test, True)), steps)
            _collect_node(node.orelse, (*conditions, Condition(node.test, False)), steps)
        case ast.BoolOp():
            for value in node.values:
                _collect_node(value, conditions, steps)
                conditions += (Condition(value, isinstance(node.op, ast.And)),)
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            _collect_comprehension(node, conditions, steps)
        case _:
            for child in ast.iter_child_nodes(node):
                if not isinstance(child, ast.expr_context | ast.operator):
                    _collect_node(child, conditions, steps)


def _collect_comprehension(
    node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, conditions: Conditions, steps: list[Step]
) -> None:
    for generator in node.generators:
        _collect_node(generator.iter, conditions, steps)
        for test in generator.ifs:
            _collect_node(test, conditions, steps)
            conditions += (Condition(test, True),)
    for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
        _collect_node(part, conditions, steps)


def _is_filtered(items: ast.expr) -> bool:
    """Return True if a loop may run for a selection of items only, which may end a recursion.

    A plain name may hold such a selection.
    """
    if isinstance(items, ast.Name):
        return True
    return any(
        (isinstance(node, ast.comprehension) and bool(node.ifs))
        or (isinstance(node, ast.Call) and get_dotted_name(node.func).rpartition(".")[2] in {"filter", "exclude"})
        for node in ast.walk(items)
    )


def iter_calls(steps: Iterable[Step]) -> Iterator[tuple[ast.Call, Conditions]]:
    """Yield the calls among steps, each with its conditions, except calls that are never made."""
    for node, conditions in steps:
        if isinstance(node, ast.Call) and (not conditions or is_reached(conditions, _evaluate_unknown) is not False):
            yield node, conditions


def _evaluate_unknown(test: ast.expr) -> bool | None:
    return None


def get_called_name(function: Function, call: ast.Call) -> str:
    """Return the dotted name of the callable with imports resolved, such as ``requests.post`` or ``self.send``."""
    resolved = function.resolve(call.func)
    if resolved:
        return resolved.removeprefix(f"{function.module}.")
    return get_dotted_name(call.func)


def get_dotted_name(node: ast.expr) -> str:
    """Return names and attributes of a chain without calls and subscripts, such as ``Order.objects.filter``."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{get_dotted_name(node.value)}.{node.attr}"
        case ast.Call():
            return get_dotted_name(node.func)
        case ast.Subscript():
            return get_dotted_name(node.value)
        case ast.Await():
            return get_dotted_name(node.value)
        case _:
            return ""


def get_parameter_names(function: Function) -> list[str]:
    """Return the names of its parameters, without ``*args`` and ``**kwargs``."""
    arguments = function.parameters
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def get_kwargs_key(function: Function, node: ast.expr) -> str:
    """Return the name in ``kwargs["name"]``, ``.get("name")`` or ``.pop("name")``; empty for other expressions."""
    kwarg = function.parameters.kwarg
    if kwarg is None:
        return ""
    match node:
        case ast.Subscript(value=ast.Name(id=inner), slice=ast.Constant(value=str() as key)) if inner == kwarg.arg:
            return key
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=inner), attr="get" | "pop"),
            args=[ast.Constant(value=str() as key), *_],
        ) if inner == kwarg.arg:
            return key
        case _:
            return ""


def reads_argument(function: Function, name: str) -> bool:
    """Return True if the function reads the signal's argument ``name``, or passes on all of ``**kwargs``."""
    kwarg = function.parameters.kwarg
    for node in ast.walk(function.node):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.expr) and get_kwargs_key(function, node) == name:
            return True
        if isinstance(node, ast.keyword) and node.arg is None and kwarg and get_dotted_name(node.value) == kwarg.arg:
            return True
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and node.left.value == name:
            return True
        if isinstance(node, ast.MatchMapping) and any(
            isinstance(k, ast.Constant) and k.value == name for k in node.keys
        ):
            return True
    return False


def is_send_method(node: ast.expr) -> bool:
    """Return True for a bound method of a signal that sends it, such as ``signal.send``."""
    return isinstance(node, ast.Attribute) and node.attr in SEND_METHODS


def get_assigned_name(node: ast.Assign | ast.AnnAssign) -> str:
    """Return the name that is assigned to; empty if the target is not exactly one name."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) and node.value else ""


def iter_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a scope at any depth, except those of inner functions and classes."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from iter_statements(getattr(node, name, ()))
        for handler in getattr(node, "handlers", ()):
            yield from iter_statements(handler.body)
        for case in getattr(node, "cases", ()):
            yield from iter_statements(case.body)


def iter_parameter_names(arguments: ast.arguments) -> Iterator[str]:
    """Yield the names of all parameters, including ``*args`` and ``**kwargs``."""
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            yield argument.arg


def get_argument(node: ast.Call, position: int, name: str) -> ast.expr | None:
    """Return the argument of a call by its position or keyword; ``None`` if it is not given."""
    if len(node.args) > position:
        return node.args[position]
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)


def is_enabled(options: Mapping[str | None, ast.expr], name: str) -> bool:
    """Return True if the option is given and is not a false constant."""
    return name in options and get_constant_truth(options[name]) is not False


def get_constant_truth(node: ast.expr | None) -> bool | None:
    """Return the truth value of a constant; ``None`` for any other expression."""
    return bool(node.value) if isinstance(node, ast.Constant) else None


def is_weak_connect(node: ast.Call) -> bool:
    """Return True for a weak ``connect()`` or a ``disconnect()``: neither keeps its argument alive."""
    weak = next((keyword.value for keyword in node.keywords if keyword.arg == "weak"), None)
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr in {"connect", "disconnect"}
        and (weak is None or (isinstance(weak, ast.Constant) and bool(weak.value)))
    )
