from django.apps import AppConfig, apps
from django.db.models.signals import class_prepared, post_migrate, pre_migrate
from quiet.signals import loaded, opened


def on_prepared(sender, **kwargs):
    pass


def on_opened(sender, **kwargs):
    pass


def on_migrate(sender, **kwargs):
    pass


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        from . import (
            asynchrony,
            connect_in_request,
            doubled,
            effects,
            failures,
            global_receivers,
            late,
            lifetime,
            ours,
            prepared,
            recursion,
            rows,
            secrets,
            senders,
            signatures,
            twice,
            unused_signals,
        )

        class_prepared.connect(on_prepared)  # D006
        opened.connect(on_opened)  # D006
        loaded.connect(on_opened)  # D006
        post_migrate.connect(on_migrate, sender="shop")  # D007
        pre_migrate.connect(on_migrate, sender=type(self))  # D007
        post_migrate.connect(on_migrate, sender=apps.get_app_config("quiet"))  # D007
