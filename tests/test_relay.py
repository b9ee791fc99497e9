"""Threads that are woken one after another."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Callable, Coroutine, List, TypeVar

import pytest
from procs import LONG, WaitFor

from natsbridge import Pool, _relay, _waiter
from natsbridge._asking import PendingRequest
from natsbridge._deadline import Deadline
from natsbridge._loop import LoopThread
from natsbridge._outbox import Outbox
from natsbridge._relay import Relay, Runner
from natsbridge._threads import Event, new_event
from natsbridge._waiter import Abandoned, Waiter
from natsbridge.errors import ClosedError

T = TypeVar("T")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is woken for the time it takes, unless a test says so."""
    monkeypatch.setattr(_relay, "LIMIT", 3600.0)
    monkeypatch.setattr(_waiter, "SLICE", 3600.0)


def later(seconds: float, call: Callable[[], object]) -> bool:
    asyncio.get_event_loop().call_later(seconds, call)
    return True


def released(event: Event) -> bool:
    return event.acquire(True, 0)


def test_each_wakes_the_next_one() -> None:
    relay = Relay()
    _, second, third = events = [new_event() for _ in range(3)]
    for event in events:
        relay.add(event)
    assert relay.more
    assert [released(event) for event in events] == [True, False, False]
    relay.pass_on()
    assert [released(event) for event in (second, third)] == [True, False]
    relay.pass_on()
    assert not relay.more
    assert released(third)
    later = new_event()
    relay.add(later)
    assert not released(later), "the third one has not passed on yet"
    relay.pass_on()
    assert released(later)
    relay.pass_on()
    alone = new_event()
    relay.add(alone)
    assert released(alone)


def test_what_is_to_be_done_at_the_end_is_done_by_the_last_one() -> None:
    relay = Relay()
    done: List[str] = []
    relay.at_end(lambda: done.append("at once"))
    assert done == ["at once"]
    relay.add(new_event())
    relay.add(new_event())
    relay.at_end(lambda: done.append("at the end"))
    relay.pass_on()
    assert done == ["at once"]
    relay.pass_on()
    assert done == ["at once", "at the end"]


def test_who_leaves_breaks_nothing() -> None:
    relay = Relay()
    first, second, third = events = [new_event() for _ in range(3)]
    for event in events:
        relay.add(event)
    relay.leave(second)  # before its turn
    assert not released(third)
    relay.leave(first)  # in its turn, but it had left already
    assert released(third)
    assert not released(second)
    relay.pass_on()
    relay.leave(new_event())  # never in it
    assert not relay.more


def test_all_are_woken_once_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them was interrupted before it could pass on."""
    monkeypatch.setattr(_relay, "LIMIT", 0.01)
    monkeypatch.setattr(_relay, "LOOK", 0.001)
    relay = Relay(later)
    events = [new_event() for _ in range(5)]
    done: List[str] = []

    async def play() -> None:
        for event in events:
            relay.add(event)
        relay.at_end(lambda: done.append("end"))
        assert [released(event) for event in events] == [True, False, False, False, False]
        while not done:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(play(), LONG))
    assert all(released(event) for event in events[1:])
    last = new_event()
    relay.add(last)
    assert released(last), "the next one begins anew"


def test_who_comes_late_wakes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is not to be had: each would wait for it anew."""
    relay = Relay()
    events = [new_event() for _ in range(5)]
    for event in events:
        relay.add(event)
    monkeypatch.setattr(_relay, "LIMIT", -1.0)
    relay.pass_on()
    assert all(released(event) for event in events)


def test_a_relay_that_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relay, "LIMIT", 0.1)
    monkeypatch.setattr(_relay, "LOOK", 0.001)
    relay = Relay(later)

    async def play() -> None:
        for _ in range(20):
            first, second = new_event(), new_event()
            relay.add(first)
            relay.add(second)
            assert released(first)
            assert not released(second)
            relay.pass_on()
            relay.pass_on()
            await asyncio.sleep(0.002)
        kept = new_event()
        relay.add(new_event())
        relay.add(kept)
        await asyncio.sleep(0.001)
        assert not released(kept), "a look that was due at another one counts from its beginning"

    asyncio.run(play())


# -- waiting in it ----------------------------------------------------------------------------------------------------


def test_a_value_that_comes_before_the_wait_is_taken() -> None:
    relay = Relay()
    runners: List[Runner[int]] = [Runner(relay) for _ in range(3)]
    for number, runner in enumerate(runners):
        assert runner.set(number)
    assert [runner.wait(Deadline(LONG)) for runner in runners] == [0, 1, 2]
    assert not relay.more


def test_who_gives_up_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay()
    gone: Runner[int] = Runner(relay)
    with pytest.raises(Abandoned):
        gone.wait(Deadline(0.01))
    assert not gone.set(1)
    there: Runner[int] = Runner(relay)
    assert there.set(2)
    assert there.wait(Deadline(LONG)) == 2


def test_the_main_thread_has_no_turn() -> None:
    """A signal handler may be on top of its wait, and wait for something itself."""
    relay = Relay()
    here: Waiter[int] = relay.waiter()
    assert type(here) is Waiter
    there: List[Waiter[int]] = []
    thread = threading.Thread(target=lambda: there.append(relay.waiter()))
    thread.start()
    thread.join(LONG)
    assert type(there[0]) is Runner


