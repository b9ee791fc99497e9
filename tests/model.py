"""Requesters and responders of the stream protocol in a simulated network, with a clock of its own for each process.

The ends of streams are the real state tables, and so is what a stream that is over is answered with. What stands around
them in a program (``StreamSource``, ``StreamSink``, ``Link``, the server) is told here in its simplest form: who publishes
what the tables say, and what a connection does to messages. Every step checks what must hold at any time.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from random import Random
from typing import Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

from natsbridge import _incoming, _outgoing, _wire
from natsbridge._incoming import Ended, Incoming, Say
from natsbridge._outgoing import CONFIRM_AFTER, Emit, Outgoing
from natsbridge._wire import Failure, StreamParams

TICK = 0.1  # seconds between a process's looks at the clock; one that comes later than twice that was suspended
PLAIN_IDLE = 5.0  # what a reader waits for a responder that is not known to speak the protocol
MAX_PROBES = 3
EVERYTHING = 1 << 30  # chunks: more than there are

INBOX = f"_INBOX.{'1' * 32}.{'a' * 24}"
CONTROLS = [f"_INBOX.{digit * 32}.{digit * 24}" for digit in "23"]
STRANGER = f"_INBOX.{'9' * 32}.{'9' * 24}"
RELAYED_INBOX = "_R_.request"  # what the responder in another account knows of the inbox


# -- what the ends' users do: the only lines here that know how chunks go in and come out -----------------------------


def push(outgoing: Outgoing, chunk: bytes, clock: float) -> bool:
    """``send`` without its waiting: False while the window is full."""
    return outgoing.push(chunk, clock)


def written(outgoing: Outgoing, budget: int, clock: float) -> List[Emit]:
    """One turn of the writer."""
    return outgoing.take(budget, clock)


def read_one(incoming: Incoming, clock: float) -> Tuple[bytes, List[Say]]:
    parcel, says = incoming.take(clock)
    return parcel.chunks[0], says


def unread(incoming: Incoming) -> List[bytes]:
    return list(incoming.buffer)


# -- messages ---------------------------------------------------------------------------------------------------------


class Message(NamedTuple):
    subject: str
    data: bytes = b""
    reply: str = ""
    headers: Optional[Dict[str, str]] = None

    @property
    def is_503(self) -> bool:
        return not self.data and (self.headers or {}).get(_wire.STATUS) == _wire.NO_RESPONDERS


class Flight(NamedTuple):
    """A message on its way, in the order of arrival."""

    arrival: float
    number: int
    message: Message
    source: str  # the responder whose messages keep their order; "" for others


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
    plain_requester: bool = False
    plain_responder: bool = False

    @property
    def native(self) -> bool:
        return not self.plain_requester and not self.plain_responder

    @property
    def granted(self) -> Tuple[int, int]:
        if self.plain_requester:
            return self.responder_window, self.responder_bytes
        return min(self.window, self.responder_window), min(self.max_bytes, self.responder_bytes)

    @property
    def agreed_resume(self) -> float:
        return self.resume if self.native and not self.relayed else 0.0

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
        return StreamParams(
            *self.granted, resume_ms=round(self.agreed_resume * 1000), probe_ms=round(self.speak_interval * 1000)
        )


# -- processes --------------------------------------------------------------------------------------------------------


class Process:
    """A process with its connection, and the one end of a stream that lives there."""

    def __init__(self, world: World, name: str, subject: str) -> None:
        self.world, self.name, self.subject = world, name, subject
        self.clock = 0.0
        self.next_tick = self.last_tick = world.now
        self.alive = self.up = True
        self.cut = False  # the connection is dead, and nobody has noticed
        self.suspended = False
        self.hopeless = False  # what it suffers from is for good
        self.arrived: Deque[Message] = deque()  # while suspended
        self.waiting: Deque[Message] = deque()  # for the connection
        self.timers: List[float] = []
        self.known = True  # messages for the stream reach its end

    # -- what an end is

    @property
    def done(self) -> bool:
        raise NotImplementedError

    def heed(self, suffix: str, message: Message) -> None:
        raise NotImplementedError

    def on_confirm(self) -> None: ...
    def on_tick(self) -> None: ...
    def on_disconnect(self) -> None: ...
    def on_reconnect(self) -> None: ...

    def work(self) -> None:
        """What the user's thread, and the writer, do in between."""

    # -- the process

    @property
    def running(self) -> bool:
        return self.alive and not self.suspended

    @property
    def over(self) -> bool:
        """Nothing more is to be expected from here."""
        return self.done or not self.alive or (self.hopeless and self.suspended)

    def kill(self) -> None:
        self.alive = self.up = self.known = False
        self.arrived.clear()
        self.waiting.clear()
        self.timers.clear()

    def tick(self) -> None:
        """The link looks after its stream; a process that was suspended does not count the time of its sleep."""
        elapsed, self.last_tick = self.world.now - self.last_tick, self.world.now
        self.clock += min(elapsed, 2 * TICK)
        if self.known:
            self.on_tick()
        self.settle()

    def fire(self) -> None:
        """A confirmation is due."""
        self.timers.pop(0)
        self.on_confirm()
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
                self.on_disconnect()
            self.settle()

    def reconnect(self) -> None:
        if self.alive and not self.up:
            self.up = True
            if self.known:
                self.on_reconnect()
            self._flush()
            self.settle()

    def say(self, message: Message) -> None:
        """A control message: it waits for the connection, if there is none."""
        self.waiting.append(message)
        self._flush()

    def _flush(self) -> None:
        while self.up and self.waiting:
            self.world.publish(self, self.waiting.popleft())

    def receive(self, message: Message) -> None:
        if self.suspended:
            self.arrived.append(message)
            return
        suffix = message.subject[len(self.subject) + 1 :]
        if self.known:
            self.heed(suffix, message)
        else:
            self.answer_unknown(suffix, message)
        self.settle()

    def answer_unknown(self, suffix: str, message: Message) -> None:
        answer = _wire.answer_unknown(suffix, message.data, message.reply, message.headers)
        if answer is not None:
            self.say(Message(message.reply, answer[0], "", answer[1]))

    def alarm(self) -> None:
        """A 503 that is not true, as while interest spreads."""
        self.receive(Message(self.alarmed, headers={_wire.STATUS: _wire.NO_RESPONDERS}))

    @property
    def alarmed(self) -> str:
        return self.subject


