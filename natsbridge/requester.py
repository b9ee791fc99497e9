"""The requester's side: ``ResponseStream``."""

from __future__ import annotations

from typing import Callable, Iterator, List, Optional, TypeVar

from . import _fork
from ._deadline import check_timeout
from ._source import StreamSource
from ._threads import is_kill
from .errors import ForkedError
from .message import Message

T = TypeVar("T")


class ResponseStream:
    """The chunks of one streamed answer, in order, each exactly once; made by ``Pool.stream``.

    Iterating yields ``bytes`` and ends silently only when the responder ended the stream, or when this side stopped it
    (``cancel``, ``close``, leaving the ``with``). Whatever else ends it raises, after the chunks that did arrive:
    ``StreamError`` (the responder failed), ``ResponderLostError`` (it, or the connection, is gone), ``StreamGapError``,
    ``BusyError``, ``NoRespondersError``, ``RequestTimeoutError`` (total or idle time is over), ``ClientOfflineError`` (this
    stream's own id was marked offline), ``ClosedError`` (the pool was closed), ``SlowConsumerError`` (only from responders
    without flow control). In a forked child every use raises ``ForkedError``.

    Stopping tells the responder at once: its next ``send`` raises. A stream that is garbage-collected is cancelled too, and
    so is one whose reader is a greenlet that is killed while it waits.
    Methods may be called from any thread; one thread at a time should iterate.
    """

    def __init__(self, source: StreamSource, owner: object) -> None:
        self._source = source
        self._owner = owner  # the pool, which must not be collected while this stream is read

    def _own(self) -> StreamSource:
        if self._source.generation != _fork.generation:
            raise ForkedError("this stream belongs to the parent process: start one of your own here")
        return self._source

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except BaseException as error:
            if is_kill(error):  # a killed greenlet keeps hold of what it was at
                self._source.stop("cancelled")
            raise

    def __iter__(self) -> ResponseStream:
        return self

    def __next__(self) -> bytes:
        source = self._source
        if source.generation == _fork.generation:
            for chunk in source.chunks:
                return chunk
        found, _ = self._read(self._own().next)
        if found is None:
            raise StopIteration
        return found

    def next_chunks(self, timeout: Optional[float] = None) -> Optional[List[bytes]]:
        """Every chunk that is there already, in order, at least one; waits for the first if there is none.

        For gateways, which pass on at once what has arrived, and have to say something while nothing does. Returns an empty
        list once the stream is over, and None if nothing came within ``timeout`` seconds (None: no limit; the stream then
        goes on). What it may hold is bounded by the window. Raises what iterating raises.
        """
        limit, source = check_timeout(timeout), self._own()
        return self._read(lambda: source.take(limit))

    def messages(self) -> Iterator[Message]:
        """The same chunks as ``Message``s, for headers that a responder of another kind sent with them."""
        while True:
            chunk, headers = self._read(self._own().next)
            if chunk is None:
                return
            yield Message(self._source.subject, chunk, headers=headers)

    @property
    def end_reason(self) -> Optional[str]:
        """Why the stream is over, None while it is open.

        ``completed``; ``cancelled`` (by this side); ``error`` (the responder said why it failed, refused, or stopped);
        ``lost``; ``gap``; ``no_responders``; ``deadline``; ``idle``; ``offline``; ``overflow``; ``denied``; ``closed``.
        """
        ended = self._source.ended
        return None if ended is None else ended.reason

    @property
    def connect_id(self) -> Optional[str]:
        return self._source.connect_id

    @property
    def subject(self) -> str:
        return self._source.subject

    def cancel(self) -> None:
        """Stop the stream: tell the responder, drop what was not read, end the iteration. Idempotent, any thread."""
        self._own().stop("cancelled")

    close = cancel

    def __enter__(self) -> ResponseStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        # May run inside any lock, in any thread, even the loop's: only leave a note for the loop.
        source = getattr(self, "_source", None)
        if source is not None and source.ended is None and source.generation == _fork.generation:
            source._link.loop.post_quietly(source.stop, "cancelled")

    def __repr__(self) -> str:
        state = self.end_reason or "open"
        return f"<ResponseStream {self.subject!r} {state}, {self._source._incoming.received} chunks received>"
