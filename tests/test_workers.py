"""Bounded handler threads."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Iterator, List

import pytest
from procs import LONG, WaitFor

from natsbridge import _workers
from natsbridge._deadline import Deadline
from natsbridge._workers import Workers


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Jobs wait for it; set at the end of the test in any case."""
    gate = threading.Event()
    yield gate
    gate.set()


def make(max_workers: int = 2, max_queued: int = 0) -> Workers:
    return Workers("natsbridge-test", max_workers, max_queued)


def close(workers: Workers) -> None:
    assert workers.close(Deadline(LONG))
    assert workers.counts() == (0, 0, 0)


def test_no_thread_before_there_is_work() -> None:
    workers = make()
    assert workers.counts() == (0, 0, 0)
    close(workers)


def test_jobs_run_on_named_daemon_threads() -> None:
    workers = make()
    seen: List[threading.Thread] = []
    done = threading.Event()

    def job() -> None:
        seen.append(threading.current_thread())
        done.set()

    assert workers.submit(job)
    assert done.wait(LONG)
    (thread,) = seen
    assert thread.name == "natsbridge-test-1"
    assert thread.daemon
    close(workers)
    assert not thread.is_alive()


@pytest.mark.parametrize(("max_workers", "max_queued"), [(1, 0), (2, 0), (1, 1), (2, 3), (4, 1)])
def test_as_many_jobs_as_there_is_room_for_and_not_one_more(
    max_workers: int, max_queued: int, gate: threading.Event, wait_for: WaitFor
) -> None:
    workers = make(max_workers, max_queued)
    ran: List[int] = []

    def job(n: int) -> None:
        gate.wait(LONG)
        ran.append(n)

    for n in range(max_workers + max_queued):
        assert workers.submit(lambda n=n: job(n))  # type: ignore[misc]
    assert not workers.submit(lambda: job(-1))
    wait_for(lambda: workers.counts() == (max_workers, max_workers, max_queued))
    assert not workers.submit(lambda: job(-1))
    gate.set()
    assert workers.wait_idle(Deadline(LONG))
    assert sorted(ran) == list(range(max_workers + max_queued))
    assert workers.submit(lambda: job(99))  # there is room again
    assert workers.wait_idle(Deadline(LONG))
    assert ran[-1] == 99
    close(workers)


def test_with_two_workers_and_no_queue_the_third_job_is_refused(gate: threading.Event) -> None:
    workers = make(2, 0)
    assert workers.submit(lambda: gate.wait(LONG))
    assert workers.submit(lambda: gate.wait(LONG))
    assert not workers.submit(lambda: None)
    gate.set()
    close(workers)


