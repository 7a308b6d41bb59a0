"""Decides what is secret, by name, and takes secrets out of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import translate
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final

from signalbox.serialization.redaction.names import NAME_KEYS, VALUE_KEYS, is_secret_name, split_words
from signalbox.serialization.redaction.placeholder import REDACTED
from signalbox.serialization.redaction.shapes import CREDENTIALS, DATA, DATA_IN_JSON, TEXT

_MAX_CACHED_NAMES: Final = 4096
_MAX_NAME_LENGTH: Final = 256

NO_FIELDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType({})


class Redactor:
    """Decides by name whether a value is secret. Immutable. Keep one object: it caches the names.

    A name is split into words (`new_password1`, `clientSecret`, `x-api-key`, `HTTP_COOKIE`, `db.password` alike), and
    words are compared, so that `monkey` does not contain key, nor `author` auth:

    | secret if | why | as in | but not |
    | --- | --- | --- | --- |
    | it has the word otp, pwd, cvv, salt, jwt, signature, … | means nothing else | `cvv2`, `X-Sig` | design, assault |
    | it has a word with password, passwd, csrf, sessid | they are glued to others | `PHPSESSID` | passenger |
    | it has a word that ends in token, secret, cookie | `authtoken` is one, `tokenize` none | `idToken` | secretary |
    | it is pass, pin, pan or session | too common within other names | `pin` | boarding_pass, map_pin |
    | it has two words in a row, or glued: api key, … | key, id, code, number are too common | `apikey` | sort_key |
    | but not if it ends in a fact: at, type, name, count, … | tells about the secret, not it | | password_changed_at |
    | but not if it begins with has, is, max, min, num, total | is a flag or a measure | | has_password, max_tokens |

    `credentials` is secret only as a text (see `should_redact`): Django's `user_login_failed` sends a dict with that
    name, whose other entries name the user.

    Names such as `iban`, `email` or `date_of_birth` are personal data, but not secrets: add them with `extra` to
    redact them.

    `extra`: further secret names. Words (`"iban"`, `"national_id"`) match consecutive words of a name; with
    `*`, `?` or `[` the text is a shell pattern for the whole name in lower case (`"internal_*"`). TypeError for a
    single text instead of several, ValueError for a text without a word in it.

    `fields`: further secret fields of single models, by the model's label in lower case.

    `clear`: fields of single models that a package encrypts and that are not secret, by the model's label.
    """

    placeholder: ClassVar[str] = REDACTED
    """The text that replaces a secret."""

    __slots__ = ("_cache", "_clear", "_extra", "_fields", "_patterns", "_phrases")

    _clear: Mapping[str, frozenset[str]]
    _extra: tuple[str, ...]
    _fields: Mapping[str, frozenset[str]]
    _patterns: tuple[re.Pattern[str], ...]
    _phrases: tuple[str, ...]
    _cache: dict[str, bool]

    def __init__(
        self,
        extra: Iterable[str] = (),
        fields: Mapping[str, frozenset[str]] = NO_FIELDS,
        clear: Mapping[str, frozenset[str]] = NO_FIELDS,
    ) -> None:
        if isinstance(extra, str):
            raise TypeError(f"extra is the text {extra!r}, but several names were expected: write [{extra!r}].")
        extra = tuple(extra)
        patterns: list[re.Pattern[str]] = []
        phrases: list[str] = []
        for name in extra:
            words = split_words(name)
            if not words:
                raise ValueError(f"extra contains {name!r}, which has no word to look for: name it with letters.")
            if any(sign in name for sign in "*?["):
                patterns.append(re.compile(translate(name.lower())))
            else:
                phrases.append(f" {' '.join(words)} ")
        put = object.__setattr__
        put(self, "_extra", extra)
        put(self, "_fields", fields)
        put(self, "_clear", clear)
        put(self, "_patterns", tuple(patterns))
        put(self, "_phrases", tuple(phrases))
        put(self, "_cache", {})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name!r} cannot be set, a Redactor is immutable: make another one.")

    def __repr__(self) -> str:
        return f"Redactor({list(self._extra)!r})"

    def is_secret(self, name: str) -> bool:
        """Return whether a value with this name is secret."""
        verdict = self._cache.get(name)
        return self._classify(name) if verdict is None else verdict

    def is_configured_field(self, label: str, name: str) -> bool:
        """Return whether the field `name` of the model with this label in lower case is one of `fields`."""
        return name in self._fields.get(label, ())

    def is_clear_field(self, label: str, name: str) -> bool:
        """Return whether the field `name` of the model with this label in lower case is one of `clear`."""
        return name in self._clear.get(label, ())

    def should_redact(self, name: str, value: object) -> bool:
        """Return whether this value with this name is secret: `is_secret`, or `credentials` as a text."""
        return self.is_secret(name) or (name.endswith("credentials") and issubclass(type(value), str | bytes))

    def get_secret_value_keys(self, mapping: Mapping[Any, Any]) -> Collection[str]:
        """Return the keys whose values another entry names as secret: `{"setting": "SECRET_KEY", "value": …}`."""
        get: Callable[[str], object] = partial(dict.get, mapping) if isinstance(mapping, dict) else mapping.get
        held = [key for key in VALUE_KEYS if get(key) is not None]
        if held and any(type(name := get(key)) is str and self.is_secret(name) for key in NAME_KEYS):
            return held
        return ()

    def is_secret_flag(self, item: object) -> bool:
        """Return whether this is a secret option whose value comes next in a command line, as `--password`."""
        return type(item) is str and item.startswith("-") and "=" not in item and self.is_secret(item)

    def is_secret_pair(self, pair: Sequence[Any]) -> bool:
        """Return whether this is a pair of a secret name and its value, as an ASGI header: `(b"cookie", b"…")`."""
        if len(pair) != 2:
            return False
        name = pair[0]
        if type(name) is bytes:
            name = name[:_MAX_NAME_LENGTH].decode("latin-1")
        return type(name) is str and self.should_redact(name, pair[1])

    def redact_text(self, text: str) -> str:
        """Return free text without secrets, as the function `redact_text` with this redactor's names."""
        return TEXT.redact(text, self)

    def redact_data(self, text: str) -> str:
        """Return text that is data without the texts that are certainly secrets. There, `token: blue` is a sentence.

        These are the secrets of `redact_credentials`, passwords in addresses, payment cards, and the values of secret
        names if the text itself is JSON.
        """
        return DATA.redact(text, self)

    def is_clean(self, text: str) -> bool:
        """Return True only if `redact_data` changes none of the texts in this JSON text."""
        return not DATA_IN_JSON.may_change(text)

    def _classify(self, name: str) -> bool:
        """Return whether a name that is not in the cache is secret. Long names are cut and not cached."""
        kept = len(name) <= _MAX_NAME_LENGTH
        if not kept:
            name = f"{name[: _MAX_NAME_LENGTH // 2]} {name[-_MAX_NAME_LENGTH // 2 :]}"
        words = split_words(name)
        spaced = f" {' '.join(words)} "
        verdict = (
            is_secret_name(words)
            or any(phrase in spaced for phrase in self._phrases)
            or any(pattern.match(name.lower()) for pattern in self._patterns)
        )
        if kept:
            if len(self._cache) >= _MAX_CACHED_NAMES:
                self._cache.clear()
            self._cache[name] = verdict
        return verdict


DEFAULT_REDACTOR: Final = Redactor()


def redact_credentials(text: str) -> str:
    """Take out credentials that have a known shape: password hashes, JWTs, private keys, tokens."""
    return CREDENTIALS.redact(text, DEFAULT_REDACTOR)


def redact_text(text: str, redactor: Redactor = DEFAULT_REDACTOR) -> str:
    """Take secrets out of free text, such as an exception's.

    These are the credentials of `redact_credentials`, and:

    - texts that are signed with their time, and links that reset a password;
    - passwords in addresses: `postgres://user:[redacted]@host`;
    - values after a secret name: `?token=…`, `password: …`, `"password": "…"`, `--password …`, `('password', '…')`,
      `<password>…</password>`, parts of a form. An unquoted value ends at a blank;
    - `Cookie` and `Authorization` headers, `Bearer …` and `Basic …`;
    - in errors of a database, values of secret columns, whole rows and parts of statements;
    - card numbers: 13 to 19 digits that satisfy Luhn's check and begin as payment cards do.

    Percent-encoded text is searched decoded, and returned decoded if it contains a secret.
    """
    return TEXT.redact(text, redactor)
