"""A link that logs one user in, once: for a demonstration under ``DEBUG``, never on a real site."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import get_user_model, login
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.cache import never_cache


class _LoginTokenGenerator(PasswordResetTokenGenerator):
    """Tokens that end with the user's next login, as those for a new password do."""

    key_salt = "signalbox.dashboard.demo_login"


_token_generator = _LoginTokenGenerator()


def build_login_url(username: str) -> str:
    """Return the path of a page that logs the user of this name in, once.

    Raises:
        RuntimeError: ``DEBUG`` is off.
    """
    if not settings.DEBUG:
        raise RuntimeError("A login link is given under DEBUG only; let the user log in at the admin.")
    user: Any = get_user_model()._default_manager.get_by_natural_key(username)
    # As a parameter of this name it is hidden wherever the address is recorded.
    return f"{reverse('signalbox:demo_login')}?{urlencode({'token': f'{user.pk}.{_token_generator.make_token(user)}'})}"


@never_cache
def demo_login(request: HttpRequest) -> HttpResponse:
    """Log in the user that the ``token`` was made for; 404 where it is spent, invented, or ``DEBUG`` is off."""
    if not settings.DEBUG:
        raise Http404
    key, _, secret = request.GET.get("token", "").partition(".")
    model = get_user_model()
    try:
        user: Any = model._default_manager.get(pk=key)
    except (model.DoesNotExist, ValueError) as error:
        raise Http404 from error
    if not (user.is_active and _token_generator.check_token(user, secret)):
        raise Http404
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponseRedirect(reverse("signalbox:timeline"))
