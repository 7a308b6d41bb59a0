"""Optional packages that tests need."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests import services


def _is_installed(name: str) -> bool:
    parent = name.rpartition(".")[0]
    return (not parent or _is_installed(parent)) and find_spec(name) is not None


def require(*names: str) -> None:
    """Skip the calling module if a package is missing; fail in CI, where everything is installed."""
    for name in names:
        if not _is_installed(name):
            reason = f"no {name}: run `make environment`, or pip install --group test"
            if services.are_services_required():
                pytest.fail(f"{reason} (SIGNALBOX_REQUIRE_SERVICES is set)", pytrace=False)
            pytest.skip(reason, allow_module_level=True)
