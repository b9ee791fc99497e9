"""Server-sent events from a worker's stream, for any WSGI server and framework.

A WSGI application of its own::

    def application(environ, start_response):
        events = EventStream(pool, "long.process", b"some words", environ=environ)
        start_response("200 OK", events.headers)
        return events

For Flask and Django there are ``natsbridge.contrib.flask`` and ``natsbridge.contrib.django``.
"""

from __future__ import annotations

import base64 as _base64
import json
import logging
from typing import TYPE_CHECKING, List, Optional, Tuple

from .. import Error, Pool
from .._deadline import check_interval
from .._types import Data
from ._client import ClientStream, Environ, RequestOptions, new_connect_id
from ._failure import failure_of
from ._framing import check_event, count_from, data_lines, format_comment, format_event, last_event_id, text_bytes

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["HEADERS", "HEARTBEAT", "EventStream", "format_comment", "format_event", "new_connect_id"]

logger = logging.getLogger("natsbridge")

HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent, unless told otherwise; what the HTML standard suggests."""

HEADERS: Tuple[Tuple[str, str], ...] = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
)
"""What the response has to say: nobody is to store it, and nginx is to pass it on at once."""

LAST_EVENT_ID = "Last-Event-ID"

_SIGN_OF_LIFE = format_comment("heartbeat")


class EventStream:
    """A worker's answer as the body of a response with server-sent events: an iterator of ``bytes`` for a WSGI server.

    The request to the worker is sent by the constructor. The browser gets, in this order:

    - an event ``connect`` whose data is the JSON object ``{"connect_id": …}``: with the id any process can stop the work,
      by ``mark_client_offline``;
    - for each chunk a ``message`` (or ``event``), with ids that count from 1;
    - a comment whenever nothing was sent for ``heartbeat`` seconds;
    - ``end`` with ``{"chunks": …}`` when the worker ended its answer, or ``error`` with ``{"error": …, "code": …,
      "message": …}``: a name for programs, an HTTP status and a text (those of a ``StreamError``, else our own). One of the
      two is the last event, unless the client went first. A page should close its ``EventSource`` on both, which would
      come back otherwise.

    ``close()`` stops the worker, at any time, also when iterating never began; WSGI servers call it when the client is
    gone, but notice that only when they write. So that it is noticed while nothing is written, pass ``environ``: where the
    server shows the client's socket it is watched, and the worker stopped at once.

    pool, subject, data, and in ``request`` timeout, idle_timeout, headers, window, window_bytes, resume: as for
        ``Pool.stream``.
    environ: the WSGI environ of the request; the client's socket and its ``Last-Event-ID`` are taken from there.
    connect_id (in ``request``): the client's id, which is held online until ``close()`` (``Pool.client``); a random one if
        None. It must be one that others cannot guess, if others may ask for streams.
    last_event_id: overrides what the environ has. The worker gets it as the header ``Last-Event-ID``, and may leave out
        what the browser has already; if it is a number the ids count on from there.
    event: the type of the events for chunks.
    retry: seconds after which the browser comes back when the connection is lost; its own default if None.
    base64: send each chunk in base64, as one line. Without it a chunk that is not UTF-8 ends the stream with the error
        ``not_text``: a worker that sends text must not divide a character between two chunks.

    Raises what ``Pool.stream`` raises, and TypeError or ValueError for arguments that cannot be right. Thread-safe, but one
    thread at a time should iterate.
    """

    def __init__(
        self,
        pool: Pool,
        subject: str,
        data: Data = b"",
        *,
        environ: Optional[Environ] = None,
        last_event_id: Optional[str] = None,
        heartbeat: float = HEARTBEAT,
        event: Optional[str] = None,
        retry: Optional[float] = None,
        base64: bool = False,
        **request: Unpack[RequestOptions],
    ) -> None:
        self._heartbeat = check_interval(heartbeat, "heartbeat")
        check_event(event)
        self._field = b"" if event is None else b"event: %b\n" % event.encode()
        self._base64 = base64
        last = _last_id(environ) if last_event_id is None else last_event_id
        self._number = self._first = count_from(last)
        format_event("", retry=retry)  # for its checks, before anything happens
        if last is not None:
            request["headers"] = {**(request.get("headers") or {}), LAST_EVENT_ID: last}
        self._client = ClientStream(pool, subject, data, environ, **request)
        hello = json.dumps({"connect_id": self.connect_id})
        self._lead: Optional[bytes] = format_event(hello, event="connect", retry=retry)
        self._over = False

    @property
    def connect_id(self) -> str:
        """The client's id."""
        return self._client.connect_id

    @property
    def headers(self) -> List[Tuple[str, str]]:
        """The response's headers, a list of its own, as ``start_response`` wants it."""
        return list(HEADERS)

    @property
    def end_reason(self) -> Optional[str]:
        """Why the worker's stream is over, None while it is open; see ``ResponseStream.end_reason``."""
        return self._client.end_reason

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        lead, self._lead = self._lead, None
        if lead is not None:
            return lead
        try:
            chunks = self._client.next_chunks(self._heartbeat)
        except Error as error:
            return self._fail(error)
        if chunks is None:
            return _SIGN_OF_LIFE
        if chunks:
            return self._events(chunks)
        self._over = True
        if self.end_reason != "completed":  # the client is gone, and nobody reads this
            raise StopIteration
        return format_event(json.dumps({"chunks": self._number - self._first}), event="end")

    def _events(self, chunks: List[bytes]) -> bytes:
        """All that has arrived in one piece: one write, where one for each chunk would cost several times as much."""
        parts: List[bytes] = []
        for chunk in chunks:
            try:
                text = _base64.b64encode(chunk) if self._base64 else text_bytes(chunk)
            except UnicodeError as error:
                logger.warning(
                    "chunk %d from %r is not UTF-8 (%s): send whole characters, or ask for base64",
                    self._number + 1, self._client.stream.subject, error,
                )  # fmt: skip
                return b"".join(parts) + self._fail(error)
            self._number += 1
            parts.append(b"%bid: %d\n%b\n" % (self._field, self._number, data_lines(text)))
        return b"".join(parts)

    def _fail(self, error: Exception) -> bytes:
        self._over = True
        self._client.close()
        return format_event(failure_of(error).as_json(), event="error")

    def close(self) -> None:
        """Stop the worker and let go of the client; idempotent, any thread. Iterating ends."""
        self._over = True
        self._client.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventStream {self._client.stream!r}, {self._number - self._first} events>"


def _last_id(environ: Optional[Environ]) -> Optional[str]:
    return None if environ is None else last_event_id(environ.get("HTTP_LAST_EVENT_ID"))
