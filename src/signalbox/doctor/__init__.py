"""The doctor: finds the receivers that are broken before they hurt. It only looks."""

from __future__ import annotations

from signalbox.doctor.engine import examine
from signalbox.doctor.findings import Finding, Severity, SourceLine

__all__ = ["Finding", "Severity", "SourceLine", "examine"]
