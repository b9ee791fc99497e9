"""Django: streams for browsers, in a few lines.

``settings.py``::

    INSTALLED_APPS = [..., "natsbridge.contrib.django"]
    NATSBRIDGE = {"SERVERS": "nats://127.0.0.1:4222"}

A view, and in a module ``workers`` of any installed application what ``manage.py natsbridge_worker`` serves::

    def tell(request):
        return stream_response(request, "long.process", request.GET["text"].encode())

    @stream_handler("long.process", queue="workers")
    def work(request, sender):
        for word in request.data.split():
            sender.send(word)

For WSGI servers: under ASGI a response that blocks would hold up everyone. Needs Django:
``pip install 'natsbridge[django]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, Optional

try:
    from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
except ImportError as exc:
    raise ImportError("natsbridge.contrib.django needs Django; install it with: pip install 'natsbridge[django]'") from exc

from ... import Error, Pool
from ..._types import Data
from .._bytes import ByteStream
from .._client import Environ, RequestOptions
from .._failure import failure_of, is_mistake
from .._handlers import H
from ..sse import EventStream
from ._state import handlers, has_gzip, settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["get_pool", "stream_bytes", "stream_handler", "stream_response"]


def get_pool() -> Pool:
    """The pool that ``settings.NATSBRIDGE`` describes: for everything else that natsbridge does. Opens on first use.

    Raises ImproperlyConfigured for settings that cannot be right.
    """
    return settings().pool


def stream_handler(
    subject: str, *, queue: str = "", max_workers: Optional[int] = None, max_queued: Optional[int] = None
) -> Callable[[H], H]:
    """Decorator: ``manage.py natsbridge_worker`` serves requests on ``subject`` with the function.

    Arguments and handlers are as for ``Subscriber.stream``. Database connections are looked after as in a view: what is too
    old is closed before and after each call.
    """
    return handlers.stream(subject, queue=queue, max_workers=max_workers, max_queued=max_queued)


def stream_response(
    request: HttpRequest,
    subject: str,
    data: Data = b"",
    *,
    last_event_id: Optional[str] = None,
    heartbeat: Optional[float] = None,
    event: Optional[str] = None,
    retry: Optional[float] = None,
    base64: bool = False,
    **options: Unpack[RequestOptions],
) -> HttpResponseBase:
    """A response with a worker's answer as server-sent events; to be returned by the view that made it.

    Arguments and events are those of ``EventStream``. The worker stops when the browser is gone. When the request could not
    even be sent, the response has a fitting status instead (503 and the like). Raises RuntimeError under ASGI.
    """
    configured, environ = settings(), _environ(request)
    try:
        events = EventStream(
            configured.pool,
            subject,
            data,
            environ=environ,
            last_event_id=last_event_id,
            heartbeat=configured.heartbeat if heartbeat is None else heartbeat,
            event=event,
            retry=retry,
            base64=base64,
            **options,
        )
    except Error as error:
        return _error_response(error)
    headers: Dict[str, str] = dict(events.headers)
    if has_gzip():
        headers["Content-Encoding"] = "identity"  # GZipMiddleware would keep events back until it has enough to compress
    return StreamingHttpResponse(events, headers=headers)


def stream_bytes(
    request: HttpRequest,
    subject: str,
    data: Data = b"",
    *,
    content_type: str = "application/octet-stream",
    **options: Unpack[RequestOptions],
) -> HttpResponseBase:
    """A response with a worker's chunks as they are; to be returned by the view that made it.

    Waits for the first chunk. If the worker fails before it, the response has a fitting status instead: 503 when none is
    there or all are busy, 504 after a timeout, the worker's own code for a ``StreamError(4xx or 5xx, …)``, else 502. If it
    fails later the connection is broken off, so that nobody takes the answer for complete. Raises RuntimeError under ASGI.
    """
    environ = _environ(request)
    try:
        chunks = ByteStream(get_pool(), subject, data, environ=environ, **options)
    except Error as error:
        return _error_response(error)
    return StreamingHttpResponse(chunks, content_type=content_type)


def _environ(request: HttpRequest) -> Environ:
    environ: Optional[Environ] = getattr(request, "environ", None)
    if environ is None:
        raise RuntimeError(
            "this request came by ASGI, and natsbridge streams to WSGI servers only: gunicorn, waitress, uWSGI …"
        )
    return environ


def _error_response(error: Error) -> HttpResponseBase:
    if is_mistake(error):
        raise error
    failure = failure_of(error)
    return HttpResponse(failure.message, status=failure.status, content_type="text/plain; charset=utf-8")
