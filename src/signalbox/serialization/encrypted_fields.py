"""Recognizes model fields that a package encrypts in their column."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_ENCRYPTION = re.compile(
    r"(?<!un)(?<!not)encrypt(?:ed|ion)?|fernet|cryptograph|pgcrypto|crypto_fields|pgp(?:public|symmetric)",
    re.IGNORECASE,
)
"""Words in the dotted names of the fields of django-fernet-fields, django-cryptography, django-encrypted-model-fields,
django-encrypted-fields, django-searchable-encrypted-fields, django-fernet-encrypted-fields, django-mirage-field,
django-secured-fields, django-crypto-fields, django-cryptographic-fields and django-pgcrypto-fields. November 2026."""


def is_encrypted_field(field: Any) -> bool:
    """Return whether the name of a class of the field, or of its module, shows that the column is encrypted."""
    field_class: Any = type(field)
    return _is_encrypted_class(field_class)


@cache
def _is_encrypted_class(field_class: Any) -> bool:
    return any(
        _ENCRYPTION.search(f"{base.__module__}.{base.__qualname__}")
        for base in field_class.__mro__
        if not base.__module__.startswith(("django.db.", "django.contrib."))
    )
