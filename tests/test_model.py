"""Both ends of a stream against each other, in a network that loses, repeats and reorders: what holds whatever happens.

The examples are the same in every run. ``NATSBRIDGE_MODEL=20`` tries 20 times as many, different ones each time, which
takes some minutes; ``-k`` and a larger number look further into one of the tests.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Set, Tuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import EVERYTHING, INBOX, TICK, Config, Message, Process, World

from natsbridge import _incoming, _outgoing, _wire
from natsbridge._incoming import Ended, Incoming, Say
from natsbridge._outgoing import CONFIRM_AFTER, Emit, Frame, Outgoing
from natsbridge._wire import Failure

MORE = int(os.environ.get("NATSBRIDGE_MODEL", "1"))
if MORE > 1:
    pytestmark = pytest.mark.timeout(0)


def effort(examples: int, steps: int = 50, **others: Any) -> settings:
    common: Dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
    return settings(max_examples=examples * MORE, stateful_step_count=steps, derandomize=MORE == 1, **common, **others)


FAILURE = Failure(418, "teapot")
STRANGER = f"_INBOX.{'9' * 32}.{'9' * 24}"
INTERVAL = 2.0

windows = st.sampled_from([8, 8, 4, 3, 2, 1])
sizes = st.sampled_from([200, 200, 64, 20, 1])
chunk_sizes = st.integers(4, 24)
chunk_lists = st.lists(chunk_sizes, min_size=6, max_size=12) | st.lists(chunk_sizes, max_size=12)
intervals = st.sampled_from([INTERVAL, INTERVAL, 0.5, 0.1])
resumes = st.sampled_from([3.0, 3.0, 10.0, 0.5, 0.0])
durations = st.one_of(st.sampled_from([0.05, 0.4, 1.9, 2.0, 2.1, 9.5, 30.0]), st.floats(0.0, 10.0))
which = st.integers(0, 2)  # of the processes
seldom = st.sampled_from([False, False, False, True])  # what ends a stream, or few examples would come far


def configs(**others: Any) -> st.SearchStrategy[Config]:
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
        "relayed": seldom,
        "asked_bytes": st.lists(st.sampled_from([16, 64, 200, 1]), max_size=3).map(tuple),
    }
    return st.builds(Config, **{**fields, **others})


# -- step by step: every interleaving ---------------------------------------------------------------------------------


class Steps(RuleBasedStateMachine):
    """Whatever a network and its processes can do to a stream, one step at a time; in the end the network is healed."""

    world: World

    @initialize(
        config=configs(stall_timeout=st.sampled_from([None, None, 0.3, 3.0])),
        accepted=st.sampled_from(["arrived", "arrived", "under way", "lost"]),
        prompt=st.sampled_from([True, True, False]),
        pace=st.sampled_from([0, 0, 1, EVERYTHING]),
        sends=chunk_lists,
        ends=st.booleans(),
        lose=st.sets(st.integers(1, 15), max_size=3),
        flows=st.sampled_from([3, 2, 1, 0]),
    )
    def start(
        self,
        config: Config,
        accepted: str,
        prompt: bool,
        pace: int,
        sends: List[int],
        ends: bool,
        lose: Set[int],
        flows: int,
    ) -> None:
        self.world = World(config)
        self.requester, self.responder = self.world.requester, self.world.responder
        self.requester.pace, self.responder.prompt = pace, prompt
        self.world.lose, self.responder.last = sorted(lose), (None,) if ends else None
        if accepted == "arrived":
            self.world.arrive(self.requester)
        elif accepted == "lost":
            self.world.flights[self.requester.name].clear()
        self.responder.send(sends)
        self.deliver_all(flows)

    def process(self, which: int) -> Process:
        return self.world.processes[which % len(self.world.processes)]

    def flight(self, which: int, where: int) -> Optional[Tuple[Process, int]]:
        process = self.process(which)
        flights = self.world.flights[process.name]
        return (process, where % len(flights)) if flights else None

    # -- the users

    @rule(chunks=chunk_lists, which=which)
    def push(self, chunks: List[int], which: int) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if responder.running and not responder.plan and responder.last is None:
            responder.send(chunks)

    @rule(budget=st.integers(1, 60), which=which)
    def write(self, budget: int, which: int) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if responder.running and responder.up:
            responder.write(budget)
            responder.settle()

    @rule(count=st.integers(1, 8))
    def read(self, count: int) -> None:
        self.requester.read(count)

    @rule(failure=st.sampled_from([None, FAILURE]), which=which)
    def end(self, failure: Optional[Failure], which: int) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if responder.running and responder.last is None:
            responder.plan.clear()
            responder.end(failure)

    @rule(reason=st.sampled_from(["cancelled", "deadline", "idle", "offline"]), really=seldom)
    def stop(self, reason: str, really: bool) -> None:
        if really and self.requester.running and self.requester.known:
            self.requester.stop(reason)

    @rule(reason=st.sampled_from(["offline", "deadline", "shutdown", "stalled", "denied"]), which=which, really=seldom)
    def give_up(self, reason: str, which: int, really: bool) -> None:
        responder = self.world.responders[which % len(self.world.responders)]
        if really and responder.running:
            responder.give_up(reason)

    # -- the network

    @rule(which=which, where=st.integers(0, 7))
    def deliver(self, which: int, where: int) -> None:
        found = self.flight(which, where)
        if found is not None:
            self.world.arrive(*found)

    @rule(rounds=st.integers(1, 3))
    def deliver_all(self, rounds: int) -> None:
        for process in self.world.processes * rounds:
            for _ in range(len(self.world.flights[process.name])):
                if self.world.flights[process.name]:
                    self.world.arrive(process)

    @rule(which=which, where=st.integers(0, 7))
    def lose(self, which: int, where: int) -> None:
        found = self.flight(which, where)
        if found is not None:
            del self.world.flights[found[0].name][found[1]]

    @rule(which=which, where=st.integers(0, 7))
    def repeat(self, which: int, where: int) -> None:
        found = self.flight(which, where)
        if found is not None:
            self.world.repeat(*found)

    @rule(which=which)
    def false_alarm(self, which: int) -> None:
        process = self.process(which)
        if process.up and process.table.state != _incoming.WAITING and not self.world.config.relayed:
            process.alarm()

    @rule(masked=st.booleans())
    def mask(self, masked: bool) -> None:
        self.world.masked = masked

    @rule(which=which, really=seldom)
    def cut(self, which: int, really: bool) -> None:
        if really:
            self.process(which).cut = self.process(which).up

    @rule(which=which, really=seldom)
    def disconnect(self, which: int, really: bool) -> None:
        if really and self.process(which).running:
            self.process(which).disconnect()

    @rule(which=which)
    def reconnect(self, which: int) -> None:
        if self.process(which).running and not self.process(which).hopeless:
            self.process(which).reconnect()

    # -- the processes, and time

    @rule(which=which, ticks=st.sampled_from([1, 1, 2, 5, 21]))
    def tick(self, which: int, ticks: int) -> None:
        for _ in range(ticks if self.process(which).running else 0):
            self.world.now += TICK
            self.process(which).tick()

    @rule(seconds=st.sampled_from([0.15, 0.6, 2.5]))
    def go_on(self, seconds: float) -> None:
        """Everything in its order."""
        self.world.run(seconds)

    @rule(seconds=st.sampled_from([CONFIRM_AFTER, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time without a tick: only what is due by itself."""
        self.world.now += seconds
        for process in self.world.processes:
            while process.running and process.timers and process.timers[0] <= self.world.now:
                process.confirm()

    @rule(which=which, really=seldom)
    def suspend(self, which: int, really: bool) -> None:
        if really:
            self.process(which).suspend()

    @rule(which=which, tick_first=st.booleans())
    def wake(self, which: int, tick_first: bool) -> None:
        if not self.process(which).hopeless:
            self.process(which).wake(tick_first)

    @rule(which=which, really=seldom)
    def kill(self, which: int, really: bool) -> None:
        if really:
            self.process(which).kill()

    @rule(which=which, how=st.sampled_from(["cut", "disconnect", "suspend"]), really=seldom)
    def doom(self, which: int, how: str, really: bool) -> None:
        """A connection that will not come back, or a process that will not go on."""
        process = self.process(which)
        if really and process.running:
            process.hopeless = True
            {"cut": lambda: self.cut(which, True), "disconnect": process.disconnect, "suspend": process.suspend}[how]()

    @precondition(lambda self: len(self.world.responders) == 1)
    @rule(replaces=st.booleans(), sends=chunk_lists)
    def second_responder(self, replaces: bool, sends: List[int]) -> None:
        """The request has reached another one as well: at the same time, or instead of one that is gone."""
        if replaces:
            self.responder.kill()
        self.world.add_responder().send(sends)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


