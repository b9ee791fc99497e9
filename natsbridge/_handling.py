"""Handlers of consumers' messages, on threads of their own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Optional

import nats.errors

from . import _fork
from ._deadline import Deadline, check_timeout
from ._workers import Workers
from .errors import ClosedError, Error, RequestTimeoutError, as_exception
from .jsmessage import JetStreamMessage
from .options import check_ran

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")

JetStreamHandler = Callable[[JetStreamMessage], object]


class Consuming:
    """A handler at work on a consumer's messages; made by ``consume`` and ``subscribe``. Goes on until it is stopped.

    Ends by itself only when the consumer does (deleted, say), or by a fault while reading. That goes to the pool's
    ``error_callback``, and ``wait`` raises it. Thread-safe; a context manager that stops it.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterator[JetStreamMessage]],
        handler: JetStreamHandler,
        *,
        max_workers: int,
        ack: bool,
        nak: bool,
        nak_delay: Optional[float],
        on_error: Callable[[Exception], None],
        finish: Callable[[Optional[Exception]], None],
        on_end: Callable[[Consuming], None],
    ) -> None:
        """``read``: gives an iterator for one thread. ``finish``: ends them all."""
        self.name = name
        self._read, self._handler = read, handler
        self._ack, self._nak, self._nak_delay = ack, nak, nak_delay
        self._on_error, self._finish, self._on_end = on_error, finish, on_end
        self._workers = Workers(f"natsbridge-{name}", max_workers, None)
        self._generation = _fork.generation
        self._errors: List[Exception] = []

    @classmethod
    def start(cls, pool: Pool, *args: Any, **kwargs: Any) -> Consuming:
        """Make one that lives as long as the pool, at most, and set it to work. Raises ClosedError."""
        consuming = cls(*args, on_end=pool._detach, **kwargs)
        pool._attach(consuming)
        for _ in range(consuming._workers.max_workers):
            consuming._workers.submit(consuming._run)
        return consuming

    def _run(self) -> None:
        try:
            for message in self._read():
                self._handle(message)
        except Exception as error:
            if not isinstance(error, Error):
                logger.exception("reading for the handler of %s failed", self.name)
            if not self._errors:
                self._errors.append(error)
                if not isinstance(error, ClosedError):
                    self._on_error(error)
                self._finish(error)
        self._on_end(self)
        self._workers.close(Deadline(0.0))

    def _handle(self, message: JetStreamMessage) -> None:
        try:
            check_ran(self._handler(message))
        except BaseException as error:  # SystemExit too: sys.exit() must not take the thread with it
            logger.exception("the handler of %s failed on a message", self.name)
            self._on_error(as_exception(error))
            if self._nak:
                self._settle(message, lambda: message.nak(self._nak_delay))
        else:
            if self._ack:
                self._settle(message, message.ack)

    def _settle(self, message: JetStreamMessage, how: Callable[[], None]) -> None:
        if message.is_acked:
            return
        try:
            how()
        except nats.errors.MsgAlreadyAckdError:
            pass  # by another thread, just now
        except Error as error:
            self._on_error(error)

    def stop(self) -> None:
        """Take no more messages; a handler that runs may finish. Does not wait. Idempotent, any thread."""
        if self._generation == _fork.generation:
            self._finish(None)
            self._on_end(self)
            self._workers.close(Deadline(0.0))

    def drain(self, timeout: Optional[float] = 30.0) -> None:
        """Stop, and wait until the handlers are through. Raises RequestTimeoutError after ``timeout`` seconds."""
        deadline = Deadline(check_timeout(timeout))
        self.stop()
        if not self._workers.close(deadline):
            raise RequestTimeoutError(f"a handler of {self.name} was not through within {timeout} s")

    def wait(self, timeout: Optional[float] = None) -> None:
        """Wait until it is stopped, or ends by itself, which raises what it ended with.

        Raises RequestTimeoutError after ``timeout`` seconds (None: no limit).
        """
        if not self._workers.wait_idle(Deadline(check_timeout(timeout))):
            raise RequestTimeoutError(f"{self.name} was still being consumed after {timeout} s")
        if self._errors:
            raise self._errors[0]

    def pool_closes(self, deadline: Deadline) -> None:
        """For the pool, which ends what belongs to it."""
        self._finish(ClosedError(f"the pool was closed, and the consuming of {self.name} with it"))
        self._workers.close(deadline)

    @property
    def active(self) -> bool:
        """Whether a handler runs or may be called yet."""
        _, running, queued = self._workers.counts()
        return bool(running or queued)

    def __enter__(self) -> Consuming:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Consuming {self.name} {'active' if self.active else 'ended'}>"
