"""django-debug-toolbar: what its panels show of the site's requests is compared."""

from __future__ import annotations

from typing import Any

from tests.neighbours.observing import Observer
from tests.neighbours.works import books


def paths() -> list[Any]:
    from debug_toolbar.toolbar import debug_toolbar_urls

    return list(debug_toolbar_urls())


def work(observe: Observer) -> None:
    """Do the work with books; the toolbar records that of the requests."""
    from debug_toolbar.store import get_store

    store = get_store()
    store.clear()
    books.everything(observe)
    for number, key in enumerate(store.request_ids()):
        observe.keep(f"request {number}, statements, {observe.how}", statements(store.panel(key, "SQLPanel")))
        observe.keep(f"request {number}, signals, {observe.how}", signals(store.panel(key, "SignalsPanel")))


def statements(panel: dict[str, Any]) -> list[list[Any]]:
    """Return the panel's statements. The state of the transaction is left out: recording opens one for a write."""
    return [[query["raw_sql"], query["sql"], query["params"]] for query in panel.get("queries", [])]


def signals(panel: dict[str, Any]) -> dict[str, list[str]]:
    """Return the receivers that the panel shows; those of ``setting_changed`` depend on which modules are loaded."""
    return {name: receivers for name, receivers in panel.get("signals", []) if name != "setting_changed"}
