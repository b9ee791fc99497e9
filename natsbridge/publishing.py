"""Publishing to streams: one message and its acknowledgement, or many on their way at once."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

from nats.js import api

from . import _fork
from ._acks import AckInbox, PublishFuture
from ._blocking import Channel, not_jetstream, plain_headers
from ._context import publish, publish_headers
from ._deadline import Deadline, check_timeout
from ._types import Data
from ._waiter import Abandoned, Lock
from .errors import PublishManyError, RequestTimeoutError
from .manager import Manager
from .options import check_data, check_headers, check_subject

Outgoing = Union[Tuple[str, Data], Tuple[str, Data, Optional[Dict[str, str]]]]


class _Slot:
    """The inbox for acknowledgements that a ``JetStream`` and its copies share; another one after a fork."""

    def __init__(self) -> None:
        self.lock = Lock()  # so that concurrent first uses make one inbox
        self.inbox: Optional[AckInbox] = None
        _fork.watch(self)

    def _after_fork_in_child(self) -> None:
        _fork.park(self.inbox)
        self.lock, self.inbox = Lock(), None


class Publisher(Manager):
    """The part of ``JetStream`` that publishes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._slot = _Slot()

    def publish(
        self,
        subject: str,
        payload: Data = b"",
        timeout: Optional[float] = None,
        stream: Optional[str] = None,
        headers: Optional[Dict[str, Any]] = None,
        msg_ttl: Optional[float] = None,
    ) -> api.PubAck:
        """Publish a message, and wait until a stream has stored it.

        timeout: seconds, this object's if None.
        stream: the stream that has to store it.
        msg_ttl: seconds after which it is deleted (nats-server 2.11, and only where the stream allows it); ``math.inf`` for
            never, whatever the stream's ``max_age``.

        A header ``Nats-Msg-Id`` makes a second publish with the same id a duplicate, which the acknowledgement tells. When
        no stream answers, it is tried again as ``Pool.jetstream`` was told. Raises NoStreamResponseError, nats-py's
        APIError for what the stream refuses, RequestTimeoutError (it may be stored or not), BadSubjectError,
        BadHeaderError, MaxPayloadError, TypeError, ValueError, PermissionDeniedError, ClosedError, ConnectError.
        """
        deadline = Deadline(self._timeout if timeout is None else self._pool._limit(timeout))
        channel = Channel(self._pool, "JetStream.publish", deadline)
        try:
            return publish(channel, self._settings, subject, payload, publish_headers(headers, stream, msg_ttl))
        except json.JSONDecodeError as error:
            raise not_jetstream(channel.what, error) from error

    def publish_async(
        self,
        subject: str,
        payload: Data = b"",
        wait_stall: Optional[float] = None,
        stream: Optional[str] = None,
        headers: Optional[Dict[str, Any]] = None,
        msg_ttl: Optional[float] = None,
    ) -> PublishFuture:
        """Send a message without waiting for its acknowledgement, and return a handle for that.

        Messages of one thread are stored in the order in which they were published, unless a stream was not there at first.
        At most ``publish_async_max_pending`` may be on their way (see ``Pool.jetstream``); then this waits.

        wait_stall: seconds for that, this object's ``timeout`` if None; then TooManyStalledMsgsError is raised.
        stream, headers, msg_ttl: as in ``publish``.

        An acknowledgement has to come within this object's ``timeout``. Raises TooManyStalledMsgsError, BadSubjectError,
        BadHeaderError, MaxPayloadError, TypeError, ValueError, ClosedError, ConnectError (first use).
        """
        check_subject(subject)
        data = check_data(payload, "payload")
        checked = check_headers(plain_headers(publish_headers(headers, stream, msg_ttl)))
        stall = Deadline(
            self._pool._limit(check_timeout(wait_stall, "wait_stall")) if wait_stall is not None else self._timeout
        )
        return self._inbox().publish(subject, data, checked, Deadline(self._timeout), stall)

    def publish_async_pending(self) -> int:
        """How many messages of ``publish_async`` are on their way; never blocks."""
        inbox = self._slot.inbox
        return 0 if inbox is None or not inbox.usable else inbox.pending

    def publish_async_completed(self, timeout: Optional[float] = None) -> None:
        """Wait until no message of ``publish_async`` is on its way.

        Raises the first failure that nobody has asked its handle for (the others go to the pool's ``error_callback``), and
        RequestTimeoutError after ``timeout`` seconds (None: as long as it takes, which each message's own timeout bounds).
        """
        limit = check_timeout(timeout)
        inbox = self._slot.inbox
        if inbox is None or not inbox.usable:
            return
        try:
            inbox.wait_idle(Deadline(limit))
        except Abandoned:
            raise RequestTimeoutError(f"{inbox.pending} messages were not acknowledged within {timeout} s") from None

    def publish_many(self, messages: Iterable[Outgoing], *, stream: Optional[str] = None) -> List[api.PubAck]:
        """Publish ``(subject, payload)`` or ``(subject, payload, headers)`` each, many on their way at once.

        Returns the acknowledgements in the same order, once all have come; each within this object's ``timeout``.

        stream: the stream that has to store them.

        Raises PublishManyError when some were not acknowledged; it holds the acknowledgements of the others. What the
        iterable raises, and arguments that are wrong, end it at once: what was sent before is on its way then.
        """
        futures: List[PublishFuture] = []
        for message in messages:
            subject, payload, headers = message if len(message) == 3 else (*message, None)
            futures.append(self.publish_async(subject, payload, None, stream, headers))
        errors: Dict[int, Exception] = {}
        acks: List[Optional[api.PubAck]] = []
        for index, future in enumerate(futures):
            error = future.exception()
            if error is not None:
                errors[index] = error
            acks.append(future.result() if error is None else None)
        if errors:
            raise PublishManyError(acks, errors)
        return [ack for ack in acks if ack is not None]

    def _inbox(self) -> AckInbox:
        slot = self._slot
        inbox = slot.inbox
        if inbox is not None and inbox.usable:
            return inbox
        link = self._pool._link()  # which may take as long as connecting does
        with slot.lock:
            inbox = slot.inbox
            if inbox is None or not inbox.usable:
                inbox = slot.inbox = AckInbox(link, self._settings)
            return inbox
