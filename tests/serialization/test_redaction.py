"""Secrets by name, secrets within a text, and texts that are not changed."""

from __future__ import annotations

import json
import re
import tracemalloc
from time import process_time
from typing import Any

import pytest
from django.utils.functional import SimpleLazyObject
from hypothesis import given, settings
from hypothesis import strategies as st

from signalbox.serialization.encoder import dumps
from signalbox.serialization.redaction import (
    REDACTED,
    Redactor,
    redact,
    redact_credentials,
    redact_path,
    redact_query,
    redact_text,
)
from signalbox.serialization.redaction.api_tokens import TOKENS as TOKEN_TABLE
from signalbox.serialization.redaction.api_tokens import Token
from signalbox.serialization.redaction.search import Search, Shape
from signalbox.serialization.redaction.shapes import DATA_SHAPES, TEXT_SHAPES

REDACTOR = Redactor()
SECRETS = """
password new_password1 PASSWORD userpassword password_hash passwd pwd pw db_pwd pass pass_phrase passphrase passWord
db_pass secret client_secret clientSecret secret_key SECRET_KEY api_key apikey apiKey APIKey x-api-key HTTP_X_API_KEY
access_key accesskey AWS_ACCESS_KEY_ID private_key privateKey encryption_key recovery_codes security_code token tokens
access_token accessToken OAuthToken authtoken id_token token_id csrf csrftoken csrfmiddlewaretoken HTTP_X_CSRFTOKEN xsrf
cookie cookies HTTP_COOKIE set-cookie Set-Cookie session sessionid session_id session_key session_data PHPSESSID
authorization HTTP_AUTHORIZATION proxy-authorization bearer jwt signature sig credential otp totp pin user_pin
pin_number cvv cvv2 cvc card_number cardnumber credit_card ssn social_security_number salt db.password user.api_key
password_reset_url code_verifier
FERNET_KEYS SSH_KEY PGP_KEY WEBHOOK_KEY REDIS_AUTH SENTRY_DSN rsa_key deploy_key shared_key server_key aws_key
decryption_key new_pass old_pass new_pin old_pin pincode passkey last_password_used two_factor_code access_code
invite_code security_answer recovery_phrase mnemonic card_no ccnum api_secret_version pan card_pan sshKey
""".split()
PLAIN = """
key keyboard monkey primary_key foreign_key sort_key cache_key public_key key_id author author_id authority tokenize
tokenizer pinned pin_color map_pin shipping spinning compass compassion passenger passed passport boarding_pass
secretary secretariat cookie_consent cookie_name has_password is_secret max_tokens num_tokens password_changed_at
token_type token_expires sessions training_session session_count session_title
assault salty design assign credentials iban code
pass_rate new_passenger newpassenger goldpass newpinned discardnote acc_no accnum order_key sort_keys discount_code
factor access invite answer two_factor japan pancake frying_pan author_auth shared_keyboard deploy_keyword
country_code number order_number id email username hash content_hash card card_holder data basic digest
""".split()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_name_is_secret(name: str) -> None:
    assert REDACTOR.is_secret(name)


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_only_looks_like_a_secret_is_not_hit(name: str) -> None:
    assert not REDACTOR.is_secret(name)


@pytest.mark.parametrize("name", ["", "1", "___", "é", "\ud800"])
def test_a_name_without_words_is_not_secret(name: str) -> None:
    assert not REDACTOR.is_secret(name)


def test_a_name_is_judged_the_same_when_it_is_remembered() -> None:
    redactor = Redactor()
    assert [True, True, False, False] == [redactor.is_secret(name) for name in ("token", "token", "name", "name")]


def test_the_memory_of_names_is_bounded() -> None:
    redactor = Redactor()
    tracemalloc.start()
    try:
        for number in range(20_000):
            redactor.is_secret(f"name{number:0100}")
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
    assert redactor.is_secret("password")


def test_a_name_of_foreign_length_is_not_remembered() -> None:
    redactor = Redactor()
    tracemalloc.start()
    try:
        assert redactor.is_secret("x" * 1_000_000 + "_password")
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("iban", "iban"),
        ("iban", "customerIban"),
        ("national_id", "NATIONAL-ID"),
        ("national_id", "person.national_id.text"),
        ("internal_*", "internal_notes"),
        ("internal_*", "INTERNAL_notes"),
    ],
)
def test_extra_names_are_secret_too(extra: str, name: str) -> None:
    assert not REDACTOR.is_secret(name)
    assert Redactor([extra]).is_secret(name)
    assert Redactor([extra]).is_secret("password")


@pytest.mark.parametrize(
    ("extra", "name"), [("iban", "caliban"), ("national_id", "national_birth_id"), ("a_*", "x_a_b")]
)
def test_extra_names_match_by_words_too(extra: str, name: str) -> None:
    assert not Redactor([extra]).is_secret(name)


def test_one_text_instead_of_several_extra_names_is_refused() -> None:
    with pytest.raises(TypeError, match=r"'iban'.*write \['iban'\]"):
        Redactor("iban")


