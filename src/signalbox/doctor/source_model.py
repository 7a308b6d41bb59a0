"""What is written: functions, connections, sends and signals of the installed apps, as frozen values."""

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
"""Decorators that are known neither to guard a function nor to keep it alive."""

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, kw_only=True, eq=False)
class Function:
    """One function, method or lambda."""

    module: str
    """Module that it stands in."""
    qualname: str
    """Its name within the module, as ``Handler.on_save`` or ``connect.<locals>.inner``."""
    path: str
    """Absolute path of the file."""
    line: int
    """First line, decorators included: the line that its code object knows."""
    node: FunctionNode
    """Its syntax."""
    enclosing_function: Function | None
    """The function that it stands in."""
    bases: tuple[str, ...]
    """Dotted names of the base classes of the class that it is a method of."""
    is_method: bool
    """Whether it stands directly in a class."""
    decorators: tuple[str, ...]
    """Dotted names of its decorators, but for those that connect it to a signal."""
    names: Mapping[str, str]
    """What the names mean that are imported in it or around it."""

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
        """Its statements; a lambda's expression stands as one."""
        if isinstance(self.node, ast.Lambda):
            return [ast.copy_location(ast.Expr(self.node.body), self.node.body)]
        return self.node.body

    @property
    def has_unknown_decorator(self) -> bool:
        """Whether a decorator stands on it that may guard it or keep it alive."""
        return any(name.removeprefix(f"{self.module}.") not in _TRANSPARENT_DECORATORS for name in self.decorators)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What runs when the function does."""
        return tuple(collect_steps(self.body))

    @cached_property
    def calls(self) -> tuple[tuple[ast.Call, Conditions], ...]:
        """The calls that are made when the function runs, each with what decides on it."""
        return tuple(iter_calls(self.steps))

    @property
    def is_coroutine(self) -> bool:
        """Whether it is defined by ``async def``."""
        return isinstance(self.node, ast.AsyncFunctionDef)

    @property
    def is_app_config_hook(self) -> bool:
        """Whether it is ``ready()`` or ``__init__()`` of an app config."""
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
    """Module that it stands in."""
    path: str
    """Absolute path of the file."""
    line: int
    """First line of the call."""
    signals: tuple[str, ...]
    """The signals by name."""
    is_decorator: bool
    """Whether it decorates a function."""
    kind: ReceiverKind
    """What the receiver is: a function by name, a lambda, a partial, a method, a temporary object or something else."""
    receiver_text: str
    """The receiver as it is written."""
    receiver_node: ast.expr | None
    """Its syntax; ``None`` where it is a function that the decorator stands on."""
    receiver_path: str
    """Dotted path of the receiver, or of what is called to make it; empty if it can't be told."""
    function: Function | None
    """The receiver's definition."""
    sender_node: ast.expr | None
    """The sender as it is written."""
    sender_path: str
    """Dotted path of the sender, or of what is called to make it; empty if there is none or it can't be told."""
    weak: bool | None
    """Whether it connects weakly; ``None`` if it can't be told."""
    dispatch_uid: ast.expr | None
    """The ``dispatch_uid`` as it is written."""
    is_signalbox: bool
    """Whether it is signalbox's decorator, which takes a model's label as sender of any signal."""
    after_commit: bool
    """Whether signalbox runs the receiver after commit."""
    enclosing_function: Function | None
    """The function in which it stands; ``None`` at the level of the module or of a class."""
    is_conditional: bool
    """Whether it stands in an ``if``, ``try``, ``while`` or ``match``."""
    in_loop: bool
    """Whether it stands in a loop."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SendCall:
    """One place where the source sends a signal."""

    module: str
    """Module that it stands in."""
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
    """The function in which it stands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SignalDefinition:
    """One place where the source makes a signal."""

    module: str
    """Module that it stands in."""
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
    """What the names mean that are imported at its level."""
    star_imports: tuple[str, ...]
    """Modules of which it imports all names."""
    is_script: bool
    """Whether it is written to be run as a program."""

    @cached_property
    def instances(self) -> Mapping[str, str]:
        """Names at its level that hold what a call has made, each with the dotted path of what is called."""
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
    """Parsed modules by dotted name: those that have to do with signals."""
    connect_calls: tuple[ConnectCall, ...]
    """Every connection written."""
    disconnected: frozenset[tuple[str, str]]
    """Signal and last name of the receiver of each ``disconnect()`` written."""
    send_calls: tuple[SendCall, ...]
    """Every send written."""
    signal_definitions: tuple[SignalDefinition, ...]
    """Every signal made."""
    escaping_signals: frozenset[str]
    """Signals that parsed files hand on as values."""
    functions: Mapping[tuple[str, int], Function]
    """Functions by file and first line."""
    files: Mapping[str, str]
    """Absolute path of each file, parsed or not, by dotted name: the apps', and the project's own beside them."""
    texts: Mapping[str, str]
    """Text of each file, by absolute path."""
    imports: Mapping[str, frozenset[str]]
    """Module to the dotted names that it imports, anywhere in it."""

    @cached_property
    def functions_by_name(self) -> Mapping[str, Function]:
        """Functions by dotted name; of several of one name the last."""
        return {function.dotted_name: function for function in self.functions.values()}

    def has_indirect_access(self, signal: str) -> bool:
        """Whether a signal that is an attribute of a class may be reached by way of an object or another class."""
        owner, _, name = signal.rpartition(".")
        owner = owner.rpartition(".")[2]
        for text in (self.texts[path] for path in self.files.values()):
            if name in text:
                uses = len(re.findall(rf"(?:\.|['\"]){name}\b", text))
                if uses > len(re.findall(rf"\b{owner}\.{name}\b", text)):
                    return True
        return False

    def escapes(self, signal: str) -> bool:
        """Whether the signal is handed on as a value, so that somebody else may send or hear it.

        Of files that aren't parsed, since nothing in them is sent or connected or since they can't be, those count
        that name it, by its dotted path or beside an import of it.
        """
        home, _, word = signal.rpartition(".")
        return signal in self.escaping_signals or any(
            word in (text := self.texts[self.files[name]])
            and (signal in text or any(target == home or target.endswith(f".{word}") for target in targets))
            for name, targets in self.imports.items()
            if name not in self.modules
        )


def resolve_name(node: ast.expr | None, names: Mapping[str, str], module: str) -> str:
    """Return the dotted path that ``node`` names, given what names mean there; empty if it names none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, f"{module}.{node.id}")
    if isinstance(node, ast.Attribute):
        inner = resolve_name(node.value, names, module)
        return f"{inner}.{node.attr}" if inner else ""
    return ""
