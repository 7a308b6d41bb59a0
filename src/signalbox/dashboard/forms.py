"""The form with which an operator sends past events to a receiver once more, on the page and in the admin."""

from __future__ import annotations

from typing import Any

from django import forms

from signalbox.models import to_microseconds
from signalbox.outbox import operations, registry
from signalbox.queries.filters import EventFilter, FilterError


def _receiver_choices() -> list[tuple[str, str]]:
    return [(name, name) for name in sorted(registry.get_durable_receivers())]


class ReplayForm(forms.Form):
    """Which receiver, and which events."""

    use_required_attribute = True
    receiver = forms.ChoiceField(choices=_receiver_choices)
    since = forms.CharField(max_length=40, widget=forms.TextInput(attrs={"placeholder": "2h, 3d or 2026-03-01"}))
    missing = forms.BooleanField(required=False, label="Only what was never delivered to it")

    def clean_since(self) -> int:
        """Return the moment in microseconds."""
        try:
            since = EventFilter.parse({"since": self.cleaned_data["since"]}).since
        except FilterError as error:
            raise forms.ValidationError(str(error)) from error
        if since is None:
            raise forms.ValidationError("A time is needed.")
        return to_microseconds(since)

    def replay(self, alias: str, *, dry_run: bool = False) -> int:
        """Make the deliveries in the database ``alias``, or only count them; return how many."""
        data: dict[str, Any] = self.cleaned_data
        return operations.replay(data["receiver"], alias, since=data["since"], missing=data["missing"], dry_run=dry_run)
