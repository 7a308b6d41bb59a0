"""Queries over the event log."""
