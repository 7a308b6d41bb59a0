"""The values of an object's fields at one time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from signalbox.core.display_names import get_value_label
from signalbox.core.event import UNKNOWN


class ObjectState(Mapping[str, Any]):
    """Values of an object's fields at one time: a mapping of field names to JSON values.

    A many-to-many field has the sorted list of the related keys. A value that cannot be derived from the events is
    ``UNKNOWN``. The mapping is empty if the object did not exist. If the events of the time were purged, all values are
    ``UNKNOWN``.
    """

    def __init__(
        self,
        at: dt.datetime,
        values: Mapping[str, Any] | None,
        labels: Mapping[str, Mapping[str, str]] | None = None,
        *,
        is_purged: bool = False,
    ) -> None:
        self.at = at
        """The time, an aware datetime."""
        self.is_purged = is_purged
        """Whether events of the time or after it may have been purged, so that nothing is known."""
        self.exists: bool | None = None if is_purged else values is not None
        """Whether the object existed; ``None`` if that is not known because events were purged."""
        self._values = values or {}
        self._labels = labels or {}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        text = "purged" if self.is_purged else str(dict(self._values)) if self.exists else "does not exist"
        return f"<ObjectState at {self.at.isoformat()}: {text}>"

    @property
    def unknown_fields(self) -> frozenset[str]:
        """Names of the fields with the value ``UNKNOWN``."""
        return frozenset(name for name, value in self._values.items() if value is UNKNOWN)

    def get_label(self, name: str) -> str:
        """Return the label of a field's value: of a choice, or of the object that a foreign key pointed at.

        The label of a foreign key is in the event that changed it, if the object was loaded. Without a label, the
        result is an empty text.
        """
        return get_value_label(self._labels, name, self._values.get(name))
