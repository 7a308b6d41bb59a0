"""Receivers that get in the way while fixtures are loaded."""

from __future__ import annotations

from collections.abc import Iterator

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.queryset_ownership import Rows
from signalbox.doctor.rules import Fault, rule


@rule(
    12,
    "unguarded-fixture",
    Severity.WARNING,
    "a pre_save or post_save receiver that reads or writes other rows without looking at `raw`",
)
def unguarded_fixture(project: Project) -> Iterator[Fault]:
    """Find receivers that get in the way of ``loaddata``."""
    for heard in project.heard:
        function = heard.function
        if (
            heard.signal not in {"pre_save", "post_save"}
            or function.opaque
            or heard.later
            or syntax.reads(function, "raw")
            or not (project.sender_models(heard) or project.senderless(heard))
        ):
            continue
        rows = Rows(project=project, heard=heard, frame=project.frames(heard)[0])
        for call, deed in rows.deeds():
            yield Fault(
                path=function.path,
                line=call.lineno,
                signal=heard.signal,
                receiver=heard.receiver,
                happens=f"manage.py loaddata {deed} while it loads its own rows: rows are missing that come later in "
                "the fixture, and those that it makes collide with those that the fixture brings.",
                why="Fixtures are saved with raw=True, in any order, and send the same signals.",
                remedy="Begin with `if raw: return`, and take `raw` into the signature.",
            )
            break