class Requester(Process):
    def __init__(self, world: World) -> None:
        super().__init__(world, "requester", INBOX)
        self.taken: List[bytes] = []
        self.waited_since = 0.0  # for a chunk, in real time
        self.pace = 0  # chunks that the reader takes whenever something happens; 0: it pauses
        self.naks = 0

    @property
    def reason(self) -> Optional[str]:
        raise NotImplementedError

    @property
    def unread(self) -> List[bytes]:
        raise NotImplementedError

    def stop(self, reason: str) -> None:
        raise NotImplementedError

    def read(self, count: int) -> None: ...

    def work(self) -> None:
        self.read(self.pace)

    def gives_up_waiting(self) -> bool:
        """Where the responder is not known to answer probes, the reader has a limit of its own."""
        impatient = not self.unread and self.world.now - self.waited_since >= self.world.plain_idle
        if impatient:
            self.stop("idle")
        return impatient


class NativeRequester(Requester):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        config = world.config
        self.incoming = Incoming(
            window=config.window,
            max_bytes=config.max_bytes,
            probe_interval=config.probe_interval,
            max_probes=MAX_PROBES,
            resume=config.resume,
        )
        self.parcel: Deque[bytes] = deque()  # what the reader is at
        self.bound_to: Optional[Responder] = None  # with numbers and acknowledgements

    @property
    def done(self) -> bool:
        return self.incoming.state == _incoming.DONE

    @property
    def reason(self) -> Optional[str]:
        return None if self.incoming.ended is None else self.incoming.ended.reason

    @property
    def unread(self) -> List[bytes]:
        return [*self.parcel, *self.incoming.buffer]

    def publish(self, says: List[Say]) -> None:
        for say in says:
            control = _wire.parse_control(say.data)
            assert control is not None or (not say.data and self.world.config.relayed), f"nonsense: {say}"
            self.naks += control is not None and control[0] == _wire.NAK
            self.say(Message(say.to, say.data, self.subject if say.probe else ""))

    def heed(self, suffix: str, message: Message) -> None:
        assert not suffix
        received = self.incoming.received
        says, confirm = self.incoming.on_message(message.data, message.reply, message.headers, self.clock, self.world.now)
        if self.incoming.received > received:
            self.waited_since = self.world.now
        if self.incoming.state == _incoming.NATIVE:
            self.bound_to = next(r for r in self.world.responders if r.subject.endswith(self.incoming._control))
        if confirm:
            self.timers.append(self.world.now + CONFIRM_AFTER)
        self.publish(says)

    def on_confirm(self) -> None:
        self.publish(self.incoming.on_confirm(self.clock))

    def on_tick(self) -> None:
        if self.incoming.state == _incoming.NATIVE or not self.gives_up_waiting():
            self.publish(self.incoming.on_tick(self.clock))

    def on_disconnect(self) -> None:
        self.incoming.on_disconnect(True, self.clock)

    def on_reconnect(self) -> None:
        self.publish(self.incoming.on_reconnect(self.clock))

    def stop(self, reason: str) -> None:
        self.publish(self.incoming.stop(reason))
        self.settle()

    def read(self, count: int) -> None:
        while count and self.unread and self.running:
            says: List[Say] = []
            if not self.parcel:
                parcel, says = self.incoming.take(self.clock)
                self.parcel.extend(parcel.chunks)
            self.taken.append(self.parcel.popleft())
            self.incoming.unread = len(self.parcel)
            self.waited_since = self.world.now
            self.publish(says)
            count -= 1
            self.world.check()


