"""Secrets are taken out of names with values, and out of free text.

Everything here is pure: text or plain containers in, new text or new containers out.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import translate
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import unquote, unquote_plus

REDACTED: Final = "[redacted]"

_MAX_DEPTH: Final = 20
_MAX_CACHED_NAMES: Final = 4096
_MAX_NAME_LENGTH: Final = 256

# --- Names ------------------------------------------------------------------------------------------------------------

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
"""Phrases that mean nothing where they are glued: goldpass, newpinned, discardnote, accnum."""
_SECRET_PHRASES: Final = frozenset(
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
    sorted(phrase.replace(" ", "") for phrase in _SECRET_PHRASES - _SEPARATED_PHRASES if not phrase.startswith("pin "))
)

_FLAG_PREFIXES: Final = frozenset("has is max min needs num total".split())
_METADATA_SUFFIXES: Final = frozenset(
    "age algorithm at changed consent count created date domain enabled expiration expires expiry httponly length"
    " name on path policy required samesite secure status ttl type updated".split()
)


def _split_words(name: str) -> list[str]:
    """Split any style of name into lower-case words; digits only separate: `HTTP_X_apiKey2` -> http, x, api, key."""
    return [word.lower() for word in _WORD.findall(name)]


def _is_secret_name(words: list[str]) -> bool:
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
    return any(f"{first} {second}" in _SECRET_PHRASES for first, second in pairwise(words))


_NAME_KEYS: Final = tuple(
    form
    for key in ("name", "setting", "key", "field", "type", "variable", "header")
    for form in (key, key.title(), key.upper())
)
_VALUE_KEYS: Final = tuple(
    form for key in ("value", "values", "val", "content", "old", "new") for form in (key, key.title(), key.upper())
)
"""Entries of a mapping that name what others hold, and those others, in the ways that they are written."""

NO_FIELDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType({})


class Redactor:
    """Decides by name whether a value is secret. Immutable; make one and keep it, it remembers the names it has seen.

    A name is split into words (`new_password1`, `clientSecret`, `x-api-key`, `HTTP_COOKIE`, `db.password` alike), and
    words are compared, so that `monkey` has no key in it and `author` no auth:

    | secret if | why | as in | but not |
    | --- | --- | --- | --- |
    | it has the word otp, pwd, cvv, salt, jwt, signature, … | means nothing else | `cvv2`, `X-Sig` | design, assault |
    | it has a word with password, passwd, csrf, sessid | they are glued to others | `PHPSESSID` | passenger |
    | it has a word that ends in token, secret, cookie | `authtoken` is one, `tokenize` none | `idToken` | secretary |
    | it is pass, pin, pan or session | too common within other names | `pin` | boarding_pass, map_pin |
    | it has two words in a row, or glued: api key, … | key, id, code, number alone say nothing | `apikey` | sort_key |
    | but not if it ends in a fact: at, type, name, count, … | tells about the secret, not it | | password_changed_at |
    | but not if it begins with has, is, max, min, num, total | is a flag or a measure | | has_password, max_tokens |

    `credentials` is secret as a text only (see `hides`): Django's `user_login_failed` sends a dict of that name, whose
    other entries tell who failed.

    Names such as `iban`, `email` or `date_of_birth` are personal, but open no door: add them with `extra` where they
    aren't wanted.

    `extra`: further secret names. Words (`"iban"`, `"national_id"`) match wherever they stand in a row in a name; with
    `*`, `?` or `[` the text is a shell pattern for the whole name in lower case (`"internal_*"`). TypeError for a
    single text instead of several, ValueError for a text without a word in it.

    `fields`: fields of single models that are secret whatever they are called, by the model's label in lower case.
    """

    placeholder: ClassVar[str] = REDACTED
    """What stands where a secret was."""

    __slots__ = ("_cache", "_extra", "_fields", "_patterns", "_phrases")

    _extra: tuple[str, ...]
    _fields: Mapping[str, frozenset[str]]
    _patterns: tuple[re.Pattern[str], ...]
    _phrases: tuple[str, ...]
    _cache: dict[str, bool]

    def __init__(self, extra: Iterable[str] = (), fields: Mapping[str, frozenset[str]] = NO_FIELDS) -> None:
        if isinstance(extra, str):
            raise TypeError(f"extra is the text {extra!r}, but several names were expected: write [{extra!r}].")
        extra = tuple(extra)
        patterns: list[re.Pattern[str]] = []
        phrases: list[str] = []
        for name in extra:
            words = _split_words(name)
            if not words:
                raise ValueError(f"extra contains {name!r}, which has no word to look for: name it with letters.")
            if any(sign in name for sign in "*?["):
                patterns.append(re.compile(translate(name.lower())))
            else:
                phrases.append(f" {' '.join(words)} ")
        put = object.__setattr__
        put(self, "_extra", extra)
        put(self, "_fields", fields)
        put(self, "_patterns", tuple(patterns))
        put(self, "_phrases", tuple(phrases))
        put(self, "_cache", {})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name!r} cannot be set, a Redactor is immutable: make another one.")

    def __repr__(self) -> str:
        return f"Redactor({list(self._extra)!r})"

    def is_secret(self, name: str) -> bool:
        """Whether a value under this name must not be shown."""
        verdict = self._cache.get(name)
        return self._classify(name) if verdict is None else verdict

    def is_configured_field(self, label: str, name: str) -> bool:
        """Whether the field `name` of the model with this label in lower case is one of `fields`."""
        return name in self._fields.get(label, ())

    def should_redact(self, name: str, value: object) -> bool:
        """Whether this value must not be shown under this name: `is_secret`, or `credentials` that are no container."""
        return self.is_secret(name) or (name.endswith("credentials") and issubclass(type(value), str | bytes))

    def get_secret_value_keys(self, mapping: Mapping[Any, Any]) -> Collection[str]:
        """The keys whose values are secret as another entry says so: `{"setting": "SECRET_KEY", "value": …}`."""
        get: Callable[[str], object] = partial(dict.get, mapping) if isinstance(mapping, dict) else mapping.get
        held = [key for key in _VALUE_KEYS if get(key) is not None]
        if held and any(type(name := get(key)) is str and self.is_secret(name) for key in _NAME_KEYS):
            return held
        return ()

    def is_secret_flag(self, item: object) -> bool:
        """Whether this is an option whose value comes next in a command line, as `--password` is."""
        return type(item) is str and item.startswith("-") and "=" not in item and self.is_secret(item)

    def is_secret_pair(self, pair: Sequence[Any]) -> bool:
        """Whether this is a pair of a secret's name and its value, as an ASGI header is: `(b"cookie", b"…")`."""
        if len(pair) != 2:
            return False
        name = pair[0]
        if type(name) is bytes:
            name = name[:_MAX_NAME_LENGTH].decode("latin-1")
        return type(name) is str and self.should_redact(name, pair[1])

    def redact_text(self, text: str) -> str:
        """`redact_text` with this redactor's names."""
        return redact_text(text, self)

    def redact_data(self, text: str) -> str:
        """For text that is data, which is to be exact, and where `token: blue` is a sentence: take out only what is
        surely a secret. That is `redact_credentials`, passwords in addresses, payment cards, and the values of secret
        names where the text itself is JSON."""
        return _DATA.redact(text, self)

    def is_clean(self, text: str) -> bool:
        """Whether this JSON text surely holds nothing that `data` takes out of the texts in it."""
        return not _DATA_IN_JSON.may_change(text)

    def _classify(self, name: str) -> bool:
        """The verdict on a name not seen before; a name of foreign length is neither kept nor read to its end."""
        kept = len(name) <= _MAX_NAME_LENGTH
        if not kept:
            name = f"{name[: _MAX_NAME_LENGTH // 2]} {name[-_MAX_NAME_LENGTH // 2 :]}"
        words = _split_words(name)
        spaced = f" {' '.join(words)} "
        verdict = (
            _is_secret_name(words)
            or any(phrase in spaced for phrase in self._phrases)
            or any(pattern.match(name.lower()) for pattern in self._patterns)
        )
        if kept:
            if len(self._cache) >= _MAX_CACHED_NAMES:
                self._cache.clear()
            self._cache[name] = verdict
        return verdict


