from django.db.models.signals import m2m_changed, post_delete, post_init, post_migrate, pre_delete
from django.dispatch import receiver


@receiver(pre_delete)  # D013
@receiver(post_delete)  # D013
@receiver(post_init)  # D013
@receiver(m2m_changed)  # D013
def everything(sender, **kwargs):
    pass


@receiver(post_migrate)  # D014
def refill(**kwargs):
    print("Filling")


class Everything:
    def __call__(self, sender, **kwargs):
        pass

    def on_delete(self, sender, **kwargs):
        pass


callable_object = Everything()
post_delete.connect(callable_object)  # D013
pre_delete.connect(callable_object.on_delete)  # D013
