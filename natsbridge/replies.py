"""One request, many plain replies: the strategies of ADR-47, each end with a reason."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import Callable, Deque, Optional, Union

from nats.aio.msg import Msg

from . import _fork, _wire
from ._link import Link
from ._waiter import Condition
from .errors import (
    ClosedError,
    DisconnectedError,
    Error,
    ForkedError,
    NoRespondersError,
    PermissionDeniedError,
    SlowConsumerError,
    StreamError,
)
from .message import Message, Respond

Sentinel = Union[bool, Callable[[Message], object]]

MAX_MESSAGES = 65536  # unread at most: replies know no flow control
MAX_BYTES = 64 * 1024 * 1024


class ReplyInbox:
    """Where the replies arrive: lives while they are wanted, in the link's hands; never refers to its ``Replies``."""

    is_stream = False

    def __init__(self, link: Link, subject: str) -> None:
        self.subject = subject
        self.gone = False  # the guard of the queued request
        self.sent = False
        self.generation = _fork.generation
        self.link = link
        self.token = _wire.stream_token()
        self.inbox = f"{link.prefix}.{self.token}"
        self.cond = Condition()  # guards everything below
        self.messages: Deque[Msg] = deque()
        self.reason: Optional[str] = None
        self.error: Optional[Error] = None
        self._bytes = 0
        link.register(self.token, self, ticking=False)

    def finish(self, reason: str, error: Optional[Error] = None) -> None:
        """Any thread: take nothing more in; the first reason counts."""
        with self.cond:
            if self.reason is None:
                self.reason, self.error = reason, error
            self.cond.notify_all()
        self.gone = True
        self.link.forget(self.token)

    def take(self) -> Msg:
        """Inside the lock; there must be one."""
        msg = self.messages.popleft()
        self._bytes -= len(msg.data)
        return msg

    # -- events, on the loop ------------------------------------------------------------------------------------------

    def on_message(self, suffix: str, msg: Msg) -> None:
        if suffix:
            return
        status = msg.headers.get(_wire.STATUS) if msg.headers and not msg.data else None
        if status == _wire.NO_RESPONDERS:
            self.finish("no_responders", NoRespondersError(self.subject))
        elif status is not None and re.fullmatch("[0-9]{3}", status):
            words = (msg.headers or {}).get("Description", "status message")
            self.finish("status", StreamError(int(status), words).as_received())
        elif len(self.messages) >= MAX_MESSAGES or self._bytes + len(msg.data) > MAX_BYTES:
            unread = f"{len(self.messages)} replies, {self._bytes} bytes unread"
            self.finish("overflow", SlowConsumerError(self.subject, unread))
        else:
            with self.cond:
                self.messages.append(msg)
                self._bytes += len(msg.data)
                self.cond.notify_all()

    def on_tick(self, clock: float) -> None: ...

    def on_disconnect(self) -> None:
        if self.sent:
            error = DisconnectedError(f"the connection was lost while replies from {self.subject!r} were awaited")
            self.finish("disconnected", error)

    def on_reconnect(self) -> None: ...

    def refuse(self, error: Error) -> None:
        self.finish("denied", error)

    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        if subject != self.subject.lower():
            return False
        self.refuse(error)
        return True

    def on_closed(self) -> None:
        self.finish("closed", ClosedError("the pool was closed while replies were awaited"))


class Replies:
    """The replies to one request, from any number of responders; made by ``Pool.request_many``.

    Iterating yields ``Message``s. It ends silently for the reasons that were asked for, and ``end_reason`` tells which:
    ``max_messages``, ``stall`` (no further reply came in time), ``sentinel`` (its message is not yielded), ``deadline``
    (the total time is over) or ``cancelled``. Whatever else ends it raises, after the replies that did come:
    NoRespondersError, StreamError (another status message), DisconnectedError, SlowConsumerError, PermissionDeniedError,
    ClosedError. Time that the reader spends between two replies does not count against the limits. (ADR-47.)

    ``cancel`` may be called from any thread; leaving a ``with``, or dropping the object, cancels too.
    """

    def __init__(
        self,
        inbox: ReplyInbox,
        owner: object,
        respond: Respond,
        *,
        timeout: Optional[float],
        max_messages: Optional[int],
        stall: Optional[float],
        sentinel: Optional[Callable[[Message], object]],
    ) -> None:
        self._inbox = inbox
        self._owner = owner  # the pool, which must not be collected while replies are awaited
        self._respond = respond
        self._left = timeout
        self._max_messages, self._stall, self._sentinel = max_messages, stall, sentinel
        self.received = 0

    def _own(self) -> ReplyInbox:
        if self._inbox.generation != _fork.generation:
            raise ForkedError("these replies belong to the parent process: ask here again")
        return self._inbox

    def __iter__(self) -> Replies:
        return self

    def __next__(self) -> Message:
        inbox = self._own()
        msg = self._wait(inbox)
        if msg is None:
            if inbox.error is not None:
                raise inbox.error
            raise StopIteration
        message = Message(msg.subject, msg.data, msg.reply, msg.headers, respond=self._respond)
        if self._sentinel is not None and self._sentinel(message):
            self._stop("sentinel")
            raise StopIteration
        self.received += 1
        if self.received == self._max_messages:
            self._stop("max_messages")
        return message

    def _wait(self, inbox: ReplyInbox) -> Optional[Msg]:
        """The next reply, or None when there will be none; only the time spent in here counts."""
        began = time.monotonic()
        reason = "deadline"
        limit = self._left
        if self.received and self._stall is not None and (limit is None or self._stall < limit):
            reason, limit = "stall", self._stall
        try:
            with inbox.cond:
                while not inbox.messages:
                    if inbox.reason is not None:
                        return None
                    left = None if limit is None else began + limit - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    inbox.link.loop.refuse_here()
                    inbox.cond.wait_slice(left)
                else:
                    return inbox.take()
        finally:
            if self._left is not None:
                self._left = max(0.0, self._left - (time.monotonic() - began))
        self._stop(reason)
        return None

    def _stop(self, reason: str) -> None:
        with self._inbox.cond:
            self._inbox.messages.clear()
        self._inbox.finish(reason)

    @property
    def end_reason(self) -> Optional[str]:
        """Why there are no more replies; None while some may come."""
        return self._inbox.reason

    def cancel(self) -> None:
        """Want no more replies; drops what was not read. Idempotent, any thread."""
        self._own()
        self._stop("cancelled")

    close = cancel

    def __enter__(self) -> Replies:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        # May run inside any lock: dictionary operations only.
        inbox = getattr(self, "_inbox", None)
        if inbox is not None and inbox.generation == _fork.generation:
            inbox.gone = True
            inbox.link.forget(inbox.token)

    def __repr__(self) -> str:
        return f"<Replies from {self._inbox.subject!r} {self.end_reason or 'open'}, {self.received} received>"


def empty_payload(message: Message) -> bool:
    """The standard sentinel: a message without a payload."""
    return not message.data
