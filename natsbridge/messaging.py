"""Messages: publishing, requests, subscriptions."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Callable, Optional

from ._asking import ask
from ._command import publish_command
from ._deadline import Deadline, check_interval
from ._types import Data, Headers
from ._waiter import Abandoned
from .connections import Connections
from .errors import RequestTimeoutError
from .message import Message
from .options import (
    check_count,
    check_data,
    check_handler,
    check_headers,
    check_line,
    check_queue,
    check_size,
    check_subject,
    check_subscription,
)
from .replies import Replies, ReplyInbox, Sentinel, empty_payload
from .subscription import Handler, Subscription

if TYPE_CHECKING:
    from nats.aio.msg import Msg


class Messaging(Connections):
    """The part of ``Pool`` that publishes, asks and subscribes."""

    def publish(
        self, subject: str, data: Data = b"", *, reply: str = "", headers: Headers = None, timeout: Optional[float] = None
    ) -> None:
        """Publish a message; returns once it is queued, and many queued messages cost one wake-up of the loop.

        Blocks only while ``outbox_bytes`` are waiting (also through a disconnect), ``timeout`` seconds at most (the pool's
        ``timeout`` if None). Delivery is at most once; ``flush`` tells whether the server has it. Raises BadSubjectError,
        BadHeaderError, MaxPayloadError, TypeError, ClosedError, ConnectError (first use), RequestTimeoutError.
        """
        check_subject(subject)
        data = check_data(data)
        if reply:
            check_line(subject, check_subject(reply, "reply"))
        checked = check_headers(headers) if headers is not None else None
        limit = self._timeout if timeout is None else self._limit(timeout)
        link = self._link()
        if checked is not None or len(data) > link.connection.max_payload:
            check_size(data, checked, link.connection.max_payload)
        link.outbox.publish(publish_command(subject, data, reply, checked), limit)

    def flush(self, timeout: Optional[float] = None) -> None:
        """Wait until the server has processed everything that was published before, by any thread.

        Raises RequestTimeoutError after ``timeout`` seconds (the pool's ``timeout`` if None), DisconnectedError when a
        connection broke meanwhile, and the error of a message that could not be delivered since the last flush (such as
        PermissionDeniedError). ClosedError.
        """
        deadline = Deadline(self._limit(timeout))
        self._link(deadline)
        runtime = self._runtime
        assert runtime is not None
        runtime.flush(deadline)

    def request(
        self, subject: str, data: Data = b"", *, timeout: Optional[float] = None, headers: Headers = None
    ) -> Message:
        """Publish a request and return the first reply.

        Raises NoRespondersError at once when nobody subscribes, RequestTimeoutError after ``timeout`` seconds (the pool's
        ``timeout`` if None), PermissionDeniedError, and what ``publish`` raises. While disconnected it waits; a request
        that was not sent by its deadline never is.
        """
        check_subject(subject)
        data = check_data(data)
        checked = check_headers(headers)
        deadline = Deadline(self._limit(timeout))
        try:
            msg = self._ask(subject, data, checked, deadline)
        except Abandoned:
            raise RequestTimeoutError(f"no reply came from {subject!r} within {deadline.timeout:g} s") from None
        return Message(msg.subject, msg.data, msg.reply, msg.headers, respond=self._respond)

    def _ask(self, subject: str, data: bytes, headers: Headers, deadline: Deadline) -> Msg:
        """One request, checked, and its reply as nats-py parsed it. Raises ``Abandoned`` at the deadline."""
        link = self._link(deadline)
        check_size(data, headers, link.connection.max_payload)
        return ask(link, subject, data, headers, deadline)

    def request_many(
        self,
        subject: str,
        data: Data = b"",
        *,
        timeout: Optional[float] = None,
        max_messages: Optional[int] = None,
        stall: Optional[float] = None,
        sentinel: Sentinel = False,
        headers: Headers = None,
    ) -> Replies:
        """Publish a request and iterate over every reply that comes, from any number of responders (ADR-47).

        timeout: seconds in all, without the reader's own time; the pool's ``timeout`` if None.
        max_messages: end after so many.
        stall: end when no further reply came for so many seconds; counts from the first reply on.
        sentinel: True to end at an empty message, or a function that says of a message whether it is the last; the
            sentinel itself is not yielded.

        Returns at once. Raises what ``publish`` raises; what iterating may raise is listed with ``Replies``.
        """
        check_subject(subject)
        data = check_data(data)
        checked = check_headers(headers)
        total = self._limit(timeout)
        if max_messages is not None:
            check_count(max_messages, "max_messages")
        pause = None if stall is None else check_interval(stall, "stall")
        if sentinel is not True and sentinel is not False:
            check_handler(sentinel, "sentinel")
        is_last = empty_payload if sentinel is True else (sentinel or None)
        deadline = Deadline(total)
        link = self._link(deadline)
        check_size(data, checked, link.connection.max_payload)
        inbox = ReplyInbox(link, subject)
        try:
            link.outbox.publish(publish_command(subject, data, inbox.inbox, checked), deadline.remaining(), inbox)
        except BaseException:
            inbox.finish("cancelled")
            raise
        return Replies(inbox, self, self._respond, timeout=total, max_messages=max_messages, stall=pause, sentinel=is_last)

    def _respond(self, reply: str, data: Data, headers: Headers) -> None:
        self.publish(reply, data, headers=headers)

    def subscribe(
        self,
        subject: str,
        *,
        queue: str = "",
        handler: Optional[Handler] = None,
        max_msgs: int = 0,
        pending_messages: int = 65_536,
        pending_bytes: int = 64 * 1024 * 1024,
        timeout: Optional[float] = None,
    ) -> Subscription:
        """Subscribe; returns once the server knows, so that what is published from then on arrives.

        queue: the queue group, of whose members one gets each message.
        handler: ``handler(message)``, called for one message at a time, in order, on the pool's handler threads; what it
            raises is logged and reported. Without one, iterate the subscription or call its ``next_msg``.
        max_msgs: end the subscription after so many messages, 0 for never.
        pending_messages, pending_bytes: how much may wait for a slow reader before newer messages are dropped.

        Raises BadSubjectError, PermissionDeniedError, RequestTimeoutError, ConnectError, ClosedError, TypeError or
        ValueError.
        """
        check_subscription(subject)
        if queue != "":
            check_line(subject, check_queue(queue))
        if handler is not None:
            check_handler(handler)
        check_count(max_msgs, "max_msgs", least=0)
        check_count(pending_messages, "pending_messages")
        check_count(pending_bytes, "pending_bytes")
        deadline = Deadline(self._limit(timeout))
        link = self._link(deadline)
        runtime = self._runtime
        assert runtime is not None
        subscription = Subscription(
            link,
            subject,
            queue,
            handler=handler,
            workers=runtime.handlers,
            respond=self._respond,
            on_error=runtime.report,
            on_end=_detach_from(self),
            max_msgs=max_msgs,
            pending_messages=pending_messages,
            pending_bytes=pending_bytes,
        )
        if handler is None:
            self._attach_weakly(subscription)
        else:
            self._attach(subscription)  # the caller need not hold it
        try:
            subscription.start(deadline)
        except BaseException:
            subscription.unsubscribe()
            raise
        return subscription


def _detach_from(pool: Messaging) -> Callable[[Subscription], None]:
    """A callback that does not keep the pool alive."""
    reference = weakref.ref(pool)

    def detach(subscription: Subscription) -> None:
        owner = reference()
        if owner is not None:
            owner._detach(subscription)

    return detach
