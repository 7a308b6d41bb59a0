"""Admin pages of events, traces and deliveries, without COUNT on a table; and the history button of other admins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.timezone import localtime

from signalbox.core import catalog
from signalbox.core.event import Outcome
from signalbox.dashboard.access import is_storable_id, refuse_nul
from signalbox.dashboard.delivery_actions import CHANGE_PERMISSION, MAX_SELECTED
from signalbox.dashboard.error_pages import get_missing_tables_response
from signalbox.dashboard.formats import format_duration, format_json
from signalbox.dashboard.forms import ReplayForm
from signalbox.dashboard.links import get_delivery_url
from signalbox.models import Delivery, Event, Trace, to_datetime
from signalbox.outbox import manual_changes, queue, registry
from signalbox.queries.event_summary import summarize_event

if TYPE_CHECKING:  # generic only for type checkers
    Admin = admin.ModelAdmin[Model]
    Pages = Paginator[Any]
else:
    Admin, Pages = admin.ModelAdmin, Paginator

MAX_ROWS: Final = 2_000
"""Maximum number of rows that the list shows. The dashboard shows all."""


MAX_LOOKUP_CHARS: Final = 200
"""Maximum length of a value in a filtered column."""


MAX_SCANNED_ROWS: Final = 50_000
"""Number of newest rows that a filter without an index scans."""


TRUNCATION_NOTE: Final = f"The list ends after the newest {MAX_ROWS:,} that fit; Signalbox's own page leads to all."


class HistoryAdminMixin:
    """Mixin for a ``ModelAdmin``: add a button to the change page that opens the object's history in Signalbox::

        class OrderAdmin(HistoryAdminMixin, admin.ModelAdmin): ...

    ``SIGNALBOX["DASHBOARD"]["ADMIN_HISTORY"]`` adds the button to every model.
    """

    signalbox_history = True
    """Read by the template tag that renders the button."""


class NewestRowsPaginator(Pages):
    """Pages over the newest ``MAX_ROWS`` rows, without counting the table."""

    @cached_property
    def count(self) -> int:
        """Number of rows, at most ``MAX_ROWS``."""
        rows: Any = self.object_list
        return len(rows.order_by("-pk").values_list("pk")[:MAX_ROWS]) if isinstance(rows, QuerySet) else len(rows)


class _StaticChoicesFilter(admin.SimpleListFilter):
    """A filter whose choices need no query."""

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
    """A filter without an index: it scans only the newest rows, and its title says so."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        found = super().queryset(request, queryset)
        if not self.value():
            return found
        newest = queryset.model._base_manager.order_by("-pk").values_list("pk", flat=True).first() or 0
        return found.filter(pk__gt=newest - MAX_SCANNED_ROWS)


class SignalFilter(_StaticChoicesFilter):
    """Filter by signal, which has an index."""

    title = "signal"
    parameter_name = "signal"
    values = tuple(name for name in catalog.BUILTIN_SIGNALS if name not in ("pre_init", "post_init"))


class OutcomeFilter(_NewestRowsFilter):
    """Filter the newest rows by outcome."""

    title = f"outcome, among the newest {MAX_SCANNED_ROWS:,} rows"
    parameter_name = "outcome"
    values = tuple(Outcome)


class KindFilter(_NewestRowsFilter):
    """Filter the newest rows by kind of trace."""

    title = f"kind, among the newest {MAX_SCANNED_ROWS:,} rows"
    parameter_name = "kind"
    values = ("request", "command", "task", "custom", "shell", "test", "process")


