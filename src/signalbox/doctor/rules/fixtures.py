"""Receivers that break the loading of fixtures."""

from __future__ import annotations

from collections.abc import Iterator

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.queryset_ownership import QuerysetOwnership
from signalbox.doctor.rules import Fault, rule


@rule(
    12,
    "unguarded-fixture",
    Severity.WARNING,
    "a pre_save or post_save receiver that reads or writes other rows without checking `raw`",
)
def unguarded_fixture(project: Project) -> Iterator[Fault]:
    """Find receivers that use other rows during ``loaddata``."""
    for subscription in project.subscriptions:
        function = subscription.function
        if (
            subscription.signal not in {"pre_save", "post_save"}
            or function.has_unknown_decorator
            or subscription.after_commit
            or syntax.reads_argument(function, "raw")
            or not (project.get_sender_models(subscription) or project.receives_every_sender(subscription))
        ):
            continue
        ownership = QuerysetOwnership(
            project=project, subscription=subscription, frame=project.get_frames(subscription)[0]
        )
        for call, access in ownership.iter_other_row_accesses():
            yield Fault(
                path=function.path,
                line=call.lineno,
                signal=subscription.signal,
                receiver=subscription.receiver,
                message=f"manage.py loaddata {access} while it loads the fixture: later rows are missing, and rows "
                "that the receiver creates collide with those of the fixture.",
                reason="Fixtures are saved with raw=True, in any order, and send the same signals.",
                hint="Add `raw` to the signature, and begin with `if raw: return`.",
            )
            break
