"""``Pool``: what a program constructs to talk to NATS."""

from __future__ import annotations

import itertools
import ssl
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Mapping, NamedTuple, Optional, Protocol, Tuple, Union

from . import _fork, presence, process
from ._asking import ask
from ._command import publish_command
from ._context import Settings, api_prefix
from ._deadline import Deadline, check_interval, check_timeout
from ._link import Link, LinkStats
from ._loop import LoopThread
from ._runtime import Runtime
from ._source import StreamSource
from ._types import Data, Headers
from ._waiter import Abandoned, Lock, LongLock, Waiter
from .connections import Connections
from .errors import ClosedError, RequestTimeoutError
from .jetstream import JetStream
from .message import Message
from .options import (
    ConnectOptions,
    ErrorCallback,
    Servers,
    check_callable,
    check_connect_id,
    check_count,
    check_data,
    check_headers,
    check_line,
    check_queue,
    check_size,
    check_subject,
    check_subscription,
)
from .registry import OnlineRegistry, online_clients
from .replies import Replies, ReplyInbox, Sentinel, empty_payload
from .requester import ResponseStream
from .service import Service, StatsHandler
from .subscription import Handler, Subscription

if TYPE_CHECKING:
    from nats.aio.msg import Msg

DEFAULT_SERVER = "nats://127.0.0.1:4222"

_NEW, _OPEN, _CLOSED = "new", "open", "closed"
_LATE_CLOSE_TIMEOUT = 2.0
_MOST = 2**40  # chunks or bytes: as good as no limit, and short enough for a header

_numbers = itertools.count(1)

ResponseHandler = Callable[[Message], object]


class Attached(Protocol):
    """What ends with the pool: subscriptions and subscribers."""

    def drain(self, timeout: Optional[float]) -> None: ...
    def pool_closes(self, deadline: Deadline) -> None: ...


class PoolStats(NamedTuple):
    """A snapshot. Counts of messages, bytes and reconnects are totals since the pool opened; the rest is of now."""

    state: str
    connections: Tuple[LinkStats, ...]
    handler_threads: int
    handlers_running: int
    handlers_queued: int
    subscriptions: int

    @property
    def connected(self) -> int:
        """Connections that are up."""
        return sum(link.connected for link in self.connections)

    @property
    def streams(self) -> int:
        """Ends of streams that are open, asked for here or served here."""
        return sum(link.streams for link in self.connections)


