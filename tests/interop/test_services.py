"""Services and those who look for them, across languages: JavaScript's client and services, and natsbridge's."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Iterator

import pytest
from procs import LONG, WaitFor, posix_only

from natsbridge import Pool, Service, ServiceClient, ServiceError, ServiceRequest, StreamRequest
from natsbridge.server import EmbeddedServer

from .peers import StartPeer

pytestmark = [pytest.mark.process, posix_only]


def failing(request: ServiceRequest) -> None:
    raise ServiceError(409, "taken", b"details")


def count(request: StreamRequest) -> Iterator[bytes]:
    for number in range(3):
        yield b"%d" % number


@pytest.fixture
def service(worker_pool: Pool, unique: str) -> Iterator[Service]:
    with worker_pool.add_service(
        unique,
        "1.2.3",
        description="made in Python",
        metadata={"language": "python"},
        stats_handler=lambda stats: {"answered": True},
    ) as service:
        group = service.add_group(unique)
        group.add_endpoint("echo", lambda request: request.respond(request.data), metadata={"format": "text"})
        group.add_endpoint("failing", failing)
        group.add_stream_endpoint("count", count)
        yield service


def test_javascripts_client_finds_and_calls_a_service_of_natsbridge(
    service: Service, start_peer: StartPeer, server: EmbeddedServer, unique: str
) -> None:
    client = start_peer("js", "service_client", url=server.url)

    (ping,) = client.ask("ping", name=unique)["found"]
    assert ping == {
        "type": "io.nats.micro.v1.ping_response",
        "name": unique,
        "id": service.id,
        "version": "1.2.3",
        "metadata": {"language": "python"},
    }
    assert service.id in [found["id"] for found in client.ask("ping")["found"]]
    assert [found["id"] for found in client.ask("ping", name=unique, id=service.id)["found"]] == [service.id]

    (info,) = client.ask("info", name=unique)["found"]
    assert info["description"] == "made in Python"
    assert [(each["name"], each["subject"], each["queue_group"]) for each in info["endpoints"]] == [
        ("echo", f"{unique}.echo", "q"),
        ("failing", f"{unique}.failing", "q"),
        ("count", f"{unique}.count", "q"),
    ]
    assert [each["metadata"] for each in info["endpoints"]] == [{"format": "text"}, {}, {"natsbridge-stream": "1"}]

    for endpoint in info["endpoints"][:1] * 2:
        answer = client.ask("request", subject=endpoint["subject"], data="hello")
        assert (answer["data"], answer["error"]) == ("hello", None)
    answer = client.ask("request", subject=f"{unique}.failing", data="")
    assert (answer["data"], answer["error"]["code"]) == ("details", 409)
    assert "taken" in answer["error"]["message"]

    (stats,) = client.ask("stats", name=unique)["found"]
    assert [(each["num_requests"], each["num_errors"], each["last_error"]) for each in stats["endpoints"]] == [
        (2, 0, ""),
        (1, 1, "409:taken"),
        (0, 0, ""),
    ]
    assert stats["endpoints"][0]["data"] == {"answered": True}
    assert stats["endpoints"][0]["average_processing_time"] > 0
    assert stats["started"].endswith("Z")


def test_natsbridges_client_finds_and_calls_a_service_of_javascript(
    pool: Pool, start_peer: StartPeer, server: EmbeddedServer, unique: str, wait_for: WaitFor
) -> None:
    began = datetime.now(timezone.utc)
    service = start_peer("js", "service", url=server.url, name=unique)
    id = service.hear("ready")["id"]
    client = ServiceClient(pool)

    (ping,) = client.ping(unique, id, timeout=LONG)
    assert (ping.name, ping.id, ping.version, ping.metadata) == (unique, id, "4.5.6", {"language": "js"})
    assert id in [found.id for found in client.ping()]

    (info,) = client.info(unique, id, timeout=LONG)
    assert info.description == "made in JavaScript"
    echo, refuse = info.endpoints
    assert (echo.name, echo.subject, echo.queue_group) == ("echo", f"{unique}.echo", "q")
    assert echo.metadata == {"format": "text"}

    assert pool.request(echo.subject, b"hello").raise_for_error().data == b"hello"
    with pytest.raises(ServiceError) as caught:
        pool.request(refuse.subject).raise_for_error()
    assert (caught.value.code, caught.value.description, caught.value.data) == (409, "taken", b"details")

    (stats,) = client.stats(unique, id, timeout=LONG)
    assert abs(stats.started - began) < timedelta(seconds=LONG)
    assert [(each.name, each.num_requests) for each in stats.endpoints] == [("echo", 1), ("failing", 1)]
    assert stats.endpoints[0].data == {"answered": True}
    assert stats.endpoints[0].last_error == ""

    service.ask("stop")
    assert wait_for(lambda: client.ping(unique) == [], what="the service to be found no more")


def test_instances_of_both_languages_are_one_service(
    service: Service, pool: Pool, start_peer: StartPeer, server: EmbeddedServer, unique: str
) -> None:
    other = start_peer("js", "service", url=server.url, name=unique).hear("ready")["id"]
    both = {service.id, other}
    assert {ping.id for ping in ServiceClient(pool).ping(unique, stall=1.0)} == both
    client = start_peer("js", "service_client", url=server.url)
    assert {found["id"] for found in client.ask("ping", name=unique)["found"]} == both
    for _ in range(50):  # each is answered by one of them
        assert pool.request(f"{unique}.echo", b"x").data == b"x"
    stats = ServiceClient(pool).stats(unique, stall=1.0)
    assert sum(each.endpoints[0].num_requests for each in stats) == 50
    assert all(each.endpoints[0].num_requests for each in stats)
