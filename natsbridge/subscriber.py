"""``Subscriber``: serves requests for streams with handlers on bounded threads."""

from __future__ import annotations

from typing import Callable, List, Optional, TypeVar, Union

from ._deadline import Deadline, check_timeout
from ._registration import Registration, RegistrationStats, StreamHandler
from ._serving import Serving
from .options import Servers, check_count, check_handler, check_line, check_queue, check_subscription
from .pool import Pool
from .registry import OnlineRegistry

H = TypeVar("H", bound=StreamHandler)


class Subscriber(Serving):
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
        pool = pool_or_servers if isinstance(pool_or_servers, Pool) else Pool(pool_or_servers, registry=registry)
        super().__init__(pool, pool.registry if registry is None else registry, "subscriber")

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
        self._register(self._registration(subject, "", handler, max_workers, max_queued))

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
        self._register(self._registration(subject, queue, handler, max_workers, max_queued))

    def stream(
        self, subject: str, *, queue: str = "", max_workers: Optional[int] = None, max_queued: Optional[int] = None
    ) -> Callable[[H], H]:
        """Decorator: serve requests on ``subject`` with the function, from ``start``/``run``/``with`` on.

        Nothing is connected when the module is imported. The function stays callable as it was. Raises as
        ``stream_subscribe_handler`` does, but errors of the connection only from ``start``.
        """

        def decorate(handler: H) -> H:
            self._plan(self._registration(subject, queue, handler, max_workers, max_queued))
            return handler

        return decorate

    def _registration(
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
        check_handler(handler, yields=True)
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

    def _on_closed(self, deadline: Deadline) -> None:
        if self._owns_pool:
            self.pool.close(deadline.at_most(3600.0))

    # -- looking ------------------------------------------------------------------------------------------------------

    def stats(self) -> List[RegistrationStats]:
        """A snapshot of each registration."""
        return [registration.stats() for registration in self._all(Registration)]

    def __repr__(self) -> str:
        stats = self.stats()
        state = "closed" if self._closed else ("serving" if self._started else "new")
        return (
            f"<Subscriber {state}: {len(stats)} registrations, {sum(s.running for s in stats)} handlers running, "
            f"{sum(s.queued for s in stats)} requests queued>"
        )
