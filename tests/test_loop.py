"""The loop thread: what enters before it stops is carried out, what comes later is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Callable, Iterator, List

import pytest
from procs import LONG, WaitFor

from natsbridge import _loop, _waiter
from natsbridge._deadline import Deadline
from natsbridge._loop import LoopThread
from natsbridge._waiter import Waiter
from natsbridge.errors import ClosedError, LoopThreadError, NatsBridgeError, RequestTimeoutError

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None


async def nothing() -> None:
    pass


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread("natsbridge-test-loop")
    loop.start(Deadline(LONG))
    yield loop
    loop.stop(nothing, Deadline(LONG))
    assert not loop.alive


def call(loop: LoopThread, coro_fn: Callable[..., Any], *args: Any, timeout: float = LONG, undo: Any = None) -> Any:
    return loop.call(coro_fn, *args, deadline=Deadline(timeout), what="the call", undo=undo)


# -- life -------------------------------------------------------------------------------------------------------------


def test_the_thread_is_named_and_a_daemon(loop: LoopThread) -> None:
    async def thread() -> threading.Thread:
        return threading.current_thread()

    current = call(loop, thread)
    assert current.name == "natsbridge-test-loop"
    assert current.daemon
    assert loop.alive
    assert not loop.closed


def test_nothing_runs_before_start() -> None:
    loop = LoopThread("natsbridge-test-loop")
    assert not loop.alive
    with pytest.raises(ClosedError):
        loop.post(print)
    loop.post_quietly(print)
    loop.stop(nothing, Deadline(LONG))
    assert loop.closed


def test_what_was_accepted_before_the_stop_is_carried_out(loop: LoopThread) -> None:
    ran: List[object] = []
    for n in range(100):
        loop.post(ran.append, n)

    async def farewell() -> None:
        ran.append("farewell")

    loop.stop(farewell, Deadline(LONG))
    assert ran == [*range(100), "farewell"]
    assert not loop.alive


def test_after_the_stop_everything_is_refused_with_one_exception(loop: LoopThread) -> None:
    loop.stop(nothing, Deadline(LONG))
    assert loop.closed
    with pytest.raises(ClosedError, match="natsbridge-test-loop is closed"):
        loop.post(print)
    with pytest.raises(ClosedError, match="natsbridge-test-loop is closed"):
        call(loop, nothing)
    loop.post_quietly(pytest.fail, "it must not run")


def test_stopping_twice_and_from_many_threads(loop: LoopThread) -> None:
    farewells: List[int] = []

    async def farewell() -> None:
        farewells.append(1)

    threads = [threading.Thread(target=loop.stop, args=(farewell, Deadline(LONG))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert farewells == [1]
    assert not loop.alive


def test_a_farewell_that_takes_too_long_is_cut_off(loop: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    cancelled: List[bool] = []

    async def farewell() -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    began = time.monotonic()
    loop.stop(farewell, Deadline(0.05))
    assert time.monotonic() - began < 5.0
    assert cancelled == [True]
    assert not loop.alive
    assert "what was left is cancelled" in caplog.text


def test_a_farewell_that_fails_is_logged_and_the_loop_ends(loop: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    async def farewell() -> None:
        raise ValueError("boom")

    loop.stop(farewell, Deadline(LONG))
    assert not loop.alive
    assert "boom" in caplog.text


def test_stopping_cancels_what_still_runs_and_its_callers_get_closed_error(loop: LoopThread) -> None:
    started = threading.Event()
    errors: List[BaseException] = []

    async def endless() -> None:
        started.set()
        await asyncio.sleep(10 * LONG)

    def caller() -> None:
        try:
            call(loop, endless)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=caller)
    thread.start()
    assert started.wait(LONG)
    loop.stop(nothing, Deadline(LONG))
    thread.join(LONG)
    assert [type(error) for error in errors] == [ClosedError]


def test_a_task_that_resists_cancellation_does_not_hold_up_the_end(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_loop, "_CANCEL_GRACE", 0.05)
    started = threading.Event()
    caplog.set_level(logging.CRITICAL, "asyncio")  # asyncio complains about the task that was left, and rightly so

    async def stubborn() -> None:
        started.set()
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                if not loop.closed:
                    raise
                for _ in range(20):
                    try:
                        await asyncio.sleep(0.01)
                    except (asyncio.CancelledError, RuntimeError):
                        continue
                raise

    loop.post(lambda: asyncio.get_event_loop().create_task(stubborn()))
    assert started.wait(LONG)
    began = time.monotonic()
    loop.stop(nothing, Deadline(1.0))
    assert time.monotonic() - began < 5.0
    assert not loop.alive


def test_stop_soon_does_not_wait(loop: LoopThread, wait_for: WaitFor) -> None:
    gate = threading.Event()
    said: List[int] = []

    async def farewell() -> None:
        said.append(1)

    loop.post(gate.wait, LONG)
    loop.stop_soon(farewell, Deadline(LONG))
    assert loop.closed
    assert loop.alive
    gate.set()
    wait_for(lambda: not loop.alive)
    assert said == [1]


def test_a_stop_from_the_loop_thread_itself_does_not_wait_for_itself(loop: LoopThread, wait_for: WaitFor) -> None:
    loop.post(loop.stop, nothing, Deadline(LONG))
    wait_for(lambda: not loop.alive)


def test_a_thread_that_does_not_come_up_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    made = _loop._new_event_loop

    def slow(use_uvloop: Any) -> asyncio.AbstractEventLoop:
        gate.wait(LONG)
        return made(use_uvloop)

    monkeypatch.setattr(_loop, "_new_event_loop", slow)
    loop = LoopThread("natsbridge-test-loop")
    try:
        with pytest.raises(NatsBridgeError, match=r"'natsbridge-test-loop' did not start within 0\.02 s.*enable-threads"):
            loop.start(Deadline(0.02))
    finally:
        gate.set()  # it ends by itself, as nobody waits for it any more


# -- the kind of loop -------------------------------------------------------------------------------------------------


async def kind() -> str:
    return type(asyncio.get_running_loop()).__module__


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, "uvloop" if HAS_UVLOOP else "asyncio"), (False, "asyncio")], ids=["as it is", "asyncio"]
)
def test_uvloop_is_used_when_it_is_installed_and_wanted(wanted: Any, expected: str) -> None:
    loop = LoopThread("natsbridge-test-loop", use_uvloop=wanted)
    loop.start(Deadline(LONG))
    try:
        assert call(loop, kind).split(".")[0] == expected
    finally:
        loop.stop(nothing, Deadline(LONG))


def test_uvloop_that_is_demanded_but_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loop, "uvloop", None)
    loop = LoopThread("natsbridge-test-loop", use_uvloop=True)
    with pytest.raises(NatsBridgeError, match="uvloop is not installed: pip install"):
        loop.start(Deadline(LONG))
    loop = LoopThread("natsbridge-test-loop", use_uvloop=None)
    loop.start(Deadline(LONG))
    try:
        assert call(loop, kind).split(".")[0] == "asyncio"
    finally:
        loop.stop(nothing, Deadline(LONG))


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_returns_and_raises_what_the_coroutine_does(loop: LoopThread) -> None:
    async def divide(a: int, b: int) -> float:
        return a / b

    assert call(loop, divide, 6, 3) == 2
    with pytest.raises(ZeroDivisionError):
        call(loop, divide, 6, 0)


def test_a_call_that_takes_too_long_is_cancelled(loop: LoopThread) -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(10 * LONG)
        finally:
            cancelled.set()

    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"^the call did not finish within 0\.05 s$"):
        call(loop, endless, timeout=0.05)
    assert time.monotonic() - began < 5.0
    assert cancelled.wait(LONG)


def test_a_call_that_was_given_up_before_its_turn_is_not_begun(loop: LoopThread) -> None:
    gate = threading.Event()
    begun: List[int] = []

    async def late() -> None:
        begun.append(1)

    loop.post(gate.wait, LONG)
    with pytest.raises(RequestTimeoutError):
        call(loop, late, timeout=0.02)
    gate.set()
    call(loop, nothing)  # its turn has passed
    assert begun == []


def test_a_result_that_nobody_waits_for_is_undone(loop: LoopThread) -> None:
    finish = threading.Event()
    undone: List[str] = []

    async def stubborn() -> str:
        while not finish.is_set():
            with suppress(asyncio.CancelledError):  # it was too late to cancel
                await asyncio.sleep(0.005)
        return "result"

    with pytest.raises(RequestTimeoutError):
        call(loop, stubborn, timeout=0.02, undo=undone.append)
    assert undone == []
    finish.set()
    deadline = Deadline(LONG)
    while not undone and not deadline.passed():
        time.sleep(0.001)
    assert undone == ["result"]


def test_a_result_that_was_taken_is_not_undone(loop: LoopThread) -> None:
    undone: List[str] = []

    async def quick() -> str:
        return "result"

    assert call(loop, quick, undo=undone.append) == "result"
    call(loop, nothing)
    assert undone == []


class Interrupting(Waiter[Any]):
    """A wait into which Ctrl-C comes, before (False) or just after (True) the result was handed over."""

    after = False

    def wait(self, deadline: Deadline) -> Any:
        if self.after:
            super().wait(deadline)
            raise KeyboardInterrupt
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_waiter, "new_event", Interrupted)
            return super().wait(deadline)


class Interrupted:
    """An event, waiting for which Ctrl-C comes."""

    def acquire(self, *_: object) -> bool:
        raise KeyboardInterrupt

    def release(self) -> None:
        pass


def test_ctrl_c_comes_through_and_cancels_the_coroutine(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = threading.Event()
    started = threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.sleep(10 * LONG)
        finally:
            cancelled.set()

    class AfterStart(Interrupting):
        def wait(self, deadline: Deadline) -> Any:
            assert started.wait(LONG)
            return super().wait(deadline)

    monkeypatch.setattr(_loop, "Waiter", AfterStart)
    with pytest.raises(KeyboardInterrupt):
        call(loop, endless)
    assert cancelled.wait(LONG)


def test_ctrl_c_just_after_the_result_undoes_it(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    """The signal may arrive between the hand-over and the return: then nobody has the result, just as after a timeout."""
    undone: List[str] = []

    async def quick() -> str:
        return "result"

    class After(Interrupting):
        after = True

    monkeypatch.setattr(_loop, "Waiter", After)
    with pytest.raises(KeyboardInterrupt):
        call(loop, quick, undo=undone.append)
    wait_for(lambda: undone, timeout=3.0, what="the undo of a result that nobody got")
    assert undone == ["result"]


# -- the loop thread itself -------------------------------------------------------------------------------------------


def test_a_blocking_call_on_the_loop_thread_is_refused(loop: LoopThread) -> None:
    errors: List[BaseException] = []

    def on_loop() -> None:
        assert loop.is_current()
        try:
            call(loop, nothing)
        except BaseException as error:
            errors.append(error)

    assert not loop.is_current()
    loop.refuse_here()
    loop.post(on_loop)
    call(loop, nothing)
    (error,) = errors
    assert isinstance(error, LoopThreadError)
    assert isinstance(error, RuntimeError)
    assert "make it on another thread" in str(error)


def test_the_ident_of_a_loop_that_has_ended_means_nothing(loop: LoopThread) -> None:
    """Thread idents are used again: a new thread must not be taken for the loop thread of a pool that was closed."""
    loop.stop(nothing, Deadline(LONG))
    current: List[bool] = []
    for _ in range(50):
        thread = threading.Thread(target=lambda: current.append(loop.is_current()))
        thread.start()
        thread.join(LONG)
    assert current == [False] * 50


def test_posts_run_in_order_on_the_loop_thread(loop: LoopThread) -> None:
    ran: List[int] = []
    for n in range(100):
        (loop.post if n % 2 else loop.post_quietly)(ran.append, n)
    call(loop, nothing)
    assert ran == list(range(100))


def test_a_signal_handler_may_post_from_inside_the_gate(loop: LoopThread) -> None:
    ran: List[int] = []
    with loop._gate:
        loop.post(ran.append, 1)
    call(loop, nothing)
    assert ran == [1]


def test_callers_that_meet_the_stop_all_come_back(wait_for: WaitFor) -> None:
    """Eight callers, one stop, many times: everyone gets a result or ClosedError, nobody hangs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    outcomes: List[str] = []

    async def answer() -> str:
        await asyncio.sleep(0)
        return "answer"

    try:
        for turn in range(60):
            loop = LoopThread("natsbridge-test-loop")
            loop.start(Deadline(LONG))
            ready = threading.Barrier(9)

            def caller(loop: LoopThread = loop, ready: threading.Barrier = ready) -> None:
                ready.wait(LONG)
                try:
                    while True:
                        outcomes.append(call(loop, answer))
                except ClosedError:
                    outcomes.append("closed")
                except BaseException as error:
                    outcomes.append(repr(error))

            threads = [threading.Thread(target=caller) for _ in range(8)]
            for thread in threads:
                thread.start()
            ready.wait(LONG)
            if turn % 2:
                before_stop = len(outcomes)
                wait_for(lambda count=before_stop: len(outcomes) > count, what="an answer before the stop")  # type: ignore[misc]
            loop.stop(nothing, Deadline(LONG))
            for thread in threads:
                thread.join(LONG)
                assert not thread.is_alive()
            assert not loop.alive
    finally:
        sys.setswitchinterval(before)
    assert set(outcomes) == {"answer", "closed"}
    assert outcomes.count("closed") == 8 * 60