# -- second by second: with all loops running, and nothing that would excuse a verdict --------------------------------


def started(config: Config, seed: int, latency: float, jitter: float, phase: float) -> World:
    """Accepted, with both loops running; ``phase``: seconds by which the responder looks at the clock later."""
    world = World(config, seed)
    world.latency, world.jitter = (latency / 2, latency), jitter
    world.responder.next_tick = phase
    world.requester.pace = EVERYTHING
    world.run(2 * latency + 0.001)
    return world


def worlds(**others: Any) -> st.SearchStrategy[World]:
    seeds, latencies = st.integers(0, 1 << 16), st.sampled_from([0.0, 0.002, 0.05])
    return st.builds(started, configs(**others), seeds, latencies, st.sampled_from([0.05, 0.0, 0.1]), st.floats(0.0, TICK))


class Living(RuleBasedStateMachine):
    """Nothing is lost but with a connection, and nobody is away for too long: the stream is complete in the end."""

    world: World

    @initialize(world=worlds(probe_interval=intervals, responder_interval=intervals))
    def start(self, world: World) -> None:
        self.world, self.config = world, world.config
        self.settling = 4 * TICK + 4 * world.latency[1]
        # Of absence, which nobody may take amiss.
        self.interval = min(self.config.probe_interval, self.config.responder_interval)

    def side(self, requester: bool) -> Process:
        return self.world.requester if requester else self.world.responder

    @rule(chunks=chunk_lists, pace=st.sampled_from([0, 1, 3, EVERYTHING]), seconds=durations)
    def send(self, chunks: List[int], pace: int, seconds: float) -> None:
        """The reader may do something else for a while."""
        self.world.requester.pace = pace
        self.world.requester.settle()
        self.world.responder.send(chunks)
        self.world.run(seconds)

    @rule(requester=st.booleans(), tick_first=st.booleans(), seconds=durations)
    def sleep(self, requester: bool, tick_first: bool, seconds: float) -> None:
        """One process is suspended, not so long that the other would be right to give it up."""
        if self.interval < 5 * TICK:
            return
        self.side(requester).suspend()
        self.world.run(min(seconds, 2 * self.interval))
        self.side(requester).wake(tick_first)
        self.world.run(self.interval + self.settling)

    @precondition(lambda self: self.config.agreed_resume > self.settling)
    @rule(who=st.sampled_from([(0,), (1,), (0, 1)]), noticed=st.booleans(), chunks=chunk_lists, seconds=durations)
    def outage(self, who: Tuple[int, ...], noticed: bool, chunks: List[int], seconds: float) -> None:
        """Connections are lost, and come back before the streams are given up."""
        gone = [self.world.processes[number] for number in who]
        for process in gone:
            process.cut = not noticed
        self.world.responder.send(chunks)
        self.world.run(TICK)
        for process in gone:
            process.disconnect()
        self.world.run(min(seconds, self.config.agreed_resume - self.settling))
        for process in gone:
            process.reconnect()
            self.world.run(TICK / 2)
        self.world.run(self.config.probe_interval + self.settling)

    @precondition(lambda self: not self.config.relayed)
    @rule(requester=st.booleans(), count=st.integers(1, 5), late=st.integers(0, 3), seconds=durations)
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
    @rule(requester=st.booleans(), before=st.integers(0, 10), seconds=durations)
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

    @precondition(lambda self: self.config.agreed_resume > self.settling)
    @rule(noticed=st.booleans(), chunks=chunk_lists, seconds=st.sampled_from([30.0, 30.0, 5.0, 0.5]))
    def hibernate(self, noticed: bool, chunks: List[int], seconds: float) -> None:
        """The whole machine sleeps, for longer than anybody would wait; its connections are lost on the way."""
        self.world.responder.send(chunks)
        both = self.world.processes[:2]
        for process in both:
            if noticed:
                process.disconnect()
            process.suspend()
        self.world.run(seconds)
        for process in both:
            process.wake(tick_first=True)
            process.disconnect()
        self.world.run(TICK)
        for process in both:
            process.reconnect()
        self.world.run(self.config.probe_interval + self.settling)

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

    @precondition(lambda self: not self.config.relayed and len(self.world.responders) == 1)
    @rule(sends=chunk_lists, ends=st.booleans(), seconds=durations)
    def rival(self, sends: List[int], ends: bool, seconds: float) -> None:
        """Another responder got the request, too, and is told to stop."""
        second = self.world.add_responder()
        second.last = (None,) if ends else None
        second.send(sends)
        self.world.run(seconds)
        self.world.run(2 * self.config.speak_interval + self.settling)
        assert second.reason in ("cancelled", "ended"), self.world

    @invariant()
    def nobody_is_given_up(self) -> None:
        if hasattr(self, "world"):
            assert self.world.requester.reason is None, self.world
            assert self.world.responder.reason is None, self.world

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()
            assert (self.world.requester.reason, self.world.responder.reason) == ("completed", "ended"), self.world
            assert self.world.requester.taken == self.world.responder.pushed


