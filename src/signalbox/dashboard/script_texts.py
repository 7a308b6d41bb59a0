"""Texts of the scripts. A page contains them as JSON, as the policy of a site may forbid inline scripts.

``signalboxText()`` in ``page.js`` returns one of them, with its placeholders replaced.
"""

from __future__ import annotations

from typing import Any, Final

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

SCRIPT_TEXTS: Final[dict[str, str | Promise]] = {
    "copied": _("Copied"),
    "load-failed": _("The server did not answer. Close and open the line to ask again."),
    "scheme-system": _("System"),
    "scheme-light": _("Light"),
    "scheme-dark": _("Dark"),
    "live": _("Live"),
    "paused": _("Paused"),
    "reconnecting": _("Reconnecting…"),
    "logged-out": _("Logged out"),
    "new": _("{number} new"),
    "events-one": _("{number} event in the last {minutes} minutes"),
    "events-other": _("{number} events in the last {minutes} minutes"),
    "some-failed": _("some failed"),
    "chart-limit": _("only the latest events, since {time}"),
    "chart-empty": _("none in the last {minutes} minutes"),
    "errors": _("errors"),
    "suggestions-one": _("{number} suggestion"),
    "suggestions-other": _("{number} suggestions"),
    "no-receiver": _("No receiver fits."),
    "dead": _("{number} dead"),
    "calls": _("{from} → {to}: {number} calls"),
    "senders": _("Senders"),
    "signals": _("Signals"),
    "receivers": _("Receivers"),
}
"""Texts by the name that scripts use. Words in braces are placeholders."""


def get_script_texts() -> dict[str, Any]:
    """Return the texts in the active language."""
    return {name: str(text) for name, text in SCRIPT_TEXTS.items()}
