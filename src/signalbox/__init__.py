"""Django's signals: see them, trust them, act on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from signalbox.api import set_actor, trace
    from signalbox.delivery.registry import receiver
    from signalbox.recording import install, track, uninstall

_PUBLIC = {
    "configure": "signalbox.recording.plans",
    "history": "signalbox.objects",
    "install": "signalbox.recording",
    "receiver": "signalbox.delivery.registry",
    "revert": "signalbox.reverting",
    "set_actor": "signalbox.api",
    "trace": "signalbox.api",
    "track": "signalbox.recording",
    "uninstall": "signalbox.recording",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: this package is loaded before Django's apps are."""
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'signalbox' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)


__all__ = ["install", "receiver", "set_actor", "trace", "track", "uninstall"]
