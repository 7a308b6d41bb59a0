"""Secrets are taken out of names with values, and out of free text.

Everything here is pure: text or plain containers in, new text or new containers out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import translate
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Final
from urllib.parse import unquote_plus

REDACTED: Final = "[redacted]"

_DEPTH: Final = 20
_REMEMBERED_NAMES: Final = 4096
_LONGEST_NAME: Final = 256

# --- Names ------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_WORDS: Final = frozenset(
    "authorization bearer credential cvc cvv hotp jwt otp passcode passphrase passwords pw pwd salt sig signature"
    " ssn totp".split()
)
_ROOTS: Final = ("csrf", "passwd", "password", "sessid", "xsrf")
_ENDS: Final = ("cookie", "cookies", "pwd", "secret", "secrets", "token", "tokens")
_WHOLE: Final = frozenset({"pass", "pin", "session"})

_KEYS: Final = (
    "access activation api auth confirmation encryption hmac master private recovery reset secret session signing"
    " verification"
)
_CODES: Final = "activation auth backup confirmation login mfa pin recovery reset security sms verification"
_PHRASES: Final = frozenset(
    {f"{kind} key" for kind in _KEYS.split()}
    | {f"{kind} keys" for kind in _KEYS.split()}
    | {f"{kind} code" for kind in _CODES.split()}
    | {f"{kind} codes" for kind in _CODES.split()}
    | {f"{kind} hash" for kind in ("auth", "pass", "pin", "pwd")}
    | {f"{kind} pass" for kind in ("admin", "db", "root", "smtp", "user")}
    | {f"{kind} pin" for kind in ("account", "card", "login", "security", "user")}
    | {"pass phrase", "pass word", "pin number", "basic auth", "code verifier"}
    | {"session data", "session id", "session hash"}
    | {"card number", "cc number", "credit card", "debit card", "social security"}
)
_COMPOUNDS: Final = tuple(sorted(phrase.replace(" ", "") for phrase in _PHRASES if not phrase.startswith("pin ")))

_FLAGS: Final = frozenset("has is max min needs num total".split())
_FACTS: Final = frozenset(
    "age algorithm at changed consent count created date domain enabled expiration expires expiry httponly length"
    " name on path policy required samesite secure status ttl type updated used version".split()
)


def _words(name: str) -> list[str]:
    """Split any style of name into lower-case words; digits only separate: `HTTP_X_apiKey2` -> http, x, api, key."""
    return [word.lower() for word in _WORD.findall(name)]


def _names_secret(words: list[str]) -> bool:
    """Apply the table of `Redactor` to a name's words."""
    if not words:
        return False
    if len(words) == 1 and words[0] in _WHOLE:
        return True
    if len(words) > 1 and (words[0] in _FLAGS or words[-1] in _FACTS):
        return False
    for word in words:
        if word in _WORDS or word.endswith(_ENDS) or any(root in word for root in _ROOTS):
            return True
        if any(compound in word for compound in _COMPOUNDS):
            return True
    return any(f"{first} {second}" in _PHRASES for first, second in pairwise(words))


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
    | it is pass, pin or session | too common within other names | `pin` | boarding_pass, map_pin |
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

    mark: ClassVar[str] = REDACTED
    """What stands where a secret was."""

    __slots__ = ("_extra", "_fields", "_patterns", "_phrases", "_verdicts")

    _extra: tuple[str, ...]
    _fields: Mapping[str, frozenset[str]]
    _patterns: tuple[re.Pattern[str], ...]
    _phrases: tuple[str, ...]
    _verdicts: dict[str, bool]

    def __init__(self, extra: Iterable[str] = (), fields: Mapping[str, frozenset[str]] = NO_FIELDS) -> None:
        if isinstance(extra, str):
            raise TypeError(f"extra is the text {extra!r}, but several names were expected: write [{extra!r}].")
        extra = tuple(extra)
        patterns: list[re.Pattern[str]] = []
        phrases: list[str] = []
        for name in extra:
            words = _words(name)
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
        put(self, "_verdicts", {})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name!r} cannot be set, a Redactor is immutable: make another one.")

    def __repr__(self) -> str:
        return f"Redactor({list(self._extra)!r})"

    def is_secret(self, name: str) -> bool:
        """Whether a value under this name must not be shown."""
        verdict = self._verdicts.get(name)
        return self._judge(name) if verdict is None else verdict

    def hides_field(self, label: str, name: str) -> bool:
        """Whether the field `name` of the model with this label in lower case is one of `fields`."""
        return name in self._fields.get(label, ())

    def hides(self, name: str, value: object) -> bool:
        """Whether this value must not be shown under this name: `is_secret`, or `credentials` that are no container."""
        return self.is_secret(name) or (name.endswith("credentials") and issubclass(type(value), str | bytes))

    def hides_value(self, mapping: Mapping[Any, Any]) -> bool:
        """Whether this names its value, and a secret, as `{"setting": "SECRET_KEY", "value": …}` does."""
        get: Callable[[str], object] = partial(dict.get, mapping) if isinstance(mapping, dict) else mapping.get
        return get("value") is not None and any(
            type(name := get(key)) is str and self.is_secret(name) for key in ("name", "setting", "key")
        )

    def hides_second(self, pair: Sequence[Any]) -> bool:
        """Whether this is a pair of a secret's name and its value, as an ASGI header is: `(b"cookie", b"…")`."""
        if len(pair) != 2:
            return False
        name = pair[0]
        if type(name) is bytes:
            name = name[:_LONGEST_NAME].decode("latin-1")
        return type(name) is str and self.hides(name, pair[1])

    def text(self, text: str) -> str:
        """`redact_text` with this redactor's names."""
        return redact_text(text, self)

    def data(self, text: str) -> str:
        """`redact_credentials`: for text that is data, where `token: blue` is a sentence."""
        return redact_credentials(text)

    def _judge(self, name: str) -> bool:
        """The verdict on a name not seen before; a name of foreign length is neither kept nor read to its end."""
        kept = len(name) <= _LONGEST_NAME
        if not kept:
            name = f"{name[: _LONGEST_NAME // 2]} {name[-_LONGEST_NAME // 2 :]}"
        words = _words(name)
        spaced = f" {' '.join(words)} "
        verdict = (
            _names_secret(words)
            or any(phrase in spaced for phrase in self._phrases)
            or any(pattern.match(name.lower()) for pattern in self._patterns)
        )
        if kept:
            if len(self._verdicts) >= _REMEMBERED_NAMES:
                self._verdicts.clear()
            self._verdicts[name] = verdict
        return verdict


