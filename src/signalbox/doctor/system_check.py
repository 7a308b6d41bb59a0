"""The findings as Django's system checks, under the tag ``signalbox``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks

from signalbox.doctor.engine import examine
from signalbox.doctor.findings import Finding, Severity

logger = logging.getLogger(__name__)


def check_signal_receivers(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return the findings as messages. No finding is an error here: what worked so far must go on working.

    ``app_configs`` limits it to some apps. The recorded events aren't read, so that no database is asked.
    """
    labels = None if app_configs is None else {config.label for config in app_configs}
    try:
        return [build_check_message(finding) for finding in examine(apps=labels, use_recorded_events=False)]
    except Exception as error:
        logger.exception("The doctor failed.")
        return [
            checks.Warning(
                f"The doctor failed: {type(error).__name__}.",
                hint="A mistake in signalbox; the log has the traceback. Silence signalbox.D000 until it is mended.",
                id="signalbox.D000",
            )
        ]


def build_check_message(finding: Finding) -> checks.CheckMessage:
    """Return the finding as a message of Django's checks."""
    kind = checks.Info if finding.severity is Severity.INFO else checks.Warning
    return kind(
        f"{finding.message} {finding.reason}",
        hint=finding.hint,
        obj=_FindingLabel(finding),
        id=finding.id,
    )


class _FindingLabel:
    """What a message is about: Django prints it before the message."""

    def __init__(self, finding: Finding) -> None:
        self._finding = finding

    def __str__(self) -> str:
        return " ".join(filter(None, (self._finding.location, self._finding.receiver or self._finding.signal)))
