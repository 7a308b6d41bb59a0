"""Secrets are taken out of names with values, and out of free text.

Everything here is pure: text or plain containers in, new text or new containers out.
"""

from __future__ import annotations

from signalbox.serialization.redaction.addresses import redact_path, redact_query
from signalbox.serialization.redaction.container_copies import redact
from signalbox.serialization.redaction.placeholder import REDACTED
from signalbox.serialization.redaction.redactor import NO_FIELDS, Redactor, redact_credentials, redact_text

__all__ = [
    "NO_FIELDS",
    "REDACTED",
    "Redactor",
    "redact",
    "redact_credentials",
    "redact_path",
    "redact_query",
    "redact_text",
]
