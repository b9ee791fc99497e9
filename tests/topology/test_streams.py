"""The outcomes of a stream are the same wherever its two ends are; how soon they are known is not."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Callable, Dict, Iterator, NamedTuple, Tuple

import pytest
from procs import Child, StartProgram, posix_only, wait_until

from natsbridge import Pool, ResponderLostError

from .servers import ACCOUNTS, as_user, start, start_cluster, start_gateways, start_leaf
from .streams import (
    CHUNKS,
    GIVEN_UP,
    QUICK,
    SLACK,
    WINDOW,
    kill_requester,
    numbers,
    rest,
    wait_for_worker,
)

pytestmark = [pytest.mark.process, pytest.mark.slow, posix_only]

AT_ONCE, LATE, NEVER = "at once", "late", "never"  # when the server says 503 of an end that is gone

manners = pytest.mark.parametrize("manner", ["fast", "slow", "silent"])


class Site(NamedTuple):
    """Where the two ends connect, and when a 503 comes there."""

    requester: str
    worker: str
    says_503: str


def in_a_cluster(stack: ExitStack) -> Site:
    nodes = start_cluster(stack)
    return Site(nodes[0].url, nodes[1].url, AT_ONCE)


def requester_on_a_leaf(stack: ExitStack) -> Site:
    hub, leaf = start_leaf(stack)
    return Site(leaf.url, hub.url, AT_ONCE)


def worker_on_a_leaf(stack: ExitStack) -> Site:
    hub, leaf = start_leaf(stack)
    return Site(hub.url, leaf.url, AT_ONCE)


def across_gateways(stack: ExitStack) -> Site:
    east, west = start_gateways(stack)
    return Site(east[0].url, west[-1].url, LATE)


def across_accounts(stack: ExitStack) -> Site:
    server = start(stack, ACCOUNTS)
    return Site(as_user(server, "ASKING"), as_user(server, "SERVING"), NEVER)


def across_accounts_in_a_cluster(stack: ExitStack) -> Site:
    nodes = start_cluster(stack, text=ACCOUNTS)
    return Site(as_user(nodes[0], "ASKING"), as_user(nodes[1], "SERVING"), NEVER)


SITES: Dict[str, Callable[[ExitStack], Site]] = {
    build.__name__: build
    for build in (
        in_a_cluster,
        requester_on_a_leaf,
        worker_on_a_leaf,
        across_gateways,
        across_accounts,
        across_accounts_in_a_cluster,
    )
}


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        yield SITES[request.param](stack)


@pytest.fixture
def pool(site: Site) -> Iterator[Pool]:
    """The requester's."""
    with Pool(site.requester, probe_interval=QUICK) as pool:
        yield pool


@pytest.fixture
def subject(unique: str) -> str:
    return f"work.{unique}"


@pytest.fixture
def worker(site: Site, pool: Pool, subject: str, start_program: StartProgram) -> Child:
    """A worker that the requester's server knows of."""
    options = {"probe_interval": QUICK}
    worker = start_program("worker", url=site.worker, subject=subject, pool=options, count=CHUNKS)
    worker.hear("ready")
    wait_for_worker(pool, subject)
    return worker


def test_a_stream_arrives_completely(pool: Pool, worker: Child, subject: str) -> None:
    """Several windows of it. The worker learns that it has."""
    with pool.stream(f"{subject}.some", b"whole", window=WINDOW) as stream:
        assert list(stream) == numbers(0, CHUNKS)
        assert stream.end_reason == "completed"
    ended = worker.hear("ended", key="whole")
    assert (ended["reason"], ended["error"], ended["sent"]) == (None, None, CHUNKS)
    wait_until(lambda: worker.ask("look")["streams"] == 0, what="the requester's confirmation of the end")


@pytest.mark.parametrize("manner", ["fast", "silent"])
def test_the_requester_cancels(pool: Pool, worker: Child, subject: str, manner: str) -> None:
    with pool.stream(f"{subject}.{manner}", b"cancelled", window=WINDOW) as stream:
        assert next(stream) == b"0"
        at = time.monotonic()
        stream.cancel()
        assert list(stream) == []
        assert stream.end_reason == "cancelled"
    ended = worker.hear("ended", key="cancelled")
    assert ended["reason"] == "cancelled"
    assert ended["at"] - at < SLACK
    assert ended["sent"] <= 2 * WINDOW


@manners
def test_the_requester_is_killed(site: Site, worker: Child, subject: str, manner: str, start_program: StartProgram) -> None:
    """A 503 tells the worker, where there is one, and the rule of three probes does elsewhere."""
    gateway = start_program("gateway", url=site.requester, pool={"probe_interval": QUICK})
    gateway.hear("ready")
    reason, after = kill_requester(gateway, worker, f"{subject}.{manner}")
    # Where the window was full or the handler silent, it is the next probe that is answered with 503.
    expected: Dict[str, Tuple[Tuple[str, ...], float]] = {
        AT_ONCE: (("no_interest",), QUICK),
        LATE: (("no_interest", "unreachable"), GIVEN_UP),
        NEVER: (("unreachable",), GIVEN_UP),
    }
    reasons, limit = expected[site.says_503]
    assert reason in reasons
    assert after < limit + SLACK
    wait_until(lambda: worker.ask("look")["streams"] == 0, what="the end of the stream")


@manners
def test_the_worker_is_killed(site: Site, pool: Pool, worker: Child, subject: str, manner: str) -> None:
    """The requester gets what had come in, then the loss: a stream that was cut off never looks complete."""
    with pool.stream(f"{subject}.{manner}", b"lost", window=WINDOW) as stream:
        assert next(stream) == b"0"
        killed = worker.kill()
        chunks, error = rest(stream)
        after = time.monotonic() - killed
        assert type(error) is ResponderLostError
        assert chunks == numbers(1, len(chunks))
        assert stream.end_reason == "lost"
    by_503 = str(error).endswith("process or connection is gone")
    by_probes = str(error).endswith("did not answer 3 probes")
    assert by_503 or by_probes
    if site.says_503 == AT_ONCE:
        assert by_503
        assert after < QUICK + SLACK
    else:
        assert by_probes or site.says_503 == LATE
        assert after < GIVEN_UP + SLACK