def test_no_job_is_refused_while_there_is_room() -> None:
    """One job at a time, each submitted once the one before is known to have ended: there is always room."""
    workers = make(1, 0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(500):
            assert workers.submit(lambda: None)
            assert workers.wait_idle(Deadline(LONG))
    finally:
        sys.setswitchinterval(before)
    threads, _, _ = workers.counts()
    assert threads == 1  # an idle thread is used again
    close(workers)


def test_many_threads_submit_and_every_accepted_job_runs_once(wait_for: WaitFor) -> None:
    workers = make(4, 8)
    ran: List[int] = []
    accepted: List[int] = []
    most = [0]
    lock = threading.Lock()
    running = [0]

    def job(n: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            ran.append(n)
        time.sleep(0.0002)
        with lock:
            running[0] -= 1

    def submit(first: int) -> None:
        for n in range(first, first + 200):
            if workers.submit(lambda n=n: job(n)):  # type: ignore[misc]
                accepted.append(n)

    threads = [threading.Thread(target=submit, args=(first * 1000,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert workers.wait_idle(Deadline(LONG))
    assert sorted(ran) == sorted(accepted)
    assert len(accepted) > 0
    assert most[0] <= 4
    close(workers)


def test_jobs_start_in_the_order_of_submission(gate: threading.Event) -> None:
    workers = make(1, 50)
    ran: List[int] = []
    workers.submit(lambda: gate.wait(LONG))
    for n in range(50):
        assert workers.submit(lambda n=n: ran.append(n))  # type: ignore[misc]
    gate.set()
    assert workers.wait_idle(Deadline(LONG))
    assert ran == list(range(50))
    close(workers)


def test_an_unlimited_queue_refuses_nothing(gate: threading.Event) -> None:
    workers = Workers("natsbridge-test", 1, None)
    for _ in range(1000):
        assert workers.submit(lambda: gate.wait(LONG))
    gate.set()
    assert workers.wait_idle(Deadline(LONG))
    close(workers)


def test_a_job_that_fails_is_logged_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    workers = make(1, 10)
    names: List[str] = []

    def fail() -> None:
        raise ValueError("boom")

    with caplog.at_level(logging.ERROR, "natsbridge"):
        workers.submit(fail)
        workers.submit(lambda: names.append(threading.current_thread().name))
        assert workers.wait_idle(Deadline(LONG))
    assert names == ["natsbridge-test-1"]
    assert "boom" in caplog.text
    close(workers)


def test_a_job_that_ends_its_thread_takes_no_capacity_with_it(wait_for: WaitFor) -> None:
    """``sys.exit()`` in a handler or callback ends at most that thread; those who come later are served."""
    workers = make(1, 10)
    ran: List[int] = []
    assert workers.submit(sys.exit)
    assert workers.submit(lambda: ran.append(1))
    wait_for(lambda: ran, timeout=3.0, what="a job behind one that called sys.exit()")
    close(workers)


def test_idle_threads_go(monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor) -> None:
    monkeypatch.setattr(_workers, "_IDLE_SECONDS", 0.05)
    workers = make(2, 0)
    assert workers.submit(lambda: None)
    wait_for(lambda: workers.counts() == (0, 0, 0), what="the idle thread to go")
    done = threading.Event()
    assert workers.submit(done.set)  # and a new one comes
    assert done.wait(LONG)
    close(workers)


def test_threads_do_not_hold_on_to_what_their_last_job_held() -> None:
    import weakref

    class Thing:
        pass

    workers = make(1, 0)
    thing = Thing()
    reference = weakref.ref(thing)
    assert workers.submit(lambda thing=thing: None)  # type: ignore[misc]
    del thing
    assert workers.wait_idle(Deadline(LONG))
    end = Deadline(3.0)  # much less than an idle thread's life
    while reference() is not None and not end.passed():
        time.sleep(0.001)
    assert reference() is None
    close(workers)


def test_waiting_for_idleness_ends_at_the_deadline(gate: threading.Event) -> None:
    workers = make(1, 0)
    workers.submit(lambda: gate.wait(LONG))
    assert not workers.wait_idle(Deadline(0.02))
    gate.set()
    assert workers.wait_idle(Deadline(LONG))
    close(workers)


def test_a_job_may_wait_for_all_others() -> None:
    workers = make(2, 0)
    results: List[bool] = []
    workers.submit(lambda: results.append(workers.wait_idle(Deadline(LONG))))
    assert workers.wait_idle(Deadline(LONG))
    assert results == [True]
    close(workers)


def test_closing_drops_the_queue_joins_and_refuses(gate: threading.Event) -> None:
    workers = make(1, 10)
    ran: List[str] = []
    started = threading.Event()

    def first() -> None:
        started.set()
        gate.wait(LONG)
        ran.append("first")

    workers.submit(first)
    workers.submit(lambda: ran.append("queued"))
    assert started.wait(LONG)
    threading.Timer(0.02, gate.set).start()
    assert workers.close(Deadline(LONG))
    assert ran == ["first"]
    assert workers.counts() == (0, 0, 0)
    assert not workers.submit(lambda: ran.append("late"))
    assert workers.close(Deadline(0.0))  # again
    assert ran == ["first"]


def test_closing_gives_up_at_the_deadline(gate: threading.Event) -> None:
    workers = make(1, 0)
    workers.submit(lambda: gate.wait(LONG))
    began = time.monotonic()
    assert not workers.close(Deadline(0.02))
    assert time.monotonic() - began < 2.0
    gate.set()
    assert workers.close(Deadline(LONG))


def test_a_job_may_close() -> None:
    workers = make(1, 0)
    results: List[bool] = []
    done = threading.Event()

    def job() -> None:
        assert workers.is_current()
        results.append(workers.close(Deadline(LONG)))
        done.set()

    assert not workers.is_current()
    workers.submit(job)
    assert done.wait(LONG)
    assert results == [True]
    close(workers)


def test_a_thread_that_cannot_be_started_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workers = make(1, 0)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not workers.submit(lambda: None)
    assert workers.counts() == (0, 0, 0)
    assert "no thread could be started" in caplog.text
    done = threading.Event()
    assert workers.submit(done.set)  # it may work again later
    assert done.wait(LONG)
    close(workers)
