"""``manage.py natsbridge_worker``: the process that serves the handlers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections, reset_queries
from django.utils import autoreload
from django.utils.module_loading import autodiscover_modules

from ..... import Error
from ..._state import handlers, settings


class Command(BaseCommand):  # type: ignore[misc]
    """Discovers handlers in the modules ``workers`` of the installed applications, and serves them."""

    help = (
        "Serves the handlers that @stream_handler names in modules 'workers' of the installed applications, until SIGINT "
        "or SIGTERM; what is under way is finished then. With DEBUG it starts anew whenever code changes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """``--noreload``."""
        parser.add_argument("--noreload", action="store_true", help="Do not start anew when code changes.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve, in a process that is watched and started anew where that is wanted."""
        if django_settings.DEBUG and not options["noreload"]:
            autoreload.run_with_reloader(self._serve_reloaded)
        else:
            self._serve()

    def _serve_reloaded(self) -> None:
        autoreload.raise_last_exception()  # of an earlier start, so that it is shown until the code is mended
        self._serve()

    def _serve(self) -> None:
        autodiscover_modules("workers")
        if not handlers.planned:
            raise CommandError(
                "no handlers: name one with @stream_handler('subject') in a module 'workers' of an application"
            )
        subscriber = settings().subscriber()
        handlers.serve_with(subscriber, _connections)
        try:
            subscriber.start_client_offline_listener()
            subscriber.start()
        except Error as error:
            subscriber.close()
            raise CommandError(str(error)) from error
        for planned in handlers.planned:
            self.stdout.write(f"serving {planned}")
        subscriber.run()


@contextmanager
def _connections() -> Iterator[None]:
    """What Django does around a request."""
    reset_queries()
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
