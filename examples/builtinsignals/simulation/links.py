"""The pages of the dashboard that are worth opening after the visit."""

from __future__ import annotations

from collections.abc import Iterator

ROOT = "/signalbox/"


def find_links() -> Iterator[tuple[str, str]]:
    """Yield what each page shows, and its path. A page about an event that was not recorded is left out."""
    from signalbox.models import Delivery, Event

    events = Event.objects.order_by("-id")
    yield "all requests, commands and deliveries, live", ROOT
    if failed := events.filter(signal="got_request_exception").first():
        yield "a request that failed", f"{ROOT}trace/{failed.trace_id}/"
    if undone := events.filter(sender="shop.Order", signal="post_save", outcome="rolled_back").first():
        yield "the checkout that was rolled back", f"{ROOT}trace/{undone.trace_id}/"
    if product := events.filter(sender="shop.Product", signal="post_save", outcome="committed").last():
        yield "everything that happened to one product", f"{ROOT}object/?sender=shop.Product&key={product.object_key}"
    if Delivery.objects.filter(state=Delivery.DEAD).exists():
        yield "a delivery that failed three times: a dead letter", f"{ROOT}deliveries/?state=dead"
    yield "all deliveries", f"{ROOT}deliveries/"
    yield "broken receivers, found by the doctor", f"{ROOT}doctor/"
    yield "the map of signals and receivers", f"{ROOT}map/"
    yield "the status of recording and of the worker", f"{ROOT}health/"
