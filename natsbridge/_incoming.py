"""The requester's end of a stream as a state table: what was received, what was consumed, and how it ended.

Pure: no threads, no clock, no I/O. The owner holds a lock around every call, hands in the time, and publishes what comes
back. The table below and the one in docs/protocol.md are the same; the tests walk both.

States: ``waiting`` (nothing has come yet), ``native`` (the responder speaks this protocol), ``plain`` (it does not),
``done``.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Tuple

from . import _wire
from ._outgoing import CONFIRM_AFTER
from ._window import PARCELS, Window
from ._wire import ACCEPTED, BATCH, CHUNK, END, PROBE, Failure

WAITING, NATIVE, PLAIN, DONE = "waiting", "native", "plain", "done"

# A plain responder knows no window: more than this is not kept for a reader that is too slow.
MAX_PLAIN_MESSAGES = 65536
MAX_PLAIN_BYTES = 64 * 1024 * 1024

_CLOCK_SLACK = 0.001
_DEFAULT_PROBE_MS = 2000  # how often a responder speaks that does not say how often
_SUSPECT_PROBES = 0.25  # seconds between probes of a responder that is missing, but may come back
_MAX_NAKS = 5  # for one chunk, each after a probe or end that showed it missing still


class Parcel(NamedTuple):
    """What the reader is handed at a time: chunks in order.

    ``size``: bytes, of all of them. ``headers``: the chunk's, where a plain responder sent some.
    """

    chunks: List[bytes]
    size: int = 0
    headers: Optional[Dict[str, str]] = None


class Say(NamedTuple):
    """A message for the responder. ``probe``: it carries the inbox as its reply, so that a dead responder answers 503."""

    to: str
    data: bytes
    probe: bool = False


class Ended(NamedTuple):
    """How the stream ended: one word (see ``ResponseStream.end_reason``), and what an exception will need to say."""

    reason: str
    failure: Optional[Failure] = None
    expected: int = 0
    got: int = 0
    detail: str = ""


class Incoming:
    def __init__(
        self,
        *,
        window: int,
        max_bytes: int,
        probe_interval: float,
        max_probes: int = 3,
        resume: float = 0.0,
        clock: float = 0.0,
    ) -> None:
        """``window``, ``max_bytes``: granted to the responder. The times are seconds of the owner's clock."""
        self.window = Window(window, max_bytes, clock)
        self.state = WAITING
        self.ended: Optional[Ended] = None
        self.buffer: Deque[bytes] = deque()
        self.received = 0
        self.unread = 0  # chunks of the last parcel that the reader has not come to yet: its owner says so
        self.ignored = 0
        self._taken = 0
        self._headers: Deque[Optional[Dict[str, str]]] = deque()  # of the chunks in the buffer, where it is plain
        self._buffered_bytes = 0
        self._control = ""  # the control prefix of the responder, where it numbers its messages
        self._reply = ""  # its newest reply subject: where everything goes that is said to it
        self._held: Optional[bytes] = None  # from a JetStream stream, unless it turns out to be a plain responder's chunk
        self._relayed = False  # it is in another account, from where no 503 comes
        self._naked = self._naks = 0  # the chunk last asked for again, and how often the responder can have heeded that
        self._naked_at = clock
        self._resume = resume
        self._down_since: Optional[float] = None  # when the own connection was lost
        self._probe_interval, self._max_probes = probe_interval, max_probes
        self._heard = self._probed = clock
        self._probes = 0
        self._suspected: Optional[float] = None  # real time of a 503 that nothing has contradicted since,
        self._suspected_clock = clock  # the same by the owner's clock,
        self._confirming = False  # and whether the confirming probe has been sent

    # -- the reader's side --------------------------------------------------------------------------------------------

    @property
    def consumed(self) -> int:
        """Chunks that the reader has come to."""
        return self._taken - self.unread

    def take(self, clock: float, max_bytes: Optional[int] = None) -> Tuple[Parcel, List[Say]]:
        """The next chunks (the buffer must not be empty), and the acknowledgement if one is due.

        All of the parcel before counts as consumed then, and the first chunk of this one. ``max_bytes``: how many may be on
        their way from now on; None for as many as before.
        """
        self.unread = 0
        window = self.window
        wanted = window.wanted(max_bytes, self.consumed, clock)
        parcel = self._next_parcel(min(wanted, window.told))
        self._buffered_bytes -= parcel.size
        self._taken += len(parcel.chunks)
        self.unread = len(parcel.chunks) - 1
        if self.state != NATIVE or not window.hand(parcel.chunks, parcel.size, self.consumed, wanted):
            return parcel, []
        return parcel, self._ack(clock, ahead=parcel.size - len(parcel.chunks[0]))

    def on_wait(self, clock: float) -> List[Say]:
        """The reader has read all there is: an acknowledgement, if the responder may wait for room for a large chunk."""
        return self._ack(clock) if self.state == NATIVE and self.window.pinches(self.consumed) else []

    def _next_parcel(self, most: int) -> Parcel:
        """At most an eighth of the window, so that acknowledgements stay as even as if chunks were taken one by one.

        ``most``: the bytes of which it may have an eighth.
        """
        buffer = self.buffer
        if self._headers:
            chunk = buffer.popleft()
            return Parcel([chunk], len(chunk), self._headers.popleft())
        count = min(len(buffer), max(1, self.window.chunks // PARCELS))
        if self._buffered_bytes > most // PARCELS:
            mean = self._buffered_bytes // len(buffer)
            count = min(count, max(1, most // PARCELS // mean))
        chunks = [buffer.popleft() for _ in range(count)]
        return Parcel(chunks, sum(map(len, chunks)))

    def stop(self, reason: str) -> List[Say]:
        """Local event, any state but done: the stream ends here, and the responder is told."""
        if self.state == DONE:
            return []
        say = self._cancel(reason if reason in _wire.CANCEL_REASONS else "")
        captured = "; a JetStream stream captures the subject, and no responder has answered"
        self._finish(Ended(reason, detail="" if self._held is None else captured))
        return say

    def discard(self, reason: str) -> None:
        """The reader wants nothing of what has arrived: where anything was unread, that is how it ended."""
        if self.buffer or self.unread:
            self.buffer.clear()
            self.unread = 0
            self.ended = Ended(reason)

    # -- events: the table --------------------------------------------------------------------------------------------

    def on_message(
        self, data: bytes, reply: str, headers: Optional[Mapping[str, str]], clock: float, now: float
    ) -> Tuple[List[Say], bool]:
        """Something arrived in the inbox. The flag: a confirming probe is due after CONFIRM_AFTER seconds."""
        status = headers.get(_wire.STATUS) if headers and not data else None
        if status is not None:
            return self._on_status(status, headers or {}, clock, now)
        parsed = _wire.parse_sequence(headers) or _wire.parse_reply(reply)
        failure = _wire.parse_failure(headers)
        if parsed is None:
            event = "unnumbered" if reply or headers or not _wire.is_pub_ack(data) else "pub_ack"
        elif headers and (_wire.STREAM in headers or _wire.LIBRARY_ERROR in headers) and self._may_bind(parsed[0]):
            self._bind(NATIVE, parsed[0], headers, clock)
            self._relayed = _wire.SEQUENCE in headers
            event = parsed[1]
        else:
            event = parsed[1]
            if self.state == WAITING and event == CHUNK:
                self._control = parsed[0]  # its "a" may have been lost: a probe will tell
        if parsed is not None and self._control and parsed[0] != self._control:
            # A second responder: one is enough.
            return [Say(reply, _wire.encode_cancel())] if reply else [], False
        action = _TABLE.get((self.state, event), Incoming._ignore)
        if parsed is not None and self.state == NATIVE:
            self._hear(reply, clock)
        return action(self, parsed[2] if parsed is not None else 0, data, headers, failure, clock), False

    def _on_status(self, status: str, headers: Mapping[str, str], clock: float, now: float) -> Tuple[List[Say], bool]:
        if status != _wire.NO_RESPONDERS:
            self.ignored += 1
        elif self.state == WAITING:
            self._finish(Ended("no_responders"))
        elif self.state == NATIVE:
            if self._suspected is None:
                self._suspected, self._suspected_clock, self._confirming = now, clock, False
                return [], True
            confirmed = self._confirming and now - self._suspected >= CONFIRM_AFTER - _CLOCK_SLACK
            if confirmed and clock - self._suspected_clock >= self._resume:
                self._finish(Ended("lost", detail="the responder's process or connection is gone"))
        return [], False

    def on_confirm(self, clock: float) -> List[Say]:
        """The confirming probe is due."""
        if self.state != NATIVE or self._suspected is None:
            return []
        self._confirming = True
        return self._ack(clock)

    def on_tick(self, clock: float, max_bytes: Optional[int] = None) -> List[Say]:
        """Time passes: overdue acknowledgements, and a probe when nothing was heard for a probe interval.

        ``max_bytes``: how many may be on their way from now on, if the responder is to know even though nobody reads.
        """
        if self.state != NATIVE:
            return []
        if self._down_since is not None:
            if clock - self._down_since >= self._resume:
                self._finish(Ended("lost", detail=f"the own connection to the server was lost for {self._resume:g} s"))
            return []
        if clock - self._heard >= self._probe_interval and clock - self._probed >= self._probe_interval:
            if self._probes >= self._max_probes and clock - self._heard >= self._resume + self._probe_interval:
                self._finish(Ended("lost", detail=f"the responder did not answer {self._probes} probes"))
                return []
            self._probes += 1
            return self._probe_it(clock)
        if self._suspected is not None and self._resume and clock - self.window.acked_at >= _SUSPECT_PROBES:
            return self._ack(clock)
        if self.window.narrow(max_bytes) or self.window.overdue(self.consumed, clock):
            return self._ack(clock)
        return []

    def on_disconnect(self, sent: bool, clock: float) -> None:
        """The own connection is lost; ``sent``: the request had been written to it."""
        if self.state == NATIVE and self._resume > 0:
            if self._down_since is None:
                self._down_since = clock
        elif self.state != DONE and (sent or self.state != WAITING):
            self._finish(Ended("lost", detail="the own connection to the server was lost"))

    def on_reconnect(self, clock: float) -> List[Say]:
        """The own connection is back: ask for what was missed."""
        if self.state != NATIVE or self._down_since is None:
            return []
        self._down_since = None
        self._hear(self._reply, clock)  # silence so far is nobody's fault
        self._probed = clock
        return self._tell(_wire.encode_nak(self.received + 1), probe=True)

    # -- actions: all take (seq, data, headers, failure, clock) ---------------------------------------------------------

    def _accepted(self, _s: int, _d: object, headers: Optional[Mapping[str, str]], _f: object, clock: float) -> List[Say]:
        """It was bound when the first one came in; another one says that more was asked for than there is."""
        params = _wire.parse_params((headers or {}).get(_wire.STREAM, ""))
        if params is not None:
            self.window.refuse(params.bytes, clock)
        return []

    def _chunk(self, seq: int, data: bytes, _h: object, _f: object, clock: float) -> List[Say]:
        return self._chunks(seq, [data], clock)

    def _batch(self, seq: int, data: bytes, _h: object, _f: object, clock: float) -> List[Say]:
        chunks = _wire.decode_batch(data)
        if chunks is None:
            self.ignored += 1  # as if it had been lost: it is asked for again
            return []
        return self._chunks(seq, chunks, clock)

    def _chunks(self, seq: int, chunks: List[bytes], clock: float) -> List[Say]:
        if seq > self.received + 1:
            return self._gap(seq, clock, repeat=False)
        fresh = chunks[self.received + 1 - seq :]
        if not fresh:
            return self._ack(clock)
        self.buffer.extend(fresh)
        self._buffered_bytes += sum(map(len, fresh))
        self.received += len(fresh)
        return []

    def _probe(self, seq: int, _d: object, _h: object, _f: object, clock: float) -> List[Say]:
        return self._gap(seq + 1, clock, repeat=True) if seq > self.received else self._ack(clock)

    def _end(self, seq: int, _d: object, _h: object, failure: Optional[Failure], clock: float) -> List[Say]:
        if seq > self.received and (failure is None or failure.library in _wire.ORDERLY_ENDS):
            return self._gap(seq + 1, clock, repeat=True)  # a responder that gives up by itself sends nothing again
        say = [*self._tell(_wire.encode_ack(seq + 1)), *self._farewell()]
        self._finish(Ended("completed") if failure is None else Ended("error", failure))
        return say

    def _hold(self, seq: int, data: bytes, _h: object, _f: object, clock: float) -> List[Say]:
        """Most likely a JetStream stream has captured the request: no responder's chunk. What comes next tells."""
        if self._held is not None:
            return self._first_unnumbered(seq, data, None, None, clock)
        self._held = data
        return []

    def _first_numbered(
        self, seq: int, data: bytes, headers: Optional[Mapping[str, str]], failure: Optional[Failure], clock: float
    ) -> List[Say]:
        self.state = PLAIN
        self._drop_held()
        return self._plain(seq, data, headers, failure, clock)

    def _first_unnumbered(
        self, seq: int, data: bytes, headers: Optional[Mapping[str, str]], failure: Optional[Failure], clock: float
    ) -> List[Say]:
        self.state = PLAIN
        if self._held is not None:
            self._plain(0, self._held, None, None, clock)
        return self._plain(seq, data, headers, failure, clock)

    def _plain(
        self, seq: int, data: bytes, headers: Optional[Mapping[str, str]], failure: Optional[Failure], _c: object
    ) -> List[Say]:
        if failure is not None:
            self._finish(Ended("error", failure))
        elif not data and seq > self.received:
            self._finish(Ended("gap", expected=self.received + 1, got=seq + 1))
        elif not data:
            self._finish(Ended("completed"))
        elif seq and seq != self.received + 1:
            self._finish(Ended("gap", expected=self.received + 1, got=seq))
        elif len(self.buffer) >= MAX_PLAIN_MESSAGES or self._buffered_bytes + len(data) > MAX_PLAIN_BYTES:
            self._finish(Ended("overflow", detail=f"{len(self.buffer)} messages, {self._buffered_bytes} bytes unread"))
        else:
            self.received += 1
            self._keep(data, dict(headers) if headers else None)
        return []

    def _plain_unnumbered(
        self, seq: int, data: bytes, headers: Optional[Mapping[str, str]], failure: Optional[Failure], clock: float
    ) -> List[Say]:
        """What a plain responder says; but not one that numbers its messages."""
        return (self._unnumbered if self._control else self._plain)(seq, data, headers, failure, clock)

    def _unnumbered(self, _s: object, _d: object, _h: object, failure: Optional[Failure], _c: object) -> List[Say]:
        """A native responder says so when it does not know the stream; anything else without a number is foreign."""
        if failure is not None and failure.library is not None:
            self._finish(Ended("error", failure))
        else:
            self.ignored += 1
        return []

    def _ignore(self, *_: object) -> List[Say]:
        self.ignored += 1
        return []

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _may_bind(self, control: str) -> bool:
        return self.state == WAITING or (self.state == PLAIN and control == self._control)

    def _bind(self, state: str, control: str, headers: Mapping[str, str], clock: float) -> None:
        self.state = state
        self._control = control
        self._heard = clock
        self._drop_held()
        params = _wire.parse_params(headers.get(_wire.STREAM, ""))
        if params is not None:  # the responder may have capped what it was granted
            self.window.agree(params.window, params.bytes, clock)
            self._resume = min(self._resume, params.resume_ms / 1000)
            # It promises to speak so often; whoever is asked more often than that is silent for good reason.
            self._probe_interval = max(self._probe_interval, (params.probe_ms or _DEFAULT_PROBE_MS) / 1000)

    def _drop_held(self) -> None:
        self.ignored += self._held is not None
        self._held = None

    def _hear(self, reply: str, clock: float) -> None:
        self._reply = reply or self._reply
        self._heard = clock
        self._probes = 0
        self._suspected = None

    def _keep(self, data: bytes, headers: Optional[Dict[str, str]]) -> None:
        self.buffer.append(data)
        self._headers.append(headers)
        self._buffered_bytes += len(data)

    def _ack(self, clock: float, ahead: int = 0) -> List[Say]:
        return self._tell(self.window.acknowledge(self.consumed, clock, ahead), probe=True)

    def _probe_it(self, clock: float) -> List[Say]:
        self._probed = clock
        return self._ack(clock)

    def _gap(self, got: int, clock: float, *, repeat: bool) -> List[Say]:
        """Ask for the first missing chunk: once, and again only when a probe or the end shows it missing still.

        Patience counts what the responder can have heeded: it sends the same again only once an interval.
        """
        expected = self.received + 1
        if expected != self._naked:
            self._naked, self._naks = expected, 0
        elif not repeat:
            return []
        elif clock - self._naked_at < self._probe_interval:
            return self._tell(_wire.encode_nak(expected), probe=True)
        if self._naks >= _MAX_NAKS:
            say = self._cancel()
            self._finish(Ended("gap", expected=expected, got=got))
            return say
        self._naks += 1
        self._naked_at = clock
        return self._tell(_wire.encode_nak(expected), probe=True)

    def _cancel(self, why: str = "") -> List[Say]:
        return [*self._tell(_wire.encode_cancel(why)), *self._farewell()] if self.state == NATIVE else []

    def _tell(self, data: bytes, *, probe: bool = False) -> List[Say]:
        """Nothing where the responder gave no subject to tell it on: another account's refusal has none."""
        return [Say(self._reply, data, probe and not self._relayed)] if self._reply else []

    def _farewell(self) -> List[Say]:
        """The server keeps its mapping of another account's reply until an empty message has gone that way."""
        return self._tell(b"") if self._relayed else []

    def _finish(self, ended: Ended) -> None:
        self.state = DONE
        self.ended = ended


_TABLE: Dict[Tuple[str, str], Callable[..., List[Say]]] = {
    (WAITING, CHUNK): Incoming._first_numbered,
    (WAITING, END): Incoming._first_numbered,
    (WAITING, "unnumbered"): Incoming._first_unnumbered,
    (WAITING, "pub_ack"): Incoming._hold,
    (NATIVE, ACCEPTED): Incoming._accepted,
    (NATIVE, CHUNK): Incoming._chunk,
    (NATIVE, BATCH): Incoming._batch,
    (NATIVE, PROBE): Incoming._probe,
    (NATIVE, END): Incoming._end,
    (NATIVE, "unnumbered"): Incoming._unnumbered,
    (NATIVE, "pub_ack"): Incoming._unnumbered,
    (PLAIN, CHUNK): Incoming._plain,
    (PLAIN, END): Incoming._plain,
    (PLAIN, "unnumbered"): Incoming._plain_unnumbered,
    (PLAIN, "pub_ack"): Incoming._plain_unnumbered,
}
