"""Frozen values that describe the source: functions, connections, sends and signals of the installed apps."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

from signalbox.doctor.syntax import Conditions, Step, collect_steps, iter_calls

ReceiverKind: TypeAlias = Literal["function", "lambda", "partial", "method", "temporary", "other"]
_TRANSPARENT_DECORATORS: Final = frozenset(
    """django.db.transaction.atomic django.db.transaction.non_atomic_requests functools.wraps staticmethod
    typing.no_type_check typing.override""".split()
)
"""Decorators that add no condition to a function and do not keep it alive."""

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, kw_only=True, eq=False)
class Function:
    """One function, method or lambda."""

    module: str
    """Dotted name of the module."""
    qualname: str
    """Its name within the module, as ``Handler.on_save`` or ``connect.<locals>.inner``."""
    path: str
    """Absolute path of the file."""
    line: int
    """First line, including decorators, as in its code object."""
    node: FunctionNode
    """Its syntax."""
    enclosing_function: Function | None
    """The enclosing function; ``None`` at the level of a module or class."""
    bases: tuple[str, ...]
    """Dotted names of the base classes of the class that it is a method of."""
    is_method: bool
    """Whether it is defined directly in a class."""
    decorators: tuple[str, ...]
    """Dotted names of its decorators, except those that connect it to a signal."""
    names: Mapping[str, str]
    """Dotted paths of the names that are imported in it or around it."""

    @property
    def dotted_name(self) -> str:
        """Dotted name, as ``shop.signals.on_save``."""
        return f"{self.module}.{self.qualname}"

    @property
    def name(self) -> str:
        """Its own name, as ``on_save``."""
        return self.qualname.rpartition(".")[2]

    @property
    def parameters(self) -> ast.arguments:
        """Its parameters."""
        return self.node.args

    @property
    def body(self) -> list[ast.stmt]:
        """Its statements; for a lambda, its expression as a statement."""
        if isinstance(self.node, ast.Lambda):
            return [ast.copy_location(ast.Expr(self.node.body), self.node.body)]
        return self.node.body

    @property
    def has_unknown_decorator(self) -> bool:
        """Return True if a decorator may add a condition or keep the function alive."""
        return any(name.removeprefix(f"{self.module}.") not in _TRANSPARENT_DECORATORS for name in self.decorators)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The expressions and statements that run when the function is called."""
        return tuple(collect_steps(self.body))

    @cached_property
    def calls(self) -> tuple[tuple[ast.Call, Conditions], ...]:
        """The calls that the function makes, each with its conditions."""
        return tuple(iter_calls(self.steps))

    @property
    def is_coroutine(self) -> bool:
        """Return True if it is defined by ``async def``."""
        return isinstance(self.node, ast.AsyncFunctionDef)

    @property
    def is_app_config_hook(self) -> bool:
        """Return True if it is ``ready()`` or ``__init__()`` of an app config."""
        return (
            self.is_method
            and self.qualname.rpartition(".")[2] in {"ready", "__init__"}
            and any(base.rpartition(".")[2].endswith("Config") for base in self.bases)
        )

    def resolve(self, node: ast.expr) -> str:
        """Return the dotted path that ``node`` names; empty if it names none."""
        return resolve_name(node, self.names, self.module)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConnectCall:
    """One place where the source connects a receiver: a decorator, or a call of ``connect()``."""

    module: str
    """Dotted name of the module."""
    path: str
    """Absolute path of the file."""
    line: int
    """First line of the call."""
    signals: tuple[str, ...]
    """The signals by name."""
    is_decorator: bool
    """Whether it decorates a function."""
    kind: ReceiverKind
    """The kind of receiver: a function by name, a lambda, a partial, a method, a temporary object or another one."""
    receiver_text: str
    """The receiver as it is written."""
    receiver_node: ast.expr | None
    """Its syntax; ``None`` for a decorated function."""
    receiver_path: str
    """Dotted path of the receiver, or of the callable that creates it; empty if unknown."""
    function: Function | None
    """The receiver's definition."""
    sender_node: ast.expr | None
    """The sender as it is written."""
    sender_path: str
    """Dotted path of the sender, or of the callable that creates it; empty without a sender or if unknown."""
    weak: bool | None
    """Whether it connects weakly; ``None`` if unknown."""
    dispatch_uid: ast.expr | None
    """The ``dispatch_uid`` as it is written."""
    is_signalbox: bool
    """Whether it is Signalbox's decorator, which accepts a model label as sender of any signal."""
    after_commit: bool
    """Whether Signalbox runs the receiver after commit."""
    enclosing_function: Function | None
    """The enclosing function; ``None`` at the level of the module or of a class."""
    is_conditional: bool
    """Whether it is inside an ``if``, ``try``, ``while`` or ``match``."""
    in_loop: bool
    """Whether it is inside a loop."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SendCall:
    """One place where the source sends a signal."""

    module: str
    """Dotted name of the module."""
    path: str
    """Absolute path of the file."""
    line: int
    """Line of the call."""
    signal: str
    """The signal by name."""
    method: str
    """``send``, ``send_robust``, ``asend`` or ``asend_robust``."""
    argument_names: frozenset[str] | None
    """Names of the arguments; ``None`` if some are given by ``**``."""
    enclosing_function: Function | None
    """The enclosing function."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SignalDefinition:
    """One place where the source creates a signal."""

    module: str
    """Dotted name of the module."""
    path: str
    """Absolute path of the file."""
    line: int
    """Line of the assignment."""
    signal: str
    """The signal by name."""
    in_class: bool
    """Whether it is an attribute of a class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Module:
    """One parsed file."""

    name: str
    """Dotted name."""
    path: str
    """Absolute path of the file."""
    tree: ast.Module
    """Its syntax."""
    names: Mapping[str, str]
    """Dotted paths of the names that are imported at module level."""
    star_imports: tuple[str, ...]
    """Modules that it imports with ``*``."""
    is_script: bool
    """Whether it checks ``__name__`` for ``"__main__"``."""

    @cached_property
    def instances(self) -> Mapping[str, str]:
        """Module-level names that are assigned from a call, each with the dotted path of the callable."""
        return {
            node.targets[0].id: resolve_name(node.value.func, self.names, self.name)
            for node in self.tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Call)
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The source of all installed apps."""

    modules: Mapping[str, Module]
    """Modules that use signals, parsed, by dotted name."""
    connect_calls: tuple[ConnectCall, ...]
    """Every call that connects a receiver."""
    disconnected: frozenset[tuple[str, str]]
    """Signal and last part of the receiver's name for each call of ``disconnect()``."""
    send_calls: tuple[SendCall, ...]
    """Every call that sends a signal."""
    signal_definitions: tuple[SignalDefinition, ...]
    """Every definition of a signal."""
    escaping_signals: frozenset[str]
    """Signals that parsed files use as values."""
    functions: Mapping[tuple[str, int], Function]
    """Functions by file and first line."""
    files: Mapping[str, str]
    """Absolute path of each file of the apps and of the project, parsed or not, by dotted name."""
    texts: Mapping[str, str]
    """Text of each file, by absolute path."""
    imports: Mapping[str, frozenset[str]]
    """Dotted names that each module imports, at any level."""

    @cached_property
    def functions_by_name(self) -> Mapping[str, Function]:
        """Functions by dotted name; the last one if several have the same name."""
        return {function.dotted_name: function for function in self.functions.values()}

    def has_indirect_access(self, signal: str) -> bool:
        """Return True if a class attribute may be used by way of an object or another class."""
        owner, _, name = signal.rpartition(".")
        owner = owner.rpartition(".")[2]
        for text in (self.texts[path] for path in self.files.values()):
            if name in text:
                uses = len(re.findall(rf"(?:\.|['\"]){name}\b", text))
                if uses > len(re.findall(rf"\b{owner}\.{name}\b", text)):
                    return True
        return False

    def escapes(self, signal: str) -> bool:
        """Return True if the signal is used as a value, so that other code may send it or connect to it.

        Files that are not parsed count if they contain its dotted path, or its name and an import of it.
        """
        home, _, word = signal.rpartition(".")
        return signal in self.escaping_signals or any(
            word in (text := self.texts[self.files[name]])
            and (signal in text or any(target == home or target.endswith(f".{word}") for target in targets))
            for name, targets in self.imports.items()
            if name not in self.modules
        )


def resolve_name(node: ast.expr | None, names: Mapping[str, str], module: str) -> str:
    """Return the dotted path that ``node`` names; empty if it names none.

    Args:
        node: The expression.
        names: Dotted paths of the names in its scope.
        module: Dotted name of its module, the prefix of names that are not in ``names``.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id, f"{module}.{node.id}")
    if isinstance(node, ast.Attribute):
        inner = resolve_name(node.value, names, module)
        return f"{inner}.{node.attr}" if inner else ""
    return ""
