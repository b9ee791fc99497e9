"""What a consumer was asked for and what came: pull requests under way, messages that wait for a reader.

The loop refers to it, so it never refers to the subscription that a user holds.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import deque
from typing import Any, Deque, Dict, Optional, Tuple

import nats.js.errors
from nats.aio.msg import Msg

from . import _wire
from ._client import LinkSubscription
from ._command import publish_command
from ._deadline import Deadline
from ._link import Link
from ._waiter import Condition
from .errors import ClosedError, Error, MaxPayloadError, PermissionDeniedError
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

    def __init__(self, link: Link, port: AckPort, inbox: str, next_subject: str) -> None:
        """``inbox``: below it the answers come. ``next_subject``: where the requests go."""
        self.link, self._port, self._next = link, port, next_subject
        self._inbox = inbox
        self.token = _wire.stream_token()  # only to be told of disconnects
        self.cond = Condition()  # guards everything below
        self.messages: Deque[JetStreamMessage] = deque()
        self.pulls: Dict[int, Pull] = {}
        self.trouble: Optional[str] = None  # why the consumer did not answer: a reader has to look
        self.shutdown = False  # the server is about to hang up: what it is asked now is lost
        self.error: Optional[Exception] = None  # for the next reader
        self.ended: Optional[Exception] = None  # for every reader from now on
        self.heard = time.monotonic()  # when anything came last
        self.keep = True  # False: nobody reads any more, and what comes goes back
        self.delivered = self.bytes = 0
        self._numbers = itertools.count(1)
        self.nats = LinkSubscription(f"{inbox}.*", "", self.on_arrival, on_denied=self.on_refused)

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
        pull = Pull(batch, time.monotonic() + (timeout if expires is None else expires))
        with self.cond:
            number = next(self._numbers)
            self.pulls[number] = pull
            self.heard = time.monotonic()
        command = publish_command(self._next, json.dumps(request).encode(), f"{self._inbox}.{number}")
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
            for key in [number] if number is not None else list(self.pulls):
                pull = self.pulls.pop(key, None)
                if pull is not None:
                    pull.over = True
            self.cond.notify_all()

    def give_back(self) -> None:
        """Nobody reads any more: what waits here, and what still comes, is for others."""
        with self.cond:
            self.keep = False
            unread = list(self.messages)
            self.messages.clear()
            self.bytes = 0
        for message in unread if self.gives_back else ():
            self._port.nak_from_loop(message.reply)

    def end(self, error: Optional[Exception]) -> None:
        """Tell every reader; ``error`` None for a regular end. The first call counts."""
        with self.cond:
            if self.ended is None:
                self.ended = StopReading() if error is None else error
            self.cond.notify_all()

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
            keep = self.keep
            if keep and self.accepts(message):
                self.messages.append(message)
                self.bytes += len(message.data)
                self.cond.notify()
        if not keep and self.gives_back:
            self._port.nak_from_loop(message.reply)

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

    def on_message(self, suffix: str, msg: Msg) -> None: ...

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
    if pulls.messages:
        message = pulls.messages.popleft()
        pulls.bytes -= len(message.data)
        return message
    if pulls.ended is not None:
        raise pulls.ended
    return None