_DEFAULT_REDACTOR: Final = Redactor()

# --- Free text --------------------------------------------------------------------------------------------------------
# Every repetition below is possessive or has an upper bound, so that a hostile text costs linear time. Where possible a
# pattern begins with a character, and looks behind it afterwards: the regular expression engine finds a character
# several times faster than it tries a pattern at each position.

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
# Base64 of `{"`: the head of a JWT, and of what django.core.signing makes (parts joined by colons).
_SIGNED_TOKEN = re.compile(r"eyJ(?<![\w-]eyJ)[\w-]{12,}+(?:[.:][\w-]*+)*+")
# What django.core.signing signs with the time: a value, the time in base 62 (from 1999 to 2086), a signature.
_TIME = r":[1-3][0-9A-Za-z]{5}:[\w-]{16}"
_TIMESTAMPED_TOKEN = re.compile(rf"(?<![\w.@+=-])[\w.@+=-]++{_TIME}[\w-]*+")
_PASSWORD_HASH = re.compile(
    r"(?<![\w$])(?:"
    r"(?:pbkdf2_\w{1,20}|argon2\w{0,4}|bcrypt\w{0,20}|scrypt|unsalted_\w{1,10}|md5|sha1|crypt)\$"
    r"|\$(?:2[abxy]?|[1567y]|argon2\w{0,4}|scrypt|pbkdf2[\w-]{0,20})\$"
    r")[^\s\"'<>]{8,}+"
)

