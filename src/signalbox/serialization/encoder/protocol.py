"""The interface of a redactor for the encoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol


class RedactorProtocol(Protocol):
    """Decides which values are secret. `signalbox.serialization.redaction.Redactor` is one."""

    @property
    def placeholder(self) -> str:
        """The text that replaces a secret."""

    def is_secret(self, name: str, /) -> bool:
        """Return whether a value with this name is secret."""

    def is_configured_field(self, label: str, name: str, /) -> bool:
        """Return whether the settings make this field of the model with this label in lower case secret."""

    def is_clear_field(self, label: str, name: str, /) -> bool:
        """Return whether this encrypted field of the model with this label in lower case is not secret."""

    def should_redact(self, name: str, value: object, /) -> bool:
        """Return whether this value with this name is secret."""

    def get_secret_value_keys(self, mapping: Mapping[Any, Any], /) -> Collection[str]:
        """Return the keys of this mapping whose values are secret because another entry has a secret name."""

    def is_secret_flag(self, item: object, /) -> bool:
        """Return whether this item of a sequence is a secret name of the next item."""

    def is_secret_pair(self, pair: Sequence[Any], /) -> bool:
        """Return whether this is a secret name with its value."""

    def redact_text(self, text: str, /) -> str:
        """Return free text without secrets."""

    def redact_data(self, text: str, /) -> str:
        """Return the text of a field without the texts that are certainly secrets."""

    def is_clean(self, text: str, /) -> bool:
        """Return True only if `redact_data` changes none of the texts in this JSON text."""
