"""The stream protocol can be implemented elsewhere: a requester in JavaScript (``js/stream.js``) reads from our workers."""

from __future__ import annotations

import hashlib
from typing import Iterator, List, Optional, Protocol

import pytest
from procs import Child, StartProgram, WaitFor, posix_only

from natsbridge import Pool, ResponseSender, StreamError, Subscriber
from natsbridge.server import EmbeddedServer

from .peers import SOON, Manner, Serve, StartPeer, Worker, chunks, digest, endless, failing, items, some

pytestmark = [pytest.mark.process, posix_only]

PROBE_INTERVAL = 0.2
STALL_TIMEOUT = 0.5


@pytest.fixture
def worker_pool(server: EmbeddedServer) -> Iterator[Pool]:
    with Pool(server.url, probe_interval=PROBE_INTERVAL) as pool:
        yield pool


class Request(Protocol):
    def __call__(self, subject: Optional[str] = None, **options: object) -> Child: ...


@pytest.fixture
def ask_natively(start_peer: StartPeer, server: EmbeddedServer, unique: str) -> Request:
    """``ask_natively(**options)``: start the requester."""

    def start(subject: Optional[str] = None, **options: object) -> Child:
        return start_peer("js", "stream_requester", url=server.url, subject=subject or unique, **options)

    return start


def combined(expected: List[bytes]) -> str:
    """The digest that the requester makes of all chunks."""
    return hashlib.sha256(b"".join(chunk + b"\n" for chunk in expected)).hexdigest()


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "size"),
    [pytest.param(10, 0, id="ordinary"), pytest.param(0, 0, id="empty"), pytest.param(200, 65536, id="large")],
)
def test_it_reads_a_stream_to_its_end(
    count: int, size: int, ask_natively: Request, serve: Serve, worker_pool: Pool, wait_for: WaitFor
) -> None:
    worker = serve(some(count, size))
    child = ask_natively()
    end = child.hear("end")
    assert (end["reason"], end["items"]) == ("completed", count)
    assert items(child) == [digest(chunk) for chunk in chunks(count, size)]
    assert worker.why() is None
    assert wait_for(lambda: worker_pool.stats().streams == 0, what="the final acknowledgement")


def test_it_reads_batches(ask_natively: Request, serve: Serve) -> None:
    count = 20_000
    serve(some(count))
    end = ask_natively(tell_items=False).hear("end")
    assert (end["reason"], end["items"], end["digest"]) == ("completed", count, combined(chunks(count)))
    assert end["batches"] > 0
    assert end["acks"] > 0


@pytest.mark.parametrize("lost", [1, 2, 5], ids=["first", "second", "last"])
def test_what_got_lost_comes_again(lost: int, ask_natively: Request, serve: Serve) -> None:
    count = 5
    serve(some(count, pause=0.02))  # so that each is a message of its own
    child = ask_natively(lose=lost)
    end = child.hear("end")
    assert (end["reason"], end["items"]) == ("completed", count)
    assert items(child) == [digest(chunk) for chunk in chunks(count)]
    assert end["naks"] > 0


def test_it_sees_why_a_stream_failed(ask_natively: Request, serve: Serve) -> None:
    serve(failing(5, StreamError(418, "short and stout")))
    end = ask_natively().hear("end")
    assert end["items"] == 5
    assert (end["reason"], end["code"], end["description"], end["library"]) == ("error", 418, "short and stout", None)


def test_it_sees_that_every_worker_is_busy(ask_natively: Request, subscriber: Subscriber, unique: str) -> None:
    subscriber.stream_subscribe_handler(unique, Worker(endless()), max_workers=1, max_queued=0)
    ask_natively().hear("item", n=1)
    end = ask_natively().hear("end")
    assert (end["reason"], end["items"], end["code"], end["library"]) == ("error", 0, 503, "busy")


def test_it_sees_that_nobody_answers(ask_natively: Request) -> None:
    assert ask_natively().hear("end")["reason"] == "no_responders"


# -- flow control -----------------------------------------------------------------------------------------------------