@pytest.mark.parametrize("name", ["", "*", "12"])
def test_an_extra_name_without_a_word_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no word"):
        Redactor([name])


def test_a_redactor_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        REDACTOR.names = ("x",)
    assert "Redactor(['iban'])" == repr(Redactor(["iban"]))


def test_credentials_are_entered_but_not_shown_as_text() -> None:
    assert not REDACTOR.should_redact("credentials", {"username": "ada"})
    assert REDACTOR.should_redact("credentials", "ada:lovelace")
    assert REDACTOR.should_redact("aws_credentials", b"abc")


CARD = "4111 1111 1111 1111"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"
HASHES = [
    "pbkdf2_sha256$870000$abcDEF$aGFzaA/+==",
    "argon2$argon2id$v=19$m=102400,t=2,p=8$c2FsdA$aGFzaA",
    "bcrypt_sha256$$2b$12$abcdefghijklmnopqrstuv",
    "scrypt$salt$14$8$1$aGFzaGhhc2g=",
    "md5$salt$0123456789abcdef",
    "$2b$12$abcdefghijklmnopqrstuv",
    "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
]


LETTERS = "aB3dEfG7hIjK1mNoPqR5sTuVwXyZ0" * 8
"""Of this the credentials below are made: none of them is real, and none is in the source as a whole."""


def make_token(prefix: str, length: int) -> str:
    return prefix + LETTERS[:length]


TOKENS = {
    "aws": make_token("AKIA", 0) + "J7EXAMPLEQ3RS5TU",
    "aws-session": make_token("ASIA", 0) + "J7EXAMPLEQ3RS5TU",
    "aws-pair": make_token("AKIA", 0) + "J7EXAMPLEQ3RS5TU:" + LETTERS[:40],
    **{f"github-{kind}": make_token(f"gh{kind}_", 36) for kind in "pousr"},
    "github-fine": make_token("github_pat_", 22) + "_" + LETTERS[:59],
    **{f"gitlab-{kind}": make_token(f"gl{kind}-", 20) for kind in ("pat", "dt", "rt", "ptt", "cbt", "soat", "oas")},
    "gitlab-routable": make_token("glpat-", 27) + ".01." + LETTERS[:9],
    **{f"stripe-{kind}": make_token(f"{kind}_", 24) for kind in ("sk_live", "sk_test", "rk_live", "rk_test", "whsec")},
    "stripe-organization": make_token("sk_org_", 0) + make_token("live_", 30),
    **{f"slack-{kind}": f"xox{kind}-" + "123456789012-123456789012-" + LETTERS[:24] for kind in "bparsc"},
    "slack-cookie": make_token("xoxd-", 40) + "%2B" + LETTERS[:20],
    "slack-refresh": make_token("xoxe-1-", 60),
    "slack-rotated": make_token("xoxe.xoxp-1-", 60),
    "slack-app": make_token("xapp-1-", 11) + "-1234567890123-" + LETTERS[:64],
    "slack-hook": "hooks.slack.com/services/" + "T0123ABCD/B0123ABCD/" + LETTERS[:24],
    "slack-hook-escaped": r"hooks.slack.com\/services\/" + r"T0123ABCD\/B0123ABCD\/" + LETTERS[:24],
    "slack-hook-gov": "hooks.slack-gov.com/services/" + "T0123ABCD/B0123ABCD/" + LETTERS[:24],
    "google-key": make_token("AIza", 35),
    "google-client": make_token("GOCSPX-", 28),
    "google-access": make_token("ya29.", 80),
    "google-refresh": make_token("1//0", 60),
    "openai": make_token("sk-", 48),
    "openai-project": make_token("sk-proj-", 80),
    "anthropic": make_token("sk-ant-api03-", 93),
    "sendgrid": make_token("SG.", 22) + "." + LETTERS[:43],
    "npm": make_token("npm_", 36),
    "pypi": make_token("pypi-AgEIcHlwaS5vcmc", 80),
    "telegram": "123456789:" + make_token("AA", 33),
    "telegram-address": "https://api.telegram.org/bot" + "123456789:" + make_token("AA", 33) + "/getMe",
    "fernet-token": make_token("gAAAAABm", 92),
    "fernet-key": LETTERS[:42] + "E=",
    "htpasswd-md5": "$apr1$" + "aB3dEfG7$" + LETTERS[:22],
    "htpasswd-sha": "{SHA}" + LETTERS[:27] + "=",
    "ldap-ssha": "{SSHA}" + LETTERS[:38] + "==",
    "ldap-ssha512": "{SSHA512}" + LETTERS[:88],
    "ldap-crypt": "{CRYPT}" + "$6$" + LETTERS[:40],
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=list(TOKENS))
def test_a_well_known_credential_is_recognized_in_every_context(token: str) -> None:
    for around in ("{}", "use {} now", "({})", "[{}],", "value={}", "note {}\n", "line\n{}", "{}; {}"):
        text = around.replace("{}", token)
        found = [REDACTOR.redact_data(text), redact_text(text), redact_credentials(text)]
        for clean in found:
            assert REDACTED in clean
            assert not [part for part in re.split("[.:/-]", token) if len(part) > 15 and part in clean]
        assert not REDACTOR.is_clean(dumps({"field": text}))


