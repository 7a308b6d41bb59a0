"""The language of the dashboard: the active one if Signalbox has a catalogue for it, otherwise English."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from django.utils import translation
from django.utils.translation import gettext, gettext_noop

KNOWN_TEXT: Final = gettext_noop("Durable receivers to run, each for one event.")
"""A text that each catalogue of Signalbox contains, and none of Django's."""


def use_complete_language() -> AbstractContextManager[None]:
    """Return a block in which texts are in English if the active language has no catalogue of Signalbox.

    Otherwise Django's catalogues would translate the few words that they share with Signalbox, such as "Duration",
    and the page would declare a language that most of its texts do not have.
    """
    language = translation.get_language() or "en"
    if language.partition("-")[0] == "en" or gettext(KNOWN_TEXT) != KNOWN_TEXT:
        return nullcontext()
    return translation.override("en")
