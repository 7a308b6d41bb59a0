"""Puts the parts together, at the two moments that Django gives an app."""

from __future__ import annotations

import logging

logger = logging.getLogger("signalbox")


def early() -> None:
    """The registry has made this app's config: models prepared and connections opened from now on are seen."""
    from signalbox import recording

    try:
        recording.install()
    except Exception:  # Signalbox's own failure; the site starts without its register
        logger.exception("Recording could not be switched on.")


def ready() -> None:
    """Every app is there: find their own signals, let readers see what is not committed yet, and check."""
    from signalbox import buffer, checks, models, recording

    try:
        recording.find_custom()
    except Exception:  # as above
        logger.exception("Custom signals could not be looked for.")
    if buffer.flush_all not in models.before_reading:
        models.before_reading.append(buffer.flush_all)
    checks.register()
