"""A client that is gone is noticed in every way there is, whatever its handler is doing.

The worker is a process of its own throughout; the requester is another one, where it has to be killed.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import closing
from typing import Iterator, List

import pytest
from procs import Child, Facts, StartProgram, posix_only, wait_until

from natsbridge import (
    ClientOfflineError,
    Message,
    OnlineRegistry,
    Pool,
    RequestTimeoutError,
    ResponseSender,
    ResponseStream,
    StreamError,
    StreamRequest,
    Subscriber,
)
from natsbridge.server import EmbeddedServer

pytestmark = [pytest.mark.process, posix_only]

WINDOW = 64
PROBE_INTERVAL = 1.0
AT_ONCE = 0.9 * PROBE_INTERVAL  # far more than one message takes, and sooner than any probe
BY_PROBE = 2.5 * PROBE_INTERVAL  # a probe that finds nobody, and sooner than giving up after three of them

manners = pytest.mark.parametrize("manner", ["fast", "slow", "silent", "callback", "generator"])


@pytest.fixture(scope="module")
def worker(server: EmbeddedServer) -> Iterator[Child]:
    """One process for all tests, so that each also shows that the one before has left nothing behind."""
    child = Child(
        "worker",
        url=server.url,
        subject="offline",
        listen=True,
        pool={"probe_interval": PROBE_INTERVAL, "window": WINDOW},
        subscriber={"max_workers": 2, "max_queued": 0},
    )
    with closing(child):
        child.hear("ready")
        yield child


@pytest.fixture
def gateway(server: EmbeddedServer, start_program: StartProgram) -> Child:
    """A requesting process, or one that only marks."""
    child = start_program("gateway", url=server.url, pool={"window": WINDOW})
    child.hear("ready")
    return child


@pytest.fixture
def registry() -> OnlineRegistry:
    return OnlineRegistry()


@pytest.fixture
def pool(server: EmbeddedServer, registry: OnlineRegistry) -> Iterator[Pool]:
    """The requester's pool, with a registry of its own: what is marked in this process is no other test's business."""
    with Pool(server.url, window=WINDOW, registry=registry) as pool:
        yield pool


def read(stream: Iterator[bytes], count: int) -> None:
    """Read chunks and see that they are in order."""
    for number, chunk in enumerate(itertools.islice(stream, count)):
        assert chunk == b"%d" % number


def chunks_of(manner: str) -> int:
    """How many chunks can be read before something has to happen."""
    return 1 if manner in ("silent", "callback") else 3


def open_stream(pool: Pool, manner: str, key: str, **options: float) -> ResponseStream:
    stream = pool.stream(f"offline.{manner}", key.encode(), connect_id=key, **options)  # type: ignore[arg-type]
    read(stream, chunks_of(manner))
    return stream


def assert_handler_ended(
    worker: Child, manner: str, key: str, reason: str, since: float, *, within: float = AT_ONCE
) -> Facts:
    """The handler has ended soon, for that reason, and its thread is free."""
    ended = worker.hear("ended", key=key)
    assert ended["reason"] == reason
    assert ended["at"] - since < within
    assert ended["last"] - since < within
    if manner == "generator":
        assert ended["closed"]
        assert ended["thread"].startswith("natsbridge-offline.generator-"), "its clean-up ran elsewhere"
    else:
        assert (ended["error"], ended["connect_id"]) == ("ClientOfflineError", key)

    def figures() -> Facts:
        stats: Facts = worker.ask("look")["stats"][f"offline.{manner}"]
        return stats

    left = ("running", "queued", "detached", "ending")
    wait_until(lambda: not any(map(figures().__getitem__, left)), what="a free thread, and nothing that is left")
    assert figures()["failed"] == 0
    wait_until(lambda: worker.ask("look")["streams"] == 0, what="the end of the stream")
    return ended


@manners
def test_marked_offline_in_the_workers_process(worker: Child, pool: Pool, unique: str, manner: str) -> None:
    with open_stream(pool, manner, unique) as stream:
        since = time.monotonic()
        sent = worker.ask("offline", connect_id=unique)["runs"][unique]["sent"]
        ended = assert_handler_ended(worker, manner, unique, "offline", since)
        assert ended["sent"] <= sent + 1, "only a send that was under way may come through"
        with pytest.raises(ClientOfflineError) as caught:
            list(stream)
    assert (caught.value.connect_id, caught.value.reason) == (unique, "offline")


@manners
def test_marked_offline_in_another_process(worker: Child, gateway: Child, pool: Pool, unique: str, manner: str) -> None:
    """Neither the worker nor the requester is where it is marked: the worker's listener hears of it."""
    with open_stream(pool, manner, unique) as stream:
        since = time.monotonic()
        gateway.ask("offline", connect_id=unique)
        ended = assert_handler_ended(worker, manner, unique, "offline", since)
        assert ended["sent"] <= chunks_of(manner) + WINDOW
        with pytest.raises(ClientOfflineError) as caught:
            list(stream)
    assert (caught.value.connect_id, caught.value.reason) == (unique, "offline")


