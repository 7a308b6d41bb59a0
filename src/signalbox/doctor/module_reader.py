"""Read the connections, sends and signals of one file, by the names in its source."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from signalbox.doctor import syntax
from signalbox.doctor.import_graph import resolve_import_name
from signalbox.doctor.source_model import ConnectCall, Function, FunctionNode, ReceiverKind, SendCall, resolve_name

SIGNALBOX_DECORATORS: Final = frozenset({"signalbox.receiver", "signalbox.outbox.decorator.receiver"})
RECEIVER_DECORATORS: Final = SIGNALBOX_DECORATORS | {"django.dispatch.receiver", "django.dispatch.dispatcher.receiver"}


class _ReceiverExpression(NamedTuple):
    """The receiver argument of a connection."""

    kind: ReceiverKind
    text: str
    path: str = ""
    function: Function | None = None
    node: ast.expr | None = None


@dataclass(frozen=True)
class _Scope:
    """The scope of the current statement."""

    function: Function | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """Dotted paths of names, from imports, definitions and simple assignments."""
    signal_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of loop variables, each with the dotted paths of the signals in the loop."""
    local_values: Mapping[str, ast.expr] = field(default_factory=dict)
    """Values that are assigned to the local names of a function."""
    qualname_prefix: str = ""
    bases: tuple[str, ...] = ()
    in_class: bool = False
    is_conditional: bool = False
    in_loop: bool = False


