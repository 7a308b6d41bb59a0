"""A one-time login link for demonstrations. It works only under ``DEBUG``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import get_user_model, login
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache


class _LoginTokenGenerator(PasswordResetTokenGenerator):
    """Creates tokens that expire with the user's next login, like those of a password reset."""

    key_salt = "signalbox.dashboard.demo_login"


_token_generator = _LoginTokenGenerator()


def build_login_url(username: str) -> str:
    """Return the path of a link that logs in the user with this name once.

    Raises:
        RuntimeError: ``DEBUG`` is off.
    """
    if not settings.DEBUG:
        raise RuntimeError("Login links work only if DEBUG is on. Log in at the admin.")
    user: Any = get_user_model()._default_manager.get_by_natural_key(username)
    # A parameter with the name "token" is redacted in recorded URLs.
    return f"{reverse('signalbox:demo_login')}?{urlencode({'token': f'{user.pk}.{_token_generator.make_token(user)}'})}"


@never_cache
def demo_login(request: HttpRequest) -> HttpResponse:
    """Log in the user of the ``token``; 404 if the token is used or invalid, or if ``DEBUG`` is off.

    A user who is logged in is redirected to the timeline, so that a second click on the link works.
    """
    if not settings.DEBUG:
        raise Http404
    if request.user.is_authenticated:
        return HttpResponseRedirect(reverse("signalbox:timeline"))
    refused = gettext("The login link was used, or is not valid. Log in with a password.")
    key, _, secret = request.GET.get("token", "").partition(".")
    model = get_user_model()
    try:
        user: Any = model._default_manager.get(pk=key)
    except (model.DoesNotExist, ValueError) as error:
        raise Http404(refused) from error
    if not (user.is_active and _token_generator.check_token(user, secret)):
        raise Http404(refused)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponseRedirect(reverse("signalbox:timeline"))