@pytest.mark.parametrize("token", TOKENS.values(), ids=list(TOKENS))
def test_a_text_that_only_begins_as_a_credential_stays(token: str) -> None:
    text = f"x{token[:14]}"
    assert text == REDACTOR.redact_data(text)


@pytest.mark.parametrize(
    "text",
    [
        "ghp_short",
        "the sk-learn-package-is-a-very-long-name",
        "task-0123456789abcdef0123456789abcdef",
        "sha256-" + LETTERS[:42] + "E=",
        "550e8400-e29b-41d4-a716-446655440000",
        "shipping_address_line_number_one",
        "AKIA",
        "KAWASAKIAPPLICATIONSANDMORE",
        "http://ada.lovelace@host/",
        "ssh://git@host/repository",
        "12:AM and 10:ABC",
        "{SHA}",
        "{'a': {1}}plain",
        "paid to DE83 5500 0000 0000 0004 00, thanks",
        "MT04 CBCC 4111 1111 1111 1111 0000 000",
        "4111.111111111111",
        "4111.1111.1111.1112",
        "1.4111111111111111",
    ],
)
def test_a_text_that_only_resembles_a_credential_stays(text: str) -> None:
    assert text == REDACTOR.redact_data(text)
    assert text == redact_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://{LETTERS[:24]}@host/x", "https://[redacted]@host/x"),
        (f"https://{LETTERS[:24]}:@host/x", "https://[redacted]@host/x"),
        (f"HTTP://{LETTERS[:24]}:x-oauth-basic@host", "HTTP://[redacted]@host"),
        ("https://s3cr3t-t0ken@host", "https://[redacted]@host"),
        ("https://0123456789abcdef0123456789abcdef@sentry.example/1", "https://[redacted]@sentry.example/1"),
    ],
)
def test_a_token_in_the_place_of_a_user_is_taken_out(text: str, expected: str) -> None:
    assert expected == REDACTOR.redact_data(text)
    assert expected == redact_text(text)
    assert not REDACTOR.is_clean(dumps({"field": text}))


@pytest.mark.parametrize("separator", ["", *" -.\u00a0\u2007\u2009\u2010\u2011\u2012\u2013\u202f"])
@pytest.mark.parametrize("groups", [("4111",) + ("1111",) * 3, ("3782", "822463", "10005")])
def test_a_card_number_is_recognized_with_any_separator(separator: str, groups: tuple[str, ...]) -> None:
    number = separator.join(groups)
    assert f"card {REDACTED}, paid" == REDACTOR.redact_data(f"card {number}, paid")
    assert f"card {REDACTED}, paid" == redact_text(f"card {number}, paid")
    assert not REDACTOR.is_clean(dumps({"field": number}))


@pytest.mark.parametrize("secret", [CARD, "4111111111111111", JWT, *HASHES, TOKENS["telegram"], TOKENS["fernet-key"]])
@pytest.mark.parametrize("around", ["卡号{}、", r"a\n{}\nb", r"a\t{}"])
def test_a_secret_is_found_after_other_scripts_and_escaped_line_breaks(around: str, secret: str) -> None:
    for redact_any in (REDACTOR.redact_data, redact_text):
        assert secret not in redact_any(around.format(secret))


def test_a_card_number_after_an_iban_is_recognized() -> None:
    text = "DE89 3704 0044 0532 0130 00 {}"
    assert text.format(REDACTED) == REDACTOR.redact_data(text.format(CARD))
    assert text.format(REDACTED) == redact_text(text.format(CARD))


@pytest.mark.parametrize("secret", [JWT, *HASHES])
@pytest.mark.parametrize("before", ["session_", "user-"])
def test_a_secret_is_found_after_a_name_that_is_joined_to_it(before: str, secret: str) -> None:
    for redact_any in (REDACTOR.redact_data, redact_text):
        assert before + REDACTED == redact_any(before + secret)


def test_the_secret_key_of_a_pair_is_found_percent_encoded_and_before_a_slash() -> None:
    key_id, secret = make_token("AKIA", 0) + "J7EXAMPLEQ3RS5TU", LETTERS[:20] + "/" + LETTERS[:19]
    assert f"/x/{REDACTED}/y" == redact_text(f"/x/{key_id}:{secret}/y")
    assert f"x={REDACTED}" == redact_text(f"x={key_id}%3A{secret.replace('/', '%2F')}")


@pytest.mark.parametrize("depth", range(1, 5))
@pytest.mark.parametrize("password", ["hunter2", 'a "hunter2', "it's hunter2", "\\hunter2"])
@pytest.mark.parametrize("redact_any", [redact_text, REDACTOR.redact_data, lambda text: redact_text(repr(text))])
def test_a_secret_in_json_within_json_is_taken_out(redact_any: Any, password: str, depth: int) -> None:
    text = json.dumps({"password": password, "after": "kept"})
    for _ in range(depth):
        text = json.dumps({"body": text})
    clean = redact_any(text)
    assert "hunter2" not in clean
    assert "kept" in clean


