"""The filter of the page "Deliveries", as its URLs and forms contain it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from django.http import Http404
from django.utils.http import urlencode
from django.utils.translation import gettext

from signalbox.models import Delivery
from signalbox.outbox import queue
from signalbox.queries import delivery_groups
from signalbox.queries.delivery_filters import DeliveryTokens
from signalbox.queries.filter_language import Token
from signalbox.queries.timeline_filter import TEXT_PARAM, clean_param

if TYPE_CHECKING:
    from django.db.models import QuerySet

SHORT_PARAMS: Final = ("receiver", "state")
"""Parameters of links that are short forms of tokens."""


class FilterChip(NamedTuple):
    """One token of the filter."""

    name: str
    value: str
    query_string: str
    """The query string without it."""


def get_alias(params: Any) -> str:
    """Return the requested database alias, by default that of the router; 404 for other databases."""
    alias: str = params.get("using") or queue.get_deliveries_database()
    if alias not in queue.get_delivery_databases():
        text = gettext("Unknown database “%(name)s”. Use one of: %(names)s.")
        raise Http404(text % {"name": alias, "names": ", ".join(queue.get_delivery_databases())})
    return alias


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries are shown, and whether as a list or in groups."""

    alias: str
    tokens: DeliveryTokens
    is_list: bool = False
    """Whether they are a list by age instead of groups."""

    @classmethod
    def parse(cls, params: Any, alias: str) -> Self:
        """Return the filter of a query string or a form."""
        short = {name: clean_param(params.get(name, "")).strip() for name in SHORT_PARAMS}
        added = [str(Token(name, ":", (value,))) for name, value in short.items() if value]
        text = " ".join([params.get(TEXT_PARAM, ""), *added])
        return cls(alias, DeliveryTokens.parse(text), params.get("view") == "list")

    @property
    def state(self) -> str:
        """The state that all of them have; empty if there is none, or several."""
        return self.tokens.state

    def find(self) -> QuerySet[Delivery]:
        """Return the deliveries, the newest first; none for a filter that is not valid."""
        return self._select(self.tokens)

    def find_in_all_states(self) -> QuerySet[Delivery]:
        """Return the deliveries, also in other states."""
        return self._select(self.tokens.without_states())

    def _select(self, tokens: DeliveryTokens) -> QuerySet[Delivery]:
        deliveries = Delivery.objects.using(self.alias).order_by("-id")
        if tokens.error:
            return deliveries.none()
        found = deliveries.filter(tokens.to_q(self.alias))
        return delivery_groups.limit_search(found, tokens.state) if tokens.has_others else found

    def build_query_string(self, **more: str | None) -> str:
        """Return the filter as a query string, with further parameters. Those that are empty are left out."""
        using = "" if self.alias == queue.get_deliveries_database() else self.alias
        params = {"using": using, TEXT_PARAM: self.tokens.text, "view": "list" if self.is_list else ""}
        return urlencode({name: value for name, value in (params | more).items() if value})

    def build_state_query_string(self, state: str) -> str:
        """Return the query string for the same deliveries in another state; in all if it is empty."""
        return self.build_query_string(**{TEXT_PARAM: self.tokens.with_state(state)})

    def list_chips(self) -> list[FilterChip]:
        """Return the tokens of a valid filter."""
        return [
            FilterChip(name, value, self.build_query_string(**{TEXT_PARAM: rest}))
            for name, value, rest in self.tokens.list_chips()
        ]

    @property
    def other_view_query_string(self) -> str:
        """The same deliveries as a list instead of groups, or the other way round."""
        return dataclasses.replace(self, is_list=not self.is_list).build_query_string()

    @property
    def unfiltered_query_string(self) -> str:
        """All deliveries of the database."""
        return self.build_query_string(**{TEXT_PARAM: ""})
