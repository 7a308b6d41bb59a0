from django.db.models.signals import class_prepared
from django.dispatch import receiver
from quiet.signals import opened


@receiver(class_prepared)  # D006
def on_prepared_in_a_module_of_ready(sender, **kwargs):
    pass


@receiver(opened)  # D006
def on_opened_in_a_module_of_ready(sender, **kwargs):
    pass