_USERINFO_OF = (  # with the longest length of each of its two parts
    r"(://[^\s:/?#@\"'<>]{{0,{0}}}+:)(?![0-9]{{1,5}}(?:[/?#\s\"'<>]|\Z))[^\s\"'<>]{{1,{0}}}@"
)
_USERINFO = re.compile(_USERINFO_OF.format(256))
_RESET_LINK = re.compile(r"/[0-9a-z]{6,7}-[0-9a-f]{32,64}(?![\w-])")

# What databases say: PostgreSQL `Key (token)=(abc) already exists.`, MySQL `Duplicate entry 'abc' for key 't.token'`.
_FAILING_ROW = re.compile(r"(Failing row contains \().*", re.IGNORECASE | re.ASCII)
_DETAIL_KEY = re.compile(
    r"(Key \(([^()\n]{1,200})\)=\()([^\n]{0,1000}?)(?=\)(?: (?:already|is|conflicts)\b|\.?$))", re.MULTILINE
)
_DUPLICATE_ENTRY = re.compile(r"(Duplicate entry ')([^\n]{0,1000}?)(?=' for key '([^'\n]{1,200})')")
# And PostgreSQL `LINE 1: SELECT 'abc'`, `DETAIL:  Token "abc" is invalid.`, `invalid input syntax for type integer:
# "abc"`, MySQL `Incorrect integer value: 'abc'`, `syntax to use near 'abc'`.
_STATEMENT_EXCERPT = re.compile(r"^(LINE \d{1,6}: |CONTEXT:  JSON data, line \d{1,6}: )[^\n]++", re.MULTILINE)
_DETAIL = re.compile(r"^DETAIL:[^\n]++", re.MULTILINE)
_QUOTED = re.compile(r"(?<!table )(?<!column )(?<!relation )(?<!constraint )\"[^\"\n]*+\"?")
_INVALID_INPUT = re.compile(
    r"(\b[Ii]nvalid (?:input|hexadecimal|byte|symbol) [^\"'\n:]{0,80}+: |\b[Ii]ncorrect [A-Za-z]{1,20} value: "
    r"|\bto use near )([\"'])(?:(?!\2).)*+(\2?)",
    re.DOTALL,
)

_SECRET_HEADER = re.compile(
    r"(?<![\w-])((?:[\w-]{0,40}-|(?ai:http_(?:proxy_)?))?(?ai:set-cookie|cookie|authorization)\s{0,4}:\s{0,8})"
    r"(?![\s\"'\[({])[^\r\n]++"
)
# A name is read backwards from its separator, with the word before it: that spares every word that is no name.
_EQUALS = re.compile(r"=>?\s{0,8}")  # two patterns: one character is found much faster than one of two
_COLON = re.compile(r":>?\s{0,8}")
_REVERSED_NAME = re.compile(r"\s{0,8}\]?([\"']\\?)?([\w.-]{1,80}+)(?: ([\w.-]{1,40}+))?")
# A pair, or an option in a list of arguments: `('password', 'abc')`, `['mysql', '--password', 'abc']`.
_QUOTED_PAIR = re.compile(r"([\[(]\s{0,8}[bB]?)?([\"'])(-{0,2}+)([\w.-]{1,80}+)\2,\s{0,8}(?:[bB](?=[\"']))?")
# `{"name": "DB_PASSWORD", "value": "abc"}`
_NAMED_VALUE = re.compile(
    rf"([\"'])(?:{'|'.join(_NAME_KEYS)})\1\s{{0,8}}:\s{{0,8}}([\"'])([\w.-]{{1,80}}+)\2,"
    rf"\s{{0,8}}([\"'])(?:{'|'.join(_VALUE_KEYS)})\4\s{{0,8}}:\s{{0,8}}"
)
_XML_START_TAG = re.compile(r"<([\w.:-]{1,80}+)(?:\s[^<>]{0,200}+)?+>")
_MAX_ELEMENT_LENGTH: Final = 4096
# The head of one part of a form's body (RFC 7578), up to its value.
_MULTIPART_HEADER = re.compile(
    r"\bname=\"([^\"\r\n]{1,80}+)\"[^\r\n]{0,200}+(?:\r?\n[^\r\n]{1,200}+){0,8}+\r?\n(?=\r?\n)"
)
# What an OAuth provider sends back with the visitor: `?code=abc&state=xyz` (RFC 6749, 4.1.2).
_OAUTH_CODE = re.compile(r"(?<![\w-])(code=)[^\s&;#\"'<>]++")
_UNQUOTED_RUN = re.compile(r"[^\s\"'<>]++")
_MAX_DECODE_PASSES: Final = 8
_CLI_OPTION = re.compile(r"--(?<!\S--)([\w-]{1,80}+)\s{1,8}(?!-)")
_VALUE = re.compile(
    r"(?P<escaped>\\[\"'])(?:[^\\]|\\(?![\"']))*+(?:\\[\"'])?"
    r"|[bBrRuUfF]{0,2}(?P<quote>[\"'])(?:(?!(?P=quote))[^\\]|\\.)*+(?:(?P=quote))?"
    r"|[\[({][^\])}]*+[\])}]?"
    r"|(?:(?i:basic|bearer|digest|negotiate|token)\s{1,8})?"
    r"(?:[^\s&<>,;)}\]\"']|[,;)}\]\"'](?=[^\s&<>,;)}\]\"'])(?![\w.-]{1,80}=))++",
    re.DOTALL,
)
_BRACKET_OR_STRING = re.compile(
    r"\\.|[\[({]|[\])}]|(?<![a-zA-Z]{2})'(?:[^'\\]|\\.)*+'?|\"(?:[^\"\\]|\\.)*+\"?", re.DOTALL
)
_PHRASE_LAST_WORDS: Final = frozenset(phrase.rpartition(" ")[2] for phrase in _SECRET_PHRASES)

