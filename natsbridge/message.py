"""The message a user sees."""

from __future__ import annotations

from typing import Callable, Dict, Optional

from . import _wire
from ._types import Data, Headers
from .errors import BusyError, NatsBridgeError, ServiceError

Respond = Callable[[str, Data, Headers], None]


class Message:
    """One received message. Immutable in spirit; safe to hand to other threads.

    ``subject``: where it was published. ``reply``: where an answer is expected, "" for nowhere. ``data``: the payload.
    ``headers``: names to values, empty when there are none (of a repeated name the last value).
    """

    __slots__ = ("_respond", "data", "headers", "reply", "subject")

    def __init__(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        headers: Optional[Dict[str, str]] = None,
        *,
        respond: Optional[Respond] = None,
    ) -> None:
        self.subject = subject
        self.data = data
        self.reply = reply
        self.headers: Dict[str, str] = headers if headers is not None else {}
        self._respond = respond

    def respond(self, data: Data, headers: Headers = None) -> None:
        """Publish ``data`` to this message's reply subject; returns once it is queued (see ``Pool.publish``).

        Raises NatsBridgeError when the sender expects no answer, and whatever ``Pool.publish`` raises.
        """
        if not self.reply or self._respond is None:
            raise NatsBridgeError(f"the message on {self.subject!r} has no reply subject: its sender expects no answer")
        self._respond(self.reply, data, headers)

    def raise_for_error(self) -> Message:
        """Return this message, unless it is the error of a service (ADR-32): then raise ``ServiceError``.

        As in ``pool.request("orders.find", b"7").raise_for_error().data``. What is raised is a ``BusyError`` when every
        handler of a natsbridge service was busy. An error without a code that is a number has the code 500.
        """
        headers = self.headers
        if _wire.ERROR not in headers and _wire.ERROR_CODE not in headers:
            return self
        failure = _wire.parse_failure({_wire.ERROR: "it does not say which", **headers})
        assert failure is not None
        if failure.library == "busy":
            raise BusyError(f"the service is busy: {failure.description}")
        raise ServiceError(failure.code, failure.description, self.data).as_received()

    def __repr__(self) -> str:
        reply = f" reply={self.reply!r}" if self.reply else ""
        return f"<Message {self.subject!r} {len(self.data)} bytes{reply}>"
