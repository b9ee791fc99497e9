"""As small as a Django project gets."""

from __future__ import annotations

import os

SECRET_KEY = "only an example"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["natsbridge.contrib.django", "reports"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
USE_TZ = True

NATSBRIDGE = {"SERVERS": os.environ.get("NATS_URL", "nats://127.0.0.1:4222")}
