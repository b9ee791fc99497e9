"""Flask: streams for browsers, in a few lines.

::

    app = Flask(__name__)
    bridge = NatsBridge(app)

    @app.get("/tell")
    def tell():
        return bridge.stream_response("long.process", request.args["text"].encode())

    @bridge.stream("long.process", queue="workers")  # served by: flask natsbridge worker
    def work(request, sender):
        for word in request.data.split():
            sender.send(word)

Needs Flask: ``pip install 'natsbridge[flask]'``.
"""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Callable, Iterator, List, NoReturn, Optional, Tuple

try:
    import click
    import flask
    from werkzeug import exceptions
except ImportError as exc:
    raise ImportError("natsbridge.contrib.flask needs Flask; install it with: pip install 'natsbridge[flask]'") from exc

from .. import ClientOfflineError, Error, Pool, ResponseSender, StreamRequest, Subscriber
from .._types import Data
from ._bytes import ByteStream
from ._client import RequestOptions, new_connect_id
from ._failure import failure_of, is_mistake
from ._handlers import H, Handlers
from ._settings import Settings
from .sse import EventStream

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NatsBridge"]

_PREFIX = "NATSBRIDGE_"
_KEY = "natsbridge"


class NatsBridge:
    """The extension. ``NatsBridge(app)``, or ``init_app(app)`` later; one for any number of applications.

    Configuration: ``NATSBRIDGE_SERVERS``, the one that matters (``nats://127.0.0.1:4222`` unless set); the other arguments
    of ``Pool`` and ``Subscriber`` in the same way (``NATSBRIDGE_TIMEOUT``, ``NATSBRIDGE_MAX_WORKERS`` …); and
    ``NATSBRIDGE_HEARTBEAT``, the seconds of silence after which a browser is sent a comment. A setting that is unknown or
    cannot be right raises ValueError or TypeError in ``init_app``, which connects to nothing: each process connects when it
    first needs to, whether it was forked (``gunicorn --preload``) or not.
    """

    def __init__(self, app: Optional[flask.Flask] = None) -> None:
        self._app = app
        self._handlers = Handlers()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Read the configuration of ``app``, and give it the commands ``flask natsbridge worker`` and ``… demo``."""
        if _KEY in app.extensions:
            raise RuntimeError(f"{app!r} has a NatsBridge already: one serves all of an application")
        given = {key[len(_PREFIX) :]: value for key, value in app.config.items() if key.startswith(_PREFIX)}
        try:
            settings = Settings(given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"configuration {_PREFIX}*: {error}") from error
        app.extensions[_KEY] = settings
        app.cli.add_command(_commands(self, app, settings))

    def _settings(self) -> Settings:
        app = flask.current_app if flask.has_app_context() else self._app
        if app is None or _KEY not in app.extensions:
            raise RuntimeError("no application: call init_app(app), and use the bridge inside its application context")
        settings: Settings = app.extensions[_KEY]
        return settings

    @property
    def pool(self) -> Pool:
        """The application's pool: for everything else that natsbridge does. Opens on first use."""
        return self._settings().pool

    def stream(
        self, subject: str, *, queue: str = "", max_workers: Optional[int] = None, max_queued: Optional[int] = None
    ) -> Callable[[H], H]:
        """Decorator: ``flask natsbridge worker`` serves requests on ``subject`` with the function.

        It is called inside an application context. Arguments and handlers are as for ``Subscriber.stream``.
        """
        return self._handlers.stream(subject, queue=queue, max_workers=max_workers, max_queued=max_queued)

    # -- in views -----------------------------------------------------------------------------------------------------

    def stream_response(
        self,
        subject: str,
        data: Data = b"",
        *,
        last_event_id: Optional[str] = None,
        heartbeat: Optional[float] = None,
        event: Optional[str] = None,
        retry: Optional[float] = None,
        base64: bool = False,
        **request: Unpack[RequestOptions],
    ) -> flask.Response:
        """A response with a worker's answer as server-sent events; to be returned by the view that made it.

        Arguments and events are those of ``EventStream``. The worker stops when the browser is gone. When the request could
        not even be sent, a fitting error response is raised (503 and the like, as Flask's ``abort`` does).
        """
        settings = self._settings()
        with _as_http_errors():
            events = EventStream(
                settings.pool,
                subject,
                data,
                environ=flask.request.environ,
                last_event_id=last_event_id,
                heartbeat=settings.heartbeat if heartbeat is None else heartbeat,
                event=event,
                retry=retry,
                base64=base64,
                **request,
            )
        return flask.current_app.response_class(events, headers=events.headers)

    def stream_bytes(
        self,
        subject: str,
        data: Data = b"",
        *,
        mimetype: str = "application/octet-stream",
        **request: Unpack[RequestOptions],
    ) -> flask.Response:
        """A response with a worker's chunks as they are; to be returned by the view that made it.

        Waits for the first chunk. If the worker fails before it, a fitting error response is raised: 503 when none is there
        or all are busy, 504 after a timeout, the worker's own code for a ``StreamError(4xx or 5xx, …)``, else 502. If it
        fails later the connection is broken off, so that nobody takes the answer for complete.
        """
        with _as_http_errors():
            chunks = ByteStream(self.pool, subject, data, environ=flask.request.environ, **request)
        return flask.current_app.response_class(chunks, mimetype=mimetype)


