"""Both ends of a stream against each other, in a network that loses, repeats and reorders: what holds whatever happens.

The examples are the same in every run. ``NATSBRIDGE_MODEL=20`` tries 20 times as many, different ones each time, which
takes about five minutes; ``-k`` and a larger number look further into one of the tests.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Set, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model import (
    EVERYTHING,
    INBOX,
    STRANGER,
    TICK,
    Config,
    Message,
    NativeRequester,
    NativeResponder,
    Process,
    World,
    push,
    read_one,
    unread,
    written,
)

from natsbridge import _incoming, _outgoing, _wire
from natsbridge._incoming import Incoming, Say
from natsbridge._outgoing import CONFIRM_AFTER, Emit, Outgoing
from natsbridge._wire import Failure

MORE = int(os.environ.get("NATSBRIDGE_MODEL", "1"))
if MORE > 1:
    pytestmark = pytest.mark.timeout(0)


def effort(examples: int, steps: int = 50) -> settings:
    common: Dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
    return settings(max_examples=examples * MORE, stateful_step_count=steps, derandomize=MORE == 1, **common)


FAILURE = Failure(418, "teapot")
INTERVAL = 2.0

windows = st.integers(1, 8)
sizes = st.sampled_from([1, 5, 20, 64])
chunk_sizes = st.integers(4, 24)
lists_of_chunks = st.lists(chunk_sizes, max_size=12)
intervals = st.sampled_from([0.1, 0.2, 0.5, INTERVAL])
resumes = st.sampled_from([0.0, 0.0, 0.5, 3.0, 10.0])
seeds = st.integers(0, 1 << 16)
latencies = st.sampled_from([0.0, 0.002, 0.05])
BOTH_NATIVE = ("", "")
# Who is not natsbridge, and what is special about the way.
pairs = st.sampled_from(
    [BOTH_NATIVE, BOTH_NATIVE, BOTH_NATIVE, ("relayed", ""), ("plain_requester", ""), ("plain_responder", "")]
)


def configs(pairs: st.SearchStrategy[Tuple[str, str]] = pairs, **others: Any) -> st.SearchStrategy[Config]:
    fields: Dict[str, Any] = {
        "window": windows,
        "max_bytes": sizes,
        "responder_window": windows,
        "responder_bytes": sizes,
        "probe_interval": st.sampled_from([0.5, INTERVAL]),
        "responder_interval": st.sampled_from([0.5, INTERVAL]),
        "resume": resumes,
        "stall_timeout": st.none(),
        "frame": st.integers(1, 60),
        "pair": pairs,
    }

    def config(pair: Tuple[str, str], **values: Any) -> Config:
        return Config(**values, **{what: True for what in pair if what})

    return st.builds(config, **{**fields, **others})


native_pairs = st.just(BOTH_NATIVE)
numbered_pairs = st.sampled_from([BOTH_NATIVE, BOTH_NATIVE, ("relayed", "")])

# What ends a stream happens once in a while only, or nearly every example would be over before it has begun.
seldom = st.sampled_from([False, False, False, True])


# -- step by step: every interleaving ---------------------------------------------------------------------------------


class Steps(RuleBasedStateMachine):
    """Whatever a network and its processes can do to a stream, one step at a time; in the end the network is healed."""

    world: World

    @initialize(
        config=configs(stall_timeout=st.sampled_from([None, None, 0.3, 3.0])),
        accepted=st.sampled_from(["arrived", "arrived", "under way", "lost"]),
        prompt=st.booleans(),
        pace=st.sampled_from([0, 1, EVERYTHING]),
        sends=lists_of_chunks,
        flows=st.integers(0, 4),
    )
    def start(self, config: Config, accepted: str, prompt: bool, pace: int, sends: List[int], flows: int) -> None:
        self.world = World(config)
        self.world.requester.pace = pace
        self.requester, self.responder = self.world.requester, self.world.responder
        if isinstance(self.responder, NativeResponder):
            self.responder.prompt = prompt
        self.responder.accept()
        if self.world.under_way and accepted == "arrived":
            self.world.arrive(self.requester)
        elif accepted == "lost":
            self.world.flights[self.requester.name].clear()
        self.responder.plan.extend(sends)
        self.responder.settle()
        for _ in range(flows):
            self.deliver_all()

    def process(self, which: int) -> Process:
        return self.world.processes[which % len(self.world.processes)]

    def flight(self, which: int, where: int) -> Optional[Tuple[Process, int]]:
        process = self.process(which)
        flights = self.world.flights[process.name]
        return (process, where % len(flights)) if flights else None

    @property
    def native(self) -> bool:
        return self.world.config.native

    # -- the users

    @rule(chunks=st.lists(chunk_sizes, min_size=1, max_size=6), which=st.integers(0, 1))
    def push(self, chunks: List[int], which: int) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if responder.running and not responder.plan and responder.last is None:
            responder.plan.extend(chunks)
            responder.settle()

    @rule(budget=st.integers(1, 60), which=st.integers(0, 1))
    def write(self, budget: int, which: int) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if responder.running and responder.up:
            responder.write(budget)
            responder.settle()

    @rule(count=st.integers(1, 8))
    def read(self, count: int) -> None:
        self.requester.read(count)

    @rule(failure=st.sampled_from([None, FAILURE]), which=st.integers(0, 1))
    def end(self, failure: Optional[Failure], which: int) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if responder.running and responder.last is None:
            responder.end(failure)

    @rule(reason=st.sampled_from(["cancelled", "deadline", "idle", "offline"]), really=seldom)
    def stop(self, reason: str, really: bool) -> None:
        if really and self.requester.running and self.requester.known:
            self.requester.stop(reason)

    @rule(
        reason=st.sampled_from(["offline", "deadline", "shutdown", "abandoned", "denied"]),
        which=st.integers(0, 1),
        really=seldom,
    )
    def give_up(self, reason: str, which: int, really: bool) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if really and responder.running:
            responder.give_up(reason)

    # -- the network

    @rule(which=st.integers(0, 2))
    def deliver(self, which: int) -> None:
        found = self.flight(which, 0)
        if found is not None:
            self.world.arrive(*found)

    @rule()
    def deliver_all(self) -> None:
        for process in self.world.processes:
            for _ in range(len(self.world.flights[process.name])):
                if self.world.flights[process.name]:
                    self.world.arrive(process)

    @rule(which=st.integers(0, 2), where=st.integers(0, 7))
    def overtake(self, which: int, where: int) -> None:
        found = self.flight(which, where)
        if found is not None:
            self.world.arrive(*found)

    @rule(which=st.integers(0, 2), where=st.integers(0, 7))
    def lose(self, which: int, where: int) -> None:
        found = self.flight(which, where)
        if found is not None and self.native:
            del self.world.flights[found[0].name][found[1]]

    @rule(which=st.integers(0, 2), where=st.integers(0, 7))
    def repeat(self, which: int, where: int) -> None:
        found = self.flight(which, where)
        if found is not None and self.native:
            self.world.repeat(*found)

    @rule(which=st.integers(0, 2))
    def false_alarm(self, which: int) -> None:
        process = self.process(which)
        if isinstance(process, NativeRequester):
            possible = process.incoming.state != _incoming.WAITING
        else:
            possible = isinstance(process, NativeResponder)
        if possible and process.alive and process.up and not self.world.config.relayed:
            process.alarm()

    @rule(masked=st.booleans())
    def mask(self, masked: bool) -> None:
        self.world.masked = masked

    @rule(which=st.integers(0, 2))
    def cut(self, which: int) -> None:
        process = self.process(which)
        if self.native:
            process.cut = process.up

    @rule(which=st.integers(0, 2))
    def disconnect(self, which: int) -> None:
        process = self.process(which)
        if process.running and (self.native or process is self.requester):
            process.disconnect()

    @rule(which=st.integers(0, 2))
    def reconnect(self, which: int) -> None:
        process = self.process(which)
        if process.running and not process.hopeless:
            process.reconnect()

    # -- the processes, and time

    @rule(which=st.integers(0, 2), ticks=st.sampled_from([1, 1, 2, 5, 21]))
    def tick(self, which: int, ticks: int) -> None:
        process = self.process(which)
        for _ in range(ticks if process.running else 0):
            self.world.now += TICK
            process.tick()

    @rule(seconds=st.sampled_from([CONFIRM_AFTER, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time without a tick: only what is due by itself."""
        self.world.now += seconds
        for process in self.world.processes:
            while process.running and process.timers and process.timers[0] <= self.world.now:
                process.fire()

    @rule(which=st.integers(0, 2))
    def suspend(self, which: int) -> None:
        self.process(which).suspend()

    @rule(which=st.integers(0, 2), tick_first=st.booleans())
    def wake(self, which: int, tick_first: bool) -> None:
        if not self.process(which).hopeless:
            self.process(which).wake(tick_first)

    @rule(which=st.integers(0, 2), really=seldom)
    def kill(self, which: int, really: bool) -> None:
        if really:
            self.process(which).kill()

    @rule(which=st.integers(0, 2), how=st.sampled_from(["cut", "disconnect", "suspend"]), really=seldom)
    def doom(self, which: int, how: str, really: bool) -> None:
        """A connection that will not come back, or a process that will not go on."""
        process = self.process(which)
        if really and process.running and (self.native or how == "suspend"):
            process.hopeless = True
            {"cut": lambda: self.cut(which), "disconnect": process.disconnect, "suspend": process.suspend}[how]()

    @precondition(lambda self: self.native and len(self.world.responders) == 1)
    @rule(replaces=st.booleans(), sends=lists_of_chunks)
    def second_responder(self, replaces: bool, sends: List[int]) -> None:
        """The request has reached another one as well: at the same time, or instead of one that is gone."""
        if replaces:
            self.responder.kill()
        second = self.world.add_responder()
        second.accept()
        second.plan.extend(sends)
        second.settle()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