_DEFAULT: Final = Redactor()

# --- Free text --------------------------------------------------------------------------------------------------------
# Every repetition below is possessive or has an upper bound, so that a hostile text costs linear time.

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
# Base64 of `{"`: the head of a JWT, and of what django.core.signing makes (parts joined by colons).
_SIGNED = re.compile(r"(?<![\w-])eyJ[\w-]{12,}+(?:[.:][\w-]*+)*+")
_HASH = re.compile(
    r"(?<![\w$])(?:"
    r"(?:pbkdf2_\w{1,20}|argon2\w{0,4}|bcrypt\w{0,20}|scrypt|unsalted_\w{1,10}|md5|sha1|crypt)\$"
    r"|\$(?:2[abxy]?|[1567y]|argon2\w{0,4}|scrypt|pbkdf2[\w-]{0,20})\$"
    r")[^\s\"'<>]{8,}+"
)

_USERINFO = re.compile(r"(://[^\s:/?#@\"'<>]{0,256}+:)(?![0-9]{1,5}(?:[/?#\s\"'<>]|\Z))[^\s\"'<>]{1,256}@")
_RESET_LINK = re.compile(r"/[0-9a-z]{6,7}-[0-9a-f]{32,64}(?![\w-])")

# What databases say: PostgreSQL `Key (token)=(abc) already exists.`, MySQL `Duplicate entry 'abc' for key 't.token'`.
_FAILING_ROW = re.compile(r"(Failing row contains \().*", re.IGNORECASE)
_DETAIL_KEY = re.compile(
    r"(Key \(([^()\n]{1,200})\)=\()([^\n]{0,1000}?)(?=\)(?: (?:already|is|conflicts)\b|\.?$))", re.MULTILINE
)
_DUPLICATE = re.compile(r"(Duplicate entry ')([^\n]{0,1000}?)(?=' for key '([^'\n]{1,200})')")

