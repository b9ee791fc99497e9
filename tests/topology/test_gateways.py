"""When a 503 comes across gateways: for two seconds after a link has subscribed, its answers are taken back blindly.

The servers do that because the new interest may not have reached the other cluster yet. A link subscribes once, when it
connects, so only the streams of its first two seconds are concerned, until the servers forget (in two to four seconds).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Iterator, List

import pytest
from procs import Child, StartProgram, posix_only

from natsbridge import Pool, ResponderLostError
from natsbridge.server import EmbeddedServer

from .servers import start_gateways
from .streams import SLACK, kill_requester, rest, wait_for_worker

pytestmark = [pytest.mark.process, pytest.mark.slow, posix_only]

RECENT = 2.0  # seconds, which the servers cannot be told otherwise
PATIENT = 10.0  # a probe interval that leaves the discovery to the 503s


@pytest.fixture(scope="module")
def clusters() -> Iterator[List[List[EmbeddedServer]]]:
    with ExitStack() as stack:
        yield start_gateways(stack)


@pytest.fixture
def east(clusters: List[List[EmbeddedServer]]) -> str:
    return clusters[0][0].url


@pytest.fixture
def west(clusters: List[List[EmbeddedServer]]) -> str:
    return clusters[1][-1].url


@pytest.fixture
def worker(east: str, west: str, unique: str, start_program: StartProgram) -> Child:
    worker = start_program("worker", url=west, subject=unique, pool={"probe_interval": PATIENT})
    worker.hear("ready")
    with Pool(east) as pool:
        wait_for_worker(pool, unique)
    return worker


@pytest.fixture
def gateway(east: str, start_program: StartProgram) -> Child:
    gateway = start_program("gateway", url=east, pool={"probe_interval": PATIENT})
    gateway.hear("ready")
    return gateway


def test_the_503_of_a_new_requester_comes_late(worker: Child, gateway: Child, unique: str) -> None:
    reason, after = kill_requester(gateway, worker, f"{unique}.slow", window=1000)  # or it would be full before
    assert reason == "no_interest"
    assert after < 2 * RECENT + SLACK, "long before the three probes are over"


def test_the_503_of_an_older_requester_comes_at_once(worker: Child, gateway: Child, unique: str) -> None:
    time.sleep(RECENT + 0.1)
    reason, after = kill_requester(gateway, worker, f"{unique}.slow")
    assert reason == "no_interest"
    assert after < min(SLACK, RECENT)


def test_the_503_of_an_older_worker_comes_at_once(east: str, worker: Child, unique: str) -> None:
    time.sleep(RECENT + 0.1)
    with Pool(east, probe_interval=PATIENT) as pool, pool.stream(f"{unique}.slow") as stream:
        assert next(stream) == b"0"
        killed = worker.kill()
        _, error = rest(stream)
        assert type(error) is ResponderLostError
        assert time.monotonic() - killed < min(SLACK, RECENT)
