"""nats-py's client, with another transport and a shorter way for messages, and what it is subscribed to."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Callable, Coroutine, Dict, Optional, TypeVar

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.protocol.parser import AWAITING_CONTROL_LINE

from ._transport import SharedTransport
from .errors import PermissionDeniedError

T = TypeVar("T")
logger = logging.getLogger("natsbridge")


class LinkSubscription:
    """One NATS subscription that survives nats-py clients. ``take`` is called on the loop, with one message after another.

    nats-py's own limits are off: everything is taken at once, and windows and mailboxes bound what is kept.
    """

    def __init__(
        self,
        subject: str,
        queue: str,
        take: Callable[[Msg], None],
        *,
        on_denied: Optional[Callable[[PermissionDeniedError], None]] = None,
    ) -> None:
        self.subject, self.queue, self.take = subject, queue, take
        self.on_denied = on_denied
        self.nats: Optional[NatsSubscription] = None
        self.denied: Optional[PermissionDeniedError] = None

    async def attach(self, client: Client) -> None:
        self.nats = await client.subscribe(
            self.subject,
            queue=self.queue,
            cb=self.take_later,
            pending_msgs_limit=0,
            pending_bytes_limit=0,
        )

    async def take_later(self, msg: Msg) -> None:
        """What nats-py calls, with a task for each subscription: see ``NatsClient._process_msg``."""
        self.take(msg)


class NatsClient(Client):
    """nats-py's, but for its transport, how messages are handed over, and headers that cannot be read.

    These end its read loop, or all of a message's are dropped.
    """

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is None and s.uri.scheme not in ("ws", "wss"):
            self._transport = SharedTransport()
            self._transport.messages = self
        await super()._connect_to_server(s)

    @property
    def shared(self) -> Optional[SharedTransport]:
        """Its transport, if that is one to which other threads may write; a WebSocket is not."""
        return self._transport if isinstance(self._transport, SharedTransport) else None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """As nats-py's, without the queue and the task behind it: [measured] a round of the loop for each message."""
        if not self.deliver(sid, subject, reply, data, headers):
            await super()._process_msg(sid, subject, reply, data, headers)

    # -- what the receiver takes --------------------------------------------------------------------------------------

    @property
    def between(self) -> bool:
        return self._ps.state == AWAITING_CONTROL_LINE and not self._ps.buf

    def takes(self, sid: int) -> bool:
        subscription = self._subs.get(sid)
        return subscription is None or isinstance(getattr(subscription._cb, "__self__", None), LinkSubscription)

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Optional[bytes]) -> bool:
        subscription = self._subs.get(sid)
        taker = None if subscription is None else getattr(subscription._cb, "__self__", None)
        if subscription is not None and not isinstance(taker, LinkSubscription):
            return False
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        if taker is None:  # it has ended
            return True
        try:
            parsed = _result(self._process_headers(headers)) if headers else None
            taker.take(Msg(self, subject.decode(), reply.decode(), data, parsed, None, False, sid))
        except Exception:  # a fault of ours must end nobody who reads on
            logger.exception("taking a message of %r failed", taker.subject)
        return True

    async def _process_headers(self, headers: bytes) -> Optional[Dict[str, str]]:
        if not headers:
            return None
        parsed: Optional[Dict[str, str]] = None
        with suppress(Exception):
            parsed = await super()._process_headers(headers)
        return parsed or read_headers(headers)


def _result(coro: Coroutine[Any, Any, T]) -> T:
    """Of a coroutine that awaits nothing."""
    try:
        coro.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        coro.close()
    raise AssertionError("it awaits something")


def read_headers(block: bytes) -> Optional[Dict[str, str]]:
    """As much of a message's headers as can be read, so that no failure is taken for an ordinary message."""
    first, *lines = block.split(b"\r\n")
    headers: Dict[str, str] = {}
    status = first.split()[1:2]
    if status and status[0].isdigit():
        headers["Status"] = status[0].decode()
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name and not set(name) & set(b" \t\n\r\v\f"):
            headers[name.decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return headers or None
