"""Findings as text for people, and as JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from signalbox.doctor.findings import Finding, Severity
from signalbox.doctor.rules import RULES

LINE_WIDTH = 100
"""Maximum width of the text, in columns."""


def format_text(findings: Iterable[Finding]) -> str:
    """Return the findings as text, with location, source, message, reason, hint and page of each, and a summary."""
    findings = list(findings)
    return (
        "\n".join([*(line for finding in findings for line in _format_finding(finding)), format_summary(findings)])
        + "\n"
    )


def _format_finding(finding: Finding) -> Iterator[str]:
    yield f"{finding.location or '(location unknown)'}  {finding.severity.label}  {finding.rule}  {finding.id}"
    subject = " of ".join(filter(None, (finding.receiver, finding.signal)))
    if subject:
        yield f"  {subject}"
    for line in finding.excerpt:
        yield f"  {'>' if line.highlighted else ' '} {line.number:>4} | {line.text}".rstrip()
    for label, text in (("message", finding.message), ("reason", finding.reason), ("hint", finding.hint)):
        yield from textwrap.wrap(text, LINE_WIDTH, initial_indent=f"  {label + ':':<9}", subsequent_indent=" " * 11)
    yield f"  page:    {finding.url}"
    yield ""


def format_summary(findings: Iterable[Finding]) -> str:
    """Return one sentence with the number of findings by severity."""
    counts = Counter(finding.severity for finding in findings)
    if not counts:
        return "The doctor found nothing."
    words = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
    parts = [f"{counts[s]} {word}{'' if counts[s] == 1 else 's'}" for s, word in words.items() if counts[s]]
    return f"The doctor found {', '.join(parts)}."


def format_json_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield each finding as one JSON object on one line."""
    for finding in findings:
        yield json.dumps(finding.to_dict(), ensure_ascii=False) + "\n"


def build_rules_table() -> str:
    """Return the rules as a Markdown table, for the documentation."""
    rows = (
        f"| [`{rule.id}`](rules/{rule.id.rpartition('.')[2]}.md) | `{rule.name}` | {rule.severity.label} | "
        f"{rule.description} | {'yes' if rule.include_packages else 'if named'} |"
        for rule in RULES.values()
    )
    return "\n".join(["| id | rule | severity | finds | in packages |", "| --- | --- | --- | --- | --- |", *rows])
