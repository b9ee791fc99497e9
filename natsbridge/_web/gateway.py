"""The gateway of the web demo, a WSGI application: the page, its streams, and what the page asks and orders."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Protocol, Tuple

from werkzeug.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
)
from werkzeug.wrappers import Request, Response

from .._demo_process import clock
from ..contrib.sse import EventStream
from ..errors import Error
from ..pool import Pool
from . import worker
from .records import ELSEWHERE, Record, Records

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PAGE = Path(__file__).parent / "page"
RESUME = 2.0  # seconds for which a stream is kept while the server restarts
_MAX_BODY = 4096
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # Everything comes from here, and the page says so to the browser.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Backstage(Protocol):
    """What the page may look at and order besides its streams."""

    def facts(self) -> Dict[str, Any]: ...
    def kill_worker(self) -> None: ...
    def restart_server(self) -> None: ...


class Gateway:
    """Call it as a WSGI application. ``prefix``: of the subjects that the demo's worker serves."""

    def __init__(self, pool: Pool, prefix: str, records: Records, backstage: Backstage) -> None:
        self._pool, self._prefix, self._records, self._backstage = pool, prefix, records, backstage
        self._routes: Dict[str, Tuple[str, Callable[[Request], Response]]] = {
            "/state": ("GET", self._state),
            "/code": ("GET", self._code),
            "/streams": ("POST", self._add),
            "/left": ("POST", self._left),
            "/worker/kill": ("POST", self._kill_worker),
            "/server/restart": ("POST", self._restart_server),
        }
        files = {path.name: path for path in PAGE.iterdir() if path.suffix in _TYPES}
        self._files = {f"/{name}": (_TYPES[path.suffix], path.read_bytes()) for name, path in files.items()}
        self._files["/"] = self._files["/index.html"]
        self._files["/tab"] = self._files["/tab.html"]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = _MAX_BODY
        try:
            if request.path == "/stream":
                return self._stream(request, start_response)
            response = self._answer(request)
        except HTTPException as error:
            response = _json({"error": error.description}, error.code or 500)
        except Error as error:
            response = _json({"error": str(error)}, 503)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if request.path in self._files:
            if request.method not in ("GET", "HEAD"):
                raise MethodNotAllowed(["GET", "HEAD"], f"{request.path} can only be read")
            kind, content = self._files[request.path]
            return Response(content, mimetype=kind)
        if request.path not in self._routes:
            raise NotFound(f"there is no {request.path} here")
        method, function = self._routes[request.path]
        if request.method != method:
            raise MethodNotAllowed([method], f"{request.path} is for {method}")
        if method == "POST":
            _refuse_other_sites(request)
        return function(request)

    # -- what the page asks -------------------------------------------------------------------------------------------

    def _state(self, _request: Request) -> Response:
        return _json({**self._backstage.facts(), "streams": self._records.snapshot(), "now": clock()})

    def _code(self, _request: Request) -> Response:
        return Response(inspect.getsource(worker.answer), mimetype="text/plain")

    def _add(self, request: Request) -> Response:
        asked = _object(request)
        try:
            record = self._new(asked.get("pace"), asked.get("place"))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return _json({"key": record.key, "number": record.number, "question": record.question, "pace": record.pace}, 201)

    def _left(self, request: Request) -> Response:
        told = _object(request)
        try:
            self._records.left(told.get("key"), told.get("at"), told.get("how"))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return Response(status=204)

    def _kill_worker(self, _request: Request) -> Response:
        self._backstage.kill_worker()
        return Response(status=204)

    def _restart_server(self, _request: Request) -> Response:
        self._backstage.restart_server()
        return Response(status=204)

    # -- streams ------------------------------------------------------------------------------------------------------

    def _stream(self, request: Request, start_response: StartResponse) -> Iterable[bytes]:
        """As events. The environ has the client's socket, and with that its end is noticed, whoever the client is."""
        key = request.args.get("key")
        record = self._new(worker.BRISK, ELSEWHERE) if key is None else self._records.get(key)
        if record is None:
            raise NotFound(f"there is no stream {key!r}")
        if not self._records.claim(record):
            raise Conflict(f"stream {record.number} was opened already: ask for another one")
        asked = json.dumps({"key": record.key, "pace": record.pace, "topic": record.topic})
        events = EventStream(
            self._pool,
            f"{self._prefix}.{worker.ANSWER}",
            asked.encode(),
            environ=request.environ,
            connect_id=record.key,
            resume=RESUME,
        )
        start_response("200 OK", events.headers)
        return events

    def _new(self, pace: object, place: object) -> Record:
        """Raises ValueError for what is no pace or no place."""
        if self._records.running() >= worker.MAX_HANDLERS:
            raise ServiceUnavailable(
                f"{worker.MAX_HANDLERS} streams are open, and the worker has no more threads: stop one"
            )
        return self._records.add(pace, place)


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def _object(request: Request) -> Dict[str, Any]:
    """The JSON object in the body, whatever the content type: ``sendBeacon`` sends plain text."""
    try:
        value = json.loads(request.get_data(as_text=True))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadRequest("the body is a JSON object")
    return value


def _refuse_other_sites(request: Request) -> None:
    """Any page in the browser can send a POST to this address; ours alone may give orders."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.rpartition("/")[2] != request.host:
        raise Forbidden(f"this is for the demo's own page, not for one from {origin}")
