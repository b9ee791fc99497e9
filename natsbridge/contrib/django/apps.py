"""The Django application, and its system checks."""

from __future__ import annotations

from typing import Any, List

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from ._state import read


class NatsBridgeConfig(AppConfig):  # type: ignore[misc]
    """``natsbridge`` among the installed applications."""

    name = "natsbridge.contrib.django"
    label = "natsbridge"
    verbose_name = "natsbridge"

    def ready(self) -> None:
        """Have ``manage.py check``, and every command that checks first, look at ``settings.NATSBRIDGE``."""
        register(check_settings, "natsbridge")


def check_settings(app_configs: Any, **_: Any) -> List[CheckMessage]:
    """One error, ``natsbridge.E001``, for settings that cannot be right. Connects to nothing."""
    try:
        read()
    except ImproperlyConfigured as error:
        hint = "The names are those of the arguments of Pool and Subscriber in upper case, and HEARTBEAT."
        return [Error(str(error), hint=hint, id="natsbridge.E001")]
    return []
