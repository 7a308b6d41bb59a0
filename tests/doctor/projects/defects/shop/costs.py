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
