import os

SECRET_KEY = "a patient's"
DEBUG = os.environ["DEBUG"] == "1"
INSTALLED_APPS = ["signalbox", "django.contrib.auth", "django.contrib.contenttypes", "accounts", "quiet", "shop"]
AUTH_USER_MODEL = "accounts.Member"
ROOT_URLCONF = "urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