_AUTH_SCHEME = re.compile(
    r"([bB](?<!\w[bB])(?ai:earer|asic))\s{1,4}"
    r"(?!(?i:and|auth\w*+|credentials?|error|is|of|or|realm|scheme|tokens?|was|with)\b(?!\.\w))"
    r"([\w.~+/=-]++)"
)
_SHORTEST_NUMBER: Final = 13
_DIGIT_RUN = re.compile(r"[0-9](?<![\w.][0-9])(?:[ -]?[0-9]){12,}+(?!\w)")
# In data a number may be another's: only the lengths and beginnings that cards have, in the groups that cards have.
_MIN_CARD_DIGITS: Final = 14
_PAYMENT_CARD = re.compile(
    r"[0-9](?<![\w.,-][0-9])"
    r"(?:[0-9]{13,18}|[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{2,7}|[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![\w-]|[.,][0-9])"
)
_CARD_BRANDS = re.compile(
    r"4(?:[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}"
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|62[0-9]{14,17}"
)


def redact_credentials(text: str) -> str:
    """Take out what shows by its own shape that it is a credential: password hashes, JWTs, private keys."""
    return _CREDENTIALS.redact(text, _DEFAULT_REDACTOR)


def redact_text(text: str, redactor: Redactor = _DEFAULT_REDACTOR) -> str:
    """Take secrets out of free text, such as an exception's.

    Beyond `redact_credentials`: what is signed with its time, passwords in addresses
    (`postgres://user:[redacted]@host`), links that reset a password, values after a secret name (`?token=…`,
    `password: …`, `"password": "…"`, `--password …`, `('password', '…')`, `<password>…</password>`, a form's parts),
    `Cookie` and `Authorization` headers, `Bearer …` and `Basic …`, the values in a database's complaint about a secret
    column or a whole row, what of a statement it repeats, and card numbers (13 to 19 digits that satisfy Luhn's check
    and begin as payment cards do). What is percent-encoded is looked at decoded, and told so if it holds a secret.
    An unquoted value ends at a blank: of `password: two words` the first is taken out.
    """
    return _TEXT.redact(text, redactor)


def redact_query(query: str, redactor: Redactor = _DEFAULT_REDACTOR) -> str:
    """Replace the secret values of a query string without its `?`; names and order stay, as do the other values."""
    oauth = "state=" in query
    return re.sub(r"[^&;]++", lambda pair: _redact_query_pair(pair[0], redactor, oauth), query)


def redact_path(path: str, redactor: Redactor = _DEFAULT_REDACTOR) -> str:
    """Take secrets out of an address's path with its query and fragment, where it has them."""
    path, mark, fragment = path.partition("#")
    path, question, query = path.partition("?")
    return (
        redact_text(path, redactor) + question + redact_query(query, redactor) + mark + redact_query(fragment, redactor)
    )


def redact(value: Any, redactor: Redactor) -> Any:
    """Copy plain containers without their secrets: mappings by key, pairs by their first half, texts by `redact_text`.

    Mappings become dicts, sequences lists or tuples, sets stay sets. Anything else is handed back as it is, for only an
    encoder may look into it; a lazy object isn't woken. What lies deeper than 20 containers, or contains itself, is
    taken out unseen.
    """
    return _redact(value, redactor, ())


