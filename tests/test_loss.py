"""Both ends learn the truth: no incomplete stream looks complete, and no living end is given up."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Tuple, Type

import pytest
from procs import Child, StartProgram, posix_only, wait_until

from natsbridge import (
    BusyError,
    ClientOfflineError,
    ClosedError,
    DisconnectedError,
    NatsBridgeError,
    NoRespondersError,
    Pool,
    RequestTimeoutError,
    ResponderLostError,
    ResponseSender,
    ResponseStream,
    StreamError,
    StreamRequest,
    Subscriber,
)
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from natsbridge.testing import ServerFactory

pytestmark = [pytest.mark.process, posix_only]

QUICK = 0.2  # a probe interval
GIVEN_UP = 4 * QUICK  # an interval of silence, and three probes with one each
LONGER = 1.3 * GIVEN_UP
SLACK = 1.5  # seconds: ticks of 0.1 s, and a busy machine


def read(stream: Iterator[bytes], count: int, first: int = 0) -> None:
    """Read chunks and see that they are in order."""
    for number in range(first, first + count):
        assert next(stream).split()[0] == b"%d" % number


def rest(stream: ResponseStream, error: Type[NatsBridgeError]) -> Tuple[List[bytes], NatsBridgeError]:
    """Read on until the stream fails; the chunks, and the error."""
    chunks: List[bytes] = []
    with pytest.raises(error) as caught:
        for chunk in stream:
            chunks.append(chunk)
    return chunks, caught.value


def numbers(first: int, count: int) -> List[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def start_worker(
    start_program: StartProgram,
    server: EmbeddedServer,
    subject: str,
    *,
    pool: Optional[Dict[str, object]] = None,
    **options: object,
) -> Child:
    """A worker that, unless ``pool`` says otherwise, probes as often as the requesters here."""
    pool = {"probe_interval": QUICK, "reconnect_time_wait": 0.1, **(pool or {})}
    worker = start_program("worker", url=server.url, subject=subject, pool=pool, **options)
    worker.hear("ready")
    return worker


def running(worker: Child, subject: str) -> int:
    count = worker.ask("look")["stats"][subject]["running"]
    assert isinstance(count, int)
    return count


def assert_works(pool: Pool, subject: str) -> None:
    """The worker's manner "some" is served completely, as soon as both are connected."""

    def served() -> bool:
        try:
            with pool.stream(f"{subject}.some", b"afterwards", timeout=5.0) as stream:
                assert list(stream) == numbers(0, 3)
                return True
        except (NoRespondersError, DisconnectedError, ResponderLostError):
            return False

    wait_until(served, what="a stream on the new connection")


@pytest.fixture(scope="module")
def lasting(server: EmbeddedServer) -> Iterator[Child]:
    """One worker for the tests that do not end it: its subject is "lasting"."""
    options = {"probe_interval": QUICK, "window": 64}
    with closing(Child("worker", url=server.url, subject="lasting", pool=options)) as child:
        child.hear("ready")
        yield child


@pytest.fixture
def quick(server: EmbeddedServer) -> Iterator[Pool]:
    """A requester that gives a silent worker up early."""
    with Pool(server.url, probe_interval=QUICK, reconnect_time_wait=0.1) as pool:
        yield pool


# -- the worker ends ----------------------------------------------------------------------------------------------------


def test_the_worker_is_killed(server: EmbeddedServer, quick: Pool, start_program: StartProgram, unique: str) -> None:
    """The requester gets every chunk that had reached it, then the loss."""
    worker = start_worker(start_program, server, unique, pool={"window": 50})
    with quick.stream(f"{unique}.fast", b"key") as stream:
        wait_until(lambda: "50 chunks received" in repr(stream), what="a full window")
        worker.kill()
        chunks, error = rest(stream, ResponderLostError)
        assert chunks == numbers(0, 50)
        assert stream.end_reason == "lost"
        assert unique in str(error)
        assert str(error).endswith("process or connection is gone"), "a 503 tells, not the rule of three probes"
        with pytest.raises(ResponderLostError):
            next(stream)


