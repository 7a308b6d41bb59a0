"""Headers and authentication schemes, and the codes of OAuth providers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from signalbox.serialization.redaction.placeholder import REDACTED

if TYPE_CHECKING:
    from signalbox.serialization.redaction.names import Names

SECRET_HEADER = re.compile(
    r"(?<![\w-])((?:[\w-]{0,40}-|(?ai:http_(?:proxy_)?))?(?ai:set-cookie|cookie|authorization)\s{0,4}:\s{0,8})"
    r"(?![\s\"'\[({])[^\r\n]++"
)
# The answer of an OAuth provider: `?code=abc&state=xyz` (RFC 6749, 4.1.2).
_OAUTH_CODE = re.compile(r"(?<![\w-])(code=)[^\s&;#\"'<>]++")
AUTH_SCHEME = re.compile(
    r"([bB](?<![A-Za-z0-9_][bB])(?ai:earer|asic))\s{1,4}"
    r"(?!(?i:and|auth\w*+|credentials?|error|is|of|or|realm|scheme|tokens?|was|with)\b(?!\.\w))"
    r"([\w.~+/=-]++)"
)


def redact_code(text: str, redactor: Names) -> str:
    """Take out the code of an OAuth provider. Without a state, `code` may mean something else."""
    return _OAUTH_CODE.sub(rf"\1{REDACTED}", text) if "state=" in text else text


def redact_auth_scheme(match: re.Match[str]) -> str:
    """Replace the credentials after `Bearer` or `Basic`. `Basic` before another plain word is not a scheme."""
    value = match[2]
    plain = value.isalpha() and (value.islower() or value.istitle())
    if plain and match[1].lower() == "basic":
        return match[0]
    return match[0][: match.start(2) - match.start()] + REDACTED
