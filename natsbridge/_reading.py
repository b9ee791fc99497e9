"""How threads read a pull consumer: asking ahead, heartbeats, and what is done when it does not answer."""

from __future__ import annotations

import logging
import time
from typing import Callable, Iterator, List, Optional

from . import _fork
from ._deadline import Deadline, check_interval
from ._pulls import Pull, Pulls, StopReading, take
from ._waiter import Abandoned
from .errors import DisconnectedError, ForkedError
from .jsmessage import JetStreamMessage

logger = logging.getLogger("natsbridge")

_EXPIRES = 30.0  # seconds that a request of a reading thread stays with the server
_AHEAD = 1.0  # seconds' worth of messages that may wait here for the thread that reads
_MARGIN = 0.05  # seconds by which the server's time for a request ends before ours (ADR-37)
_LONGEST = 3600.0  # seconds for one request; a fetch that takes longer repeats it
_SHORTEST = 0.001  # seconds; the server takes no time at all for no end
_HEARTBEATS = (0.1, 600.0)  # seconds: below, the network alone looks like silence; above, nobody would wait for two
MOMENT = 0.25  # seconds between looks at a consumer that does not answer


def check_heartbeat(value: object) -> float:
    """Return ``value`` as seconds. Raises TypeError, ValueError."""
    seconds = check_interval(value, "heartbeat")
    least, most = _HEARTBEATS
    if not least <= seconds <= most:
        raise ValueError(f"heartbeat must be between {least:g} and {most:g} seconds, not {value!r}")
    return seconds


