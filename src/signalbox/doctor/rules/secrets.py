"""Receivers that give secrets away."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Heard, Project
from signalbox.doctor.rules import Fault, rule

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
_WHOLE: Final = {
    "META": "request.META, with cookies and the Authorization header",
    "COOKIES": "the cookies, the session's among them",
    "POST": "the form, in which the password was sent",
    "headers": "the headers, with cookies and Authorization",
}
_HEADERS: Final = frozenset({"HTTP_COOKIE", "HTTP_AUTHORIZATION", "COOKIE", "AUTHORIZATION"})
_LOG: Final = frozenset({"debug", "info", "warning", "warn", "error", "critical", "exception", "log"})
_STORES: Final = frozenset({"create", "acreate", "get_or_create", "update_or_create", "write", "writelines"})
_TRANSPARENT: Final = frozenset(
    """str repr dict list tuple format dumps pformat pprint copy items values join encode decode ascii vars sorted
    model_to_dict""".split()
)


@rule(
    9,
    "secret",
    Severity.WARNING,
    "a receiver that prints, logs or stores a password, credentials, a token, a cookie or the whole environ",
)
def secret(project: Project) -> Iterator[Fault]:
    """Find secrets that a receiver hands to print(), a logger, a file or a table."""
    told: set[tuple[str, int, str]] = set()
    for heard in project.heard:
        for call, _ in syntax.calls(heard.function):
            sink = _sink(heard, call)
            for argument in _arguments(call) if sink else ():
                for node, what, severity in _secrets(project, heard, argument):
                    text = ast.unparse(node)
                    if (heard.function.path, node.lineno, text) in told or (sink == "stores" and not _whole(text)):
                        continue
                    told.add((heard.function.path, node.lineno, text))
                    yield Fault(
                        path=heard.function.path,
                        line=node.lineno,
                        signal=heard.signal,
                        receiver=heard.receiver,
                        happens=f"It {sink} {text}: {what}.",
                        why="Output and logs are kept, copied and read by more people than may know it, and so are "
                        "tables that aren't made for it.",
                        remedy="Leave it out; name the user by key, the request by path.",
                        severity=severity,
                    )


def _sink(heard: Heard, call: ast.Call) -> str:
    """Return what the call does with its arguments, as a verb; nothing if it gives nothing away."""
    name = syntax.called(heard.function, call)
    owner, _, last = name.rpartition(".")
    if name in {"print", "pprint.pprint", "builtins.print"}:
        return "prints"
    if last in _LOG and ("log" in owner.lower() or owner == "messages"):
        return "logs"
    if last in {"write", "writelines"} and owner.rpartition(".")[2] in {"stdout", "stderr"}:
        return "prints"
    return "stores" if last in _STORES and owner else ""


def _arguments(call: ast.Call) -> Iterator[ast.expr]:
    yield from call.args
    yield from (keyword.value for keyword in call.keywords)


def _whole(text: str) -> bool:
    """Whether the text names something that no table is made for: a password, or all that a request carries."""
    last = text.rpartition(".")[2]
    return last in _WHOLE or last.rpartition("_")[2] in {"password", "environ", "credentials", "password1", "password2"}


def _secrets(project: Project, heard: Heard, node: ast.expr) -> Iterator[tuple[ast.expr, str, Severity]]:
    """Yield the secrets within what is given away, with what they are."""
    match node:
        case ast.Name(id=name):
            if what := _name(project, heard, name):
                yield node, what[0], what[1]
        case ast.Attribute(attr=attribute):
            if attribute in _WHOLE and syntax.dotted(node.value).rpartition(".")[2] == "request":
                if attribute != "POST" or heard.signal.startswith("user_log"):
                    yield node, _WHOLE[attribute], Severity.WARNING
            elif is_secret(attribute):
                yield node, _described(attribute), Severity.WARNING
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            if is_secret(key) or key.upper() in _HEADERS:
                yield node, *_keyed(heard, key)
        case ast.Call():
            key = _got(node)
            last = syntax.dotted(node.func).rpartition(".")[2]
            if key and (is_secret(key) or key.upper() in _HEADERS):
                yield node, *_keyed(heard, key)
            elif last in _TRANSPARENT:
                if isinstance(node.func, ast.Attribute):
                    yield from _secrets(project, heard, node.func.value)
                for argument in _arguments(node):
                    yield from _secrets(project, heard, argument)
        case (
            ast.JoinedStr() | ast.FormattedValue() | ast.BinOp() | ast.Tuple() | ast.List() | ast.Dict() | ast.Starred()
        ):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    yield from _secrets(project, heard, child)


def _got(call: ast.Call) -> str:
    """Return the key that ``x.get("key")`` asks for."""
    match call:
        case ast.Call(func=ast.Attribute(attr="get" | "pop"), args=[ast.Constant(value=str() as key), *_]):
            return key
        case _:
            return ""


def _keyed(heard: Heard, key: str) -> tuple[str, Severity]:
    if key == "credentials" and heard.signal == "user_login_failed":
        return _credentials()
    return _described(key), Severity.WARNING


def _name(project: Project, heard: Heard, name: str) -> tuple[str, Severity] | None:
    function = heard.function
    if heard.signal == "pre_init" and name in _whole_arguments(heard):
        fields = _secret_fields(project, heard)
        if fields:
            return f"all values that the object is made of, {' and '.join(fields)} among them", Severity.WARNING
        return None
    if name == "scope" and heard.signal == "request_started":
        return "the whole ASGI scope, with cookies and the Authorization header", Severity.WARNING
    if name == "credentials" and heard.signal == "user_login_failed":
        return _credentials()
    if not is_secret(name) or function.names.get(name):  # an imported module or class is none
        return None
    return _described(name), Severity.WARNING


def _credentials() -> tuple[str, Severity]:
    return (
        (
            "Django masks what looks secret by its key, and nothing else: a one-time code or a password that was "
            "typed in the name's place stays"
        ),
        Severity.INFO,
    )


def _whole_arguments(heard: Heard) -> set[str]:
    """Return the names that hold the values given to a model's ``__init__()``."""
    arguments = heard.function.parameters
    names = {"args", "kwargs"} & set(syntax.parameters(heard.function))
    # `*args` is always empty: Django gives every argument by keyword.
    return names | ({arguments.kwarg.arg} if arguments.kwarg else set())


def _secret_fields(project: Project, heard: Heard) -> list[str]:
    models = project.sender_models(heard)
    if not models and project.senderless(heard):
        models = tuple(model for model in project.runtime.models.values() if model.user)
    return sorted({field for model in models for field in model.fields if is_secret(field)})


def is_secret(name: str) -> bool:
    """Whether something of this name is a secret, by its last words: ``password_changed_at`` is none.

    Narrower than redaction, which had rather hide too much: a finding must be right.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]
    if not words or words[0] in _NO_SECRET:
        return False
    return words[-1] in _NOUNS or tuple(words[-2:]) in _PAIRS


def _described(name: str) -> str:
    if name.lower().endswith("environ"):
        return "the whole WSGI environ, with cookies and the Authorization header"
    if "password" in name.lower():
        return "a password, or the hash of one, which is enough to guess it by trying"
    return "by its name a secret"
