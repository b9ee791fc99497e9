"""What the Django application has once in a process: its settings, with the pool, and its handlers."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .._handlers import Handlers
from .._settings import Settings

handlers = Handlers()

# One entry at most. Single dict operations, no lock: a fork in the middle would leave that locked in the child.
_made: Dict[str, Settings] = {}


def read() -> Settings:
    """``settings.NATSBRIDGE``, checked. Raises ImproperlyConfigured."""
    given = getattr(django_settings, "NATSBRIDGE", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"settings.NATSBRIDGE must be a dict, not {given!r}")
    try:
        return Settings(given)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"settings.NATSBRIDGE: {error}") from error


def settings() -> Settings:
    """Those of this process, made on first use."""
    return _made.get("settings") or _made.setdefault("settings", read())


def has_gzip() -> bool:
    return "django.middleware.gzip.GZipMiddleware" in django_settings.MIDDLEWARE


def _forget(*, setting: str, **_: Any) -> None:
    """Tests change settings: the next use reads them anew."""
    old = _made.pop("settings", None) if setting == "NATSBRIDGE" else None
    if old is not None:
        old.pool.close()


setting_changed.connect(_forget, dispatch_uid="natsbridge")
