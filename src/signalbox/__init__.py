"""Record every send of Django's signals, and run receivers after the commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from signalbox.api import set_actor, trace
    from signalbox.core.event import UNKNOWN
    from signalbox.erasure.erase import Erasure, ErasureError, erase
    from signalbox.instrumentation.install import register_signal, start_recording, stop_recording
    from signalbox.instrumentation.model_metadata import configure_model
    from signalbox.outbox.decorator import receiver
    from signalbox.outbox.durable_receiver import CannotBeDurable
    from signalbox.pipeline.delivery_errors import DeliveryError
    from signalbox.pipeline.processors import EventProcessor
    from signalbox.pipeline.standard_processors import Enrich, Sample
    from signalbox.queries.object_history import ObjectHistory, ObjectState, history
    from signalbox.queries.purge import PurgeError, purge
    from signalbox.queries.revert import RevertError, RevertPreview, preview_revert, revert
    from signalbox.queries.revert_preview import FieldRestoration, FieldStatus
else:
    # Type checkers don't see this branch: a module with __getattr__ has every name for them.
    import sys
    from importlib import import_module

    _MODULES = {
        "CannotBeDurable": "signalbox.outbox.durable_receiver",
        "DeliveryError": "signalbox.pipeline.delivery_errors",
        "Enrich": "signalbox.pipeline.standard_processors",
        "Erasure": "signalbox.erasure.erase",
        "ErasureError": "signalbox.erasure.erase",
        "EventProcessor": "signalbox.pipeline.processors",
        "FieldRestoration": "signalbox.queries.revert_preview",
        "FieldStatus": "signalbox.queries.revert_preview",
        "ObjectHistory": "signalbox.queries.object_history",
        "ObjectState": "signalbox.queries.object_history",
        "PurgeError": "signalbox.queries.purge",
        "RevertError": "signalbox.queries.revert",
        "RevertPreview": "signalbox.queries.revert_preview",
        "Sample": "signalbox.pipeline.standard_processors",
        "UNKNOWN": "signalbox.core.event",
        "configure_model": "signalbox.instrumentation.model_metadata",
        "erase": "signalbox.erasure.erase",
        "history": "signalbox.queries.object_history",
        "preview_revert": "signalbox.queries.revert",
        "purge": "signalbox.queries.purge",
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
        """Return the names that can be read: tools such as freezegun read all names of each imported module."""
        django_apps = sys.modules.get("django.apps")
        is_usable = django_apps and django_apps.apps.ready and django_apps.apps.is_installed("signalbox")
        return sorted({*globals(), *(_MODULES if is_usable else ())})


__all__ = [
    "UNKNOWN",
    "CannotBeDurable",
    "DeliveryError",
    "Enrich",
    "Erasure",
    "ErasureError",
    "EventProcessor",
    "FieldRestoration",
    "FieldStatus",
    "ObjectHistory",
    "ObjectState",
    "PurgeError",
    "RevertError",
    "RevertPreview",
    "Sample",
    "configure_model",
    "erase",
    "history",
    "preview_revert",
    "purge",
    "receiver",
    "register_signal",
    "revert",
    "set_actor",
    "start_recording",
    "stop_recording",
    "trace",
]
