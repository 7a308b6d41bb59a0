"""Find the secrets in an expression of a receiver."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project, Subscription
from signalbox.doctor.scopes import Binding, Frame

_SECRET_WORDS: Final = frozenset(
    """password passwd passphrase pwd secret token credentials cookie cookies authorization apikey environ
    password1 password2 otp""".split()
)
_SECRET_WORD_PAIRS: Final = frozenset(
    {("api", "key"), ("secret", "key"), ("private", "key"), ("access", "key"), ("session", "key"), ("auth", "header")}
)
_HARMLESS_FIRST_WORDS: Final = frozenset(
    {"has", "is", "use", "uses", "needs", "no", "with", "without", "show", "csrf", "set", "check"}
)
_CRITICAL_WORDS: Final = frozenset({"password", "environ", "credentials", "password1", "password2"})
"""Last words of names whose values belong in no table."""
_SECRET_REQUEST_ATTRIBUTES: Final = {
    "META": "request.META, with cookies and the Authorization header",
    "COOKIES": "the cookies, the session's among them",
    "POST": "the form, in which the password was sent",
    "headers": "the headers, with cookies and Authorization",
}
_SECRET_HEADERS: Final = frozenset({"HTTP_COOKIE", "HTTP_AUTHORIZATION", "COOKIE", "AUTHORIZATION"})
_HARMLESS_COOKIES: Final = frozenset({"lang", "language", "locale", "theme", "timezone", "tz"})
_PASSTHROUGH_FUNCTIONS: Final = frozenset(
    """str repr dict list tuple format dumps pformat pprint copy items values join encode decode ascii vars sorted
    model_to_dict""".split()
)
_SECRET_SIGNAL_ARGUMENTS: Final = {"request_started": ("environ",), "user_login_failed": ("credentials",)}
"""Arguments of signals that are secret as a whole."""


class Secret(NamedTuple):
    """A secret value in an expression."""

    node: ast.expr
    """Its syntax."""
    description: str
    """A description for the finding."""
    severity: Severity
    """The severity of the finding."""
    is_critical: bool
    """Whether it must not be stored in a table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SecretFinder:
    """Finds the secrets in the arguments of one call."""

    project: Project
    """The examined project."""
    subscription: Subscription
    """The receiver."""
    frame: Frame
    """The frame of the function that makes the call."""
    is_conditional: bool
    """Whether the call is conditional: in a loop the condition may exclude the secrets."""
    loop_bindings: Mapping[str, Binding] = field(default_factory=dict)
    """The variables of enclosing comprehensions."""
    visited_names: frozenset[str] = frozenset()
    """Names that are being resolved, to end a recursion."""

    def find_secrets(self, node: ast.expr) -> Iterator[Secret]:
        """Yield the secrets in an expression."""
        match node:
            case ast.Name():
                yield from self._find_in_name(node)
            case ast.Attribute():
                yield from self._find_in_attribute(node)
            case ast.Subscript(slice=ast.Constant(value=str() as key)):
                yield from self._find_by_key(node, node.value, key)
            case ast.Subscript(slice=ast.Slice()):
                yield from self.find_secrets(node.value)
            case ast.Call():
                yield from self._find_in_call(node)
            case ast.BoolOp() | ast.IfExp():
                for value in _get_possible_values(node):
                    yield from self.find_secrets(value)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                yield from self._find_in_comprehension(node)
            case (
                ast.JoinedStr()
                | ast.FormattedValue()
                | ast.BinOp()
                | ast.Tuple()
                | ast.List()
                | ast.Dict()
                | ast.Starred()
            ):
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        yield from self.find_secrets(child)

    def _find_in_name(self, node: ast.Name) -> Iterator[Secret]:
        function, name = self.frame.function, node.id
        if name in self.loop_bindings:
            yield from self._find_in_loop_variable(node, self.loop_bindings[name])
        elif (argument_secrets := self._find_in_signal_arguments(name)) is not None:
            yield from (secret._replace(node=node) for secret in argument_secrets)
        elif name in self.frame.bindings and name not in syntax.get_parameter_names(function):
            # A local name is judged by its value: the words of a text may be called tokens.
            if name not in self.visited_names:
                inner = replace(self, visited_names=self.visited_names | {name})
                yield from (
                    secret for binding in self.frame.bindings[name] for secret in inner._find_in_binding(node, binding)
                )
        elif name == "credentials" and self.subscription.signal == "user_login_failed":
            yield _build_credentials_secret(node)
        elif is_secret_name(name) and not function.names.get(name):  # an imported module or class is not a secret
            yield _build_secret(node, name)

    def _find_in_binding(self, node: ast.Name, binding: Binding) -> Iterator[Secret]:
        if binding.kind == "iterated":
            yield from self._find_in_loop_variable(node, binding)
        elif binding.kind == "assigned" and binding.unpack_index is None:
            value = binding.value
            secrets = list(self.find_secrets(value))
            yield from (secret._replace(node=node) for secret in secrets)
            called_name = syntax.get_dotted_name(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
            if not secrets and is_secret_name(called_name) and is_secret_name(node.id):
                yield _build_secret(node, node.id)

    def _find_in_loop_variable(self, node: ast.Name, binding: Binding) -> Iterator[Secret]:
        """Yield the secrets in a loop variable. A loop over a mapping yields only its keys."""
        match binding.value:
            case ast.Call(func=ast.Attribute(value=inner, attr="items")) if (
                binding.unpack_index != 0 and not self.is_conditional
            ):
                yield from (secret._replace(node=node) for secret in self.find_secrets(inner))
            case ast.Call(func=ast.Attribute(value=inner, attr="values")) if not self.is_conditional:
                yield from (secret._replace(node=node) for secret in self.find_secrets(inner))

    def _find_in_signal_arguments(self, name: str) -> list[Secret] | None:
        """Return the secrets in a name that holds several of the signal's arguments; ``None`` for other names."""
        arguments, signal = self.frame.function.parameters, self.subscription.signal
        node = ast.Name(name)
        kwarg = arguments.kwarg.arg if arguments.kwarg else ""
        if self.frame.arguments is not None:
            return None
        parameter_names = set(syntax.get_parameter_names(self.frame.function))
        # `*args` is always empty: Django passes every argument by keyword.
        if signal == "pre_init" and name in ({"args", "kwargs"} & parameter_names) | {kwarg}:
            fields = self._get_secret_field_names()
            description = f"all values that the object is made of, {' and '.join(fields)} among them"
            return [Secret(node, description, Severity.WARNING, True)] if fields else []
        if name == "scope" and signal == "request_started" and name in parameter_names:
            description = "the whole ASGI scope, with cookies and the Authorization header"
            return [Secret(node, description, Severity.WARNING, True)]
        if name == kwarg:
            carried_arguments = [
                argument for argument in _SECRET_SIGNAL_ARGUMENTS.get(signal, ()) if argument not in parameter_names
            ]
            return [self._build_argument_secret(node, argument) for argument in carried_arguments]
        return None

    def _build_argument_secret(self, node: ast.expr, name: str) -> Secret:
        if name == "credentials" and self.subscription.signal == "user_login_failed":
            return _build_credentials_secret(node)
        return _build_secret(node, name)

    def _find_in_attribute(self, node: ast.Attribute) -> Iterator[Secret]:
        owner_name = syntax.get_dotted_name(node.value).rpartition(".")[2]
        if node.attr in _SECRET_REQUEST_ATTRIBUTES and owner_name == "request":
            if node.attr != "POST" or self.subscription.signal.startswith("user_log"):
                yield Secret(node, _SECRET_REQUEST_ATTRIBUTES[node.attr], Severity.WARNING, True)
        elif node.attr == "__dict__":
            yield from self._find_in_fields(node, node.value)
        elif is_secret_name(node.attr):
            yield _build_secret(node, node.attr)
        elif node.attr == "key" and isinstance(node.value, ast.Attribute) and is_secret_name(node.value.attr):
            yield _build_secret(node, node.value.attr)

    def _find_in_call(self, node: ast.Call) -> Iterator[Secret]:
        called_name = syntax.get_dotted_name(node.func).rpartition(".")[2]
        match node:
            case ast.Call(
                func=ast.Attribute(value=owner, attr="get" | "pop"), args=[ast.Constant(value=str() as key), *_]
            ):
                yield from self._find_by_key(node, owner, key)
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str() as key), *_]):
                yield from self._find_by_key(node, node, key)
            case ast.Call(args=[ast.expr() as inner], keywords=[]) if called_name in {"vars", "model_to_dict"} and (
                fields := list(self._find_in_fields(node, inner))
            ):
                yield from fields
            case _ if called_name in _PASSTHROUGH_FUNCTIONS:
                if isinstance(node.func, ast.Attribute):
                    yield from self.find_secrets(node.func.value)
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    yield from self.find_secrets(argument)

    def _find_by_key(self, node: ast.expr, owner: ast.expr, key: str) -> Iterator[Secret]:
        if is_secret_name(key) or key.upper() in _SECRET_HEADERS:
            yield self._build_argument_secret(node, key)
        elif (
            syntax.get_dotted_name(owner).endswith("request.COOKIES")
            and key.lower().rpartition("_")[2] not in _HARMLESS_COOKIES
        ):
            yield Secret(node, "a cookie, by which a visitor is known", Severity.WARNING, True)

    def _find_in_fields(self, node: ast.expr, owner: ast.expr) -> Iterator[Secret]:
        """Yield a secret for all fields of an object if one of the fields is secret."""
        of_request = isinstance(owner, ast.Attribute) and syntax.get_dotted_name(owner).endswith("request.user")
        user = self.subscription.signal in {"user_logged_in", "user_logged_out"} and self.frame.is_argument(
            owner, "user"
        )
        if of_request or user:
            yield Secret(node, "all fields of the user, the password's hash among them", Severity.WARNING, True)
        elif self.frame.is_argument(owner, "instance") and (fields := self._get_secret_field_names()):
            yield Secret(node, f"all fields, {' and '.join(fields)} among them", Severity.WARNING, True)

    def _find_in_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Iterator[Secret]:
        if any(generator.ifs for generator in node.generators):
            return  # the condition may exclude the secrets
        loops = dict(self.loop_bindings)
        for generator in node.generators:
            targets = generator.target.elts if isinstance(generator.target, ast.Tuple) else [generator.target]
            for index, target in enumerate(targets):
                if isinstance(target, ast.Name):
                    loops[target.id] = Binding("iterated", generator.iter, index if len(targets) > 1 else None)
        for element in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            yield from replace(self, loop_bindings=loops).find_secrets(element)

    def _get_secret_field_names(self) -> list[str]:
        models = self.project.get_sender_models(self.subscription)
        if not models and self.project.receives_every_sender(self.subscription):
            models = tuple(model for model in self.project.runtime.models.values() if model.is_user)
        return sorted({name for model in models for name in model.fields if is_secret_name(name)})