@pytest.mark.parametrize(
    "message",
    [
        "column \"a\" does not exist\nLINE 1: SELECT 'hunter2'\n               ^",
        "syntax error\nLINE 1: SELECT E'a\\nhunter2'",
        'for type json\nDETAIL:  Token "hunter2" is invalid.\nCONTEXT:  JSON data, line 1: hunter2',
        "Duplicate entry 'hunter2' for key 'auth_user.token'",
        "duplicate key\nDETAIL:  Key (token)=(hunter2) already exists.",
    ],
)
def test_the_repr_of_a_database_error_has_no_secret(message: str) -> None:
    for text in (message, repr(message), repr((repr(message), 1)), repr((f'it\'s "{message}"',))):
        assert "hunter2" not in redact_text(text)


@pytest.mark.parametrize("content", [["password", "hunter2"], {"name": "DB_PASSWORD", "value": "hunter2"}])
def test_a_pair_in_json_within_json_is_taken_out(content: object) -> None:
    text = json.dumps({"body": json.dumps(content)})
    assert text.replace("hunter2", REDACTED) == redact_text(text)


@pytest.mark.parametrize("text", ["ann,4111111111111111,12/27,123", "17,4111111111111111", "4111111111111111,Ann"])
def test_a_card_number_is_recognized_between_commas(text: str) -> None:
    clean = text.replace("4111111111111111", REDACTED)
    assert clean == REDACTOR.redact_data(text)
    assert clean == redact_text(text)


@pytest.mark.parametrize(
    "name", [TOKENS["github-p"], "%24apr1%24aB3dEfG7%24aB3dEfG7hIjK1mNoPqR5sT", "a." + TOKENS["npm"]]
)
def test_a_secret_in_the_name_of_a_query_parameter_is_taken_out(name: str) -> None:
    assert f"/x?a=1&{REDACTED}=1" == redact_path(f"/x?a=1&{name}=1")


def test_every_body_of_the_table_begins_as_the_first_look_expects() -> None:
    for token in TOKEN_TABLE:
        for prefix in token.prefixes:
            assert re.search(r"\{(\d+)", token.body)
            assert any(char == "A" or not char.isalnum() for char in prefix)


@pytest.mark.parametrize("credential", [JWT, PEM, JWT[:60], PEM[:40], *HASHES])
def test_a_credential_shows_by_its_shape(credential: str) -> None:
    assert f"a {REDACTED}" == redact_credentials(f"a {credential}")
    assert f"a {REDACTED}" == redact_text(f"a {credential}")


