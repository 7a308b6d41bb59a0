"""What the tests of each file leave behind is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connections

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def _close_other_database() -> Iterator[None]:
    """Close the connection that a collector of deliveries has opened, as a later test may not use it."""
    yield
    connections["other"].close()
