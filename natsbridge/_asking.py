"""A request for a single reply."""

from __future__ import annotations

from nats.aio.msg import Msg

from . import _wire
from ._command import publish_command
from ._deadline import Deadline
from ._link import Link
from ._types import Headers
from ._waiter import Waiter
from .errors import (
    ClosedError,
    MaxPayloadError,
    NoRespondersError,
    PermissionDeniedError,
)


class PendingRequest:
    """A request that waits for one reply; addressed by its token."""

    __slots__ = ("_link", "_waiter", "inbox", "sent", "subject", "token")

    is_stream = False

    def __init__(self, link: Link, subject: str) -> None:
        self._link, self.subject = link, subject
        self.token = _wire.stream_token()
        self.inbox = f"{link.prefix}.{self.token}"
        self.sent = False
        self._waiter: Waiter[Msg] = link.loop.relay.waiter()

    @property
    def gone(self) -> bool:
        return self._waiter.gone

    def wait(self, deadline: Deadline) -> Msg:
        """Raises NoRespondersError, PermissionDeniedError, ClosedError, or ``Abandoned`` at the deadline."""
        return self._waiter.wait(deadline)

    def leave(self) -> None:
        """Nobody waits for it. Idempotent."""
        self._waiter.leave()

    def refuse(self, error: MaxPayloadError) -> None:
        self._waiter.fail(error)

    def on_message(self, suffix: str, msg: Msg) -> None:
        if suffix:
            return
        if not msg.data and msg.headers and msg.headers.get(_wire.STATUS) == _wire.NO_RESPONDERS:
            self._waiter.fail(NoRespondersError(self.subject))
        else:
            self._waiter.set(msg)

    def on_tick(self, clock: float) -> None: ...

    def on_disconnect(self) -> None: ...  # the reply may still come once the connection is back

    def on_reconnect(self) -> None: ...

    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        return subject == self.subject.lower() and self._waiter.fail(error)

    def on_closed(self) -> None:
        self._waiter.fail(ClosedError("the pool was closed while the request waited for its reply"))


def ask(link: Link, subject: str, data: bytes, headers: Headers, deadline: Deadline) -> Msg:
    """One request, checked, and its reply as nats-py parsed it. Raises as ``PendingRequest.wait`` does, and ClosedError."""
    link.loop.refuse_here()
    pending = PendingRequest(link, subject)
    link.register(pending.token, pending, ticking=False)
    try:
        command = publish_command(subject, data, pending.inbox, headers)
        link.outbox.publish(command, deadline.remaining(), pending, urgent=link.quiet)
        return pending.wait(deadline)
    except BaseException:
        pending.leave()
        raise
    finally:
        link.forget(pending.token)