class PlainRequester(Requester):
    """Any NATS client: an inbox of its own, which it unsubscribes at the end. It loses no messages here."""

    ended: Optional[str] = None

    @property
    def done(self) -> bool:
        return self.ended is not None

    @property
    def reason(self) -> Optional[str]:
        return self.ended

    @property
    def unread(self) -> List[bytes]:
        return []

    def heed(self, suffix: str, message: Message) -> None:
        if message.data:
            self.taken.append(message.data)
            self.waited_since = self.world.now
        else:
            self.ended = "completed" if _wire.parse_failure(message.headers) is None else "error"

    def answer_unknown(self, suffix: str, message: Message) -> None: ...

    def on_tick(self) -> None:
        self.gives_up_waiting()

    def on_disconnect(self) -> None:
        self.ended = "lost"

    def stop(self, reason: str) -> None:
        if not self.done:
            self.ended = reason
            self.settle()


class Responder(Process):
    """``plan``: sizes of chunks that the handler still has to send; ``last``: how it ends after that, if it does."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"responder {number}", CONTROLS[number])
        self.mark = b"AB"[number : number + 1]
        self.pushed: List[bytes] = []
        self.plan: Deque[int] = deque()
        self.last: Optional[Tuple[Optional[Failure]]] = None
        self.through: Optional[Tuple[Optional[Failure]]] = None  # the handler has ended, and so

    def chunk(self, size: int) -> bytes:
        return (self.mark + b"%d." % len(self.pushed)).ljust(size, b"-")

    def accept(self) -> None: ...
    def give_up(self, reason: str) -> None: ...
    def write(self, budget: int) -> None: ...

    @property
    def reason(self) -> Optional[str]:
        raise NotImplementedError

    def end(self, failure: Optional[Failure]) -> None:
        self.plan.clear()
        self.last = (failure,)
        self.settle()


class NativeResponder(Responder):
    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        config = world.config
        window, max_bytes = config.granted
        self.outgoing = Outgoing(
            native=not config.plain_requester,
            batches=not config.relayed,
            window=window,
            max_bytes=max_bytes,
            probe_interval=config.responder_interval,
            max_probes=MAX_PROBES,
            speak_interval=config.speak_interval,
            stall_timeout=config.stall_timeout,
            resume=config.agreed_resume,
        )
        self.prompt = True  # the writer writes at once

    @property
    def done(self) -> bool:
        return self.outgoing.state == _outgoing.DONE

    @property
    def reason(self) -> Optional[str]:
        return self.outgoing.reason

    @property
    def alarmed(self) -> str:
        return _wire.reply_subject(self.subject, _wire.PROBE, self.outgoing.sent)

    def give_up(self, reason: str) -> None:
        self.publish(self.outgoing.give_up(reason))
        self.settle()

    def work(self) -> None:
        if not self.running:
            return
        while self.outgoing.state == _outgoing.RUNNING:
            if self.plan:
                chunk = self.chunk(self.plan[0])
                if not push(self.outgoing, chunk, self.clock):
                    break
                self.pushed.append(chunk)
                self.plan.popleft()
            elif self.last is None:
                break
            else:
                self.through = self.last
                assert self.outgoing.end(self.last[0])
        while self.prompt and self.up and self.outgoing.has_work:
            self.write(self.world.config.frame)

    def write(self, budget: int) -> None:
        """The writer's turn."""
        emits = written(self.outgoing, budget, self.clock)
        for emit in emits:
            self.world.publish(self, self.message(emit))
        self.world.check()

    # -- what the link tells

    def message(self, emit: Emit) -> Message:
        config = self.world.config
        headers: Dict[str, str] = {}
        if emit.failure is not None:
            headers = _wire.encode_failure(emit.failure)
        elif emit.kind in (_wire.ACCEPTED, _wire.PROBE):
            headers = {_wire.STREAM: _wire.encode_params(config.params)}
        reply = _wire.reply_subject(self.subject, emit.kind, emit.seq)
        if config.relayed:
            token = self.subject.rpartition(".")[2]
            headers = {**headers, _wire.SEQUENCE: _wire.encode_sequence(token, emit.kind, emit.seq)}
            reply = reply if emit.kind == _wire.ACCEPTED else ""
        return Message(RELAYED_INBOX if config.relayed else INBOX, emit.payload, reply, headers or None)

    def publish(self, emits: List[Emit]) -> None:
        for emit in emits:
            self.say(self.message(emit))

    def accept(self) -> None:
        if self.outgoing.native:
            self.publish([self.outgoing.accept()])
        self.settle()

    def heed(self, suffix: str, message: Message) -> None:
        if not suffix:
            return
        if message.is_503:
            if self.outgoing.on_no_responders(self.clock, self.world.now):
                self.timers.append(self.world.now + CONFIRM_AFTER)
            return
        control = _wire.parse_control(message.data)
        if control is not None:
            self.publish(self.outgoing.on_control(*control, self.clock))

    def on_confirm(self) -> None:
        self.publish(self.outgoing.on_confirm(self.clock))

    def on_tick(self) -> None:
        self.publish(self.outgoing.on_tick(self.clock))

    def on_disconnect(self) -> None:
        self.publish(self.outgoing.on_disconnect(self.clock))

    def on_reconnect(self) -> None:
        self.publish(self.outgoing.on_reconnect(self.clock))


