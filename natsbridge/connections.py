"""What a pool tells of its servers and connections, and what it may be told about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional

from . import _wire
from ._deadline import Deadline
from ._lifecycle import Lifecycle
from ._link import Link
from .options import Servers, check_servers

if TYPE_CHECKING:
    from nats.aio.client import ServerVersion


class Connections(Lifecycle):
    """The part of ``Pool`` that is about its servers and connections."""

    def new_inbox(self) -> str:
        """A subject below ``inbox_prefix`` that nobody else has, as for the reply of a message; never blocks."""
        return f"{self._options.inbox_prefix}.{_wire.stream_token()}"

    @property
    def is_connected(self) -> bool:
        """Whether all of its connections are up; False before the first use. Never blocks, never connects."""
        runtime = self._runtime
        return runtime is not None and all(link.connection.up for link in runtime.links)

    @property
    def max_payload(self) -> int:
        """Bytes that payload and headers of a message may have together, as the server says; connects on first use.

        Raises ConnectError, ClosedError.
        """
        return self._link().connection.max_payload

    @property
    def connected_server_version(self) -> ServerVersion:
        """The version of the server, with ``major``, ``minor`` and ``patch``; connects on first use.

        Raises ConnectError, ClosedError.
        """
        return self._link().connection.server_version()

    @property
    def servers(self) -> List[str]:
        """The URLs of the servers that may be connected to, without credentials; never blocks, never connects.

        Those that were given, and once connected those too that servers told of.
        """
        runtime = self._runtime
        known = [] if runtime is None else runtime.links[0].connection.servers()
        return known or self._options.redacted()

    @property
    def discovered_servers(self) -> List[str]:
        """Those of ``servers`` that servers told of; never blocks, never connects."""
        runtime = self._runtime
        return [] if runtime is None else runtime.links[0].connection.servers(discovered=True)

    def set_server_pool(self, servers: Servers) -> None:
        """Replace the servers that are connected to from now on; the connections that there are stay.

        ``force_reconnect`` after it moves them. Raises TypeError, ValueError, ClosedError.
        """
        self._check_not_closed()
        urls = check_servers(servers)
        self._options.urls = urls
        runtime = self._runtime
        for link in () if runtime is None else runtime.links:
            link.loop.post_quietly(link.connection.set_servers, urls)

    def force_reconnect(self) -> None:
        """Have each connection leave its server for another one, if there is another. Does not wait for it.

        Subscriptions survive; streams end, unless they may ``resume``; what was published waits in the outbox. Does
        nothing before the first use and while disconnected. Raises ClosedError.
        """
        self._check_not_closed()
        runtime = self._runtime
        for link in () if runtime is None else runtime.links:
            link.loop.post_quietly(_reconnect, link)

    def rtt(self, timeout: Optional[float] = None) -> float:
        """Seconds that a PING to the server and its PONG take now.

        Raises RequestTimeoutError after ``timeout`` seconds (the pool's ``timeout`` if None), DisconnectedError,
        ConnectError (first use), ClosedError, LoopThreadError.
        """
        deadline = Deadline(self._limit(timeout))
        link = self._link(deadline)
        return link.loop.call(link.connection.rtt, deadline=deadline, what="a PING to the server")


def _reconnect(link: Link) -> None:
    link.spawn(link.connection.reconnect())
