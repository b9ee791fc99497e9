"""What a consumer was asked for and what came: pull requests under way, messages that wait for a reader.

The loop refers to it, so it never refers to the subscription that a user holds.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple

import nats.js.errors
from nats.aio.msg import Msg

from . import _wire
from ._client import LinkSubscription
from ._command import publish_command
from ._deadline import Deadline
from ._link import Link
from ._terms import Terms
from ._waiter import Condition
from .errors import ClosedError, Error, MaxPayloadError, NatsBridgeError, PermissionDeniedError
from .jsmessage import AckPort, JetStreamMessage

logger = logging.getLogger("natsbridge")

_LATE = 1.0  # seconds after its end at which a pull request is given up that the server said nothing of
_DESCRIPTION = "Description"

# Statuses that say nothing more than that a request is over.
_OVER = ("404", "408")
# The consumer may be back in a moment: its leader moves, its server stops, nobody has taken it over yet.
_PASSING = ("Leadership Change", "Server Shutdown", "Consumer Leadership Change")


class Pull:
    """One pull request; the guard of its queued command."""

    def __init__(self, batch: int, until: float) -> None:
        self.left = batch  # messages that may still come for it
        self.until = until  # when the server forgets it, on time.monotonic()
        self.sent = False
        self.over = False

    @property
    def gone(self) -> bool:
        return self.over or time.monotonic() >= self.until

    def refuse(self, error: MaxPayloadError) -> None:
        self.over = True  # a server that takes not even this: the reader hears nothing, and says so

    def remaining(self, deadline: Deadline) -> float:
        return deadline.at_most(max(0.0, self.until - time.monotonic()))


class Pulls:
    """Requests and messages of one pull consumer. Methods may be called from any thread, ``on_…`` are the loop's."""

    is_stream = False

    gives_back = True  # what nobody reads is for others
    passing: Tuple[str, ...] = _PASSING

    def __init__(self, link: Link, port: AckPort, inbox: str, next_subject: str, info_subject: str) -> None:
        """``inbox``: below it messages come. The subjects: where to ask for them, and what the consumer is like."""
        self.link, self._port, self._next, self._info = link, port, next_subject, info_subject
        self._inbox = inbox
        self.token = _wire.stream_token()  # where the answer to ``inquire`` comes
        self.terms = Terms()
        self.cond = Condition()  # guards everything below
        self.readers = 0  # iterations under way, and threads that wait for messages
        self._loose = False  # more may have been asked for than those who read now want
        self._stray = False  # the server may know a request that was forgotten here
        self._released = False  # nobody reads, and nothing comes any more: what waits is for others
        self._left = False  # the subscription has ended, and the server knows
        self.messages: Deque[JetStreamMessage] = deque()
        self.pulls: Dict[int, Pull] = {}
        self.trouble: Optional[str] = None  # why the consumer did not answer: a reader has to look
        self.shutdown = False  # the server is about to hang up: what it is asked now is lost
        self.error: Optional[Exception] = None  # for the next reader
        self.ended: Optional[Exception] = None  # for every reader from now on
        self.heard = time.monotonic()  # when anything came last
        self.delivered = self.bytes = 0
        self._numbers = itertools.count(1)
        self._moves = itertools.count()
        self.nats = self._next_inbox()

    def address(self, next_subject: str) -> None:
        """Ask another consumer from now on; what was asked of the former is forgotten. Call it with ``cond`` held."""
        self._next = next_subject
        self.forget_pulls()

    # -- asking -------------------------------------------------------------------------------------------------------

    def ask(self, batch: int, *, expires: Optional[float], heartbeat: Optional[float], timeout: float, **more: int) -> Pull:
        """Request ``batch`` messages. ``expires``: seconds, None for what is there now. Blocks while the outbox is full."""
        request: Dict[str, Any] = {"batch": batch, **more}
        if expires is None:
            request["no_wait"] = True
        else:
            request["expires"] = int(expires * 1e9)
        if heartbeat:
            request["idle_heartbeat"] = int(heartbeat * 1e9)
        pull = Pull(batch, time.monotonic() + (max(timeout, _LATE) if expires is None else expires))
        with self.cond:
            number = next(self._numbers)
            self.pulls[number] = pull
            self.heard = time.monotonic()
            reply = f"{self._at}.{number}"
        command = publish_command(self._next, json.dumps(request).encode(), reply)
        try:
            self.link.outbox.publish(command, timeout, pull)
        except BaseException:
            self.forget_pulls(number)
            raise
        return pull

    def outstanding(self) -> int:
        """Messages that may still come for the requests under way. Call it with ``cond`` held."""
        now = time.monotonic()
        for number, pull in list(self.pulls.items()):
            if now > pull.until + _LATE:
                pull.over = True
                del self.pulls[number]
        return sum(pull.left for pull in self.pulls.values())

    def forget_pulls(self, number: Optional[int] = None) -> None:
        """Expect nothing more for one request, or for all."""
        with self.cond:
            self._stray = True
            for key in [number] if number is not None else list(self.pulls):
                pull = self.pulls.pop(key, None)
                if pull is not None:
                    pull.over = True
            self.cond.notify_all()

    # -- who reads ----------------------------------------------------------------------------------------------------

    def enter(self) -> int:
        """Somebody reads from now on, until ``leave``. How many do."""
        with self.cond:
            self.readers += 1
            self._released = False
            return self.readers

    def leave(self, *, loose: bool) -> None:
        """``loose``: more may have been asked for than was read. The last one to leave sees to what nobody reads then."""
        with self.cond:
            self.readers -= 1
            self._loose = self._loose or loose
            if self._loose and not self.readers:
                self._loose = False
                self.release()

    def release(self) -> None:
        """Nobody reads: the server forgets what it was asked, and what has come, or is on its way, is for others.

        Call it with ``cond`` held, so that whoever reads next asks behind what is deferred here.
        """
        if not self.gives_back or self.ended is not None or not (self.pulls or self.messages or self._stray):
            return
        self.forget_pulls()
        self._stray = False
        former, self.nats = self.nats, self._next_inbox()
        self.link.outbox.defer(self._move, former, self.nats)

    def put_back(self, messages: List[JetStreamMessage]) -> None:
        """Messages that were taken, and not read after all: ahead of the others."""
        with self.cond:
            left = self._left
            if not left:
                self.messages.extendleft(reversed(messages))
                self.bytes += sum(len(message.data) for message in messages)
        if left:
            self._part(messages)

    def reads_ahead(self, message: JetStreamMessage) -> bool:
        """Whether more may be asked for than is read, now that ``message`` has come."""
        if not self.gives_back:
            return True
        if not self.terms.known:
            self.inquire()
        return self.terms.spares(message)

    def inquire(self) -> None:
        """Have the server say what the consumer is like; does not wait."""
        if self.terms.due():
            self.link.outbox.control(publish_command(self._info, b"", f"{self.link.prefix}.{self.token}.info"))

    def _next_inbox(self) -> LinkSubscription:
        """Another one for each time that the server is to forget what it was asked: it does when nobody would hear."""
        self._at = f"{self._inbox}.{next(self._moves)}"
        return LinkSubscription(f"{self._at}.*", "", self.on_arrival, on_denied=self.on_refused)

    def _move(self, former: LinkSubscription, new: LinkSubscription) -> None:
        self.link.spawn(self._moved(former, new))

    async def _moved(self, former: LinkSubscription, new: LinkSubscription) -> None:
        await self.link.connection.move(former, new)
        with self.cond:
            if self.nats is not new:
                return  # what was asked since is to be withdrawn too, and then it is time
            self._loose = self.readers > 0  # whoever reads again may want less than there is
            self._released = not self._loose
        self._settle()

    def _settle(self) -> None:
        """On the loop: give back what nobody reads. What would not be delivered again is kept for who reads next."""
        with self.cond:
            if not (self._released and self.messages):
                return
            known, unread = self.terms.known, [message for message in self.messages if self.terms.returns(message)]
            if known and unread:
                self.messages = deque(message for message in self.messages if not self.terms.returns(message))
                self.bytes = sum(len(message.data) for message in self.messages)
        if known:
            self._give_back(unread)
        else:
            self.inquire()

    def _give_back(self, messages: List[JetStreamMessage]) -> None:
        for message in messages:
            self._port.nak_from_loop(message.reply)

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self, error: Optional[Exception]) -> bool:
        """Tell every reader; ``error`` None for a regular end. The first call counts, and is told so."""
        with self.cond:
            first = self.ended is None
            if first:
                self.ended = StopReading() if error is None else error
            self.cond.notify_all()
            return first

    async def left(self) -> None:
        """The server knows that the subscription has ended: what waits here, and what comes yet, is given back."""
        with self.cond:
            self._left = True
            unread, self.messages, self.bytes = list(self.messages), deque(), 0
        self._part(unread)

    def _part(self, unread: List[JetStreamMessage]) -> None:
        if not self.gives_back:
            return
        lost = sum(not self.terms.returns(message) for message in unread)
        if lost:
            self.link.on_error(
                NatsBridgeError(
                    f"the subscription to {self._next.rpartition('.MSG.NEXT.')[2]!r} ended with {lost} unread, which "
                    "are not delivered again: nothing is acknowledged there, or it was the last delivery of max_deliver"
                )
            )
        if self.terms.acks:
            self._give_back(unread)

    # -- what comes ---------------------------------------------------------------------------------------------------

    def on_arrival(self, msg: Msg) -> None:
        """Never waits; what is asked for bounds what is kept."""
        status = msg.headers.get(_wire.STATUS) if msg.headers and not msg.data else None
        if status is not None and msg.subject.startswith(self._inbox):
            self._on_status(msg, status)
            return
        message = JetStreamMessage(msg, self._port)
        with self.cond:
            self.heard = time.monotonic()
            pull = next(iter(self.pulls.values()), None)
            if pull is not None:
                pull.left -= 1
                if pull.left <= 0:
                    self._over(next(iter(self.pulls)))
            self.delivered += 1
            left = self._left
            if not left and self.accepts(message):
                self.messages.append(message)
                self.bytes += len(message.data)
                self.cond.notify()
        if left:
            self._part([message])

    def accepts(self, message: JetStreamMessage) -> bool:
        """Whether it is for the reader; called with ``cond`` held."""
        return True

    def _on_status(self, msg: Msg, status: str) -> None:
        with self.cond:
            self.heard = time.monotonic()
            if status == "100":
                return
            number = msg.subject.rpartition(".")[2]
            known = number.isdigit() and int(number) in self.pulls
            if known:
                self._over(int(number))
            description = (msg.headers or {}).get(_DESCRIPTION, "").strip()
            self.shutdown = self.shutdown or description == "Server Shutdown"
            if status == "503" or (status == "409" and description in self.passing):
                self.trouble = description if status == "409" else "nobody answers for the consumer"
            elif status not in _OVER and known and "Batch Completed" not in description:
                self.error = nats.js.errors.APIError(code=int(status), description=description)
            self.cond.notify_all()

    def _over(self, number: int) -> None:
        self.pulls.pop(number).over = True

    # -- what the link tells -------------------------------------------------------------------------------------------

    def on_message(self, suffix: str, msg: Msg) -> None:
        self.terms.learn(msg.data)
        self._settle()

    def on_tick(self, clock: float) -> None: ...

    def on_disconnect(self) -> None:
        """The server forgets what was asked on a connection that is gone; what waits in the outbox is still to be asked."""
        with self.cond:
            for number, pull in list(self.pulls.items()):
                if pull.sent:
                    self._over(number)

    def on_reconnect(self) -> None:
        with self.cond:
            self.heard = time.monotonic()
            self.cond.notify_all()

    def on_denied(self, subject: str, error: PermissionDeniedError) -> bool:
        if subject == self._info.lower():
            self.terms.refuse()
            return True
        if subject != self._next.lower():
            return False
        self.on_refused(error)
        return True

    def on_refused(self, error: PermissionDeniedError) -> None:
        with self.cond:
            self.pulls.clear()
            self.error = error
            self.cond.notify_all()

    def on_closed(self) -> None:
        self.end(ClosedError("the pool was closed, and this subscription with it"))


class StopReading(Error):
    """The regular end of a subscription."""


def take(pulls: Pulls) -> Optional[JetStreamMessage]:
    """The next message that has come, None for none; with ``cond`` held. Raises what the subscription ended with."""
    if pulls.ended is not None:
        raise pulls.ended
    if not pulls.messages:
        return None
    message = pulls.messages.popleft()
    pulls.bytes -= len(message.data)
    return message
