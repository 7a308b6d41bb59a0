"""The signals that this app sends itself."""

from __future__ import annotations

from django.dispatch import Signal

post_published = Signal()
"""A post is published for the first time. Sender: ``Post``. Argument: ``post``."""