TestSteps = Steps.TestCase
TestSteps.settings = effort(200, 40)
TestLiving = Living.TestCase
TestLiving.settings = effort(150, 8)


# -- bad networks -----------------------------------------------------------------------------------------------------


@given(
    world=worlds(),
    chunks=st.lists(chunk_sizes, max_size=60),
    failure=st.sampled_from([None, None, FAILURE]),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.6]),
    duplication=st.sampled_from([0.0, 0.1, 0.5]),
    in_order=st.booleans(),
)
@effort(120)
def test_a_bad_network_is_overcome_or_ends_the_stream(
    world: World, chunks: List[int], failure: Optional[Failure], loss: float, duplication: float, in_order: bool
) -> None:
    """It stays bad to the end. Either everything arrives or the ends say that it did not, without talking for ever."""
    config = world.config
    world.loss, world.duplication, world.in_order = loss, duplication, in_order
    world.responder.plan.extend(chunks)
    world.responder.end(failure)
    limit = config.patience + (len(chunks) + 1) * 6 * (INTERVAL + 4 * TICK)
    while world.now < limit and not world.over:
        world.run(INTERVAL)
    assert world.over, f"not through: {world}"
    pushed, naks = len(world.responder.pushed), world.requester.naks
    assert naks <= 20 * (pushed + 1)
    spoken = 2 * world.now * (1 / config.speak_interval + 1 / config.probe_interval)
    bound = 10 + 4 * pushed + naks * (2 * config.window + 4) + spoken
    assert world.published <= bound, f"{world.published} messages, {bound} at most: {world}"
    world.finish()
    if not loss and not duplication and in_order:
        assert world.requester.reason == ("completed" if failure is None else "error")


