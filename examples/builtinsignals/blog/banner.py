"""Prints the lines of the receivers."""

from __future__ import annotations

import sys


def banner(signal: str, sender: object, news: str = "") -> None:
    """Print one line about a send to standard error, which is separate from the output of a command.

    Receivers get password hashes, cookies and the server's environment. Each receiver chooses its ``news`` and never
    prints its arguments.
    """
    print(f"-- {signal:<22} {name(sender):<34} {news}".rstrip(), file=sys.stderr)


def name(sender: object) -> str:
    """Return a short name of a sender: a model's label, a class's dotted name, an app's label."""
    if isinstance(sender, type):
        meta = getattr(sender, "_meta", None)
        return meta.label if meta else f"{sender.__module__}.{sender.__qualname__}"
    return getattr(sender, "label", None) or str(sender)
