"""The responder's side: ``ResponseSender`` and the request that it answers."""

from __future__ import annotations

from typing import Callable, Mapping, Optional

from . import _fork, _wire
from ._deadline import Deadline, check_timeout
from ._sink import StreamSink
from ._types import Data
from .errors import BusyError, ForkedError, StreamError
from .options import check_chunk, check_failure, check_handler


class StreamRequest:
    """What a stream handler is asked. Immutable.

    ``subject``; ``data``: the payload; ``headers``: names to values; ``connect_id``: the client's id, None without one.
    """

    __slots__ = ("_deadline", "connect_id", "data", "headers", "subject")

    def __init__(
        self, subject: str, data: bytes, headers: Mapping[str, str], connect_id: Optional[str], deadline: Deadline
    ) -> None:
        self.subject, self.data, self.headers, self.connect_id = subject, data, headers, connect_id
        self._deadline = deadline

    def remaining(self) -> Optional[float]:
        """Seconds until the requester's deadline, never negative; None when it set none."""
        return self._deadline.remaining()

    def __repr__(self) -> str:
        who = "" if self.connect_id is None else f" connect_id={self.connect_id!r}"
        return f"<StreamRequest {self.subject!r} {len(self.data)} bytes{who}>"


class ResponseSender:
    """Sends the chunks of one streamed answer; every stream handler is given one.

    ``send`` raises ``ClientOfflineError`` from the moment the client is known to be gone, so a handler that just sends
    stops by itself. All methods may be called from any thread. As a context manager it ends the stream on leaving: with
    ``end()``, or after an exception with ``fail``. In a forked child every use raises ``ForkedError``.
    """

    def __init__(self, sink: StreamSink, admit_detached: Optional[Callable[[StreamSink], bool]] = None) -> None:
        self._sink = sink
        self._admit_detached = admit_detached

    def _own(self) -> StreamSink:
        if self._sink.generation != _fork.generation:
            raise ForkedError("this sender belongs to the parent process, which alone can answer the request")
        return self._sink

    @property
    def connect_id(self) -> Optional[str]:
        """The id of the client that asked, None when it gave none."""
        return self._sink.connect_id

    @property
    def offline_reason(self) -> Optional[str]:
        """The ``reason`` that ``ClientOfflineError`` carries; None while the client is there, or if it got its end."""
        return self._sink.reason if self._sink.is_offline else None

    def send(self, data: Data) -> None:
        """Queue one chunk: bytes or another buffer, not empty, at most the server's ``max_payload``.

        Returns at once while the requester keeps up; blocks while its window is full (back-pressure), until it reads on or
        is gone. Raises ClientOfflineError when the client is gone, ClosedError after ``end``/``fail`` or when the
        subscriber was closed, MaxPayloadError, PermissionDeniedError (the server refused an earlier chunk), TypeError or
        ValueError for data that is no chunk. Costs no round trip: whether the client is there is a flag.
        """
        sink = self._sink
        if sink.generation != _fork.generation:
            self._own()
        sink.send(data if type(data) is bytes and data else check_chunk(data))

    def end(self) -> None:
        """The answer is complete. Returns at once; does nothing on a stream that is over. A handler that returns ends."""
        self._own().end()

    def fail(self, code: int, description: str) -> None:
        """End the stream with an error: the requester raises ``StreamError(code, description)`` after the chunks sent.

        ``code``: 0 to 999999; ``description``: shortened to one line of at most 1,024 characters.
        """
        failure = check_failure(code, description)
        self._own().end(failure)

    def is_online(self) -> bool:
        """Whether the client is still there, as far as is known; costs nothing. False once the stream is over."""
        return not self._own().done

    def wait_offline(self, timeout: Optional[float] = None) -> bool:
        """Wait until the client is gone, for at most ``timeout`` seconds (None: no limit); True if it is gone.

        False after ``timeout``, or if the stream ended in the regular way.
        """
        return self._own().wait(check_timeout(timeout), for_end=False)

    def add_offline_callback(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` once when the client is gone, at once if it already is; never if the answer completes.

        It runs on one thread that all of the subscriber's callbacks share, so it should be short. Exceptions are logged.
        """
        check_handler(callback, "callback")
        self._own().add_offline_callback(callback)

    def detach(self) -> ResponseSender:
        """Let the stream go on after the handler has returned; whoever holds the sender must ``end`` it.

        Returns the sender. A detached sender that is garbage-collected un-ended ends its stream with an error, behind the
        chunks sent. Raises
        BusyError when the subscriber's ``max_detached`` are open already.
        """
        sink = self._own()
        if self._admit_detached is not None and not sink.detached and not self._admit_detached(sink):
            raise BusyError("too many detached senders are open: raise max_detached, or end some")
        sink.detached = True
        return self

    def __enter__(self) -> ResponseSender:
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], traceback: object) -> None:
        if error is None:
            self.end()
        elif isinstance(error, StreamError):
            self.fail(error.code, error.description)
        elif not self._sink.done:
            self.fail(500, "the handler failed")

    def __del__(self) -> None:
        # May run inside any lock, in any thread, even the loop's: only leave a note for the loop.
        sink = getattr(self, "_sink", None)
        if sink is not None and sink.detached and sink.running and sink.generation == _fork.generation:
            sink._link.loop.post_quietly(sink.end, _wire.library_failure("abandoned"))

    def __repr__(self) -> str:
        state = self._sink.reason or ("open" if self._sink.running else "ending")
        return f"<ResponseSender connect_id={self.connect_id!r} {state}, {self._sink._outgoing.pushed} chunks>"
