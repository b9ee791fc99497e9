"""Gateways come and go, several at a time; their clients reconnect to another one, under the same id."""

from __future__ import annotations

from typing import Callable

import pytest
from procs import Child, StartProgram, posix_only, wait_until

from natsbridge.server import EmbeddedServer

pytestmark = [pytest.mark.process, posix_only]


@pytest.fixture
def worker(server: EmbeddedServer, start_program: StartProgram, unique: str) -> Child:
    child = start_program("worker", url=server.url, subject=unique, listen=True, pool={"probe_interval": 0.3})
    child.hear("ready")
    return child


@pytest.fixture
def start_gateway(server: EmbeddedServer, start_program: StartProgram) -> Callable[[], Child]:
    def start() -> Child:
        child = start_program("gateway", url=server.url)
        child.hear("ready")
        return child

    return start


def open_stream(gateway: Child, unique: str, key: str, manner: str = "slow") -> None:
    gateway.ask("stream", subject=f"{unique}.{manner}", key=key, connect_id="client")
    gateway.hear("first", key=key)


def goes_on(worker: Child, key: str) -> None:
    """More chunks are sent, and the handler has not ended."""
    sent = worker.ask("look")["runs"][key]["sent"]
    wait_until(lambda: worker.ask("look")["runs"][key]["sent"] >= sent + 3, what="more chunks")
    assert worker.find("ended", key=key) is None


@pytest.mark.parametrize("manner", ["slow", "silent"])
def test_a_killed_gateway_is_followed_by_another(
    worker: Child, start_gateway: Callable[[], Child], unique: str, manner: str
) -> None:
    """It said nothing of its clients, so they are served again at once, and their old streams end all the same."""
    first = start_gateway()
    first.ask("enter", connect_id="client")
    open_stream(first, unique, "before", manner)
    first.kill()
    second = start_gateway()
    second.ask("enter", connect_id="client")
    open_stream(second, unique, "after")
    assert worker.hear("ended", key="before")["reason"] == "no_interest"
    goes_on(worker, "after")
    second.ask("leave", connect_id="client")
    assert worker.hear("ended", key="after")["reason"] in ("offline", "cancelled")
    assert second.hear("over", key="after")["error"] == "ClientOfflineError"


def test_a_client_moves_to_another_gateway(worker: Child, start_gateway: Callable[[], Child], unique: str) -> None:
    """The first gateway cleans up late: that stops what was requested there, and nothing else."""
    first, second = start_gateway(), start_gateway()
    first.ask("enter", connect_id="client")
    open_stream(first, unique, "before")
    second.ask("enter", connect_id="client")
    open_stream(second, unique, "after")

    first.ask("leave", connect_id="client")
    assert worker.hear("ended", key="before")["reason"] in ("offline", "cancelled")
    assert first.hear("over", key="before")["error"] == "ClientOfflineError"
    goes_on(worker, "after")
    open_stream(second, unique, "later")  # nor is the client refused there
    goes_on(worker, "later")

    first.ask("enter", connect_id="client")  # nor where it was before
    open_stream(first, unique, "back again")
    goes_on(worker, "back again")

    first.ask("offline", connect_id="client")  # but offline means offline, wherever it was requested
    for key in ("after", "later", "back again"):
        assert worker.hear("ended", key=key)["reason"] in ("offline", "cancelled")
    assert second.hear("over", key="after")["error"] == "ClientOfflineError"


def test_a_client_comes_back_after_it_was_marked_offline(
    worker: Child, start_gateway: Callable[[], Child], unique: str
) -> None:
    first, second = start_gateway(), start_gateway()
    open_stream(first, unique, "before")
    second.ask("offline", connect_id="client")
    assert worker.hear("ended", key="before")["reason"] == "offline"
    first.ask("stream", subject=f"{unique}.slow", key="refused", connect_id="client")
    over = first.hear("over", key="refused")
    assert (over["error"], over["count"]) == ("ClientOfflineError", 0)
    assert worker.find("started", key="refused") is None

    second.ask("enter", connect_id="client")
    open_stream(second, unique, "after")  # its "online" went ahead of the request, on the same connection
    goes_on(worker, "after")


def test_a_restarted_worker_serves_the_same_gateway(
    server: EmbeddedServer, start_program: StartProgram, start_gateway: Callable[[], Child], unique: str
) -> None:
    gateway = start_gateway()
    for turn in range(3):
        worker = start_program("worker", url=server.url, subject=unique)
        worker.hear("ready")
        open_stream(gateway, unique, f"key-{turn}")
        worker.kill()
        over = gateway.hear("over", key=f"key-{turn}")
        assert (over["error"], over["complete"]) == ("ResponderLostError", True)
    assert gateway.ask("look")["streams"] == 0
