"""``Subscriber``: serves requests for streams with handlers on bounded threads."""

from __future__ import annotations

import inspect
import logging
import signal
import threading
from typing import Any, Callable, Dict, List, Optional, TypeVar, Union

from . import _fork
from ._deadline import Deadline, check_timeout
from ._registration import Registration, RegistrationStats, StreamHandler
from ._waiter import Lock, Waiter
from .errors import ClosedError, ForkedError, RequestTimeoutError
from .options import Servers, check_callable, check_count, check_line, check_queue, check_subscription
from .pool import Pool
from .presence import PresenceListener
from .registry import OnlineRegistry

logger = logging.getLogger("natsbridge")

H = TypeVar("H", bound=StreamHandler)

_CLOSE_TIMEOUT = 5.0


class Subscriber:
    """Serves requests for streams: each handler gets the request and a ``ResponseSender``, on threads of its own.

    A handler is ``handler(request, sender)``, which sends chunks and returns, or a generator function of ``(request)`` or
    ``(request, sender)``, of which each ``yield`` is a chunk. It ends by itself when its client is gone: ``sender.send``
    raises ``ClientOfflineError``, which need not be caught, and a generator is closed, so that its ``finally`` runs. When
    it returns the stream has ended; when it raises ``StreamError`` the requester gets that error, and for any other
    exception ``StreamError(500, "the handler failed")``, while the exception itself is logged here.

    pool_or_servers: a ``Pool`` to share, or server URLs for a pool of its own, which is closed with the subscriber.
    max_workers, max_queued: per registration, how many requests are served at once, and how many may wait; beyond, a
        request is refused at once (``BusyError``).
    max_detached: senders that may be open after their handlers returned (``ResponseSender.detach``), per registration.
    stall_timeout: seconds that ``send`` waits for a requester which is there but does not read on, before the stream ends
        with the reason ``stalled``; None for no limit.
    max_resume: the longest that a requester's ``resume`` may keep a stream through lost connections, in seconds.
    registry: whose offline marks count; the pool's unless given.

    Thread-safe. Belongs to the process that made its registrations: a forked child gets ``ForkedError``.
    """

    def __init__(
        self,
        pool_or_servers: Union[Pool, Servers],
        *,
        max_workers: int = 16,
        max_queued: int = 16,
        max_detached: int = 1024,
        stall_timeout: Optional[float] = 30.0,
        max_resume: float = 60.0,
        registry: Optional[OnlineRegistry] = None,
    ) -> None:
        if registry is not None and not isinstance(registry, OnlineRegistry):
            raise TypeError(f"registry must be an OnlineRegistry, not {registry!r}")
        self.max_workers = check_count(max_workers, "max_workers")
        self.max_queued = check_count(max_queued, "max_queued", 0)
        self.max_detached = check_count(max_detached, "max_detached", 0)
        self.stall_timeout = check_timeout(stall_timeout, "stall_timeout")
        longest = check_timeout(max_resume, "max_resume", optional=False)
        self.max_resume = 3600.0 if longest is None else longest
        self._owns_pool = not isinstance(pool_or_servers, Pool)
        self.pool = pool_or_servers if isinstance(pool_or_servers, Pool) else Pool(pool_or_servers, registry=registry)
        self.registry = self.pool.registry if registry is None else registry
        self._generation = _fork.generation
        self._lock = Lock()  # guards everything below
        self._registrations: List[Registration] = []
        self._planned: List[Registration] = []  # by decorators, before start
        self._listener: Optional[PresenceListener] = None
        self._started = False
        self._closed = False
        self._finished: Waiter[None] = Waiter()

    # -- registering --------------------------------------------------------------------------------------------------

    def stream_subscribe_handler(
        self,
        subject: str,
        handler: StreamHandler,
        *,
        max_workers: Optional[int] = None,
        max_queued: Optional[int] = None,
    ) -> None:
        """Serve every request on ``subject`` (wildcards allowed) with ``handler``; returns once the server knows.

        Raises BadSubjectError, TypeError for a handler that cannot be called (or is ``async``), PermissionDeniedError,
        ConnectError, RequestTimeoutError, ClosedError, ForkedError.
        """
        self._register(self._plan(subject, "", handler, max_workers, max_queued))

    def stream_queue_subscribe_handler(
        self,
        subject: str,
        queue: str,
        handler: StreamHandler,
        *,
        max_workers: Optional[int] = None,
        max_queued: Optional[int] = None,
    ) -> None:
        """As ``stream_subscribe_handler``; of all workers in the queue group ``queue``, one gets each request."""
        self._register(self._plan(subject, queue, handler, max_workers, max_queued))

    def stream(
        self, subject: str, *, queue: str = "", max_workers: Optional[int] = None, max_queued: Optional[int] = None
    ) -> Callable[[H], H]:
        """Decorator: serve requests on ``subject`` with the function, from ``start``/``run``/``with`` on.

        Nothing is connected when the module is imported. The function stays callable as it was. Raises as
        ``stream_subscribe_handler`` does, but errors of the connection only from ``start``.
        """

        def decorate(handler: H) -> H:
            registration = self._plan(subject, queue, handler, max_workers, max_queued)
            with self._lock:
                started = self._started
                if not started:
                    self._planned.append(registration)
            if started:
                self._register(registration)
            return handler

        return decorate

    def _plan(
        self,
        subject: str,
        queue: str,
        handler: StreamHandler,
        max_workers: Optional[int],
        max_queued: Optional[int],
    ) -> Registration:
        check_subscription(subject)
        if queue != "":
            check_line(subject, check_queue(queue))
        check_callable(handler, "handler")
        if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
            raise TypeError(f"handler {handler!r} is async: natsbridge calls plain functions and generators on threads")
        workers = self.max_workers if max_workers is None else check_count(max_workers, "max_workers")
        queued = self.max_queued if max_queued is None else check_count(max_queued, "max_queued", 0)
        self._check()
        return Registration(
            self.pool,
            self.registry,
            subject,
            queue,
            handler,
            max_workers=workers,
            max_queued=queued,
            max_detached=self.max_detached,
            stall_timeout=self.stall_timeout,
            max_resume=self.max_resume,
        )

    def _register(self, registration: Registration) -> None:
        self._attach()
        registration.start(Deadline(self.pool._timeout))
        with self._lock:
            late = self._closed
            if not late:
                self._registrations.append(registration)
        if late:
            registration.close(Deadline(_CLOSE_TIMEOUT))
            raise ClosedError("the subscriber was closed meanwhile")

    def _attach(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        self.pool._attach(self)

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

    def start(self) -> Subscriber:
        """Subscribe what decorators have registered; idempotent. Returns the subscriber. Raises what subscribing raises."""
        self._check()
        self._attach()
        while True:
            with self._lock:
                if not self._planned:
                    return self
                registration = self._planned.pop(0)
            try:
                self._register(registration)
            except BaseException:
                with self._lock:
                    self._planned.insert(0, registration)
                raise

    def run(self, *, drain_timeout: Optional[float] = 30.0) -> None:
        """Serve until SIGINT or SIGTERM, or ``close`` from another thread; then drain, and close.

        Starts with ``start``. On a signal no new requests are taken in, and handlers and streams that are under way get
        ``drain_timeout`` seconds to finish; a second signal acts as if this method had not been there. Outside the main
        thread, where signals cannot be caught, only ``close`` ends it.
        """
        limit = check_timeout(drain_timeout, "drain_timeout")
        stop: Waiter[None] = self._finished
        previous: Dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (int(signal.SIGINT), int(signal.SIGTERM)):
                # Waiter.set takes no lock that this thread could hold already.
                previous[number] = signal.signal(number, lambda *_: stop.set(None))
        try:
            self.start()
            try:
                stop.wait(Deadline(None))
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
                previous.clear()
            if not self._closed:
                try:
                    self.drain(limit)
                except RequestTimeoutError as error:
                    logger.warning("%s", error)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.close()

    def drain(self, timeout: Optional[float] = 30.0) -> None:
        """Take in no new requests, serve those that had arrived until their requesters have the end, and close.

        Raises RequestTimeoutError when that takes longer than ``timeout`` seconds; what is left ends with an error then.
        """
        if self._generation != _fork.generation or self._closed:
            return
        deadline = Deadline(check_timeout(timeout))
        with self._lock:
            registrations = list(self._registrations)
        try:
            for registration in registrations:
                registration.stop_intake(deadline)
            for registration in registrations:
                if not registration.wait_idle(deadline):
                    stats = registration.stats()
                    raise RequestTimeoutError(
                        f"draining {registration.subject!r} was not through within {timeout} s: {stats.running} handlers "
                        f"running, {stats.queued} requests queued, {stats.ending} streams ending"
                    )
        finally:
            self.close()

    def close(self, timeout: float = _CLOSE_TIMEOUT) -> None:
        """Stop serving now: open streams end with an error for their requesters, and ``send`` raises ClosedError.

        Waits at most ``timeout`` seconds for handlers that still run. Idempotent, any thread. Closes the pool if the
        subscriber made it itself.
        """
        if self._generation != _fork.generation:
            return
        deadline = Deadline(check_timeout(timeout, optional=False))
        with self._lock:
            self._closed = True
            registrations, self._registrations = self._registrations, []
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()
        for registration in registrations:
            registration.close(deadline)
        self.pool._detach(self)
        if self._owns_pool:
            self.pool.close(deadline.at_most(timeout))
        self._finished.set(None)

    def pool_closes(self, deadline: Deadline) -> None:
        """For the pool, which closes what it serves."""
        self.close(deadline.at_most(_CLOSE_TIMEOUT))

    def _check(self) -> None:
        if self._generation != _fork.generation:
            raise ForkedError("this subscriber belongs to the parent process: make one of your own here")
        if self._closed:
            raise ClosedError("the subscriber is closed: make a new one")

    def __enter__(self) -> Subscriber:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- looking ------------------------------------------------------------------------------------------------------

    def stats(self) -> List[RegistrationStats]:
        """A snapshot of each registration."""
        with self._lock:
            registrations = list(self._registrations)
        return [registration.stats() for registration in registrations]

    def __repr__(self) -> str:
        stats = self.stats()
        state = "closed" if self._closed else ("serving" if self._started else "new")
        return (
            f"<Subscriber {state}: {len(stats)} registrations, {sum(s.running for s in stats)} handlers running, "
            f"{sum(s.queued for s in stats)} requests queued>"
        )