def _redact(value: Any, redactor: Redactor, ancestors: tuple[int, ...]) -> Any:
    kind = type(value)
    if issubclass(kind, str):
        return redact_text(str(value), redactor)
    if issubclass(kind, bytes):
        text = value.decode("latin-1")
        clean = redact_text(text, redactor)
        return value if clean == text else clean.encode("latin-1")
    if not issubclass(kind, Mapping | Sequence | AbstractSet) or issubclass(kind, range | bytearray | memoryview):
        return value
    if id(value) in ancestors or len(ancestors) >= _MAX_DEPTH:
        return REDACTED
    ancestors = (*ancestors, id(value))
    if issubclass(kind, Mapping):
        named = redactor.get_secret_value_keys(value)
        return {
            redact_text(key, redactor) if type(key) is str else key: REDACTED
            if redactor.should_redact(str(key), item) or key in named
            else _redact(item, redactor, ancestors)
            for key, item in value.items()
        }
    if issubclass(kind, AbstractSet):
        made = frozenset if issubclass(kind, frozenset) else set
        return made(_redact(item, redactor, ancestors) for item in value)
    if issubclass(kind, tuple) and redactor.is_secret_pair(value):
        return (_redact(value[0], redactor, ancestors), REDACTED)
    items: list[Any] = []
    secret = False
    for item in value:
        if secret:
            items.append(REDACTED)
        elif type(item) is list and redactor.is_secret_pair(item):
            items.append([_redact(item[0], redactor, ancestors), REDACTED])
        else:
            items.append(_redact(item, redactor, ancestors))
        secret = not secret and redactor.is_secret_flag(item)
    return tuple(items) if issubclass(kind, tuple) else items


# --- How each shape is taken out


def _redact_named(text: str, redactor: Redactor) -> str:
    """Take out what follows a secret name and `=` or `:`."""
    return _redact_values(text, _separators(text), lambda match: _find_secret_name(text, match.start(), redactor))


def _separators(text: str) -> Iterator[re.Match[str]]:
    """Return the matches of both separators in the order of the text."""
    if "=" not in text:
        return _COLON.finditer(text)
    return iter(sorted([*_EQUALS.finditer(text), *_COLON.finditer(text)], key=re.Match.start))


def _redact_json(text: str, redactor: Redactor) -> str:
    """Take out the values of secret names where the text itself is JSON."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    return _redact_values(
        text, _separators(text), lambda match: _find_secret_name(text, match.start(), redactor) or None
    )


def _redact_pairs(text: str, redactor: Redactor) -> str:
    """Take out what is in quotation marks after a secret name in quotation marks."""
    text = _redact_values(
        text, _QUOTED_PAIR.finditer(text), lambda match: "" if _is_secret_pair(match, redactor) else None
    )
    return _redact_values(text, _NAMED_VALUE.finditer(text), lambda match: "" if redactor.is_secret(match[3]) else None)


def _is_secret_pair(match: re.Match[str], redactor: Redactor) -> bool:
    """Whether this is the first of a pair, or an option, with a secret name."""
    return bool(match[1] or match[3]) and redactor.is_secret(match[4])


def _redact_options(text: str, redactor: Redactor) -> str:
    """Take out the word after a secret option of a command line."""
    return _redact_values(text, _CLI_OPTION.finditer(text), lambda match: "" if redactor.is_secret(match[1]) else None)


def _redact_code(text: str, redactor: Redactor) -> str:
    """Take out the code of an OAuth provider; without a state `code` may be any."""
    return _OAUTH_CODE.sub(rf"\1{REDACTED}", text) if "state=" in text else text


def _redact_excerpts(text: str, redactor: Redactor) -> str:
    """Take out what PostgreSQL repeats of a statement, which its message has on further lines."""
    return _STATEMENT_EXCERPT.sub(rf"\1{REDACTED}", text) if "\n" in text else text


def _redact_details(text: str, redactor: Redactor) -> str:
    """Take out what PostgreSQL quotes in the details of a message, on further lines."""
    return _DETAIL.sub(lambda detail: _QUOTED.sub(f'"{REDACTED}"', detail[0]), text) if "\n" in text else text


def _replace_spans(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a mark in the place of each span; what overlaps the one before is left alone."""
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        if done <= start < end:
            pieces += text[done:start], REDACTED
            done = end
    return "".join([*pieces, text[done:]])


def _find_secret_elements(text: str, redactor: Redactor) -> Iterator[tuple[int, int]]:
    """What stands between the tags of a secret name, `<password>…</password>`."""
    for tag in _XML_START_TAG.finditer(text):
        if redactor.is_secret(tag[1]):
            yield tag.end(), text.find(f"</{tag[1]}", tag.end(), tag.end() + _MAX_ELEMENT_LENGTH)


def _find_secret_parts(text: str, redactor: Redactor) -> Iterator[tuple[int, int]]:
    """The values of a form's body that have a secret name, up to the next boundary."""
    end = 0
    for head in _MULTIPART_HEADER.finditer(text):
        if head.start() >= end and redactor.is_secret(head[1]):
            end = text.find("\n--", head.end())
            end = len(text) if end < 0 else end
            yield head.end() + (2 if text.startswith("\r", head.end()) else 1), end


