from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import class_prepared, post_migrate, pre_migrate
from quiet.signals import opened


def on_prepared(sender, **kwargs):
    pass


def on_opened(sender, **kwargs):
    pass


def on_migrate(sender, **kwargs):
    pass


def on_any_migrate(sender, app_config, **kwargs):
    if app_config.label == "shop":
        on_migrate(sender)


class ShopConfig(AppConfig):
    name = "shop"

    def __init__(self, *args):
        super().__init__(*args)
        class_prepared.connect(on_prepared)
        opened.connect(on_opened)

    def ready(self):
        from . import (
            asynchrony,
            connect_in_request,
            early,
            effects,
            failures,
            global_receivers,
            handed,
            lifetime,
            ours,
            recursion,
            rows,
            secrets,
            senders,
            signatures,
            twice,
            unused_signals,
        )

        if getattr(settings, "SHOP_TRIAL", False):
            from . import switched_off

        pre_migrate.connect(on_migrate, sender=self)
        post_migrate.connect(on_any_migrate)
