"""Requesters of other makes read a natsbridge worker's stream to its end, and are missed when they are gone."""

from __future__ import annotations

import pytest
from procs import WaitFor, posix_only

from natsbridge import Pool, StreamError, Subscriber

from .peers import (
    INBOX,
    JS_MUX,
    JS_NO_MUX,
    NATSEXT,
    SOON,
    Ask,
    Requester,
    Serve,
    Worker,
    chunks,
    digest,
    endless,
    failing,
    items,
    some,
)

pytestmark = [pytest.mark.process, posix_only]

requesters = pytest.mark.parametrize("requester", [JS_MUX, JS_NO_MUX, NATSEXT, INBOX], ids=lambda r: r.name)


@requesters
@pytest.mark.parametrize(
    ("count", "size", "pause"),
    [
        pytest.param(10, 0, 0.0, id="ordinary"),
        pytest.param(0, 0, 0.0, id="empty"),
        pytest.param(30, 0, 0.05, id="slow"),  # longer than nats.js would wait by itself
        pytest.param(200, 65536, 0.0, id="large"),
    ],
)
def test_it_reads_a_stream_to_its_end(
    requester: Requester, count: int, size: int, pause: float, ask: Ask, serve: Serve, worker_pool: Pool, wait_for: WaitFor
) -> None:
    worker = serve(some(count, size, pause))
    child = ask(requester)
    end = child.hear("end")
    assert items(child) == [digest(chunk) for chunk in chunks(count, size)]
    assert child.hear("sentinel")["headers"] is None
    assert end["yielded"] == count + requester.yields_sentinel
    assert worker.why() is None
    assert wait_for(lambda: worker_pool.stats().streams == 0, what="the stream's end at the worker")


@requesters
@pytest.mark.parametrize(
    ("error", "code", "description"),
    [
        pytest.param(StreamError(418, "short and stout"), "418", "short and stout", id="chosen"),
        pytest.param(ValueError("a secret"), "500", "the handler failed", id="unforeseen"),
    ],
)
def test_it_sees_why_a_stream_failed_half_way(
    requester: Requester, error: Exception, code: str, description: str, ask: Ask, serve: Serve
) -> None:
    serve(failing(5, error))
    child = ask(requester)
    child.hear("end")
    assert items(child) == [digest(chunk) for chunk in chunks(5)]
    assert child.hear("sentinel")["headers"] == {"Nats-Service-Error": description, "Nats-Service-Error-Code": code}


@requesters
def test_it_sees_that_every_worker_is_busy(requester: Requester, ask: Ask, subscriber: Subscriber, unique: str) -> None:
    """A refusal is an empty message with an error, and not taken for a subject without responders."""
    worker = Worker(endless())
    subscriber.stream_subscribe_handler(unique, worker, max_workers=1, max_queued=0)
    first = ask(requester)
    first.hear("item", n=1)
    refused = ask(requester)
    assert refused.hear("end")["items"] == 0
    headers = refused.hear("sentinel")["headers"]
    assert headers["Nats-Service-Error-Code"] == "503"
    assert headers["Natsbridge-Error"] == "busy"


@requesters
def test_its_client_id_can_be_marked_offline(
    requester: Requester, ask: Ask, serve: Serve, worker_pool: Pool, unique: str
) -> None:
    worker = serve(endless())
    child = ask(requester, headers={"Connect-ID": unique})
    child.hear("item", n=10)
    worker_pool.mark_client_offline(unique)
    assert worker.why() == "offline"
    child.hear("end")
    headers = child.hear("sentinel")["headers"]
    assert headers["Nats-Service-Error-Code"] == "499"
    assert headers["Natsbridge-Error"] == "offline"


@requesters
def test_its_death_is_noticed(requester: Requester, ask: Ask, serve: Serve) -> None:
    worker = serve(endless())
    child = ask(requester)
    child.hear("item", n=10)
    killed = child.kill()
    assert worker.why() == "no_interest"
    assert worker.ended_at - killed < SOON


@pytest.mark.parametrize("requester", [JS_NO_MUX, NATSEXT, INBOX], ids=lambda r: r.name)
def test_leaving_its_loop_early_is_noticed_while_it_lives(requester: Requester, ask: Ask, serve: Serve) -> None:
    worker = serve(endless())
    child = ask(requester, stop_after=5)
    left = child.hear("end")
    assert left["items"] == 5
    assert worker.why() == "no_interest"
    assert worker.ended_at - left["at"] < SOON
    assert child.process.poll() is None


def test_leaving_its_loop_early_is_masked_by_a_shared_inbox(ask: Ask, serve: Serve, wait_for: WaitFor) -> None:
    """nats.js has one wildcard subscription for all requests of a connection, unless told ``noMux``.

    It goes on listening when the loop is left, so the worker hears nothing until the connection is closed.
    """
    worker = serve(endless())
    child = ask(JS_MUX, stop_after=5)
    child.hear("end")
    sent = worker.sent
    wait_for(lambda: worker.sent > sent + 100, what="the worker to go on sending")
    assert worker.reason is None
    child.order("close")
    closed = child.hear("closed")
    assert worker.why() == "no_interest"
    assert worker.ended_at - closed["at"] < SOON


def test_waiting_no_longer_is_noticed(ask: Ask, serve: Serve) -> None:
    """nats.js waits for a second in all unless told ``maxWait``, and then ends as if that had been everything."""
    worker = serve(endless())
    child = ask(JS_NO_MUX, many={"strategy": "sentinel", "noMux": True})
    left = child.hear("end")
    assert child.find("sentinel") is None
    assert left["items"] > 0
    assert worker.why() == "no_interest"
    assert worker.ended_at - left["at"] < SOON
