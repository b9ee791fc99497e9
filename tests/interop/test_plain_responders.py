"""natsbridge reads the streams, and gathers the replies, of responders of other makes."""

from __future__ import annotations

import itertools
import time
from typing import Iterator, List

import pytest
from procs import Child, WaitFor, posix_only

from natsbridge import Pool, RequestTimeoutError, StreamError
from natsbridge.server import EmbeddedServer

from .peers import Plan, StartResponder, chunks

pytestmark = [pytest.mark.process, posix_only]

LANGUAGES = ["js", "python"]
PATIENCE = 1.0  # the pool's timeout: a plain responder may be silent for so long


@pytest.fixture(params=LANGUAGES)
def responder(request: pytest.FixtureRequest, start_responder: StartResponder) -> Child:
    return start_responder(request.param)


@pytest.fixture
def both(start_responder: StartResponder) -> List[Child]:
    """One of each language, both of which answer every request."""
    return [start_responder(language) for language in LANGUAGES]


@pytest.fixture
def pool(server: EmbeddedServer) -> Iterator[Pool]:
    with Pool(server.url, timeout=PATIENCE) as pool:
        yield pool


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(10), id="ordinary"),
        pytest.param(Plan(0), id="empty"),
        pytest.param(Plan(30, pause=0.05), id="slow"),  # longer in all than the pool's timeout
        pytest.param(Plan(200, size=65536), id="large"),
    ],
)
def test_a_stream_is_read_to_its_end(responder: Child, plan: Plan, pool: Pool, unique: str) -> None:
    with pool.stream(unique, plan.encode()) as stream:
        assert list(stream) == chunks(plan.total, plan.size)
        assert stream.end_reason == "completed"


def test_the_headers_of_chunks_can_be_read(responder: Child, pool: Pool, unique: str) -> None:
    with pool.stream(unique, Plan(3).encode()) as stream:
        assert [message.headers for message in stream.messages()] == [{"Number": "0"}, {"Number": "1"}, {"Number": "2"}]


@pytest.mark.parametrize("count", [0, 5])
def test_a_failure_is_raised_after_the_chunks(responder: Child, count: int, pool: Pool, unique: str) -> None:
    seen: List[bytes] = []
    with pool.stream(unique, Plan(count, end="error").encode()) as stream:
        with pytest.raises(StreamError, match="out of paper") as caught:
            seen.extend(stream)
        assert stream.end_reason == "error"
    assert seen == chunks(count)
    assert caught.value.code == 507


def test_a_silent_responder_is_given_up_after_the_pools_timeout(responder: Child, pool: Pool, unique: str) -> None:
    with pool.stream(unique, Plan(0, end="none").encode()) as stream:
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            next(stream)
        assert PATIENCE <= time.monotonic() - began < 3 * PATIENCE
        assert stream.end_reason == "idle"
    responder.hear("answered")


def test_a_responder_that_dies_half_way_is_given_up(responder: Child, pool: Pool, unique: str) -> None:
    with pool.stream(unique, Plan(1000, pause=0.01).encode()) as stream:
        assert list(itertools.islice(stream, 5)) == chunks(5)
        responder.kill()
        with pytest.raises(RequestTimeoutError):
            list(stream)
        assert stream.end_reason == "idle"


def test_leaving_early_leaves_the_next_stream_alone(responder: Child, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    """Nothing tells such a responder to stop: what it still sends is dropped."""
    with pool.stream(unique, Plan(10_000, pause=0.01).encode()) as stream:
        assert list(itertools.islice(stream, 3)) == chunks(3)
    assert stream.end_reason == "cancelled"
    wait_for(lambda: pool.stats().connections[0].ignored > 0, what="a chunk that nobody reads")
    assert list(pool.stream(unique, Plan(10).encode())) == chunks(10)
    assert pool.stats().streams == 0


# -- many replies -----------------------------------------------------------------------------------------------------


def test_replies_are_gathered_until_there_are_enough(both: List[Child], pool: Pool, unique: str) -> None:
    replies = pool.request_many(unique, Plan(1, end="none", signed=True).encode(), max_messages=2)
    assert sorted(message.data for message in replies) == [b"js 0", b"python 0"]
    assert replies.end_reason == "max_messages"


def test_replies_are_gathered_until_an_empty_one(responder: Child, pool: Pool, unique: str) -> None:
    replies = pool.request_many(unique, Plan(10).encode(), sentinel=True)
    assert [message.data for message in replies] == chunks(10)
    assert replies.end_reason == "sentinel"


def test_replies_are_gathered_until_the_one_wanted(responder: Child, pool: Pool, unique: str) -> None:
    last = chunks(10)[7]
    replies = pool.request_many(unique, Plan(10).encode(), sentinel=lambda message: message.data == last)
    assert [message.data for message in replies] == chunks(7)
    assert replies.end_reason == "sentinel"


def test_replies_are_gathered_until_no_more_come(both: List[Child], pool: Pool, unique: str) -> None:
    began = time.monotonic()
    replies = pool.request_many(unique, Plan(3, end="none", signed=True).encode(), timeout=20, stall=0.5)
    assert sorted(message.data for message in replies) == [
        b"js 0",
        b"js 1",
        b"js 2",
        b"python 0",
        b"python 1",
        b"python 2",
    ]
    assert replies.end_reason == "stall"
    assert 0.5 <= time.monotonic() - began < 10


def test_replies_are_gathered_until_the_time_is_over(both: List[Child], pool: Pool, unique: str) -> None:
    began = time.monotonic()
    replies = pool.request_many(unique, Plan(1, end="none", signed=True).encode(), timeout=PATIENCE)
    assert sorted(message.data for message in replies) == [b"js 0", b"python 0"]
    assert replies.end_reason == "deadline"
    assert PATIENCE <= time.monotonic() - began < 3 * PATIENCE


def test_an_error_is_a_reply_like_others(responder: Child, pool: Pool, unique: str) -> None:
    """What its headers mean is for the caller to say."""
    *replies, last = pool.request_many(unique, Plan(2, end="error").encode(), max_messages=3)
    assert [message.data for message in replies] == chunks(2)
    assert last.data == b""
    assert last.headers == {"Nats-Service-Error": "out of paper", "Nats-Service-Error-Code": "507"}
