"""The user of the operating system as an actor, for what is done on the command line."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from signalbox.core import tracing

if TYPE_CHECKING:
    from signalbox.core.event import Actor


def get_system_actor() -> Actor:
    """Return the user of the process; ``unknown`` if it has no name."""
    try:
        return tracing.build_actor("", getpass.getuser())
    except (KeyError, OSError, ImportError):  # a container whose user has no name
        return tracing.build_actor("", "unknown")
