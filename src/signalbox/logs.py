"""A logging filter for a site's own ``LOGGING``: its log records name the trace that they belong to."""

from __future__ import annotations

from signalbox.core.loggers import TraceFilter

__all__ = ["TraceFilter"]
