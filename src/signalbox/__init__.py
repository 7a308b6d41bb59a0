"""Record every send of Django's signals, and run receivers after the commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from signalbox.api import set_actor, trace
    from signalbox.core.event import UNKNOWN
    from signalbox.instrumentation.install import register_signal, start_recording, stop_recording
    from signalbox.instrumentation.model_metadata import configure_model
    from signalbox.outbox.decorator import receiver
    from signalbox.outbox.registry import CannotBeDurable
    from signalbox.pipeline.deliveries import DeliveryError
    from signalbox.queries.object_history import ObjectHistory, ObjectState, history
    from signalbox.queries.revert import RevertError, revert
else:
    # Type checkers don't see this branch: a module with __getattr__ has every name for them.
    from importlib import import_module

    _MODULES = {
        "CannotBeDurable": "signalbox.outbox.registry",
        "DeliveryError": "signalbox.pipeline.deliveries",
        "ObjectHistory": "signalbox.queries.object_history",
        "ObjectState": "signalbox.queries.object_history",
        "RevertError": "signalbox.queries.revert",
        "UNKNOWN": "signalbox.core.event",
        "configure_model": "signalbox.instrumentation.model_metadata",
        "history": "signalbox.queries.object_history",
        "receiver": "signalbox.outbox.decorator",
        "register_signal": "signalbox.instrumentation.install",
        "revert": "signalbox.queries.revert",
        "set_actor": "signalbox.api",
        "start_recording": "signalbox.instrumentation.install",
        "stop_recording": "signalbox.instrumentation.install",
        "trace": "signalbox.api",
    }

    def __getattr__(name: str) -> object:
        """Import a public name on first use: Django imports this package before its apps are ready."""
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module 'signalbox' has no attribute {name!r}")
        return getattr(import_module(module), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})


__all__ = [
    "UNKNOWN",
    "CannotBeDurable",
    "DeliveryError",
    "ObjectHistory",
    "ObjectState",
    "RevertError",
    "configure_model",
    "history",
    "receiver",
    "register_signal",
    "revert",
    "set_actor",
    "start_recording",
    "stop_recording",
    "trace",
]
