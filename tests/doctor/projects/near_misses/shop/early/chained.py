from django.db.models.signals import class_prepared
from quiet.signals import loaded


def on_prepared(sender, **kwargs):
    pass


class_prepared.connect(on_prepared)
loaded.connect(on_prepared)
