"""Ordinary subscriptions: an iterator of messages, or a handler on the pool's threads."""

from __future__ import annotations

import functools
import logging
from typing import Callable, Optional

from nats.aio.msg import Msg

from . import _fork
from ._client import LinkSubscription
from ._deadline import Deadline, check_timeout
from ._link import Link
from ._mailbox import Mailbox
from ._waiter import Abandoned, Condition
from ._workers import Workers
from .errors import (
    ClosedError,
    Error,
    ForkedError,
    PermissionDeniedError,
    RequestTimeoutError,
    SlowConsumerError,
    as_exception,
)
from .message import Message, Respond
from .options import check_count, check_ran

logger = logging.getLogger("natsbridge")

Handler = Callable[[Message], object]

_TURN = 64  # messages a handler may get before it is another subscription's turn on the thread


class _Inflow:
    """What the loop refers to: it must not keep the ``Subscription`` alive, which is cancelled when nobody holds it."""

    def __init__(
        self,
        subject: str,
        respond: Respond,
        on_error: Callable[[Exception], None],
        pending_messages: int,
        pending_bytes: int,
    ) -> None:
        self.subject = subject
        self._respond, self._on_error = respond, on_error
        self.mailbox: Mailbox[Message] = Mailbox(pending_messages, pending_bytes)
        self.on_message: Optional[Callable[[], None]] = None
        self.on_limit: Callable[[], None] = lambda: None
        self.limit = 0  # messages after which the subscription ends, 0 for never
        self.delivered = self.dropped = 0

    def deliver(self, msg: Msg) -> None:
        """On the loop; never waits, so that nothing piles up in nats-py, which would drop what is in the middle."""
        if self.mailbox.closed:
            return
        message = Message(msg.subject, msg.data, msg.reply, msg.headers, respond=self._respond)
        self.delivered += 1
        if not self.mailbox.offer(message, len(msg.data)):
            self.slow()
        elif self.on_message is not None:
            self.on_message()
        if self.limit and self.delivered >= self.limit:
            self.mailbox.close()
            self.on_limit()

    def slow(self) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # the 1st, 2nd, 4th, 8th …: a flood must not flood the reports too
            self._on_error(SlowConsumerError(self.subject, f"{self.dropped} so far"))

    def denied(self, error: PermissionDeniedError) -> None:
        self.mailbox.close(error)


