"""The table of well-known credentials that begin with a fixed prefix, and the search that is derived from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from signalbox.serialization.redaction.placeholder import REDACTED
from signalbox.serialization.redaction.search import Shape, replace


class Token(NamedTuple):
    """One kind of credential."""

    issuer: str
    prefixes: tuple[str, ...]
    """Every credential of this kind begins with one of these, in this case."""
    body: str
    """Pattern of the rest."""
    source: str
    """Where the form is documented, or was described, with the year of that description."""
    before: str = ""
    """Pattern of the part before the prefix."""


_ALNUM: Final = "[A-Za-z0-9]"

# Written in November 2026. Lengths are a little more liberal than the sources, as issuers have changed theirs before.
# Each body begins with _MIN_RUN or more letters, digits, "_" and "-". With those at the end of its prefix they are
# LONG_WORD or more. The probes depend on both.
TOKENS: Final = (
    Token(
        "AWS, id of an access key with the secret key if it follows",
        ("AKIA", "ASIA", "ABIA", "ACCA"),
        r"[A-Z0-9]{16}(?![A-Za-z0-9])"
        r"(?:(?:[\s:,;|\"']|%3[Aa]){1,5}(?:[A-Za-z0-9/+]|%2[BbFf]){40}(?![A-Za-z0-9+=]))?",
        "docs.aws.amazon.com, IAM User Guide, 'IAM identifiers', 2024",
    ),
    Token(
        "GitHub",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        r"[A-Za-z0-9]{30,}[\w.-]*",
        "github.blog, 'Behind GitHub's new authentication token formats', 2021",
    ),
    Token("GitHub, fine-grained", ("github_pat_",), r"\w{30,}", "docs.github.com, 'Managing tokens', 2022"),
    Token(
        "GitLab",
        (
            "glpat-",
            "gldt-",
            "glrt-",
            "glrtr-",
            "glptt-",
            "glcbt-",
            "glimt-",
            "glsoat-",
            "glft-",
            "glagent-",
            "glwt-",
            "glffct-",
            "gloas-",
        ),
        r"[\w-]{16,}(?:\.[\w-]+)*",
        "docs.gitlab.com, 'GitLab token overview', 'Token prefixes', 2025",
    ),
    Token("Stripe, secret keys", ("sk_live_", "sk_test_"), rf"{_ALNUM}{{16,}}", "docs.stripe.com, 'API keys', 2024"),
    Token(
        "Stripe, restricted keys", ("rk_live_", "rk_test_"), rf"{_ALNUM}{{16,}}", "docs.stripe.com, 'API keys', 2024"
    ),
    Token(
        "Stripe, organizations", ("sk_org_",), r"(?:live_|test_)?[A-Za-z0-9]{16,}", "docs.stripe.com, 'API keys', 2025"
    ),
    Token("Stripe, webhooks", ("whsec_",), rf"{_ALNUM}{{16,}}[A-Za-z0-9+/=]*", "docs.stripe.com, 'Webhooks', 2024"),
    Token(
        "Slack",
        ("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxc-", "xoxo-", "xoxe-", "xoxe.xoxb-", "xoxe.xoxp-"),
        r"[\w-]{15,}",
        "docs.slack.dev, 'Tokens', 2024",
    ),
    Token("Slack, browser sessions", ("xoxd-",), r"[\w-]{15,}[\w%/+=-]*", "docs.slack.dev, 'Tokens', 2024"),
    Token("Slack, apps", ("xapp-",), r"[\w-]{15,}", "docs.slack.dev, 'Tokens', 2024"),
    Token("Google, API keys", ("AIza",), r"[\w-]{30,}", "cloud.google.com, 'Manage API keys', 2024"),
    Token("Google, OAuth clients", ("GOCSPX-",), r"[\w-]{20,}", "developers.google.com, 'Using OAuth 2.0', 2021"),
    Token("Google, OAuth access tokens", ("ya29.",), r"[\w-]{20,}[\w.-]*", "developers.google.com, 'OAuth 2.0', 2024"),
    Token("Google, OAuth refresh tokens", ("1//0",), r"[\w-]{30,}", "developers.google.com, 'OAuth 2.0', 2024"),
    Token("Anthropic", ("sk-ant-",), r"[\w-]{16,}", "docs.anthropic.com, 'API overview', 2024"),
    Token(
        "OpenAI",
        ("sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-"),
        r"[\w-]{16,}",
        "platform.openai.com, 'API keys', 2024",
    ),
    Token("OpenAI, first keys", ("sk-",), rf"{_ALNUM}{{32,}}", "platform.openai.com, 'API keys', 2020"),
    Token("SendGrid", ("SG.",), r"[\w-]{20,}\.[\w-]{20,}", "twilio.com, SendGrid 'API keys', 2024"),
    Token("npm", ("npm_",), rf"{_ALNUM}{{30,}}", "github.blog, 'npm has a new access token format', 2021"),
    Token("PyPI", ("pypi-AgE",), r"[\w-]{16,}", "PyPI's help, 'API tokens' (a serialized macaroon), 2019"),
    Token(
        "Telegram, bots",
        (":A",),
        r"[\w-]{34}(?![\w-])",
        "core.telegram.org/bots/api, 'Authorizing your bot', 2015",
        before=r"(?:(?<![\w.-])|(?<=/bot)|(?<=\\[nrt]))[0-9]{5,16}",
    ),
    Token("Fernet, tokens", ("gAAAAA",), r"[\w-]{50,}={0,2}", "github.com/fernet/spec (the time is in it), 2013"),
)

_MIN_RUN: Final = 15
"""Letters, digits, ``_`` and ``-`` with which every body of the table begins."""


_MAX_NEAR: Final = 3
"""Characters before an anchor that are compared before the whole prefix."""


def _split_at_anchor(prefix: str) -> tuple[str, str, str]:
    """Return a prefix in three parts. The second is the character to look for first.

    It is "A", or else the last character that is not a letter or digit: they are rarer than other characters.
    """
    index = prefix.find("A")
    if index < 0:
        index = max(index for index, char in enumerate(prefix) if not char.isalnum())
    return prefix[:index], prefix[index], prefix[index + 1 :]


def _build_shapes(tokens: Iterable[Token]) -> Iterator[Shape]:
    """Return a shape for each anchor: the engine finds one character fast, and looks around it for the prefixes."""
    by_anchor: dict[str, list[Token]] = {}
    for token in tokens:
        by_prefix_anchor: dict[str, list[str]] = {}
        for prefix in token.prefixes:
            by_prefix_anchor.setdefault(_split_at_anchor(prefix)[1], []).append(prefix)
        for anchor, prefixes in by_prefix_anchor.items():
            by_anchor.setdefault(anchor, []).append(token._replace(prefixes=tuple(prefixes)))
    for anchor, found in by_anchor.items():
        parts = [_split_at_anchor(prefix) for token in found for prefix in token.prefixes]
        looks = "|".join(f"(?<={re.escape(before + anchor)}){re.escape(after)}" for before, _, after in parts)
        near = _build_near([before for before, _, _ in parts], anchor)
        probe = re.compile(rf"{re.escape(anchor)}{near}(?=[\w-]{{{_MIN_RUN}}})(?:{looks})", re.ASCII)
        pattern = re.compile("|".join(map(_build_pattern, found)), re.ASCII)
        if len(parts) == 1:
            yield Shape(["".join(parts[0])], replace(pattern, REDACTED), has_long_word=True)
        else:
            yield Shape([anchor], replace(pattern, REDACTED), probe.search, has_long_word=True)


def _build_near(befores: Sequence[str], anchor: str) -> str:
    """Return a lookbehind that compares each character just before an anchor with those of all prefixes."""
    length = min(_MAX_NEAR, *map(len, befores))
    sets = ["".join(sorted({before[index] for before in befores})) for index in range(-length, 0)]
    return f"(?<={''.join(f'[{re.escape(chars)}]' for chars in sets)}{re.escape(anchor)})" if length else ""


def _build_pattern(token: Token) -> str:
    """Return the pattern of a kind of credentials, which begin a word or follow an escaped line break."""
    heads = [re.escape(prefix) for prefix in token.prefixes]
    if token.before:
        return f"{token.before}(?:{'|'.join(heads)}){token.body}"
    starts = "|".join(rf"{head}(?:(?<![A-Za-z0-9]{head})|(?<=\\[nrt]{head}))" for head in heads)
    return f"(?:{starts}){token.body}"


_SLACK_HOOK = re.compile(r"hooks\.slack(?:-gov)?\.com\\?/[\w/\\-]{20,}", re.ASCII)
"""Slack, hooks: docs.slack.dev, 'Sending messages using incoming webhooks', 2024. November 2026."""

_FERNET_KEY = re.compile(
    r"(?:(?<![\w+/-])|(?<=\\[nrt]))(?<!sha256[=:])(?=[\w-]{0,42}[0-9])(?=[\w-]{0,42}[A-Z])(?=[\w-]{0,42}[a-z])"
    r"[\w-]{42}[AEIMQUYcgkosw048]=(?![\w=/+])",
    re.ASCII,
)
"""Fernet, keys: github.com/fernet/spec, 2013 (32 bytes as URL-safe base64). November 2026.

A digest of the same length in the same form can't be distinguished.
"""

TOKEN_SHAPES: Final = (
    *_build_shapes(TOKENS),
    Shape(["hooks.slack", ".com"], replace(_SLACK_HOOK, REDACTED)),
    Shape(["="], replace(_FERNET_KEY, REDACTED), re.compile(r"=(?<=[\w-]{43}=)", re.ASCII).search, has_long_word=True),
)
