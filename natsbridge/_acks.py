"""Publishes whose acknowledgements are not waited for one by one: the inbox for them, and the handle of each."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from typing import Deque, Dict, List, Optional, Tuple

import nats.js.errors
from nats.aio.msg import Msg
from nats.js import api

from . import _fork, _wire
from ._command import publish_command
from ._context import Settings, parse_ack
from ._deadline import Deadline, check_timeout
from ._link import Link
from ._waiter import Abandoned, Condition, Lock, Waiter
from .errors import (
    ClosedError,
    DisconnectedError,
    Error,
    ForkedError,
    MaxPayloadError,
    NoStreamResponseError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from .options import check_size

_MAX_BYTES = 64 * 1024 * 1024  # that may wait for their acknowledgement, whatever their number


class PublishFuture:
    """The acknowledgement of one message that is on its way; made by ``JetStream.publish_async``. Thread-safe.

    It is settled in any case: acknowledged, refused, or failed when no acknowledgement came within the timeout or the
    connection was lost. A failure that nobody asks for is not lost: when the handle is dropped it goes to the pool's
    ``error_callback``, and ``publish_async_completed`` raises it in any case.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_error",
        "_inbox",
        "_retrieved",
        "_waiters",
        "command",
        "deadline",
        "due",
        "retries",
        "sent",
        "subject",
    )

    def __init__(self, inbox: AckInbox, subject: str, deadline: Deadline, retries: int) -> None:
        self.subject = subject
        self._inbox = inbox
        self._answer: Optional[bytes] = None
        self._error: Optional[Exception] = None
        self._retrieved = False
        self._waiters: List[Waiter[None]] = []
        # For the inbox:
        self.command = b""  # it may have to be repeated
        self.sent = False
        self.deadline = deadline
        self.retries = retries
        self.due: Optional[float] = None  # when it is sent again

    def done(self) -> bool:
        """Whether it is settled; never blocks."""
        return self._answer is not None or self._error is not None

    @property
    def gone(self) -> bool:
        """For the outbox: it is not to be sent any more."""
        return self.done() or self.deadline.passed()

    def refuse(self, error: MaxPayloadError) -> None:
        """For the outbox: the server that is connected now takes no message of its size."""
        self._inbox.refuse(self, error)

    def result(self, timeout: Optional[float] = None) -> api.PubAck:
        """The acknowledgement, as ``JetStream.publish`` returns it, or raises what that raises.

        timeout: seconds to wait; None for as long as it takes, which the publish's own timeout bounds. Raises
        RequestTimeoutError when that passes; the message is still on its way then.
        """
        self._wait(timeout)
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return parse_ack(self._answer)

    def exception(self, timeout: Optional[float] = None) -> Optional[Exception]:
        """What it failed with, None if it was acknowledged; waits as ``result`` does."""
        self._wait(timeout)
        return self._error

    def _wait(self, timeout: Optional[float]) -> None:
        deadline = Deadline(check_timeout(timeout))
        self._inbox.check()
        waiter: Waiter[None] = Waiter()
        with self._inbox.lock:
            self._retrieved = True
            if self.done():
                return
            self._waiters.append(waiter)
        try:
            waiter.wait(deadline)
        except Abandoned:
            raise RequestTimeoutError(f"the message on {self.subject!r} was not acknowledged within {timeout} s") from None

    def withdraw(self) -> None:
        """For natsbridge itself: do not send it, unless it has been; its failure is of no interest."""
        self._retrieved = True
        self._inbox.withdraw(self)

    def settle(self, answer: Optional[bytes], error: Optional[Exception]) -> None:
        """For the inbox, with its lock held."""
        self._answer, self._error = answer, error
        for waiter in self._waiters:
            waiter.set(None)

    def __del__(self) -> None:
        # May run inside any lock, in any thread: only leave a note for the loop.
        error = getattr(self, "_error", None)
        if error is not None and not self._retrieved:
            self._inbox.report_quietly(error)

    def __repr__(self) -> str:
        state = "pending" if not self.done() else "acknowledged" if self._error is None else repr(self._error)
        return f"<PublishFuture {self.subject!r} {state}>"


Failed = Tuple["weakref.ref[PublishFuture]", Exception]


