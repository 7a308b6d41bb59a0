"""Puts the parts together, at the two moments that Django gives an app."""

from __future__ import annotations

import logging

logger = logging.getLogger("signalbox")


def install_recording() -> None:
    """The registry has made this app's config: models prepared and connections opened from now on are seen."""
    from signalbox.instrumentation import install

    try:
        install.start_recording()
    except Exception:  # Signalbox's own failure; the site starts without its register
        logger.exception("Recording could not be switched on.")


def complete_setup() -> None:
    """Every app is there: find their own signals, let readers see what is not committed yet, and check."""
    from signalbox import checks, models
    from signalbox.instrumentation import install
    from signalbox.pipeline import unit_of_work

    try:
        install.discover_signals()
    except Exception:  # as above
        logger.exception("Custom signals could not be looked for.")
    if unit_of_work.flush_all not in models.before_read_hooks:
        models.before_read_hooks.append(unit_of_work.flush_all)
    checks.register_checks()
