"""One connection as the rest sees it: publish, subscribe, and dispatch what arrives for streams and requests.

Methods say in which thread they run; what says nothing runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Callable, Coroutine, Dict, NamedTuple, Optional, Protocol, Set

from nats.aio.msg import Msg

from . import _wire
from ._budget import Budget
from ._client import LinkSubscription
from ._command import publish_command
from ._connection import Connection
from ._deadline import Deadline
from ._loop import LoopThread
from ._outbox import Outbox
from .errors import PermissionDeniedError
from .options import ConnectOptions

logger = logging.getLogger("natsbridge")

TICK = 0.1  # seconds between looks at the streams
_IDLE_TICK = 0.5  # seconds between looks at the connection while there are no streams
# Un-acknowledged bytes of all streams of a link together. The server keeps the incoming ones, while the link is slow, and
# by default ends a connection for which more than 64 MiB wait; the outgoing ones are kept here.
_INCOMING_BYTES = 48 * 1024 * 1024
_OUTGOING_BYTES = 256 * 1024 * 1024
_COMPANY = 1.0  # seconds of the link's clock for which an end that has had company goes on as if it had
_FEW = 4  # requests and streams; with 8 threads that ask all the time, collecting what they ask is faster already


class End(Protocol):
    """What answers to a token below the link's prefix: an end of a stream, or a request waiting for its reply."""

    is_stream: bool

    def on_message(self, suffix: str, msg: Msg) -> None:
        """``suffix``: what follows the token in the subject, "" when it is the inbox itself."""

    def on_tick(self, clock: float) -> None: ...
    def on_disconnect(self) -> None: ...
    def on_reconnect(self) -> None: ...
    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        """The server refused a publish to ``subject`` (in lower case); True when it was this one's."""

    def on_closed(self) -> None: ...


class LinkStats(NamedTuple):
    connected: bool
    server: Optional[str]
    client_id: Optional[int]  # what the server calls this client
    client_ip: Optional[str]  # from which address the server sees it come
    reconnects: int
    in_messages: int
    out_messages: int
    in_bytes: int
    out_bytes: int
    outbox_messages: int
    outbox_bytes: int
    streams: int
    subscriptions: int
    ignored: int


