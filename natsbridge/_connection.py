"""One nats-py client and, should it die for good, its successors; subscriptions outlive them all.

Everything runs on the loop thread, unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from contextlib import suppress
from typing import Any, Deque, Dict, List, Optional, Protocol, Sequence, Set, Tuple

import nats.errors
from nats.aio.client import ServerVersion

from ._client import LinkSubscription, NatsClient
from ._command import check_command
from ._connecting import CLOSE_TIMEOUT, PENDING_BYTES, Connector, let_go
from ._deadline import Deadline
from ._waiter import Waiter
from .errors import ClosedError, DisconnectedError, NatsBridgeError, PermissionDeniedError
from .options import ConnectOptions, redact

logger = logging.getLogger("natsbridge")

_PONG_TIMEOUT = 24 * 3600  # nats-py must never cancel a PONG it waits for: a late one would end its read loop
_DEFAULT_MAX_PAYLOAD = 1048576
_RETRY = 0.01  # seconds between looks for a connection that is being made

_VIOLATION = re.compile(r'permissions violation for (publish|subscription)[^"]*"([^"]*)"')


class Listener(Protocol):
    """What a connection tells the link that owns it."""

    def on_up(self) -> None: ...
    def on_down(self) -> None: ...
    def on_publish_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        """The server refused a publish to ``subject`` (in lower case); True when somebody takes the blame."""

    def on_error(self, error: Exception) -> None: ...


class Connection:
    def __init__(self, name: str, options: ConnectOptions, listener: Listener) -> None:
        self.name = name
        self.up = False  # read from any thread
        self._options = options
        self._connector = Connector(options)
        self._listener = listener
        self._client: Optional[NatsClient] = None
        self._closing = False
        self._went_down: asyncio.Future[None]
        self._tasks: Set[asyncio.Task[Any]] = set()
        self._replacing = False
        self._pongs: Set[asyncio.Future[None]] = set()
        self._subscriptions: Set[LinkSubscription] = set()
        self._undelivered: Deque[Exception] = deque(maxlen=100)
        self._out_messages = self._out_bytes = 0  # changed by whoever is the outbox's writer just then
        self._past = {"reconnects": 0, "in_msgs": 0, "in_bytes": 0}
        self.max_payload = _DEFAULT_MAX_PAYLOAD  # the server's limit for payload and headers together; from any thread

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self, inbox: LinkSubscription, deadline: Deadline) -> None:
        """Connect and subscribe ``inbox``. Raises ConnectError, or PermissionDeniedError when the inbox is refused."""
        self._went_down = asyncio.get_event_loop().create_future()
        self._subscriptions.add(inbox)
        await self._connect(deadline)
        await self._round_trips()
        if inbox.denied is not None:
            await self.close(Deadline(CLOSE_TIMEOUT))
            raise PermissionDeniedError(
                f"{inbox.denied}: natsbridge must subscribe to '{self._options.inbox_prefix}.>' to hear replies; "
                "allow it, or set inbox_prefix to one that is allowed"
            )

    async def close(self, deadline: Deadline) -> None:
        """Disconnect, after a last round trip as far as the deadline allows."""
        self._closing = True
        client = self._client
        try:
            if client is not None and self.up:
                await asyncio.wait_for(self._round_trips(), deadline.at_most(CLOSE_TIMEOUT))
        except (asyncio.TimeoutError, nats.errors.Error):
            logger.warning("%s: closed before the server confirmed what was published", self.name)
        finally:
            self.up = False
            self._client = None
            if not self._went_down.done():
                self._went_down.set_result(None)
            for task in tuple(self._tasks):
                task.cancel()
            if client is not None:
                await let_go(client, deadline.at_most(CLOSE_TIMEOUT))

    # -- connecting ---------------------------------------------------------------------------------------------------

    async def _connect(self, deadline: Deadline) -> None:
        """Connect a fresh nats-py client and attach every subscription to it. Raises ConnectError."""
        client = await self._connector.connect(deadline, self)
        try:
            for subscription in tuple(self._subscriptions):
                await subscription.attach(client)
        except BaseException:
            await let_go(client, CLOSE_TIMEOUT)
            raise
        self._client = client
        self._came_up()

    def on_nats_down(self, client: NatsClient) -> None:
        if client is self._client:
            self._down()

    def on_nats_up(self, client: NatsClient) -> None:
        if client is self._client:
            self._came_up()

    def _down(self) -> None:
        if not self.up:
            return
        self.up = False
        logger.info("%s: disconnected", self.name)
        if not self._went_down.done():
            self._went_down.set_result(None)
        self._listener.on_down()

    def _came_up(self) -> None:
        # Only now may PINGs of the former connection be cancelled: nats-py has dropped its list of them.
        for pong in tuple(self._pongs):
            pong.cancel()
        self._pongs.clear()
        self._connector.restart()
        if self._client is not None:
            self.max_payload = self._client.max_payload
            if self._client.shared is not None:
                self._client.shared.share()
        self.up = True
        self._went_down = asyncio.get_event_loop().create_future()
        self._listener.on_up()

    async def reconnect(self) -> None:
        """Leave the server for another one, if there is another; does nothing while disconnected."""
        client = self._client
        if client is None or not self.up or not client.is_connected:
            return
        url = client.connected_url
        self._connector.leave(None if url is None else url.netloc)
        self._down()
        await client.force_reconnect()

    def set_servers(self, urls: List[str]) -> None:
        """Where to connect from now on; the connection that there is stays."""
        if self._client is not None and not self._client.is_closed:
            self._client.set_server_pool(urls)

    def check(self) -> None:
        """A client that gave up, or whose read loop has died while it calls itself connected, is replaced."""
        client = self._client
        if client is None or self._replacing or self._closing:
            return
        reading = getattr(client, "_reading_task", None)
        if client.is_closed or (client.is_connected and reading is not None and reading.done()):
            self._replacing = True
            task = asyncio.get_event_loop().create_task(self._replace(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not client.is_connected:
            self._down()

    async def _replace(self, dead: NatsClient) -> None:
        logger.warning("%s: the connection ended for good (%s), connecting anew", self.name, dead.last_error or "read loop")
        try:
            self._down()
            for key in self._past:
                self._past[key] += dead.stats[key]
            self._past["reconnects"] += 1
            dead.stats = dict.fromkeys(dead.stats, 0)
            # The dead socket goes first, so that the server never has two subscriptions to one prefix.
            await let_go(dead, CLOSE_TIMEOUT)
            while True:
                await asyncio.sleep(self._connector.pause())
                try:
                    await self._connect(Deadline(self._options.connect_timeout))
                    return
                except NatsBridgeError as error:
                    self._listener.on_error(error)
        finally:
            self._replacing = False

    # -- errors that nats-py reports ----------------------------------------------------------------------------------

    def on_nats_error(self, client: NatsClient, error: Exception) -> None:
        violation = _VIOLATION.search(str(error))
        if violation is not None:
            self._on_denied(violation.group(1), violation.group(2), PermissionDeniedError(str(error)))
            return
        if client.is_connected:
            self._listener.on_error(error)
        else:
            logger.info("%s: %r", self.name, error)

    def _on_denied(self, operation: str, subject: str, error: PermissionDeniedError) -> None:
        # nats-py hands the server's text over in lower case, so subjects are compared in lower case.
        if operation == "subscription":
            for subscription in tuple(self._subscriptions):
                if subscription.subject.lower() == subject:
                    subscription.denied = error
                    if subscription.on_denied is not None:
                        subscription.on_denied(error)
        elif not self._listener.on_publish_denied(subject, error):
            self._undelivered.append(error)
        self._listener.on_error(error)

    # -- writing ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _is_closing(client: NatsClient) -> bool:
        """The socket is lost, and nats-py has not noticed: uvloop raises RuntimeError for whatever is written to it."""
        writer = None if client.shared is None else client.shared._io_writer
        return writer is not None and writer.transport.is_closing()

    @staticmethod
    def _write_now(client: NatsClient, data: bytes) -> bool:
        """Hand ``data`` to the socket if nothing waits ahead of it: nats-py's flusher would do so a loop's round later."""
        shared = client.shared
        writer = None if shared is None else shared._io_writer
        if shared is None or writer is None or client.pending_data_size or writer.transport.get_write_buffer_size():
            return False
        shared.write(data)
        return True

    def write_at_once(self, commands: Sequence[bytes]) -> bool:
        """Any thread, as long as it is the outbox's writer: write complete commands, unless that would have to wait.

        False if they were not written: there is no connection, or it is not idle, or one of them is too large for it.
        """
        client = self._client
        shared = None if client is None or not self.up or client.pending_data_size else client.shared
        if shared is None or max(map(len, commands)) > self.max_payload:
            return False
        data = commands[0] if len(commands) == 1 else b"".join(commands)
        if not shared.write_at_once(data):
            return False
        self._out_messages += len(commands)
        self._out_bytes += len(data)
        return True

    async def write(self, commands: Sequence[bytes]) -> bool:
        """Write complete commands (see ``publish_command``); False when there is no connection to take them.

        One that is larger than the server accepts, which ends the connection, is dropped; the next barrier tells of it.
        Waits while more is pending than the socket takes. ``Client.publish`` would build each command anew, on the loop,
        where all threads wait for it: [measured] 2 microseconds of the loop for each, against 0.1 this way.
        """
        client = self._client
        if client is None or not client.is_connected or self._is_closing(client):
            self._down()  # nats-py tells of it only once the old socket is closed
            return False
        if max(map(len, commands)) > self.max_payload:
            commands = [command for command in commands if self._fits(command)]
        data = b"".join(commands)
        self._out_messages += len(commands)
        self._out_bytes += len(data)
        if self._write_now(client, data):
            return True
        if client.pending_data_size + len(data) <= PENDING_BYTES:
            await client._send_command(data)
            if client._flush_queue is not None and client._flush_queue.empty():
                await client._flush_pending()
        else:
            # Now nats-py waits for its flusher, and for ever if that one has died with the connection: not with us.
            sending = asyncio.ensure_future(client._send_command(data))
            await asyncio.wait({sending, self._went_down}, return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
        # On some Pythons 3.12 and 3.13 drain() does not wait after writelines(), and all would pile up in the transport.
        writer = None if client.shared is None else client.shared._io_writer
        while writer is not None and self.up and writer.transport.get_write_buffer_size() > PENDING_BYTES:
            await asyncio.wait({self._went_down}, timeout=_RETRY)
        return True

    def _fits(self, command: bytes) -> bool:
        error = check_command(command, self.max_payload)
        if error is None:
            return True
        self._undelivered.append(error)
        self._listener.on_error(error)
        return False

    # -- barriers and subscriptions -----------------------------------------------------------------------------------

    async def barrier(self, waiter: Waiter[None]) -> None:
        """Settle ``waiter`` once the server has processed what was published before; with the error of what it refused."""
        try:
            await self._round_trips()
        except (nats.errors.Error, asyncio.CancelledError) as error:
            lost = self._closing or isinstance(error, asyncio.CancelledError)
            waiter.fail(ClosedError("the pool was closed before the flush was through") if lost else error)
            return
        if self._undelivered:
            refused = self._undelivered[0]
            self._undelivered.clear()
            waiter.fail(refused)
        else:
            waiter.set(None)

    async def _round_trips(self) -> None:
        """Two PING/PONG rounds, because nats-py writes the first PING ahead of what it has buffered.

        Raises DisconnectedError when the connection breaks meanwhile.
        """
        for _ in range(2):
            await self._round_trip()

    async def _round_trip(self) -> None:
        client, down = self._client, self._went_down
        if client is not None and self.up:
            pong = asyncio.ensure_future(client.flush(_PONG_TIMEOUT))
            self._pongs.add(pong)
            await asyncio.wait({pong, down}, return_when=asyncio.FIRST_COMPLETED)
            if pong.done() and not pong.cancelled():
                self._pongs.discard(pong)
                pong.result()
                return
        raise DisconnectedError("the connection was lost before the server confirmed what was published")

    async def rtt(self) -> float:
        """Seconds for one PING/PONG. Raises DisconnectedError."""
        start = time.perf_counter()
        await self._round_trip()
        return time.perf_counter() - start

    async def subscribe(self, subscription: LinkSubscription) -> LinkSubscription:
        """Subscribe, and return once the server knows, also if that takes a reconnect. Raises PermissionDeniedError."""
        try:
            while True:
                while not self.up:
                    await asyncio.sleep(_RETRY)
                try:
                    if subscription not in self._subscriptions and self._client is not None:
                        self._subscriptions.add(subscription)
                        await subscription.attach(self._client)
                    await self._round_trips()
                    break
                except DisconnectedError:
                    continue  # what was attached is attached again with the next connection
            if subscription.denied is not None:
                raise subscription.denied
        except BaseException:
            await self.unsubscribe(subscription)
            raise
        return subscription

    async def unsubscribe(self, subscription: LinkSubscription) -> None:
        """End the subscription; what comes for it yet is dropped. Idempotent, raises nothing."""
        if subscription not in self._subscriptions:
            return
        self._subscriptions.discard(subscription)
        try:
            if subscription.nats is not None:
                await subscription.nats.unsubscribe()
        except nats.errors.Error:
            pass  # the connection is gone, and the subscription with it

    async def move(self, former: LinkSubscription, new: LinkSubscription) -> None:
        """Subscribe to ``new`` in the place of ``former``, which is drained. With a lost connection too; raises nothing.

        What the outbox was given behind this, by ``defer``, is written behind the new subscription.
        """
        self._subscriptions.add(new)
        if self._client is not None:
            with suppress(nats.errors.Error):  # it is closed: its successor is given it
                await new.attach(self._client)
        await self.drain(former)

    async def drain(self, subscription: LinkSubscription) -> None:
        """End the subscription after handing over everything that the server had already sent."""
        nats_sub, client = subscription.nats, self._client
        if subscription in self._subscriptions and nats_sub is not None and client is not None and self.up:
            # Subscription.drain of nats-py waits for a PONG ahead of its UNSUB, so messages sent in between are lost.
            await client._send_unsubscribe(nats_sub._id)
            with suppress(DisconnectedError):
                await self._round_trips()
        await self.unsubscribe(subscription)

    @property
    def reads_on(self) -> bool:
        """Of what has come, more is read before the loop does anything else than the message that was just handed over."""
        shared = None if self._client is None else self._client.shared
        return shared is not None and shared.reads_on

    # -- figures ------------------------------------------------------------------------------------------------------

    def counts(self) -> Dict[str, int]:
        """Any thread: messages, bytes and reconnects since the beginning, successors of the first client included."""
        client = self._client
        counts = {key: past + (0 if client is None else client.stats[key]) for key, past in self._past.items()}
        return {**counts, "out_msgs": self._out_messages, "out_bytes": self._out_bytes}

    def server(self) -> Optional[str]:
        """Any thread: the URL of the server connected to, without credentials."""
        client = self._client
        url = client.connected_url if client is not None and self.up else None
        return None if url is None else redact(url.geturl())

    def server_version(self) -> ServerVersion:
        """Any thread: of the server connected to, or connected to last."""
        client = self._client
        if client is None:
            raise ClosedError("the pool is closed: it knows no server")
        return client.connected_server_version

    def servers(self, *, discovered: bool = False) -> List[str]:
        """Any thread: the servers that may be connected to, or those of them that servers told of; without credentials."""
        client = self._client
        if client is None:
            return []
        return [redact(url.geturl()) for url in (client.discovered_servers if discovered else client.servers)]

    def identity(self) -> Tuple[Optional[int], Optional[str]]:
        """Any thread: what the server calls this client, and from which address it sees it come."""
        client = self._client
        return (None, None) if client is None or not self.up else (client.client_id, client.client_ip)

    def subscriptions(self) -> int:
        return len(self._subscriptions)
