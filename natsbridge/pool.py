"""``Pool``: what a program constructs to talk to NATS."""

from __future__ import annotations

import itertools
import ssl
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional, Tuple, Union

from . import presence, process
from ._context import Settings, api_prefix
from ._deadline import Deadline, check_interval
from ._link import LinkStats
from .jetstream import JetStream
from .options import ConnectOptions, ErrorCallback, Servers, check_count, check_handler
from .registry import OnlineRegistry, online_clients
from .service import Service, StatsHandler
from .streaming import Streaming

DEFAULT_SERVER = "nats://127.0.0.1:4222"

_numbers = itertools.count(1)


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


class Pool(Streaming):
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
    inbox_prefix: below which replies arrive, str or bytes; the user must be allowed to subscribe to ``<inbox_prefix>.>``.
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
        inbox_prefix: Union[str, bytes] = "_INBOX",
        window: int = 16_384,
        window_bytes: int = 16 * 1024 * 1024,
        probe_interval: float = 2.0,
        outbox_bytes: int = 8 * 1024 * 1024,
        handler_threads: int = 16,
        error_callback: Optional[ErrorCallback] = None,
        uvloop: Optional[bool] = None,
        nats_options: Optional[Mapping[str, Any]] = None,
    ) -> None:
        options = ConnectOptions(
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
            inbox_prefix=inbox_prefix.decode() if isinstance(inbox_prefix, bytes) else inbox_prefix,
            connect_timeout=connect_timeout,
            reconnect_time_wait=reconnect_time_wait,
            ping_interval=ping_interval,
            max_outstanding_pings=max_outstanding_pings,
            nats_options=nats_options,
        )
        self.registry = online_clients if registry is None else registry
        if not isinstance(self.registry, OnlineRegistry):
            raise TypeError(f"registry must be an OnlineRegistry, not {registry!r}")
        self._window = check_count(window, "window")
        self._window_bytes = check_count(window_bytes, "window_bytes")
        self._probe_interval = check_interval(probe_interval, "probe_interval")
        if error_callback is not None:
            check_handler(error_callback, "error_callback")
        if uvloop not in (None, True, False):
            raise TypeError(f"uvloop must be True, False or None, not {uvloop!r}")
        super().__init__(
            options,
            name=name or f"pool{next(_numbers)}",
            size=check_count(size, "size"),
            timeout=check_interval(timeout, "timeout"),
            outbox_bytes=check_count(outbox_bytes, "outbox_bytes"),
            handler_threads=check_count(handler_threads, "handler_threads"),
            use_uvloop=uvloop,
            error_callback=error_callback,
        )

    def _on_open(self) -> None:
        process.opened(self)

    def _on_closed(self) -> None:
        process.closed(self)

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
        if lease is not None and (self._runtime is None or self.is_closed):
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