@manners
def test_marked_offline_in_the_requesters_process(worker: Child, pool: Pool, unique: str, manner: str) -> None:
    """The requester's own end stops at once; the worker hears it from there, or from the announcement."""
    with open_stream(pool, manner, unique) as stream:
        since = time.monotonic()
        pool.mark_client_offline(unique)
        with pytest.raises(ClientOfflineError):
            next(stream)
        assert stream.end_reason == "offline"
        reason = worker.hear("ended", key=unique)["reason"]
        assert reason in ("offline", "cancelled")
        ended = assert_handler_ended(worker, manner, unique, reason, since)
        assert ended["sent"] <= chunks_of(manner) + WINDOW


@manners
def test_the_last_lease_of_a_client_ends(worker: Child, pool: Pool, unique: str, manner: str) -> None:
    with pool.client(unique):
        with pool.client(unique):
            stream = open_stream(pool, manner, unique)
        assert stream.end_reason is None, "the client is still held"
        since = time.monotonic()
    with pytest.raises(ClientOfflineError):
        next(stream)
    reason = worker.hear("ended", key=unique)["reason"]
    assert reason in ("offline", "cancelled")
    assert_handler_ended(worker, manner, unique, reason, since)


@manners
def test_the_loop_is_left_early(worker: Child, pool: Pool, unique: str, manner: str) -> None:
    count = 0
    with pool.stream(f"offline.{manner}", unique.encode(), connect_id=unique) as stream:
        for chunk in stream:
            assert chunk == b"%d" % count
            count += 1
            if count == chunks_of(manner):
                break
        since = time.monotonic()
    assert stream.end_reason == "cancelled"
    assert list(stream) == []
    ended = assert_handler_ended(worker, manner, unique, "cancelled", since)
    assert ended["sent"] <= count + WINDOW


@manners
def test_the_response_handler_returns_false(worker: Child, pool: Pool, unique: str, manner: str) -> None:
    seen = []

    def response_handler(message: Message) -> bool:
        seen.append(message.data)
        return len(seen) < chunks_of(manner)

    assert pool.stream_request_with_client(f"offline.{manner}", unique.encode(), unique, response_handler) == "cancelled"
    since = time.monotonic()
    assert seen == [b"%d" % number for number in range(chunks_of(manner))], "nothing comes after the answer False"
    ended = assert_handler_ended(worker, manner, unique, "cancelled", since)
    assert ended["sent"] <= len(seen) + WINDOW


def test_an_exception_of_the_response_handler_stops_the_worker(worker: Child, pool: Pool, unique: str) -> None:
    def response_handler(message: Message) -> None:
        raise ZeroDivisionError(message.data.decode())

    with pytest.raises(ZeroDivisionError, match=r"^0$"):
        pool.stream_request_with_client("offline.fast", unique.encode(), unique, response_handler)
    ended = assert_handler_ended(worker, "fast", unique, "cancelled", time.monotonic())
    assert ended["sent"] <= 1 + WINDOW


