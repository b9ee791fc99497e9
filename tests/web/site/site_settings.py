"""Settings from the environment: the tests choose."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for tests"
DEBUG = os.environ.get("SITE_DEBUG") == "1"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "site_urls"
INSTALLED_APPS = ["natsbridge.contrib.django", "library"]
MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SITE_DATABASE", ":memory:")}}
USE_TZ = True
NATSBRIDGE = json.loads(os.environ.get("SITE_NATSBRIDGE", "{}"))