@pytest.mark.parametrize(
    "text",
    [
        "costs 5$ or 6$",
        "token: blue",
        "monkeyJoin.a.b",
        "eyJ.a.b",
        "-----BEGIN CERTIFICATE-----\nabc",
        "sha256$",
        "US$100000000",
        "password=blue",
        "<password>blue</password>",
        "http://host:8000/x?mail=a@b.c and a@b.c:d",
        "4006381333931",
        "355620000000003",
        "4111111111111112",
        "5000000000000009",
        "2026-11-22 09:16:12.123456",
        "550e8400-e29b-4111-1111-111111111111",
        "token: [1]",
        '{"name": "token", "note": "password: blue"}',
        "{unquoted: token}",
    ],
)
def test_data_that_is_surely_no_secret_stays(text: str) -> None:
    assert text == REDACTOR.redact_data(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a {JWT}", "a [redacted]"),
        (f"card {CARD}.", "card [redacted]."),
        ("4111111111111111", "[redacted]"),
        ("3782-822463-10005", "[redacted]"),
        ("2223003122003222", "[redacted]"),
        ("6011 1111 1111 1117", "[redacted]"),
        ("see postgres://ada:pw@host/db", "see postgres://ada:[redacted]@host/db"),
        ('{"password": "a", "note": "token: blue"}', '{"password": "[redacted]", "note": "token: blue"}'),
        ('\n[{"a": {"api_key": {"x": 1}}}]', '\n[{"a": {"api_key": "[redacted]"}}]'),
    ],
)
def test_data_is_redacted_only_of_certain_secrets(text: str, expected: str) -> None:
    assert expected == REDACTOR.redact_data(text)
    assert expected == REDACTOR.redact_data(expected)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", True),
        ("a@b.c", True),
        ("http://host:8000/x", True),
        ("http://host/ and a@b.c", True),
        ("2026-11-22 09:16:12.123456", True),
        ('say "yes"\n', True),
        (JWT, False),
        (CARD, False),
        (PEM, False),
        (HASHES[0], False),
        ("https://ada:pw@host", False),
        ('{"password": "a"}', False),
    ],
)
def test_clean_data_is_recognized_by_its_json(text: str, left: bool) -> None:
    assert left == REDACTOR.is_clean(dumps({"field": text}))
    assert not left or text == REDACTOR.redact_data(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("?token=abc&x=1", "?token=[redacted]&x=1"),
        ("GET /a?x=1&api_key=s3cr3t HTTP/1.1", "GET /a?x=1&api_key=[redacted] HTTP/1.1"),
        ("Authorization: Bearer xyz", "Authorization: [redacted]"),
        ("authorization=Bearer xyz now", "authorization=[redacted] now"),
        ("Authorization: Digest username=\"a\", response=\"b\"\nHost: c", "Authorization: [redacted]\nHost: c"),
        ("{'Authorization': 'Bearer xyz', 'a': 1}", "{'Authorization': '[redacted]', 'a': 1}"),
        ("Cookie: a=1; b=2\r\nHost: c", "Cookie: [redacted]\r\nHost: c"),
        ("sent Bearer abc123.", "sent Bearer [redacted]"),
        ("sent bearer xyz", "sent bearer [redacted]"),
        ("sent Basic dXNlcjpwYXNz now", "sent Basic [redacted] now"),
        ("postgres://ada:pw@host:5432/db", "postgres://ada:[redacted]@host:5432/db"),
        ("postgres://ada:p/w#x@host/db", "postgres://ada:[redacted]@host/db"),
        ("redis://:pw@host", "redis://:[redacted]@host"),
        ("smtp://ada@example.com:pw@host:587", "smtp://ada@example.com:[redacted]@host:587"),
        ("?to=smtp%3A%2F%2Fada%2540example.com%3Apw%40host", "?to=smtp://ada@example.com:[redacted]@host"),
        ("assert password == 'hunter2'", "assert password == '[redacted]'"),
        ("token === abc", "token === [redacted]"),
        ("if token != 'abc':", "if token != '[redacted]':"),
        ("token := 'abc'", "token := '[redacted]'"),
        ("password[]=hunter2&a=1", "password[]=[redacted]&a=1"),
        ("密钥Basic dXNlcjpwYXNz", "密钥Basic [redacted]"),
        ("错误Incorrect integer value: 'hunter2'", "错误Incorrect integer value: '[redacted]'"),
        ("password=hunter2, user=ada", "password=[redacted], user=ada"),
        ("password: hunter2", "password: [redacted]"),
        ("password=a,b)c next", "password=[redacted] next"),
        ("url: password=abc", "url: password=[redacted]"),
        ("password => 'a b'", "password => '[redacted]'"),
        ('{"password": "a \\"b", "n": 1}', '{"password": "[redacted]", "n": 1}'),
        ('{"pin": 1234, "n": 1}', '{"pin": "[redacted]", "n": 1}'),
        ('{"token": ["a", "b"], "n": 1}', '{"token": "[redacted]", "n": 1}'),
        (r'"{\"password\": \"abc\", \"n\": 1}"', r'"{\"password\": \"[redacted]\", \"n\": 1}"'),
        ("User(password=b'a b', n=1)", "User(password='[redacted]', n=1)"),
        ("environ['SECRET_KEY'] = 'x y'", "environ['SECRET_KEY'] = '[redacted]'"),
        ("API key: abc", "API key: [redacted]"),
        ("createuser --password hunter2 --name ada", "createuser --password [redacted] --name ada"),
        ("createuser --password=hunter2", "createuser --password=[redacted]"),
        ('DETAIL:  Key (token)=(abc) already exists.', "DETAIL:  Key (token)=([redacted]) already exists."),
        ("Key (email, token)=(a@b.c, x) is not present", "Key (email, token)=([redacted]) is not present"),
        ("Failing row contains (1, ada, hunter2).", "Failing row contains ([redacted])"),
        ("Duplicate entry 'abc' for key 'authtoken_token.PRIMARY'",
         "Duplicate entry '[redacted]' for key 'authtoken_token.PRIMARY'"),
        (f"card {CARD} 12/26", "card [redacted] 12/26"),
        ("3782-822463-10005", "[redacted]"),
        ("n=2223003122003222", "n=[redacted]"),
        ("12 4222222222222, 1", "12 [redacted], 1"),
        ("see /reset/MQ/c8m2xp-0123456789abcdef0123456789abcdef/", "see /reset/MQ/[redacted]/"),
        ("password={'a': {'b': 'x'}, 'c': ')}'}, n=1", "password=[redacted], n=1"),
        (r'{"a": "{\"token\": {\"b\": [1]}, \"n\": 1}"}', r'{"a": "{\"token\": \"[redacted]\", \"n\": 1}"}'),
        ("token: (a) next", "token: [redacted] next"),
        ("<user>ada</user><password>a b</password>", "<user>ada</user><password>[redacted]</password>"),
        ('<ns:token a="1"><b>x</b></ns:token>', '<ns:token a="1">[redacted]</ns:token>'),
        ('--x\r\nContent-Disposition: form-data; name="password"\r\n\r\na b\r\nc\r\n--x--',
         '--x\r\nContent-Disposition: form-data; name="password"\r\n\r\n[redacted]\r\n--x--'),
        ('b\'--x\\r\\nContent-Disposition: form-data; name="password"\\r\\n\\r\\nhunter2\\r\\n--x--\'',
         'b\'--x\\r\\nContent-Disposition: form-data; name="password"\\r\\n\\r\\n[redacted]\\r\\n--x--\''),
        ('form-data; name="token"; filename="a"\nContent-Type: text/plain\n\nx',
         'form-data; name="token"; filename="a"\nContent-Type: text/plain\n\n[redacted]'),
        ("('password', 'a b')", "('password', '[redacted]')"),
        ("[(b'cookie', b'a=1; b'), (b'host', b'c')]", "[(b'cookie', b'[redacted]'), (b'host', b'c')]"),
        ("Command '['mysql', '--password', 'a b', '-h', 'x']' failed",
         "Command '['mysql', '--password', '[redacted]', '-h', 'x']' failed"),
        ('{"name": "DB_PASSWORD", "value": "a"}', '{"name": "DB_PASSWORD", "value": "[redacted]"}'),
        ("/in/bob:1vXyZ9:0123456789abcdefghij-_KLMNOPQRSTUVWXYZabcde/", "/in/[redacted]/"),
        ("/in/.eJxLyk8CAAJfAUU:1vXyZ9:0123456789abcdefghij-_KLMNO/", "/in/[redacted]/"),
        ("https://x/cb?code=4/0AX&state=xyz", "https://x/cb?code=[redacted]&state=xyz"),
        ("see https://x/?next=%2Fa%3Ftoken%3Dabc now", "see https://x/?next=/a?token=[redacted] now"),
        ("password%253Dhunter2", "password=[redacted]"),
        ('column "a" does not exist\nLINE 1: SELECT \'hunter2\'\n               ^',
         'column "a" does not exist\nLINE 1: [redacted]\n               ^'),
        ('for type json\nDETAIL:  Token "hunter2" is invalid.\nCONTEXT:  JSON data, line 1: hunter2',
         'for type json\nDETAIL:  Token "[redacted]" is invalid.\nCONTEXT:  JSON data, line 1: [redacted]'),
        ('invalid input syntax for type integer: "hunter2"', 'invalid input syntax for type integer: "[redacted]"'),
        ("Incorrect integer value: 'hunter2' for column 'a' at row 1",
         "Incorrect integer value: '[redacted]' for column 'a' at row 1"),
        ("the right syntax to use near 'hunter2' at line 1", "the right syntax to use near '[redacted]' at line 1"),
    ],
)  # fmt: skip
def test_secrets_are_taken_out_of_text(text: str, expected: str) -> None:
    assert expected == redact_text(text)
    assert expected == redact_text(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello world",
        "ordinary text, nothing: here",
        "Basic authentication is required",
        "Basic information",
        "Bearer authentication or token missing, bearer of news",
        "http://host:8000/x?mail=a@b.c",
        "ssh://git@host/repository",
        "ssh://git@host:owner/repository@v1",
        "https://ada@host:8443/image@2x.png",
        "Key (email)=(a@b.c) already exists.",
        "Duplicate entry 'a@b.c' for key 'auth_user.email'",
        "primary key: 7, sort_key=name, author: ada",
        "4111 1111 1111 1112",
        "1234567890123456",
        "12345678-1234-1234-1234-123456789012",
        "2026-11-22 09:16:12.123456",
        "0.4111111111111111",
        "token",
        "token=",
        "a == b",
        'DETAIL:  Key (customer_id)=(5) is not present in table "shop_customer".',
        "fields ('name', 'password')",
        "usage: login <user> <password> now",
        "image x@sha256:0123456789abcdef0123456789abcdef or sha:sha256:0123456789abcdef0123456789abcdef",
        "?code=404&page=2",
        "100%25 of 5%",
        "don't [a",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert text == redact_text(text)


def test_text_is_searched_for_the_extra_names_too() -> None:
    assert "iban=DE02 x" == redact_text("iban=DE02 x")
    assert "iban=[redacted] x" == Redactor(["iban"]).redact_text("iban=DE02 x")


@pytest.mark.parametrize(
    "piece",
    ["a", "=", "a:", "token=", "token='", 'token="\\', "token=,", "token=[", "cookie:", "x-", " key: ", "--a ", "1 ",
     "1-4111", "4111", "eyJ", "eyJaaaaaaaaaaaaaa.", "$2b$", "md5$a", "://:a", "-----BEGIN ", "Key (a)=(",
     "token=['", "token={\\'",
     "\\", '\\\\"token\\\\": \\\\"', "://a@b:", "AB12 ", 'name="a"\\n', "<token>", "</token><a ",
     'name="token"\n\n', 'name="a"\na:b', "('token', ",
     "'--token','", '{"name":"token","value":', "a:1bcdef:", "a@", "%25", "%", "code=state=", "\nLINE 1: ",
     '\nDETAIL: "', "to use near '",
     "gh", "ghp_", "sk-", "xox", "AKIA", "gAAAAA", "1:A", "{SHA}a", "https://a1", "1.", "aB3=", "hooks.slack.com/",
     "-----BEGIN PRIVATE KEY-----", "Duplicate entry '", " row Failing row contains (", "Bearer ", "/aaaaaa-0", "\\\""],
)  # fmt: skip
def test_a_hostile_text_costs_linear_time(piece: str) -> None:
    def cost(length: int) -> float:
        text = (piece * length)[:length]
        costs = []
        for _ in range(3):
            start = process_time()
            redact_text(text)
            costs.append(process_time() - start)
        return min(costs)

    # Eight times the text: a quadratic search takes 64 times as long.
    assert cost(32_000) < 24 * cost(4_000) + 0.005


@given(st.text(alphabet="ab:=-$'\"[({})]&;, \\/@?#\n1459token", max_size=80))
def test_a_secret_is_redacted_in_every_context(around: str) -> None:
    assert JWT not in redact_text(f"{around} {JWT} {around}")
    assert "hunter2" not in redact_text(f"{around} password=hunter2")
    assert CARD not in redact_text(f"{around}; {CARD};")


@given(st.text())
def test_any_text_can_be_searched(text: str) -> None:
    assert isinstance(redact_text(text), str)
    assert isinstance(redact_path(text), str)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ""),
        ("a=1&b=2", "a=1&b=2"),
        ("token=abc&x=1", "token=[redacted]&x=1"),
        ("x=1;token=abc", "x=1;token=[redacted]"),
        ("pass%77ord=abc", "pass%77ord=[redacted]"),
        ("next=%2Fa%3Ftoken%3Dabc&x=1", "next=[redacted]&x=1"),
        ("a&b=%20", "a&b=%20"),
        ("token=a=b", "token=[redacted]"),
        (JWT, "[redacted]"),
        ("code=abc&state=xyz", "code=[redacted]&state=xyz"),
        ("code=abc&page=2", "code=abc&page=2"),
        ("country_code=at&state=xyz", "country_code=at&state=xyz"),
        ("next=%252Fa%253Ftoken%253Dabc", "next=[redacted]"),
        ("a=" + "%25" * 1 + "25" * 20, "a=[redacted]"),
        ("p%2561ssword=abc", "p%2561ssword=[redacted]"),
    ],
)
def test_a_query_string_loses_its_secret_values(query: str, expected: str) -> None:
    assert expected == redact_query(query)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/orders/12/", "/orders/12/"),
        ("/orders/?page=2", "/orders/?page=2"),
        ("/orders/?token=a&page=2", "/orders/?token=[redacted]&page=2"),
        ("/in/#access_token=abc&x=1", "/in/#access_token=[redacted]&x=1"),
        ("/reset/MQ/c8m2xp-0123456789abcdef0123456789abcdef/", "/reset/MQ/[redacted]/"),
        ("/reset/MQ/set-password/", "/reset/MQ/set-password/"),
        (f"/in/{JWT}/", "/in/[redacted]/"),
        ("/a%2520b/", "/a%2520b/"),
        ("/in/password%253Dabc", "/in/password=[redacted]"),
        ("/in/ImJvYiI%3A1vXyZ9%3A0123456789abcdefghij/", "/in/[redacted]/"),
    ],
)
def test_a_path_loses_its_secrets(path: str, expected: str) -> None:
    assert expected == redact_path(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (7, 7),
        ("password=x", "password=[redacted]"),
        (b"password=x", b"password=[redacted]"),
        (b"\xff\x00", b"\xff\x00"),
        ({"password": "x", "name": "ada"}, {"password": REDACTED, "name": "ada"}),
        ({"a": [{"token": 1}]}, {"a": [{"token": REDACTED}]}),
        ({"credentials": {"username": "ada", "password": "x"}},
         {"credentials": {"username": "ada", "password": REDACTED}}),
        ({"credentials": "ada:x"}, {"credentials": REDACTED}),
        ({"setting": "SECRET_KEY", "value": "x"}, {"setting": "SECRET_KEY", "value": REDACTED}),
        ({"setting": "DEBUG", "value": True}, {"setting": "DEBUG", "value": True}),
        ([(b"cookie", b"a=1"), (b"host", b"b")], [(b"cookie", REDACTED), (b"host", b"b")]),
        (("a", "b"), ("a", "b")),
        ({"a", "pin=1"}, {"a", "pin=[redacted]"}),
        (range(3), range(3)),
        ({1: "token=x"}, {1: "token=[redacted]"}),
        ({"token=x": 1}, {"token=[redacted]": REDACTED}),
        ({"Name": "DB_PASSWORD", "Value": "x", "n": 1}, {"Name": "DB_PASSWORD", "Value": REDACTED, "n": 1}),
        ({"field": "password", "old": "x", "new": "y"}, {"field": "password", "old": REDACTED, "new": REDACTED}),
        ([["Authorization", "x"], ["Host", "y"]], [["Authorization", REDACTED], ["Host", "y"]]),
        (["password", "email"], ["password", "email"]),
        (["mysql", "--password", "x", "-h", "y"], ["mysql", "--password", REDACTED, "-h", "y"]),
        (("--password=x", "y"), ("--password=[redacted]", REDACTED)),
        (["--password=x", "y", "z"], ["--password=[redacted]", "y", "z"]),
    ],
)  # fmt: skip
def test_containers_lose_their_secrets(value: Any, expected: Any) -> None:
    assert expected == redact(value, REDACTOR)