class Link:
    def __init__(
        self,
        name: str,
        options: ConnectOptions,
        loop: LoopThread,
        *,
        outbox_bytes: int,
        on_error: Callable[[Exception], None],
    ) -> None:
        self.name = name
        self.loop = loop
        self.prefix = f"{options.inbox_prefix}.{_wire.link_token()}"
        self.clock = 0.0  # seconds that the loop has been running: stands still while the process is suspended
        self.connection = Connection(name, options, self)
        self.outbox = Outbox(loop, outbox_bytes, self.connection)
        self.on_error = on_error
        self.incoming, self.outgoing = Budget(_INCOMING_BYTES), Budget(_OUTGOING_BYTES)
        self._crowded = 0.0  # until when it is no matter of a single end
        # Changed with single dict operations from any thread, read on the loop.
        self._ends: Dict[str, End] = {}
        self._ticking: Dict[str, End] = {}
        self._tasks: Set[asyncio.Task[Any]] = set()
        self._stir: asyncio.Event  # there is a stream to look after again
        self._idle = False  # there was no stream to look after when that was looked at last
        self._ignored = 0  # messages that made no sense and were dropped

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self, deadline: Deadline) -> None:
        """Connect and subscribe the link's own prefix. Raises ConnectError, or PermissionDeniedError for the prefix."""
        self.outbox.open()
        self._stir = asyncio.Event()
        await self.connection.open(LinkSubscription(f"{self.prefix}.>", "", self._on_inbox), deadline)
        self.spawn(self.outbox.write())
        self.spawn(self._tick())

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine as a task that ends with the link."""
        task = asyncio.get_event_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: a task of the link died", self.name, exc_info=task.exception())

    async def close(self, deadline: Deadline) -> None:
        """Write what was accepted before, as far as the deadline and the connection allow, and disconnect."""
        for end in tuple(self._ends.values()):
            end.on_closed()
        try:
            written = await asyncio.wait_for(self.outbox.written(), deadline.at_most(60.0))
            if not written and self.outbox.waiting()[0]:
                logger.warning("%s: closed while disconnected, what was queued is lost", self.name)
        except asyncio.TimeoutError:
            logger.warning("%s: closed before everything queued was sent", self.name)
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            self.outbox.abandon()
            await self.connection.close(deadline)

    # -- what the connection tells ------------------------------------------------------------------------------------

    def on_up(self) -> None:
        self.outbox.wake()
        for end in tuple(self._ends.values()):
            end.on_reconnect()

    def on_down(self) -> None:
        for end in tuple(self._ends.values()):
            end.on_disconnect()

    def on_publish_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        blamed = [end for end in tuple(self._ends.values()) if end.on_denied(subject, error)]
        return bool(blamed)

    # -- dispatch -----------------------------------------------------------------------------------------------------

    def register(self, token: str, end: End, *, ticking: bool) -> None:
        """Any thread: deliver what arrives for ``token`` to ``end``; ``ticking``: and tell it how time passes.

        From another thread than the loop's, that begins with the first message, or the next look at the connection: to wake
        the loop for it would hold up the request that is about to be written.
        """
        if self._ends:
            self._crowded = self.clock + _COMPANY
        self._ends[token] = end
        if ticking:
            self._ticking[token] = end
            if self._idle and self.loop.is_current():
                self._stir.set()

    @property
    def quiet(self) -> bool:
        """Any thread: so little is under way that nothing is gained by collecting what is to be written."""
        return len(self._ends) <= _FEW

    @property
    def alone(self) -> bool:
        """Any thread: a single request or stream is under way, with no subscription beside it, and that for a while."""
        return len(self._ends) <= 1 and self.clock >= self._crowded and self.connection.subscriptions() <= 1

    def forget(self, token: str) -> None:
        """Any thread: what still arrives for ``token`` is answered as unknown."""
        if len(self._ends) > 1:
            self._crowded = self.clock + _COMPANY
        self._ends.pop(token, None)
        self._ticking.pop(token, None)

    def _on_inbox(self, msg: Msg) -> None:
        if self._idle and self._ticking:
            self._stir.set()
        token, _, suffix = msg.subject[len(self.prefix) + 1 :].partition(".")
        end = self._ends.get(token)
        try:
            if end is not None:
                end.on_message(suffix, msg)
            else:
                self._answer_unknown(suffix, msg)
        except Exception as error:  # a fault of ours must not end nats-py's task, and every stream with it
            logger.exception("%s: dispatching a message failed", self.name)
            self.on_error(error)

    def _answer_unknown(self, suffix: str, msg: Msg) -> None:
        """The stream has ended here: tell the other end, with a message that is itself never answered."""
        answer = _wire.answer_unknown(suffix, msg.data, msg.reply, msg.headers)
        if answer is not None:
            self.outbox.control(publish_command(msg.reply, answer[0], headers=answer[1]))
        elif not (msg.headers and _wire.STATUS in msg.headers):
            self._ignored += 1

    async def _tick(self) -> None:
        loop = asyncio.get_event_loop()
        last = loop.time()
        while True:
            pause = TICK
            if self._ticking:
                await asyncio.sleep(pause)
            else:
                pause = _IDLE_TICK
                self._idle = True
                self._stir.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stir.wait(), pause)
                self._idle = False
            now = loop.time()
            # A suspended process must not take its own sleep for the silence of others.
            self.clock += min(now - last, pause + TICK)
            last = now
            try:
                self.connection.check()
                self.outbox.check(self.clock)
                for end in tuple(self._ticking.values()):
                    end.on_tick(self.clock)
            except Exception as error:
                logger.exception("%s: looking after the streams failed", self.name)
                self.on_error(error)

    # -- figures ------------------------------------------------------------------------------------------------------

    def stats(self) -> LinkStats:
        """Any thread: a snapshot; counts of messages and bytes go on through reconnects."""
        counts = self.connection.counts()
        waiting, waiting_bytes = self.outbox.waiting()
        client_id, client_ip = self.connection.identity()
        return LinkStats(
            connected=self.connection.up,
            server=self.connection.server(),
            client_id=client_id,
            client_ip=client_ip,
            reconnects=counts["reconnects"],
            in_messages=counts["in_msgs"],
            out_messages=counts["out_msgs"],
            in_bytes=counts["in_bytes"],
            out_bytes=counts["out_bytes"],
            outbox_messages=waiting,
            outbox_bytes=waiting_bytes,
            streams=sum(end.is_stream for end in tuple(self._ticking.values())),
            subscriptions=self.connection.subscriptions(),
            ignored=self._ignored,
        )
