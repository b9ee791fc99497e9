"""Both ends of a stream, in processes with clocks of their own, joined by a network that may do anything to messages.

The ends are the real state tables, and so is what a stream that is over is answered with. What stands around them in a
program (``StreamSource``, ``StreamSink``, ``Link``, the server) is told in its simplest form: who publishes what the
tables say, and what a connection does to it. ``World.check`` runs after every event.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from random import Random
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

from natsbridge import _incoming, _wire
from natsbridge._incoming import Ended, Incoming, Say
from natsbridge._outgoing import CONFIRM_AFTER, DONE, Emit, Outgoing
from natsbridge._wire import Failure, StreamParams

TICK = 0.1  # seconds between a process's looks at the clock; one that comes later than twice that was suspended
IDLE = 5.0  # what a reader waits for a responder that has not said that it speaks the protocol
MAX_PROBES = 3
EVERYTHING = 1 << 30  # chunks: more than there are

INBOX = f"_INBOX.{'1' * 32}.{'a' * 24}"
CONTROLS = [f"_INBOX.{digit * 32}.{digit * 24}" for digit in "23"]
RELAYED_INBOX = "_R_.request"  # what a responder in another account knows of the inbox


class Message(NamedTuple):
    subject: str
    data: bytes = b""
    reply: str = ""
    headers: Optional[Dict[str, str]] = None


class Flight(NamedTuple):
    """A message on its way, in the order of arrival. ``source``: whose messages stay in order; "" for a requester's."""

    arrival: float
    number: int
    message: Message
    source: str


class Config(NamedTuple):
    """The requester's wishes, the responder's limits, and how each looks at the clock."""

    window: int = 8
    max_bytes: int = 64
    responder_window: int = 8
    responder_bytes: int = 64
    probe_interval: float = 2.0
    responder_interval: float = 2.0
    resume: float = 0.0
    stall_timeout: Optional[float] = None
    frame: int = 40  # bytes that the responder writes at a time
    relayed: bool = False  # the two are in different accounts
    asked_bytes: Tuple[int, ...] = ()  # of these the requester asks for one, or for none, whenever it reads on

    @property
    def granted(self) -> Tuple[int, int]:
        return min(self.window, self.responder_window), min(self.max_bytes, self.responder_bytes)

    @property
    def most_bytes(self) -> int:
        """What may ever be sent ahead of the reader."""
        return min(max((self.max_bytes, *self.asked_bytes)), self.responder_bytes)

    @property
    def agreed_resume(self) -> float:
        return 0.0 if self.relayed else self.resume

    @property
    def speak_interval(self) -> float:
        return max(0.1, min(self.probe_interval, self.responder_interval))

    @property
    def patience(self) -> float:
        """Seconds of silence after which each end must have given up."""
        interval = max(self.probe_interval, self.responder_interval)
        return self.agreed_resume + (MAX_PROBES + 2) * (interval + 2 * TICK)

    @property
    def params(self) -> StreamParams:
        """What the responder says that holds."""
        resume, probe = round(self.agreed_resume * 1000), round(self.speak_interval * 1000)
        return StreamParams(*self.granted, resume_ms=resume, probe_ms=probe)


