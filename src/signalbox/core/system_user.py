"""The user of the operating system as an actor, for what is done on the command line."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from signalbox.core import actors

if TYPE_CHECKING:
    from signalbox.core.event import Actor


def get_system_actor() -> Actor:
    """Return the user of the process; its number if it has no name, as in a container."""
    return actors.build_actor("", _get_name())


def _get_name() -> str:
    try:
        import pwd
    except ImportError:  # on Windows
        return getpass.getuser()
    user_id = os.getuid()
    try:
        return pwd.getpwuid(user_id).pw_name  # getpass would first read LOGNAME, which anyone can set
    except KeyError:
        return f"uid {user_id}"