def _get_possible_values(node: ast.BoolOp | ast.IfExp) -> list[ast.expr]:
    """Return the operands whose value the expression may have; ``a and b`` is ``b`` or an empty ``a``."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    return node.values if isinstance(node.op, ast.Or) else node.values[-1:]


def is_secret_name(name: str) -> bool:
    """Return True if the last words of a name are those of a secret: not for ``password_changed_at``.

    This is narrower than redaction, as a finding must be right.
    """
    words = _split_words(name)
    if not words or words[0] in _HARMLESS_FIRST_WORDS:
        return False
    return words[-1] in _SECRET_WORDS or tuple(words[-2:]) in _SECRET_WORD_PAIRS


def _split_words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


def _build_secret(node: ast.expr, name: str) -> Secret:
    return Secret(node, _describe_name(name), Severity.WARNING, (_split_words(name) or [""])[-1] in _CRITICAL_WORDS)


def _build_credentials_secret(node: ast.expr) -> Secret:
    description = (
        "Django masks only values with a secret key: a one-time code, or a password that was typed as the user name, "
        "stays readable"
    )
    return Secret(node, description, Severity.INFO, True)


def _describe_name(name: str) -> str:
    if name.lower().endswith("environ"):
        return "the whole WSGI environ, with cookies and the Authorization header"
    if "password" in name.lower():
        return "a password, or the hash of one, which is enough to guess it by trying"
    return "by its name a secret"
