"""Requests whose answers are streams, from the requester's side."""

from __future__ import annotations

from typing import Callable, Optional

from ._deadline import Deadline, check_timeout
from ._source import StreamSource
from ._types import Data, Headers
from .message import Message
from .messaging import Messaging
from .options import (
    check_connect_id,
    check_count,
    check_data,
    check_handler,
    check_headers,
    check_ran,
    check_size,
    check_subject,
)
from .registry import OnlineRegistry
from .requester import ResponseStream

_MOST = 2**40  # chunks or bytes: as good as no limit, and short enough for a header

ResponseHandler = Callable[[Message], object]


class Streaming(Messaging):
    """The part of ``Pool`` that asks for streams."""

    registry: OnlineRegistry
    _window: int
    _window_bytes: int
    _probe_interval: float

    def stream(
        self,
        subject: str,
        data: Data = b"",
        *,
        connect_id: Optional[str] = None,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        headers: Headers = None,
        window: Optional[int] = None,
        window_bytes: Optional[int] = None,
        resume: float = 0.0,
    ) -> ResponseStream:
        """Send a request whose answer is a stream of chunks; returns at once, and iterating waits for the chunks.

        connect_id: the client that this is for. When it goes offline, here or at the worker, the stream ends.
        timeout: seconds for the whole stream; None for no limit. The worker is told, and stops by itself.
        idle_timeout: seconds without a chunk while the reader waits for one; None for no limit, except that a responder
            which is not natsbridge, or has not answered at all, gets the pool's ``timeout``.
        window, window_bytes: chunks and bytes that the worker may send ahead of the reader; for None the pool's, where
            the bytes are the most that it gets, while a number here holds from the beginning to the end.
        resume: seconds for which both ends keep the stream through lost connections, and go on where it was. It also
            delays by as much the moment at which the worker notices that this process was killed. 0 for not at all.

        Raises ClientOfflineError when the id is marked offline, and what ``publish`` raises. What the stream itself may
        raise is listed with ``ResponseStream``. Use it in a ``with``: leaving it stops the worker.
        """
        check_subject(subject)
        data = check_data(data)
        if connect_id is not None:
            check_connect_id(connect_id)
        checked = check_headers(headers, owned=True)
        total = Deadline(check_timeout(timeout))
        idle = check_timeout(idle_timeout, "idle_timeout")
        chunks = self._window if window is None else check_count(window, "window")
        kept = check_timeout(resume, "resume", optional=False)
        size = None if window_bytes is None else check_count(window_bytes, "window_bytes")
        start = Deadline(total.at_most(self._timeout))
        link = self._link(start)
        protocol_headers = 200 + (0 if connect_id is None else len(connect_id.encode()))
        check_size(data, checked, link.connection.max_payload, protocol_headers)
        source = StreamSource(
            link,
            self.registry,
            subject,
            data,
            connect_id=connect_id,
            headers=checked,
            deadline=total,
            idle_timeout=idle,
            plain_idle_timeout=self._timeout,
            window=min(chunks, _MOST),
            max_bytes=None if size is None else min(size, _MOST),
            most_bytes=min(self._window_bytes, _MOST),
            probe_interval=self._probe_interval,
            resume=3600.0 if kept is None else min(kept, 3600.0),
        )
        source.start(start)
        return ResponseStream(source, self)

    def stream_request_with_client(
        self,
        subject: str,
        data: Data,
        connect_id: str,
        response_handler: ResponseHandler,
        *,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        headers: Headers = None,
    ) -> str:
        """Ask for a streamed answer on behalf of a client, and call ``response_handler(message)`` with each chunk.

        Blocks until the stream is over and returns its end reason: ``completed``, or ``cancelled`` when the handler
        returned False (only ``False`` stops; None goes on). An exception of the handler cancels the stream and comes
        through. Raises ClientOfflineError as soon as the client is marked offline in this process, ClosedError when the
        pool is closed, and what ``stream`` and ``ResponseStream`` raise.
        """
        check_connect_id(connect_id)
        return self._run_stream(subject, data, connect_id, response_handler, timeout, idle_timeout, headers)

    def stream_request(
        self,
        subject: str,
        data: Data,
        response_handler: ResponseHandler,
        *,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        headers: Headers = None,
    ) -> str:
        """As ``stream_request_with_client``, for a request that belongs to no client."""
        return self._run_stream(subject, data, None, response_handler, timeout, idle_timeout, headers)

    def _run_stream(
        self,
        subject: str,
        data: Data,
        connect_id: Optional[str],
        response_handler: ResponseHandler,
        timeout: Optional[float],
        idle_timeout: Optional[float],
        headers: Headers,
    ) -> str:
        check_handler(response_handler, "response_handler")
        with self.stream(
            subject, data, connect_id=connect_id, timeout=timeout, idle_timeout=idle_timeout, headers=headers
        ) as stream:
            for message in stream.messages():
                answer = response_handler(message)
                if answer is False:
                    return "cancelled"
                check_ran(answer, "response_handler")
            return stream.end_reason or "cancelled"
