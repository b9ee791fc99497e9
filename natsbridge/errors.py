"""The exceptions of natsbridge: one root, facts as attributes, all of them picklable.

``Error`` is nats-py's own root (``nats.errors.Error``), re-exported: it catches whatever a call of natsbridge can raise,
except ``TypeError`` and ``ValueError`` for arguments that are wrong in kind. Where nats-py has a class for the same
failure, the class here derives from both, so existing ``except`` clauses go on working.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence, Tuple, TypeVar

import nats.errors
import nats.js.errors
from nats.errors import Error

if TYPE_CHECKING:
    from nats.js.api import PubAck

E = TypeVar("E", bound="ServiceError")

__all__ = [
    "BadHeaderError",
    "BadSubjectError",
    "BusyError",
    "ClientOfflineError",
    "ClosedError",
    "ConnectError",
    "DisconnectedError",
    "Error",
    "FetchTimeoutError",
    "ForkedError",
    "LoopThreadError",
    "MaxPayloadError",
    "NatsBridgeError",
    "NoRespondersError",
    "NoStreamResponseError",
    "PermissionDeniedError",
    "PublishManyError",
    "RequestTimeoutError",
    "ResponderLostError",
    "ServerError",
    "ServiceError",
    "SlowConsumerError",
    "StreamError",
    "StreamGapError",
]


class NatsBridgeError(Error):
    """Base of every exception that natsbridge itself defines; ``str()`` of it is one readable sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def _facts(self) -> Tuple[Any, ...]:
        """The arguments that rebuild this exception (pickle calls the class with them)."""
        return (self.message,)

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), self._facts())


def as_exception(error: BaseException) -> Exception:
    """For natsbridge itself: what a handler raised, for those who are told of exceptions; ``sys.exit`` raises none."""
    return error if isinstance(error, Exception) else NatsBridgeError(f"a handler raised {error!r}")


class ClientOfflineError(NatsBridgeError):
    """The client of a stream is gone; raised by ``ResponseSender.send`` and by a requester whose own id went offline.

    ``connect_id``: the id of the request, None when it had none.
    ``reason``: ``offline`` (marked offline), ``cancelled`` (the requester stopped), ``no_interest`` (its process or
    subscription is gone), ``unreachable`` (it answers no probes), ``stalled`` (it reads no more), ``disconnected`` (the own
    connection was lost) or ``deadline`` (the request's timeout passed).

    A stream handler need not catch it: uncaught, it is a normal end of the handler.
    """

    def __init__(self, connect_id: str | None, reason: str) -> None:
        who = "the client" if connect_id is None else f"client {connect_id!r}"
        super().__init__(f"{who} is gone ({reason}); nobody reads this stream any more")
        self.connect_id = connect_id
        self.reason = reason

    def _facts(self) -> Tuple[Any, ...]:
        return (self.connect_id, self.reason)


class ServiceError(NatsBridgeError):
    """A service answered with an error; raised by ``Message.raise_for_error``, and by handlers that answer with one.

    ``code``: an integer, after HTTP status codes (500: the handler failed). ``description``: the service's own words, at
    most one line. ``data``: the payload that came, or goes, with it. ``received``: it came from a service. A handler that
    lets such a one through fails as with any other exception: what one service tells it need not be for whoever asks it.
    """

    received = False

    def __init__(self, code: int, description: str, data: bytes = b"") -> None:
        super().__init__(f"the service answered with error {code}: {description}")
        self.code = code
        self.description = description
        self.data = data

    def as_received(self: E) -> E:
        """For natsbridge itself: the same, ``received``."""
        self.received = True
        return self

    def __reduce__(self) -> Tuple[Any, ...]:
        return (*super().__reduce__(), {"received": self.received})

    def _facts(self) -> Tuple[Any, ...]:
        return (self.code, self.description, self.data)


class StreamError(ServiceError):
    """The responder ended the stream with an error, after the chunks that were already received.

    ``code``: an integer, after HTTP status codes (500: the handler failed). ``description``: the responder's own words.
    A handler that raises it (or calls ``ResponseSender.fail``) chooses both; ``description`` is at most one line.
    """

    def __init__(self, code: int, description: str) -> None:
        super().__init__(code, description)
        self.message = f"the responder failed with code {code}: {description}"

    def _facts(self) -> Tuple[Any, ...]:
        return (self.code, self.description)


class ResponderLostError(NatsBridgeError):
    """The responder, or the connection to it, went away before the stream's end; the chunks received are incomplete."""


