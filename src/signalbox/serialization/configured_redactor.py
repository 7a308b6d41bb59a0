"""Builds the redactor of the settings, once per configuration."""

from __future__ import annotations

from signalbox import conf
from signalbox.serialization.redaction import Redactor

_cached: tuple[conf.Config, Redactor] | None = None


def get_redactor() -> Redactor:
    """Return the redactor of the settings ``REDACT`` and ``MODELS``."""
    global _cached
    config = conf.get()
    if _cached is None or _cached[0] is not config:
        _cached = (config, _build(config))
    return _cached[1]


def _build(config: conf.Config) -> Redactor:
    return Redactor(config.REDACT, conf.get_fields_by_option("redact"), conf.get_fields_by_option("clear"))


def reset_redactor() -> None:
    """Build the redactor again on next use, because a model was configured."""
    global _cached
    _cached = None
