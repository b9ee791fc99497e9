"""``JetStreamMessage``: a message of a consumer, and its acknowledgement."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Optional

from nats.aio.msg import Msg
from nats.errors import MsgAlreadyAckdError, NotJSMessageError

from . import _fork
from ._asking import ask
from ._command import publish_command
from ._deadline import Deadline, check_timeout
from ._link import Link
from ._types import Data, Headers
from ._waiter import Abandoned, Lock
from .errors import ForkedError, RequestTimeoutError
from .message import Message
from .options import check_data, check_headers, check_line_text, check_size

if TYPE_CHECKING:
    from .pool import Pool

_ACK, _NAK, _PROGRESS, _TERM = b"+ACK", b"-NAK", b"+WPI", b"+TERM"


class AckPort:
    """Where the acknowledgements of a consumer's messages go: the connection on which they came.

    The loop refers to it, so it never refers to the pool.
    """

    def __init__(self, pool: Pool, link: Link) -> None:
        self.link = link
        self.timeout = pool._timeout
        self.generation = _fork.generation

    def tell(self, reply: str, data: bytes) -> None:
        """Publish; returns once it is queued, and is written after a reconnect if it comes to that."""
        self.check()
        self.link.outbox.publish(publish_command(reply, data), self.timeout)

    def ask(self, reply: str, data: bytes, deadline: Deadline) -> None:
        """Publish, and wait for the server's answer. Raises ``Abandoned`` at the deadline."""
        ask(self.link, reply, data, None, deadline)

    def respond(self, reply: str, data: Data, headers: Headers) -> None:
        self.check()
        data, checked = check_data(data), check_headers(headers)
        self.check_size(data, checked)
        self.link.outbox.publish(publish_command(reply, data, headers=checked), self.timeout)

    def check_size(self, data: bytes, headers: Headers = None) -> None:
        check_size(data, headers, self.link.connection.max_payload)

    def nak_from_loop(self, reply: str) -> None:
        """Give back a message that nobody will read; never blocks."""
        if reply:
            self.link.outbox.control(publish_command(reply, _NAK))

    def check(self) -> None:
        if self.generation != _fork.generation:
            raise ForkedError("this message was received by the parent process, which has to acknowledge it")


class JetStreamMessage(Message):
    """A message that a consumer delivered; safe to hand to other threads, which may acknowledge it too.

    One of ``ack``, ``ack_sync``, ``nak`` and ``term`` may be called, once: the second raises ``MsgAlreadyAckdError`` and
    sends nothing. What is not acknowledged within the consumer's ``ack_wait`` is delivered again. In a forked child all
    four raise ``ForkedError``. Messages without acknowledgement (policy ``none``, ordered consumers) ignore it.
    """

    __slots__ = ("_acked", "_lock", "_metadata", "_port")

    def __init__(self, msg: Msg, port: AckPort) -> None:
        super().__init__(msg.subject, msg.data, msg.reply, msg.headers, respond=port.respond)
        self._port = port
        self._lock = Lock()  # guards _acked
        self._acked = False
        self._metadata: Optional[Msg.Metadata] = None

    @property
    def metadata(self) -> Msg.Metadata:
        """Stream, consumer, sequence numbers, ``num_delivered``, ``num_pending`` and time, as nats-py's ``Msg.Metadata``.

        Raises nats-py's NotJSMessageError when the message was not delivered by a consumer.
        """
        if self._metadata is None:
            self._metadata = Msg.Metadata._from_reply(self.reply)
        return self._metadata

    @property
    def is_acked(self) -> bool:
        """Whether ``ack``, ``ack_sync``, ``nak`` or ``term`` was called, by any thread."""
        return self._acked

    def ack(self) -> None:
        """It is done: not to be delivered again. Returns once that is queued (see ``Pool.publish``); ``ack_sync`` is sure.

        Raises MsgAlreadyAckdError, NotJSMessageError, RequestTimeoutError (the outbox was full), ClosedError, ForkedError.
        """
        self._settle(_ACK)

    def ack_sync(self, timeout: float = 1.0) -> None:
        """As ``ack``, and wait at most ``timeout`` seconds until the server has it.

        Raises RequestTimeoutError (it may be called again then), NoRespondersError when the consumer is gone, and what
        ``ack`` raises.
        """
        deadline = Deadline(check_timeout(timeout, optional=False))
        self._claim()
        try:
            self._port.ask(self.reply, _ACK, deadline)
        except BaseException as error:
            self._acked = False
            if isinstance(error, Abandoned):
                raise RequestTimeoutError(
                    f"the acknowledgement of a message on {self.subject!r} was not confirmed within {timeout:g} s"
                ) from None
            raise

    def nak(self, delay: Optional[float] = None) -> None:
        """It could not be handled: deliver it again, after ``delay`` seconds (at once if None). Raises as ``ack`` does.

        What shall never come again wants ``term``: an infinite delay is a ValueError.
        """
        seconds = check_timeout(delay, "delay", finite=True)
        if not seconds:
            self._settle(_NAK)
        else:
            self._settle(_NAK + b" " + json.dumps({"delay": int(seconds * 1e9)}).encode())

    def term(self, reason: str = "") -> None:
        """It can never be handled: do not deliver it again. Raises as ``ack`` does, and MaxPayloadError.

        reason: one line for the advisory that the server publishes (nats-server 2.10.4 and later).
        """
        check_line_text(reason, "reason")
        data = _TERM + (b" " + reason.encode() if reason else b"")
        self._port.check_size(data)
        self._settle(data)

    def in_progress(self) -> None:
        """It is being worked on: start ``ack_wait`` anew. May be called any number of times. Raises as ``ack`` does."""
        if not self.reply:
            raise NotJSMessageError
        if self._acked:
            raise MsgAlreadyAckdError(self)
        self._port.tell(self.reply, _PROGRESS)

    def _settle(self, data: bytes) -> None:
        self._claim()
        try:
            self._port.tell(self.reply, data)
        except BaseException:
            self._acked = False
            raise

    def _claim(self) -> None:
        """Whoever comes first may acknowledge."""
        self._port.check()
        if not self.reply:
            raise NotJSMessageError
        with self._lock:
            if self._acked:
                raise MsgAlreadyAckdError(self)
            self._acked = True

    def __repr__(self) -> str:
        return f"<JetStreamMessage {self.subject!r} {len(self.data)} bytes{' acked' if self._acked else ''}>"