Steps.TestCase.settings = effort(400, 40)
TestSteps = Steps.TestCase


# -- second by second: with all loops running, and nothing that would excuse a verdict --------------------------------


def started(config: Config, seed: int, latency: float, jitter: float = 0.05, phase: float = 0.03) -> World:
    """Accepted, with both loops running; ``phase``: seconds by which the responder looks at the clock later."""
    world = World(config, seed)
    world.latency = (latency / 2, latency)
    world.jitter = jitter
    world.responder.next_tick = phase
    world.responder.accept()
    world.requester.pace = EVERYTHING
    world.run(2 * latency + 0.001)
    return world


seconds_of_it = st.one_of(st.sampled_from([0.05, 0.4, 1.9, 2.0, 2.1, 9.5, 30.0]), st.floats(0.0, 10.0))


class Living(RuleBasedStateMachine):
    """Nothing is lost but with a connection, and nobody is away for too long: the stream is complete in the end."""

    world: World

    @initialize(
        config=configs(probe_interval=intervals, responder_interval=intervals),
        seed=seeds,
        latency=latencies,
        jitter=st.sampled_from([0.0, 0.03, 0.1]),
        phase=st.floats(0.0, TICK),
    )
    def start(self, config: Config, seed: int, latency: float, jitter: float, phase: float) -> None:
        self.world = started(config, seed, latency, jitter, phase)
        self.world.plain_idle = float("inf")
        self.config = config
        self.settling = 4 * TICK + 4 * self.world.latency[1]

    @property
    def interval(self) -> float:
        """Seconds of absence that nobody may take amiss."""
        return min(self.config.probe_interval, self.config.responder_interval)

    def side(self, requester: bool) -> Process:
        return self.world.requester if requester else self.world.responder

    @rule(seconds=seconds_of_it)
    def idle(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(chunks=lists_of_chunks, seconds=seconds_of_it)
    def send(self, chunks: List[int], seconds: float) -> None:
        self.world.responder.plan.extend(chunks)
        self.world.responder.settle()
        self.idle(seconds)

    @rule(chunks=lists_of_chunks, seconds=seconds_of_it)
    def pause(self, chunks: List[int], seconds: float) -> None:
        """The reader does something else for a while."""
        self.world.requester.pace = 0
        self.send(chunks, seconds)

    @rule(pace=st.sampled_from([1, 3, EVERYTHING]), seconds=seconds_of_it)
    def read(self, pace: int, seconds: float) -> None:
        self.world.requester.pace = pace
        self.world.requester.settle()
        self.idle(seconds)

    @rule(requester=st.booleans(), tick_first=st.booleans(), seconds=seconds_of_it)
    def sleep(self, requester: bool, tick_first: bool, seconds: float) -> None:
        """One process is suspended, not so long that the other would be right to give it up."""
        if self.interval < 5 * TICK:
            return
        self.side(requester).suspend()
        self.world.run(min(seconds, 2 * self.interval))
        self.side(requester).wake(tick_first)
        self.world.run(self.interval + self.settling)

    @precondition(lambda self: self.config.agreed_resume > self.settling)
    @rule(who=st.sampled_from(["requester", "responder", "both"]), noticed=st.booleans(), seconds=seconds_of_it)
    def outage(self, who: str, noticed: bool, seconds: float) -> None:
        """Connections are lost, and come back before the streams are given up."""
        gone = [process for process in self.world.processes[:2] if who in ("both", process.name.split()[0])]
        for process in gone:
            process.cut = not noticed
        self.world.run(TICK)
        for process in gone:
            process.disconnect()
        self.world.run(min(seconds, self.config.agreed_resume - self.settling))
        for process in gone:
            process.reconnect()
            self.world.run(TICK / 2)
        self.world.run(self.config.probe_interval + self.settling)

    @precondition(lambda self: self.config.native and not self.config.relayed)
    @rule(requester=st.booleans(), count=st.integers(1, 5), late=st.integers(0, 3), seconds=seconds_of_it)
    def alarm(self, requester: bool, count: int, late: int, seconds: float) -> None:
        """503s that are not true, and a process that takes its time to look at them."""
        side = self.side(requester)
        for _ in range(count):
            side.alarm()
        side.suspend()
        for _ in range(late):
            side.alarm()
        self.world.run(min(seconds, self.interval))
        side.wake()
        self.world.run(self.interval + self.settling)

    @precondition(lambda self: self.config.agreed_resume > 8 * TICK and self.interval >= 5 * TICK)
    @rule(requester=st.booleans(), before=st.integers(0, 10), seconds=seconds_of_it)
    def nap(self, requester: bool, before: int, seconds: float) -> None:
        """A process is suspended while the other's connection is lost and comes back: it learns of both at once."""
        other, side = self.side(not requester), self.side(requester)
        other.disconnect()
        self.world.run(before * CONFIRM_AFTER)
        side.suspend()
        self.world.run(2 * TICK)
        other.reconnect()
        self.world.run(min(seconds, self.config.agreed_resume - self.settling))
        side.wake()
        self.world.run(self.config.probe_interval + self.settling)

    @precondition(lambda self: self.config.native)
    @rule(sizes=st.lists(chunk_sizes, min_size=1, max_size=4))
    def noise(self, sizes: List[int]) -> None:
        """Messages that make no sense, or are somebody else's."""
        requester, responder = self.world.requester, self.world.responder
        token = responder.subject.rpartition(".")[2]
        for size in sizes:
            for message in (
                Message(INBOX, b"x" * size),
                Message(INBOX, b"x" * size, f"{STRANGER}.{'dbe'[size % 3]}{size}"),
                Message(INBOX, b"", f"{STRANGER}.p{size}", {_wire.STREAM: "v=1; window=1; bytes=1"}),
                Message(INBOX, b"", "", {_wire.STATUS: "100"}),
                Message(INBOX, b"", "", {_wire.ERROR: "?"}),
                Message(INBOX, b"x" * size, "", {_wire.SEQUENCE: f"{token}.b{len(responder.pushed) + 1}"}),
            ):
                requester.receive(message)
            for data in (b"x" * size, b"ack", b"ack -1", b"ack 0", b"nak 0", b"nak %d" % size, b"ack 9999999999999999"):
                responder.receive(Message(_wire.reply_subject(responder.subject, "d", size), data))

    @precondition(lambda self: self.config.native and not self.config.relayed and len(self.world.responders) == 1)
    @rule(sends=lists_of_chunks, ends=st.booleans(), seconds=seconds_of_it)
    def rival(self, sends: List[int], ends: bool, seconds: float) -> None:
        """Another responder got the request, too, and is told to stop."""
        second = self.world.add_responder()
        second.accept()
        second.plan.extend(sends)
        if ends:
            second.last = (None,)
        second.settle()
        self.world.run(seconds)
        self.world.run(2 * self.config.speak_interval + self.settling)
        assert second.reason in ("cancelled", "ended"), self.world

    @invariant()
    def nobody_is_given_up(self) -> None:
        if hasattr(self, "world"):
            assert self.world.requester.reason is None, self.world
            assert self.world.responder.reason is None, self.world

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.finish()
        assert self.world.requester.reason == "completed", self.world
        assert self.world.responder.reason == (None if self.config.plain_responder else "ended"), self.world
        assert self.world.requester.taken == self.world.responder.pushed


Living.TestCase.settings = effort(200, 8)
TestLiving = Living.TestCase


# -- bad networks -----------------------------------------------------------------------------------------------------


@given(
    config=configs(numbered_pairs),
    chunks=st.lists(chunk_sizes, max_size=60),
    failure=st.sampled_from([None, None, FAILURE]),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.6]),
    duplication=st.sampled_from([0.0, 0.1, 0.5]),
    in_order=st.booleans(),
    seed=seeds,
    latency=latencies,
)
@effort(120)
def test_a_bad_network_is_overcome_or_ends_the_stream(
    config: Config,
    chunks: List[int],
    failure: Optional[Failure],
    loss: float,
    duplication: float,
    in_order: bool,
    seed: int,
    latency: float,
) -> None:
    """It stays bad to the end. Either everything arrives or the ends say that it did not, without talking for ever."""
    world = started(config, seed, latency)
    world.loss, world.duplication, world.in_order = loss, duplication, in_order
    world.responder.last = (failure,)
    world.responder.plan.extend(chunks)
    world.responder.settle()
    limit = config.patience + (len(chunks) + 1) * 6 * (INTERVAL + 4 * TICK)
    while world.now < limit and not world.over:
        world.run(INTERVAL)
    assert world.over, f"not through: {world}"
    pushed, naks = len(world.responder.pushed), world.requester.naks
    assert naks <= 5 * (pushed + 1)
    spoken = 2 * world.now * (1 / config.speak_interval + 1 / config.probe_interval)
    bound = 10 + 4 * pushed + naks * (2 * config.window + 4) + spoken
    assert world.published <= bound, f"{world.published} messages, {bound} at most: {world}"
    world.finish()
    if not loss and not duplication and in_order:
        assert world.requester.reason == ("completed" if failure is None else "error")