def test_who_is_interrupted_in_its_turn_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def acquire(self, *_: object) -> bool:
            raise KeyboardInterrupt

        def release(self) -> None: ...

    relay = Relay()
    with monkeypatch.context() as patch:
        patch.setattr(_relay, "new_event", Interrupted)
        interrupted: Runner[int] = Runner(relay)
    other: Runner[int] = Runner(relay)
    assert interrupted.set(1)
    assert other.set(2)
    with pytest.raises(KeyboardInterrupt):
        interrupted.wait(Deadline(LONG))
    assert other.wait(Deadline(LONG)) == 2


def test_who_is_handed_something_as_it_leaves_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was settled, but not in the relay yet, when it left."""
    relay = Relay()
    leaving, other = Runner[int](relay), Runner[int](relay)
    add = relay.add

    def late(event: Event) -> None:
        if event is leaving._event:
            leaving.leave()
        add(event)

    monkeypatch.setattr(relay, "add", late)
    assert leaving.set(1)
    assert other.set(2)
    assert other.wait(Deadline(LONG)) == 2
    assert not relay._running


def test_who_never_waits_leaves() -> None:
    relay = Relay()
    first, second, third = Runner[int](relay), Runner[int](relay), Runner[int](relay)
    for number, runner in enumerate((first, second, third)):
        runner.set(number)
    first.leave()
    assert second.wait(Deadline(LONG)) == 1
    first.leave()
    second.leave()
    assert third.wait(Deadline(LONG)) == 2
    assert not relay._running


def test_a_request_that_could_not_be_sent_leaves(pool: Pool, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, but it may have been answered: by the end of the pool, for example."""
    pool.open()
    link = pool._runtime.links[0]  # type: ignore[union-attr]
    asked: List[PendingRequest] = []

    def publish(command: bytes, timeout: float, guard: PendingRequest, **_: object) -> None:
        asked.append(guard)
        guard.on_closed()
        raise ClosedError("as expected")

    failed: List[Exception] = []

    def ask() -> None:
        try:
            pool.request(unique)
        except ClosedError as error:
            failed.append(error)

    monkeypatch.setattr(link.outbox, "publish", publish)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(LONG)
    assert str(failed[0]) == "as expected"
    assert not link.loop.relay._running


def test_whom_nobody_wakes_looks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay()
    lost, waiting = Runner[int](relay), Runner[int](relay)
    assert lost.set(1)  # and then does not wait: it was interrupted just before
    assert waiting.set(2)
    monkeypatch.setattr(_waiter, "SLICE", 0.01)
    assert waiting.wait(Deadline(LONG)) == 2


@pytest.mark.usefixtures("fast_switching")
def test_nobody_is_forgotten(wait_for: WaitFor) -> None:
    """Threads that are answered over and over, each as soon as it has asked; some do not wait for it."""
    relay = Relay()
    asked: List[Runner[int]] = []
    there = threading.Semaphore(0)
    answered, rounds, threads = [0] * 12, 400, 12

    def ask(me: int) -> None:
        for turn in range(rounds):
            runner: Runner[int] = Runner(relay)
            asked.append(runner)
            there.release()
            try:
                assert runner.wait(Deadline(1e-5 if me < 3 and turn % 5 == 0 else LONG)) == id(runner)
            except Abandoned:
                assert me < 3
            answered[me] += 1

    def answer() -> None:
        for _ in range(threads * rounds):
            there.acquire()
            runner = asked.pop()
            runner.set(id(runner))

    running = [threading.Thread(target=answer, daemon=True)]
    running += [threading.Thread(target=ask, args=(me,), daemon=True) for me in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(LONG)
    assert answered == [rounds] * threads
    assert not relay.more


# -- with the outbox --------------------------------------------------------------------------------------------------


def test_what_the_woken_publish_is_written_together() -> None:
    """The first ones leave it to the last one to wake the loop."""

    class Line:
        up, max_payload = True, 1 << 20

        def __init__(self) -> None:
            self.written: List[List[bytes]] = []

        async def write(self, commands: List[bytes]) -> bool:
            self.written.append(commands)
            return True

        def write_at_once(self, commands: List[bytes]) -> bool:
            raise AssertionError("nobody writes in the loop's place while others are about to publish")

        async def barrier(self, waiter: Any) -> None: ...

    line = Line()
    thread = LoopThread("test-loop", use_uvloop=False)
    thread.start(Deadline(LONG))
    outbox = Outbox(thread, 1 << 20, line)

    async def start() -> asyncio.Task[None]:
        outbox.open()
        return asyncio.ensure_future(outbox.write())

    async def rested() -> None:
        while not await outbox.written():
            pass

    def on_loop(coro_fn: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return thread.call(coro_fn, deadline=Deadline(LONG), what="the test")

    writing = on_loop(start)
    on_loop(rested)
    for _ in range(3):
        thread.relay.add(new_event())
    outbox.publish(b"one", 1.0, urgent=True)
    thread.relay.pass_on()
    outbox.publish(b"two", 1.0)
    assert line.written == []
    thread.relay.pass_on()
    outbox.publish(b"three", 1.0)
    assert line.written == []
    thread.relay.pass_on()
    on_loop(rested)
    assert line.written == [[b"one", b"two", b"three"]]

    async def end() -> None:
        writing.cancel()

    thread.stop(end, Deadline(LONG))