class Process:
    """A process with its connection, and the end of a stream that lives there: ``table``."""

    table: Any  # Incoming or Outgoing

    def __init__(self, world: World, name: str, subject: str) -> None:
        self.world, self.name, self.subject = world, name, subject
        self.clock = 0.0
        self.next_tick = self.last_tick = world.now
        self.alive = self.up = self.known = True  # known: messages for the stream reach its end
        self.cut = False  # the connection is dead, and nobody has noticed
        self.suspended = False
        self.hopeless = False  # what it suffers from is for good
        self.arrived: Deque[Message] = deque()  # while suspended
        self.waiting: Deque[Message] = deque()  # for the connection
        self.timers: List[float] = []

    def work(self) -> None:
        """What the user's thread, and the writer, do in between."""
        raise NotImplementedError

    def heed(self, message: Message) -> None:
        raise NotImplementedError

    def publish(self, said: Sequence[Any]) -> None:
        raise NotImplementedError

    @property
    def reason(self) -> Optional[str]:
        raise NotImplementedError

    @property
    def done(self) -> bool:
        return bool(self.table.state == DONE)

    @property
    def running(self) -> bool:
        return self.alive and not self.suspended

    @property
    def over(self) -> bool:
        """Nothing more is to be expected from here."""
        return self.done or not self.alive or (self.hopeless and self.suspended)

    # -- time, and what it does to a process

    def tick(self) -> None:
        """The link looks after its stream; a process that was suspended does not count the time of its sleep."""
        elapsed, self.last_tick = self.world.now - self.last_tick, self.world.now
        self.clock += min(elapsed, 2 * TICK)
        if self.known:
            self.publish(self.table.on_tick(self.clock))
        self.settle()

    def confirm(self) -> None:
        self.timers.pop(0)
        self.publish(self.table.on_confirm(self.clock))
        self.settle()

    def suspend(self) -> None:
        self.suspended = True

    def wake(self, tick_first: bool = False) -> None:
        if not self.suspended:
            return
        self.suspended = False
        if tick_first and self.alive:
            self.tick()
            self.next_tick = self.world.now + TICK
        while self.arrived:
            self.receive(self.arrived.popleft())

    def kill(self) -> None:
        self.alive = self.up = self.known = False
        for gone in (self.arrived, self.waiting, self.timers):
            gone.clear()

    def settle(self) -> None:
        """After every event: let go of a stream that is done, and see that all is well."""
        self.work()
        if self.done:
            self.known = False
        self.world.check()

    # -- the connection

    def disconnect(self) -> None:
        if self.up:
            self.up = self.cut = False
            self.world.flights[self.name].clear()
            if self.known:
                self.lost()
            self.settle()

    def lost(self) -> None:
        self.publish(self.table.on_disconnect(self.clock))

    def reconnect(self) -> None:
        if self.alive and not self.up:
            self.up = True
            if self.known:
                self.publish(self.table.on_reconnect(self.clock))
            self.say()
            self.settle()

    def say(self, *messages: Message) -> None:
        """What the protocol says waits for the connection, if there is none."""
        self.waiting.extend(messages)
        while self.up and self.waiting:
            self.world.publish(self, self.waiting.popleft())

    def receive(self, message: Message) -> None:
        if self.suspended:
            self.arrived.append(message)
        elif self.known:
            self.heed(message)
            self.settle()
        else:
            suffix = message.subject[len(self.subject) + 1 :]
            answer = _wire.answer_unknown(suffix, message.data, message.reply, message.headers)
            if answer is not None:
                self.say(Message(message.reply, answer[0], "", answer[1]))
            self.settle()

    def alarm(self) -> None:
        """A 503 that is not true, as while interest spreads."""
        subject = self.subject if isinstance(self, Requester) else _wire.reply_subject(self.subject, _wire.PROBE, 0)
        self.receive(Message(subject, headers={_wire.STATUS: _wire.NO_RESPONDERS}))


class Requester(Process):
    def __init__(self, world: World) -> None:
        super().__init__(world, "requester", INBOX)
        config = world.config
        self.table = self.incoming = Incoming(
            window=config.window,
            max_bytes=config.max_bytes,
            probe_interval=config.probe_interval,
            max_probes=MAX_PROBES,
            resume=config.resume,
        )
        self.taken: List[bytes] = []
        self.parcel: Deque[bytes] = deque()  # what the reader is at
        self.pace = 0  # chunks that the reader takes whenever something happens; 0: it pauses
        self.waited_since = 0.0  # for a chunk, in real time
        self.bound_to: Optional[Responder] = None  # with numbers and acknowledgements
        self.naks = 0

    @property
    def reason(self) -> Optional[str]:
        return None if self.incoming.ended is None else self.incoming.ended.reason

    @property
    def unread(self) -> List[bytes]:
        return [*self.parcel, *self.incoming.buffer]

    def publish(self, said: Optional[Sequence[Say]]) -> None:
        for say in said or ():
            control = _wire.parse_control(say.data)
            assert control is not None or (not say.data and self.world.config.relayed), f"nonsense: {say}"
            self.naks += control is not None and control.verb == _wire.NAK
            self.say(Message(say.to, say.data, self.subject if say.probe else ""))

    def lost(self) -> None:
        self.incoming.on_disconnect(True, self.clock)

    def heed(self, message: Message) -> None:
        received = self.incoming.received
        says, confirm = self.incoming.on_message(message.data, message.reply, message.headers, self.clock, self.world.now)
        if self.incoming.received > received:
            self.waited_since = self.world.now
        if self.incoming.state == _incoming.NATIVE:
            responders, control = self.world.responders, self.incoming._control
            self.bound_to = next((r for r in responders if r.subject.endswith(control)), None)
        if confirm:
            self.timers.append(self.world.now + CONFIRM_AFTER)
        self.publish(says)

    def tick(self) -> None:
        """Where the responder is not known to answer probes, the reader has a limit of its own."""
        waited = 0.0 if self.unread else self.world.now - self.waited_since
        if self.known and self.incoming.state != _incoming.NATIVE and waited >= IDLE:
            self.stop("idle")
        super().tick()

    def stop(self, reason: str) -> None:
        self.publish(self.incoming.stop(reason))
        self.settle()

    def work(self) -> None:
        self.read(self.pace)

    def read(self, count: int) -> None:
        while count and self.unread and self.running:
            if not self.parcel:
                parcel, says = self.incoming.take(
                    self.clock, self.world.random.choice((None, *self.world.config.asked_bytes))
                )
                self.parcel.extend(parcel.chunks)
                self.publish(says)
            self.taken.append(self.parcel.popleft())
            self.incoming.unread = len(self.parcel)
            self.waited_since = self.world.now
            count -= 1
            self.world.check()
        if count and self.running:
            self.publish(self.incoming.on_wait(self.clock))