@given(
    config=configs(numbered_pairs),
    chunks=lists_of_chunks,
    lose=st.sets(st.integers(1, 40), min_size=1, max_size=3),
    pace=st.sampled_from([1, EVERYTHING]),
    seed=seeds,
    latency=latencies,
)
@effort(80)
def test_what_is_lost_now_and_then_is_made_up_for(
    config: Config, chunks: List[int], lose: Set[int], pace: int, seed: int, latency: float
) -> None:
    """Three lost messages, whichever they are (but the very first), keep no stream from its regular end."""
    world = started(config, seed, latency)
    world.lose = sorted(lose)
    world.requester.pace = pace
    world.responder.last = (None,)
    world.responder.plan.extend(chunks)
    world.responder.settle()
    world.run(config.patience)
    world.finish()
    assert world.requester.reason == "completed", world
    # Across accounts a requester has no way left to repeat its last acknowledgement.
    assert world.responder.reason in (("ended", "unreachable") if config.relayed else ("ended",)), world


@given(
    config=configs(native_pairs),
    killed=st.sampled_from(["requester", "responder 0"]),
    before=st.floats(0.0, 10.0),
    after=st.floats(0.0, 10.0),
    replaced=st.booleans(),
    chunks=lists_of_chunks,
    seed=seeds,
    latency=latencies,
)
@effort(50)
def test_whoever_is_dead_is_given_up_also_when_503s_stop_coming(
    config: Config,
    killed: str,
    before: float,
    after: float,
    replaced: bool,
    chunks: List[int],
    seed: int,
    latency: float,
) -> None:
    """Also when another responder comes in place of the dead one: it cannot know what has been sent."""
    world = started(config, seed, latency)
    world.run(before)
    world.responder.plan.extend(chunks)
    world.responder.settle()
    next(process for process in world.processes if process.name == killed).kill()
    if replaced:
        second = world.add_responder()
        second.accept()
        second.plan.extend(chunks)
        second.settle()
    world.run(after)
    world.masked = True
    world.finish()
    assert world.requester.reason in (None, "lost"), world
    assert (world.requester.reason == "lost") == (killed != "requester")


