"""Encodes any Python object as limited JSON that every database accepts.

The code of the object is not trusted: its class is read by `type()`, and only methods of built-in types are called.
An object of an unknown class is replaced by the name of its class, not by its `repr()`. Encoding runs no query, reads
no file and consumes no iterator. A redactor, given as an argument, decides which values are secret
(`signalbox.serialization.redaction.Redactor`).
"""

from __future__ import annotations

from signalbox.serialization.encoder.django_secrets import has_secret_pk, is_secret_field, redact_request_path
from signalbox.serialization.encoder.exceptions import format_exception
from signalbox.serialization.encoder.fields import dump_fields, encode_fields
from signalbox.serialization.encoder.introspection import class_placeholder
from signalbox.serialization.encoder.json_text import dumps, dumps_columns
from signalbox.serialization.encoder.limits import (
    CYCLE,
    ELLIPSIS,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ERROR,
    MAX_ITEMS,
    MAX_TEXT,
    TOO_DEEP,
    TOO_LONG,
    JSONValue,
)
from signalbox.serialization.encoder.markers import (
    ERASED,
    ERASED_KEY,
    EXPRESSION_KEY,
    LITERAL_KEY,
    NOT_RESTORABLE_KEY,
    NotRestorable,
    build_erased_mark,
    contains_erased,
    describe_not_restorable,
    is_erased,
    is_not_restorable,
    is_recorded_expression,
    unwrap_literal,
    unwrap_row_literal,
)
from signalbox.serialization.encoder.objects import encode, render
from signalbox.serialization.encoder.protocol import RedactorProtocol
from signalbox.serialization.encoder.scalars import encode_scalar

__all__ = [
    "CYCLE",
    "ELLIPSIS",
    "ERASED",
    "ERASED_KEY",
    "EXPRESSION_KEY",
    "LITERAL_KEY",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_ERROR",
    "MAX_ITEMS",
    "MAX_TEXT",
    "NOT_RESTORABLE_KEY",
    "TOO_DEEP",
    "TOO_LONG",
    "JSONValue",
    "NotRestorable",
    "RedactorProtocol",
    "build_erased_mark",
    "class_placeholder",
    "contains_erased",
    "describe_not_restorable",
    "dump_fields",
    "dumps",
    "dumps_columns",
    "encode",
    "encode_fields",
    "encode_scalar",
    "format_exception",
    "has_secret_pk",
    "is_erased",
    "is_not_restorable",
    "is_recorded_expression",
    "is_secret_field",
    "redact_request_path",
    "render",
    "unwrap_literal",
    "unwrap_row_literal",
]
