"""What ``Subscriber`` and ``Service`` have in common: they take requests in, from a start to an end."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Protocol, Type, TypeVar

from . import _fork
from ._deadline import Deadline, check_timeout
from ._waiter import Lock, LongLock, Waiter
from .errors import ClosedError, ForkedError, RequestTimeoutError
from .presence import PresenceListener
from .registry import OnlineRegistry

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")

T = TypeVar("T")
S = TypeVar("S", bound="Serving")

_CLOSE_TIMEOUT = 5.0
_GRACE = 0.5  # seconds for handlers to see that it is over, where all the time that there was has passed


class Served(Protocol):
    """What takes requests in, and has threads or not."""

    subject: str

    def start(self, deadline: Deadline) -> None: ...
    def stop_intake(self, deadline: Deadline) -> None: ...
    def wait_idle(self, deadline: Deadline) -> bool: ...
    def unfinished(self) -> str: ...
    def close(self, deadline: Deadline) -> None: ...


class Serving:
    """Thread-safe. Belongs to the process that made it: a forked child gets ``ForkedError``."""

    def __init__(self, pool: Pool, registry: OnlineRegistry, noun: str) -> None:
        """``noun``: what it is called in messages."""
        self.pool, self.registry = pool, registry
        self._noun = noun
        self._generation = _fork.generation
        self._starting = LongLock()  # held by start, so that whoever calls it returns when everything is served
        self._lock = Lock()  # guards everything below
        self._served: List[Served] = []
        self._planned: List[Served] = []  # before start
        self._listener: Optional[PresenceListener] = None
        self._started = False
        self._closed = False
        self._finished: Waiter[None] = Waiter()

    def _plan(self, served: Served) -> None:
        """Serve it from now on or, before the start, from there on."""
        with self._lock:
            started = self._started
            if not started:
                self._planned.append(served)
        if started:
            self._register(served)

    def _register(self, served: Served) -> None:
        self._attach()
        served.start(Deadline(self.pool._timeout))
        with self._lock:
            late = self._closed
            if not late:
                self._served.append(served)
        if late:
            served.close(Deadline(_CLOSE_TIMEOUT))
            raise ClosedError(f"the {self._noun} was closed meanwhile")

    def _attach(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        self.pool._attach(self)

    def _all(self, kind: Type[T]) -> List[T]:
        """What is served, as far as it is of that class, in the order of registration."""
        with self._lock:
            return [served for served in self._served if isinstance(served, kind)]

    def start_client_offline_listener(self) -> None:
        """Hear from other processes which clients went offline, and stop their streams here; idempotent.

        Returns once the server knows. Needs permission to subscribe to ``natsbridge.offline.*`` and
        ``natsbridge.online.*``. Raises PermissionDeniedError, ConnectError, RequestTimeoutError, ClosedError, ForkedError.
        """
        self._check()
        self._attach()
        deadline = Deadline(self.pool._timeout)
        listener = PresenceListener(self.pool._link(deadline), self.registry)
        with self._lock:
            if self._listener is not None:
                return
            self._listener = listener
        try:
            listener.start(deadline)
        except BaseException:
            listener.stop()
            with self._lock:
                self._listener = None
            raise

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self: S) -> S:
        """Subscribe what was registered before the start; idempotent. Returns itself. Raises what subscribing raises."""
        self._check()
        starting = Deadline(self.pool._timeout)
        if not self._starting.acquire(starting):
            raise RequestTimeoutError(f"another thread was still starting this {self._noun} after {starting.timeout:g} s")
        try:
            self._attach()
            while True:
                with self._lock:
                    if not self._planned:
                        return self
                    served = self._planned[0]
                self._register(served)
                with self._lock:
                    self._planned.remove(served)
        finally:
            self._starting.release()

    def run(self, *, drain_timeout: Optional[float] = 30.0) -> None:
        """Serve until SIGINT or SIGTERM, or ``close`` from another thread; then drain, and close.

        Starts with ``start``. On a signal no new requests are taken in, and handlers and streams that are under way get
        ``drain_timeout`` seconds to finish; a second signal acts as if this method had not been there. Outside the main
        thread, where signals cannot be caught, only ``close`` ends it.
        """
        limit = check_timeout(drain_timeout, "drain_timeout")
        try:
            with _signals_set(self._finished):
                self.start()
                self._finished.wait(Deadline(None))
            if not self._closed:
                try:
                    self.drain(limit)
                except RequestTimeoutError as error:
                    logger.warning("%s", error)
        finally:
            self.close()

    def drain(self, timeout: Optional[float] = 30.0) -> None:
        """Take in no new requests, serve those that had arrived until their requesters have the end, and close.

        Raises RequestTimeoutError when that takes longer than ``timeout`` seconds; what is left ends with an error then.
        """
        if self._generation != _fork.generation or self._closed:
            return
        deadline = Deadline(check_timeout(timeout))
        with self._lock:
            everything = list(self._served)
        try:
            for served in everything:
                served.stop_intake(deadline)
            for served in everything:
                if not served.wait_idle(deadline):
                    raise RequestTimeoutError(
                        f"draining {served.subject!r} was not through within {timeout:g} s: {served.unfinished()}"
                    )
        except BaseException:
            self.close(_GRACE)
            raise
        self.close()

    def close(self, timeout: float = _CLOSE_TIMEOUT) -> None:
        """Stop serving now: open streams end with an error for their requesters, and ``send`` raises ClosedError.

        Requests that no handler has begun are refused. Waits at most ``timeout`` seconds for handlers that still run.
        Idempotent, any thread. Closes the pool if it was made for this alone.
        """
        if self._generation != _fork.generation:
            return
        deadline = Deadline(check_timeout(timeout, optional=False))
        with self._lock:
            self._closed = True
            everything, self._served = self._served, []
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()
        for served in everything:
            served.close(deadline)
        self.pool._detach(self)
        self._on_closed(deadline)
        self._finished.set(None)

    def _on_closed(self, deadline: Deadline) -> None:
        """Nothing is served any more."""

    def pool_closes(self, deadline: Deadline) -> None:
        """For the pool, which closes what it serves."""
        self.close(deadline.at_most(_CLOSE_TIMEOUT))

    def _check(self) -> None:
        if self._generation != _fork.generation:
            raise ForkedError(f"this {self._noun} belongs to the parent process: make one of your own here")
        if self._closed:
            raise ClosedError(f"the {self._noun} is closed: make a new one")

    def __enter__(self: S) -> S:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@contextmanager
def _signals_set(stop: Waiter[None]) -> Iterator[None]:
    """SIGINT and SIGTERM settle ``stop`` meanwhile, in the main thread; elsewhere they cannot be caught."""
    previous: Dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            # Waiter.set takes no lock that this thread could hold already.
            previous[number] = signal.signal(number, lambda *_: stop.set(None))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
