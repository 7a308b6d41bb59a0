"""Trace ids and spans of OpenTelemetry."""
