"""Custom signals that are never sent or have no receivers."""

from __future__ import annotations

from collections.abc import Iterator

from signalbox.core import catalog
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.source_model import SignalDefinition


@rule(20, "never-sent", Severity.WARNING, "a custom signal that is never sent")
def never_sent(project: Project) -> Iterator[Fault]:
    """Find signals that no code sends or passes to other code."""
    sent = {send.signal for send in project.source.send_calls}
    received_signals = {signal for connect in project.source.connect_calls for signal in connect.signals}
    for definition in _iter_custom_definitions(project):
        signal = definition.signal
        if signal not in sent and not project.escapes(signal):
            yield Fault(
                path=definition.path,
                line=definition.line,
                signal=signal,
                message="Its receivers never run." if signal in received_signals else "The signal has no effect.",
                reason="No code of the installed apps sends it.",
                hint="Send it, or remove it" + (" with its receivers." if signal in received_signals else "."),
                severity=None if signal in received_signals else Severity.INFO,
            )


@rule(21, "never-received", Severity.INFO, "a custom signal without receivers")
def never_received(project: Project) -> Iterator[Fault]:
    """Find signals that are sent but have no receivers."""
    received_signals = {signal for connect in project.source.connect_calls for signal in connect.signals}
    received_signals |= {connection.signal for connection in project.runtime.connections}
    sent = {send.signal for send in project.source.send_calls}
    for definition in _iter_custom_definitions(project):
        signal = definition.signal
        if signal in sent and signal not in received_signals and not project.escapes(signal):
            yield Fault(
                path=definition.path,
                line=definition.line,
                signal=signal,
                message="It is sent without effect.",
                reason="No receiver is connected in this process, and no code of the installed apps connects one.",
                hint="Connect the missing receiver. Ignore the finding if the signal is meant for other projects.",
            )


def _iter_custom_definitions(project: Project) -> Iterator[SignalDefinition]:
    return (
        definition
        for definition in project.source.signal_definitions
        if definition.signal not in catalog.BUILTIN_SIGNALS
        and not (definition.in_class and project.source.has_indirect_access(definition.signal))
    )
