"""Durable receivers whose deliveries do not succeed."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.recorded_stats import DeliveryStats
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.source_model import ConnectCall


@rule(
    22,
    "unknown-receiver",
    Severity.ERROR,
    "deliveries whose durable receiver was renamed or removed",
    needs_recorded_events=True,
    include_packages=True,
)
def unknown_receiver(project: Project) -> Iterator[Fault]:
    """Find deliveries that no worker can run."""
    connects = _get_connects_by_receiver(project)
    for stats in project.delivery_stats:
        if stats.deferred and stats.receiver not in connects:
            similar_names = get_close_matches(stats.receiver, connects, n=2)
            similar = f" Similar names: {', '.join(similar_names)}." if similar_names else ""
            yield _build_fault(
                stats,
                None,
                message=f"{stats.pending} of its deliveries are pending and {stats.dead} are dead: no worker has it.",
                reason=f"A worker finds a receiver by its dotted name, and none is connected under this one.{similar}",
                hint="Restore the name until its deliveries have run, or discard them and replay their events to the "
                "new name.",
            )


@rule(
    23,
    "all-deliveries-dead",
    Severity.ERROR,
    "a durable receiver all of whose deliveries are dead letters",
    needs_recorded_events=True,
    include_packages=True,
)
def all_deliveries_dead(project: Project) -> Iterator[Fault]:
    """Find durable receivers with dead letters and no successful delivery among the stored ones."""
    connects = _get_connects_by_receiver(project)
    for stats in project.delivery_stats:
        if stats.dead and not stats.done and not stats.deferred:
            pending = f", pending: {stats.pending}" if stats.pending else ""
            yield _build_fault(
                stats,
                connects.get(stats.receiver),
                message=f"None of its stored deliveries succeeded (dead letters: {stats.dead}{pending}). One of "
                f"their errors: {stats.last_error}",
                reason="A dead letter has used all its attempts. By default it blocks later deliveries with its key.",
                hint="Correct the receiver. Then run manage.py signalbox deliveries retry --all --receiver "
                f"{stats.receiver}",
            )


def _get_connects_by_receiver(project: Project) -> dict[str, ConnectCall]:
    """Return the calls that connect receivers, by the dotted name of the receiver."""
    return {connect.function.dotted_name: connect for connect in project.source.connect_calls if connect.function}


def _build_fault(stats: DeliveryStats, connect: ConnectCall | None, *, message: str, reason: str, hint: str) -> Fault:
    function = connect.function if connect else None
    return Fault(
        path=function.path if function else "",
        line=function.line if function else 0,
        signal=connect.signals[0] if connect and connect.signals else "",
        receiver=stats.receiver,
        message=message,
        reason=reason,
        hint=hint,
    )