class Reader:
    """One pull consumer, read by any number of threads; each message goes to one of them."""

    def __init__(self, pulls: Pulls, look: Callable[[Deadline], None], on_error: Callable[[Exception], None]) -> None:
        """``look``: called by a reading thread when the consumer did not answer; raises when that is for good."""
        self.pulls = pulls
        self._look, self._on_error = look, on_error
        self._generation = _fork.generation
        self._waiting = 0  # threads that wait for a message, guarded by the condition of ``pulls``
        self._window = 1  # how many messages may be asked for ahead: grows with the pace of the readers

    @property
    def ours(self) -> bool:
        """False in a forked child."""
        return self._generation == _fork.generation

    def check(self) -> None:
        if not self.ours:
            raise ForkedError("this consumer's subscription belongs to the parent process: subscribe here again")
        self.pulls.link.loop.refuse_here()

    def messages(self, batch: int, heartbeat: float) -> Iterator[JetStreamMessage]:
        """Messages as they come, until the end. ``batch``: how many may be asked for at most."""
        self.check()
        pulls = self.pulls
        if pulls.enter() == 1:
            self._window = 1  # what is known of the pace of another iteration says nothing about this one
        try:
            busy: Optional[float] = None
            while True:
                message = self._next(Deadline(None), min(batch, self._window), heartbeat)
                if message is None:
                    return
                start = time.monotonic()
                yield message
                took = time.monotonic() - start
                busy = took if busy is None else 0.7 * busy + 0.3 * took
                # Slow work is not hoarded: what waits here would run into its ack_wait, and nobody else could have it.
                ahead = min(2 * self._window, batch, int(_AHEAD / max(busy, 1e-9))) if pulls.reads_ahead(message) else 1
                self._window = max(1, ahead)
        finally:
            self._leave(loose=True)

    def _leave(self, *, loose: bool) -> None:
        if self.ours:
            self.pulls.leave(loose=loose)

    def next(self, deadline: Deadline, window: int, heartbeat: float) -> Optional[JetStreamMessage]:
        """The next message, None at the regular end.

        Raises ``Abandoned`` at the deadline, and what the subscription or the consumer ended with.
        """
        self.check()
        self.pulls.enter()
        loose = True
        try:
            message = self._next(deadline, window, heartbeat)
            loose = False
            return message
        except Abandoned:
            loose = False
            raise
        finally:
            self._leave(loose=loose)

    def _next(self, deadline: Deadline, window: int, heartbeat: float) -> Optional[JetStreamMessage]:
        self.check()
        pulls = self.pulls
        asked = False
        with pulls.cond:
            self._waiting += 1
        try:
            while True:
                looking = False
                with pulls.cond:
                    # The last moment is for what is under way: asked for now, it would come when nobody waits any more.
                    wanted = 0 if asked and deadline.at_most(1.0) <= _MARGIN else self._wanted(window)
                    message = None if wanted else take(pulls)
                    if message is not None:
                        return message
                    self._raise_error()
                    if pulls.trouble is not None:
                        looking, pulls.trouble = True, None
                    elif not wanted and not self._missed_heartbeats(heartbeat):
                        if deadline.passed():
                            raise Abandoned
                        pulls.cond.wait_slice(deadline.at_most(heartbeat))
                if looking:
                    self._look(deadline)
                elif wanted:
                    asked = True
                    until = Deadline(deadline.at_most(max(_EXPIRES, 2.5 * heartbeat)))
                    self._ask_for(wanted, until, heartbeat, lingering=True)
        except StopReading:
            return None
        finally:
            with pulls.cond:
                self._waiting -= 1

    def fetch(self, batch: int, deadline: Deadline, heartbeat: Optional[float]) -> List[JetStreamMessage]:
        """What is there now, ``batch`` messages at most; if there is nothing, what comes until the deadline."""
        self.check()
        self.pulls.enter()
        messages: List[JetStreamMessage] = []
        loose = True
        try:
            self._fetch(messages, batch, deadline, heartbeat)
            loose = False
        except BaseException:
            self.pulls.put_back(messages)
            raise
        finally:
            self._leave(loose=loose)
        return messages

    def _fetch(self, messages: List[JetStreamMessage], batch: int, deadline: Deadline, heartbeat: Optional[float]) -> None:
        pulls = self.pulls
        pull: Optional[Pull] = None
        lingering = False  # the first request asks for what is there now
        while len(messages) < batch:
            looking = False
            with pulls.cond:
                message = self._take_or_end(messages)
                if message is not None:
                    messages.append(message)
                    continue
                under_way = pull is not None and not pull.gone
                if deadline.passed() or (messages and (pulls.ended is not None or (pull is not None and not under_way))):
                    break
                if not messages:
                    self._raise_error()
                    looking, pulls.trouble = pulls.trouble is not None, None
                if not looking and (under_way or (lingering and deadline.at_most(1.0) <= _MARGIN)):
                    if heartbeat is None or not self._missed_heartbeats(heartbeat):
                        left = deadline.at_most(_LONGEST) if pull is None else pull.remaining(deadline)
                        pulls.cond.wait_slice(left if heartbeat is None else min(left, heartbeat))
                    continue
            if looking:
                self._look(deadline)
                pull = None
                continue
            lingering = lingering or pull is not None
            pull = self._ask_for(batch - len(messages), deadline, heartbeat, lingering=lingering)

    def _take_or_end(self, messages: List[JetStreamMessage]) -> Optional[JetStreamMessage]:
        return None if messages and self.pulls.ended is not None else take(self.pulls)

    def _ask_for(self, batch: int, deadline: Deadline, heartbeat: Optional[float], *, lingering: bool) -> Pull:
        left = deadline.at_most(_LONGEST)
        expires = left - min(_MARGIN, left / 2) if lingering and left > 2 * _SHORTEST else None
        if heartbeat is not None and (expires is None or 2 * heartbeat >= expires):
            heartbeat = None  # the server takes none that long
        return self.pulls.ask(batch, expires=expires, heartbeat=heartbeat, timeout=left)

    def _raise_error(self) -> None:
        error, self.pulls.error = self.pulls.error, None
        if error is not None:
            raise error

    def _wanted(self, window: int) -> int:
        """How many more to ask for: for each waiting thread one, and once half the window is used up, the rest of it."""
        pulls = self.pulls
        if pulls.ended is not None or pulls.error is not None or pulls.trouble is not None:
            return 0
        ahead = pulls.outstanding() + len(pulls.messages)
        least = self._waiting
        return max(window, least) - ahead if ahead < least or 2 * ahead <= window - 1 else 0

    def _missed_heartbeats(self, heartbeat: float) -> bool:
        pulls = self.pulls
        silence = time.monotonic() - pulls.heard
        if not pulls.link.connection.up or silence <= 2 * heartbeat or not pulls.outstanding():
            return False
        pulls.forget_pulls()
        self._on_error(DisconnectedError(f"a consumer was silent for {silence:.1f} s, two heartbeats: it is asked again"))
        return True

    def pause(self, deadline: Deadline) -> None:
        """For ``look``: a moment, or until the end."""
        until = Deadline(deadline.at_most(MOMENT))
        with self.pulls.cond:
            while not until.passed() and self.pulls.ended is None:
                self.pulls.cond.wait_slice(until.remaining())