def test_the_worker_waits_for_a_reader_that_is_slow(ask_natively: Request, serve: Serve, wait_for: WaitFor) -> None:
    worker = serve(some(30))
    child = ask_natively(hold=True, stream={"window": 8})
    wait_for(lambda: worker.sent == 8, what="the window to fill")
    child.hear("probe", n=3)  # time passes, and the acknowledgements of probes admit nothing more
    assert worker.sent == 8
    child.order("read", n=4)
    wait_for(lambda: worker.sent == 12, what="the worker to go on")
    probes = sum(facts["event"] == "probe" for facts in child.facts)
    child.hear("probe", n=probes + 3)
    assert worker.sent == 12
    child.order("read", n=100)
    end = child.hear("end")
    assert (end["reason"], end["items"], end["digest"]) == ("completed", 30, combined(chunks(30)))
    assert worker.why() is None


def test_the_worker_waits_by_bytes_as_well(ask_natively: Request, serve: Serve, wait_for: WaitFor) -> None:
    worker = serve(some(30, 1000))
    child = ask_natively(hold=True, stream={"bytes": 8000})
    wait_for(lambda: worker.sent == 8, what="the window to fill")
    child.hear("probe", n=3)
    assert worker.sent == 8
    child.order("read", n=100)
    end = child.hear("end")
    assert (end["reason"], end["items"]) == ("completed", 30)


def test_a_reader_that_stands_still_is_given_up(ask_natively: Request, worker_pool: Pool, unique: str) -> None:
    worker = Worker(endless(0))
    with Subscriber(worker_pool, stall_timeout=STALL_TIMEOUT) as subscriber:
        subscriber.stream_subscribe_handler(unique, worker)
        child = ask_natively(hold=True, stream={"window": 8})
        assert worker.why() == "stalled"
        child.order("read", n=100)
        end = child.hear("end")
    assert (end["reason"], end["items"], end["code"], end["library"]) == ("error", 8, 408, "stalled")


# -- going away -------------------------------------------------------------------------------------------------------


def test_its_cancel_stops_the_worker(ask_natively: Request, serve: Serve) -> None:
    worker = serve(endless())
    child = ask_natively()
    child.hear("item", n=10)
    child.order("cancel")
    end = child.hear("end")
    assert end["reason"] == "cancelled"
    assert worker.why() == "cancelled"
    assert worker.ended_at - end["at"] < SOON


def test_its_timeout_stops_the_worker(ask_natively: Request, serve: Serve) -> None:
    worker = serve(endless())
    end = ask_natively(stream={"timeout": 300}).hear("end")
    assert (end["reason"], end["code"], end["library"]) == ("error", 504, "deadline")
    assert worker.why() == "deadline"


def silent(worker: Worker, sender: ResponseSender) -> None:
    """One chunk, and then nothing until the client is gone."""
    worker.send(sender)
    assert sender.wait_offline(30)
    worker.send(sender)  # which raises


@pytest.mark.parametrize("manner", [endless(), silent], ids=["sending", "silent"])
def test_its_death_is_noticed(manner: Manner, ask_natively: Request, serve: Serve) -> None:
    worker = serve(manner)
    child = ask_natively()
    child.hear("item", n=1)
    killed = child.kill()
    assert worker.why() == "no_interest"
    assert worker.ended_at - killed < SOON


def test_its_standstill_is_noticed(ask_natively: Request, serve: Serve) -> None:
    worker = serve(silent)
    child = ask_natively()
    child.hear("probe", n=5)  # which it answers, so that it is not given up
    assert not worker.ended.is_set()
    frozen = child.freeze()
    assert worker.why() == "unreachable"
    assert 2 * PROBE_INTERVAL < worker.ended_at - frozen < 20 * PROBE_INTERVAL
    child.thaw()


@pytest.mark.parametrize("manner", ["slow", "silent"])
def test_it_notices_the_death_of_the_worker(
    manner: str, ask_natively: Request, start_program: StartProgram, server: EmbeddedServer, unique: str
) -> None:
    worker = start_program("worker", url=server.url, subject=unique)
    worker.hear("ready")
    child = ask_natively(f"{unique}.{manner}", data="key", stream={"probeInterval": 200})
    child.hear("item", n=1)
    killed = worker.kill()
    end = child.hear("end")
    assert end["reason"] == "lost"
    assert end["at"] - killed < SOON