LOSSES: Dict[str, Any] = {
    "world": worlds(),
    "chunks": chunk_lists,
    "lose": st.sets(st.integers(1, 12) | st.integers(1, 40), min_size=3, max_size=3),
    "pace": st.sampled_from([1, EVERYTHING]),
}


def lose_some(world: World, chunks: List[int], lose: Set[int], pace: int) -> None:
    world.lose, world.requester.pace = sorted(lose), pace
    world.responder.plan.extend(chunks)
    world.responder.end()
    world.run(world.config.patience)
    world.finish()
    assert world.requester.reason == "completed", world
    # Across accounts a requester has no way left to repeat its last acknowledgement.
    assert world.responder.reason in (("ended", "unreachable") if world.config.relayed else ("ended",)), world


@given(**LOSSES)
@effort(80)
def test_what_is_lost_now_and_then_is_made_up_for(**values: Any) -> None:
    """Three messages, whichever they are (but the very first), keep no stream from its regular end."""
    lose_some(**values)


@given(
    world=worlds(relayed=st.just(False)),
    kill_requester=st.booleans(),
    before=durations,
    after=durations,
    replaced=st.booleans(),
    chunks=chunk_lists,
)
@effort(50)
def test_whoever_is_dead_is_given_up_also_when_503s_stop_coming(
    world: World, kill_requester: bool, before: float, after: float, replaced: bool, chunks: List[int]
) -> None:
    """Also when another responder comes in place of the dead one: it cannot know what has been sent."""
    world.run(before)
    world.responder.send(chunks)
    (world.requester if kill_requester else world.responder).kill()
    if replaced:
        world.add_responder().send(chunks)
    world.run(after)
    world.masked = True
    world.finish()
    assert world.requester.reason == (None if kill_requester else "lost"), world
    assert not kill_requester or world.responder.reason in ("no_interest", "unreachable"), world


