"""Which names are those of secrets."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, Protocol

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_SECRET_WORDS: Final = frozenset(
    "authorization bearer ccno ccnum credential cvc cvv dsn hotp jwt mnemonic otp passcode passkey passkeys passphrase"
    " passwords pincode pw pwd salt sig signature ssn totp".split()
)
_SECRET_SUBSTRINGS: Final = ("csrf", "passwd", "password", "sessid", "xsrf")
_SECRET_SUFFIXES: Final = ("cookie", "cookies", "pwd", "secret", "secrets", "token", "tokens")
_SECRET_WHOLE_NAMES: Final = frozenset({"pan", "pass", "pin", "session"})

_KEY_QUALIFIERS: Final = (
    "access activation api auth aws confirmation decryption deploy encryption fernet hmac master pgp private recovery"
    " reset rsa secret server session shared signing ssh verification webhook"
)
_CODE_QUALIFIERS: Final = (
    "access activation auth backup confirmation factor invitation invite login mfa pin recovery reset security sms"
    " verification"
)
_SEPARATED_PHRASES: Final = frozenset(
    {f"{kind} {word}" for kind in ("current", "new", "old") for word in ("pass", "pin")}
    | {f"{kind} {word}" for kind in ("card", "cc") for word in ("no", "num")}
)
"""Phrases that are not secret as one word: goldpass, newpinned, discardnote, accnum."""
SECRET_PHRASES: Final = frozenset(
    {f"{kind} key" for kind in _KEY_QUALIFIERS.split()}
    | {f"{kind} keys" for kind in _KEY_QUALIFIERS.split()}
    | {f"{kind} code" for kind in _CODE_QUALIFIERS.split()}
    | {f"{kind} codes" for kind in _CODE_QUALIFIERS.split()}
    | {f"{kind} hash" for kind in ("auth", "pass", "pin", "pwd")}
    | {f"{kind} pass" for kind in ("admin", "db", "root", "smtp", "user")}
    | {f"{kind} pin" for kind in ("account", "card", "login", "security", "user")}
    | {f"{kind} auth" for kind in ("basic", "http", "proxy", "redis", "smtp")}
    | {"pass phrase", "pass word", "pin number", "code verifier", "recovery phrase", "seed phrase"}
    | {"security answer", "security answers", "card pan"}
    | {"session data", "session id", "session hash"}
    | {"card number", "cc number", "credit card", "debit card", "social security"}
    | _SEPARATED_PHRASES
)
_JOINED_PHRASES: Final = tuple(
    sorted(phrase.replace(" ", "") for phrase in SECRET_PHRASES - _SEPARATED_PHRASES if not phrase.startswith("pin "))
)

_FLAG_PREFIXES: Final = frozenset("has is max min needs num total".split())
_METADATA_SUFFIXES: Final = frozenset(
    "age algorithm at changed consent count created date domain enabled expiration expires expiry httponly length"
    " name on path policy required samesite secure status ttl type updated".split()
)


def split_words(name: str) -> list[str]:
    """Split any style of name into lower-case words; digits only separate: `HTTP_X_apiKey2` -> http, x, api, key."""
    return [word.lower() for word in _WORD.findall(name)]


def is_secret_name(words: list[str]) -> bool:
    """Apply the table of `Redactor` to a name's words."""
    if not words:
        return False
    if len(words) == 1 and words[0] in _SECRET_WHOLE_NAMES:
        return True
    if len(words) > 1 and (words[0] in _FLAG_PREFIXES or words[-1] in _METADATA_SUFFIXES):
        return False
    for word in words:
        if word in _SECRET_WORDS or word.endswith(_SECRET_SUFFIXES) or any(root in word for root in _SECRET_SUBSTRINGS):
            return True
        if any(compound in word for compound in _JOINED_PHRASES):
            return True
    return any(f"{first} {second}" in SECRET_PHRASES for first, second in pairwise(words))


NAME_KEYS: Final = tuple(
    form
    for key in ("name", "setting", "key", "field", "type", "variable", "header")
    for form in (key, key.title(), key.upper())
)
VALUE_KEYS: Final = tuple(
    form for key in ("value", "values", "val", "content", "old", "new") for form in (key, key.title(), key.upper())
)
"""Keys of a mapping whose values are names, and keys of the values with these names, in each letter case."""


class Names(Protocol):
    """The part of a `Redactor` that the search of a text uses."""

    def is_secret(self, name: str, /) -> bool:
        """Return whether a value with this name is secret."""

    def redact_text(self, text: str, /) -> str:
        """Return a text without its secrets."""