_HEADER = re.compile(
    r"(?i)(?<![\w-])((?:[\w-]{0,40}-|http_(?:proxy_)?)?(?:set-cookie|cookie|authorization)\s{0,4}:\s{0,8})"
    r"(?![\s\"'\[({])[^\r\n]++"
)
# A name is read backwards from its separator, with the word before it: that spares every word that is no name.
_SEPARATOR = re.compile(r"[=:]>?\s{0,8}")
_EMAN = re.compile(r"\s{0,8}\]?([\"']\\?)?([\w.-]{1,80}+)(?: ([\w.-]{1,40}+))?")
_OPTION = re.compile(r"(?<!\S)--([\w-]{1,80}+)\s{1,8}(?!-)")
_VALUE = re.compile(
    r"(?P<escaped>\\[\"'])(?:[^\\]|\\(?![\"']))*+(?:\\[\"'])?"
    r"|[bBrRuUfF]{0,2}(?P<quote>[\"'])(?:(?!(?P=quote))[^\\]|\\.)*+(?:(?P=quote))?"
    r"|[\[({][^\])}]*+[\])}]?"
    r"|(?:(?i:basic|bearer|digest|negotiate|token)\s{1,8})?"
    r"(?:[^\s&<>,;)}\]\"']|[,;)}\]\"'](?=[^\s&<>,;)}\]\"'])(?![\w.-]{1,80}=))++",
    re.DOTALL,
)
_SECOND_WORDS: Final = frozenset(phrase.rpartition(" ")[2] for phrase in _PHRASES)

_SCHEME = re.compile(
    r"(?i:\b(bearer|basic)\s{1,4})"
    r"(?!(?i:and|auth\w*+|credentials?|error|is|of|or|realm|scheme|tokens?|was|with)\b(?!\.\w))"
    r"([\w.~+/=-]++)"
)
_DIGITS = re.compile(r"(?<![\w.])[0-9](?:[ -]?[0-9]){12,}+(?!\w)")


def redact_credentials(text: str) -> str:
    """Take out what shows by its own shape that it is a credential: password hashes, JWTs, private keys."""
    if "$" in text:
        text = _HASH.sub(REDACTED, text)
    if "eyJ" in text:
        text = _SIGNED.sub(REDACTED, text)
    if "-----BEGIN" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    return text


def redact_text(text: str, redactor: Redactor = _DEFAULT) -> str:
    """Take secrets out of free text, such as an exception's.

    Beyond `redact_credentials`: passwords in addresses (`postgres://user:[redacted]@host`), links that reset a
    password, values after a secret name (`?token=…`, `password: …`, `"password": "…"`, `--password …`), `Cookie` and
    `Authorization` headers, `Bearer …` and `Basic …`, the values in a database's complaint about a secret column or a
    whole row, and card numbers (13 to 19 digits that satisfy Luhn's check and begin as payment cards do).
    An unquoted value ends at a blank: of `password: two words` the first is taken out.
    """
    text = redact_credentials(text)
    if "=" in text or ":" in text:
        text = _redact_named(text, redactor)
    if "--" in text:
        text = _redact_values(text, _OPTION, lambda match: "" if redactor.is_secret(match[1]) else None)
    lower = text.lower()
    if "basic" in lower or "bearer" in lower:
        text = _SCHEME.sub(_scheme, text)
    if "/" in text:
        text = _RESET_LINK.sub("/" + REDACTED, text)
    if " row " in text or " entry " in text:
        text = _FAILING_ROW.sub(rf"\1{REDACTED})", text)
        text = _DUPLICATE.sub(lambda match: _complaint(match, match[3], redactor), text)
    if len(text) > 12 and ("4" in text or "5" in text or "3" in text or "6" in text or "2" in text):
        text = _DIGITS.sub(_cards, text)
    return text


def redact_query(query: str, redactor: Redactor = _DEFAULT) -> str:
    """Replace the secret values of a query string without its `?`; names and order stay, as do the other values."""
    return re.sub(r"[^&;]++", lambda pair: _query_pair(pair[0], redactor), query)


def redact_path(path: str, redactor: Redactor = _DEFAULT) -> str:
    """Take secrets out of an address's path with its query and fragment, where it has them."""
    path, mark, fragment = path.partition("#")
    path, question, query = path.partition("?")
    return (
        redact_text(path, redactor) + question + redact_query(query, redactor) + mark + redact_query(fragment, redactor)
    )


def redact(value: Any, redactor: Redactor) -> Any:
    """Copy plain containers without their secrets: mappings by key, pairs by their first half, texts by `redact_text`.

    Mappings become dicts, sequences lists or tuples, sets stay sets. Anything else is handed back as it is, for only an
    encoder may look into it. What lies deeper than 20 containers, or contains itself, is taken out unseen.
    """
    return _redact(value, redactor, ())


