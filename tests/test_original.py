"""The original system's three lines, letter for letter, between processes and within one.

They are in ``programs/original_worker.py`` and ``programs/original_gateway.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from procs import PROGRAMS, Child, StartProgram, posix_only, wait_until

from natsbridge import OnlineRegistry, Pool
from natsbridge.server import EmbeddedServer

pytestmark = [pytest.mark.process, posix_only]

THE_LINES = (
    "subscriber.start_client_offline_listener()",
    "pool.stream_request_with_client(subject, data, connect_id, response_handler)",
    "natsbridge.mark_client_offline(connect_id)",
)


def assert_stopped(worker: Child, gateway: Child, connect_id: str, *reasons: str) -> None:
    """The handler's loop has ended, and so has the gateway's call."""
    assert worker.hear("ended", connect_id=connect_id)["reason"] in reasons
    offline = gateway.hear("offline", connect_id=connect_id)
    assert offline["reason"] == "offline"
    assert offline["chunks"] >= 1


def test_the_lines_are_in_the_programs() -> None:
    text = "".join(Path(PROGRAMS / f"original_{part}.py").read_text() for part in ("worker", "gateway"))
    assert [line for line in THE_LINES if line not in text] == []


def test_between_processes(server: EmbeddedServer, start_program: StartProgram, unique: str) -> None:
    worker = start_program("original_worker", url=server.url, subject=unique)
    gateway = start_program("original_gateway", url=server.url, subject=unique)
    worker.hear("ready")
    gateway.hear("ready")
    for connect_id in ("anna", "bert"):
        assert gateway.ask("serve", connect_id=connect_id)["online"]
        gateway.hear("chunk", connect_id=connect_id, number=3)

    assert not gateway.ask("mark", connect_id="anna")["online"]
    assert_stopped(worker, gateway, "anna", "offline", "cancelled")
    assert worker.find("ended", connect_id="bert") is None
    chunks = len([facts for facts in gateway.facts if facts.get("connect_id") == "bert"])
    gateway.hear("chunk", connect_id="bert", number=chunks + 3)

    gateway.ask("mark", connect_id="bert")
    assert_stopped(worker, gateway, "bert", "offline", "cancelled")


def test_marked_in_a_third_process(server: EmbeddedServer, start_program: StartProgram, unique: str) -> None:
    """A process that only marks: the worker hears it through its listener, and the gateway from the worker."""
    worker = start_program("original_worker", url=server.url, subject=unique)
    gateway = start_program("original_gateway", url=server.url, subject=unique)
    worker.hear("ready")
    gateway.hear("ready")
    gateway.ask("serve", connect_id="anna")
    gateway.hear("chunk", connect_id="anna", number=3)
    with Pool(server.url, registry=OnlineRegistry()) as pool:
        pool.mark_client_offline("anna")
        assert_stopped(worker, gateway, "anna", "offline")


def test_gateway_and_worker_in_one_process(server: EmbeddedServer, start_program: StartProgram, unique: str) -> None:
    both = start_program("original_gateway", url=server.url, subject=unique, alone=True)
    both.hear("ready")
    for connect_id in ("anna", "bert"):
        both.ask("serve", connect_id=connect_id)
        both.hear("chunk", connect_id=connect_id, number=3)
    both.ask("mark", connect_id="anna")
    assert_stopped(both, both, "anna", "offline", "cancelled")
    chunks = len([facts for facts in both.facts if facts.get("connect_id") == "bert"])
    both.hear("chunk", connect_id="bert", number=chunks + 3)
    both.ask("mark", connect_id="bert")
    assert_stopped(both, both, "bert", "offline", "cancelled")

    # Back again: the same client is served afresh, since it was marked online first.
    both.ask("serve", connect_id="anna")
    wait_until(
        lambda: (
            len([f for f in both.facts if f["event"] == "chunk" and f["connect_id"] == "anna" and f["number"] == 1]) == 2
        ),
        what="a second stream",
    )
    both.ask("mark", connect_id="anna")
    wait_until(lambda: len([f for f in both.facts if f["event"] == "offline"]) == 3, what="the end of the second stream")
    assert both.process.stdin is not None
    both.process.stdin.close()
    assert both.wait() == 0
    assert both.errors() == ""