@given(
    world=worlds(
        stall_timeout=st.sampled_from([0.3, 1.0, 3.0, 30.0]),
        responder_window=st.just(8),
        frame=st.just(40),
    ),
    before=st.integers(0, 10),
)
@effort(30)
def test_a_reader_that_never_reads_on_is_stalled(world: World, before: int) -> None:
    stall, latency = world.config.stall_timeout or 0.0, world.latency[1]
    world.requester.pace = 0
    world.responder.send([10] * 200)
    world.run(latency * 2 + 0.01)
    for _ in range(before):  # a slow reader is not one that has stopped
        world.requester.read(world.config.window)
        world.run(max(stall - 4 * TICK - 3 * latency, 0.0))
        assert world.responder.reason is None, world
    world.run(stall + 5 * TICK + 2 * latency)
    assert world.responder.reason == "stalled", world
    ended = world.requester.incoming.ended
    assert ended is not None
    assert ended.failure == _wire.library_failure("stalled")
    world.finish()


@given(
    world=worlds(stall_timeout=st.just(1.0), resume=st.sampled_from([3.0, 10.0]), relayed=st.just(False)),
    seconds=durations,
)
@effort(30)
def test_a_lost_connection_is_no_reader_that_stopped(world: World, seconds: float) -> None:
    """``stalled`` is for a requester that is there and does not read, not for one that will be back."""
    world.requester.disconnect()
    world.responder.send([10] * 30)
    world.run(min(seconds, world.config.resume - 4 * TICK - 4 * world.latency[1]))
    world.requester.reconnect()
    world.finish()
    assert world.requester.reason == "completed", world
    assert len(world.requester.taken) == 30


@given(
    world=worlds(
        window=st.just(4096),
        responder_window=st.just(4096),
        max_bytes=st.just(1 << 20),
        responder_bytes=st.just(1 << 20),
        resume=st.just(0.0),
        relayed=st.just(False),
    ),
    pause=st.floats(0.1, 3.0),
    masked=st.booleans(),
)
@effort(40)
def test_a_frozen_requester_is_unreachable_also_while_it_is_sent_to(world: World, pause: float, masked: bool) -> None:
    """Its connection stands, so nothing bounces, and its window is far from full: three probe intervals decide."""
    world.masked = masked
    world.responder.send([10])
    world.run(1.0)
    world.requester.suspend()
    frozen, interval = world.now, world.config.responder_interval
    while world.responder.reason is None and world.now < 60.0:
        world.run(pause)
        world.responder.send([10])
    assert world.responder.reason == "unreachable", world
    assert 3 * interval <= world.now - frozen <= 4 * interval + 5 * TICK + 2 * world.latency[1] + pause, world
    world.finish()
    ended = world.requester.incoming.ended
    assert ended is not None
    assert ended.failure == _wire.library_failure("unknown"), "who wakes up is told"