class Responder(Process):
    """``plan``: sizes of chunks that the handler still has to send; ``last``: how it ends after that, if it does."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"responder {number}", CONTROLS[number])
        config = world.config
        window, max_bytes = config.granted
        self.table = self.outgoing = Outgoing(
            native=True,
            batches=not config.relayed,
            window=window,
            max_bytes=max_bytes,
            probe_interval=config.responder_interval,
            max_probes=MAX_PROBES,
            speak_interval=config.speak_interval,
            stall_timeout=config.stall_timeout,
            resume=config.agreed_resume,
            room=lambda needed: min(needed, config.responder_bytes),
        )
        self.mark = b"AB"[number : number + 1]
        self.prompt = True  # the writer writes at once
        self.pushed: List[bytes] = []
        self.plan: Deque[int] = deque()
        self.last: Optional[Tuple[Optional[Failure]]] = None
        self.through: Optional[Tuple[Optional[Failure]]] = None  # the handler has ended, and so
        self.publish([self.outgoing.accept()])

    @property
    def reason(self) -> Optional[str]:
        return self.outgoing.reason

    def message(self, emit: Emit) -> Message:
        config, headers = self.world.config, {}
        if emit.failure is not None:
            headers = _wire.encode_failure(emit.failure)
        elif emit.kind in (_wire.ACCEPTED, _wire.PROBE):
            headers = {_wire.STREAM: _wire.encode_params(config.params._replace(bytes=self.outgoing.max_bytes))}
        reply = _wire.reply_subject(self.subject, emit.kind, emit.seq)
        if config.relayed:
            token = self.subject.rpartition(".")[2]
            headers = {**headers, _wire.SEQUENCE: _wire.encode_sequence(token, emit.kind, emit.seq)}
            reply = reply if emit.kind == _wire.ACCEPTED else ""
        return Message(RELAYED_INBOX if config.relayed else INBOX, emit.payload, reply, headers or None)

    def publish(self, said: Sequence[Emit]) -> None:
        self.say(*map(self.message, said))

    def heed(self, message: Message) -> None:
        if (message.headers or {}).get(_wire.STATUS) == _wire.NO_RESPONDERS:
            if self.outgoing.on_no_responders(0, self.clock, self.world.now):
                self.timers.append(self.world.now + CONFIRM_AFTER)
            return
        control = _wire.parse_control(message.data)
        if control is not None:
            self.publish(self.outgoing.on_control(control, self.clock))

    def give_up(self, reason: str) -> None:
        self.publish(self.outgoing.give_up(reason))
        self.settle()

    def send(self, sizes: Sequence[int]) -> None:
        self.plan.extend(sizes)
        self.settle()

    def end(self, failure: Optional[Failure] = None) -> None:
        self.last = (failure,)
        self.settle()

    def work(self) -> None:
        """The handler pushes what fits, and ends; the writer writes."""
        while self.running and self.through is None and not self.done:
            chunk = (self.mark + b"%d." % len(self.pushed)).ljust(self.plan[0] if self.plan else 0, b"-")
            if self.plan and self.outgoing.push(chunk, self.clock):
                self.pushed.append(chunk)
                self.plan.popleft()
            elif not self.plan and self.last is not None:
                self.through = self.last
                assert self.outgoing.end(self.last[0])
            else:
                break
        while self.running and self.prompt and self.up and self.outgoing.has_work:
            self.write(self.world.config.frame)

    def write(self, budget: int) -> None:
        for emit in self.outgoing.take(budget, self.clock):
            self.world.publish(self, self.message(emit))
        self.world.check()


class World:
    """The processes and what is under way between them."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config
        self.random = Random(seed)
        self.now = 0.0
        self.latency = (0.0, 0.0)  # seconds, from and to
        self.loss = self.duplication = 0.0  # probabilities
        self.in_order = True  # what a requester says; a responder's messages are always
        self.masked = False  # somebody else listens everywhere: nothing is answered with 503 any more
        self.lose: Sequence[int] = ()  # of all messages published, counted from 0
        self.jitter = 0.0  # seconds by which a tick is late at most
        self.published = 0
        self.flights: Dict[str, List[Flight]] = {}  # to each process, in the order of arrival
        self._flown = 0
        self._mapped: Dict[str, str] = {RELAYED_INBOX: INBOX}  # replies as the other account sees them
        self._ended: Optional[Ended] = None
        self._reasons: Dict[str, str] = {}
        self.processes: List[Process] = []
        self.responders: List[Responder] = []
        self.requester = Requester(self)
        self._add(self.requester)
        self.responder = self.add_responder()

    def _add(self, process: Process) -> None:
        self.processes.append(process)
        self.flights[process.name] = []

    def add_responder(self) -> Responder:
        responder = Responder(self, len(self.responders))
        self.responders.append(responder)
        self._add(responder)
        return responder

    # -- the server

    def publish(self, process: Process, message: Message) -> None:
        assert message.subject, f"the {process.name} published to an empty subject: {message}"
        self.published += 1
        if process.cut or self.published - 1 in self.lose:
            return
        subject, relayed = self._mapped.get(message.subject, message.subject), self.config.relayed
        if relayed and isinstance(process, Responder) and message.reply:
            mapped = f"_R_.{len(self._mapped)}"
            self._mapped[mapped] = message.reply
            message = message._replace(reply=mapped)
        if relayed and process is self.requester and not message.data and not message.headers:
            self._mapped.pop(message.subject, None)
        to = self._owner(subject)
        if to is None or self.random.random() < self.loss:
            return
        assert to is not process
        for _ in range(1 + (self.random.random() < self.duplication)):
            self._fly(to, message._replace(subject=subject), process.name if isinstance(process, Responder) else "")

    def _owner(self, subject: str) -> Optional[Process]:
        return next((process for process in self.processes if subject.startswith(process.subject)), None)

    def _fly(self, to: Process, message: Message, source: str) -> None:
        arrival = self.now + self.random.uniform(*self.latency)
        flights = self.flights[to.name]
        before = [f.arrival for f in flights if self.in_order or (source and f.source == source)]
        self._flown += 1
        insort(flights, Flight(max([arrival, *before]), self._flown, message, source))

    def arrive(self, to: Process, index: int = 0) -> None:
        """A message for ``to`` reaches it, or bounces."""
        flights = self.flights[to.name]
        source = flights[index].source
        if source:  # what it would overtake comes first
            index = next(n for n, flight in enumerate(flights) if flight.source == source)
        message = flights.pop(index).message
        if to.up and not to.cut:
            to.receive(message)
        elif not to.cut and message.reply and not self.config.relayed and not self.masked:
            back = self._owner(message.reply)
            if back is not None and back.up and not back.cut:
                self._fly(back, Message(message.reply, headers={_wire.STATUS: _wire.NO_RESPONDERS}), "")

    def repeat(self, to: Process, index: int) -> None:
        """The message is delivered once more, later."""
        flights = self.flights[to.name]
        self._flown += 1
        insort(flights, flights[index]._replace(arrival=flights[-1].arrival, number=self._flown))

    @property
    def under_way(self) -> int:
        """Messages that have not been dealt with."""
        here = [len(p.arrived) + len(p.waiting) for p in self.processes if not p.hopeless]
        return sum(map(len, self.flights.values())) + sum(here)

    # -- time

    def run(self, seconds: float) -> None:
        """Let things happen in their order."""
        end = self.now + seconds
        while True:
            due, what, which = end, "", self.processes[0]
            for process in self.processes:
                flights = self.flights[process.name]
                if flights and flights[0].arrival <= due:
                    due, what, which = flights[0].arrival, "arrive", process
                if process.running and process.timers and process.timers[0] <= due:
                    due, what, which = process.timers[0], "confirm", process
                if process.running and process.next_tick <= due:
                    due, what, which = process.next_tick, "tick", process
            self.now = max(self.now, due)
            if what == "arrive":
                self.arrive(which)
            elif what == "confirm":
                which.confirm()
            elif what == "tick":
                which.next_tick = self.now + TICK + self.random.uniform(0.0, self.jitter)
                which.tick()
            else:
                return

    @property
    def over(self) -> bool:
        return all(process.over for process in self.processes)

    def finish(self) -> None:
        """Nothing goes wrong any more, handlers end and the reader reads: all ends come through, and silence follows."""
        self.loss = self.duplication = 0.0
        self.lose, self.in_order = (), True
        self.requester.pace = EVERYTHING
        for responder in self.responders:
            responder.last, responder.prompt = responder.last or (None,), True
        for process in self.processes:
            process.next_tick = max(process.next_tick, self.now)
            if not process.hopeless:
                process.cut = False
                process.wake()
                process.reconnect()
            if process.running:
                process.settle()
        # Chunks that wait still may each need the window to open, which takes an acknowledgement.
        left = sum(len(responder.plan) for responder in self.responders) + self.config.window + 1
        end = self.now + self.config.patience + IDLE + left * (4 * TICK + 4 * self.latency[1])
        while self.now < end and not self.over:
            self.run(TICK)
        assert self.over, f"not through: {self}"
        answers, published = self.under_way, self.published
        self.run(1.0 + 4 * self.latency[1])
        assert self.under_way == 0, f"still talking: {self}"
        assert self.published - published <= answers, f"{self.published - published} messages for {answers}: {self}"
        published = self.published
        self.run(self.config.patience)
        assert self.published == published, f"talks again: {self}"

    # -- what must hold at any time

    def check(self) -> None:
        got = [*self.requester.taken, *self.requester.unread]
        if got:  # what one responder sent, in order, each once
            source = next(r for r in self.responders if got[0][:1] == r.mark)
            assert got == source.pushed[: len(got)], f"got {got} of {source.pushed}"
        self._check_requester(got)
        for responder in self.responders:
            self._check_responder(responder)

    def _check_requester(self, got: List[bytes]) -> None:
        requester, window, size = self.requester, self.config.granted[0], self.config.most_bytes
        assert len(requester.unread) <= window
        assert len(requester.unread) <= 1 or sum(map(len, requester.unread)) <= size
        ended = requester.incoming.ended
        assert (ended is not None) == requester.done
        assert self._ended is None or ended is self._ended, f"{self._ended}, then {ended}"
        if ended is not None and self._ended is None:
            self._ended = ended
            # A failure of the handler comes after its chunks; but where they are not counted, it is urgent.
            in_full = ended.failure is not None and ended.failure.library is None and requester.bound_to is not None
            if ended.reason == "completed" or in_full:
                whose = [r for r in self.responders if r.through == (ended.failure,)]
                assert any(r.pushed == got for r in whose), f"{ended} after {got}"

    def _check_responder(self, responder: Responder) -> None:
        outgoing, window, size = responder.outgoing, self.config.granted[0], self.config.most_bytes
        if not responder.done:
            assert 0 <= outgoing.acked <= outgoing.sent <= outgoing.pushed == len(responder.pushed)
            unacked = responder.pushed[outgoing.acked :]
            assert len(unacked) <= window
            assert len(unacked) <= 1 or sum(map(len, unacked)) <= size
            if self.requester.bound_to is responder:
                assert outgoing.acked <= self.requester.incoming.consumed, "acknowledged what was not read"
        assert (outgoing.reason is not None) == responder.done
        reason = self._reasons.setdefault(responder.name, outgoing.reason) if outgoing.reason else None
        assert reason == outgoing.reason, f"{reason}, then {outgoing.reason}"
        if reason == "ended":
            assert responder.through is not None, "ended before the handler did"
            assert self.requester.over or len(self.responders) > 1, "nobody knows of this end"

    def __repr__(self) -> str:
        ends = [f"{r.name} {r.reason} {r.outgoing.acked}/{r.outgoing.sent}/{r.outgoing.pushed}" for r in self.responders]
        got = f"{len(self.requester.taken)}+{len(self.requester.unread)}"
        requester = f"requester {self.requester.incoming.state} {self.requester.reason} {got}"
        how = f"latency {self.latency[1]}, jitter {self.jitter}"
        return f"<{self.now:.2f} s: {'; '.join([requester, *ends])}; {self.under_way} under way, {how}, {self.config}>"
