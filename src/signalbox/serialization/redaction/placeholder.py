"""The text that replaces a secret."""

from __future__ import annotations

from typing import Final

REDACTED: Final = "[redacted]"
