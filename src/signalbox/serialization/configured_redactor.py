"""The redactor that the setting asks for, built once per configuration."""

from __future__ import annotations

from signalbox import conf
from signalbox.serialization.redaction import Redactor

_cached: tuple[conf.Config, Redactor] | None = None


def get_redactor() -> Redactor:
    """Return the redactor that ``REDACT`` and ``MODELS`` ask for."""
    global _cached
    config = conf.get()
    if _cached is None or _cached[0] is not config:
        _cached = (config, Redactor(config.REDACT, conf.get_fields_by_option("redact")))
    return _cached[1]


def reset_redactor() -> None:
    """Build the redactor again on next use: code has configured a model."""
    global _cached
    _cached = None
