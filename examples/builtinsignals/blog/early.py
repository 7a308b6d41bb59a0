"""Receivers of signals that are sent before ``ready()``. This module must not import models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blog.banner import banner

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model


def at_class_prepared(sender: type[Model], **kwargs: Any) -> None:
    # Migrations prepare a class for each past state of each model; those are none of this app's.
    if sender.__module__ == "blog.models":
        banner("class_prepared", sender)


def conn_db(sender: type[BaseDatabaseWrapper], connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    banner("connection_created", sender, f"{connection.alias} ({connection.display_name})")