@given(
    window=windows,
    max_bytes=sizes,
    stall_timeout=st.sampled_from([0.3, 1.0, 3.0, 30.0]),
    interval=st.sampled_from([0.5, INTERVAL]),
    resume=resumes,
    before=st.integers(0, 10),
    seed=seeds,
    latency=latencies,
    relayed=st.booleans(),
)
@effort(30)
def test_a_reader_that_never_reads_on_is_stalled(
    window: int,
    max_bytes: int,
    stall_timeout: float,
    interval: float,
    resume: float,
    before: int,
    seed: int,
    latency: float,
    relayed: bool,
) -> None:
    config = Config(
        window=window,
        max_bytes=max_bytes,
        probe_interval=interval,
        responder_interval=interval,
        resume=resume,
        stall_timeout=stall_timeout,
        relayed=relayed,
    )
    world = started(config, seed, latency)
    assert isinstance(world.requester, NativeRequester)
    world.requester.pace = 0
    world.responder.plan.extend([10] * 200)
    world.responder.settle()
    world.run(latency * 2 + 0.01)
    for _ in range(before):  # a slow reader is not one that has stopped
        world.requester.read(window)
        world.run(max(stall_timeout - 4 * TICK - 3 * latency, 0.0))
        assert world.responder.reason is None, world
    world.run(stall_timeout + 5 * TICK + 2 * latency)
    assert world.responder.reason == "stalled", world
    ended = world.requester.incoming.ended
    assert ended is not None
    assert ended.failure == _wire.library_failure("stalled")
    world.finish()