def test_redacting_changes_nothing_it_was_given() -> None:
    value = {"password": "x", "list": ["token=x"]}
    redact(value, REDACTOR)
    assert {"password": "x", "list": ["token=x"]} == value


def test_a_container_within_itself_ends() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert [1, REDACTED] == redact(value, REDACTOR)


def test_depth_is_bounded() -> None:
    value: Any = "token=x"
    for _ in range(5_000):
        value = [value]
    result = redact(value, REDACTOR)
    for _ in range(20):
        (result,) = result
    assert REDACTED == result


def test_a_lazy_object_is_not_woken() -> None:
    lazy = SimpleLazyObject(lambda: pytest.fail("it was woken"))
    (found,) = redact([lazy], REDACTOR)
    assert found is lazy


def test_an_unknown_object_is_handed_back() -> None:
    value = object()
    assert value is redact(value, REDACTOR)


def test_a_set_stays_of_its_kind() -> None:
    for value in ({"plain"}, frozenset({"plain"})):
        assert (type(value), value) == (type(found := redact(value, Redactor())), found)


# One text for each shape at least, and what is around shapes: of these the texts below are made.
PIECES = [
    *HASHES, JWT, PEM, *TOKENS.values(), f"https://{LETTERS[:24]}@host", "4111.1111.1111.1111",
    CARD, "4111111111111111", "6011 1111 1111 1117",
    "postgres://ada:pw@host/db", "redis://:pw@h", "://", "@", ":", "a:b@c",
    "Key (token)=(abc) already exists.", "?code=abc", "&state=xyz", "bob:1vXyZ9:0123456789abcdefghij",
    "Cookie: a", "proxy-AUTHORIZATION : x", "password=hunter2", "token: (a)", "API key => 'x'", "environ['KEY'] = 1",
    '{"password": "a"}', '[{"pin":1}]', "('password', 'a')", "['--token', 'b']", '{"name":"token","value":"x"}',
    'invalid input syntax for type integer: "x"', "Incorrect integer value: 'x'", "to use near 'x",
    "LINE 1: SELECT 1", "CONTEXT:  JSON data, line 1: x", 'DETAIL:  Token "x" is', '; name="password"\n\nx',
    "<password>x</password>", "--password x", "Bearer abc1", "bAsIc dXNlcjpw", "basic information",
    "/c8m2xp-0123456789abcdef0123456789abcdef", "Failing row contains (1).", "FAILING ROW CONTAINS (1",
    "Duplicate entry 'a' for key 't.token'", "password%3Dx", "p%2561ss%3Dx", "%3a%",
    *"$:@=/'\"\\,<>()[]{}-_.% \n\t\0é1", "a", "J", "eyJ", "\u2028", "\ud800", "row ", "5 ",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=6).map("".join)


