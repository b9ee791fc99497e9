"""The responder's end of a stream as a state table: what was sent, what was acknowledged, whether anybody still listens.

Pure: no threads, no clock, no I/O. The owner holds a lock around every call, hands in the time, and publishes what comes
back. The table below and the one in docs/protocol.md are the same; the tests walk both.

States: ``running`` (the handler may send), ``ending`` (the handler is through, the end is on its way), ``done``.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from . import _wire
from ._wire import ACCEPTED, CHUNK, END, PROBE, Failure

RUNNING, ENDING, DONE = "running", "ending", "done"

CONFIRM_AFTER = 0.010  # seconds between a first 503 and the probe whose 503 confirms it
_CLOCK_SLACK = 0.001


class Emit(NamedTuple):
    """A message for the requester: its kind and sequence number (in the reply subject), payload or failure."""

    kind: str
    seq: int
    payload: bytes = b""
    failure: Optional[Failure] = None


class Outgoing:
    def __init__(
        self, *, native: bool, window: int, max_bytes: int, probe_interval: float, max_probes: int = 3, clock: float = 0.0
    ) -> None:
        """``native``: the requester speaks this protocol, so it acknowledges and answers probes.

        ``window``, ``max_bytes``: un-acknowledged chunks and bytes at most. ``probe_interval``: seconds of the owner's
        clock. For a requester that is not native the window counts what is not written yet.
        """
        self.native, self.window, self.max_bytes = native, window, max_bytes
        self.state = RUNNING
        self.reason: Optional[str] = None  # why it is done: "ended", or the reason of ClientOfflineError
        self.failure: Optional[Failure] = None  # what the end will say
        self.pushed = self.sent = self.acked = 0
        self.ignored = 0
        self._unsent: Deque[bytes] = deque()
        self._unacked: Deque[int] = deque()  # sizes
        self._bytes = 0  # un-acknowledged, sent or not
        self._end_written = False
        self._probe_interval, self._max_probes = probe_interval, max_probes
        self._heard = self._said = self._probed = clock
        self._probes = 0  # own probes since anything was heard
        self._suspected: Optional[float] = None  # real time of a 503 that nothing has contradicted since

    # -- the handler's side -------------------------------------------------------------------------------------------

    def admits(self, size: int) -> bool:
        """Whether a chunk fits the window now; always when nothing is un-acknowledged."""
        unacked = self.pushed - self.acked
        return unacked == 0 or (unacked < self.window and self._bytes + size <= self.max_bytes)

    def push(self, chunk: bytes) -> None:
        self._unsent.append(chunk)
        self.pushed += 1
        self._bytes += len(chunk)

    def end(self, failure: Optional[Failure] = None) -> bool:
        """The handler is through; False when the stream is over already."""
        if self.state != RUNNING:
            return False
        self.state = ENDING
        self.failure = failure
        return True

    # -- the writer's side --------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return self.state != DONE and (bool(self._unsent) or (self.state == ENDING and not self._end_written))

    def take(self, budget: int, clock: float) -> List[Emit]:
        """The next messages to write: chunks up to ``budget`` bytes (at least one), then the end if it is its turn."""
        emits: List[Emit] = []
        if self.state == DONE:
            return emits
        while self._unsent and budget > 0:
            chunk = self._unsent.popleft()
            self.sent += 1
            budget -= len(chunk)
            if self.native:
                self._unacked.append(len(chunk))
            else:
                self._bytes -= len(chunk)
                self.acked = self.sent
            emits.append(Emit(CHUNK, self.sent, chunk))
        if self.state == ENDING and not self._unsent and not self._end_written:
            self._end_written = True
            self._probed = clock
            emits.append(self._end())
            if not self.native:
                self._finish("ended")
        if emits:
            self._said = clock
        return emits

    def accept(self) -> Emit:
        return Emit(ACCEPTED, 0)

    def _end(self) -> Emit:
        return Emit(END, self.sent, failure=self.failure)

    # -- events: the table --------------------------------------------------------------------------------------------

    def give_up(self, reason: str) -> List[Emit]:
        """Local event, any state but done: stop now; the requester is told where it does not know yet."""
        if self.state == DONE:
            return []
        self._finish(reason)
        if reason not in _wire.LIBRARY_ENDS:
            return []  # the requester knows already, or is gone
        self.failure = _wire.library_failure(reason)
        return [self._end()]

    def on_ack(self, seq: int, clock: float) -> List[Emit]:
        return _TABLE[self.state, "ack"](self, seq, clock)

    def on_cancel(self, why: str) -> List[Emit]:
        return _TABLE[self.state, "cancel"](self, why)

    def on_no_responders(self, now: float) -> bool:
        """A 503 for something sent; True when a confirming probe is due after CONFIRM_AFTER seconds."""
        if self.state == DONE:
            return False
        if self._suspected is None:
            self._suspected = now
            return self.native
        if now - self._suspected >= CONFIRM_AFTER - _CLOCK_SLACK:
            self._finish("no_interest")
        return False

    def on_confirm(self, clock: float) -> List[Emit]:
        """The confirming probe is due."""
        if self.state == DONE or self._suspected is None:
            return []
        return self._speak(clock)

    def on_tick(self, clock: float) -> List[Emit]:
        """Time passes. Whoever has heard nothing, or said nothing, for a probe interval speaks."""
        if self.state == DONE or not self.native:
            return []
        if clock - self._heard >= self._probe_interval:
            if clock - self._probed < self._probe_interval:
                return []
            if self._probes >= self._max_probes:
                self._finish("unreachable")
                return []
            self._probes += 1
            self._probed = clock
            return self._speak(clock)
        if clock - self._said >= self._probe_interval:
            self._probed = clock
            return self._speak(clock)
        return []

    # -- actions ------------------------------------------------------------------------------------------------------

    def _speak(self, clock: float) -> List[Emit]:
        """A probe; the end is its own probe once it has been written."""
        self._said = clock
        return [self._end() if self._end_written else Emit(PROBE, self.sent)]

    def _hear(self, clock: float) -> None:
        self._heard = clock
        self._probes = 0
        self._suspected = None

    def _acknowledge(self, seq: int, clock: float) -> List[Emit]:
        self._hear(clock)
        if not self.native or not self.acked <= seq <= self.sent:
            self.ignored += 1
            return []
        for _ in range(seq - self.acked):
            self._bytes -= self._unacked.popleft()
        self.acked = seq
        return []

    def _acknowledge_ending(self, seq: int, clock: float) -> List[Emit]:
        if seq == self.sent + 1 and self._end_written:
            self._finish("ended")
            return []
        return self._acknowledge(seq, clock)

    def _cancelled(self, why: str) -> List[Emit]:
        self._finish("deadline" if why == "deadline" else "cancelled")
        return []

    def _ended(self, why: str) -> List[Emit]:
        self._finish("ended")  # the requester has forgotten the stream: it has its end, or wants none
        return []

    def _ignore(self, *_: object) -> List[Emit]:
        self.ignored += 1
        return []

    def _finish(self, reason: str) -> None:
        self.state = DONE
        self.reason = reason
        self._unsent.clear()
        self._unacked.clear()
        self._bytes = 0


_TABLE: Dict[Tuple[str, str], Callable[..., List[Emit]]] = {
    (RUNNING, "ack"): Outgoing._acknowledge,
    (RUNNING, "cancel"): Outgoing._cancelled,
    (ENDING, "ack"): Outgoing._acknowledge_ending,
    (ENDING, "cancel"): Outgoing._ended,
    (DONE, "ack"): Outgoing._ignore,
    (DONE, "cancel"): Outgoing._ignore,
}
