"""Retention: rules for how long rows are stored, and the purge that deletes older ones."""
