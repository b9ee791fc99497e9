"""``PullSubscription``: the messages of a consumer that are asked for."""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple, Type, TypeVar

import nats.errors
import nats.js.errors
from nats.js import api

from ._command import publish_command
from ._deadline import Deadline, check_interval, check_timeout
from ._handling import Consuming, JetStreamHandler
from ._link import Link
from ._pulls import Pulls, StopReading
from ._reading import MOMENT, Reader, check_heartbeat
from ._waiter import Abandoned
from .errors import ClosedError, FetchTimeoutError
from .jsmessage import AckPort, JetStreamMessage
from .manager import Manager
from .options import check_count, check_handler

S = TypeVar("S", bound="PullSubscription")


class PullSubscription:
    """The messages of a pull consumer; made by ``JetStream.pull_subscribe``.

    ``fetch`` for some messages, iteration for all that come, ``consume`` for a handler on threads. Each message is handed
    out once here, and has to be acknowledged unless the consumer's policy says otherwise. Thread-safe: several threads may
    read, and share the messages. Survives reconnects and restarts of the server: requests are repeated, and what was not
    acknowledged comes again after the consumer's ``ack_wait``. In a forked child every use raises ``ForkedError``.

    A consumer that was deleted, or whose stream was, ends reading with nats-py's error for it.
    """

    _pulls_class: Type[Pulls] = Pulls

    def __init__(
        self, js: Manager, stream: str, consumer: str, *, owned: bool, deadline: Deadline, inbox: Optional[str] = None
    ) -> None:
        """``owned``: the consumer is nobody else's, and is deleted with the subscription."""
        self.stream, self.consumer = stream, consumer
        self._js, self._owned, self._pool = js, owned, js._pool
        self._link = js._pool._link(deadline)
        port = AckPort(js._pool, self._link)
        self._pulls = self._pulls_class(self._link, port, inbox or js._pool.new_inbox(), *self._subjects())
        self._on_error = js._pool._report
        self._reader = Reader(self._pulls, self._look, self._on_error)

    def _next_subject(self) -> str:
        return self._subjects()[0]

    def _subjects(self) -> Tuple[str, str]:
        """Where messages are asked for, and what the consumer is like."""
        prefix, which = f"{self._js._settings.prefix}.CONSUMER", f"{self.stream}.{self.consumer}"
        return f"{prefix}.MSG.NEXT.{which}", f"{prefix}.INFO.{which}"

    def start(self, deadline: Deadline) -> None:
        """Subscribe; returns once the server knows. Raises PermissionDeniedError, RequestTimeoutError, ClosedError."""
        link, pulls = self._link, self._pulls
        link.register(pulls.token, pulls, ticking=False)
        try:
            link.loop.call(
                link.connection.subscribe,
                pulls.nats,
                deadline=deadline,
                what=f"subscribing for the messages of {self.consumer or self.stream!r}",
                undo=lambda _: link.spawn(link.connection.unsubscribe(pulls.nats)),
            )
        except BaseException:
            link.forget(pulls.token)
            raise

    # -- reading ------------------------------------------------------------------------------------------------------

    def fetch(
        self, batch: int = 1, timeout: Optional[float] = 5, heartbeat: Optional[float] = None
    ) -> List[JetStreamMessage]:
        """Up to ``batch`` messages: what is there now, or else what comes within ``timeout`` seconds.

        Returns without waiting when there is anything at all; when there is nothing, it waits until ``batch`` messages
        have come or the time is over. Messages that come too late are kept for the next call, and what an interrupted
        call had is given back.

        timeout: seconds; the ``JetStream``'s if None.
        heartbeat: 0.1 to 600 seconds; the server speaks so often, and after two silent ones it is asked anew.

        Raises FetchTimeoutError when none came, nats-py's APIError when the consumer refuses, is gone or was deleted
        meanwhile, ServiceUnavailableError when it never answered, ClosedError after ``unsubscribe``, ForkedError.
        """
        check_count(batch, "batch")
        if heartbeat is not None:
            heartbeat = check_heartbeat(heartbeat)
        limit = self._js.timeout if timeout is None else self._pool._limit(check_interval(timeout, "timeout"))
        deadline = Deadline(limit)
        self._reader.check()
        try:
            messages = self._reader.fetch(batch, deadline, heartbeat)
        except StopReading:
            raise self._over() from None
        if not messages:
            raise FetchTimeoutError(f"no message came from consumer {self.consumer!r} within {limit:g} s")
        return messages

    def next_msg(self, timeout: Optional[float] = 1.0) -> JetStreamMessage:
        """The next message, waiting at most ``timeout`` seconds (None: no limit); asks for no more than that one.

        Raises FetchTimeoutError when none came, and what ``fetch`` raises.
        """
        try:
            message = self._reader.next(Deadline(check_timeout(timeout)), 1, 5.0)
        except Abandoned:
            raise FetchTimeoutError(f"no message came from consumer {self.consumer!r} within {timeout:g} s") from None
        if message is None:
            raise self._over()
        return message

    def messages(self, *, batch: int = 500, heartbeat: float = 5.0) -> Iterator[JetStreamMessage]:
        """Iterate over all that comes, waiting for as long as it takes; ends after ``unsubscribe``.

        Messages are asked for ahead: as many as the reading thread works off in about a second, ``batch`` at most. Work
        that takes long is therefore asked for one at a time, and shared fairly with other processes. What was read
        ahead when the last iteration ends is given back, and the server sends no more.

        Where a message that is given back would not come again, nothing is read ahead: with ack policy ``none``, and once a
        message has only one delivery of ``max_deliver`` left.

        heartbeat: 0.1 to 600 seconds; the server speaks so often when nothing comes, and after two silent ones it is asked
            anew.

        Raises nats-py's APIError when the consumer is gone, ClosedError when the pool was closed, ForkedError; at once
        TypeError and ValueError.
        """
        check_count(batch, "batch")
        heartbeat = check_heartbeat(heartbeat)
        self._reader.check()
        return self._reader.messages(batch, heartbeat)

    def __iter__(self) -> Iterator[JetStreamMessage]:
        return self.messages()

    def consume(
        self,
        handler: JetStreamHandler,
        *,
        max_workers: int = 1,
        manual_ack: bool = False,
        nak_on_error: bool = True,
        nak_delay: Optional[float] = None,
        batch: int = 500,
        heartbeat: float = 5.0,
    ) -> Consuming:
        """Call ``handler(message)`` with every message that comes, on up to ``max_workers`` threads; returns at once.

        A message is acknowledged when its handler returns, and given back when it raises, unless the handler did one or
        the other itself. The error is logged and goes to the pool's ``error_callback``.

        manual_ack: True to leave acknowledging to the handler.
        nak_on_error: False to say nothing when a handler raises; the message comes again after ``ack_wait``.
        nak_delay: seconds after which a message whose handler failed is delivered again; at once if None.
        batch, heartbeat: as in ``messages``.

        Raises TypeError, ValueError, ForkedError.
        """
        check_handler(handler)
        check_count(max_workers, "max_workers")
        check_timeout(nak_delay, "nak_delay", finite=True)
        check_count(batch, "batch")
        heartbeat = check_heartbeat(heartbeat)
        self._reader.check()
        return Consuming.start(
            self._pool,
            f"{self.stream}.{self.consumer}",
            lambda: self.messages(batch=batch, heartbeat=heartbeat),
            handler,
            max_workers=max_workers,
            ack=self._pulls.gives_back and not manual_ack,
            nak=self._pulls.gives_back and nak_on_error,
            nak_delay=nak_delay,
            on_error=self._on_error,
            finish=self._finish,
        )

    # -- the consumer -------------------------------------------------------------------------------------------------

    def consumer_info(self) -> api.ConsumerInfo:
        """The consumer's configuration and state now. Raises nats-py's NotFoundError, and what ``JetStream`` raises."""
        return self._js.consumer_info(self.stream, self.consumer)

    def _look(self, deadline: Deadline) -> None:
        """The consumer did not answer: is it gone for good? Otherwise wait a moment, and it is asked again."""
        for attempt in range(2):
            try:
                self._js.with_timeout(deadline.at_most(self._js.timeout)).consumer_info(self.stream, self.consumer)
            except nats.js.errors.NotFoundError:
                if attempt:
                    raise
                self._reader.pause(deadline)  # a server that has just started may not know all of its streams yet
                continue
            except (nats.js.errors.ServiceUnavailableError, nats.errors.TimeoutError):
                if deadline.at_most(1.0) <= MOMENT:
                    raise
            self._reader.pause(deadline)
            return

    # -- the end ------------------------------------------------------------------------------------------------------

    def unsubscribe(self) -> None:
        """End it: readers stop, what was read ahead is given back, and a consumer that was made for it is deleted.

        Idempotent, any thread; does not wait.
        """
        if self._reader.ours:
            self._finish(None)

    close = unsubscribe

    def drain(self, timeout: Optional[float] = 30.0) -> None:
        """As ``unsubscribe``: what was read ahead is given back, and what was handed out can still be acknowledged."""
        self.unsubscribe()

    def pool_closes(self, deadline: Deadline) -> None:
        """For the pool, which ends what belongs to it."""
        self._finish(ClosedError(f"the pool was closed, and the subscription to consumer {self.consumer!r} with it"))

    def _finish(self, error: Optional[Exception]) -> None:
        if self._pulls.end(error):
            self._link.outbox.defer(_end_on_loop, self._link, self._pulls, self._deletion())

    def _deletion(self) -> Optional[bytes]:
        """The command that deletes a consumer which is nobody else's."""
        if not self._owned:
            return None
        subject = f"{self._js._settings.prefix}.CONSUMER.DELETE.{self.stream}.{self.consumer}"
        return publish_command(subject, reply=self._pool.new_inbox())

    def _over(self) -> ClosedError:
        return ClosedError(f"the subscription to consumer {self.consumer!r} has ended")

    @property
    def active(self) -> bool:
        """False once it has ended, in whatever way."""
        return self._pulls.ended is None

    @property
    def pending_msgs(self) -> int:
        """Messages that have come and wait here for a reader."""
        return len(self._pulls.messages)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the messages that have come and wait here for a reader."""
        return self._pulls.bytes

    @property
    def delivered(self) -> int:
        """Messages that have come so far."""
        return self._pulls.delivered

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unsubscribe()

    def __del__(self) -> None:
        # May run inside any lock, in any thread: only leave a note for the loop.
        pulls = getattr(self, "_pulls", None)
        if pulls is not None and pulls.ended is None and self._reader.ours:
            self._link.outbox.defer(_end_on_loop, self._link, pulls, self._deletion())

    def __repr__(self) -> str:
        state = "active" if self.active else "ended"
        return f"<{type(self).__name__} {self.stream}.{self.consumer} {state}, {self.pending_msgs} pending>"


def _end_on_loop(link: Link, pulls: Pulls, deletion: Optional[bytes]) -> None:
    pulls.end(None)
    link.forget(pulls.token)
    if deletion is not None:
        link.outbox.control(deletion)
    link.spawn(link.connection.drain(pulls.nats))
    link.spawn(pulls.left())  # begins behind the other, and so when the server is told: it must not send what comes back
