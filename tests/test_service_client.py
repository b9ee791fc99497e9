"""``ServiceClient``: finds services, whoever made them, in finite time."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, List

import pytest
from procs import LONG

from natsbridge import ClosedError, Message, Pool, ServiceClient, ServiceRequest

ENOUGH = {"timeout": LONG, "stall": LONG}  # where the number of answers is known
Json = Dict[str, Any]


def answer_with(pool: Pool, subject: str, *answers: object) -> None:
    """Something that answers as other implementations of services may."""

    def handler(message: Message) -> None:
        for answer in answers:
            message.respond(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    pool.subscribe(subject, handler=handler)


def identity(kind: str, **more: object) -> Json:
    return {"type": f"io.nats.micro.v1.{kind}_response", "name": "x", "id": "7", "version": "1.0.0", **more}


def test_it_finds_every_instance(pool: Pool, worker_pool: Pool, unique: str) -> None:
    client = ServiceClient(pool)
    with worker_pool.add_service(unique, "1.0.0", metadata={"zone": "a"}) as one:
        with worker_pool.add_service(unique, "1.1.0", metadata={"zone": "b"}) as two:
            found = client.ping(unique, stall=0.5)
            assert {(ping.id, ping.name, ping.version, ping.metadata["zone"]) for ping in found} == {
                (one.id, unique, "1.0.0", "a"),
                (two.id, unique, "1.1.0", "b"),
            }
            assert {one.id, two.id} <= {ping.id for ping in client.ping(stall=0.5)}
            assert [ping.version for ping in client.ping(unique, two.id, **ENOUGH)] == ["1.1.0"]  # and waits for no more
        assert [ping.id for ping in client.ping(unique, stall=0.1)] == [one.id]


def test_it_reads_what_natsbridges_services_tell(pool: Pool, worker_pool: Pool, unique: str) -> None:
    def bad(request: ServiceRequest) -> None:
        request.respond_error(400, "bad")

    client = ServiceClient(pool)
    with worker_pool.add_service(
        unique, "1.0.0", description="for a test", stats_handler=lambda stats: {"n": stats.num_requests}
    ) as service:
        service.add_endpoint("bad", bad, subject=f"{unique}.bad", queue_group="", metadata={"format": "text"})
        service.add_stream_endpoint("count", lambda request, sender: None, subject=f"{unique}.count")
        pool.request(f"{unique}.bad")

        (info,) = client.info(unique, service.id, **ENOUGH)
        assert info == service.info()
        assert [endpoint.metadata for endpoint in info.endpoints] == [{"format": "text"}, {"natsbridge-stream": "1"}]

        (stats,) = client.stats(unique, service.id, **ENOUGH)
        assert stats.endpoints == service.stats().endpoints
        assert (stats.endpoints[0].num_errors, stats.endpoints[0].data) == (1, {"n": 1})
        assert abs(stats.started - service.stats().started) < timedelta(milliseconds=1)


@pytest.mark.parametrize("call", ["ping", "info", "stats"])
def test_there_may_be_none(pool: Pool, unique: str, call: str) -> None:
    began = time.monotonic()
    assert getattr(ServiceClient(pool), call)(unique, **ENOUGH) == []
    assert time.monotonic() - began < LONG / 2


def test_fields_that_are_left_out_are_empty(pool: Pool, worker_pool: Pool, unique: str) -> None:
    """nats.js leaves last_error out, Go gives null for what is empty."""
    answer_with(worker_pool, f"$SRV.PING.{unique}.7", identity("ping"))
    answer_with(
        worker_pool,
        f"$SRV.INFO.{unique}.7",
        identity("info", metadata=None, endpoints=[{"name": "a", "subject": "a.b", "metadata": None}]),
    )
    answer_with(
        worker_pool,
        f"$SRV.STATS.{unique}.7",
        identity("stats", started="2026-01-02T03:04:05.123456789Z", endpoints=[{"name": "a", "subject": "a.b"}], new=1),
    )
    client = ServiceClient(pool)
    (ping,) = client.ping(unique, "7", **ENOUGH)
    assert ping.metadata == {}
    (info,) = client.info(unique, "7", **ENOUGH)
    assert (info.metadata, info.description) == ({}, "")
    assert (info.endpoints[0].queue_group, info.endpoints[0].metadata) == ("", {})
    (stats,) = client.stats(unique, "7", **ENOUGH)
    assert stats.started == datetime(2026, 1, 2, 3, 4, 5, 123456, timezone.utc)
    (endpoint,) = stats.endpoints
    assert (endpoint.num_requests, endpoint.processing_time, endpoint.last_error, endpoint.data) == (0, 0, "", None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, 0, timezone.utc)),
        ("2026-01-02t03:04:05.1z", datetime(2026, 1, 2, 3, 4, 5, 100_000, timezone.utc)),
        ("2026-01-02T03:04:05.000001+02:30", datetime(2026, 1, 2, 0, 34, 5, 1, timezone.utc)),
    ],
)
def test_points_in_time(pool: Pool, worker_pool: Pool, unique: str, text: str, moment: datetime) -> None:
    answer_with(worker_pool, f"$SRV.STATS.{unique}.7", identity("stats", started=text))
    (stats,) = ServiceClient(pool).stats(unique, "7", **ENOUGH)
    assert stats.started == moment
    assert stats.to_dict()["started"].startswith(moment.strftime("%Y-%m-%dT%H:%M:%S"))  # which it says is UTC


def test_answers_that_cannot_be_understood_are_left_out(pool: Pool, worker_pool: Pool, unique: str) -> None:
    good = identity("stats", started="2026-01-02T03:04:05Z")
    bad: List[object] = [
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        [],
        7,
        None,
        "text",
        {},
        identity("stats"),
        identity("stats", started="yesterday"),
        identity("stats", started="2026-13-02T03:04:05Z"),
        identity("stats", started=7),
        identity("stats", started=good["started"], endpoints=7),
        identity("stats", started=good["started"], endpoints=[7]),
        identity("stats", started=good["started"], endpoints=[{"name": "a"}]),
    ]
    answer_with(worker_pool, f"$SRV.STATS.{unique}", *bad, good)
    assert [stats.id for stats in ServiceClient(pool).stats(unique, stall=0.5)] == ["7"]


def test_one_who_never_stops_answering_is_not_listened_to_for_ever(pool: Pool, worker_pool: Pool, unique: str) -> None:
    over = threading.Event()

    def endless(message: Message) -> None:
        while not over.wait(0.01):
            message.respond(json.dumps(identity("ping")).encode())

    worker_pool.subscribe(f"$SRV.PING.{unique}", handler=endless)
    try:
        began = time.monotonic()
        found = ServiceClient(pool).ping(unique, timeout=0.3, stall=0.2)
        assert time.monotonic() - began < LONG / 2
        assert len(found) > 3
    finally:
        over.set()


def test_who_does_not_answer_is_not_waited_for_for_ever(pool: Pool, worker_pool: Pool, unique: str) -> None:
    worker_pool.subscribe(f"$SRV.PING.{unique}", handler=lambda message: None)
    began = time.monotonic()
    assert ServiceClient(pool).ping(unique, timeout=0.1) == []
    assert time.monotonic() - began < LONG / 2


def test_the_figures_of_a_service_that_is_too_busy_to_tell_them_are_left_out(
    pool: Pool, worker_pool: Pool, unique: str
) -> None:
    def busy(message: Message) -> None:
        message.respond(b"", {"Nats-Service-Error": "busy", "Nats-Service-Error-Code": "503"})

    worker_pool.subscribe(f"$SRV.STATS.{unique}.7", handler=busy)
    assert ServiceClient(pool).stats(unique, "7", **ENOUGH) == []


CLIENT = ServiceClient(Pool())  # which connects only when it is used


@pytest.mark.parametrize(
    "call",
    [
        lambda: CLIENT.ping("a b"),
        lambda: CLIENT.info(""),
        lambda: CLIENT.stats("a.b"),
        lambda: CLIENT.stats("a" * 5000),
        lambda: CLIENT.ping(7),  # type: ignore[arg-type]
        lambda: CLIENT.ping("a", "b.c"),
        lambda: CLIENT.ping("a", "*"),
        lambda: CLIENT.ping("a", ""),
        lambda: CLIENT.ping("a", 7),  # type: ignore[arg-type]
        lambda: CLIENT.ping(id="7"),
        lambda: CLIENT.ping("a", timeout=-1),
        lambda: CLIENT.ping("a", timeout="1"),  # type: ignore[arg-type]
        lambda: CLIENT.ping("a", stall=float("nan")),
    ],
)
def test_bad_arguments(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        call()
    assert CLIENT._pool.stats().state == "new"


def test_through_a_closed_pool(unique: str) -> None:
    pool = Pool()
    pool.close()
    with pytest.raises(ClosedError):
        ServiceClient(pool).ping(unique)
