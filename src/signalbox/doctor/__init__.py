"""Static and runtime diagnosis of signal receivers. Nothing is changed, imported or called."""

from __future__ import annotations

from signalbox.doctor.engine import examine
from signalbox.doctor.findings import Finding, Severity, SourceLine

__all__ = ["Finding", "Severity", "SourceLine", "examine"]