@given(
    config=configs(native_pairs, stall_timeout=st.just(1.0), resume=st.sampled_from([3.0, 10.0])),
    seconds=st.floats(0.0, 9.0),
    seed=seeds,
    latency=latencies,
)
@effort(30)
def test_a_lost_connection_is_no_reader_that_stopped(config: Config, seconds: float, seed: int, latency: float) -> None:
    """``stalled`` is for a requester that is there and does not read, not for one that will be back."""
    world = started(config, seed, latency)
    world.requester.disconnect()
    world.responder.plan.extend([10] * 30)
    world.responder.settle()
    world.run(min(seconds, config.resume - 4 * TICK - 4 * latency))
    world.requester.reconnect()
    world.finish()
    assert world.requester.reason == "completed", world
    assert len(world.requester.taken) == 30


@given(
    config=configs(numbered_pairs, probe_interval=intervals, responder_interval=intervals),
    chunks=lists_of_chunks,
    seed=seeds,
    latency=latencies,
)
@effort(20)
def test_an_idle_stream_costs_little(config: Config, chunks: List[int], seed: int, latency: float) -> None:
    world = started(config, seed, latency)
    world.responder.plan.extend(chunks)
    world.responder.settle()
    world.run(1.0 + len(chunks) * (4 * TICK + 2 * latency))
    assert world.requester.taken == world.responder.pushed
    assert len(world.requester.taken) == len(chunks)
    published = world.published
    world.run(20 * config.speak_interval)
    assert world.published - published <= 3 * 20 + 3


