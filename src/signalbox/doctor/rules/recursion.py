"""Receivers that bring about the send that they answer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Heard, Project
from signalbox.doctor.queryset_ownership import Rows
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.scopes import Frame

_SAVES: Final = frozenset({"save", "asave"})
_CREATES: Final = frozenset({"create", "acreate"})
_SAVES_ANYWAY: Final = frozenset({"update_or_create", "aupdate_or_create"})


class _Again(NamedTuple):
    """A call that sends the signal again."""

    text: str
    created: bool | None
    """What ``created`` is in the send that it brings about; ``None`` if that isn't known."""


@rule(10, "recursion", Severity.ERROR, "a pre_save or post_save receiver that saves its own sender again, unguarded")
def recursion(project: Project) -> Iterator[Fault]:
    """Find receivers that bring about the very send that they answer, without end."""
    for heard in project.heard:
        if heard.signal in {"pre_save", "post_save"} and not heard.function.opaque:
            fault = next((fault for frame in project.frames(heard) for fault in _endless(project, heard, frame)), None)
            if fault and not _mutes(heard):
                yield fault


def _mutes(heard: Heard) -> bool:
    """Whether it disconnects something while it works."""
    return any(isinstance(n, ast.Attribute) and n.attr == "disconnect" for n in ast.walk(heard.function.node))


def _endless(project: Project, heard: Heard, frame: Frame) -> Iterator[Fault]:
    rows = Rows(project=project, heard=heard, frame=frame)
    for call, conditions in frame.function.calls:
        again = _saves_again(rows, call)
        if again and _comes_back(frame, conditions, again) and _comes_back(frame.caller, frame.conditions, again):
            yield Fault(
                path=frame.function.path,
                line=call.lineno,
                signal=heard.signal,
                receiver=heard.receiver,
                happens="RecursionError, or rows without end.",
                why=f"{again.text} sends {heard.signal} again, which runs this receiver again; no condition ends it.",
                remedy="Use sender.objects.filter(pk=instance.pk).update(...), which sends nothing; or ask for "
                "`created`, or for what changed, first. To ask for `raw` ends nothing.",
            )


def _comes_back(frame: Frame | None, conditions: syntax.Conditions, again: _Again) -> bool:
    """Whether the send that the call brings about surely comes to the call again."""

    def known(test: ast.expr) -> bool | None:
        if frame and frame.stands_for(test, "raw"):
            return False  # true for fixtures alone
        return again.created if frame and frame.stands_for(test, "created") else None

    return syntax.reached(conditions, known) is True


def _saves_again(rows: Rows, call: ast.Call) -> _Again | None:
    if not isinstance(call.func, ast.Attribute):
        return None
    method, owner = call.func.attr, call.func.value
    if method in _SAVES:
        if rows.is_instance(owner):
            return _Again(f"{ast.unparse(call.func)}()", False)
        value = rows.frame.value(owner)
        if isinstance(value, ast.Call) and rows.is_sender(value.func):
            return _Again(f"{ast.unparse(value.func)}(...).save()", True)
        if value is not owner and rows.fetches_own(value):
            return _Again(f"{ast.unparse(call.func)}()", False)
    elif isinstance(owner, ast.Attribute) and rows.is_sender(owner.value):
        if method in _CREATES and rows.heard.signal == "post_save":
            return _Again(f"{ast.unparse(call.func)}()", True)
        if method in _SAVES_ANYWAY:
            return _Again(f"{ast.unparse(call.func)}()", None)
    return None