@manners
def test_the_requester_is_killed(worker: Child, gateway: Child, unique: str, manner: str) -> None:
    count = chunks_of(manner)
    gateway.ask("stream", subject=f"offline.{manner}", key=unique, connect_id=unique, pause=count)
    gateway.hear("paused", key=unique)
    killed = gateway.kill()
    ended = assert_handler_ended(worker, manner, unique, "no_interest", killed, within=BY_PROBE)
    assert ended["sent"] <= count + WINDOW


@pytest.mark.parametrize("manner", ["fast", "slow", "generator"])
def test_the_requester_is_killed_while_it_reads(worker: Child, gateway: Child, unique: str, manner: str) -> None:
    gateway.ask("stream", subject=f"offline.{manner}", key=unique, connect_id=unique)
    gateway.hear("first", key=unique)
    killed = gateway.kill()
    # Each chunk asks whether somebody is there. But a full window may be all that is left to send.
    assert_handler_ended(worker, manner, unique, "no_interest", killed, within=AT_ONCE if manner == "slow" else BY_PROBE)


@manners
def test_the_deadline_passes(worker: Child, pool: Pool, unique: str, manner: str) -> None:
    timeout = 0.4
    asked = time.monotonic()
    with open_stream(pool, manner, unique, timeout=timeout) as stream:
        with pytest.raises(RequestTimeoutError, match=r"did not end within 0\.4 s"):
            for _ in stream:
                pass
        took = time.monotonic() - asked
        assert stream.end_reason in ("deadline", "error")  # its own clock, or the worker's
    started = worker.hear("started", key=unique)
    if manner != "generator":
        assert 0 < started["remaining"] <= timeout
    ended = assert_handler_ended(worker, manner, unique, "deadline", asked + timeout)
    assert timeout <= took < timeout + AT_ONCE
    assert ended["at"] >= asked + timeout - 0.01


def test_the_deadline_passes_while_the_requester_says_nothing(worker: Child, gateway: Child, unique: str) -> None:
    """A frozen requester cannot tell that its time is over: the worker keeps the time by itself."""
    timeout = 0.5
    manners = ("fast", "slow", "silent", "callback", "generator")
    for manner in manners:
        gateway.ask(
            "stream", subject=f"offline.{manner}", key=f"{unique}-{manner}", connect_id=f"{unique}-{manner}",
            options={"timeout": timeout},
        )  # fmt: skip
        gateway.hear("first", key=f"{unique}-{manner}")
    gateway.freeze()
    for manner in manners:
        started = worker.hear("started", key=f"{unique}-{manner}")
        assert_handler_ended(worker, manner, f"{unique}-{manner}", "deadline", started["at"] + timeout)
    gateway.thaw()
    for manner in manners:
        assert gateway.hear("over", key=f"{unique}-{manner}")["error"] == "RequestTimeoutError"


def test_an_id_is_offline_already_when_its_request_arrives(worker: Child, pool: Pool, unique: str) -> None:
    before = worker.ask("offline", connect_id=unique)["stats"]["offline.fast"]
    with pool.stream("offline.fast", unique.encode(), connect_id=unique) as stream:
        with pytest.raises(ClientOfflineError) as caught:
            next(stream)
    assert (caught.value.connect_id, caught.value.reason) == (unique, "offline")
    after = worker.ask("look")["stats"]["offline.fast"]
    assert after["refused"] == before["refused"] + 1
    assert after["served"] == before["served"]
    assert worker.find("started", key=unique) is None

    worker.ask("online", connect_id=unique)
    with open_stream(pool, "fast", unique) as stream:
        assert stream.end_reason is None