def _percent_decode(text: str) -> str | None:
    """The text without its percent-encoding, however often it was encoded; None if it never ends."""
    for _ in range(_MAX_DECODE_PASSES):
        if "%" not in text:
            return text
        decoded = unquote(text)
        if decoded == text:
            return text
        text = decoded
    return None


def _redact_decoded(run: str, redactor: Redactor) -> str:
    """A run of letters as it is, but decoded and without its secrets where only decoding shows them."""
    plain = _percent_decode(run) if "%" in run else run
    if plain == run:
        return run
    clean = REDACTED if plain is None else redact_text(plain, redactor)
    return run if clean == plain else clean


def _redact_values(text: str, prefix: Iterable[re.Match[str]], get_quote: Callable[[re.Match[str]], str | None]) -> str:
    """Replace the value after each match of ``prefix``, unless ``get_quote`` returns None for the match.

    ``get_quote`` returns the quotation mark of the replacement, or an empty string for none.
    """
    pieces: list[str] = []
    done = 0
    for lead in prefix:
        if lead.start() < done or (quote := get_quote(lead)) is None:
            continue
        value = _VALUE.match(text, lead.end())
        if value is None:
            continue
        quote = value["escaped"] or value["quote"] or quote
        pieces += text[done : lead.end()], quote, REDACTED, quote
        done = _find_closing_bracket(text, value.start()) if text[value.start()] in "[({" else value.end()
    return "".join([*pieces, text[done:]]) if pieces else text


def _find_closing_bracket(text: str, start: int) -> int:
    """Index after the bracket that closes the one here, the text's end if none does; quoted ones don't count."""
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(text, start):
        depth += (found[0] in "[({") - (found[0] in "])}")
        if depth == 0:
            return found.end()
    return len(text)


def _find_secret_name(text: str, end: int, redactor: Redactor) -> str | None:
    """The quotation mark of the secret name that ends here ("" for none), None where no secret name does."""
    match = _REVERSED_NAME.match(text[max(0, end - 140) : end][::-1])
    if match is None:
        return None
    name = match[2][::-1]
    if not redactor.is_secret(name):
        if match[3] is None or name.lower() not in _PHRASE_LAST_WORDS or match[1]:
            return None
        if not redactor.is_secret(f"{match[3][::-1]} {name}"):
            return None
    return (match[1] or "")[::-1]


def _redact_query_pair(pair: str, redactor: Redactor, oauth: bool) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return redact_text(pair, redactor)
    names, plain = _percent_decode(unquote_plus(name)), _percent_decode(unquote_plus(value))
    if names is None or plain is None or redactor.is_secret(names) or (oauth and names == "code"):
        return f"{name}={REDACTED}"
    return pair if redact_text(plain, redactor) == plain else f"{name}={REDACTED}"


def _redact_database_error(match: re.Match[str], names: str, redactor: Redactor) -> str:
    """The database's sentence up to its value, and the value if none of the columns is secret."""
    return match[0] if not redactor.is_secret(names) else match[1] + REDACTED


def _redact_auth_scheme(match: re.Match[str]) -> str:
    """`Bearer` or `Basic` without what follows; but `Basic` is also a plain word, before other plain words."""
    value = match[2]
    plain = value.isalpha() and (value.islower() or value.istitle())
    if plain and match[1].lower() == "basic":
        return match[0]
    return match[0][: match.start(2) - match.start()] + REDACTED


def _redact_cards(match: re.Match[str]) -> str:
    """Replace the card numbers in a run of digit groups."""
    parts = re.split(r"([ -])", match[0])
    out: list[str] = []
    start = 0
    while start < len(parts):
        end = _find_card_end(parts, start)
        out.append(REDACTED if end else parts[start])
        start = end or start + 1
    return "".join(out)


def _find_card_end(parts: Sequence[str], start: int) -> int:
    """Index after the card number that begins at this group, 0 if none does; only its last group may be short."""
    digits = ""
    for index in range(start, len(parts), 2):
        digits += parts[index]
        if len(digits) > 19 or not digits.isdigit():
            return 0
        if len(digits) >= 13 and _is_card(digits):
            return index + 1
        if len(parts[index]) < 4:
            return 0
    return 0


def _redact_payment_card(match: re.Match[str]) -> str:
    """Replace a number that is a payment card's by its beginning, its length and its check."""
    digits = re.sub(r"[ -]", "", match[0])
    return REDACTED if _CARD_BRANDS.fullmatch(digits) and _passes_luhn(digits) else match[0]