# -- each end alone: nothing that arrives may raise -------------------------------------------------------------------

numbers = st.one_of(st.integers(0, 12), st.sampled_from([2**53, 10**16 - 1, 10**16]))
words = st.one_of(st.sampled_from(sorted(_wire.LIBRARY_ENDS)), st.text(max_size=8))
params = st.one_of(
    st.builds(lambda w, b, r, p: f"v=1; window={w}; bytes={b}; resume={r}; probe={p}", numbers, numbers, numbers, numbers),
    st.text(max_size=12),
)
sequences = st.builds(
    lambda token, kind, number: f"{token}.{kind}{number}",
    st.sampled_from(["b" * 24, "b" * 24, "b" * 24, "c" * 24, "B" * 24, ""]),
    st.sampled_from(["a", "d", "d", "b", "p", "e", "x", ""]),
    numbers,
)
replies = st.one_of(sequences.map(lambda sequence: f"_INBOX.{'2' * 32}.{sequence}"), st.just(""), st.text(max_size=12))
some_headers = st.one_of(
    st.none(),
    st.fixed_dictionaries({_wire.STREAM: params}),
    st.fixed_dictionaries(
        {},
        optional={
            _wire.STREAM: params,
            _wire.LIBRARY_ERROR: words,
            _wire.SEQUENCE: st.one_of(sequences, st.text(max_size=12)),
            _wire.ERROR: st.text(max_size=12),
            _wire.ERROR_CODE: st.one_of(numbers.map(str), st.text(max_size=4)),
            _wire.STATUS: st.sampled_from(["503", "503", "100", "408", ""]),
        },
    ),
)
payloads = st.one_of(
    st.binary(max_size=12),
    st.just(b""),
    st.lists(st.binary(max_size=6), max_size=4).map(_wire.encode_batch),
)
seconds_passed = st.sampled_from([0.0, 0.01, 0.1, 0.3, INTERVAL, 5.0])


