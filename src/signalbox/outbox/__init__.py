"""Durable receivers: run after the commit, at least once, in order."""
