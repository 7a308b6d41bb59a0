"""Events and traces in Django's admin, to be read without counting a table; and the button that leads to the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html

from signalbox import catalog
from signalbox.event import Outcome
from signalbox.models import Event, Trace
from signalbox.web.formats import duration, pretty

if TYPE_CHECKING:  # they take parameters in the type checker's eyes alone
    Admin = admin.ModelAdmin[Model]
    Pages = Paginator[Any]
else:
    Admin, Pages = admin.ModelAdmin, Paginator

MOST: Final = 2_000
"""Rows that the list leads to; the page of Signalbox leads to all."""


LOOKED_AT: Final = 50_000
"""Newest rows that a filter without an index looks at."""


SHORTENED: Final = f"The list ends after the newest {MOST:,} that fit; Signalbox's own page leads to all."


class SignalboxHistory:
    """Mixin for a ``ModelAdmin``: a button beside the admin's own history leads to the object's life in Signalbox.

    ``SIGNALBOX["ADMIN_HISTORY"]`` gives it to every model.
    """

    signalbox_history = True


class NewestRows(Pages):
    """Pages over the newest ``MOST`` rows: it counts no further, and so never the table."""

    @cached_property
    def count(self) -> int:
        """How many rows there are, at most ``MOST``."""
        rows: Any = self.object_list
        return len(rows.order_by("-pk").values_list("pk")[:MOST]) if isinstance(rows, QuerySet) else len(rows)


class _Choice(admin.SimpleListFilter):
    """A filter whose choices are known without asking the table."""

    values: Sequence[str] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return [(value, value) for value in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value or not self.parameter_name:
            return queryset
        known = value in dict(self.lookup_choices)
        return queryset.filter(**{self.parameter_name: value}) if known else queryset.none()


class _AmongNewest(_Choice):
    """A filter that no index helps: it looks at the newest rows alone, and says so."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        found = super().queryset(request, queryset)
        if not self.value():
            return found
        newest = queryset.model._base_manager.order_by("-pk").values_list("pk", flat=True).first() or 0
        return found.filter(pk__gt=newest - LOOKED_AT)


class SignalFilter(_Choice):
    """By signal, as Django knows it: an index leads there."""

    title = "signal"
    parameter_name = "signal"
    values = tuple(name for name in catalog.BUILTIN if name not in ("pre_init", "post_init"))


class OutcomeFilter(_AmongNewest):
    """By outcome, among the newest rows."""

    title = f"outcome, among the newest {LOOKED_AT:,} rows"
    parameter_name = "outcome"
    values = tuple(Outcome)


class KindFilter(_AmongNewest):
    """By kind of trace, among the newest rows."""

    title = f"kind, among the newest {LOOKED_AT:,} rows"
    parameter_name = "kind"
    values = ("request", "command", "task", "work", "shell", "test", "process")


class ReadOnly(Admin):
    """Rows to be looked at: nothing is added, changed, deleted or counted."""

    paginator = NewestRows
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    ordering = ("-id",)
    sortable_by = ()
    actions = None
    search_fields = ("trace_id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by what has an index, as it is: ``iexact`` and ``icontains`` have no use for one."""
        term = search_term.strip()
        return (queryset.filter(self.named(term)) if term else queryset), False

    def named(self, term: str) -> Q:
        """Return what a row meets that ``term`` leads to."""
        return Q(trace_id=term.lower())

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: what is recorded is recorded by what happens."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse, as above."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: rows go by retention, not one by one."""
        return False

    @admin.display(description="time")
    def moment(self, row: Event | Trace) -> Any:
        """When it happened."""
        return row.at

    @admin.display(description="took")
    def took(self, row: Event | Trace) -> str:
        """How long it took."""
        return duration(row.duration)

    @admin.display(description="data")
    def details(self, row: Event | Trace) -> str:
        """What has no column of its own."""
        return format_html("<pre>{}</pre>", pretty(row.data))

    @admin.display(description="in Signalbox")
    def page(self, row: Event | Trace) -> str:
        """The way to its page, where the site has it."""
        name, key = ("event", row.pk) if isinstance(row, Event) else ("trace", row.trace_id)
        try:
            return format_html('<a href="{}">Open</a>', reverse(f"signalbox:{name}", args=[key]))
        except NoReverseMatch:
            return "\u2013"


@admin.register(Event)
class EventAdmin(ReadOnly):
    """Events, newest first."""

    list_display = ("moment", "signal", "outcome", "errors", "sender", "object_label", "actor_label", "took", "page")
    list_filter = (SignalFilter, OutcomeFilter)
    search_help_text = f"A trace id, a user's key as actor:7, or a model and a key as shop.Order:17. {SHORTENED}"
    fields = (
        *(
            "moment",
            "signal",
            "sender",
            "object_key",
            "object_label",
            "actor_key",
            "actor_label",
            "database",
            "outcome",
        ),
        *("took", "errors", "trace_id", "details", "page"),
    )
    readonly_fields = ("moment", "took", "details", "page")

    def named(self, term: str) -> Q:
        """A trace id, an actor's key, an object."""
        name, _, key = term.partition(":")
        if name == "actor":
            return Q(actor_key=key)
        return Q(sender=name, object_key=key) if key else super().named(term)


@admin.register(Trace)
class TraceAdmin(ReadOnly):
    """Traces, the last to end first."""

    list_display = (
        "moment",
        "kind",
        "name",
        "status",
        "errors",
        "rolled_back",
        "events",
        "actor_label",
        "took",
        "page",
    )
    list_filter = (KindFilter,)
    search_help_text = f"A trace id. {SHORTENED}"
    fields = (
        *("moment", "kind", "name", "actor_key", "actor_label", "status", "took", "events", "errors", "rolled_back"),
        *("trace_id", "details", "page"),
    )
    readonly_fields = ("moment", "took", "details", "page")
