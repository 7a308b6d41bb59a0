"""Decides which errors belong to one group: those with the same fingerprint."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signalbox.core.raised_error import RaisedError


def compute_fingerprint(error: RaisedError) -> str:
    """Return the same 32 hexadecimal digits for errors of one class, place and receiver.

    The place is the file and the function. The line moves with each edit of the file.
    """
    file, function = ("", "") if error.place is None else (error.place.file, error.place.function)
    text = f"{error.exception}\0{file}\0{function}\0{error.receiver}"
    return blake2b(text.encode("utf-8", "replace"), digest_size=16, person=b"signalbox").hexdigest()