@contextmanager
def _as_http_errors() -> Iterator[None]:
    try:
        yield
    except Error as error:
        if is_mistake(error):
            raise
        failure = failure_of(error)
        kind = exceptions.default_exceptions.get(failure.status, exceptions.BadGateway)
        raise kind(failure.message) from error


# -- commands ---------------------------------------------------------------------------------------------------------


def _commands(bridge: NatsBridge, app: flask.Flask, settings: Settings) -> click.Group:
    group = click.Group("natsbridge", help="Workers of natsbridge, and a look whether all is set up.")

    @group.command()
    @click.option("--import", "-i", "modules", multiple=True, metavar="MODULE", help="A module that defines handlers.")
    def worker(modules: Tuple[str, ...]) -> None:
        """Serve the handlers that @bridge.stream names, until SIGINT or SIGTERM.

        What is under way is finished then.
        """
        for module in modules:
            import_module(module)
        _serve(bridge._handlers, app, settings)

    @group.command()
    def demo() -> None:
        """Stream through the application's own servers, leave, and see the worker stop."""
        _demo(settings.pool)

    return group


def _serve(handlers: Handlers, app: flask.Flask, settings: Settings) -> None:
    if not handlers.planned:
        _fail("no handlers: name one with @bridge.stream('subject'), in a module that is imported (or with --import)")
    subscriber = settings.subscriber()
    handlers.serve_with(subscriber, app.app_context)
    try:
        subscriber.start_client_offline_listener()
        subscriber.start()
    except Error as error:
        subscriber.close()
        _fail(str(error))
    for planned in handlers.planned:
        click.echo(f"serving {planned}")
    subscriber.run()


def _demo(pool: Pool) -> None:
    """Worker and requester are both in this process; what they send goes through the servers."""
    gone_at: List[float] = []
    stopped_at: List[float] = []

    def count(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            for number in itertools.count(1):
                sender.send(b"%d" % number)
                sender.wait_offline(0.1)
        except ClientOfflineError:
            stopped_at.append(time.monotonic())
            raise

    subject = f"natsbridge.demo.{new_connect_id()}"
    try:
        with Subscriber(pool) as subscriber:
            subscriber.stream_subscribe_handler(subject, count)
            click.echo("a worker counts, and this is its stream: ", nl=False)
            with pool.stream(subject, timeout=10) as stream:
                for number in stream:
                    click.echo(number.decode() + " ", nl=False)
                    if number == b"10":
                        gone_at.append(time.monotonic())
                        break
            click.echo("\nthe reader has left its loop: ", nl=False)
            while not stopped_at and time.monotonic() < gone_at[0] + 10:
                time.sleep(0.001)
    except Error as error:
        _fail(str(error))
    if not stopped_at:
        _fail("the worker did not stop within 10 s")
    click.echo(f"the worker stopped after {(stopped_at[0] - gone_at[0]) * 1000:.1f} ms")


def _fail(message: str) -> NoReturn:
    click.echo(f"natsbridge: {message}", err=True)
    sys.exit(1)