def test_an_id_is_offline_already_by_another_process(worker: Child, gateway: Child, pool: Pool, unique: str) -> None:
    """The mark of another gateway holds here too, until the client is marked online again there."""
    gateway.ask("offline", connect_id=unique)

    def refused() -> bool:
        with pool.stream("offline.slow", unique.encode(), connect_id=unique) as stream:
            try:
                next(stream)
            except ClientOfflineError:
                return True
            return False

    wait_until(refused, what="the refusal of a client that went offline")  # the announcement travels on its own
    started = len([facts for facts in worker.facts if facts["event"] == "started"])
    assert refused()
    assert len([facts for facts in worker.facts if facts["event"] == "started"]) == started
    gateway.ask("online", connect_id=unique)
    wait_until(lambda: not refused(), what="the return of the client")


def test_an_id_that_is_offline_here_is_not_even_requested(worker: Child, pool: Pool, unique: str) -> None:
    pool.mark_client_offline(unique)
    with pytest.raises(ClientOfflineError):
        pool.stream("offline.fast", unique.encode(), connect_id=unique)
    assert pool.stats().streams == 0
    assert worker.find("started", key=unique) is None


def test_other_clients_are_not_disturbed(worker: Child, pool: Pool, unique: str) -> None:
    """Two clients on two threads of one handler; the one that goes offline does not take the other along."""
    with open_stream(pool, "slow", f"{unique}-a") as stays, open_stream(pool, "slow", f"{unique}-b"):
        worker.ask("offline", connect_id=f"{unique}-b")
        worker.hear("ended", key=f"{unique}-b")
        for number, chunk in enumerate(itertools.islice(stays, 3), 3):
            assert chunk == b"%d" % number
        assert worker.find("ended", key=f"{unique}-a") is None


def test_many_that_leave_early_leave_nothing_behind(worker: Child, pool: Pool, unique: str) -> None:
    """With two threads and no queue in the worker, a thread that was not given back would soon be missed."""
    for turn in range(100):
        key = f"{unique}-{turn}"
        with pool.stream("offline.fast", key.encode(), connect_id=key) as stream:
            read(stream, 3)
        ended = worker.hear("ended", key=key)
        assert ended["reason"] == "cancelled"
        assert ended["sent"] <= 3 + WINDOW
    figures = worker.ask("look")["stats"]["offline.fast"]
    assert figures["threads"] <= 2
    assert figures["ending"] == 0
    assert pool.stats().streams == 0


def test_a_stream_that_nobody_holds_is_cancelled(worker: Child, pool: Pool, unique: str) -> None:
    stream = open_stream(pool, "slow", unique)
    assert worker.find("ended", key=unique) is None
    since = time.monotonic()
    del stream
    assert_handler_ended(worker, "slow", unique, "cancelled", since)


def test_a_generator_is_closed_though_somebody_holds_it(
    worker: Child, pool: Pool, subscriber: Subscriber, unique: str
) -> None:
    """Its clean-up does not wait for the garbage collector, nor run wherever that happens to run."""
    held = []
    cleaned_up_in: List[str] = []

    def generate() -> Iterator[bytes]:
        try:
            while True:
                yield b"chunk"
        finally:
            cleaned_up_in.append(threading.current_thread().name)

    def handler(request: StreamRequest, sender: ResponseSender) -> Iterator[bytes]:
        held.append(generate())
        return held[0]

    subscriber.stream_subscribe_handler(unique, handler)
    with pool.stream(unique) as stream:
        next(stream)
    wait_until(lambda: cleaned_up_in, what="the clean-up")
    assert cleaned_up_in[0].startswith(f"natsbridge-{unique}-")
    assert list(held[0]) == []


def test_stopping_after_the_end_is_no_error(worker: Child, pool: Pool, unique: str) -> None:
    with pool.stream("offline.some", unique.encode(), connect_id=unique) as stream:
        assert list(stream) == [b"0", b"1", b"2"]
        assert stream.end_reason == "completed"
    stream.cancel()
    assert stream.end_reason == "completed"
    ended = worker.hear("ended", key=unique)
    assert (ended["reason"], ended["error"]) == (None, None)
    worker.ask("offline", connect_id=unique)  # nothing is left that it could stop
    with pytest.raises(StreamError), pool.stream("offline.refusing", f"{unique}-2".encode()) as stream:
        list(stream)
