"""Local names of a function during one send: names of the signal's arguments, and values of other names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, NamedTuple, TypeAlias

from signalbox.doctor import syntax
from signalbox.doctor.source_model import Function
from signalbox.doctor.syntax import Conditions

BindingKind: TypeAlias = Literal["assigned", "iterated", "entered"]


_BINDING_NODES: Final = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.For, ast.AsyncFor, ast.With, ast.AsyncWith)


class Binding(NamedTuple):
    """One place that gives a local name its value."""

    kind: BindingKind
    """``assigned``: by ``=``. ``iterated``: by a loop. ``entered``: by ``with ... as``."""
    value: ast.expr
    """The assigned value, the iterable or the context manager."""
    unpack_index: int | None
    """Index of the name if the value is unpacked into several names; else ``None``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One function that runs when a signal is sent: the receiver, or one that it calls."""

    function: Function
    """The function."""
    conditions: Conditions = ()
    """The conditions on which the receiver calls it."""
    arguments: Mapping[str, ast.expr] | None = None
    """The receiver's argument for each parameter; ``None`` for the receiver itself."""
    caller: Frame | None = None
    """The receiver's frame, for a function that it calls."""
    _aliases: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)

    @cached_property
    def bindings(self) -> Mapping[str, tuple[Binding, ...]]:
        """The bindings of each local name."""
        bindings_by_name: defaultdict[str, list[Binding]] = defaultdict(list)
        for node, _ in self.function.steps:
            if isinstance(node, _BINDING_NODES):
                for name, binding in _iter_bindings(node):
                    bindings_by_name[name].append(binding)
        return {name: tuple(bindings) for name, bindings in bindings_by_name.items()}

    def get_single_binding(self, node: ast.expr) -> Binding | None:
        """Return the only binding of a name; ``None`` if there are several or none."""
        bindings = self.bindings.get(node.id, ()) if isinstance(node, ast.Name) else ()
        return bindings[0] if len(bindings) == 1 and bindings[0].unpack_index is None else None

    def resolve_value(self, node: ast.expr) -> ast.expr:
        """Return the value of a name that has exactly one binding and is not a loop variable; else ``node``."""
        binding = self.get_single_binding(node)
        return binding.value if binding and binding.kind != "iterated" else node

    def get_aliases(self, argument: str) -> frozenset[str]:
        """Return the names that hold the signal's argument, including names assigned from ``kwargs["..."]``."""
        if argument not in self._aliases:
            self._aliases[argument] = frozenset(self._find_aliases(argument))
        return self._aliases[argument]

    def _find_aliases(self, argument: str) -> set[str]:
        if self.arguments is None or self.caller is None:
            aliases = {argument} & set(syntax.get_parameter_names(self.function))
        else:
            aliases = {name for name, value in self.arguments.items() if self.caller.is_argument(value, argument)}
        for name, bindings in self.bindings.items():
            for kind, value, unpack_index in bindings:
                if kind == "assigned" and unpack_index is None and self._is_alias(value, argument, aliases):
                    aliases.add(name)
        return aliases

    def is_argument(self, node: ast.expr, argument: str) -> bool:
        """Return True if ``node`` is the signal's argument, by one of its names or from ``**kwargs``."""
        return self._is_alias(node, argument, self.get_aliases(argument))

    def _is_alias(self, node: ast.expr, argument: str, names: frozenset[str] | set[str]) -> bool:
        if isinstance(node, ast.Name):
            return node.id in names
        return self.arguments is None and syntax.get_kwargs_key(self.function, node) == argument

    def enter_call(self, function: Function, call: ast.Call, conditions: Conditions) -> Frame:
        """Return the frame of a function that this one calls."""
        names = syntax.get_parameter_names(function)
        arguments = dict(zip(names, call.args, strict=False))
        arguments.update({keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in names})
        return Frame(function=function, conditions=conditions, arguments=arguments, caller=self)


def _iter_bindings(node: ast.AST) -> Iterator[tuple[str, Binding]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _iter_targets(target, "assigned", value)
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
            yield from _iter_targets(target, "assigned", value)
        case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
            yield from _iter_targets(target, "iterated", value)
        case ast.With(items=items) | ast.AsyncWith(items=items):
            for item in items:
                if item.optional_vars:
                    yield from _iter_targets(item.optional_vars, "entered", item.context_expr)


def _iter_targets(target: ast.expr, kind: BindingKind, value: ast.expr) -> Iterator[tuple[str, Binding]]:
    if isinstance(target, ast.Name):
        yield target.id, Binding(kind, value, None)
    elif isinstance(target, ast.Tuple | ast.List):
        for index, element in enumerate(target.elts):
            if isinstance(element, ast.Name):
                yield element.id, Binding(kind, value, index)