def _is_card(digits: str) -> bool:
    """Luhn's check on numbers that begin with 3 to 6, or with Mastercard's 2221 to 2720 (ISO/IEC 7812)."""
    if digits[0] not in "3456" and not (len(digits) == 16 and "2221" <= digits[:4] <= "2720"):
        return False
    return _passes_luhn(digits)


def _passes_luhn(digits: str) -> bool:
    """Whether the digits satisfy Luhn's check."""
    total = sum(map(int, digits[-1::-2]))
    return (total + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])) % 10 == 0


# --- The table of shapes ----------------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """One shape that secrets have in a text: what shows that it may be there, and what takes it out."""

    signs: Sequence[str | tuple[str, ...]]
    """Every text with the shape has all of these, in upper or lower case; of a tuple it has one."""
    take_out: Callable[[str, Redactor], str]
    """Return the text without the secrets of this shape, or the text itself."""
    probe: Callable[[str], object] | None = None
    """True of every text with the shape. For shapes whose signs are frequent."""
    json_probe: Callable[[str], object] | None = None
    """True of JSON that has such a text in it. None: `probe` is."""


def _replace(pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str]) -> Callable[[str, Redactor], str]:
    """Return a `take_out` that asks no redactor."""
    return lambda text, redactor: pattern.sub(by, text)


def _ask(pattern: re.Pattern[str], by: Callable[[re.Match[str], Redactor], str]) -> Callable[[str, Redactor], str]:
    """Return a `take_out` that asks the redactor about each match."""
    return lambda text, redactor: pattern.sub(lambda match: by(match, redactor), text)


_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")


def _has_digits(number: int) -> Callable[[str], bool]:
    """Return a probe for a number of digits in a row, with blanks and dashes between them or without."""
    row = b"0" * number
    return lambda text: (
        len(text) >= number and row in text.encode("utf-8", "surrogatepass").translate(_DIGITS_TO_ZERO, b" -")
    )


_CREDENTIAL_SHAPES: Final = (
    _Shape(["$"], _replace(_PASSWORD_HASH, REDACTED), re.compile(r"\$[^\s\"'<>]{8}").search),
    _Shape(["eyJ"], _replace(_SIGNED_TOKEN, REDACTED)),
    _Shape(["-----BEGIN"], _replace(_PRIVATE_KEY, REDACTED)),
)
_ADDRESS_SHAPE: Final = _Shape(
    ["@", "://"],
    _replace(_USERINFO, rf"\1{REDACTED}@"),
    _USERINFO.search,
    re.compile(_USERINFO_OF.format(6 * 256)).search,  # a character takes up to six in JSON
)
_CARD_STARTS: Final = tuple("45362")
_DATA_SHAPES: Final = (
    *_CREDENTIAL_SHAPES,
    _ADDRESS_SHAPE,
    _Shape([_CARD_STARTS], _replace(_PAYMENT_CARD, _redact_payment_card), _has_digits(_MIN_CARD_DIGITS)),
    _Shape(['":'], _redact_json),
)
_TEXT_SHAPES: Final = (
    *_CREDENTIAL_SHAPES,
    _ADDRESS_SHAPE,
    _Shape(
        [")=(", "Key ("], _ask(_DETAIL_KEY, lambda match, redactor: _redact_database_error(match, match[2], redactor))
    ),
    _Shape(["code=", "state="], _redact_code),
    _Shape([":"], _replace(_TIMESTAMPED_TOKEN, REDACTED), re.compile(_TIME).search),
    _Shape([":", ("cookie", "authorization")], _replace(_SECRET_HEADER, rf"\1{REDACTED}")),
    _Shape([("=", ":")], _redact_named),
    _Shape([("',", '",')], _redact_pairs),
    _Shape([("'", '"'), ("nvalid ", "ncorrect ", "to use near ")], _replace(_INVALID_INPUT, rf"\1\2{REDACTED}\3")),
    _Shape(["\n", ("LINE ", "CONTEXT:")], _redact_excerpts),
    _Shape(["\n", "DETAIL:"], _redact_details),
    _Shape(['name="', "\n"], lambda text, redactor: _replace_spans(text, _find_secret_parts(text, redactor))),
    _Shape(["</"], lambda text, redactor: _replace_spans(text, _find_secret_elements(text, redactor))),
    _Shape(["--"], _redact_options),
    _Shape([("basic", "bearer")], _replace(_AUTH_SCHEME, _redact_auth_scheme)),
    _Shape(["/", "-"], _replace(_RESET_LINK, "/" + REDACTED)),
    _Shape(["Failing row contains ("], _replace(_FAILING_ROW, rf"\1{REDACTED})")),
    _Shape(
        ["Duplicate entry '"],
        _ask(_DUPLICATE_ENTRY, lambda match, redactor: _redact_database_error(match, match[3], redactor)),
    ),
    _Shape([_CARD_STARTS], _replace(_DIGIT_RUN, _redact_cards), _has_digits(_SHORTEST_NUMBER)),
    _Shape(
        ["%"],
        _ask(_UNQUOTED_RUN, lambda run, redactor: _redact_decoded(run[0], redactor)),
        re.compile("%[0-9A-Fa-f]{2}").search,
    ),
)

