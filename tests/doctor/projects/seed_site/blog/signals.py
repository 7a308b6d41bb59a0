from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.signals import got_request_exception, request_finished, request_started
from django.db.backends.signals import connection_created
from django.db.models.signals import (
    post_delete,
    post_init,
    post_migrate,
    post_save,
    pre_delete,
    pre_init,
    pre_migrate,
    pre_save,
)
from django.dispatch import receiver

"""
def login_success(sender, request, user, **kwargs):
    print("User Password:", user.password)

user_logged_in.connect(login_success, sender=User)
"""


@receiver(user_logged_in, sender=User)
def login_success(sender, request, user, **kwargs):
    print("Sender:", sender)
    print("Request:", request)
    print("User:", user)
    print("User Password:", user.password)  # D009
    print(f"Kwargs: {kwargs}")


user_logged_in.connect(login_success, sender=User)  # D004


@receiver(user_logged_out, sender=User)  # D002
def log_out(sender, request, user, **kwargs):
    print("Request:", request)
    print("User:", user)
    print(f"Kwargs: {kwargs}")


@receiver(user_login_failed)
def log_out(sender, credentials, request, **kwargs):
    print("Credentials:", credentials)  # D009
    print("Request:", request)


@receiver(pre_save, sender=User)
def at_beginning_save(sender, instance, **kwargs):
    print("Instance:", instance)
    print(f"Kwargs: {kwargs}")


@receiver(post_save, sender=User)
def at_ending_save(sender, instance, created, **kwargs):
    if created:
        print("New Record")
    else:
        print("Update")
    print("Instance:", instance)


@receiver(pre_delete, sender=User)
def at_beginning_delete(sender, instance, **kwargs):
    print("Instance:", instance)


@receiver(post_delete, sender=User)
def at_ending_delete(sender, instance, **kwargs):
    print("Instance:", instance)


@receiver(pre_init, sender=User)
def at_beginning_init(sender, *args, **kwargs):
    print(f"Args: {args}")
    print(f"Kwargs: {kwargs}")  # D009


@receiver(post_init, sender=User)
def at_ending_init(sender, *args, **kwargs):
    print(f"Args: {args}")
    print(f"Kwargs: {kwargs}")


@receiver(request_started)
def at_beginning_request(sender, environ, **kwargs):
    print("Environ:", environ)  # D009


@receiver(request_finished)
def at_ending_request(sender, **kwargs):
    print("At Ending Request")


@receiver(got_request_exception)
def at_req_exception(sender, request, **kwargs):
    print("Request:", request)


@receiver(pre_migrate)
def before_install_app(sender, app_config, verbosity, interactive, using, plan, apps, **kwargs):
    print("App_config:", app_config)
    print("Using:", using)


@receiver(post_migrate)  # D008
def at_end_migrate_flush(sender, app_config, verbosity, interactive, using, plan, apps, **kwargs):
    print("App_config:", app_config)
    print("Plan:", plan)
    print("App:", apps)


@receiver(connection_created)
def conn_db(sender, connection, **kwargs):
    print("Connection:", connection)
