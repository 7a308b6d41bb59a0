"""Errors that recording raises to the application."""

from __future__ import annotations

from django.db import DatabaseError


class DeliveryError(Exception):
    """Base of the errors that ``send()`` raises, because a delivery must not be lost without an error."""


class EnqueueError(DeliveryError, DatabaseError):
    """The deliveries of an event could not be written."""