class PlainResponder(Responder):
    """Any NATS client: each chunk is a message, an empty one the end. It knows nothing about its requester."""

    @property
    def done(self) -> bool:
        return self.through is not None

    @property
    def reason(self) -> Optional[str]:
        return None

    def heed(self, suffix: str, message: Message) -> None: ...
    def answer_unknown(self, suffix: str, message: Message) -> None: ...

    def work(self) -> None:
        if not self.running or self.done:
            return
        while self.plan:
            chunk = self.chunk(self.plan.popleft())
            self.pushed.append(chunk)
            self.say(Message(INBOX, chunk))
        if self.last is not None:
            self.through = self.last
            failure = self.last[0]
            self.say(Message(INBOX, headers=None if failure is None else _wire.encode_failure(failure)))


# -- everything -------------------------------------------------------------------------------------------------------


class World:
    """The processes and what is under way between them; ``check`` holds after every event."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config
        self.random = Random(seed)
        self.now = 0.0
        self.latency = (0.0, 0.0)  # seconds, from and to
        self.loss = self.duplication = 0.0  # probabilities
        self.in_order = True  # what requesters say; messages of one responder are always
        self.masked = False  # somebody else listens everywhere: nothing is answered with 503 any more
        self.lose: Sequence[int] = ()  # of all messages published, counted from 0
        self.jitter = 0.0  # seconds by which a tick is late at most
        self.plain_idle = PLAIN_IDLE
        self.published = 0
        self.flights: Dict[str, List[Flight]] = {}  # to each process, in the order of arrival
        self._number = 0
        self._mapped: Dict[str, str] = {RELAYED_INBOX: INBOX}  # replies as the other account sees them
        self._ended: Optional[Ended] = None
        self._reasons: Dict[str, str] = {}
        self.processes: List[Process] = []
        self.responders: List[Responder] = []
        self.requester: Requester = PlainRequester(self) if config.plain_requester else NativeRequester(self)
        self._add(self.requester)
        self.responder = self.add_responder()

    def _add(self, process: Process) -> None:
        self.processes.append(process)
        self.flights[process.name] = []

    def add_responder(self) -> Responder:
        number = len(self.responders)
        kind = PlainResponder if self.config.plain_responder else NativeResponder
        responder = kind(self, number)
        self.responders.append(responder)
        self._add(responder)
        return responder

    # -- the server

    def publish(self, process: Process, message: Message) -> None:
        assert message.subject, f"the {process.name} published to an empty subject: {message}"
        self.published += 1
        if process.cut or self.published - 1 in self.lose:
            return
        relayed = self.config.relayed
        if relayed and isinstance(process, Responder) and message.reply:
            mapped = f"_R_.{len(self._mapped)}"
            self._mapped[mapped] = message.reply
            message = message._replace(reply=mapped)
        subject = self._mapped.get(message.subject, message.subject)
        if relayed and process is self.requester and not message.data and not message.headers:
            self._mapped.pop(message.subject, None)
        message = message._replace(subject=subject)
        to = self.owner(subject)
        if to is None or self.random.random() < self.loss:
            return
        assert to is not process
        source = process.name if isinstance(process, Responder) else ""
        self._fly(to, message, source)
        if self.duplication and self.random.random() < self.duplication:
            self._fly(to, message, source)

    def owner(self, subject: str) -> Optional[Process]:
        return next((process for process in self.processes if subject.startswith(process.subject)), None)

    def _fly(self, to: Process, message: Message, source: str) -> None:
        arrival = self.now + self.random.uniform(*self.latency)
        before = [
            flight.arrival for flight in self.flights[to.name] if self.in_order or (source and flight.source == source)
        ]
        self._number += 1
        insort(self.flights[to.name], Flight(max([arrival, *before]), self._number, message, source))

    def arrive(self, to: Process, index: int = 0) -> None:
        """A message for ``to`` reaches it, or bounces."""
        flights = self.flights[to.name]
        source = flights[index].source
        if source:  # what it would overtake comes first
            index = next(n for n, flight in enumerate(flights) if flight.source == source)
        message = flights.pop(index).message
        if to.cut:
            return
        if to.up and not (isinstance(to, PlainRequester) and to.done):
            to.receive(message)
        elif message.reply and not self.config.relayed and not self.masked:
            back = self.owner(message.reply)
            if back is not None and back.up and not back.cut:
                self._fly(back, Message(message.reply, headers={_wire.STATUS: _wire.NO_RESPONDERS}), "")

    def repeat(self, to: Process, index: int) -> None:
        """The message is delivered once more, later."""
        flights = self.flights[to.name]
        self._number += 1
        insort(flights, flights[index]._replace(arrival=flights[-1].arrival, number=self._number))

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
                    due, what, which = process.timers[0], "fire", process
                if process.running and process.next_tick <= due:
                    due, what, which = process.next_tick, "tick", process
            self.now = max(self.now, due)
            if what == "arrive":
                self.arrive(which)
            elif what == "fire":
                which.fire()
            elif what == "tick":
                which.next_tick = self.now + TICK + self.random.uniform(0.0, self.jitter)
                which.tick()
            else:
                return

    def heal(self) -> None:
        """From now on nothing goes wrong any more."""
        self.loss = self.duplication = 0.0
        self.lose = ()
        self.in_order = True
        for process in self.processes:
            if not process.hopeless:
                process.cut = False
                process.wake()
                process.reconnect()
        self.check()

    @property
    def over(self) -> bool:
        return all(process.over for process in self.processes)

    def finish(self) -> None:
        """The handlers end, the reader reads on, and time passes: then all ends are through, and silence follows."""
        self.heal()
        self.requester.pace = EVERYTHING
        for responder in self.responders:
            responder.last = responder.last or (None,)
            if isinstance(responder, NativeResponder):
                responder.prompt = True
        for process in self.processes:
            process.next_tick = max(process.next_tick, self.now)
            if process.running:
                process.settle()
        # Chunks that wait still may each need the window to open, which takes an acknowledgement.
        left = sum(len(responder.plan) for responder in self.responders) + self.config.window + 1
        end = self.now + self.config.patience + PLAIN_IDLE + left * (4 * TICK + 4 * self.latency[1])
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
        source = next((r for r in self.responders if got and got[0][:1] == r.mark), None)
        if got:  # what one responder sent, in order, each once
            assert source is not None
            assert got == source.pushed[: len(got)], f"got {got} of {source.pushed}"
        self._check_requester(got)
        for responder in self.responders:
            if isinstance(responder, NativeResponder):
                self._check_responder(responder)

    def _check_requester(self, got: List[bytes]) -> None:
        requester = self.requester
        assert (requester.reason is not None) == requester.done
        if not isinstance(requester, NativeRequester):
            if requester.reason == "completed":
                assert any(r.through == (None,) and r.pushed == got for r in self.responders), "an end that nobody sent"
            return
        if self.config.native:
            window, size = self.config.granted
            assert len(requester.unread) <= window
            assert len(requester.unread) <= 1 or sum(map(len, requester.unread)) <= size
        ended = requester.incoming.ended
        assert self._ended is None or ended is self._ended, f"{self._ended}, then {ended}"
        if ended is not None and self._ended is None:
            self._ended = ended
            # A failure of the handler comes after its chunks; but where they are not counted, it is urgent.
            in_full = ended.failure is not None and ended.failure.library is None and requester.bound_to is not None
            if ended.reason == "completed" or in_full:
                whose = [r for r in self.responders if r.through == (ended.failure,)]
                assert whose, f"an end that nobody sent: {ended}"
                assert any(r.pushed == got for r in whose), f"{ended} after {got}"

    def _check_responder(self, responder: NativeResponder) -> None:
        outgoing = responder.outgoing
        window, size = self.config.granted
        if not responder.done:
            assert 0 <= outgoing.acked <= outgoing.sent <= outgoing.pushed == len(responder.pushed)
            unacked = responder.pushed[outgoing.acked :]
            assert len(unacked) <= window
            assert len(unacked) <= 1 or sum(map(len, unacked)) <= size
            if isinstance(self.requester, NativeRequester) and self.requester.bound_to is responder:
                assert outgoing.acked <= self.requester.incoming.consumed, "acknowledged what was not read"
        assert (outgoing.reason is not None) == responder.done
        reason = self._reasons.setdefault(responder.name, outgoing.reason) if outgoing.reason else None
        assert reason == outgoing.reason, f"{reason}, then {outgoing.reason}"
        if reason == "ended":
            assert responder.through is not None, "ended before the handler did"
            assert not outgoing.native or self.requester.over or len(self.responders) > 1, "nobody knows of this end"

    def __repr__(self) -> str:
        ends = [
            f"{r.name} {r.reason} {len(r.pushed)} pushed"
            + (f" {r.outgoing.sent} sent {r.outgoing.acked} acked" if isinstance(r, NativeResponder) else "")
            for r in self.responders
        ]
        requester = self.requester
        state = requester.incoming.state if isinstance(requester, NativeRequester) else "plain"
        return (
            f"<{self.now:.2f} s: requester {state} {requester.reason} got {len(requester.taken)}+{len(requester.unread)}, "
            f"{', '.join(ends)}, {self.under_way} under way, {self.config}>"
        )
