"""What the tests of this directory do with streams."""

from __future__ import annotations

from typing import List, Tuple

import pytest
from procs import Child, wait_until

from natsbridge import Error, NoRespondersError, Pool, ResponseStream

QUICK = 0.3  # a probe interval
GIVEN_UP = 4 * QUICK  # an interval of silence, and three probes with one each
SLACK = 1.5  # seconds: ticks of 0.1 s, and a busy machine

CHUNKS = 700  # of the manner "some"
WINDOW = 64


def numbers(first: int, count: int) -> List[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def wait_for_worker(pool: Pool, subject: str) -> None:
    """Wait until the worker's subscription is known where the pool is connected."""

    def served() -> bool:
        try:
            with pool.stream(f"{subject}.some", b"early") as stream:
                return next(stream) == b"0"
        except NoRespondersError:
            return False

    wait_until(served, what="a stream from the worker")


def rest(stream: ResponseStream) -> Tuple[List[bytes], Error]:
    """Read on until the stream fails; the chunks, and the error."""
    chunks: List[bytes] = []
    with pytest.raises(Error) as caught:
        for chunk in stream:
            chunks.append(chunk)
    return chunks, caught.value


def kill_requester(gateway: Child, worker: Child, subject: str, window: int = WINDOW) -> Tuple[str, float]:
    """Have the gateway read a stream, and kill it; the reason that its worker was given, after how many seconds."""
    gateway.order("stream", subject=subject, key="killed", options={"window": window})
    gateway.hear("first", key="killed")
    killed = gateway.kill()
    ended = worker.hear("ended", key="killed")
    return ended["reason"], ended["at"] - killed
