"""``PushSubscription``: the messages that a push consumer sends."""

from __future__ import annotations

import time
from typing import Iterator, Optional, Tuple

import nats.errors
import nats.js.errors
from nats.js import api

from . import _fork
from ._command import publish_command
from ._context import Binding
from ._deadline import Deadline, check_timeout
from ._handling import Consuming, JetStreamHandler
from ._link import Link
from ._pushed import Pushed
from ._waiter import SLICE, Abandoned
from .errors import (
    ClosedError,
    DisconnectedError,
    Error,
    FetchTimeoutError,
    ForkedError,
)
from .jsmessage import AckPort, JetStreamMessage
from .manager import Manager

_SILENCE = 10.0  # seconds after which the server is asked for a consumer that sends no heartbeats


class PushSubscription:
    """The messages that a push consumer sends; made by ``JetStream.subscribe``.

    Iterate it, or call ``next_msg``, unless it has a handler. Each message is handed out once here, and has to be
    acknowledged unless the consumer's policy says otherwise (a handler's messages are, by themselves). A reader that is too
    slow holds messages back up to the limits; then newer ones are dropped here, counted in ``dropped`` and reported to the
    pool's ``error_callback``; the server sends them again if they need an acknowledgement.

    Survives reconnects. Reading ends with nats-py's NotFoundError when the consumer was deleted, or did not survive its
    server (as those without a durable name may); where it sends no heartbeats (``idle_heartbeat``) that is noticed after 10
    seconds of silence. Thread-safe; in a forked child every use raises ``ForkedError``.
    """

    def __init__(self, js: Manager, binding: Binding, limits: Tuple[int, int]) -> None:
        config = binding.config
        assert config is not None
        self.stream, self.consumer = binding.stream, binding.consumer
        self.subject, self.queue = config.deliver_subject or "", config.deliver_group or ""
        self._js, self._pool, self._owned = js, js._pool, binding.owned
        self._link = js._pool._link(binding.deadline)
        self._heartbeat = config.idle_heartbeat or 0.0
        self._generation = _fork.generation
        self._on_error = js._pool._report
        port = AckPort(js._pool, self._link)
        self._consuming: Optional[Consuming] = None
        self._pushed = Pushed(self._link, port, config, limits, self._link.on_error)

    def start(self, deadline: Deadline) -> None:
        """Subscribe; returns once the server knows. Raises PermissionDeniedError, RequestTimeoutError, ClosedError."""
        link, pushed = self._link, self._pushed
        link.register(pushed.token, pushed, ticking=False)
        link.loop.call(
            link.connection.subscribe,
            pushed.nats,
            deadline=deadline,
            what=f"subscribing for the messages of {self.consumer!r}",
            undo=lambda _: link.spawn(link.connection.unsubscribe(pushed.nats)),
        )

    def handle(
        self, handler: JetStreamHandler, *, max_workers: int, ack: bool, nak: bool, nak_delay: Optional[float]
    ) -> None:
        """For ``JetStream.subscribe``: hand the messages to ``handler``, on threads."""
        self._consuming = Consuming.start(
            self._pool,
            f"{self.stream}.{self.consumer}",
            self.messages,
            handler,
            max_workers=max_workers,
            ack=ack,
            nak=nak,
            nak_delay=nak_delay,
            on_error=self._on_error,
            finish=lambda error: self._finish(error, discard=True),
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def next_msg(self, timeout: Optional[float] = 1.0) -> JetStreamMessage:
        """The next message, waiting at most ``timeout`` seconds (None: no limit).

        Raises FetchTimeoutError when none came, NotFoundError when the consumer is gone, ClosedError after ``unsubscribe``,
        ForkedError.
        """
        try:
            message = self._next(Deadline(check_timeout(timeout)))
        except Abandoned:
            raise FetchTimeoutError(f"no message came from consumer {self.consumer!r} within {timeout:g} s") from None
        if message is None:
            raise ClosedError(f"the subscription to consumer {self.consumer!r} has ended")
        return message

    def messages(self) -> Iterator[JetStreamMessage]:
        """Iterate over all that comes, waiting for as long as it takes; ends after ``unsubscribe``.

        Raises nats-py's NotFoundError when the consumer is gone, ClosedError when the pool was closed, ForkedError.
        """
        while True:
            message = self._next(Deadline(None))
            if message is None:
                return
            yield message

    def __iter__(self) -> Iterator[JetStreamMessage]:
        return self.messages()

    def _next(self, deadline: Deadline) -> Optional[JetStreamMessage]:
        if self._generation != _fork.generation:
            raise ForkedError("this consumer's subscription belongs to the parent process: subscribe here again")
        pushed = self._pushed
        pushed.link.loop.refuse_here()
        while True:
            try:
                message = pushed.mailbox.take(Deadline(deadline.at_most(SLICE)))
            except Abandoned:
                self._look(deadline)
                if deadline.passed():
                    raise
                continue
            pushed.taken()
            return message

    def _look(self, deadline: Deadline) -> None:
        """Nothing has come: ask for the consumer where there is a reason to doubt that it lives."""
        pushed = self._pushed
        silence = time.monotonic() - pushed.heard
        if silence > (2 * self._heartbeat or _SILENCE) and pushed.link.connection.up:
            pushed.heard, pushed.doubt = time.monotonic(), True
            if self._heartbeat:
                words = f"consumer {self.consumer!r} was silent for {silence:.1f} s, two heartbeats"
                self._on_error(DisconnectedError(words))
        if not pushed.doubt or not pushed.link.connection.up:
            return
        pushed.doubt = False
        try:
            self.consumer_info()
        except nats.js.errors.NotFoundError as error:
            self._finish(error, discard=False)
            raise
        except Error:
            pushed.doubt = True  # look again

    # -- the consumer -------------------------------------------------------------------------------------------------

    def consumer_info(self) -> api.ConsumerInfo:
        """The consumer's configuration and state now. Raises nats-py's NotFoundError, and what ``JetStream`` raises."""
        return self._js.consumer_info(self.stream, self.consumer)

    # -- the end ------------------------------------------------------------------------------------------------------

    def unsubscribe(self) -> None:
        """End it now; what was not read is dropped, and comes again if it needs an acknowledgement.

        A consumer that was made for it is deleted. Idempotent, any thread; does not wait.
        """
        if self._generation == _fork.generation:
            self._finish(None, discard=True)

    close = unsubscribe

    def drain(self, timeout: Optional[float] = 30.0) -> None:
        """Take nothing new, but hand out all that had arrived. Raises RequestTimeoutError after ``timeout`` seconds."""
        if self._generation != _fork.generation:
            return
        deadline = Deadline(check_timeout(timeout))
        link, pushed = self._link, self._pushed
        try:
            if not pushed.mailbox.closed:
                what = f"draining consumer {self.consumer!r}"
                link.loop.call(link.connection.drain, pushed.nats, deadline=deadline, what=what)
        finally:
            self._finish(None, discard=False)
            if self._consuming is not None:
                self._consuming.drain(deadline.remaining())

    def pool_closes(self, deadline: Deadline) -> None:
        """For the pool, which ends what belongs to it."""
        error = ClosedError(f"the pool was closed, and the subscription to consumer {self.consumer!r} with it")
        self._finish(error, discard=False)

    def _finish(self, error: Optional[Exception], *, discard: bool) -> None:
        ended, pushed = self._pushed.mailbox.closed, self._pushed
        pushed.end(error, discard=discard)
        if not ended:
            self._link.outbox.defer(_end_on_loop, self._link, pushed, self._deletion())

    def _deletion(self) -> Optional[bytes]:
        """The command that deletes a consumer which is nobody else's."""
        if not self._owned:
            return None
        subject = f"{self._js._settings.prefix}.CONSUMER.DELETE.{self.stream}.{self.consumer}"
        return publish_command(subject, reply=self._pool.new_inbox())

    @property
    def active(self) -> bool:
        """False once it has ended, in whatever way."""
        return not self._pushed.mailbox.closed

    @property
    def pending_msgs(self) -> int:
        """Messages that have come and wait here for a reader."""
        return len(self._pushed.mailbox)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the messages that have come and wait here for a reader."""
        return self._pushed.mailbox.bytes

    @property
    def delivered(self) -> int:
        """Messages that have come so far."""
        return self._pushed.delivered

    @property
    def dropped(self) -> int:
        """Messages that were dropped here because the reader was too slow."""
        return self._pushed.dropped

    def __enter__(self) -> PushSubscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unsubscribe()

    def __del__(self) -> None:
        # May run inside any lock, in any thread: only leave a note for the loop.
        pushed = getattr(self, "_pushed", None)
        if pushed is not None and not pushed.mailbox.closed and self._generation == _fork.generation:
            self._link.outbox.defer(_end_on_loop, self._link, pushed, self._deletion())

    def __repr__(self) -> str:
        state = "active" if self.active else "ended"
        return f"<PushSubscription {self.stream}.{self.consumer} {state}, {self.pending_msgs} pending>"


def _end_on_loop(link: Link, pushed: Pushed, deletion: Optional[bytes]) -> None:
    if deletion is not None:
        link.outbox.control(deletion)
    link.spawn(link.connection.unsubscribe(pushed.nats))
    link.forget(pushed.token)
