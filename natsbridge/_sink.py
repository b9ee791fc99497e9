"""The end of a stream that a responder writes to: what a handler's chunks go into, and the link hands messages to."""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import takewhile
from typing import Callable, Dict, List, Optional, Tuple

from nats.aio.msg import Msg

from . import _fork, _outgoing, _wire
from ._budget import Portion
from ._command import publish_command
from ._deadline import Deadline
from ._link import Link
from ._outgoing import RUNNING, Emit, Outgoing
from ._pace import SHARE
from ._waiter import Condition, Lock
from ._workers import Workers
from .errors import (
    ClientOfflineError,
    ClosedError,
    Error,
    MaxPayloadError,
    PermissionDeniedError,
)
from .registry import OnlineRegistry

logger = logging.getLogger("natsbridge")

_LEAST_SPEAK_INTERVAL = 0.1  # seconds: nobody can make this end speak more often

OFFLINE_REASONS = frozenset(("offline", "cancelled", "no_interest", "unreachable", "stalled", "disconnected", "deadline"))


class StreamSink:
    """The end of a stream that ``ResponseSender`` writes to: lives while the stream does, in the link's hands.

    It never refers to its ``ResponseSender``, so that a detached one that nobody holds any more ends its stream.
    """

    is_stream = True

    def __init__(
        self,
        link: Link,
        registry: OnlineRegistry,
        callbacks: Workers,
        inbox: str,
        *,
        connect_id: Optional[str],
        params: Optional[_wire.StreamParams],
        deadline: Deadline,
        window: int,
        max_bytes: int,
        probe_interval: float,
        stall_timeout: Optional[float],
        max_resume: float,
        on_failure: Callable[[_wire.Failure], object],
        on_done: Callable[[StreamSink], None],
    ) -> None:
        """``params``: what the requester asked for, None when it does not speak the protocol.

        ``on_failure``: told when the handler's side ends the stream with an error, before the requester is.
        """
        self.connect_id = connect_id
        self.lease = None if params is None else params.lease
        self.deadline = deadline
        self.generation = _fork.generation
        self.detached = False
        self._link, self._registry, self._callbacks = link, registry, callbacks
        self._inbox = inbox
        self._on_failure, self._on_done = on_failure, on_done
        most_bytes = max_bytes
        if params is None:
            max_bytes = min(max_bytes, SHARE)
        else:
            window, max_bytes = min(window, params.window), min(max_bytes, params.bytes)
        self._portion = portion = Portion(link.outgoing, max_bytes)
        max_bytes = portion.bytes
        self._relayed = _wire.crosses_accounts(inbox)
        self._chunk_overhead = _wire.SEQUENCE_OVERHEAD if self._relayed and params is not None else 0
        resume = 0.0 if params is None or self._relayed else min(params.resume_ms / 1000, max_resume)
        # A requester that probes more often than we speak would take us for dead.
        asked = probe_interval if params is None or params.probe_ms is None else params.probe_ms / 1000
        speak_interval = max(_LEAST_SPEAK_INTERVAL, min(probe_interval, asked))
        self._params = _wire.StreamParams(
            window, max_bytes, resume_ms=round(resume * 1000), probe_ms=max(1, round(speak_interval * 1000))
        )
        self._token = _wire.stream_token()
        self._control = f"{link.prefix}.{self._token}"
        self._lock = Lock()  # guards everything below; entered directly, at half the price of entering a condition
        self._cond = Condition(self._lock)  # the window has moved, or the end
        self._outgoing = Outgoing(
            native=params is not None,
            batches=not self._relayed,
            window=window,
            max_bytes=max_bytes,
            probe_interval=probe_interval,
            speak_interval=speak_interval,
            stall_timeout=stall_timeout,
            resume=resume,
            room=lambda needed: portion.adapt(min(needed, most_bytes)),
            clock=link.clock,
        )
        # The writer has this stream in its queue. Until it is accepted, nothing goes there: that comes first.
        self._scheduled = True
        self._retired = False
        self._denied: Optional[Error] = None
        self._offline_callbacks: List[Callable[[], object]] = []

    def open(self) -> None:
        """On the loop: become reachable for the requester, and for offline marks."""
        self._link.register(self._token, self, ticking=True)
        self._registry.watch(self)
        if self._registry.is_offline(self.connect_id, self.lease):
            self.go_offline()  # marked since the request was looked at

    def accept(self) -> None:
        """On the loop: tell the requester that its request is queued or running, if it understands that.

        Whatever the handler has sent already goes behind it.
        """
        if self._outgoing.native:
            self._link.outbox.control_soon(self._command(self._outgoing.accept(), first=True))
        with self._lock:
            self._scheduled = False
            self._schedule()

    # -- the handler, any thread --------------------------------------------------------------------------------------

    @property
    def reason(self) -> Optional[str]:
        return self._outgoing.reason

    @property
    def done(self) -> bool:
        return self._outgoing.state == _outgoing.DONE

    @property
    def running(self) -> bool:
        """The handler may still send."""
        return self._outgoing.state == _outgoing.RUNNING

    @property
    def is_offline(self) -> bool:
        return self._outgoing.reason in OFFLINE_REASONS

    def send(self, chunk: bytes) -> None:
        size = len(chunk)
        if size > self._link.connection.max_payload - self._chunk_overhead:
            raise MaxPayloadError(size, self._link.connection.max_payload - self._chunk_overhead)
        outgoing, until = self._outgoing, self.deadline.at
        write = False
        self._lock.acquire()  # by hand: [measured] half the price of a "with", and this is the price of a chunk
        try:
            while outgoing.state == RUNNING:
                if until is not None and time.monotonic() >= until:
                    break
                if outgoing.push(chunk, self._link.clock):
                    if not self._scheduled:
                        write = self._schedule()
                    return
                self._link.loop.refuse_here()
                self._cond.wait_slice(self.deadline.remaining())
            else:
                raise self._error()
        finally:
            self._lock.release()
            if write:
                self._link.outbox.write_here()
        self.give_up("deadline")
        raise self._error()

    def end(self, failure: Optional[_wire.Failure] = None) -> None:
        with self._lock:
            if not self._outgoing.end(failure):
                return
        if failure is not None:
            self._on_failure(failure)
        with self._lock:
            write = self._schedule()
        if write:
            self._link.outbox.write_here()

    def _schedule(self) -> bool:
        """Inside the lock: have what there is to write written. True if that is for this thread to do, outside the lock."""
        if self._scheduled or not self._outgoing.has_work:
            return False
        self._scheduled = True
        return self._link.outbox.ready(self)

    def give_up(self, reason: str) -> None:
        """Stop now, whatever waits to be sent; idempotent."""
        with self._lock:
            emits = self._outgoing.give_up(reason)
        self._emit(emits)

    def _error(self) -> Error:
        reason = self._outgoing.reason
        if reason in OFFLINE_REASONS:
            return ClientOfflineError(self.connect_id, str(reason))
        if self._denied is not None:
            return self._denied
        if reason == "shutdown":
            return ClosedError("the subscriber was closed: the stream was ended for its requester")
        return ClosedError("the stream was ended already: send() comes too late")

    def wait(self, timeout: Optional[float], *, for_end: bool) -> bool:
        """Wait until the client is gone (``for_end``: until the stream is over in any way)."""
        deadline = Deadline(timeout)
        self._link.loop.refuse_here()
        with self._lock:
            while not self.done and not deadline.passed():
                if self.deadline.passed():
                    break
                self._cond.wait_slice(deadline.at_most(self.deadline.at_most(60.0)))
        if not self.done and self.deadline.passed():
            self.give_up("deadline")
        return self.done if for_end else self.is_offline

    def add_offline_callback(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if not self.done:
                self._offline_callbacks.append(callback)
                return
        if self.is_offline:
            self._callbacks.submit(callback)

    # -- whoever writes, any thread ------------------------------------------------------------------------------------

    def take_frames(self, count: int) -> Tuple[List[bytes], bool]:
        with self._lock:
            limit = self._link.connection.max_payload - self._chunk_overhead
            emits = self._outgoing.take(limit, self._link.clock, count)
            if any(len(emit.payload) > limit for emit in emits):
                emits = self._cut_short(emits, limit)
            more = self._outgoing.has_work
            self._scheduled = more
            if not self._outgoing.native:
                self._cond.notify_all()
        commands = [self._command(emit) for emit in emits]
        self._retire_if_done()
        return commands, more

    def _cut_short(self, emits: List[Emit], limit: int) -> List[Emit]:
        """Inside the lock: a chunk was small enough when it was sent, but the server is another one now."""
        good = list(takewhile(lambda emit: len(emit.payload) <= limit, emits))
        bad = emits[len(good)]
        self._denied = MaxPayloadError(len(bad.payload), limit)
        what = f"a chunk of {len(bad.payload)} bytes exceeds the {limit} that the server accepts now"
        self._cond.notify_all()
        return [*good, *self._outgoing.cut_short(bad.seq, _wire.Failure(500, what))]

    def _command(self, emit: Emit, *, first: bool = False) -> bytes:
        headers: Optional[Dict[str, str]] = None
        if emit.failure is not None:
            headers = _wire.encode_failure(emit.failure)
        elif emit.kind in (_wire.ACCEPTED, _wire.PROBE):
            headers = {_wire.STREAM: _wire.encode_params(self._params._replace(bytes=self._outgoing.max_bytes))}
        reply = _wire.reply_subject(self._control, emit.kind, emit.seq)
        if self._relayed:
            if self._outgoing.native:
                headers = {**(headers or {}), _wire.SEQUENCE: _wire.encode_sequence(self._token, emit.kind, emit.seq)}
            if not first:
                reply = ""  # the server would keep a mapping for each; the requester needs one
        return publish_command(self._inbox, emit.payload, reply, headers)

    def _emit(self, emits: List[Emit]) -> None:
        """Publish what the state table said, and let go of the stream once it is done."""
        for emit in emits:
            self._link.outbox.control(self._command(emit))
        self._retire_if_done()

    def _retire_if_done(self) -> None:
        if not self.done:
            return
        with self._lock:
            first, self._retired = not self._retired, True
            callbacks, self._offline_callbacks = self._offline_callbacks, []
            self._cond.notify_all()
        if not first:
            return
        self._link.forget(self._token)
        self._portion.give_back()
        self._registry.unwatch(self)
        if self.is_offline:
            for callback in callbacks:
                self._callbacks.submit(callback)
        self._on_done(self)

    # -- events, on the loop ------------------------------------------------------------------------------------------

    def on_message(self, suffix: str, msg: Msg) -> None:
        loop = asyncio.get_event_loop()
        if not suffix:
            return
        if not msg.data and msg.headers and msg.headers.get(_wire.STATUS) == _wire.NO_RESPONDERS:
            _, seq = _wire.parse_kind(suffix) or ("", 0)
            with self._lock:
                confirm = self._outgoing.on_no_responders(seq, self._link.clock, loop.time())
            if confirm:
                loop.call_later(_outgoing.CONFIRM_AFTER, self._confirm)
            self._emit([])
            return
        control = _wire.parse_control(msg.data)
        emits: List[Emit] = []
        with self._lock:
            if control is None:
                self._outgoing.ignored += 1
            else:
                emits = self._outgoing.on_control(control, self._link.clock)
                self._cond.notify_all()
                self._schedule()
        self._emit(emits)

    def _confirm(self) -> None:
        with self._lock:
            emits = self._outgoing.on_confirm(self._link.clock)
        self._emit(emits)

    def on_tick(self, clock: float) -> None:
        with self._lock:
            if self.deadline.passed():
                emits = self._outgoing.give_up("deadline")
            else:
                emits = self._outgoing.on_tick(clock)
        self._emit(emits)

    def on_disconnect(self) -> None:
        with self._lock:
            emits = self._outgoing.on_disconnect(self._link.clock)
        self._emit(emits)

    def on_reconnect(self) -> None:
        with self._lock:
            emits = self._outgoing.on_reconnect(self._link.clock)
            self._schedule()
        self._emit(emits)

    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        if subject != self._inbox.lower():
            return False
        self._denied = error
        self.give_up("denied")
        return True

    def on_closed(self) -> None:
        self.give_up("shutdown")

    def go_offline(self) -> None:
        """Any thread: the client was marked offline."""
        self.give_up("offline")
