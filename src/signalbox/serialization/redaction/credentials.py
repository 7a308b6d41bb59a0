"""Secrets that their own shape shows, and passwords in addresses."""

from __future__ import annotations

import re
from collections.abc import Callable

from signalbox.serialization.redaction.placeholder import REDACTED

# RFC 7468 (2015), OpenSSH's and OpenPGP's (RFC 9580, 2024), and the "private_key" of Google's service accounts in JSON.
# November 2026.
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
# JSON Web Tokens (RFC 7519, 2015; November 2026).
# Base64 of `{"`: the beginning of a JWT, and of texts of django.core.signing (parts joined by colons).
SIGNED_TOKEN = re.compile(r"eyJ(?:(?<![A-Za-z0-9]eyJ)|(?<=\\[nrt]eyJ))[\w-]{12,}+(?:[.:][\w-]*+)*+")
# What django.core.signing signs with the time: a value, the time in base 62 (from 1999 to 2086), a signature.
TIME = r":[1-3][0-9A-Za-z]{5}:[\w-]{16}"
TIMESTAMPED_TOKEN = re.compile(rf"(?<![\w.@+=-])[\w.@+=-]++{TIME}[\w-]*+")
# Django's hashers (docs.djangoproject.com, 'Password management in Django', 5.2), crypt's (man 5 crypt, libxcrypt
# 4.4) and htpasswd's (httpd.apache.org, 'Password Formats', 2.4). November 2026.
PASSWORD_HASH = re.compile(
    r"(?:(?<![A-Za-z0-9$])|(?<=\\[nrt]))(?:"
    r"(?:pbkdf2_\w{1,20}|argon2\w{0,4}|bcrypt\w{0,20}|scrypt|unsalted_\w{1,10}|md5|sha1|crypt)\$"
    r"|\$(?:2[abxy]?|[1567y]|gy|apr1|sha1|argon2\w{0,4}|scrypt|pbkdf2[\w-]{0,20})\$"
    r")[^\s\"'<>]{8,}+"
)
# userPassword in LDAP, and SHA-1 in htpasswd: a scheme in braces and a hash (RFC 2307, 5.3; OpenLDAP 2.6
# Administrator's Guide, 14.4). November 2026.
DIRECTORY_HASH = re.compile(
    r"\{(?i:s?sha(?:-?(?:1|224|256|384|512))?|s?md5|crypt|argon2|bcrypt|blf-crypt|(?:sha|md5)\d{0,3}-crypt"
    r"|pbkdf2[\w-]{0,20})\}[A-Za-z0-9+/.$,=_-]{13,}+"
)
_AFTER_BRACE = re.compile(r"\}(?<=[A-Za-z0-9]\})[A-Za-z0-9+/.$,=_-]{13}")


def may_have_directory_hash(text: str) -> bool:
    """Return whether a hash can follow a brace. JSON ends with a brace, which has nothing after it."""
    return "}" in text[:-13] and _AFTER_BRACE.search(text) is not None


_NAME_CHARS = r"[^\s:/?#@\"'<>]"
_NOT_PORT = r"(?![0-9]{1,5}(?:[/?#\s\"'<>]|\Z))"
_USERINFO = re.compile(rf"(://{_NAME_CHARS}{{0,256}}+:){_NOT_PORT}[^\s\"'<>]{{1,256}}@")
# A user name that is an email address, not percent-encoded: `smtp://ann@example.com:abc@host`.
_EMAIL_USERINFO = re.compile(rf"(://{_NAME_CHARS}{{1,256}}+@{_NAME_CHARS}{{1,256}}+:){_NOT_PORT}[^\s/\"'<>]{{1,256}}@")
# A token in the place of the user: `https://TOKEN@host`, also with no password, or with the one that GitHub expects
# (docs.github.com, 'Managing deploy keys', 2024). A name without digits and of usual length stays. November 2026.
_LONE_TOKEN = re.compile(
    rf"(://(?:(?<=(?i:http)://)|(?<=(?i:https)://)))"
    rf"(?:(?={_NAME_CHARS}{{0,256}}[0-9]){_NAME_CHARS}{{8,256}}+|{_NAME_CHARS}{{20,256}}+)(?::(?:x-oauth-basic)?)?@"
)


def build_address_probe(length: int) -> Callable[[str], object]:
    """Return a probe for addresses with a user or a password of up to this number of characters."""
    return re.compile(rf"://{_NAME_CHARS}{{0,{length}}}+(?:@|:{_NOT_PORT}[^\s\"'<>]{{0,{length}}}@)").search


def redact_address(text: str, redactor: object) -> str:
    """Take out the password of an address, or the token in the place of its user."""
    for pattern in (_LONE_TOKEN, _USERINFO, _EMAIL_USERINFO):
        text = pattern.sub(rf"\1{REDACTED}@", text)
    return text


RESET_LINK = re.compile(r"/[0-9a-z]{6,7}-[0-9a-f]{32,64}(?![\w-])")
