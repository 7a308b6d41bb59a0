"""Addresses that are built from names rather than routed by keys."""

from __future__ import annotations

from urllib.parse import urlencode

from django.urls import reverse


def object_address(sender: str, key: str) -> str:
    """Return the address of an object's history."""
    return f"{reverse('signalbox:object')}?{urlencode({'sender': sender, 'key': key})}"
