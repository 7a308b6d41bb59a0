"""Which secrets an expression in a receiver gives away."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Heard, Project
from signalbox.doctor.scopes import Binding, Frame

_NOUNS: Final = frozenset(
    """password passwd passphrase pwd secret token credentials cookie cookies authorization apikey environ
    password1 password2 otp""".split()
)
_PAIRS: Final = frozenset(
    {("api", "key"), ("secret", "key"), ("private", "key"), ("access", "key"), ("session", "key"), ("auth", "header")}
)
_NO_SECRET: Final = frozenset(
    {"has", "is", "use", "uses", "needs", "no", "with", "without", "show", "csrf", "set", "check"}
)
_GRAVE: Final = frozenset({"password", "environ", "credentials", "password1", "password2"})
"""Last words of what no table is made for."""
_WHOLE: Final = {
    "META": "request.META, with cookies and the Authorization header",
    "COOKIES": "the cookies, the session's among them",
    "POST": "the form, in which the password was sent",
    "headers": "the headers, with cookies and Authorization",
}
_HEADERS: Final = frozenset({"HTTP_COOKIE", "HTTP_AUTHORIZATION", "COOKIE", "AUTHORIZATION"})
_PLAIN_COOKIES: Final = frozenset({"lang", "language", "locale", "theme", "timezone", "tz"})
_TRANSPARENT: Final = frozenset(
    """str repr dict list tuple format dumps pformat pprint copy items values join encode decode ascii vars sorted
    model_to_dict""".split()
)
_CARRIED: Final = {"request_started": ("environ",), "user_login_failed": ("credentials",)}
"""Arguments of signals that are secret as a whole."""


class Secret(NamedTuple):
    """Something that is given away."""

    node: ast.expr
    """How it is written."""
    what: str
    """What it is, in words."""
    severity: Severity
    """How much that hurts."""
    grave: bool
    """Whether no table is made for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Secrecy:
    """What the expressions of one call give away."""

    project: Project
    """All that is known."""
    heard: Heard
    """The receiver."""
    frame: Frame
    """The function that the call stands in."""
    chosen: bool
    """Whether a condition decides on the call: in a loop it may leave the secret ones out."""
    loops: Mapping[str, Binding] = field(default_factory=dict)
    """The variables of comprehensions around."""
    seen: frozenset[str] = frozenset()
    """Names that are being looked up."""

    def of(self, node: ast.expr) -> Iterator[Secret]:
        """Yield the secrets within what is given away."""
        match node:
            case ast.Name():
                yield from self._name(node)
            case ast.Attribute():
                yield from self._attribute(node)
            case ast.Subscript(slice=ast.Constant(value=str() as key)):
                yield from self._keyed(node, node.value, key)
            case ast.Subscript(slice=ast.Slice()):
                yield from self.of(node.value)
            case ast.Call():
                yield from self._call(node)
            case ast.BoolOp():
                # `a and b` is b, or what is empty of a.
                for value in node.values if isinstance(node.op, ast.Or) else node.values[-1:]:
                    yield from self.of(value)
            case ast.IfExp():
                yield from self.of(node.body)
                yield from self.of(node.orelse)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                yield from self._comprehension(node.generators, node.elt)
            case ast.DictComp():
                yield from self._comprehension(node.generators, node.key, node.value)
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
                        yield from self.of(child)

    def _name(self, node: ast.Name) -> Iterator[Secret]:
        function, name = self.frame.function, node.id
        if name in self.loops:
            yield from self._each(node, self.loops[name])
        elif (whole := self._whole(name)) is not None:
            yield from (secret._replace(node=node) for secret in whole)
        elif name in self.frame.bindings and name not in syntax.parameters(function):
            # What a local name means is what it was given: the words of a text may be called tokens.
            if name not in self.seen:
                inner = replace(self, seen=self.seen | {name})
                yield from (secret for binding in self.frame.bindings[name] for secret in inner._bound(node, binding))
        elif name == "credentials" and self.heard.signal == "user_login_failed":
            yield _credentials(node)
        elif is_secret(name) and not function.names.get(name):  # an imported module or class is none
            yield _described(node, name)

    def _bound(self, node: ast.Name, binding: Binding) -> Iterator[Secret]:
        if binding.how == "each":
            yield from self._each(node, binding)
        elif binding.how == "assigned" and binding.place is None:
            value = binding.value
            found = list(self.of(value))
            yield from (secret._replace(node=node) for secret in found)
            made = syntax.dotted(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
            if not found and is_secret(made) and is_secret(node.id):
                yield _described(node, node.id)

    def _each(self, node: ast.Name, binding: Binding) -> Iterator[Secret]:
        """Yield what a loop's variable holds; to loop over a mapping is to see its keys."""
        match binding.value:
            case ast.Call(func=ast.Attribute(value=inner, attr="items")) if binding.place != 0 and not self.chosen:
                yield from (secret._replace(node=node) for secret in self.of(inner))
            case ast.Call(func=ast.Attribute(value=inner, attr="values")) if not self.chosen:
                yield from (secret._replace(node=node) for secret in self.of(inner))

    def _whole(self, name: str) -> list[Secret] | None:
        """Return what a name holds that stands for several of the signal's arguments; ``None`` if it doesn't."""
        arguments, signal = self.frame.function.parameters, self.heard.signal
        node = ast.Name(name)
        kwarg = arguments.kwarg.arg if arguments.kwarg else ""
        if self.frame.given is not None:
            return None
        named = set(syntax.parameters(self.frame.function))
        # `*args` is always empty: Django gives every argument by keyword.
        if signal == "pre_init" and name in ({"args", "kwargs"} & named) | {kwarg}:
            fields = self._secret_fields()
            what = f"all values that the object is made of, {' and '.join(fields)} among them"
            return [Secret(node, what, Severity.WARNING, True)] if fields else []
        if name == "scope" and signal == "request_started" and name in named:
            what = "the whole ASGI scope, with cookies and the Authorization header"
            return [Secret(node, what, Severity.WARNING, True)]
        if name == kwarg:
            carried = [argument for argument in _CARRIED.get(signal, ()) if argument not in named]
            return [self._argument(node, argument) for argument in carried]
        return None

    def _argument(self, node: ast.expr, name: str) -> Secret:
        if name == "credentials" and self.heard.signal == "user_login_failed":
            return _credentials(node)
        return _described(node, name)

    def _attribute(self, node: ast.Attribute) -> Iterator[Secret]:
        owner = syntax.dotted(node.value).rpartition(".")[2]
        if node.attr in _WHOLE and owner == "request":
            if node.attr != "POST" or self.heard.signal.startswith("user_log"):
                yield Secret(node, _WHOLE[node.attr], Severity.WARNING, True)
        elif node.attr == "__dict__":
            yield from self._fields(node, node.value)
        elif is_secret(node.attr):
            yield _described(node, node.attr)
        elif node.attr == "key" and isinstance(node.value, ast.Attribute) and is_secret(node.value.attr):
            yield _described(node, node.value.attr)

    def _call(self, node: ast.Call) -> Iterator[Secret]:
        last = syntax.dotted(node.func).rpartition(".")[2]
        match node:
            case ast.Call(
                func=ast.Attribute(value=owner, attr="get" | "pop"), args=[ast.Constant(value=str() as key), *_]
            ):
                yield from self._keyed(node, owner, key)
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str() as key), *_]):
                yield from self._keyed(node, node, key)
            case ast.Call(args=[ast.expr() as inner], keywords=[]) if last in {"vars", "model_to_dict"} and (
                fields := list(self._fields(node, inner))
            ):
                yield from fields
            case _ if last in _TRANSPARENT:
                if isinstance(node.func, ast.Attribute):
                    yield from self.of(node.func.value)
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    yield from self.of(argument)

    def _keyed(self, node: ast.expr, owner: ast.expr, key: str) -> Iterator[Secret]:
        if is_secret(key) or key.upper() in _HEADERS:
            yield self._argument(node, key)
        elif syntax.dotted(owner).endswith("request.COOKIES") and key.lower().rpartition("_")[2] not in _PLAIN_COOKIES:
            yield Secret(node, "a cookie, by which a visitor is known", Severity.WARNING, True)

    def _fields(self, node: ast.expr, owner: ast.expr) -> Iterator[Secret]:
        """Yield all fields of an object, if there are secrets among them."""
        of_request = isinstance(owner, ast.Attribute) and syntax.dotted(owner).endswith("request.user")
        user = self.heard.signal in {"user_logged_in", "user_logged_out"} and self.frame.stands_for(owner, "user")
        if of_request or user:
            yield Secret(node, "all fields of the user, the password's hash among them", Severity.WARNING, True)
        elif self.frame.stands_for(owner, "instance") and (fields := self._secret_fields()):
            yield Secret(node, f"all fields, {' and '.join(fields)} among them", Severity.WARNING, True)

    def _comprehension(self, generators: list[ast.comprehension], *elements: ast.expr) -> Iterator[Secret]:
        if any(generator.ifs for generator in generators):
            return  # it may leave the secret ones out
        loops = dict(self.loops)
        for generator in generators:
            targets = generator.target.elts if isinstance(generator.target, ast.Tuple) else [generator.target]
            for place, target in enumerate(targets):
                if isinstance(target, ast.Name):
                    loops[target.id] = Binding("each", generator.iter, place if len(targets) > 1 else None)
        for element in elements:
            yield from replace(self, loops=loops).of(element)

    def _secret_fields(self) -> list[str]:
        models = self.project.sender_models(self.heard)
        if not models and self.project.senderless(self.heard):
            models = tuple(model for model in self.project.runtime.models.values() if model.user)
        return sorted({name for model in models for name in model.fields if is_secret(name)})


def is_secret(name: str) -> bool:
    """Whether something of this name is a secret, by its last words: ``password_changed_at`` is none.

    Narrower than redaction, which had rather hide too much: a finding must be right.
    """
    words = _words(name)
    if not words or words[0] in _NO_SECRET:
        return False
    return words[-1] in _NOUNS or tuple(words[-2:]) in _PAIRS


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


def _described(node: ast.expr, name: str) -> Secret:
    return Secret(node, _what(name), Severity.WARNING, (_words(name) or [""])[-1] in _GRAVE)


def _credentials(node: ast.expr) -> Secret:
    what = (
        "Django masks what looks secret by its key, and nothing else: a one-time code or a password that was typed in "
        "the name's place stays"
    )
    return Secret(node, what, Severity.INFO, True)


def _what(name: str) -> str:
    if name.lower().endswith("environ"):
        return "the whole WSGI environ, with cookies and the Authorization header"
    if "password" in name.lower():
        return "a password, or the hash of one, which is enough to guess it by trying"
    return "by its name a secret"