class ModuleReader:
    """Reads one file. Its attributes hold the results, with dotted paths that are not resolved across modules."""

    def __init__(self, name: str, path: str, text: str, tree: ast.Module) -> None:
        self.name, self.path, self.is_package = name, path, path.endswith("__init__.py")
        self.connect_calls: list[ConnectCall] = []
        self.disconnected: list[tuple[str, str]] = []
        self.send_calls: list[tuple[str, SendCall]] = []
        self.signal_definitions: list[tuple[str, str, int]] = []
        self.mentioned_paths: set[str] = set()
        self.functions: list[Function] = []
        self.functions_by_name: dict[str, Function] = {}
        self.star_imports: list[str] = []
        self.tree = tree
        self.is_script = "__main__" in text and any(
            isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in self.tree.body
        )
        self.names = self._collect_names(self.tree.body, {})
        self._visit_block(self.tree.body, _Scope(names=self.names))

    # Names

    def _collect_names(
        self, body: list[ast.stmt], outer_names: Mapping[str, str], in_function: bool = False
    ) -> dict[str, str]:
        """Return the dotted paths of names in a block, from imports and simple aliases at any depth."""
        names = dict(outer_names)
        for node in syntax.iter_statements(body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    names[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                base = resolve_import_name(node.module or "", node.level, self.name, package=self.is_package)
                for alias in node.names:
                    if alias.name == "*":
                        self.star_imports.append(base)
                    else:
                        names[alias.asname or alias.name] = f"{base}.{alias.name}"
            elif isinstance(node, ast.Assign | ast.AnnAssign) and (name := syntax.get_assigned_name(node)):
                if isinstance(node.value, ast.Name | ast.Attribute) and (
                    path := resolve_name(node.value, names, self.name)
                ):
                    if path.partition(".")[0] not in {"self", "cls"}:
                        names[name] = path
                elif in_function:
                    names[name] = ""  # a local value has no dotted path
            elif in_function and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names[node.name] = ""
        return names

    # Statements

    def _visit_block(self, body: list[ast.stmt], scope: _Scope) -> None:
        for node in body:
            self._visit_statement(node, scope)

    def _visit_statement(self, node: ast.stmt, scope: _Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._visit_function(node, scope)
            case ast.ClassDef():
                self._visit_class(node, scope)
            case ast.If() | ast.While():
                self._visit_branches(node, scope)
            case ast.For() | ast.AsyncFor():
                self._visit_for(node, scope)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self._visit_expression(item.context_expr, scope)
                self._visit_block(node.body, scope)
            case ast.Try() | ast.TryStar():
                for block in (node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody):
                    self._visit_block(block, replace(scope, is_conditional=True))
            case ast.Match():
                self._visit_expression(node.subject, scope)
                for case in node.cases:
                    self._visit_block(case.body, replace(scope, is_conditional=True))
            case ast.Assign() | ast.AnnAssign():
                self._visit_assignment(node, scope)
            case _:
                self._visit_child_expressions(node, scope)

    def _visit_child_expressions(self, node: ast.AST, scope: _Scope) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._visit_expression(child, scope)

    def _visit_branches(self, node: ast.If | ast.While, scope: _Scope) -> None:
        self._visit_expression(node.test, scope)
        inner = replace(scope, is_conditional=True, in_loop=scope.in_loop or isinstance(node, ast.While))
        self._visit_block(node.body, inner)
        self._visit_block(node.orelse, inner)

    def _visit_for(self, node: ast.For | ast.AsyncFor, scope: _Scope) -> None:
        self._visit_expression(node.iter, scope)
        self._visit_block(node.body, replace(scope, in_loop=True, signal_lists=self._get_loop_signals(node, scope)))
        self._visit_block(node.orelse, scope)

    def _visit_assignment(self, node: ast.Assign | ast.AnnAssign, scope: _Scope) -> None:
        if node.value is None:
            return
        name = syntax.get_assigned_name(node)
        is_alias = name and isinstance(node.value, ast.Name | ast.Attribute) and not syntax.is_send_method(node.value)
        if is_alias and not scope.in_class:
            return  # an alias; a class attribute may be used by way of `self`
        class_path = self._resolve(node.value.func, scope) if isinstance(node.value, ast.Call) else ""
        if name and not scope.function and class_path.endswith("Signal"):
            self.signal_definitions.append((f"{self.name}.{scope.qualname_prefix}{name}", class_path, node.lineno))
        self._visit_expression(node.value, scope)

    def _get_loop_signals(self, node: ast.For | ast.AsyncFor, scope: _Scope) -> dict[str, tuple[str, ...]]:
        """Return the signals of loop variables, including the variable of this loop."""
        signal_lists = dict(scope.signal_lists)
        items = node.iter.elts if isinstance(node.iter, ast.Tuple | ast.List) else []
        if isinstance(node.target, ast.Name) and items:
            signal_lists[node.target.id] = tuple(filter(None, (self._resolve(item, scope) for item in items)))
        return signal_lists

    def _visit_class(self, node: ast.ClassDef, scope: _Scope) -> None:
        for expression in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self._visit_expression(expression, scope)
        bases = tuple(filter(None, (self._resolve(base, scope) for base in node.bases)))
        self._visit_block(
            node.body,
            replace(
                scope, qualname_prefix=f"{scope.qualname_prefix}{node.name}.", bases=bases or ("object",), in_class=True
            ),
        )

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: _Scope) -> None:
        receiver_decorators, other_decorators = [], []
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            path = self._resolve(called, scope)
            if isinstance(decorator, ast.Call) and path in RECEIVER_DECORATORS:
                receiver_decorators.append(decorator)
            elif isinstance(called, ast.Attribute) and called.attr == "connect":
                other_decorators.append("")
                self._visit_expression(decorator, scope)
            else:
                other_decorators.append(path or ast.unparse(called))
                self._visit_expression(decorator, scope)
        function = self._add_function(node, node.name, scope, tuple(other_decorators))
        for decorator in receiver_decorators:
            self._visit_decorator(decorator, function, scope)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self._visit_expression(default, scope)
        self._visit_function_body(function, scope)

    def _add_function(self, node: FunctionNode, name: str, scope: _Scope, decorators: tuple[str, ...] = ()) -> Function:
        first_line = (
            node.decorator_list[0].lineno if not isinstance(node, ast.Lambda) and node.decorator_list else node.lineno
        )
        outer_names = {**scope.names, **dict.fromkeys(syntax.iter_parameter_names(node.args), "")}
        body = [] if isinstance(node, ast.Lambda) else node.body
        function = Function(
            module=self.name,
            qualname=f"{scope.qualname_prefix}{name}",
            path=self.path,
            line=first_line,
            node=node,
            enclosing_function=scope.function,
            bases=scope.bases if scope.in_class else (),
            is_method=scope.in_class,
            decorators=decorators,
            names=self._collect_names(body, outer_names, in_function=True),
        )
        self.functions.append(function)
        self.functions_by_name[function.qualname] = function
        return function

    def _visit_function_body(self, function: Function, scope: _Scope) -> None:
        values = {
            node.targets[0].id: node.value
            for node in syntax.iter_statements(function.body)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        inner = _Scope(
            function=function,
            names=function.names,
            signal_lists=scope.signal_lists,
            local_values=values,
            qualname_prefix=f"{function.qualname}.<locals>.",
        )
        self._visit_block(function.body, inner)

    # Expressions

    def _visit_expression(self, node: ast.expr, scope: _Scope) -> None:
        match node:
            case ast.Call():
                self._visit_call(node, scope)
            case ast.Lambda():
                self._visit_function_body(self._add_function(node, "<lambda>", scope), scope)
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()) if path := self._resolve(node, scope):
                self.mentioned_paths.add(path.rpartition(".")[0] if syntax.is_send_method(node) else path)
            case ast.Constant(value=str() as text) if "." in text:
                self.mentioned_paths.add(text)  # may be a dotted path that is imported by name
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self._visit_expression(child, scope)
                    elif isinstance(child, ast.keyword | ast.comprehension):
                        self._visit_child_expressions(child, scope)

    def _visit_call(self, node: ast.Call, scope: _Scope) -> None:
        called = node.func
        if isinstance(called, ast.Call) and self._resolve(called.func, scope) in RECEIVER_DECORATORS and node.args:
            self._visit_decorator(called, node.args[0], scope)  # receiver(signal)(function)
            return
        if isinstance(called, ast.Attribute):
            signals = self._resolve_signals(called.value, scope)
            if signals and called.attr in {"connect", "disconnect", *syntax.SEND_METHODS}:
                if called.attr == "connect":
                    self._visit_connect(node, signals, scope)
                elif called.attr == "disconnect":
                    receiver = syntax.get_argument(node, 0, "receiver")
                    receiver_name = (
                        receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", "*")
                    )
                    self.disconnected.extend((signal, receiver_name) for signal in signals)
                else:
                    self.send_calls.extend(
                        (signal, self._build_send_call(node, called.attr, scope)) for signal in signals
                    )
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    self._visit_expression(argument, scope)
                return
            self._visit_expression(called, scope)
        elif not isinstance(called, ast.Name):
            self._visit_expression(called, scope)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self._visit_expression(argument, scope)

    def _build_send_call(self, node: ast.Call, method: str, scope: _Scope) -> SendCall:
        argument_names = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
        return SendCall(
            module=self.name,
            path=self.path,
            line=node.lineno,
            signal="",
            method=method,
            argument_names=None
            if any(keyword.arg is None for keyword in node.keywords)
            else argument_names - {"sender"},
            enclosing_function=scope.function,
        )

    def _resolve(self, node: ast.expr | None, scope: _Scope) -> str:
        return resolve_name(node, scope.names, self.name)

    def _resolve_signals(self, node: ast.expr | None, scope: _Scope) -> tuple[str, ...]:
        """Return the dotted paths that ``node`` may name. Paths that are not signals are removed later."""
        if isinstance(node, ast.List | ast.Tuple):
            return tuple(path for item in node.elts for path in self._resolve_signals(item, scope))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return (node.value,)  # signalbox's decorator takes a signal's name
        if isinstance(node, ast.Name) and node.id in scope.signal_lists:
            return scope.signal_lists[node.id]
        path = self._resolve(node, scope)
        return (path,) if path else ()

    # Connections

    def _visit_decorator(self, decorator: ast.Call, target: Function | ast.expr, scope: _Scope) -> None:
        signals = self._resolve_signals(syntax.get_argument(decorator, 0, "signal"), scope)
        options = {keyword.arg: keyword.value for keyword in decorator.keywords}
        if isinstance(target, Function):
            receiver = _ReceiverExpression("function", target.name, target.dotted_name, target)
        else:
            receiver = self._describe_receiver(target, scope)
        after_commit = syntax.is_enabled(options, "durable") or syntax.is_enabled(options, "after_commit")
        is_signalbox = self._resolve(decorator.func, scope) in SIGNALBOX_DECORATORS
        self._add_connect_call(
            decorator,
            signals,
            scope,
            receiver,
            options,
            is_decorator=True,
            is_signalbox=is_signalbox,
            after_commit=after_commit,
        )

    def _visit_connect(self, node: ast.Call, signals: tuple[str, ...], scope: _Scope) -> None:
        receiver_node = syntax.get_argument(node, 0, "receiver")
        if receiver_node is None:
            return
        receiver = self._describe_receiver(receiver_node, scope)
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        for position, name in ((1, "sender"), (2, "weak"), (3, "dispatch_uid")):
            if len(node.args) > position and not isinstance(node.args[position], ast.Starred):
                options[name] = node.args[position]
        self._add_connect_call(
            node, signals, scope, receiver, options, is_decorator=False, is_signalbox=False, after_commit=False
        )

    def _describe_receiver(self, node: ast.expr, scope: _Scope) -> _ReceiverExpression:
        return self._classify_receiver(node, scope)._replace(node=node)

    def _classify_receiver(self, node: ast.expr, scope: _Scope) -> _ReceiverExpression:
        text = ast.unparse(node)
        if isinstance(node, ast.Lambda):
            return _ReceiverExpression("lambda", "<lambda>", function=self._add_function(node, "<lambda>", scope))
        value = scope.local_values.get(node.id) if isinstance(node, ast.Name) else node
        if isinstance(value, ast.Lambda):
            return _ReceiverExpression("lambda", text, function=self._add_function(value, "<lambda>", scope))
        if isinstance(value, ast.Call):
            if isinstance(value.func, ast.Call) and self._resolve(value.func.func, scope) == "functools.wraps":
                # It returns its argument.
                return (
                    self._classify_receiver(value.args[0], scope)._replace(text=text)
                    if value.args
                    else _ReceiverExpression("other", text)
                )
            path = self._resolve(value.func, scope)
            return _ReceiverExpression("partial" if path == "functools.partial" else "temporary", text, path)
        if isinstance(node, ast.Attribute):
            inner = scope.local_values.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
            if isinstance(inner, ast.Call):
                return _ReceiverExpression("method", text, self._resolve(inner.func, scope))
            if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"} and scope.function:
                owner = scope.function.qualname.split(".<locals>")[0].rpartition(".")[0]
                method = f"{owner}.{node.attr}"
                return _ReceiverExpression("other", text, f"{self.name}.{method}", self.functions_by_name.get(method))
        if isinstance(node, ast.Name):
            local = self.functions_by_name.get(f"{scope.qualname_prefix}{node.id}") if scope.function else None
            if local:
                return _ReceiverExpression("function", text, local.dotted_name, local)
        path = self._resolve(node, scope)
        qualname = path.removeprefix(f"{self.name}.")
        function = self.functions_by_name.get(qualname) if qualname != path else None
        return _ReceiverExpression("function" if path else "other", text, path, function)

    def _add_connect_call(
        self,
        node: ast.Call,
        signals: tuple[str, ...],
        scope: _Scope,
        receiver: _ReceiverExpression,
        options: Mapping[str | None, ast.expr],
        *,
        is_decorator: bool,
        is_signalbox: bool,
        after_commit: bool,
    ) -> None:
        sender = options.get("sender")
        if isinstance(sender, ast.Constant) and sender.value is None:
            sender = None
        unknown = None in options or syntax.is_enabled(options, "durable")  # a durable receiver is not connected at all
        weak = None if unknown else syntax.get_constant_truth(options["weak"]) if "weak" in options else True
        self.connect_calls.append(
            ConnectCall(
                module=self.name,
                path=self.path,
                line=node.lineno,
                signals=signals,
                is_decorator=is_decorator,
                kind=receiver.kind,
                receiver_text=receiver.text,
                receiver_node=receiver.node,
                receiver_path=receiver.path,
                function=receiver.function,
                sender_node=sender,
                sender_path=self._resolve(sender.func if isinstance(sender, ast.Call) else sender, scope),
                weak=weak,
                dispatch_uid=options.get("dispatch_uid"),
                is_signalbox=is_signalbox,
                after_commit=after_commit,
                enclosing_function=scope.function,
                is_conditional=scope.is_conditional,
                in_loop=scope.in_loop,
            )
        )
