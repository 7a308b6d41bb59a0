"""Replaces the package with this name."""
