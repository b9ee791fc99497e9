"""The end of a stream that a requester reads from: what the link hands messages to, and readers wait at."""

from __future__ import annotations

import asyncio
import time
from operator import length_hint
from typing import Dict, Iterator, List, Optional, Tuple

from nats.aio.msg import Msg

from . import _fork, _incoming, _outgoing, _wire
from ._budget import Portion
from ._command import check_command, publish_command
from ._deadline import Deadline
from ._incoming import Ended, Incoming, Parcel, Say
from ._link import Link
from ._pace import Pace
from ._waiter import Condition, Lock
from .errors import (
    BusyError,
    ClientOfflineError,
    ClosedError,
    Error,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
    ResponderLostError,
    SlowConsumerError,
    StreamError,
    StreamGapError,
)
from .registry import OnlineRegistry

# A busy worker is not the only one perhaps: seconds before each new try of a refused request.
_BUSY_RETRIES = (0.01, 0.03, 0.05)


class StreamSource:
    """The end of a stream that ``ResponseStream`` reads from: lives while the stream does, in the link's hands.

    It never refers to its ``ResponseStream``, so that a stream nobody holds any more can be cancelled.
    """

    is_stream = True

    def __init__(
        self,
        link: Link,
        registry: OnlineRegistry,
        subject: str,
        data: bytes,
        *,
        connect_id: Optional[str],
        headers: Optional[Dict[str, str]],
        deadline: Deadline,
        idle_timeout: Optional[float],
        plain_idle_timeout: Optional[float],
        window: int,
        max_bytes: Optional[int],
        most_bytes: int,
        probe_interval: float,
        resume: float,
    ) -> None:
        self.subject, self.connect_id, self.lease = subject, connect_id, registry.lease_of(connect_id)
        self.gone = False  # the guard of the queued request
        self.sent = False
        self.generation = _fork.generation
        self._link, self._registry = link, registry
        self._data, self._headers = data, headers
        self._deadline = deadline
        self._idle_timeout, self._plain_idle_timeout = idle_timeout, plain_idle_timeout
        self._window, self._probe_interval = window, probe_interval
        self._resume = resume
        # What the reader is at: each chunk is handed out once, whichever thread asks for it. Read without the lock, which
        # would cost as much again as all the rest does.
        self.chunks: Iterator[bytes] = iter(())
        self._lock = Lock()  # guards everything below; entered directly, at half the price of entering a condition
        self._cond = Condition(self._lock)  # something to read, or the end
        self._pace = Pace(most_bytes) if max_bytes is None else None  # None: its caller knows how much it wants
        self._portion = Portion(link.incoming, self._pace.least if self._pace else max_bytes or 1)
        self._max_bytes = self._portion.bytes  # in the beginning, and always where there is no pace
        self._parcel = Parcel([])  # what ``chunks`` iterates over
        self._waking = False  # the reader is about to be woken
        self._idle = 0.0  # seconds that earlier waits for the next chunk took without getting it
        self._retries = list(_BUSY_RETRIES)
        self._between_tries = False
        self._retired = False
        self._denied: Optional[Error] = None
        self._token = ""
        self._incoming = self._fresh_end()

    # -- the request --------------------------------------------------------------------------------------------------

    def _fresh_end(self) -> Incoming:
        return Incoming(
            window=self._window,
            max_bytes=self._max_bytes,
            probe_interval=self._probe_interval,
            resume=self._resume,
            clock=self._link.clock,
        )

    def _request(self) -> bytes:
        """Register a fresh token and build the request for it."""
        self._link.forget(self._token)
        self._token = _wire.stream_token()
        if self._pace is not None:
            self._pace.asked(time.monotonic())
        self._between_tries = False
        self._link.register(self._token, self, ticking=True)
        left = self._deadline.remaining()
        params = _wire.StreamParams(
            self._window,
            self._max_bytes,
            None if left is None else max(1, round(left * 1000)),
            round(self._resume * 1000),
            max(1, round(self._probe_interval * 1000)),
            self.lease,
        )
        headers = {**(self._headers or {}), _wire.STREAM: _wire.encode_params(params)}
        if self.connect_id is not None:
            headers[_wire.CONNECT_ID] = self.connect_id
        return publish_command(self.subject, self._data, self._inbox(), headers)

    def _inbox(self) -> str:
        return f"{self._link.prefix}.{self._token}"

    def start(self, deadline: Deadline) -> None:
        """Send the request. Raises what ``Outbox.publish`` raises, and ClientOfflineError for an id marked offline."""
        try:
            self._registry.watch(self)
            if self._registry.is_offline(self.connect_id, self.lease):
                raise ClientOfflineError(self.connect_id, "offline")
            self._link.outbox.publish(self._request(), deadline.remaining(), self)
        except BaseException:
            self.stop("cancelled")
            raise

    def _try_again(self) -> None:
        """On the loop: a busy worker refused; perhaps another one is free by now."""
        with self._lock:
            if self._incoming.state == _incoming.DONE:
                return
            command = self._request()
            self.sent = True
        error = check_command(command, self._link.connection.max_payload)
        if error is None:
            self._link.outbox.control(command)
        else:
            self.refuse(error)

    def refuse(self, error: Error) -> None:
        self._denied = error
        self.stop("denied")

    # -- events, on the loop ------------------------------------------------------------------------------------------

    def on_message(self, suffix: str, msg: Msg) -> None:
        loop = asyncio.get_event_loop()
        if suffix or self._between_tries:
            return
        with self._lock:
            self._look_how_far()
            before = self._incoming.state
            says, confirm = self._incoming.on_message(msg.data, msg.reply, msg.headers, self._link.clock, loop.time())
            if self._pace is not None and before == _incoming.WAITING != self._incoming.state:
                self._pace.answered(time.monotonic())
            retry = self._retry_after(self._incoming.ended)
            if self._incoming.buffer or self._incoming.state == _incoming.DONE:
                self._wake_reader(loop)
        self._say(says, soon=True)
        if retry is not None:
            loop.call_later(retry, self._try_again)
        elif confirm:
            loop.call_later(_outgoing.CONFIRM_AFTER, self._confirm)

    def _wake_reader(self, loop: asyncio.AbstractEventLoop) -> None:
        """Inside the lock: at once, or for all that came together: until that is read the reader would not run anyhow."""
        if not self._link.connection.reads_on:
            self._cond.notify_all()
        elif not self._waking:
            self._waking = True
            loop.call_soon(self._woken)

    def _woken(self) -> None:
        with self._lock:
            self._waking = False
            self._cond.notify_all()

    def _retry_after(self, ended: Optional[Ended]) -> Optional[float]:
        """Where a busy refusal may be tried again: forget it, and say when."""
        if ended is None or ended.failure is None or ended.failure.library != "busy" or not self._retries:
            return None
        if self._deadline.passed():
            return None
        # Still registered under the old token: closing the pool, or a lost connection, must find it.
        self._between_tries = True
        self._incoming = self._fresh_end()
        return self._retries.pop(0)

    def _look_how_far(self) -> None:
        """Inside the lock: how far the reader has come, which is what acknowledgements are about."""
        self._incoming.unread = length_hint(self.chunks)

    def _confirm(self) -> None:
        with self._lock:
            self._look_how_far()
            says = self._incoming.on_confirm(self._link.clock)
        self._say(says)

    def on_tick(self, clock: float) -> None:
        with self._lock:
            self._look_how_far()
            if self._deadline.passed():
                says = self._incoming.stop("deadline")
            else:
                says = self._incoming.on_tick(clock, self._allowed_idle())
            if self._incoming.state == _incoming.DONE:
                self._cond.notify_all()
        self._say(says)

    def on_disconnect(self) -> None:
        with self._lock:
            self._incoming.on_disconnect(self.sent, self._link.clock)
            self._cond.notify_all()
        self._say([])

    def on_reconnect(self) -> None:
        with self._lock:
            says = self._incoming.on_reconnect(self._link.clock)
        self._say(says)

    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        if subject != self.subject.lower():
            return False
        self.refuse(error)
        return True

    def on_closed(self) -> None:
        self.stop("closed")

    def go_offline(self) -> None:
        """Any thread: the client that this stream is for was marked offline."""
        self.stop("offline")

    # -- the reader, any thread ---------------------------------------------------------------------------------------

    @property
    def ended(self) -> Optional[Ended]:
        return self._incoming.ended

    def stop(self, reason: str) -> None:
        """End the stream from this side; nothing more is handed out. Idempotent."""
        with self._lock:
            self._look_how_far()
            says = self._incoming.stop(reason)
            self._incoming.discard(reason)
            self._parcel.chunks.clear()
            self._cond.notify_all()
        self._say(says)

    def _say(self, says: List[Say], *, soon: bool = False) -> None:
        """Publish what the state table said, and let go of the stream once it is done.

        ``soon``: on the loop, of an end, which nobody waits to see acknowledged: that goes with the next request perhaps.
        """
        done = self._incoming.state == _incoming.DONE
        for say in says:
            self._publish(say, soon=soon and done)
        if done:
            with self._lock:
                first, self._retired = not self._retired, True
            if first:
                self.gone = True
                self._link.forget(self._token)
                self._portion.give_back()
                self._registry.unwatch(self)

    def _publish(self, say: Say, *, soon: bool = False) -> None:
        outbox = self._link.outbox
        publish = outbox.control_soon if soon else outbox.control
        publish(publish_command(say.to, say.data, self._inbox() if say.probe else ""))

    def next(self) -> Tuple[Optional[bytes], Optional[Dict[str, str]]]:
        """The next chunk and its headers; no chunk once the stream is over and that is no error. Raises it otherwise."""
        with self._lock:
            self._wait()
            says = self._fetch()
            chunk, ended = next(self.chunks, None), self._incoming.ended
        self._say(says)
        if chunk is None and ended is not None:
            self._raise(ended)
        return chunk, self._parcel.headers

    def take(self, limit: Optional[float]) -> Optional[List[bytes]]:
        """All that is there, at least one chunk: an empty list once the stream is over, None if ``limit`` came first."""
        with self._lock:
            if not self._wait(limit):
                return None
            says = self._fetch()
            chunks, ended = list(self.chunks), self._incoming.ended
        self._say(says)
        if not chunks and ended is not None:
            self._raise(ended)
        return chunks

    def _fetch(self) -> List[Say]:
        """Inside the lock: see that the reader has a parcel, if there is one; what there is to say for it."""
        if length_hint(self.chunks) or not self._incoming.buffer:
            return []
        self._parcel, says = self._incoming.take(self._link.clock, self._allowed())
        self.chunks = iter(self._parcel.chunks)
        if self._pace is not None:
            self._pace.read(self._parcel.size, time.monotonic())
        return says

    def _allowed(self) -> int:
        """Inside the lock: how many bytes may be on their way from now on."""
        if self._pace is None or self._incoming.state == _incoming.DONE:
            return self._max_bytes
        return self._portion.adapt(self._pace.bytes if self._link.alone else self._pace.least)

    def _allowed_idle(self) -> Optional[int]:
        """Inside the lock: the same, for a stream that may have been read faster than it is now; None where it cannot."""
        pace, incoming = self._pace, self._incoming
        if pace is None or incoming.state != _incoming.NATIVE or incoming.window.told <= pace.least:
            return None
        pace.read(0, time.monotonic())
        return self._allowed()

    def _raise(self, ended: Ended) -> None:
        error = self._error(ended)
        if error is not None:
            raise error

    def _wait(self, limit: Optional[float] = None) -> bool:
        """Inside the lock: until there is something to read, or the stream has ended, if need be by a limit of ours.

        False if ``limit`` seconds passed first.
        """
        if not self._readable():
            self._link.loop.refuse_here()
            self._look_how_far()
            for say in self._incoming.on_wait(self._link.clock):
                self._publish(say)
            began, idle_before = time.monotonic(), self._idle
            while not self._readable():
                waited = time.monotonic() - began
                reason, left = self._patience(idle_before + waited)
                if left is not None and left <= 0:
                    for say in self._incoming.stop(reason):
                        self._publish(say)
                    break
                if limit is not None:
                    if waited >= limit:
                        self._idle = idle_before + waited
                        return False
                    left = limit - waited if left is None else min(left, limit - waited)
                self._cond.wait_slice(left)
        self._idle = 0.0
        return True

    def _readable(self) -> bool:
        return bool(length_hint(self.chunks) or self._incoming.buffer) or self._incoming.ended is not None

    def _patience(self, waited: float) -> Tuple[str, Optional[float]]:
        """Which limit strikes next, and the seconds until then; ``waited``: for this chunk, so far."""
        left = self._deadline.remaining()
        idle = self._idle_timeout
        if idle is None and self._incoming.state != _incoming.NATIVE:
            idle = self._plain_idle_timeout
        if idle is None:
            return "deadline", left
        idle_left = idle - waited
        return ("deadline", left) if left is not None and left <= idle_left else ("idle", idle_left)

    def _error(self, ended: Ended) -> Optional[Error]:
        reason, failure = ended.reason, ended.failure
        if reason in ("completed", "cancelled"):
            return None
        if reason == "offline":
            return ClientOfflineError(self.connect_id, "offline")
        if reason == "deadline":
            limit = self._deadline.timeout
            return RequestTimeoutError(f"the stream from {self.subject!r} did not end within {limit} s{ended.detail}")
        if reason == "idle":
            limit = self._plain_idle_timeout if self._idle_timeout is None else self._idle_timeout
            return RequestTimeoutError(f"nothing came from {self.subject!r} for {limit} s{ended.detail}")
        if reason == "no_responders":
            return NoRespondersError(self.subject)
        if reason == "gap":
            return StreamGapError(ended.expected, ended.got)
        if reason == "overflow":
            return SlowConsumerError(self.subject, ended.detail)
        if reason == "closed":
            return ClosedError("the pool was closed while the stream was open")
        if reason == "denied":
            return self._denied
        if failure is not None:
            return self._remote_error(failure)
        return ResponderLostError(f"the stream from {self.subject!r} is incomplete: {ended.detail}")

    def _remote_error(self, failure: _wire.Failure) -> Error:
        if failure.library == "busy":
            return BusyError(f"every worker on {self.subject!r} is busy and its queue is full: {failure.description}")
        if failure.library == "offline":
            return ClientOfflineError(self.connect_id, "offline")
        if failure.library == "deadline":
            return RequestTimeoutError(f"the stream from {self.subject!r} did not end within {self._deadline.timeout:g} s")
        if failure.library in ("disconnected", "shutdown", "unknown"):
            return ResponderLostError(f"the stream from {self.subject!r} is incomplete: {failure.description}")
        return StreamError(failure.code, failure.description).as_received()