@pytest.mark.parametrize("shape", [*DATA_SHAPES, *TEXT_SHAPES])
def test_every_shape_is_among_the_pieces(shape: Shape) -> None:
    changed = [(one, two) for one in PIECES for two in PIECES if shape.take_out(one + two, REDACTOR) != one + two]
    assert changed


@given(texts)
def test_a_text_without_the_signs_of_a_shape_holds_none(text: str) -> None:
    for shapes in (DATA_SHAPES, TEXT_SHAPES):
        assert Search(shapes).may_change(text) or all(shape.take_out(text, REDACTOR) == text for shape in shapes)
        for shape in shapes:
            assert shape.take_out(text, REDACTOR) == text or Search([shape]).may_change(text)


@given(texts)
def test_data_with_secrets_is_recognized_by_its_json(text: str) -> None:
    text = text.replace("\ud800", "")  # is replaced before it becomes JSON
    assert REDACTOR.redact_data(text) == text or not REDACTOR.is_clean(dumps({"field": text}))
    for shape in DATA_SHAPES:
        json = dumps({"field": text})
        assert shape.take_out(text, REDACTOR) == text or Search([shape], in_json=True).may_change(json)


@given(texts)
def test_a_text_is_the_same_with_all_shapes_tried(text: str) -> None:
    clean = text
    for shape in TEXT_SHAPES:
        clean = shape.take_out(clean, REDACTOR)
    assert clean == redact_text(text)


@pytest.mark.parametrize("token", TOKEN_TABLE, ids=lambda token: token.issuer)
@settings(max_examples=20)
@given(data=st.data())
def test_the_first_look_misses_no_token_of_the_table(token: Token, data: st.DataObject) -> None:
    head = data.draw(st.sampled_from(token.prefixes))
    pattern = re.compile(f"{token.before}{re.escape(head)}{token.body}", re.ASCII)
    text = f"a_b-c.d/A {data.draw(st.from_regex(pattern, fullmatch=True))}"
    assert REDACTED in REDACTOR.redact_data(text)
    assert REDACTED in REDACTOR.redact_text(text)
    assert not REDACTOR.is_clean(dumps({"field": text}))
