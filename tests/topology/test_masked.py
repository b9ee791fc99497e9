"""Somebody else listens too, so that there is never "nobody": no 503 comes, and liveness decides."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Iterator

import pytest
from procs import Child, StartProgram, posix_only, wait_until

from natsbridge import Message, Pool, ResponderLostError
from natsbridge.server import EmbeddedServer

from .streams import CHUNKS, GIVEN_UP, QUICK, SLACK, WINDOW, kill_requester, numbers, rest, wait_for_worker

pytestmark = [pytest.mark.process, pytest.mark.slow, posix_only]

manners = pytest.mark.parametrize("manner", ["fast", "silent"])


@pytest.fixture(scope="module", params=["monitor", "jetstream"])
def listener(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def server(listener: str) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(jetstream=True, http=True) as server:
        if listener == "jetstream":
            # It keeps every reply, and confirms that to the reply of the reply: to both ends of every stream.
            config = {"name": "REPLIES", "subjects": ["_INBOX.>"], "storage": "memory", "max_msgs": 1000}
            with Pool(server.url) as pool:
                created = pool.request("$JS.API.STREAM.CREATE.REPLIES", json.dumps(config).encode())
            assert "error" not in json.loads(created.data)
        yield server


@pytest.fixture(autouse=True)
def _listening(listener: str, server: EmbeddedServer) -> Iterator[None]:
    """Somebody who watches everything."""

    def ignore(message: Message) -> None: ...

    with ExitStack() as stack:
        if listener == "monitor":
            stack.enter_context(stack.enter_context(Pool(server.url)).subscribe(">", handler=ignore))
        yield


@pytest.fixture
def pool(server: EmbeddedServer) -> Iterator[Pool]:
    with Pool(server.url, probe_interval=QUICK) as pool:
        yield pool


@pytest.fixture
def worker(server: EmbeddedServer, pool: Pool, unique: str, start_program: StartProgram) -> Child:
    options = {"probe_interval": QUICK}
    worker = start_program("worker", url=server.url, subject=unique, pool=options, count=CHUNKS)
    worker.hear("ready")
    wait_for_worker(pool, unique)
    return worker


def test_a_stream_arrives_completely(pool: Pool, worker: Child, unique: str) -> None:
    with pool.stream(f"{unique}.some", b"whole", window=WINDOW) as stream:
        assert list(stream) == numbers(0, CHUNKS)
        assert stream.end_reason == "completed"
    wait_until(lambda: worker.ask("look")["streams"] == 0, what="the requester's confirmation of the end")


def test_the_requester_cancels(pool: Pool, worker: Child, unique: str) -> None:
    with pool.stream(f"{unique}.fast", b"cancelled", window=WINDOW) as stream:
        assert next(stream) == b"0"
        at = time.monotonic()
    ended = worker.hear("ended", key="cancelled")
    assert ended["reason"] == "cancelled"
    assert ended["at"] - at < SLACK


@manners
def test_the_requester_is_killed(
    server: EmbeddedServer, worker: Child, unique: str, manner: str, start_program: StartProgram
) -> None:
    gateway = start_program("gateway", url=server.url, pool={"probe_interval": QUICK})
    gateway.hear("ready")
    reason, after = kill_requester(gateway, worker, f"{unique}.{manner}")
    assert reason == "unreachable"
    assert after < GIVEN_UP + SLACK
    wait_until(lambda: worker.ask("look")["streams"] == 0, what="the end of the stream")


@manners
def test_the_worker_is_killed(pool: Pool, worker: Child, unique: str, manner: str) -> None:
    with pool.stream(f"{unique}.{manner}", b"lost", window=WINDOW) as stream:
        assert next(stream) == b"0"
        killed = worker.kill()
        chunks, error = rest(stream)
        assert type(error) is ResponderLostError
        assert str(error).endswith("did not answer 3 probes")
        assert chunks == numbers(1, len(chunks))
        assert time.monotonic() - killed < GIVEN_UP + SLACK
