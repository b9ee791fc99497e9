"""One subject that is served: its subscription, its own bounded threads, and what became of its requests."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Optional

from nats.aio.msg import Msg

from . import _wire
from ._client import LinkSubscription
from ._deadline import Deadline
from ._link import Link
from ._runtime import Runtime
from ._waiter import Condition, Lock
from ._workers import Workers
from .errors import BusyError, Error, ServiceError
from .options import check_failure

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")

_INTAKE_TIMEOUT = 1.0  # seconds for the server to confirm, when closing, that no more requests will come

# What requesters, and those who ask for the figures, are told where nobody chose the words.
HANDLER_FAILED = "the handler failed"
NO_REPLY = _wire.Failure(400, "the request names no reply subject that may be answered")


def chosen_failure(error: BaseException) -> Optional[_wire.Failure]:
    """What the requester is told of an exception that a handler raised to say just that; None for any other.

    An exception's text may hold what is nobody else's business, so it stays in this process.
    """
    if not isinstance(error, ServiceError) or isinstance(error, BusyError) or error.received:
        return None
    try:
        return check_failure(error.code, error.description)
    except (TypeError, ValueError):
        return None


class Counts:
    """What became of the requests since the beginning, or the last reset. Thread-safe.

    A request keeps the counts that it was counted in when it came, so that one which is through only after a reset does
    not turn up in figures that do not have it.
    """

    def __init__(self) -> None:
        self.lock = Lock()  # guards everything below
        self.received = 0
        self.refused = 0  # without a handler
        self.served = 0  # handlers started
        self.failed = 0  # handlers that raised what they did not mean to
        self.errors = 0  # errors that requesters were told, refusals among them
        self.last_error = ""
        self.handled = 0  # handlers that are through
        self.nanoseconds = 0  # spent in them

    def receive(self) -> None:
        with self.lock:
            self.received += 1

    def refuse(self, failure: _wire.Failure) -> None:
        with self.lock:
            self.refused += 1
            self.error(failure)

    def start(self) -> None:
        with self.lock:
            self.served += 1

    def fail(self) -> None:
        with self.lock:
            self.failed += 1

    def error(self, failure: _wire.Failure) -> None:
        """The text is the one that the requester gets: everybody may ask for the figures of a service."""
        with self.lock:
            self.errors += 1
            self.last_error = f"{failure.code}:{_wire.one_line(failure.description)}"

    def finish(self, nanoseconds: int) -> None:
        with self.lock:
            self.handled += 1
            self.nanoseconds += nanoseconds


class Intake:
    """A subscription with threads of its own, so that one subject never waits for another. What serves derives from it."""

    def __init__(self, pool: Pool, subject: str, queue: str, *, max_workers: int, max_queued: int) -> None:
        self.subject, self.queue = subject, queue
        self.counts = Counts()
        self._pool = pool
        self._workers = Workers(f"natsbridge-{subject}", max_workers, max_queued)
        self._cond = Condition()  # guards _closed, and what a derived class says
        self._closed = False
        self._link: Optional[Link] = None
        self._runtime: Optional[Runtime] = None
        self._subscription: Optional[LinkSubscription] = None

    def start(self, deadline: Deadline) -> None:
        """Subscribe; returns once the server knows. Raises PermissionDeniedError, RequestTimeoutError, ClosedError."""
        link = self._pool._link(deadline)
        self._link, self._runtime = link, self._pool._runtime
        subscription = LinkSubscription(self.subject, self.queue, self._on_message)
        link.loop.call(
            link.connection.subscribe,
            subscription,
            deadline=deadline,
            what=f"subscribing to {self.subject!r}",
            undo=lambda _: link.spawn(link.connection.unsubscribe(subscription)),
        )
        self._subscription = subscription

    # -- requests, on the loop ----------------------------------------------------------------------------------------

    def _on_message(self, msg: Msg) -> None:
        if not msg.reply and msg.headers and _wire.STATUS in msg.headers and not msg.data:
            return  # the server's: what is published from a handler may have had this subject for its reply
        counts = self.counts
        counts.receive()
        self._on_request(msg, counts)

    def _on_request(self, msg: Msg, counts: Counts) -> None:
        """On the loop: have the request served, or refuse it."""
        raise NotImplementedError

    def _failed(self, error: BaseException, subject: str, counts: Counts) -> None:
        """A handler raised what it did not mean to."""
        logger.error("the handler of %s failed", subject, exc_info=error)
        counts.fail()
        assert self._runtime is not None
        self._runtime.tell(error)

    # -- the end ------------------------------------------------------------------------------------------------------

    def stop_intake(self, deadline: Deadline) -> None:
        """Take in no new requests; those that had arrived are served."""
        link, subscription = self._link, self._subscription
        if link is not None and subscription is not None:
            what = f"draining {self.subject!r}"
            link.loop.call(link.connection.drain, subscription, deadline=deadline, what=what)

    def wait_idle(self, deadline: Deadline) -> bool:
        """Wait until everything that was taken in is through."""
        return self._workers.wait_idle(deadline)

    def unfinished(self) -> str:
        """What ``wait_idle`` would still wait for, in words."""
        _, running, queued = self._workers.counts()
        return f"{running} handlers running, {queued} requests queued"

    def close(self, deadline: Deadline) -> None:
        """Refuse what still arrives, end what is open, and wait for the handlers."""
        with self._cond:
            self._closed = True
        with suppress(Error):
            self.stop_intake(Deadline(deadline.at_most(_INTAKE_TIMEOUT)))
        self._end_open()
        self._workers.close(deadline)

    def _end_open(self) -> None:
        """No more is taken in: tell the requesters of what will not be finished."""
        raise NotImplementedError
