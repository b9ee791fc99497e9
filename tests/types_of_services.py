"""What type checkers see of services: checked by mypy and pyright, never run (see ``test_types.py``)."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional

if TYPE_CHECKING:
    from nats.micro.service import EndpointStats, ServiceInfo, ServicePing, ServiceStats
    from typing_extensions import assert_type

    from natsbridge import EndpointGroup, Message, Pool, Service, ServiceClient, ServiceRequest, StreamRequest

    def more(stats: EndpointStats) -> Dict[str, int]:
        return {"requests": stats.num_requests}

    def service(pool: Pool, asked: ServiceRequest, streamed: StreamRequest) -> None:
        service = pool.add_service("s", "1.0.0", metadata={"zone": "a"}, stats_handler=more, queue_group="")
        assert_type(service, Service)
        assert_type(service.start(), Service)
        with service as entered:
            assert_type(entered, Service)
        assert_type(service.id, str)
        assert_type(service.metadata, Dict[str, str])
        assert_type(service.stopped, Event)
        assert_type(service.ping(), ServicePing)
        assert_type(service.info(), ServiceInfo)
        assert_type(service.stats(), ServiceStats)
        assert_type(service.stats().endpoints, List[EndpointStats])
        group = service.add_group("g", queue_group="q")
        assert_type(group, EndpointGroup)
        assert_type(group.add_group("deep"), EndpointGroup)

        @group.endpoint("find", metadata={"format": "json"})
        def find(request: ServiceRequest) -> int:
            assert_type(request.data, bytes)
            assert_type(request.headers, Dict[str, str])
            request.respond(b"x", {"Trace": "7"})
            request.respond_error(400, "bad", b"{}")
            return 7

        @service.stream_endpoint("count")
        def count(request: StreamRequest) -> Iterator[bytes]:
            yield request.data

        def missing() -> None: ...

        assert_type(find(asked), int)
        assert_type(count(streamed), Iterator[bytes])
        service.add_endpoint("bad", missing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        service.add_endpoint("bad", find, max_workers="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def client(pool: Pool) -> None:
        client = ServiceClient(pool)
        assert_type(client.ping(), List[ServicePing])
        assert_type(client.info("s"), List[ServiceInfo])
        assert_type(client.stats("s", "id", timeout=1.0, stall=0.1), List[ServiceStats])
        assert_type(client.stats()[0].endpoints[0].last_error, Optional[str])
        assert_type(client.stats()[0].endpoints[0].data, Optional[Any])
        assert_type(pool.request("s").raise_for_error(), Message)
