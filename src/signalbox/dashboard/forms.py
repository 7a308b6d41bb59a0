"""The form to replay past events, used by the dashboard and the admin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from signalbox.models import to_microseconds
from signalbox.outbox import manual_changes, registry
from signalbox.queries.filters import EventFilter, FilterError


def _receiver_choices() -> list[tuple[str, str]]:
    return [(name, name) for name in sorted(registry.get_durable_receivers())]


class ReplayForm(forms.Form):
    """Selects a durable receiver and the events to replay."""

    use_required_attribute = True
    receiver = forms.ChoiceField(choices=_receiver_choices)
    since = forms.CharField(max_length=40, widget=forms.TextInput(attrs={"placeholder": _("2h, 3d or 2026-03-01")}))
    missing = forms.BooleanField(required=False, label=_("Only what was never delivered to it"))

    def clean_since(self) -> int:
        """Return the time in microseconds since the epoch."""
        try:
            since = EventFilter.parse({"since": self.cleaned_data["since"]}).since
        except FilterError as error:
            raise forms.ValidationError(str(error)) from error
        if since is None:
            raise forms.ValidationError(_("The time is missing. Use a time such as 2h, 3d or 2026-03-01."))
        return to_microseconds(since)

    def replay(self, alias: str, *, dry_run: bool = False) -> int:
        """Create the deliveries in the database ``alias`` and return their number; with ``dry_run`` only count them."""
        data: dict[str, Any] = self.cleaned_data
        return manual_changes.replay(
            data["receiver"], alias, since=data["since"], missing=data["missing"], dry_run=dry_run
        )
