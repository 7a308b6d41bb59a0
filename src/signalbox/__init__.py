"""Django's signals: see them, trust them, act on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from signalbox.api import set_actor, trace
    from signalbox.instrumentation.install import register_signal, start_recording, stop_recording
    from signalbox.outbox.decorator import receiver

_PUBLIC = {
    "configure_model": "signalbox.instrumentation.model_metadata",
    "history": "signalbox.queries.object_history",
    "start_recording": "signalbox.instrumentation.install",
    "receiver": "signalbox.outbox.registry",
    "revert": "signalbox.queries.revert",
    "set_actor": "signalbox.api",
    "trace": "signalbox.api",
    "register_signal": "signalbox.instrumentation.install",
    "stop_recording": "signalbox.instrumentation.install",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: this package is loaded before Django's apps are."""
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'signalbox' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)


__all__ = ["start_recording", "receiver", "set_actor", "trace", "register_signal", "stop_recording"]
