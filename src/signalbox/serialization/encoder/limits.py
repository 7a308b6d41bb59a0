"""Limits of an encoded value, and the remarks that replace its omitted parts."""

from __future__ import annotations

from typing import Final, TypeAlias

JSONValue: TypeAlias = "dict[str, JSONValue] | list[JSONValue] | str | int | float | bool | None"

MAX_DEPTH: Final = 6
"""Containers within one another. Deeper ones are omitted."""

MAX_ITEMS: Final = 50
"""Items of one container."""

MAX_TEXT: Final = 2_000
"""Characters of one text, without the remark about the rest."""

MAX_BYTES: Final = 64 * 1024
"""Bytes of the JSON of one value."""

MAX_ERROR: Final = 500
"""Characters of an exception's text, with the remark."""

MAX_KEY_LENGTH: Final = 200
"""Characters of a key, and of the name of a class or a module."""

REDACTION_MARGIN: Final = 256
"""Characters that are redacted beyond a limit, so that the cut does not hide a secret's shape from the redactor."""

INT64_MIN: Final = -(2**63)

INT64_END: Final = 2**63

TOO_DEEP: Final = "… (too deep)"

TOO_LONG: Final = "… (too long)"

CYCLE: Final = "… (cycle)"

ELLIPSIS: Final = "…"
"""The key, and the beginning of the last item, of the remark that counts the omitted items of a container."""