_FREQUENT_CHARS: Final = string.ascii_lowercase + " "
_SIGN_CHARS: Final = {
    *string.digits,
    *(char for shape in _TEXT_SHAPES for sign in shape.signs for char in "".join(sign) if not char.isalpha()),
} - {" "}
_OTHER_CHARS: Final = bytes(code for code in range(256) if chr(code) not in _SIGN_CHARS)


def _sign_chars(text: str) -> frozenset[int]:
    """Return the codes of the characters in the text that signs have beside letters and blanks; 0 is every digit's."""
    return frozenset(text.encode("utf-8", "surrogatepass").translate(_DIGITS_TO_ZERO, _OTHER_CHARS))


class _Look(NamedTuple):
    """How a shape is looked for."""

    rare: str
    """A character that every text with the shape has, and ordinary text seldom; or nothing."""
    signs: tuple[tuple[str, ...], ...]
    """Every text with the shape has one of each tuple."""
    probe: Callable[[str], object] | None
    take_out: Callable[[str, Redactor], str]


class _Search:
    """Takes several shapes out, in their order: a later one reads what an earlier one has left.

    Most texts have the signs of no shape, or of few, and signs are found much faster than patterns.
    """

    __slots__ = ("_looks", "_many", "_selected", "shapes")

    def __init__(self, shapes: Iterable[_Shape], *, in_json: bool = False, many: bool = False) -> None:
        """`in_json`: look for signs in JSON that has the text in it.

        `many`: find signs in upper and lower case, and first select the shapes that the characters of the text allow,
        which is faster for many shapes and slower for few.
        """

        def look(shape: _Shape) -> _Look:
            signs = [(sign,) if isinstance(sign, str) else sign for sign in shape.signs]
            if in_json:
                signs = [tuple(json.dumps(sign)[1:-1] for sign in one_of) for one_of in signs]
            if many:
                signs = [tuple(sign.lower() for sign in one_of) for one_of in signs]
            needed = "".join(one_of[0] for one_of in signs if len(one_of) == 1)
            rare = next((char for char in needed if char not in _FREQUENT_CHARS), "")
            probe = shape.json_probe or shape.probe if in_json else shape.probe
            return _Look(rare, tuple(one_of for one_of in signs if one_of != (rare,)), probe, shape.take_out)

        self.shapes = tuple(shapes)
        self._many = many
        self._looks = tuple(map(look, self.shapes))
        self._selected: dict[frozenset[int], tuple[_Look, ...]] = {}

    def redact(self, text: str, redactor: Redactor) -> str:
        """Return the text without the secrets of these shapes."""
        looks, where = (self._select(text), text.lower()) if self._many else (self._looks, text)
        for rare, signs, probe, take_out in looks:
            if (
                rare in where
                and _has(where, signs)
                and (probe is None or probe(text))
                and (clean := take_out(text, redactor)) != text
            ):
                text = clean  # the mark adds no character of a sign, so the selection still holds
                where = text.lower() if self._many else text
        return text

    def may_change(self, text: str) -> bool:
        """Whether the text, or JSON, has the signs of one of these shapes. If not, `redact` changes nothing."""
        looks, where = (self._select(text), text.lower()) if self._many else (self._looks, text)
        for rare, signs, probe, _ in looks:
            if rare in where and _has(where, signs) and (probe is None or probe(text)):
                return True
        return False

    def _select(self, text: str) -> tuple[_Look, ...]:
        """Return the shapes whose signs can be made of the characters of the text."""
        chars = _sign_chars(text)
        looks = self._selected.get(chars)
        if looks is None:
            looks = tuple(
                look
                for look in self._looks
                if chars >= _sign_chars(look.rare)
                and all(any(chars >= _sign_chars(sign) for sign in one_of) for one_of in look.signs)
            )
            if len(self._selected) >= _MAX_CACHED_NAMES:
                self._selected.clear()
            self._selected[chars] = looks
        return looks


def _has(text: str, signs: tuple[tuple[str, ...], ...]) -> bool:
    """Whether one of each tuple is in the text."""
    for one_of in signs:
        for sign in one_of:
            if sign in text:
                break
        else:
            return False
    return True


_CREDENTIALS: Final = _Search(_CREDENTIAL_SHAPES)
_DATA: Final = _Search(_DATA_SHAPES)
_DATA_IN_JSON: Final = _Search(_DATA_SHAPES, in_json=True)
_TEXT: Final = _Search(_TEXT_SHAPES, many=True)