@given(world=worlds(probe_interval=intervals, responder_interval=intervals), chunks=chunk_lists)
@effort(20)
def test_an_idle_stream_costs_little(world: World, chunks: List[int]) -> None:
    world.responder.send(chunks)
    world.run(1.0 + len(chunks) * (4 * TICK + 2 * world.latency[1]))
    assert len(world.requester.taken) == len(chunks)
    published = world.published
    world.run(20 * world.config.speak_interval)
    assert world.published - published <= 3 * 20 + 3


# -- the model itself: it finds the rule that is broken ---------------------------------------------------------------


def take_doubles(self: Incoming, _seq: int, chunks: List[bytes], _clock: float) -> List[Say]:
    self.buffer.extend(chunks)
    self._buffered_bytes += sum(map(len, chunks))
    self.received += len(chunks)
    return []


def believe_any_end(self: Incoming, _s: int, _d: object, _h: object, failure: Optional[Failure], _c: float) -> List[Say]:
    self._finish(Ended("completed") if failure is None else Ended("error", failure))
    return []


def acknowledge_the_unread(self: Incoming, clock: float, ahead: int = 0) -> List[Say]:
    self.window.acknowledge(self.consumed, clock, ahead)
    return self._tell(_wire.encode_ack(self.received), probe=True)


def follow_anybody(self: Incoming, control: str) -> bool:
    self._control = control
    return True


def convict_at_once(self: Outgoing, _seq: int, _clock: float, _now: float) -> bool:
    if self.state != _outgoing.DONE:
        self._finish("no_interest")
    return False


def push_without_a_window(self: Outgoing, chunk: bytes, _clock: float) -> bool:
    self.pushed += 1
    self._bytes += len(chunk)
    self._unsent.append(Frame(self.pushed, [chunk], len(chunk) + _wire.BATCH_OVERHEAD))
    return True


def grant_anything(self: Outgoing, control: _wire.Control, clock: float) -> List[Emit]:
    self.max_bytes = control.max_bytes or self.max_bytes
    return _outgoing._TABLE[self.state, control.verb](self, control.seq, control.why, clock)


def ask_for_nothing_again(self: Incoming, got: int, clock: float, *, repeat: bool) -> List[Say]:
    return []


def answer_nothing(*_: object) -> None:
    return None


def speak_when_spoken_to(*_: object) -> float:
    return float("inf")


def never_give_up(self: Outgoing, reason: str) -> None:
    if reason not in ("unreachable", "no_interest"):
        real_finish(self, reason)


def count_sleep_as_silence(self: Process) -> None:
    self.clock = self.world.now
    real_tick(self)


real_finish, real_tick = Outgoing._finish, Process.tick


@pytest.mark.parametrize(
    ("finder", "where", "what", "broken"),
    [
        (Living, Incoming, "_ack", acknowledge_the_unread),
        (Steps, Outgoing, "push", push_without_a_window),
        (Living, Outgoing, "on_control", grant_anything),
        (Steps, Incoming, "_chunks", take_doubles),
        (Steps, Outgoing, "_finish", never_give_up),
        (Living, Incoming, "_may_bind", follow_anybody),
        (Living, Outgoing, "on_no_responders", convict_at_once),
        (Living, Outgoing, "_pause", speak_when_spoken_to),
        (Living, Process, "tick", count_sleep_as_silence),
        (lose_some, Incoming, "_gap", ask_for_nothing_again),
        (lose_some, _wire, "answer_unknown", answer_nothing),
        (lose_some, _incoming._TABLE, (_incoming.NATIVE, _wire.END), believe_any_end),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_model_finds_a_rule_that_is_broken(
    finder: Any, where: Any, what: Any, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(where, dict):
        monkeypatch.setitem(where, what, broken)
    else:
        monkeypatch.setattr(where, what, broken)
    once: Dict[str, Any] = {"phases": [Phase.generate], "report_multiple_bugs": False}
    with pytest.raises(AssertionError):
        if isinstance(finder, type):
            run_state_machine_as_test(finder, settings=effort(400, 40 if finder is Steps else 8, **once))
        else:
            effort(400, **once)(given(**LOSSES)(finder))()
