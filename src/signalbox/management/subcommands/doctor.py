"""``manage.py signalbox doctor``: its options, and the run."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Protocol

from django.core.management import CommandError

from signalbox.doctor import report
from signalbox.doctor.engine import examine
from signalbox.doctor.findings import Severity
from signalbox.doctor.rules import RULES


class Output(Protocol):
    """What the command writes to."""

    def write(self, text: str, /) -> object:
        """Write ``text``."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the doctor's options."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--fail-on",
        choices=["warning", "error"],
        help="exit with 1 if there is a finding of at least this severity",
    )
    parser.add_argument(
        "--rule",
        action="append",
        metavar="NAME",
        help=f"use only this rule, by name or id; may be repeated. Rules: {', '.join(RULES)}",
    )
    parser.add_argument(
        "--app",
        action="append",
        metavar="LABEL",
        help="report only this app, completely if it is an installed package; may be repeated",
    )


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Examine, write the report, and return the exit code: 1 if ``--fail-on`` matches a finding, else 0.

    Raises:
        CommandError: ``--rule`` or ``--app`` names a rule or app that does not exist.
    """
    try:
        findings = examine(rules=options.get("rule"), apps=options.get("app"))
    except ValueError as error:
        raise CommandError(str(error), returncode=2) from error
    if options.get("json"):
        for line in report.format_json_lines(findings):
            stdout.write(line)
    else:
        stdout.write(report.format_text(findings))
    limit = options.get("fail_on")
    return int(limit is not None and any(finding.severity >= Severity[limit.upper()] for finding in findings))
