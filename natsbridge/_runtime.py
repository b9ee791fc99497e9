"""What an open pool consists of: the loop thread, its links, and the threads that run handlers and callbacks.

It never refers to its ``Pool``, so that a pool nobody holds any more can be closed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import List, Optional

from . import _fork
from ._deadline import Deadline
from ._link import Link
from ._loop import LoopThread
from ._waiter import Abandoned, Waiter
from ._workers import Workers
from .errors import RequestTimeoutError, as_exception
from .options import ConnectOptions, ErrorCallback

logger = logging.getLogger("natsbridge")

_ABANDONED_TIMEOUT = 2.0


class Runtime:
    def __init__(
        self,
        name: str,
        options: ConnectOptions,
        *,
        size: int,
        outbox_bytes: int,
        handler_threads: int,
        use_uvloop: Optional[bool],
        error_callback: Optional[ErrorCallback],
    ) -> None:
        self._generation = _fork.generation
        self._error_callback = error_callback
        self.loop = LoopThread(f"natsbridge-{name}-loop", use_uvloop=use_uvloop)
        self.handlers = Workers(f"natsbridge-{name}-handler", handler_threads, None)
        self.callbacks = Workers(f"natsbridge-{name}-callbacks", 1, None)
        self.links: List[Link] = [
            Link(f"natsbridge-{name}-{n}", options, self.loop, outbox_bytes=outbox_bytes, on_error=self.report)
            for n in range(size)
        ]
        self._turn = itertools.count()

    def open(self, deadline: Deadline) -> None:
        """Start the loop and connect every link; on failure nothing is left behind."""
        self.loop.start(deadline)
        try:
            self.loop.call(self._open_links, deadline, deadline=Deadline(None), what="connecting")
        except BaseException:
            self.close(Deadline(_ABANDONED_TIMEOUT))
            raise

    async def _open_links(self, deadline: Deadline) -> None:
        # Each has its own limit, derived from the deadline: the caller need not cancel this.
        results = await asyncio.gather(*(link.open(deadline) for link in self.links), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def link(self) -> Link:
        """The next link in turn."""
        links = self.links
        return links[0] if len(links) == 1 else links[next(self._turn) % len(links)]

    def flush(self, deadline: Deadline) -> None:
        """Wait until the server has what was published on every link. Raises what ``Pool.flush`` raises."""
        self.loop.refuse_here()
        waiters: List[Waiter[None]] = [Waiter() for _ in self.links]
        for link, waiter in zip(self.links, waiters):
            link.outbox.flush(waiter)
        for waiter in waiters:
            try:
                waiter.wait(deadline)
            except Abandoned:
                raise RequestTimeoutError(
                    f"the server did not confirm what was published within {deadline.timeout:g} s: it is gone or slow"
                ) from None

    def report(self, error: Exception) -> None:
        """Log an error that has no caller to be raised to, and hand it to the user's callback, on the callback thread."""
        logger.warning("%s", error)
        self.tell(error)

    def tell(self, error: BaseException) -> None:
        """The latter alone."""
        callback, told = self._error_callback, as_exception(error)
        if callback is not None:
            self.callbacks.submit(lambda: callback(told))

    def close(self, deadline: Deadline) -> None:
        for link in self.links:
            link.outbox.shut()
        self.loop.stop(lambda: self._close_links(deadline), deadline)
        self.handlers.close(deadline)
        self.callbacks.close(deadline)

    async def _close_links(self, deadline: Deadline) -> None:
        await asyncio.gather(*(link.close(deadline) for link in self.links))

    def abandon(self) -> None:
        """Close without waiting: the pool was garbage-collected. Takes no lock, and does nothing in a forked child."""
        if self._generation == _fork.generation:
            deadline = Deadline(_ABANDONED_TIMEOUT)
            self.loop.stop_soon(lambda: self._close_links(deadline), deadline)