def _redact(value: Any, redactor: Redactor, above: tuple[int, ...]) -> Any:
    if isinstance(value, str):
        return redact_text(str(value), redactor)
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        clean = redact_text(text, redactor)
        return value if clean == text else clean.encode("latin-1")
    if not isinstance(value, Mapping | Sequence | AbstractSet) or isinstance(value, range | bytearray | memoryview):
        return value
    if id(value) in above or len(above) >= _DEPTH:
        return REDACTED
    above = (*above, id(value))
    if isinstance(value, Mapping):
        named = redactor.hides_value(value)
        return {
            key: REDACTED
            if redactor.hides(str(key), item) or (named and key == "value")
            else _redact(item, redactor, above)
            for key, item in value.items()
        }
    if isinstance(value, AbstractSet):
        kind = frozenset if isinstance(value, frozenset) else set
        return kind(_redact(item, redactor, above) for item in value)
    if isinstance(value, tuple) and redactor.hides_second(value):
        return (value[0], REDACTED)
    items = (_redact(item, redactor, above) for item in value)
    return tuple(items) if isinstance(value, tuple) else list(items)


def _redact_named(text: str, redactor: Redactor) -> str:
    """Take out what follows a name and `=` or `:`, headers, addresses and databases' complaints included."""
    if "://" in text:
        text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    if "=(" in text:
        text = _DETAIL_KEY.sub(lambda match: _complaint(match, match[2], redactor), text)
    if ":" in text and ("cookie" in (lower := text.lower()) or "authorization" in lower):
        text = _HEADER.sub(rf"\1{REDACTED}", text)
    return _redact_values(text, _SEPARATOR, lambda match: _secret_name(text, match.start(), redactor))


def _redact_values(text: str, leads: re.Pattern[str], quote_of: Callable[[re.Match[str]], str | None]) -> str:
    """Take out the value behind each lead that `quote_of` gives a quotation mark ("" for none), but not behind None."""
    pieces: list[str] = []
    done = 0
    for lead in leads.finditer(text):
        if lead.start() < done or (quote := quote_of(lead)) is None:
            continue
        value = _VALUE.match(text, lead.end())
        if value is None:
            continue
        quote = value["escaped"] or value["quote"] or quote
        pieces += text[done : lead.end()], quote, REDACTED, quote
        done = value.end()
    return "".join([*pieces, text[done:]]) if pieces else text


def _secret_name(text: str, end: int, redactor: Redactor) -> str | None:
    """The quotation mark of the secret name that ends here ("" for none), None where no secret name does."""
    match = _EMAN.match(text[max(0, end - 140) : end][::-1])
    if match is None:
        return None
    name = match[2][::-1]
    if not redactor.is_secret(name):
        if match[3] is None or name.lower() not in _SECOND_WORDS or match[1]:
            return None
        if not redactor.is_secret(f"{match[3][::-1]} {name}"):
            return None
    return (match[1] or "")[::-1]


def _query_pair(pair: str, redactor: Redactor) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return redact_text(pair, redactor)
    plain = unquote_plus(value)
    if redactor.is_secret(unquote_plus(name)) or redact_text(plain, redactor) != plain:
        return f"{name}={REDACTED}"
    return pair


def _complaint(match: re.Match[str], names: str, redactor: Redactor) -> str:
    """The database's sentence up to its value, and the value if none of the columns is secret."""
    return match[0] if not redactor.is_secret(names) else match[1] + REDACTED


def _scheme(match: re.Match[str]) -> str:
    """`Bearer` or `Basic` without what follows; but `Basic` is also a plain word, before other plain words."""
    value = match[2]
    plain = value.isalpha() and (value.islower() or value.istitle())
    if plain and match[1].lower() == "basic":
        return match[0]
    return match[0][: match.start(2) - match.start()] + REDACTED


def _cards(match: re.Match[str]) -> str:
    """Replace the card numbers in a run of digit groups."""
    parts = re.split(r"([ -])", match[0])
    out: list[str] = []
    start = 0
    while start < len(parts):
        end = _card_end(parts, start)
        out.append(REDACTED if end else parts[start])
        start = end or start + 1
    return "".join(out)


def _card_end(parts: Sequence[str], start: int) -> int:
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


def _is_card(digits: str) -> bool:
    """Luhn's check on numbers that begin with 3 to 6, or with Mastercard's 2221 to 2720 (ISO/IEC 7812)."""
    if digits[0] not in "3456" and not (len(digits) == 16 and "2221" <= digits[:4] <= "2720"):
        return False
    total = sum(map(int, digits[-1::-2]))
    return (total + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])) % 10 == 0