@pytest.mark.parametrize("manner", ["fast", "slow", "wait"])
def test_the_worker_is_killed_while_its_stream_is_read(
    server: EmbeddedServer, quick: Pool, start_program: StartProgram, unique: str, manner: str
) -> None:
    worker = start_worker(start_program, server, unique)
    with quick.stream(f"{unique}.{manner}", b"key") as stream:
        read(stream, 1)
        killed = worker.kill()
        chunks, error = rest(stream, ResponderLostError)
        assert chunks == numbers(1, len(chunks))
        assert str(error).endswith("process or connection is gone")
        assert time.monotonic() - killed < QUICK + SLACK
    with pytest.raises(NoRespondersError):
        list(quick.stream(f"{unique}.{manner}"))


def test_one_of_two_workers_is_killed(
    server: EmbeddedServer, quick: Pool, start_program: StartProgram, unique: str
) -> None:
    """The other one takes the next request, and its own stream has gone on."""
    workers = [start_worker(start_program, server, f"{unique}.{name}") for name in "ab"]
    with quick.stream(f"{unique}.a.slow") as lost, quick.stream(f"{unique}.b.slow") as kept:
        read(lost, 1)
        read(kept, 1)
        workers[0].kill()
        rest(lost, ResponderLostError)
        read(kept, 5, first=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_drains_the_worker(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str, number: int
) -> None:
    """The stream under way and the one that waits for a thread are served to the end; later ones find nobody."""
    worker = start_worker(start_program, server, unique, run={}, count=20, subscriber={"max_workers": 1, "max_queued": 1})
    with pool.stream(f"{unique}.paced", b"running") as first, pool.stream(f"{unique}.paced", b"waiting") as second:
        read(first, 1)
        worker.send(number)
        assert [*first] == numbers(1, 19)
        assert [*second] == numbers(0, 20)
        assert first.end_reason == second.end_reason == "completed"
    assert worker.wait() == 0
    assert worker.find("through") is not None
    assert worker.errors() == ""
    with pytest.raises(NoRespondersError):
        list(pool.stream(f"{unique}.paced"))


def test_requests_while_the_worker_drains_find_nobody(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str
) -> None:
    worker = start_worker(start_program, server, unique, run={}, count=1000)
    with pool.stream(f"{unique}.paced", b"running") as stream:
        read(stream, 1)
        worker.send(signal.SIGTERM)

        def refused() -> bool:
            with pool.stream(f"{unique}.some", b"later") as later:
                try:
                    assert list(later) == numbers(0, 1000)
                    return False
                except NoRespondersError:
                    return True

        wait_until(refused, what="the end of the intake")
        read(stream, 3, first=1)
    assert worker.wait() == 0, "nothing is left to wait for"


def test_a_second_signal_ends_the_draining(
    server: EmbeddedServer, quick: Pool, start_program: StartProgram, unique: str
) -> None:
    worker = start_worker(start_program, server, unique, run={})
    with quick.stream(f"{unique}.slow", b"key") as stream:
        read(stream, 1)
        worker.send(signal.SIGTERM)
        with pytest.raises(NoRespondersError):  # not until the first signal has been seen
            while True:
                list(quick.stream(f"{unique}.some", b"other"))
        worker.send(signal.SIGTERM)
        assert worker.wait() == -signal.SIGTERM
        rest(stream, ResponderLostError)


def test_draining_takes_no_longer_than_it_may(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str
) -> None:
    worker = start_worker(start_program, server, unique, run={"drain_timeout": 0.3})
    with pool.stream(f"{unique}.slow", b"key") as stream:
        read(stream, 1)
        asked = worker.send(signal.SIGTERM)
        _, error = rest(stream, ResponderLostError)
        assert "shutting down" in str(error)
        assert worker.wait() == 0
        assert 0.3 <= time.monotonic() - asked < 0.3 + SLACK
    assert worker.hear("ended", key="key")["error"] == "ClosedError"


def test_the_subscriber_is_closed(pool: Pool, subscriber: Subscriber, unique: str) -> None:
    outcome: List[str] = []

    def handler(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            while True:
                sender.send(b"chunk")
        except ClosedError as error:
            outcome.append(str(error))
            raise

    subscriber.stream_subscribe_handler(unique, handler)
    with pool.stream(unique, window=10) as stream:
        next(stream)
        subscriber.close()
        rest(stream, ResponderLostError)
    assert outcome == ["the subscriber was closed: the stream was ended for its requester"]


# -- the handler fails --------------------------------------------------------------------------------------------------


def test_a_failing_handler_keeps_its_reason_to_itself(
    pool: Pool, subscriber: Subscriber, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        sender.send(b"two")
        raise ValueError("the secret of the handler")

    subscriber.stream_subscribe_handler(unique, handler)
    with caplog.at_level(logging.ERROR, "natsbridge"), pool.stream(unique) as stream:
        chunks, error = rest(stream, StreamError)
    assert chunks == [b"one", b"two"]
    assert isinstance(error, StreamError)
    assert (error.code, error.description) == (500, "the handler failed")
    assert stream.end_reason == "error"
    wait_until(lambda: subscriber.stats()[0].failed == 1, what="the count of the failure")
    assert "the secret of the handler" in caplog.text
    assert "the secret of the handler" not in f"{error!s} {error!r}"


def test_a_failing_handler_in_another_process(lasting: Child, pool: Pool, unique: str) -> None:
    with pool.stream("lasting.broken", f"{unique}-broken".encode()) as stream:
        chunks, error = rest(stream, StreamError)
    assert chunks == numbers(0, 3)
    assert str(error) == "the responder failed with code 500: the handler failed"
    lasting.hear("ended", key=f"{unique}-broken", error="ValueError")
    with pool.stream("lasting.refusing", f"{unique}-refusing".encode()) as stream:
        chunks, error = rest(stream, StreamError)
    assert chunks == numbers(0, 3)
    assert isinstance(error, StreamError)
    assert (error.code, error.description) == (418, "short and stout")


@pytest.mark.parametrize("way", ["raise", "fail", "leave"])
def test_a_handler_says_how_it_failed(pool: Pool, subscriber: Subscriber, unique: str, way: str) -> None:
    def handler(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        if way == "raise":
            raise StreamError(404, "no such thing: \N{SNOWMAN}")
        if way == "fail":
            sender.fail(404, "no such thing: \N{SNOWMAN}")
        else:
            with sender:
                raise StreamError(404, "no such thing: \N{SNOWMAN}")

    subscriber.stream_subscribe_handler(unique, handler)
    with pool.stream(unique) as stream:
        chunks, error = rest(stream, StreamError)
    assert chunks == [b"one"]
    assert isinstance(error, StreamError)
    assert (error.code, error.description) == (404, "no such thing: \N{SNOWMAN}")
    assert subscriber.stats()[0].failed == 0, "to refuse is not to fail"


def test_a_failing_generator(pool: Pool, subscriber: Subscriber, unique: str) -> None:
    def handler(request: StreamRequest) -> Iterator[bytes]:
        yield b"one"
        raise KeyError("the secret of the handler")

    subscriber.stream_subscribe_handler(unique, handler)
    with pool.stream(unique) as stream:
        chunks, error = rest(stream, StreamError)
    assert chunks == [b"one"]
    assert str(error) == "the responder failed with code 500: the handler failed"


# -- the server goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "manner"), [("restart", "fast"), ("restart", "silent"), ("crash", "slow"), ("crash", "silent")]
)
def test_the_server_restarts(
    make_nats_server: ServerFactory, start_program: StartProgram, unique: str, how: str, manner: str
) -> None:
    """Both ends are told, and both go on with the next stream by themselves."""
    server = make_nats_server()
    worker = start_worker(start_program, server, unique)
    with Pool(server.url, reconnect_time_wait=0.1) as pool:
        with pool.stream(f"{unique}.{manner}", b"key") as stream:
            read(stream, 1)
            if how == "crash":
                server.kill()
                chunks, error = rest(stream, ResponderLostError)  # while there is no server at all
                assert "the own connection to the server was lost" in str(error)
                assert worker.hear("ended", key="key")["reason"] == "disconnected"
            server.restart()
            if how == "restart":
                chunks, error = rest(stream, ResponderLostError)
                assert worker.hear("ended", key="key")["reason"] == "disconnected"
            assert chunks == numbers(1, len(chunks))
            assert stream.end_reason in ("lost", "error")  # noticed here, or told by the worker
            assert "is incomplete" in str(error)
        assert_works(pool, unique)
        assert running(worker, f"{unique}.{manner}") == 0
        assert pool.stats().connections[0].reconnects == 1


def test_the_server_restarts_under_many_streams(
    make_nats_server: ServerFactory, start_program: StartProgram, unique: str
) -> None:
    server = make_nats_server()
    worker = start_worker(start_program, server, unique)
    with Pool(server.url, reconnect_time_wait=0.1, size=2) as pool:
        streams = [pool.stream(f"{unique}.{manner}", manner.encode()) for manner in ("fast", "slow") * 4]
        for stream in streams:
            read(stream, 1)
        server.restart(delay=0.2)
        for stream in streams:
            rest(stream, ResponderLostError)
        assert_works(pool, unique)
        wait_until(lambda: worker.ask("look")["streams"] == 0, what="the end of the streams at the worker")
        for facts in worker.facts:
            if facts["event"] == "ended" and facts["key"] != "afterwards":
                assert facts["reason"] == "disconnected"


# -- one end is frozen --------------------------------------------------------------------------------------------------


def test_the_worker_is_frozen(lasting: Child, quick: Pool, unique: str) -> None:
    """No connection breaks, so nothing but unanswered probes can tell."""
    manners = ("slow", "silent", "fast")
    streams = [quick.stream(f"lasting.{manner}", f"{unique}-{manner}".encode()) for manner in manners]
    for stream in streams:
        read(stream, 1)
    frozen = lasting.freeze()
    for stream in streams:
        chunks, error = rest(stream, ResponderLostError)
        took = time.monotonic() - frozen
        assert "did not answer 3 probes" in str(error)
        assert chunks == numbers(1, len(chunks))
        assert 3 * QUICK < took < GIVEN_UP + SLACK
    lasting.thaw()
    for manner in manners:
        assert lasting.hear("ended", key=f"{unique}-{manner}")["reason"] in ("cancelled", "no_interest")
        wait_until(lambda: running(lasting, f"lasting.{manner}") == 0, what="a free thread")  # noqa: B023


def test_the_requester_is_frozen(server: EmbeddedServer, lasting: Child, start_program: StartProgram, unique: str) -> None:
    manners = ("fast", "slow", "silent", "generator")
    gateway = start_program("gateway", url=server.url)
    gateway.hear("ready")
    for manner in manners:
        gateway.ask("stream", subject=f"lasting.{manner}", key=f"{unique}-{manner}")
        gateway.hear("first", key=f"{unique}-{manner}")
    frozen = gateway.freeze()
    sent = {}
    for manner in manners:
        ended = lasting.hear("ended", key=f"{unique}-{manner}")
        sent[manner] = ended["sent"]
        assert ended["reason"] == "unreachable"
        assert 3 * QUICK < ended["at"] - frozen < GIVEN_UP + SLACK
        assert ended["last"] - frozen < GIVEN_UP + SLACK
        wait_until(lambda: running(lasting, f"lasting.{manner}") == 0, what="a free thread")  # noqa: B023
    gateway.thaw()
    for manner in manners:
        over = gateway.hear("over", key=f"{unique}-{manner}")
        assert over["error"] == "ResponderLostError", "what it has is not complete, and it must not look so"
        assert over["complete"], "but what it has is in order"
        assert over["count"] <= sent[manner]


def suspend(child: Child, seconds: float) -> None:
    """Let a process stand still for a while, as a laptop's lid or a debugger does."""
    until = child.freeze() + seconds
    wait_until(lambda: time.monotonic() >= until)
    child.thaw()


@pytest.mark.parametrize("seconds", [0.5 * QUICK, LONGER], ids=["briefly", "longer than the rule"])
def test_a_suspended_worker_does_not_convict_a_living_client(
    lasting: Child, pool: Pool, unique: str, seconds: float
) -> None:
    """Its own sleep is not the silence of others. The requester, with its longer probe interval, has not noticed."""
    with pool.stream("lasting.slow", f"{unique}-slow".encode()) as slow, pool.stream(
        "lasting.wait", f"{unique}-wait".encode()
    ) as waits:
        read(slow, 1)
        read(waits, 1)
        suspend(lasting, seconds)
        awake_until = time.monotonic() + LONGER  # a verdict would fall within this time
        number = 0
        while time.monotonic() < awake_until:
            number += 1
            assert next(slow) == b"%d" % number
        assert lasting.find("ended", key=f"{unique}-slow") is None
        lasting.ask("proceed", key=f"{unique}-wait")
        assert list(waits) == numbers(1, 3)
        assert waits.end_reason == "completed"


@pytest.mark.slow
def test_a_suspended_requester_does_not_convict_a_living_worker(
    server: EmbeddedServer, start_program: StartProgram, unique: str
) -> None:
    """For less than the worker's rule, that is: it cannot tell a long sleep from a loss."""
    interval = 0.5
    worker = start_worker(start_program, server, unique, pool={"probe_interval": interval})
    gateway = start_program("gateway", url=server.url, pool={"probe_interval": interval})
    gateway.hear("ready")
    gateway.ask("stream", subject=f"{unique}.wait", key="key")
    gateway.hear("first", key="key")
    suspend(gateway, 2.5 * interval)
    awake_until = time.monotonic() + 2.5 * interval
    wait_until(lambda: time.monotonic() >= awake_until)
    assert gateway.find("over", key="key") is None
    worker.ask("proceed", key="key")
    over = gateway.hear("over", key="key")
    assert (over["reason"], over["count"], over["complete"]) == ("completed", 4, True)


@pytest.mark.parametrize("quick_end", ["requester", "worker"])
def test_the_ends_need_not_probe_equally_often(
    server: EmbeddedServer, start_program: StartProgram, unique: str, quick_end: str
) -> None:
    """A silent handler, all processes awake, no loss: neither end is given up by the other."""
    intervals = (QUICK, 2.0) if quick_end == "requester" else (2.0, QUICK)
    worker = start_worker(start_program, server, unique, pool={"probe_interval": intervals[1]})
    with Pool(server.url, probe_interval=intervals[0]) as pool, pool.stream(f"{unique}.wait", b"key") as stream:
        read(stream, 1)
        until = time.monotonic() + 1.5 * LONGER
        wait_until(lambda: time.monotonic() >= until)
        assert worker.find("ended", key="key") is None
        assert stream.end_reason is None
        worker.ask("proceed", key="key")
        assert list(stream) == numbers(1, 3)


# -- more requests than threads -----------------------------------------------------------------------------------------


def test_a_busy_worker_refuses_at_once(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str
) -> None:
    worker = start_worker(start_program, server, unique, subscriber={"max_workers": 2, "max_queued": 0})
    with pool.stream(f"{unique}.slow", b"a") as one, pool.stream(f"{unique}.slow", b"b") as two:
        read(one, 1)
        read(two, 1)
        asked = time.monotonic()
        with pool.stream(f"{unique}.slow", b"c") as third, pytest.raises(BusyError, match="busy"):
            next(third)
        assert time.monotonic() - asked < 1.0
        assert worker.find("started", key="c") is None
        assert worker.ask("look")["stats"][f"{unique}.slow"]["refused"] == 4, "the first try, and three more"
        read(one, 1, first=1)
        with pool.stream(f"{unique}.some", b"d") as other:
            assert list(other) == numbers(0, 3), "another handler has threads of its own"
    worker.hear("ended", key="a")
    worker.hear("ended", key="b")
    wait_until(lambda: running(worker, f"{unique}.slow") == 0, what="free threads")
    with pool.stream(f"{unique}.slow", b"e") as again:
        read(again, 1)


def test_a_refused_request_is_tried_again(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str
) -> None:
    """Of two workers in one queue group one is busy: with its refusals, requests still find the other in the end."""
    workers: List[Child] = []
    for busy in (True, False):
        workers.append(start_program("busy", url=server.url, subject=unique, busy=busy))
        workers[-1].hear("ready")
    served = 0
    for _ in range(25):
        try:
            with pool.stream(unique) as stream:
                assert list(stream) == [b"served"]
            served += 1
        except BusyError:
            pass  # four times in a row the busy one: one in sixteen
    assert served >= 15
    assert workers[0].ask("look")["refused"] > 0


@pytest.mark.parametrize("how", ["cancelled", "killed", "marked", "late"])
def test_a_waiting_request_whose_client_left_is_never_started(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str, how: str
) -> None:
    worker = start_worker(
        start_program,
        server,
        unique,
        subscriber={"max_workers": 1, "max_queued": 4},
    )
    subject = f"{unique}.wait"

    def streams() -> int:
        count = worker.ask("look")["streams"]
        assert isinstance(count, int)
        return count

    with pool.stream(subject, b"runs") as runs:
        read(runs, 1)
        if how == "killed":
            gateway = start_program("gateway", url=server.url)
            gateway.hear("ready")
            gateway.ask("stream", subject=subject, key="waits")
        else:
            waits = pool.stream(subject, b"waits", connect_id=unique, timeout=0.3 if how == "late" else None)
        if how != "late":  # which may be over before it is seen
            wait_until(lambda: streams() == 2, what="the second stream")
        if how == "cancelled":
            waits.cancel()
        elif how == "killed":
            gateway.kill()
        elif how == "marked":
            worker.ask("offline", connect_id=unique)
            with pytest.raises(ClientOfflineError):
                next(waits)
        else:
            with pytest.raises(RequestTimeoutError):
                next(waits)
        wait_until(lambda: streams() == 1, what="the end of the second stream")
        worker.ask("proceed", key="runs")
        assert list(runs) == numbers(1, 3)
    with pool.stream(subject, b"next") as after:
        read(after, 1)
        worker.ask("proceed", key="next")
        assert list(after) == numbers(1, 3)
    assert worker.find("started", key="waits") is None
    stats = worker.ask("look")["stats"][subject]
    assert (stats["served"], stats["queued"], stats["failed"]) == (2, 0, 0)


# -- a slow reader ------------------------------------------------------------------------------------------------------


def test_a_slow_reader_may_take_longer_than_the_probes(
    server: EmbeddedServer, start_program: StartProgram, unique: str
) -> None:
    """Not to read is not to be gone: probes are answered meanwhile."""
    worker = start_worker(start_program, server, unique, count=300, pool={"window": 16})
    gateway = start_program("gateway", url=server.url, pool={"probe_interval": QUICK})
    gateway.hear("ready")
    gateway.ask("stream", subject=f"{unique}.some", key="key", pause=1)
    gateway.hear("paused", key="key")
    until = time.monotonic() + LONGER
    wait_until(lambda: time.monotonic() >= until)
    assert worker.ask("look")["runs"]["key"]["sent"] <= 1 + 16
    gateway.ask("release", key="key")
    over = gateway.hear("over", key="key")
    assert (over["reason"], over["count"], over["complete"]) == ("completed", 300, True)


def test_a_slow_reader_that_leaves_frees_the_worker(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str
) -> None:
    """The handler is blocked in ``send`` when its client goes: that call raises."""
    worker = start_worker(start_program, server, unique, pool={"window": 8})
    with pool.stream(f"{unique}.fast", b"key") as stream:
        wait_until(lambda: worker.ask("look")["runs"].get("key", {}).get("sent") == 8, what="a full window")
    ended = worker.hear("ended", key="key")
    assert (ended["reason"], ended["sent"]) == ("cancelled", 8)
    assert stream.end_reason == "cancelled"