class Pool(Connections):
    """Connections to NATS behind one background thread; thread-safe, meant to be made once per process and shared.

    The constructor only checks its arguments. The pool opens on first use, with ``open()``, or as a context manager, and is
    closed for good by ``close()``; every later call raises ``ClosedError``. After a fork the child's pool opens afresh on
    its first use, and the parent's goes on undisturbed. Left unclosed, it is closed at interpreter exit or when collected.

    servers: one URL, several with commas, or a list; ``nats://``, ``tls://``, ``ws://``, ``wss://``; credentials may be
        part of it.
    size: connections. One is enough for most: a stream or request is pinned to one, and they are used in turn.
    registry: who is online; the process-wide ``natsbridge.online_clients`` unless given.
    name: what the connections are called in the server's monitoring, and part of the threads' names.
    timeout: seconds that a request waits for its reply, that ``publish`` waits for room, ``flush`` for the server, and
        that a stream waits for a first sign of its responder.
    connect_timeout: seconds for the first connect; every server is tried once, then ConnectError is raised. Later the
        pool reconnects for as long as it is open: at once, then with jittered pauses up to ``reconnect_time_wait``
        seconds.
    ping_interval, max_outstanding_pings: seconds between the client's PINGs, and how many may stay unanswered before the
        connection is given up.
    user, password, token: strings, or functions that return one (called on the loop thread: they must not block).
    user_credentials, nkeys_seed, nkeys_seed_str, signature_cb, user_jwt_cb: as in nats-py; they need ``nkeys`` installed.
    tls, tls_hostname, tls_handshake_first: an ``ssl.SSLContext``, the name to check, TLS before the server's INFO.
    inbox_prefix: below which replies arrive; the user needs to be allowed to subscribe to ``<inbox_prefix>.>``.
    window, window_bytes: how many chunks and bytes of a stream a responder may send ahead of this reader, at most. In bytes
        a stream begins with 1 MiB, and is given what its reader takes in 20 ms and two round trips, or 1 MiB while its
        connection has anything else to do.
    probe_interval: seconds of silence on a stream after which the other end is probed; it is given up after three probes.
    outbox_bytes: what may wait to be written, per connection, before ``publish`` blocks.
    handler_threads: threads for the handlers of ordinary subscriptions.
    error_callback: called with each exception that no caller can be told of (lost messages, refused permissions, failed
        handlers), one at a time on a thread of its own. They are logged in any case.
    uvloop: True to demand it, False to do without, None to use it when it is installed.
    nats_options: further keyword arguments for nats-py's ``connect``; what natsbridge owns is refused by name.

    Raises TypeError or ValueError for arguments that cannot be right.
    """

    def __init__(
        self,
        servers: Servers = DEFAULT_SERVER,
        *,
        size: int = 1,
        registry: Optional[OnlineRegistry] = None,
        name: Optional[str] = None,
        timeout: float = 5.0,
        connect_timeout: float = 5.0,
        reconnect_time_wait: float = 2.0,
        ping_interval: float = 15.0,
        max_outstanding_pings: int = 2,
        user: Optional[Union[str, Callable[[], str]]] = None,
        password: Optional[Union[str, Callable[[], str]]] = None,
        token: Optional[Union[str, Callable[[], str]]] = None,
        user_credentials: Optional[Any] = None,
        nkeys_seed: Optional[str] = None,
        nkeys_seed_str: Optional[str] = None,
        signature_cb: Optional[Callable[[str], bytes]] = None,
        user_jwt_cb: Optional[Callable[[], Union[bytes, bytearray]]] = None,
        tls: Optional[ssl.SSLContext] = None,
        tls_hostname: Optional[str] = None,
        tls_handshake_first: bool = False,
        inbox_prefix: str = "_INBOX",
        window: int = 16_384,
        window_bytes: int = 16 * 1024 * 1024,
        probe_interval: float = 2.0,
        outbox_bytes: int = 8 * 1024 * 1024,
        handler_threads: int = 16,
        error_callback: Optional[ErrorCallback] = None,
        uvloop: Optional[bool] = None,
        nats_options: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self._options = ConnectOptions(
            servers=servers,
            name=name,
            user=user,
            password=password,
            token=token,
            user_credentials=user_credentials,
            nkeys_seed=nkeys_seed,
            nkeys_seed_str=nkeys_seed_str,
            signature_cb=signature_cb,
            user_jwt_cb=user_jwt_cb,
            tls=tls,
            tls_hostname=tls_hostname,
            tls_handshake_first=tls_handshake_first,
            inbox_prefix=inbox_prefix,
            connect_timeout=connect_timeout,
            reconnect_time_wait=reconnect_time_wait,
            ping_interval=ping_interval,
            max_outstanding_pings=max_outstanding_pings,
            nats_options=nats_options,
        )
        self.name = name or f"pool{next(_numbers)}"
        self.registry = online_clients if registry is None else registry
        if not isinstance(self.registry, OnlineRegistry):
            raise TypeError(f"registry must be an OnlineRegistry, not {registry!r}")
        self._size = check_count(size, "size")
        self._timeout = check_interval(timeout, "timeout")
        self._window = check_count(window, "window")
        self._window_bytes = check_count(window_bytes, "window_bytes")
        self._probe_interval = check_interval(probe_interval, "probe_interval")
        self._outbox_bytes = check_count(outbox_bytes, "outbox_bytes")
        self._handler_threads = check_count(handler_threads, "handler_threads")
        if error_callback is not None:
            check_callable(error_callback, "error_callback")
        if uvloop not in (None, True, False):
            raise TypeError(f"uvloop must be True, False or None, not {uvloop!r}")
        self._error_callback = error_callback
        self._uvloop = uvloop
        self._reset()
        _fork.watch(self)

    def _reset(self) -> None:
        self._opening = LongLock()  # held while connecting, so that concurrent first uses connect once
        self._lock = Lock()  # guards _state, _runtime and _attached; nothing waits inside it
        self._state = _NEW
        self._runtime: Optional[Runtime] = None
        self._attached: List[Attached] = []
        self._readers: weakref.WeakSet[Attached] = weakref.WeakSet()  # end when nobody holds them

    def _after_fork_in_child(self) -> None:
        _fork.park((self._runtime, self._attached, list(self._readers)))
        closed = self._state == _CLOSED
        self._reset()
        if closed:
            self._state = _CLOSED

    # -- life ---------------------------------------------------------------------------------------------------------

    def open(self, timeout: Optional[float] = None) -> Pool:
        """Connect now rather than on first use, within ``timeout`` seconds (``connect_timeout`` if None); idempotent.

        Returns the pool. Raises ConnectError when no server lets us in, PermissionDeniedError when the inbox is refused,
        ClosedError after ``close``. A failed pool may be opened again.
        """
        given = check_timeout(timeout)
        self._opened(Deadline(self._options.connect_timeout if given is None else given))
        return self

    def _opened(self, deadline: Deadline) -> Runtime:
        runtime = self._runtime
        if runtime is not None and self._state == _OPEN:
            return runtime
        opening = self._opening  # a forked child gets another one, while a greenlet that was in here goes on there
        if not opening.acquire(deadline):
            raise RequestTimeoutError(f"another thread was still connecting after {deadline.timeout} s")
        try:
            with self._lock:
                self._check_not_closed()
                if self._runtime is not None:
                    return self._runtime
            runtime = self._make_runtime()
            runtime.open(deadline)
            with self._lock:
                late = self._state == _CLOSED
                if not late:
                    self._runtime, self._state = runtime, _OPEN
            if late:
                runtime.close(Deadline(_LATE_CLOSE_TIMEOUT))
                raise ClosedError(f"pool {self.name!r} was closed while it was opening")
            weakref.finalize(self, runtime.abandon).atexit = False
            process.opened(self)
            return runtime
        finally:
            opening.release()

    def _make_runtime(self) -> Runtime:
        return Runtime(
            self.name,
            self._options,
            size=self._size,
            outbox_bytes=self._outbox_bytes,
            handler_threads=self._handler_threads,
            use_uvloop=self._uvloop,
            error_callback=self._error_callback,
        )

    def close(self, timeout: float = 5.0) -> None:
        """Close for good, within about ``timeout`` seconds; idempotent, any thread.

        What was published before is written out first, as far as the connection and the time allow. Open streams end:
        their readers and senders, and everyone else who waits here, get ``ClosedError``. Handlers that still run may
        finish, but cannot send any more.
        """
        limit = check_timeout(timeout, optional=False)
        deadline = Deadline(limit)
        with self._lock:
            first, self._state = self._state != _CLOSED, _CLOSED
            runtime, attached = self._runtime, [*self._attached, *self._readers]
            self._attached.clear()
        process.closed(self)
        if runtime is None:
            return
        runtime.loop.refuse_myself()
        if first:
            for thing in attached:
                thing.pool_closes(deadline)
        runtime.close(deadline)

    def drain(self, timeout: float = 30.0) -> None:
        """Take in nothing new, let handlers and streams that are under way finish, write everything out, and close.

        Raises RequestTimeoutError when that takes longer than ``timeout`` seconds; the pool is closed even so.
        """
        deadline = Deadline(check_timeout(timeout, optional=False))
        with self._lock:
            attached, runtime = [*self._attached, *self._readers], self._runtime
        try:
            for thing in attached:
                thing.drain(deadline.remaining())
            if runtime is not None and self._state == _OPEN:
                self.flush(deadline.remaining())
        finally:
            self.close(deadline.at_most(5.0) if not deadline.passed() else 0.5)

    def close_at_exit(self, timeout: float) -> None:
        """For the end of the interpreter: services answer the requests that they took, then the pool is closed.

        Takes ``timeout`` seconds at most, of which the last quarter is for closing.
        """
        deadline = Deadline(timeout)
        with self._lock:
            services = [thing for thing in self._attached if isinstance(thing, Service)]
        answering = Deadline(0.75 * timeout)
        for service in services:
            service._answer_all(answering)
        self.close(max(deadline.at_most(timeout), 0.25 * timeout))

    def __enter__(self) -> Pool:
        return self.open()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _attach(self, thing: Attached) -> None:
        """Keep ``thing`` and end it with the pool."""
        with self._lock:
            self._check_not_closed()
            self._attached.append(thing)

    def _attach_weakly(self, thing: Attached) -> None:
        """End ``thing`` with the pool if somebody still holds it then."""
        with self._lock:
            self._check_not_closed()
            self._readers.add(thing)

    def _report(self, error: Exception) -> None:
        """Log an error that has no caller to be raised to, and hand it to the ``error_callback``."""
        runtime = self._runtime
        if runtime is not None:
            runtime.report(error)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` or ``drain`` was called."""
        return self._state == _CLOSED

    def _check_not_closed(self) -> None:
        if self._state == _CLOSED:
            raise ClosedError(f"pool {self.name!r} is closed: make a new Pool")

    def _detach(self, thing: Attached) -> None:
        with self._lock:
            if thing in self._attached:
                self._attached.remove(thing)

    def _link(self, deadline: Optional[Deadline] = None) -> Link:
        runtime = self._runtime
        if runtime is None or self._state != _OPEN:
            # Connecting has a limit of its own; the call's own deadline counts if it is nearer.
            limit = self._options.connect_timeout
            runtime = self._opened(Deadline(limit if deadline is None else deadline.at_most(limit)))
        return runtime.link()

    def _loop(self) -> LoopThread:
        """The loop thread; the pool opens if need be. Raises ConnectError, ClosedError."""
        return self._link().loop

    def _limit(self, timeout: Optional[float]) -> float:
        """The pool's default for None; infinity becomes a very long time, so that no wait is endless."""
        if timeout is None:
            return self._timeout
        checked = check_timeout(timeout)
        return 3600.0 * 24 * 365 if checked is None else checked

    # -- messages -----------------------------------------------------------------------------------------------------

    def publish(
        self, subject: str, data: Data = b"", *, reply: str = "", headers: Headers = None, timeout: Optional[float] = None
    ) -> None:
        """Publish a message; returns once it is queued, and many queued messages cost one wake-up of the loop.

        Blocks only while ``outbox_bytes`` are waiting (also through a disconnect), ``timeout`` seconds at most (the pool's
        ``timeout`` if None). Delivery is at most once; ``flush`` tells whether the server has it. Raises BadSubjectError,
        BadHeaderError, MaxPayloadError, TypeError, ClosedError, ConnectError (first use), RequestTimeoutError.
        """
        check_subject(subject)
        data = check_data(data)
        if reply:
            check_line(subject, check_subject(reply, "reply"))
        checked = check_headers(headers) if headers is not None else None
        limit = self._timeout if timeout is None else self._limit(timeout)
        link = self._link()
        if checked is not None or len(data) > link.connection.max_payload:
            check_size(data, checked, link.connection.max_payload)
        link.outbox.publish(publish_command(subject, data, reply, checked), limit)

    def flush(self, timeout: Optional[float] = None) -> None:
        """Wait until the server has processed everything that was published before, by any thread.

        Raises RequestTimeoutError after ``timeout`` seconds (the pool's ``timeout`` if None), DisconnectedError when a
        connection broke meanwhile, and the error of a message that could not be delivered since the last flush (such as
        PermissionDeniedError). ClosedError.
        """
        deadline = Deadline(self._limit(timeout))
        self._link(deadline)
        runtime = self._runtime
        assert runtime is not None
        runtime.loop.refuse_here()
        waiters: List[Waiter[None]] = [Waiter() for _ in runtime.links]
        for link, waiter in zip(runtime.links, waiters):
            link.outbox.flush(waiter)
        for waiter in waiters:
            try:
                waiter.wait(deadline)
            except Abandoned:
                raise RequestTimeoutError(
                    f"the server did not confirm what was published within {deadline.timeout} s: it is unreachable or slow"
                ) from None

    def request(
        self, subject: str, data: Data = b"", *, timeout: Optional[float] = None, headers: Headers = None
    ) -> Message:
        """Publish a request and return the first reply.

        Raises NoRespondersError at once when nobody subscribes, RequestTimeoutError after ``timeout`` seconds (the pool's
        ``timeout`` if None), PermissionDeniedError, and what ``publish`` raises. While disconnected it waits; a request
        that was not sent by its deadline never is.
        """
        check_subject(subject)
        data = check_data(data)
        checked = check_headers(headers)
        deadline = Deadline(self._limit(timeout))
        try:
            msg = self._ask(subject, data, checked, deadline)
        except Abandoned:
            raise RequestTimeoutError(f"no reply came from {subject!r} within {deadline.timeout:g} s") from None
        return Message(msg.subject, msg.data, msg.reply, msg.headers, respond=self._respond)

    def _ask(self, subject: str, data: bytes, headers: Headers, deadline: Deadline) -> Msg:
        """One request, checked, and its reply as nats-py parsed it. Raises ``Abandoned`` at the deadline."""
        link = self._link(deadline)
        check_size(data, headers, link.connection.max_payload)
        return ask(link, subject, data, headers, deadline)

    def request_many(
        self,
        subject: str,
        data: Data = b"",
        *,
        timeout: Optional[float] = None,
        max_messages: Optional[int] = None,
        stall: Optional[float] = None,
        sentinel: Sentinel = False,
        headers: Headers = None,
    ) -> Replies:
        """Publish a request and iterate over every reply that comes, from any number of responders (ADR-47).

        timeout: seconds in all, without the reader's own time; the pool's ``timeout`` if None.
        max_messages: end after so many.
        stall: end when no further reply came for so many seconds; counts from the first reply on.
        sentinel: True to end at an empty message, or a function that says of a message whether it is the last; the
            sentinel itself is not yielded.

        Returns at once. Raises what ``publish`` raises; what iterating may raise is listed with ``Replies``.
        """
        check_subject(subject)
        data = check_data(data)
        checked = check_headers(headers)
        total = self._limit(timeout)
        if max_messages is not None:
            check_count(max_messages, "max_messages")
        pause = None if stall is None else check_interval(stall, "stall")
        if sentinel is not True and sentinel is not False:
            check_callable(sentinel, "sentinel")
        is_last = empty_payload if sentinel is True else (sentinel or None)
        deadline = Deadline(total)
        link = self._link(deadline)
        check_size(data, checked, link.connection.max_payload)
        inbox = ReplyInbox(link, subject)
        try:
            link.outbox.publish(publish_command(subject, data, inbox.inbox, checked), deadline.remaining(), inbox)
        except BaseException:
            inbox.finish("cancelled")
            raise
        return Replies(inbox, self, self._respond, timeout=total, max_messages=max_messages, stall=pause, sentinel=is_last)

    def _respond(self, reply: str, data: Data, headers: Headers) -> None:
        self.publish(reply, data, headers=headers)

    def subscribe(
        self,
        subject: str,
        *,
        queue: str = "",
        handler: Optional[Handler] = None,
        max_msgs: int = 0,
        pending_messages: int = 65_536,
        pending_bytes: int = 64 * 1024 * 1024,
        timeout: Optional[float] = None,
    ) -> Subscription:
        """Subscribe; returns once the server knows, so that what is published from then on arrives.

        queue: the queue group, of whose members one gets each message.
        handler: ``handler(message)``, called for one message at a time, in order, on the pool's handler threads; what it
            raises is logged and reported. Without one, iterate the subscription or call its ``next_msg``.
        max_msgs: end the subscription after so many messages, 0 for never.
        pending_messages, pending_bytes: how much may wait for a slow reader before newer messages are dropped.

        Raises BadSubjectError, PermissionDeniedError, RequestTimeoutError, ConnectError, ClosedError, TypeError or
        ValueError.
        """
        check_subscription(subject)
        if queue != "":
            check_line(subject, check_queue(queue))
        if handler is not None:
            check_callable(handler, "handler")
        check_count(max_msgs, "max_msgs", least=0)
        check_count(pending_messages, "pending_messages")
        check_count(pending_bytes, "pending_bytes")
        deadline = Deadline(self._limit(timeout))
        link = self._link(deadline)
        runtime = self._runtime
        assert runtime is not None
        subscription = Subscription(
            link,
            subject,
            queue,
            handler=handler,
            workers=runtime.handlers,
            respond=self._respond,
            on_error=runtime.report,
            on_end=_detach_from(self),
            max_msgs=max_msgs,
            pending_messages=pending_messages,
            pending_bytes=pending_bytes,
        )
        if handler is None:
            self._attach_weakly(subscription)
        else:
            self._attach(subscription)  # the caller need not hold it
        try:
            subscription.start(deadline)
        except BaseException:
            subscription.unsubscribe()
            raise
        return subscription

    def jetstream(
        self,
        *,
        prefix: Optional[str] = None,
        domain: Optional[str] = None,
        timeout: Optional[float] = None,
        publish_retries: int = 2,
        publish_retry_wait: float = 0.25,
        publish_async_max_pending: int = 4000,
    ) -> JetStream:
        """JetStream through this pool; costs nothing and does not connect yet.

        prefix, domain: where JetStream's API is to be found, if not below ``$JS.API``; a domain's is ``$JS.<domain>.API``.
        timeout: seconds that each call may take; the pool's if None.
        publish_retries, publish_retry_wait: how often a publish that no stream answered is repeated (a stream may be
            electing its leader), and after how many seconds (ADR-22).
        publish_async_max_pending: how many messages of ``publish_async`` may be on their way at a time.

        Raises TypeError, ValueError, BadSubjectError.
        """
        if prefix is not None and domain is not None:
            raise ValueError("prefix and domain are two ways to say the same thing: pass one of them")
        settings = Settings(
            api_prefix(prefix, domain),
            check_count(publish_retries, "publish_retries", least=0),
            check_interval(publish_retry_wait, "publish_retry_wait"),
            check_count(publish_async_max_pending, "publish_async_max_pending"),
        )
        return JetStream(self, settings=settings, timeout=timeout)

    # -- services -----------------------------------------------------------------------------------------------------

    def add_service(
        self,
        name: str,
        version: str,
        *,
        description: str = "",
        metadata: Optional[Mapping[str, str]] = None,
        queue_group: str = "q",
        stats_handler: Optional[StatsHandler] = None,
        max_workers: int = 16,
        max_queued: int = 16,
    ) -> Service:
        """Start a micro service (ADR-32), to which endpoints are then added; returns once it can be found.

        The parameters are those of ``Service``. Raises what it raises, and ConnectError, PermissionDeniedError,
        RequestTimeoutError, ClosedError.
        """
        service = Service(
            self,
            name,
            version,
            description=description,
            metadata=metadata,
            queue_group=queue_group,
            stats_handler=stats_handler,
            max_workers=max_workers,
            max_queued=max_queued,
        )
        try:
            return service.start()
        except BaseException:
            service.close()
            raise

    # -- streams ------------------------------------------------------------------------------------------------------

    def stream(
        self,
        subject: str,
        data: Data = b"",
        *,
        connect_id: Optional[str] = None,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        headers: Headers = None,
        window: Optional[int] = None,
        window_bytes: Optional[int] = None,
        resume: float = 0.0,
    ) -> ResponseStream:
        """Send a request whose answer is a stream of chunks; returns at once, and iterating waits for the chunks.

        connect_id: the client that this is for. When it goes offline, here or at the worker, the stream ends.
        timeout: seconds for the whole stream; None for no limit. The worker is told, and stops by itself.
        idle_timeout: seconds without a chunk while the reader waits for one; None for no limit, except that a responder
            which is not natsbridge, or has not answered at all, gets the pool's ``timeout``.
        window, window_bytes: chunks and bytes that the worker may send ahead of the reader; for None the pool's, where
            the bytes are the most that it gets, while a number here holds from the beginning to the end.
        resume: seconds for which both ends keep the stream through lost connections, and go on where it was. It also
            delays by as much the moment at which the worker notices that this process was killed. 0 for not at all.

        Raises ClientOfflineError when the id is marked offline, and what ``publish`` raises. What the stream itself may
        raise is listed with ``ResponseStream``. Use it in a ``with``: leaving it stops the worker.
        """
        check_subject(subject)
        data = check_data(data)
        if connect_id is not None:
            check_connect_id(connect_id)
        checked = check_headers(headers, owned=True)
        total = Deadline(check_timeout(timeout))
        idle = check_timeout(idle_timeout, "idle_timeout")
        chunks = self._window if window is None else check_count(window, "window")
        kept = check_timeout(resume, "resume", optional=False)
        size = None if window_bytes is None else check_count(window_bytes, "window_bytes")
        start = Deadline(total.at_most(self._timeout))
        link = self._link(start)
        protocol_headers = 200 + (0 if connect_id is None else len(connect_id.encode()))
        check_size(data, checked, link.connection.max_payload, protocol_headers)
        source = StreamSource(
            link,
            self.registry,
            subject,
            data,
            connect_id=connect_id,
            headers=checked,
            deadline=total,
            idle_timeout=idle,
            plain_idle_timeout=self._timeout,
            window=min(chunks, _MOST),
            max_bytes=None if size is None else min(size, _MOST),
            most_bytes=min(self._window_bytes, _MOST),
            probe_interval=self._probe_interval,
            resume=3600.0 if kept is None else min(kept, 3600.0),
        )
        source.start(start)
        return ResponseStream(source, self)

    def stream_request_with_client(
        self,
        subject: str,
        data: Data,
        connect_id: str,
        response_handler: ResponseHandler,
        *,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        headers: Headers = None,
    ) -> str:
        """Ask for a streamed answer on behalf of a client, and call ``response_handler(message)`` with each chunk.

        Blocks until the stream is over and returns its end reason: ``completed``, or ``cancelled`` when the handler
        returned False (only ``False`` stops; None goes on). An exception of the handler cancels the stream and comes
        through. Raises ClientOfflineError as soon as the client is marked offline in this process, ClosedError when the
        pool is closed, and what ``stream`` and ``ResponseStream`` raise.
        """
        check_connect_id(connect_id)
        return self._run_stream(subject, data, connect_id, response_handler, timeout, idle_timeout, headers)

    def stream_request(
        self,
        subject: str,
        data: Data,
        response_handler: ResponseHandler,
        *,
        timeout: Optional[float] = None,
        idle_timeout: Optional[float] = None,
        headers: Headers = None,
    ) -> str:
        """As ``stream_request_with_client``, for a request that belongs to no client."""
        return self._run_stream(subject, data, None, response_handler, timeout, idle_timeout, headers)

    def _run_stream(
        self,
        subject: str,
        data: Data,
        connect_id: Optional[str],
        response_handler: ResponseHandler,
        timeout: Optional[float],
        idle_timeout: Optional[float],
        headers: Headers,
    ) -> str:
        check_callable(response_handler, "response_handler")
        with self.stream(
            subject, data, connect_id=connect_id, timeout=timeout, idle_timeout=idle_timeout, headers=headers
        ) as stream:
            for message in stream.messages():
                if response_handler(message) is False:
                    return "cancelled"
            return stream.end_reason or "cancelled"

    # -- who is online ------------------------------------------------------------------------------------------------

    def mark_client_online(self, connect_id: str) -> None:
        """The client is there: forget an earlier offline mark, here and in listening processes.

        Does not wait, but for connecting on first use. Raises ConnectError, ClosedError, TypeError, ValueError.
        """
        self.registry.mark_online(connect_id)
        self.announce(connect_id, online=True)

    def mark_client_offline(self, connect_id: str) -> None:
        """The client is gone: stop its streams in this process and, through their listeners, in all others.

        Local streams have been told when this returns; the announcement to other processes is best effort and does not
        wait, but for connecting on first use. Requests of the id are refused for a minute, unless it is marked online
        again. Raises ConnectError and ClosedError (the local streams have been told even so), TypeError, ValueError.
        """
        self.registry.mark_offline(connect_id)
        self.announce(connect_id, online=False)

    @contextmanager
    def client(self, connect_id: str) -> Iterator[str]:
        """Hold a client online while the block runs; yields the id.

        Holders are counted in this process. When the last one leaves, the streams that were requested meanwhile stop,
        here and in listening processes. Requests that the same client makes elsewhere, or later, are not affected.
        """
        self.registry.open_lease(connect_id)
        try:
            self.announce(connect_id, online=True)
            yield connect_id
        finally:
            lease = self.registry.close_lease(connect_id)
            if lease is not None:
                self.announce(connect_id, online=False, lease=lease)

    def announce(self, connect_id: str, *, online: bool, lease: Optional[str] = None) -> None:
        """Only tell the listeners of other processes; the marks above do this too. Connects on first use, never waits.

        ``lease``: the token of the lease that has ended, None when every stream of the id is meant. Raises ConnectError,
        ClosedError.
        """
        if lease is not None and self._state != _OPEN:
            return  # nothing was requested under this lease, or close() has ended it
        self._link()
        runtime = self._runtime
        assert runtime is not None
        # "Online" must precede a request on whichever link that one takes; "offline" needs to be said once.
        for link in runtime.links if online else runtime.links[:1]:
            presence.announce(link, self.registry, connect_id, online=online, lease=lease)

    # -- looking ------------------------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Figures of this moment and totals; never blocks, never connects."""
        with self._lock:
            state, runtime, attached = self._state, self._runtime, len(self._attached)
        if runtime is None:
            return PoolStats(state, (), 0, 0, 0, attached)
        threads, running, queued = runtime.handlers.counts()
        links = tuple(link.stats() for link in runtime.links)
        return PoolStats(state, links, threads, running, queued, sum(link.subscriptions for link in links))

    def __repr__(self) -> str:
        stats = self.stats()
        servers = ", ".join(self._options.redacted())
        return (
            f"<Pool {self.name!r} {servers} {stats.state}: {stats.connected} of {self._size} connected, "
            f"{stats.streams} streams, {stats.subscriptions} subscriptions, {stats.handlers_running} handlers running>"
        )


def _detach_from(pool: Pool) -> Callable[[Subscription], None]:
    """A callback that does not keep the pool alive."""
    reference = weakref.ref(pool)

    def detach(subscription: Subscription) -> None:
        owner = reference()
        if owner is not None:
            owner._detach(subscription)

    return detach
