"""Calls let other greenlets run and leave nothing behind, handlers are greenlets, and gevent may patch when it likes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable, Dict, Tuple

import pytest
from procs import LONG, Child, StartProgram, stopped, wait_until

from natsbridge import Message, Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from natsbridge.testing import ServerFactory

pytestmark = pytest.mark.process

Run = Callable[..., Child]

PAUSE = 1.0  # seconds for which each of the program's calls has to wait
PACE = PAUSE / 2  # far more than a greenlet has to wait for its turn, and far less than a call that held up all would take


class Service:
    """What the programs ask for, served by real threads in the test's process."""

    def __init__(self, pool: Pool, subscriber: Subscriber, subject: str) -> None:
        self.ends: Dict[str, Tuple[str, float]] = {}  # by the request's data: why the stream "held" ended, and when
        self._release = pool.subscribe(f"{subject}.release")
        pool.subscribe(f"{subject}.echo", handler=lambda message: message.respond(message.data))
        pool.subscribe(f"{subject}.late-1", handler=self._late)
        pool.subscribe(f"{subject}.late-2", handler=self._late)
        pool.subscribe(f"{subject}.silent", handler=lambda message: None)
        subscriber.stream_subscribe_handler(f"{subject}.some", self._some, max_queued=200)
        subscriber.stream_subscribe_handler(f"{subject}.late-stream", self._late_stream)
        subscriber.stream_subscribe_handler(f"{subject}.held", self._held)
        subscriber.stream_subscribe_handler(f"{subject}.mute", lambda _, sender: sender.wait_offline(LONG))

    def _late(self, message: Message) -> None:
        time.sleep(PAUSE)
        message.respond(b"late")

    def _some(self, request: StreamRequest, sender: ResponseSender) -> None:
        for number in range(3):
            sender.send(b"%d" % number)

    def _late_stream(self, request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"soon")
        time.sleep(PAUSE)
        sender.send(b"late")

    def _held(self, request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        if request.data:
            sender.wait_offline(LONG)
            self.ends[request.data.decode()] = (str(sender.offline_reason), time.monotonic())
        else:
            self._release.next_msg(LONG)
            sender.send(b"two")


@pytest.fixture
def service(worker_pool: Pool, subscriber: Subscriber, unique: str) -> Service:
    return Service(worker_pool, subscriber, unique)


@pytest.fixture
def run(start_program: StartProgram, server: EmbeddedServer, unique: str) -> Run:
    """Start ``programs/hub.py``, to go the way that it is told."""
    return lambda way, **options: start_program("hub", url=server.url, subject=unique, way=way, **options)


def assert_ends_well(child: Child) -> None:
    assert child.wait() == 0, child.errors()
    assert child.errors() == ""


# -- waiting --------------------------------------------------------------------------------------------------------------


def test_calls_that_wait_let_others_run(make_nats_server: ServerFactory, run: Run, service: Service) -> None:
    other = make_nats_server()
    child = run("each_call", other=other.url)
    child.hear("open")
    with stopped(other.pid):
        child.order("go")
        waited = child.hear("waited")
        assert_ends_well(child)
    assert waited["gap"] < PACE
    calls = {name: seconds for name, seconds in waited.items() if name not in ("event", "at", "pid", "gap")}
    assert len(calls) == 12
    assert {name: seconds for name, seconds in calls.items() if seconds < 0.9 * PAUSE} == {}


def test_many_greenlets_and_real_threads(run: Run, service: Service) -> None:
    child = run("many")
    done = child.hear("done")
    assert_ends_well(child)
    assert done["count"] == 100 * 5 + 4 * 50
    assert done["streams"] == 0
    assert done["gap"] < PACE


def test_without_the_main_thread(run: Run) -> None:
    child = run("elsewhere")
    assert child.hear("done")["results"] == ["of a real thread"]
    assert_ends_well(child)


def test_timeouts_of_gevent_leave_nothing_behind(run: Run, service: Service) -> None:
    child = run("timeouts")
    left = child.hear("left")
    assert_ends_well(child)
    assert left["figures"] == [left["figures"][0]] * 4
    assert left["rest"] == ["two"]
    assert left["streams"] == 0


def test_killing_a_reader_ends_its_stream_at_once(run: Run, service: Service) -> None:
    child = run("killed")
    killed = child.hear("killed")
    wait_until(lambda: len(service.ends) == 4, what="the end of the streams at the worker")
    assert sorted(service.ends) == ["iterate", "messages", "next_chunks", "with_client"]
    for reason, at in service.ends.values():
        assert reason == "cancelled"
        assert at - killed["since"] < PACE
    assert killed["streams"] == 0
    child.order("end")
    assert_ends_well(child)


# -- handlers -------------------------------------------------------------------------------------------------------------


def test_handlers_are_greenlets_of_the_main_thread(run: Run, pool: Pool, unique: str) -> None:
    child = run("serves")
    child.hear("ready")
    streams = [pool.stream(f"{unique}.served") for _ in range(50)]
    assert [list(stream) for stream in streams] == [[b"main"]] * 50
    assert pool.request(f"{unique}.where").data == b"main"
    with pool.stream(f"{unique}.offline") as stream:
        assert next(stream) == b"added"
    assert child.hear("callback")["where"] == "main"
    child.order("end")
    served = child.hear("served")
    assert served["gap"] < PACE
    assert served["threads"] < 20  # uvloop's and gevent's own among them
    assert_ends_well(child)


def test_a_program_that_only_waits_for_a_handler(run: Run, pool: Pool, unique: str) -> None:
    child = run("waits_for_a_handler")
    child.hear("ready")
    time.sleep(0.1)  # gevent takes a hub that has nothing to do for one that never will
    assert list(pool.stream(f"{unique}.served")) == []
    child.hear("called")
    assert_ends_well(child)


def test_logs_are_handled_in_the_main_thread(make_nats_server: ServerFactory, run: Run) -> None:
    """The locks of ``logging`` are gevent's, which do not hold between threads."""
    other = make_nats_server()
    child = run("logs", other=other.url)
    child.hear("open")
    other.kill()
    child.order("go")
    assert child.hear("logged")["where"] == [["asyncio", "main"], ["natsbridge", "main"]]
    assert_ends_well(child)


# -- patching -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["imported", "closed"])
def test_patching_late(run: Run, service: Service, when: str) -> None:
    child = run("used", when=when)
    child.hear("used")
    assert_ends_well(child)


def test_patching_too_late(run: Run, service: Service) -> None:
    """The pool that was open says so, and can be closed; another one works."""
    child = run("used_early", when="opened")
    refused = child.hear("used")["refused"]
    assert len(refused) == 4
    assert all("patch_all() was called while natsbridge-early-loop was running" in why for why in refused)
    assert child.wait() == 0, child.errors()  # Python is not silent: threads that began before patching end with a KeyError


def test_it_needs_uvloop(run: Run) -> None:
    child = run("without_uvloop")
    assert "pip install 'natsbridge[gevent]'" in child.hear("refused")["why"]
    assert_ends_well(child)
