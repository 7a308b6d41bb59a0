from django.apps import AppConfig


class QuietConfig(AppConfig):
    name = "quiet"

    def ready(self):
        from .signals import opened

        opened.send(sender=type(self))