class Subscription:
    """Messages on one subject; made by ``Pool.subscribe``.

    Without a handler: iterate it, or call ``next_msg``. With one: the handler gets each message, one at a time and in
    order, on the pool's threads. A reader that is too slow holds messages back up to the limits; then newer ones are
    dropped, counted in ``dropped``, and reported to the pool's ``error_callback`` as ``SlowConsumerError``.

    Survives reconnects; what was published meanwhile is lost, as always in core NATS. Thread-safe. In a forked child every
    use raises ``ForkedError``.
    """

    def __init__(
        self,
        link: Link,
        subject: str,
        queue: str,
        *,
        handler: Optional[Handler],
        workers: Workers,
        respond: Respond,
        on_error: Callable[[Exception], None],
        on_end: Callable[[Subscription], None],
        max_msgs: int,
        pending_messages: int,
        pending_bytes: int,
    ) -> None:
        self.subject, self.queue = subject, queue
        self._generation = _fork.generation
        self._link, self._workers = link, workers
        self._handler, self._on_error, self._on_end = handler, on_error, on_end
        self._inflow = _Inflow(subject, respond, on_error, pending_messages, pending_bytes)
        self._nats = LinkSubscription(
            subject,
            queue,
            self._inflow.deliver,
            on_denied=self._inflow.denied,
        )
        self._inflow.limit = max_msgs
        self._inflow.on_limit = functools.partial(_end_on_loop, link, self._nats)
        self._cond = Condition()  # guards _scheduled
        self._scheduled = False  # a thread runs the handler, or is about to
        if handler is not None:
            self._inflow.on_message = self._schedule

    def start(self, deadline: Deadline) -> None:
        """Subscribe; returns once the server knows. Raises PermissionDeniedError, RequestTimeoutError, ClosedError."""
        link, nats = self._link, self._nats
        link.loop.call(
            link.connection.subscribe,
            nats,
            deadline=deadline,
            what=f"subscribing to {self.subject!r}",
            undo=lambda _: link.spawn(link.connection.unsubscribe(nats)),
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def next_msg(self, timeout: Optional[float] = 1.0) -> Message:
        """The next message, waiting at most ``timeout`` seconds (None: no limit).

        Raises RequestTimeoutError when none came, ClosedError after ``unsubscribe`` or when the pool was closed.
        """
        self._check_reader()
        deadline = Deadline(check_timeout(timeout))
        self._link.loop.refuse_here()
        try:
            message = self._inflow.mailbox.take(deadline)
        except Abandoned:
            raise RequestTimeoutError(f"no message came on {self.subject!r} within {timeout:g} s") from None
        if message is None:
            raise ClosedError(f"the subscription to {self.subject!r} has ended")
        return message

    def __iter__(self) -> Subscription:
        self._check_reader()
        return self

    def __next__(self) -> Message:
        """Waits for as long as it takes; ends after ``unsubscribe``, raises ClosedError when the pool is closed."""
        self._check_reader()
        self._link.loop.refuse_here()
        message = self._inflow.mailbox.take(Deadline(None))
        if message is None:
            raise StopIteration
        return message

    def _check_reader(self) -> None:
        if self._generation != _fork.generation:
            raise ForkedError(f"the subscription to {self.subject!r} belongs to the parent process: subscribe here again")
        if self._handler is not None:
            raise ClosedError(f"the subscription to {self.subject!r} has a handler, which gets its messages")

    # -- the handler --------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        with self._cond:
            if self._scheduled:
                return
            self._scheduled = True
        if not self._workers.submit(self._handle_some):
            with self._cond:
                self._scheduled = False

    def _handle_some(self) -> None:
        handler = self._handler
        assert handler is not None
        for _ in range(_TURN):
            try:
                message = self._inflow.mailbox.take(Deadline(0.0))
            except (Abandoned, Error):
                break
            if message is None:
                self._on_end(self)
                break
            try:
                check_ran(handler(message))
            except BaseException as error:  # SystemExit too: sys.exit() must not take the messages behind it along
                logger.exception("the handler of %r failed on a message", self.subject)
                self._on_error(as_exception(error))
        with self._cond:
            self._scheduled = False
            self._cond.notify_all()
        if len(self._inflow.mailbox):
            self._schedule()

    def _wait_handled(self, deadline: Deadline) -> bool:
        with self._cond:
            while self._scheduled or (self._handler is not None and len(self._inflow.mailbox)):
                if deadline.passed():
                    return False
                self._cond.wait_slice(deadline.at_most(0.05))
        return True

    # -- the end ------------------------------------------------------------------------------------------------------

    def unsubscribe(self, limit: int = 0) -> None:
        """End the subscription now; messages not yet read or handled are dropped. Does not wait. Idempotent.

        limit: end it once so many messages have come, those that have come already included; they are all handed out.
        """
        check_count(limit, "limit", least=0)
        if self._generation != _fork.generation:
            return
        if limit:
            self._inflow.limit = limit
            if self._inflow.delivered >= limit:
                self.end(None, discard=False)
        else:
            self.end(None, discard=True)

    def close(self) -> None:
        """As ``unsubscribe()``."""
        self.unsubscribe()

    def end(self, error: Optional[Exception], *, discard: bool) -> None:
        """Take nothing more in; readers get ``error``, or the regular end."""
        self._inflow.mailbox.close(error, discard=discard)
        self._link.outbox.defer(_end_on_loop, self._link, self._nats)
        self._on_end(self)

    def pool_closes(self, deadline: Deadline) -> None:
        """For the pool, which ends what belongs to it."""
        self.end(ClosedError(f"the pool was closed, and the subscription to {self.subject!r} with it"), discard=False)

    def drain(self, timeout: Optional[float] = 30.0) -> None:
        """Take no new messages, but hand out everything that had arrived; with a handler, wait until it is through.

        Raises RequestTimeoutError if that takes longer than ``timeout`` seconds; the subscription has ended even so.
        """
        if self._generation != _fork.generation:
            return
        deadline = Deadline(check_timeout(timeout))
        try:
            if not self._inflow.mailbox.closed:
                self._link.loop.call(
                    self._link.connection.drain,
                    self._nats,
                    deadline=deadline,
                    what=f"draining {self.subject!r}",
                )
            if not self._wait_handled(deadline):
                raise RequestTimeoutError(f"the handler of {self.subject!r} was not through within {timeout:g} s")
        finally:
            self.end(None, discard=False)

    @property
    def delivered(self) -> int:
        """Messages that have come so far."""
        return self._inflow.delivered

    @property
    def dropped(self) -> int:
        """Messages lost because the reader was too slow."""
        return self._inflow.dropped

    @property
    def pending(self) -> int:
        """Messages that have arrived and were not read or handled yet."""
        return len(self._inflow.mailbox)

    pending_msgs = pending

    @property
    def pending_bytes(self) -> int:
        """Bytes of the messages that have arrived and were not read or handled yet."""
        return self._inflow.mailbox.bytes

    @property
    def active(self) -> bool:
        return not self._inflow.mailbox.closed

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unsubscribe()

    def __del__(self) -> None:
        # May run inside any lock, in any thread: only leave a note for the loop.
        inflow = getattr(self, "_inflow", None)
        if inflow is not None and not inflow.mailbox.closed and self._generation == _fork.generation:
            self._link.outbox.defer(_end_on_loop, self._link, self._nats)

    def __repr__(self) -> str:
        queue = f" queue={self.queue!r}" if self.queue else ""
        state = "active" if self.active else "ended"
        return f"<Subscription {self.subject!r}{queue} {state}, {self.pending} pending, {self.dropped} dropped>"


def _end_on_loop(link: Link, nats: LinkSubscription) -> None:
    link.spawn(link.connection.unsubscribe(nats))