@given(
    resume=resumes,
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("message"), st.tuples(payloads, replies, some_headers)),
            st.tuples(st.just("message"), st.tuples(payloads, replies, some_headers)),
            st.tuples(st.sampled_from(["take", "tick", "confirm", "disconnect", "reconnect"]), seconds_passed),
            st.tuples(st.just("stop"), st.sampled_from(["cancelled", "deadline"])),
        ),
        max_size=40,
    ),
)
@effort(150)
def test_the_requester_survives_whatever_arrives(resume: float, steps: List[Tuple[str, Any]]) -> None:
    incoming = Incoming(window=8, max_bytes=64, probe_interval=INTERVAL, resume=resume)
    clock = 0.0
    ended = None
    for what, how in steps:
        says: List[Say] = []
        before = incoming.received
        if what == "message":
            data, reply, headers = how
            says, confirm = incoming.on_message(data, reply, headers, clock, clock)
            assert not (confirm and says)
        elif what == "stop":
            says = incoming.stop(how)
        else:
            clock += how
            if what == "take":
                if unread(incoming):
                    says = read_one(incoming, clock)[1]
            elif what == "tick":
                says = incoming.on_tick(clock)
            elif what == "confirm":
                says = incoming.on_confirm(clock)
            elif what == "disconnect":
                incoming.on_disconnect(True, clock)
            else:
                says = incoming.on_reconnect(clock)
        for say in says:
            assert _wire.acceptable_reply(say.to)
            assert not say.data or _wire.parse_control(say.data) is not None
        assert before <= incoming.received
        assert incoming.acked <= incoming.consumed <= incoming.received
        assert (incoming.ended is not None) == (incoming.state == _incoming.DONE)
        assert ended is None or incoming.ended is ended
        ended = incoming.ended