class AckInbox:
    """Where the acknowledgements of a ``JetStream`` arrive: one name on one link, and a number for each message."""

    is_stream = False

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link, self._settings = link, settings
        self._generation = _fork.generation
        self._token = _wire.stream_token()
        self._inbox = f"{self._link.prefix}.{self._token}"
        self.lock = Lock()  # guards everything below, and the futures
        self._room = Condition(self.lock)  # fewer are pending
        self._blocked = 0
        self._pending: Dict[int, PublishFuture] = {}
        self._bytes = 0  # of their commands
        self._idle: List[Waiter[None]] = []
        self._failed: Deque[Failed] = deque(maxlen=1000)  # what nobody may have asked for
        self._numbers = itertools.count(1)
        self.closed = False

    @property
    def usable(self) -> bool:
        return not self.closed and self._generation == _fork.generation

    def check(self) -> None:
        if self._generation != _fork.generation:
            raise ForkedError("this message was published by the parent process, which gets its acknowledgement")
        self._link.loop.refuse_here()

    @property
    def pending(self) -> int:
        return len(self._pending)

    def publish(
        self, subject: str, data: bytes, headers: Optional[Dict[str, str]], deadline: Deadline, stall: Deadline
    ) -> PublishFuture:
        """Send a message once fewer than the most are pending. Raises TooManyStalledMsgsError."""
        self.check()
        check_size(data, headers, self._link.connection.max_payload)
        future = PublishFuture(self, subject, deadline, self._settings.retries)
        number = next(self._numbers)
        try:
            with self.lock:
                self._wait_for_room(len(data), stall)
                if self.closed:
                    raise ClosedError("the pool is closed: nothing was published")
                command = future.command = publish_command(subject, data, f"{self._inbox}.{number}", headers)
                if not self._pending:
                    self._link.register(self._token, self, ticking=True)
                self._pending[number] = future
                self._bytes += len(command)
            self._link.outbox.publish(command, deadline.remaining(), future)
        except BaseException:
            with self.lock:
                if number in self._pending:
                    self._take_out(number)
                # An interrupt may have come between any two of the steps above.
                self._bytes = sum(len(future.command) for future in self._pending.values())
            raise
        return future

    def _wait_for_room(self, size: int, stall: Deadline) -> None:
        """With the lock held."""
        most = self._settings.max_pending
        while len(self._pending) >= most or (self._bytes and self._bytes + size > _MAX_BYTES):
            if stall.passed():
                raise nats.js.errors.TooManyStalledMsgsError
            self._blocked += 1
            try:
                self._room.wait_slice(stall.remaining())
            finally:
                self._blocked -= 1

    def wait_idle(self, deadline: Deadline) -> None:
        """Wait until nothing is pending. Raises ``Abandoned``; then the first failure that nobody has asked for."""
        self.check()
        waiter: Waiter[None] = Waiter()
        with self.lock:
            if self._pending:
                self._idle.append(waiter)
            else:
                waiter.set(None)
        waiter.wait(deadline)
        with self.lock:
            failed = list(self._failed)
            self._failed.clear()
        first: Optional[Exception] = None
        for reference, error in failed:
            future = reference()
            if future is not None:
                if future._retrieved:
                    continue
                future._retrieved = True
                if first is not None:
                    self._link.on_error(error)  # a handle that was dropped has done so itself
            first = first or error
        if first is not None:
            raise first

    def withdraw(self, future: PublishFuture) -> None:
        with self.lock:
            if not future.sent:
                for number in [number for number, pending in self._pending.items() if pending is future]:
                    self._settle(number, None, DisconnectedError("the message was withdrawn before it was sent"))

    def report_quietly(self, error: Exception) -> None:
        if self._generation == _fork.generation:
            self._link.loop.post_quietly(self._link.on_error, error)

    # -- the loop ---------------------------------------------------------------------------------------------------------

    def on_message(self, suffix: str, msg: Msg) -> None:
        if not suffix.isdigit():
            return
        number = int(suffix)
        with self.lock:
            future = self._pending.get(number)
            if future is None:
                return
            if not msg.data and msg.headers and msg.headers.get(_wire.STATUS) == _wire.NO_RESPONDERS:
                if future.retries > 0:
                    future.retries -= 1
                    future.due = time.monotonic() + self._settings.retry_wait
                    return
                error: Optional[Exception] = NoStreamResponseError(future.subject)
            else:
                error = _refusal(msg.data)
            self._settle(number, None if error is not None else msg.data, error)

    def _settle(self, number: int, answer: Optional[bytes], error: Optional[Exception]) -> None:
        """With the lock held."""
        future = self._take_out(number)
        future.settle(answer, error)
        if error is not None:
            self._failed.append((weakref.ref(future), error))

    def _take_out(self, number: int) -> PublishFuture:
        """Fewer are pending: wake who waits for that, but not for each one of many."""
        future = self._pending.pop(number)
        self._bytes -= len(future.command)
        future.command = b""
        most = self._settings.max_pending
        if self._blocked and len(self._pending) <= most - max(1, most // 4):
            self._room.notify_all()
        if not self._pending:
            self._link.forget(self._token)
            for waiter in self._idle:
                waiter.set(None)
            self._idle.clear()
        return future

    def on_tick(self, clock: float) -> None:
        now = time.monotonic()
        again = []
        with self.lock:
            for number, future in list(self._pending.items()):
                if future.deadline.passed():
                    self._settle(
                        number,
                        None,
                        RequestTimeoutError(
                            f"no stream acknowledged a message on {future.subject!r} within {future.deadline.timeout:g} s"
                        ),
                    )
                elif future.due is not None and now >= future.due:
                    future.due = None
                    again.append(future.command)
        for command in again:
            self._link.outbox.control(command)

    def on_disconnect(self) -> None:
        self._fail_all(
            DisconnectedError("the connection was lost before a message was acknowledged: it may or may not be stored"),
            sent=True,
        )

    def on_reconnect(self) -> None: ...

    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        return self._fail_all(error, subject=subject)

    def on_closed(self) -> None:
        self.closed = True
        self._fail_all(ClosedError("the pool was closed before a stream acknowledged the message"))

    def refuse(self, refused: PublishFuture, error: Error) -> None:
        with self.lock:
            for number in [number for number, future in self._pending.items() if future is refused]:
                self._settle(number, None, error)

    def _fail_all(self, error: Error, *, sent: bool = False, subject: Optional[str] = None) -> bool:
        with self.lock:
            numbers = [
                number
                for number, future in self._pending.items()
                if (future.sent or not sent) and (subject is None or future.subject.lower() == subject)
            ]
            for number in numbers:
                self._settle(number, None, error)
            self._room.notify_all()
        return bool(numbers)


def _refusal(answer: bytes) -> Optional[Exception]:
    """The error in a stream's answer; whole answers are parsed by who asks for them, not by the loop."""
    if answer.startswith(b"{") and b'"error"' not in answer:
        return None
    try:
        parse_ack(answer)
    except nats.js.errors.Error as error:
        return error
    except (ValueError, KeyError, TypeError) as error:
        return nats.js.errors.Error(f"the message was answered by something that is not a stream: {error}")
    return None