class StreamGapError(NatsBridgeError):
    """A chunk of the stream is missing: number ``expected`` should have come, number ``got`` came."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"the stream has a gap: expected chunk {expected}, got {got}")
        self.expected = expected
        self.got = got

    def _facts(self) -> Tuple[Any, ...]:
        return (self.expected, self.got)


class BusyError(ServiceError):
    """Every handler thread of the worker is busy and its queue is full; nothing was started, so trying again is safe.

    ``code`` is 503. A handler in which it is raised, by what it asks others, fails as with any other exception.
    """

    def __init__(self, message: str) -> None:
        super().__init__(503, message)
        self.message = message

    def _facts(self) -> Tuple[Any, ...]:
        return (self.message,)


class NoRespondersError(NatsBridgeError, nats.errors.NoRespondersError):
    """Nobody subscribes to ``subject``, so the request cannot be answered."""

    def __init__(self, subject: str) -> None:
        NatsBridgeError.__init__(self, f"no responders on subject {subject!r}: is a worker subscribed to it?")
        self.subject = subject

    def _facts(self) -> Tuple[Any, ...]:
        return (self.subject,)


class NoStreamResponseError(NatsBridgeError, nats.js.errors.NoStreamResponseError):
    """No stream stores ``subject``, or the one that does has had no leader for as long as the publish was repeated."""

    def __init__(self, subject: str) -> None:
        NatsBridgeError.__init__(self, f"no stream stores {subject!r}: the message was not published")
        self.subject = subject

    def _facts(self) -> Tuple[Any, ...]:
        return (self.subject,)


class RequestTimeoutError(NatsBridgeError, nats.errors.TimeoutError, TimeoutError):
    """A deadline or an idle timeout passed. Also a built-in ``TimeoutError`` and ``nats.errors.TimeoutError``."""


class FetchTimeoutError(RequestTimeoutError, nats.js.errors.FetchTimeoutError):
    """No message came within the time of a ``fetch`` or ``next_msg`` of a consumer; none is lost."""


class ConnectError(NatsBridgeError, nats.errors.NoServersError):
    """No server could be reached, or none let us in; the text names the servers and each one's answer."""


class DisconnectedError(NatsBridgeError, nats.errors.StaleConnectionError):
    """The connection was lost meanwhile: what was published just before may or may not have reached the server."""


class ClosedError(NatsBridgeError, nats.errors.ConnectionClosedError):
    """The pool, subscription, subscriber or stream was closed: nothing was sent."""


class ForkedError(NatsBridgeError):
    """The stream, subscription or subscriber belongs to the parent process; make a new one in this process."""


class LoopThreadError(NatsBridgeError, RuntimeError):
    """A blocking call was made on the pool's own loop thread, where it would wait for itself for ever."""


class PermissionDeniedError(NatsBridgeError):
    """The server refused a publish or a subscription for lack of permission; the text is the server's, in lower case."""


class BadSubjectError(NatsBridgeError, nats.errors.BadSubjectError, ValueError):
    """A subject, queue group or reply is malformed; nothing was sent."""


class BadHeaderError(NatsBridgeError, nats.errors.BadHeaderError, ValueError):
    """A header's name or value cannot be sent; nothing was sent. ``key``: the header's name."""

    def __init__(self, message: str, key: str = "") -> None:
        NatsBridgeError.__init__(self, message)
        self.key = key

    def _facts(self) -> Tuple[Any, ...]:
        return (self.message, self.key)


class MaxPayloadError(NatsBridgeError, nats.errors.MaxPayloadError, ValueError):
    """Payload and headers together exceed the server's ``max_payload``; nothing was sent, the connection stays usable.

    ``size``: bytes that would have been sent. ``limit``: the server's limit in bytes. ``subject``: of a message that had
    been accepted for publishing, before the connection was lost and a server with a lower limit took its place; else None.
    """

    def __init__(self, size: int, limit: int, subject: Optional[str] = None) -> None:
        what = "" if subject is None else f"a message to {subject!r} was dropped after a reconnect: its "
        NatsBridgeError.__init__(
            self,
            f"{what}payload and headers are {size} bytes, the server accepts at most {limit} (max_payload): send less at "
            "a time",
        )
        self.size = size
        self.limit = limit
        self.subject = subject

    def _facts(self) -> Tuple[Any, ...]:
        return (self.size, self.limit, self.subject)


class PublishManyError(NatsBridgeError):
    """Some messages of a ``publish_many`` were not acknowledged.

    ``acks``: the acknowledgement of each message, None for those that failed. ``errors``: what each of these failed with,
    by its place in the order of messages.
    """

    def __init__(self, acks: Sequence[Optional[PubAck]], errors: Mapping[int, Exception]) -> None:
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {len(acks)} messages were not acknowledged, number {first} first: {errors[first]}"
        )
        self.acks = list(acks)
        self.errors = dict(errors)

    def _facts(self) -> Tuple[Any, ...]:
        return (self.acks, self.errors)


class SlowConsumerError(NatsBridgeError):
    """Messages came faster than they were read, and some were dropped; ``subject``: where they were published.

    A stream from a responder that knows no flow control ends with it; a subscription goes on, and reports it to the
    pool's ``error_callback``.
    """

    def __init__(self, subject: str, detail: str) -> None:
        super().__init__(f"the reader of {subject!r} is too slow, messages were dropped: {detail}")
        self.subject = subject
        self.detail = detail

    def _facts(self) -> Tuple[Any, ...]:
        return (self.subject, self.detail)


class ServerError(NatsBridgeError):
    """The embedded nats-server is missing, did not start, or ended; the text holds the end of its log."""