@given(
    native=st.booleans(),
    resume=resumes,
    stall_timeout=st.sampled_from([None, 1.0]),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.lists(chunk_sizes, min_size=1, max_size=6)),
            st.tuples(st.just("take"), st.integers(1, 60)),
            st.tuples(st.just("control"), st.tuples(st.sampled_from(["ack", "nak", "ack", "nak", "cancel"]), numbers)),
            st.tuples(st.just("data"), st.binary(max_size=12)),
            st.tuples(st.sampled_from(["tick", "503", "confirm", "disconnect", "reconnect"]), seconds_passed),
            st.tuples(st.just("end"), st.sampled_from([None, FAILURE])),
            st.tuples(st.just("give up"), st.sampled_from(["offline", "denied"])),
        ),
        max_size=40,
    ),
)
@effort(150)
def test_the_responder_survives_whatever_arrives(
    native: bool, resume: float, stall_timeout: Optional[float], steps: List[Tuple[str, Any]]
) -> None:
    outgoing = Outgoing(
        native=native, window=8, max_bytes=64, probe_interval=INTERVAL, resume=resume, stall_timeout=stall_timeout
    )
    clock = 0.0
    pushed: List[bytes] = []
    reason: Optional[str] = None
    for what, how in steps:
        was_done = outgoing.state == _outgoing.DONE
        emits: List[Emit] = []
        if what == "push":
            for size in how:
                chunk = (b"%d." % len(pushed)).ljust(size, b"-")
                if outgoing.state == _outgoing.RUNNING and push(outgoing, chunk, clock):
                    pushed.append(chunk)
        elif what == "take":
            emits = written(outgoing, how, clock)
        elif what == "control":
            emits = outgoing.on_control(how[0], how[1], "", clock)
        elif what == "data":
            control = _wire.parse_control(how)
            if control is not None:
                emits = outgoing.on_control(*control, clock)
        elif what == "end":
            outgoing.end(how)
        elif what == "give up":
            emits = outgoing.give_up(how)
        else:
            clock += how
            if what == "tick":
                emits = outgoing.on_tick(clock)
            elif what == "503":
                outgoing.on_no_responders(clock, clock)
            elif what == "confirm":
                emits = outgoing.on_confirm(clock)
            elif what == "disconnect":
                emits = outgoing.on_disconnect(clock)
            else:
                emits = outgoing.on_reconnect(clock)
        assert not (was_done and emits)
        for emit in emits:
            if emit.kind == _wire.CHUNK:
                assert emit.payload == pushed[emit.seq - 1]
            elif emit.kind == _wire.BATCH:
                chunks = _wire.decode_batch(emit.payload)
                assert chunks is not None
                assert chunks == pushed[emit.seq - 1 : emit.seq - 1 + len(chunks)]
            elif emit.kind == _wire.END and (emit.failure is None or emit.failure.library is None):
                assert emit.seq == len(pushed)
        assert outgoing.acked <= outgoing.sent <= outgoing.pushed == len(pushed)
        if outgoing.state != _outgoing.DONE:
            assert len(pushed) - outgoing.acked <= 8
            assert sum(map(len, pushed[outgoing.acked :])) <= 64
        else:
            assert not outgoing.has_work
        assert (outgoing.reason is not None) == (outgoing.state == _outgoing.DONE)
        assert reason is None or outgoing.reason == reason
        reason = outgoing.reason
