"""What a push consumer sends, on its way to the reader; flow control, and the server's heartbeats.

The loop refers to it, so it never refers to the subscription that a user holds.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Callable, Optional, Tuple

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import api

from . import _wire
from ._client import LinkSubscription
from ._command import publish_command
from ._link import Link
from ._mailbox import Mailbox
from .errors import ClosedError, PermissionDeniedError, SlowConsumerError
from .jsmessage import AckPort, JetStreamMessage

_LAST_CONSUMER = "Nats-Last-Consumer"
_STALLED = "Nats-Consumer-Stalled"
_ACKS = "$JS.ACK."


class Pushed:
    """What the loop refers to: the messages on their way to a reader, flow control, and the server's heartbeats."""

    is_stream = False

    def __init__(
        self,
        link: Link,
        port: AckPort,
        config: api.ConsumerConfig,
        limits: Tuple[int, int],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.link, self._port, self._on_error = link, port, on_error
        self.token = _wire.stream_token()  # only to be told of disconnects
        self.mailbox: Mailbox[JetStreamMessage] = Mailbox(*limits)
        self.delivered = self.dropped = self.bytes = 0
        self.heard = time.monotonic()
        self.doubt = False  # the connection was lost, or a heartbeat: is the consumer still there?
        self._taken = 0
        self._last_seq = self._told_seq = 0
        self._answer: Optional[Tuple[int, str]] = None  # after how many are taken, and where to
        self.nats = LinkSubscription(
            config.deliver_subject or "", config.deliver_group or "", self.on_arrival, on_denied=self.on_refused
        )

    def on_arrival(self, msg: Msg) -> None:
        """Never waits, so that nothing piles up in nats-py."""
        self.heard = time.monotonic()
        status = msg.headers.get(_wire.STATUS) if msg.headers and not msg.data else None
        if status is not None and not msg.reply.startswith(_ACKS):  # else a message with such a header, and no payload
            self._on_status(msg)
            return
        message = JetStreamMessage(msg, self._port)
        self.delivered += 1
        with suppress(nats.errors.NotJSMessageError):  # somebody published to the deliver subject
            self._last_seq = message.metadata.sequence.consumer
        if not self.mailbox.offer(message, len(msg.data)):
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # the 1st, 2nd, 4th, 8th …
                self._on_error(SlowConsumerError(self.nats.subject, f"{self.dropped} so far; they come again if not acked"))

    def _on_status(self, msg: Msg) -> None:
        headers = msg.headers or {}
        reply = msg.reply or headers.get(_STALLED, "")
        if reply:
            self._answer = self.delivered - self.dropped, reply
            self.answer()
        last = headers.get(_LAST_CONSUMER, "")
        if last.isdigit() and 0 < self._last_seq < int(last) != self._told_seq:
            self._told_seq = int(last)
            self._on_error(nats.js.errors.ConsumerSequenceMismatchError(None, self._last_seq, int(last)))

    def answer(self) -> None:
        """Flow control goes on once the reader has taken what came before it (ADR-15)."""
        answer = self._answer
        if answer is not None and self._taken >= answer[0]:
            self._answer = None
            self.link.outbox.control(publish_command(answer[1]))

    def taken(self) -> None:
        """Any thread: the reader has taken a message."""
        self._taken += 1
        if self._answer is not None:
            self.answer()

    def end(self, error: Optional[Exception], *, discard: bool) -> None:
        self.mailbox.close(error, discard=discard)
        self.link.forget(self.token)

    def on_refused(self, error: PermissionDeniedError) -> None:
        self.mailbox.close(error)

    # -- what the link tells -------------------------------------------------------------------------------------------

    def on_message(self, suffix: str, msg: Msg) -> None: ...

    def on_tick(self, clock: float) -> None: ...

    def on_disconnect(self) -> None: ...

    def on_reconnect(self) -> None:
        self.heard = time.monotonic()
        self.doubt = True

    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        return False

    def on_closed(self) -> None:
        self.mailbox.close(ClosedError("the pool was closed, and this subscription with it"))
