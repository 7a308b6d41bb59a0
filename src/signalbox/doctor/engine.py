"""Run the doctor: read the project, run every rule, collect the findings."""

from __future__ import annotations

import gc
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from signalbox.core.receivers import shorten_path
from signalbox.doctor import recorded_stats, runtime, source
from signalbox.doctor.findings import Finding, Severity, SourceLine
from signalbox.doctor.project import Project
from signalbox.doctor.rules import RULES, Fault, Rule
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.redaction import Redactor

logger = logging.getLogger(__name__)

CONTEXT_LINES = 2
"""Lines of source shown before and after the location."""


def examine(
    rules: Collection[str] | None = None, apps: Collection[str] | None = None, *, use_recorded_events: bool = True
) -> list[Finding]:
    """Examine the process and the installed apps' source, and return the findings, the most severe first.

    Args:
        rules: Names or ids of the rules to run (``"exposed-secret"``, ``"signalbox.D009"``); all of them by default.
        apps: Labels of the apps to report on. By default: the project's own, with all rules; of installed packages
            what disturbs the site, not what is a matter of their style.
        use_recorded_events: Whether to read the recorded events too, which queries the database.

    Raises:
        ValueError: a rule or an app isn't known; the message lists those that are.
    """
    selected_rules = select_rules(rules)
    with _gc_disabled():
        return _run_rules(selected_rules, apps, use_recorded_events)


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable the garbage collector: it would traverse all the syntax trees repeatedly while they grow."""
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
    if unknown := set(apps or ()) - {app.label for app in project.runtime.apps}:
        labels = ", ".join(sorted(app.label for app in project.runtime.apps))
        raise ValueError(f"There is no app {', '.join(sorted(unknown))!r}. Installed are: {labels}.")
    findings = [finding for rule in rules for finding in _run_rule(rule, project, apps)]
    return sorted(findings, key=lambda f: (-f.severity, f.path, f.line, f.id, f.signal))


def select_rules(names: Collection[str] | None) -> list[Rule]:
    """Return the rules of these names or ids; all if none are given."""
    rules_by_key = {key: rule for rule in RULES.values() for key in (rule.name, rule.id, rule.id.partition(".")[2])}
    if unknown := [name for name in names or () if name not in rules_by_key]:
        raise ValueError(f"There is no rule {unknown[0]!r}. The rules are: {', '.join(RULES)}.")
    return (
        list(RULES.values())
        if names is None
        else list({rules_by_key[name].id: rules_by_key[name] for name in names}.values())
    )


def build_project(*, use_recorded_events: bool) -> Project:
    """Read the process, the source and, if asked to, the recorded events."""
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
        if app is None:
            is_shown = rule.include_packages  # it may be any app's
        elif apps is not None:
            is_shown = app.label in apps
        else:
            is_shown = rule.include_packages or app.is_project_app
        if is_shown:
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
                message=fault.message,
                reason=fault.reason,
                hint=fault.hint,
                excerpt=_build_excerpt(project, fault, redactor),
            )


def _build_excerpt(project: Project, fault: Fault, redactor: Redactor) -> tuple[SourceLine, ...]:
    """Return the lines around the location, redacted: build servers keep reports."""
    lines = project.source.texts.get(fault.path, "").splitlines()
    return tuple(
        SourceLine(number=number, text=redactor.redact_text(lines[number - 1]), highlighted=number == fault.line)
        for number in range(max(1, fault.line - CONTEXT_LINES), min(len(lines), fault.line + CONTEXT_LINES) + 1)
        if fault.line
    )


def _build_rule_failure(rule: Rule, error: Exception) -> Finding:
    return Finding(
        id="signalbox.D000",
        rule="rule-failed",
        severity=Severity.ERROR,  # what the rule would have found is not known: --fail-on must not pass
        app="",
        path="",
        line=0,
        location="",
        signal="",
        receiver="",
        message=f"The rule {rule.name} ({rule.id}) failed and found nothing: {type(error).__name__}.",
        reason="A mistake in signalbox; the log has the traceback.",
        hint="Report it; until then silence signalbox.D000, or name the other rules with --rule.",
    )
