"""The findings as Django's system checks, under the tag ``signalbox``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks

from signalbox.core import loggers
from signalbox.doctor.engine import examine
from signalbox.doctor.findings import Finding, Severity

logger = loggers.get_logger("doctor")


def check_signal_receivers(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return the findings as messages, none above a warning: an error would stop ``migrate`` of a working site.

    ``app_configs`` limits the findings to some apps. Recorded events are not read, so no database is queried.
    """
    labels = None if app_configs is None else {config.label for config in app_configs}
    try:
        return [build_check_message(finding) for finding in examine(apps=labels, use_recorded_events=False)]
    except Exception as error:
        logger.exception("The doctor failed.")
        return [
            checks.Warning(
                f"The doctor failed: {type(error).__name__}.",
                hint="This is an error in Signalbox. The traceback is in the log. Report it, and silence "
                "signalbox.D000 until it is fixed.",
                id="signalbox.D000",
            )
        ]


def build_check_message(finding: Finding) -> checks.CheckMessage:
    """Return a finding as a message of Django's system checks."""
    kind = checks.Info if finding.severity is Severity.INFO else checks.Warning
    return kind(
        f"{finding.message} {finding.reason}",
        hint=f"{finding.hint} See {finding.url}",
        obj=_FindingLabel(finding),
        id=finding.id,
    )


class _FindingLabel:
    """The object of a message, which Django prints before the message."""

    def __init__(self, finding: Finding) -> None:
        self._finding = finding

    def __str__(self) -> str:
        return " ".join(filter(None, (self._finding.location, self._finding.receiver or self._finding.signal)))
