"""A payment service that always answers."""

from __future__ import annotations

from decimal import Decimal


class CardDeclined(Exception):
    """The card's bank refuses to pay."""


def charge(card: str, amount: Decimal) -> None:
    """Charge the card, which is "valid" or "declined"."""
    if card != "valid":
        raise CardDeclined(f"The card was declined for {amount}.")
