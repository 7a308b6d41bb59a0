import os

SECRET_KEY = "a patient's"
DEBUG = os.environ["DEBUG"] == "1"
INSTALLED_APPS = ["signalbox", "django.contrib.auth", "django.contrib.contenttypes", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