class StateFilter(_StaticChoicesFilter):
    """Filter by state, with separate states of pending deliveries."""

    title = "state"
    parameter_name = "state"
    values = manual_changes.STATES

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the deliveries in the state. Raise ``BadRequest`` if it is unknown."""
        try:
            return manual_changes.filter_by_state(queryset, self.value() or "")
        except ValueError as error:
            raise BadRequest(str(error)) from error


class ReceiverFilter(_NewestRowsFilter):
    """Filter the newest rows by a receiver of this process."""

    title = "receiver"
    parameter_name = "receiver"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """Return the durable receivers."""
        return [(name, name) for name in sorted(registry.get_durable_receivers())]


class ReadOnlyAdmin(Admin):
    """Read-only admin that does not count the table."""

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
        """Search exact values of columns with an index, which ``iexact`` and ``icontains`` can't use."""
        term = search_term.strip()
        return (queryset.filter(self.get_search_query(term)) if term else queryset), False

    def get_search_query(self, term: str) -> Q:
        """Return the condition on a row for the search term ``term``."""
        return Q(trace_id=term.lower())

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Reject values that no column contains: NUL, which is an error on PostgreSQL, and longer texts."""
        return "\0" not in value and len(value) <= MAX_LOOKUP_CHARS and super().lookup_allowed(lookup, value, request)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return a row. Raise ``Http404`` for an id that no row can have."""
        refuse_nul(request)
        if from_field is None and not is_storable_id(object_id):
            raise Http404(f"This {self.opts.verbose_name} does not exist.")
        return super().get_object(request, object_id, from_field)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, or a message if the tables do not exist yet."""
        refuse_nul(request)
        if not all(map(is_storable_id, request.POST.getlist(ACTION_CHECKBOX_NAME))):
            raise Http404("A row that was selected does not exist.")
        return get_missing_tables_response(request) or super().changelist_view(request, extra_context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: rows are created only by recording."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows are read-only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows are deleted by retention, not one by one."""
        return False

    @admin.display(description="time")
    def timestamp(self, row: Event | Trace | Delivery) -> Any:
        """Return the time."""
        return localtime(row.timestamp)

    @admin.display(description="duration")
    def duration_display(self, row: Event | Trace) -> str:
        """Return the duration."""
        return format_duration(row.duration)

    @admin.display(description="data")
    def details(self, row: Event | Trace) -> str:
        """Return the data without a column of their own, as JSON."""
        return format_html("<pre>{}</pre>", format_json(row.data))

    @admin.display(description="in Signalbox")
    def dashboard_link(self, row: Event | Trace | Delivery) -> str:
        """Return a link to its page on the dashboard, if the site includes it."""
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
    """Events, newest first: by id, the order in which they were written."""

    list_display = (
        "timestamp",
        "signal",
        "outcome",
        "errors",
        "sender",
        "object_label",
        "summary",
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

    @admin.display(description="summary")
    def summary(self, row: Event) -> str:
        """Return what the event did."""
        return summarize_event(row).description

    def get_search_query(self, term: str) -> Q:
        """Return the condition for a trace id, an actor's key or an object."""
        name, _, key = term.partition(":")
        if name == "actor":
            return Q(actor_key=key)
        return Q(sender=name, object_key=key) if key else super().get_search_query(term)


@admin.register(Trace)
class TraceAdmin(ReadOnlyAdmin):
    """Traces, by end, newest first."""

    list_display = (
        "ended",
        "started",
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
    list_display_links = ("ended",)
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

    @admin.display(description="start")
    def started(self, row: Trace) -> Any:
        """Return the start."""
        return localtime(row.timestamp)

    @admin.display(description="end")
    def ended(self, row: Trace) -> Any:
        """Return the end, in whose order the rows are written."""
        return "running" if row.duration is None else localtime(to_datetime(row.time + row.duration))


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """Deliveries, newest first, read-only. Actions for users with the permission: retry, discard and replay."""

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
        """Return whether the user may run the actions. A delivery is never edited by hand."""
        return bool(request.user.has_perm(CHANGE_PERMISSION))

    @admin.action(description="Retry: run now, with all attempts", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Retry the selected deliveries now."""
        self._apply_action(request, queryset, manual_changes.retry, "to be run now")

    @admin.action(description="Discard: let go", permissions=["operate"])
    def discard(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Discard the selected deliveries."""
        self._apply_action(request, queryset, manual_changes.discard, "discarded")

    def _apply_action(
        self, request: HttpRequest, queryset: QuerySet[Any], action: Callable[..., int], result_text: str
    ) -> None:
        chosen = list(queryset[:MAX_SELECTED])
        number = action(chosen, queryset.db)
        self.message_user(request, f"{number} of {len(chosen)} deliveries: {result_text}.", messages.SUCCESS)

    @admin.display(description="due")
    def scheduled_for(self, row: Delivery) -> Any:
        """Return the earliest time to run it."""
        return localtime(to_datetime(row.run_at))

    @admin.display(description="its worker has it until")
    def leased_until(self, row: Delivery) -> Any:
        """Return the end of the worker's lease."""
        return None if row.lease_expires_at is None else localtime(to_datetime(row.lease_expires_at))

    @admin.display(description="finished")
    def finished_at(self, row: Delivery) -> Any:
        """Return when it was done, dead or discarded."""
        return None if row.finished is None else localtime(to_datetime(row.finished))

    @admin.display(description="payload")
    def details(self, row: Any) -> str:
        """Return the arguments of the receiver, as JSON."""
        return format_html("<pre>{}</pre>", format_json(row.payload))

    def get_urls(self) -> list[URLPattern]:
        """Add the page from which past events are replayed."""
        replay_url = path("replay/", self.admin_site.admin_view(self.replay), name="signalbox_delivery_replay")
        return [replay_url, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, with a link to the replay for users with the permission."""
        return super().changelist_view(
            request, {**(extra_context or {}), "can_replay": self.has_operate_permission(request)}
        )

    def replay(self, request: HttpRequest) -> HttpResponse:
        """Replay past events to a receiver, or count them."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        refuse_nul(request)
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
