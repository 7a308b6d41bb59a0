"""Signalbox in Django's admin, read without counting a table; and the button that leads from an object to the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.timezone import localtime

from signalbox.core import catalog
from signalbox.core.event import Outcome
from signalbox.dashboard.access import get_missing_tables_response
from signalbox.dashboard.deliveries import BULK_ACTION_LIMIT, CHANGE_PERMISSION
from signalbox.dashboard.formats import format_duration, format_json
from signalbox.dashboard.forms import ReplayForm
from signalbox.dashboard.links import get_delivery_url
from signalbox.models import Delivery, Event, Trace, to_datetime
from signalbox.outbox import operations, queue, registry

if TYPE_CHECKING:  # they take parameters in the type checker's eyes alone
    Admin = admin.ModelAdmin[Model]
    Pages = Paginator[Any]
else:
    Admin, Pages = admin.ModelAdmin, Paginator

MAX_ROWS: Final = 2_000
"""Rows that the list leads to; the page of Signalbox leads to all."""


MAX_SCANNED_ROWS: Final = 50_000
"""Newest rows that a filter without an index looks at."""


TRUNCATION_NOTE: Final = f"The list ends after the newest {MAX_ROWS:,} that fit; Signalbox's own page leads to all."


class HistoryAdminMixin:
    """Mixin for a ``ModelAdmin``: add a button to the change page that opens the object's history in Signalbox::

        class OrderAdmin(HistoryAdminMixin, admin.ModelAdmin): ...

    ``SIGNALBOX["DASHBOARD"]["ADMIN_HISTORY"]`` adds the button to every model.
    """

    signalbox_history = True
    """Read by the template tag that renders the button."""


class NewestRowsPaginator(Pages):
    """Pages over the newest ``MAX_ROWS`` rows: it counts no further, and so never the table."""

    @cached_property
    def count(self) -> int:
        """How many rows there are, at most ``MAX_ROWS``."""
        rows: Any = self.object_list
        return len(rows.order_by("-pk").values_list("pk")[:MAX_ROWS]) if isinstance(rows, QuerySet) else len(rows)


class _StaticChoicesFilter(admin.SimpleListFilter):
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


class _NewestRowsFilter(_StaticChoicesFilter):
    """A filter that no index helps: it looks at the newest rows alone, and says so."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        found = super().queryset(request, queryset)
        if not self.value():
            return found
        newest = queryset.model._base_manager.order_by("-pk").values_list("pk", flat=True).first() or 0
        return found.filter(pk__gt=newest - MAX_SCANNED_ROWS)


class SignalFilter(_StaticChoicesFilter):
    """By signal, as Django knows it: an index leads there."""

    title = "signal"
    parameter_name = "signal"
    values = tuple(name for name in catalog.BUILTIN_SIGNALS if name not in ("pre_init", "post_init"))


class OutcomeFilter(_NewestRowsFilter):
    """By outcome, among the newest rows."""

    title = f"outcome, among the newest {MAX_SCANNED_ROWS:,} rows"
    parameter_name = "outcome"
    values = tuple(Outcome)


class KindFilter(_NewestRowsFilter):
    """By kind of trace, among the newest rows."""

    title = f"kind, among the newest {MAX_SCANNED_ROWS:,} rows"
    parameter_name = "kind"
    values = ("request", "command", "task", "custom", "shell", "test", "process")


class StateFilter(_StaticChoicesFilter):
    """By state; those of deliveries that are pending are told apart."""

    title = "state"
    parameter_name = "state"
    values = operations.STATES

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return those of a state."""
        return operations.filter_by_state(queryset, self.value() or "")


class ReceiverFilter(_NewestRowsFilter):
    """By receiver, of those that this process knows, among the newest rows."""

    title = "receiver"
    parameter_name = "receiver"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Return the durable receivers."""
        return [(name, name) for name in sorted(registry.get_durable_receivers())]


