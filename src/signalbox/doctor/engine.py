"""Run the doctor: read the project, run every rule, collect the findings."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from signalbox.core import loggers
from signalbox.core.receivers import shorten_path
from signalbox.doctor import recorded_stats, runtime, selection, source
from signalbox.doctor.findings import Finding, Severity, SourceLine
from signalbox.doctor.optional_imports import find_switched_off_paths
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, Rule
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.redaction import Redactor
from signalbox.serialization.source_code import redact_source

logger = loggers.get_logger("doctor")

CONTEXT_LINES = 2
"""Lines of source shown before and after the location."""


def examine(
    rules: Collection[str] | None = None, apps: Collection[str] | None = None, *, use_recorded_events: bool = True
) -> list[Finding]:
    """Return the findings on the process and the source of the installed apps, the most severe first.

    Args:
        rules: Names or ids of the rules to run (``"exposed-secret"``, ``"signalbox.D009"``); all of them by default.
        apps: Labels of the apps to report on. By default all apps: those of the project with all rules, those of
            installed packages only with the rules that include packages.
        use_recorded_events: Whether to read the recorded events and deliveries too, which queries the database.

    Raises:
        ValueError: A rule or an app is unknown. The message lists the known ones.
    """
    selected_rules = selection.select_rules(rules)
    with _gc_disabled():
        return _run_rules(selected_rules, apps, use_recorded_events)


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable the garbage collector, which would traverse the growing syntax trees repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _run_rules(rules: list[Rule], apps: Collection[str] | None, use_recorded_events: bool) -> list[Finding]:
    project = build_project(
        use_recorded_events=use_recorded_events and any(rule.needs_recorded_events for rule in rules)
    )
    selection.check_app_labels(apps or (), project.runtime.apps)
    switched_off = find_switched_off_paths(project)
    findings = [
        finding for rule in rules for finding in _run_rule(rule, project, apps) if finding.path not in switched_off
    ]
    return sorted(findings, key=lambda f: (-f.severity, f.path, f.line, f.id, f.signal))


def build_project(*, use_recorded_events: bool) -> Project:
    """Read the process, the source and, if requested, the recorded events and deliveries."""
    process = runtime.read_runtime()
    project_source = source.read_source(
        process.apps,
        process.aliases,
        {connection.path for connection in process.connections},
        project_files=process.project_files,
        entry_points=process.entry_points,
    )
    return Project(
        runtime=process,
        source=project_source,
        receiver_stats=recorded_stats.read_receiver_stats() if use_recorded_events else (),
        delivery_stats=recorded_stats.read_delivery_stats() if use_recorded_events else (),
    )


def _run_rule(rule: Rule, project: Project, apps: Collection[str] | None) -> Iterator[Finding]:
    try:
        faults = list(rule.check(project))
    except Exception as error:
        logger.exception("The doctor's rule %s failed.", rule.name)
        yield _build_rule_failure(rule, error)
        return
    yield from _build_findings(rule, faults, project, apps)


def _build_findings(
    rule: Rule, faults: Iterable[Fault], project: Project, apps: Collection[str] | None
) -> Iterator[Finding]:
    redactor = get_redactor()
    for fault in faults:
        app = (
            project.runtime.find_app_by_path(fault.path)
            if fault.path
            else project.runtime.find_app_by_name(fault.receiver)
        )
        if selection.is_reported(rule, app, apps):
            yield Finding(
                id=rule.id,
                rule=rule.name,
                severity=fault.severity or rule.severity,
                app=app.label if app else "",
                path=fault.path,
                line=fault.line,
                location=f"{shorten_path(fault.path)}:{fault.line}" if fault.path else "",
                signal=fault.signal,
                receiver=redactor.redact_text(fault.receiver),
                message=redactor.redact_data(fault.message),
                reason=fault.reason,
                hint=fault.hint,
                excerpt=_build_excerpt(project, fault, redactor),
            )


def _build_excerpt(project: Project, fault: Fault, redactor: Redactor) -> tuple[SourceLine, ...]:
    """Return the lines around the location. They are redacted, as build servers keep reports."""
    if not fault.line:
        return ()
    lines = redact_source(project.source.texts.get(fault.path, ""), redactor).splitlines()
    return tuple(
        SourceLine(number=number, text=lines[number - 1], highlighted=number == fault.line)
        for number in range(max(1, fault.line - CONTEXT_LINES), min(len(lines), fault.line + CONTEXT_LINES) + 1)
    )


def _build_rule_failure(rule: Rule, error: Exception) -> Finding:
    return Finding(
        id="signalbox.D000",
        rule="rule-failed",
        severity=Severity.ERROR,  # --fail-on must not pass without the findings of this rule
        app="",
        path="",
        line=0,
        location="",
        signal="",
        receiver="",
        message=f"The rule {rule.name} ({rule.id}) failed and found nothing: {type(error).__name__}.",
        reason="This is an error in Signalbox. The traceback is in the log.",
        hint="Report it. Until it is fixed, silence signalbox.D000 or select the other rules with --rule.",
    )
