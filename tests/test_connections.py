"""What a pool tells of its servers and connections, and moving it to others."""

from __future__ import annotations

from typing import Any, Set

import pytest
from procs import WaitFor, posix_only, stopped

from natsbridge import ClosedError, Pool, RequestTimeoutError
from natsbridge.server import EmbeddedServer


def test_what_a_pool_knows_of_its_server(server: EmbeddedServer, pool: Pool) -> None:
    assert pool.is_connected
    assert not pool.is_closed
    assert pool.max_payload == 1024 * 1024
    assert pool.connected_server_version.major == 2
    assert pool.servers == [server.url]
    assert pool.discovered_servers == []
    assert 0 < pool.rtt() < 5
    first, second = pool.new_inbox(), pool.new_inbox()
    assert first != second
    assert first.startswith("_INBOX.")
    (stats,) = pool.stats().connections
    assert stats.server == server.url
    assert stats.client_id is not None
    assert stats.client_ip in ("127.0.0.1", "::1")


def test_looking_connects_only_where_it_has_to(server: EmbeddedServer) -> None:
    pool = Pool(server.url.replace("nats://", "nats://user:secret@"))
    assert (pool.is_connected, pool.is_closed, pool.discovered_servers) == (False, False, [])
    assert pool.servers == [server.url.replace("nats://", "nats://***@")], "credentials are not shown"
    pool.force_reconnect()
    assert pool.stats().state == "new"
    assert pool.rtt() > 0
    assert pool.is_connected
    pool.close()
    assert (pool.is_connected, pool.is_closed) == (False, True)
    for call in (pool.rtt, pool.force_reconnect, lambda: pool.set_server_pool(server.url), lambda: pool.max_payload):
        with pytest.raises(ClosedError):
            call()


@posix_only
def test_a_round_trip_that_takes_too_long_says_so(make_nats_server: Any) -> None:
    server = make_nats_server()
    with Pool(server.url) as pool:
        with stopped(server.pid):
            with pytest.raises(RequestTimeoutError, match=r"a PING to the server did not finish within 0\.2 s"):
                pool.rtt(timeout=0.2)
        assert pool.rtt(timeout=20) > 0, "it goes on as if nothing had happened"


def test_a_pool_moves_to_another_server(
    server: EmbeddedServer, make_nats_server: Any, wait_for: WaitFor, unique: str
) -> None:
    other = make_nats_server()
    here, there = server.url, other.url
    with Pool(here, size=2) as pool, pool.subscribe(unique) as subscription:

        def servers() -> Set[str]:
            return {str(link.server) for link in pool.stats().connections if link.connected}

        pool.set_server_pool([here, there])
        assert servers() == {here}
        for expected in (there, here, there):
            pool.force_reconnect()
            wait_for(lambda expected=expected: servers() == {expected}, what=f"the pool to be at {expected}")  # type: ignore[misc]
            pool.flush(20)
            pool.publish(unique, b"x")
            assert subscription.next_msg(20).data == b"x"
        assert sorted(pool.servers) == sorted([here, there])
    with pytest.raises(ValueError, match="servers is empty"):
        Pool(here).set_server_pool([])
    with pytest.raises(TypeError):
        Pool(here).set_server_pool(5)  # type: ignore[arg-type]


def test_a_pool_that_has_not_connected_uses_the_new_servers(server: EmbeddedServer) -> None:
    pool = Pool("nats://127.0.0.1:1")
    pool.set_server_pool(server.url)
    with pool:
        assert pool.is_connected


def test_one_server_alone_can_be_reconnected_to(server: EmbeddedServer, wait_for: WaitFor) -> None:
    with Pool(server.url) as pool:
        before = pool.stats().connections[0].client_id
        pool.force_reconnect()
        wait_for(lambda: pool.stats().connections[0].client_id not in (None, before), what="a new connection")
        assert pool.stats().connections[0].reconnects == 1
