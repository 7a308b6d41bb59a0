from django.apps import apps
from django.db.models.signals import post_save

from .models import Order


class Watcher:
    def on_save(self, sender, **kwargs):
        pass


for model in apps.get_models():
    post_save.connect(Watcher().on_save, sender=model, weak=False)

WATCHERS = [Watcher() for _ in range(30)]
for watcher in WATCHERS:
    post_save.connect(watcher.on_save, sender=Order)