class ReadOnlyAdmin(Admin):
    """Rows to be looked at: nothing is added, changed, deleted or counted."""

    paginator = NewestRowsPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    ordering = ("-id",)
    sortable_by = ()
    actions: Sequence[str] | None = None
    search_fields = ("trace_id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by what has an index, as it is: ``iexact`` and ``icontains`` have no use for one."""
        term = search_term.strip()
        return (queryset.filter(self.get_search_query(term)) if term else queryset), False

    def get_search_query(self, term: str) -> Q:
        """Return what a row meets that ``term`` leads to."""
        return Q(trace_id=term.lower())

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuse what PostgreSQL would not compare with."""
        return "\0" not in value and super().lookup_allowed(lookup, value, request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, or say that there are no tables yet."""
        return get_missing_tables_response() or super().changelist_view(request, extra_context)

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
    def timestamp(self, row: Event | Trace | Delivery) -> Any:
        """When it happened."""
        return localtime(row.timestamp)

    @admin.display(description="duration")
    def duration_display(self, row: Event | Trace) -> str:
        """How long it took."""
        return format_duration(row.duration)

    @admin.display(description="data")
    def details(self, row: Event | Trace) -> str:
        """What has no column of its own."""
        return format_html("<pre>{}</pre>", format_json(row.data))

    @admin.display(description="in Signalbox")
    def dashboard_link(self, row: Event | Trace | Delivery) -> str:
        """The way to its page, where the site has it."""
        try:
            return format_html('<a href="{}">Open</a>', _get_dashboard_url(row))
        except NoReverseMatch:
            return "\u2013"


def _get_dashboard_url(row: Event | Trace | Delivery) -> str:
    if isinstance(row, Delivery):
        return get_delivery_url(row)
    name, key = ("event", row.pk) if isinstance(row, Event) else ("trace", row.trace_id)
    return reverse(f"signalbox:{name}", args=[key])


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """Events, newest first."""

    list_display = (
        "timestamp",
        "signal",
        "outcome",
        "errors",
        "sender",
        "object_label",
        "actor_label",
        "duration_display",
        "dashboard_link",
    )
    list_filter = (SignalFilter, OutcomeFilter)
    search_help_text = f"A trace id, a user's key as actor:7, or a model and a key as shop.Order:17. {TRUNCATION_NOTE}"
    fields = (
        *(
            "timestamp",
            "signal",
            "sender",
            "object_key",
            "object_label",
            "actor_key",
            "actor_label",
            "database",
            "outcome",
        ),
        *("duration_display", "errors", "trace_id", "details", "dashboard_link"),
    )
    readonly_fields = ("timestamp", "duration_display", "details", "dashboard_link")

    def get_search_query(self, term: str) -> Q:
        """A trace id, an actor's key, an object."""
        name, _, key = term.partition(":")
        if name == "actor":
            return Q(actor_key=key)
        return Q(sender=name, object_key=key) if key else super().get_search_query(term)


@admin.register(Trace)
class TraceAdmin(ReadOnlyAdmin):
    """Traces, the last to end first."""

    list_display = (
        "timestamp",
        "kind",
        "name",
        "status",
        "errors",
        "rolled_back",
        "events",
        "actor_label",
        "duration_display",
        "dashboard_link",
    )
    list_filter = (KindFilter,)
    search_help_text = f"A trace id. {TRUNCATION_NOTE}"
    fields = (
        *(
            "timestamp",
            "kind",
            "name",
            "actor_key",
            "actor_label",
            "status",
            "duration_display",
            "events",
            "errors",
            "rolled_back",
        ),
        *("trace_id", "details", "dashboard_link"),
    )
    readonly_fields = ("timestamp", "duration_display", "details", "dashboard_link")


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """Deliveries, newest first, to be read; whoever may change them tries them again, lets them go, or replays."""

    list_display = ("timestamp", "receiver", "state", "attempts", "error", "sender", "object_key", "dashboard_link")
    list_filter = (StateFilter, ReceiverFilter)
    search_help_text = "A trace id."
    fields = (
        *("timestamp", "receiver", "state", "attempts", "error", "signal", "sender", "object_key", "database"),
        *(
            "ordering_key",
            "queue",
            "scheduled_for",
            "leased_until",
            "finished_at",
            "trace_id",
            "details",
            "dashboard_link",
        ),
    )
    readonly_fields = ("timestamp", "scheduled_for", "leased_until", "finished_at", "details", "dashboard_link")
    actions = ("retry", "discard")
    change_list_template = "admin/signalbox/delivery/change_list.html"

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Tell whether the actions are open to the user. Nobody edits a delivery by hand."""
        return bool(request.user.has_perm(CHANGE_PERMISSION))

    @admin.action(description="Retry: run now, with all attempts", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Let the chosen deliveries be run now."""
        self._apply_action(request, queryset, operations.retry, "to be run now")

    @admin.action(description="Discard: let go", permissions=["operate"])
    def discard(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Let the chosen deliveries go."""
        self._apply_action(request, queryset, operations.discard, "discarded")

    def _apply_action(
        self, request: HttpRequest, queryset: QuerySet[Any], action: Callable[..., int], result_text: str
    ) -> None:
        chosen = list(queryset[:BULK_ACTION_LIMIT])
        number = action(chosen, queryset.db)
        self.message_user(request, f"{number} of {len(chosen)} deliveries: {result_text}.", messages.SUCCESS)

    @admin.display(description="due")
    def scheduled_for(self, row: Delivery) -> Any:
        """Before when it is not run."""
        return localtime(to_datetime(row.run_at))

    @admin.display(description="its worker has it until")
    def leased_until(self, row: Delivery) -> Any:
        """Until when it belongs to a worker."""
        return None if row.lease_expires_at is None else localtime(to_datetime(row.lease_expires_at))

    @admin.display(description="finished")
    def finished_at(self, row: Delivery) -> Any:
        """When it was done, dead or discarded."""
        return None if row.finished is None else localtime(to_datetime(row.finished))

    @admin.display(description="payload")
    def details(self, row: Any) -> str:
        """What the receiver is given."""
        return format_html("<pre>{}</pre>", format_json(row.payload))

    def get_urls(self) -> list[URLPattern]:
        """Add the page from which past events are replayed."""
        replay_url = path("replay/", self.admin_site.admin_view(self.replay), name="signalbox_delivery_replay")
        return [replay_url, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, with the way to a replay for whoever may."""
        return super().changelist_view(
            request, {**(extra_context or {}), "can_replay": self.has_operate_permission(request)}
        )

    def replay(self, request: HttpRequest) -> HttpResponse:
        """Send past events to a receiver once more, or count them."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        form = ReplayForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            counts = "count" in request.POST
            number = form.replay(queue.get_deliveries_database(), dry_run=counts)
            self.message_user(request, f"{number} deliveries {'would be' if counts else 'were'} made.")
            if not counts:
                return HttpResponseRedirect(reverse(f"{self.admin_site.name}:signalbox_delivery_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Replay past events",
            "form": form,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/signalbox/delivery/replay.html", context)


__all__ = ["HistoryAdminMixin"]
