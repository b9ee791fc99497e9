"""A server that drops messages for a slow connection, and says 503 of it although there is somebody.

With ``no_fast_producer_stall`` it does so as soon as three quarters of ``max_pending`` wait for the connection. What all
streams of a link may have under way together has to stay below that; by default it does, with 48 of 64 MiB.
"""

from __future__ import annotations

import time
from typing import Iterator

import pytest
from procs import Child, StartProgram, posix_only, wait_until

from natsbridge.server import EmbeddedServer

from .servers import page
from .streams import GIVEN_UP, QUICK

pytestmark = [pytest.mark.process, pytest.mark.slow, posix_only]

KEYS = ["a", "b", "c", "d"]  # one stream each, all on one link
COUNT = 1500  # chunks of a stream
SIZE = 8192  # bytes of a chunk
MAX_PENDING = 1024 * 1024
FITTING = MAX_PENDING // 2 // len(KEYS)
TOO_LARGE = 8 * MAX_PENDING  # more than sockets hold, too


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    text = f"max_payload: 65536\nmax_pending: {MAX_PENDING}\nno_fast_producer_stall: true\n"
    with EmbeddedServer(config_text=text, http=True) as server:
        yield server


@pytest.fixture
def worker(server: EmbeddedServer, unique: str, start_program: StartProgram) -> Child:
    options = {"probe_interval": QUICK, "window_bytes": TOO_LARGE}
    worker = start_program("worker", url=server.url, subject=unique, pool=options, count=COUNT, size=SIZE)
    worker.hear("ready")
    return worker


@pytest.fixture
def gateway(server: EmbeddedServer, start_program: StartProgram) -> Child:
    gateway = start_program("gateway", url=server.url, pool={"probe_interval": QUICK})
    gateway.hear("ready")
    return gateway


def start_streams(gateway: Child, subject: str, window_bytes: int, resume: float = 0.0) -> None:
    """Four streams whose readers hold after the second chunk."""
    options = {"window_bytes": window_bytes, "resume": resume}
    for key in KEYS:
        gateway.order("stream", subject=f"{subject}.some", key=key, pause=2, options=options)
    for key in KEYS:
        gateway.hear("paused", key=key)


def release(gateway: Child) -> None:
    for key in KEYS:
        gateway.order("release", key=key)


def wait_for_full_windows(worker: Child, seconds: float) -> None:
    """Wait until no handler has got rid of a chunk for some time."""

    def still() -> bool:
        runs = worker.ask("look")["runs"]
        return len(runs) == len(KEYS) and time.monotonic() - max(run["last"] for run in runs.values()) >= seconds

    wait_until(still, what="full windows")


def assert_complete(gateway: Child, worker: Child) -> None:
    for key in KEYS:
        over = gateway.hear("over", key=key)
        assert (over["reason"], over["error"], over["count"], over["complete"]) == ("completed", "", COUNT, True)
        assert worker.hear("ended", key=key)["reason"] is None


def test_readers_that_pause_lose_nothing(gateway: Child, worker: Child, unique: str) -> None:
    """The process reads on and answers probes, its readers do not: the windows are full for as long as they like."""
    start_streams(gateway, unique, FITTING)
    wait_for_full_windows(worker, 1.5 * GIVEN_UP)
    release(gateway)
    assert_complete(gateway, worker)


def test_windows_that_fit_outlast_a_process_that_stands_still(
    server: EmbeddedServer, gateway: Child, worker: Child, unique: str
) -> None:
    """The server keeps all that the windows let through, so that there is no 503 of the living."""
    start_streams(gateway, unique, FITTING)
    release(gateway)
    gateway.freeze()
    wait_for_full_windows(worker, QUICK)
    gateway.thaw()
    assert_complete(gateway, worker)
    assert page(server, "varz")["slow_consumers"] == 0


def test_windows_that_do_not_fit_may_lose_a_stream_but_say_so(gateway: Child, worker: Child, unique: str) -> None:
    """What was dropped is asked for again where there is time; else both ends learn that the stream was given up."""
    start_streams(gateway, unique, TOO_LARGE)
    release(gateway)
    gateway.freeze()
    wait_for_full_windows(worker, QUICK)
    gateway.thaw()
    for key in KEYS:
        over = gateway.hear("over", key=key)
        assert over["complete"], "no chunk is missing in the middle"
        assert (over["count"] == COUNT) == (over["reason"] == "completed") == (over["error"] == "")
        assert over["error"] in ("", "ResponderLostError", "StreamGapError")
        assert worker.hear("ended", key=key)["reason"] in (None, "no_interest", "unreachable", "cancelled")


def test_with_resume_windows_that_do_not_fit_lose_nothing(gateway: Child, worker: Child, unique: str) -> None:
    """A 503 is waited out then, and what was dropped is asked for again."""
    start_streams(gateway, unique, TOO_LARGE, resume=30.0)
    release(gateway)
    gateway.freeze()
    wait_for_full_windows(worker, QUICK)
    gateway.thaw()
    assert_complete(gateway, worker)
