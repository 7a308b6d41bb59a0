"""The tables of shapes that secrets have in data and in other texts."""

from __future__ import annotations

import re
from typing import Final

from signalbox.serialization.redaction.api_tokens import TOKEN_SHAPES
from signalbox.serialization.redaction.cards import (
    DIGIT_RUN,
    MIN_CARD_DIGITS,
    PAYMENT_CARD,
    SHORTEST_NUMBER,
    has_digits,
    redact_cards,
    redact_payment_card,
)
from signalbox.serialization.redaction.credentials import (
    DIRECTORY_HASH,
    PASSWORD_HASH,
    PRIVATE_KEY,
    RESET_LINK,
    SIGNED_TOKEN,
    TIME,
    TIMESTAMPED_TOKEN,
    build_address_probe,
    may_have_directory_hash,
    redact_address,
)
from signalbox.serialization.redaction.database_errors import (
    DETAIL_KEY,
    DUPLICATE_ENTRY,
    FAILING_ROW,
    INVALID_INPUT,
    redact_database_error,
    redact_details,
    redact_excerpts,
)
from signalbox.serialization.redaction.headers import AUTH_SCHEME, SECRET_HEADER, redact_auth_scheme, redact_code
from signalbox.serialization.redaction.markup import find_secret_elements, redact_secret_parts, replace_spans
from signalbox.serialization.redaction.named_values import redact_json, redact_named, redact_options, redact_pairs
from signalbox.serialization.redaction.percent_encoding import UNQUOTED_RUN, redact_decoded
from signalbox.serialization.redaction.placeholder import REDACTED
from signalbox.serialization.redaction.search import Search, Shape, ask, replace

_CREDENTIAL_SHAPES: Final = (
    Shape(["$"], replace(PASSWORD_HASH, REDACTED), re.compile(r"\$[^\s\"'<>]{8}").search),
    Shape(["eyJ"], replace(SIGNED_TOKEN, REDACTED), re.compile(r"J(?<=eyJ)[\w-]{12}").search),
    Shape(["-----BEGIN"], replace(PRIVATE_KEY, REDACTED)),
    Shape(["}"], replace(DIRECTORY_HASH, REDACTED), may_have_directory_hash),
    *TOKEN_SHAPES,
)
_MAX_PART: Final = 256
"""Characters of a user or a password in an address."""
_ADDRESS_SHAPE: Final = Shape(
    ["@", "://"],
    redact_address,
    build_address_probe(_MAX_PART),
    build_address_probe(6 * _MAX_PART),  # a character takes up to six in JSON
)
_CARD_STARTS: Final = tuple("45362")
DATA_SHAPES: Final = (
    *_CREDENTIAL_SHAPES,
    _ADDRESS_SHAPE,
    Shape([_CARD_STARTS], replace(PAYMENT_CARD, redact_payment_card), has_digits(MIN_CARD_DIGITS)),
    Shape(['":'], redact_json),
)
TEXT_SHAPES: Final = (
    *_CREDENTIAL_SHAPES,
    _ADDRESS_SHAPE,
    Shape([")=(", "Key ("], ask(DETAIL_KEY, lambda match, redactor: redact_database_error(match, match[2], redactor))),
    Shape(["code=", "state="], redact_code),
    Shape([":"], replace(TIMESTAMPED_TOKEN, REDACTED), re.compile(TIME).search),
    Shape([":", ("cookie", "authorization")], replace(SECRET_HEADER, rf"\1{REDACTED}"), ignore_case=True),
    Shape([("=", ":")], redact_named),
    Shape([("',", '",')], redact_pairs),
    Shape([("'", '"'), ("nvalid ", "ncorrect ", "to use near ")], replace(INVALID_INPUT, rf"\1\2{REDACTED}\3")),
    Shape([("\n", "\\n"), ("LINE ", "CONTEXT:")], redact_excerpts),
    Shape([("\n", "\\n"), "DETAIL:"], redact_details),
    Shape(['name="', ("\n", "\\n")], redact_secret_parts),
    Shape(["</"], lambda text, redactor: replace_spans(text, find_secret_elements(text, redactor))),
    Shape(["--"], redact_options),
    Shape(["b"], replace(AUTH_SCHEME, redact_auth_scheme), re.compile("b(?:asic|earer)").search, ignore_case=True),
    Shape(["/", "-"], replace(RESET_LINK, "/" + REDACTED), has_long_word=True),
    Shape(["failing row contains ("], replace(FAILING_ROW, rf"\1{REDACTED})"), ignore_case=True),
    Shape(
        ["Duplicate entry "],
        ask(DUPLICATE_ENTRY, lambda match, redactor: redact_database_error(match, match[3], redactor)),
    ),
    Shape([_CARD_STARTS], replace(DIGIT_RUN, redact_cards), has_digits(SHORTEST_NUMBER)),
    Shape(
        ["%"],
        ask(UNQUOTED_RUN, lambda run, redactor: redact_decoded(run[0], redactor)),
        re.compile("%[0-9A-Fa-f]{2}").search,
    ),
)


CREDENTIALS: Final = Search(_CREDENTIAL_SHAPES)
DATA: Final = Search(DATA_SHAPES)
DATA_IN_JSON: Final = Search(DATA_SHAPES, in_json=True)
TEXT: Final = Search(TEXT_SHAPES)
