"""A pool works in every process that comes of a fork; streams, subscriptions and subscribers stay with their own.

The forking is in ``programs/forks.py``; the test's process serves it.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Dict

import pytest
from procs import LONG, Child, StartProgram, wait_until

from natsbridge import Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
]


@pytest.fixture(autouse=True)
def service(worker_pool: Pool, subscriber: Subscriber, unique: str) -> None:
    def some(request: StreamRequest, sender: ResponseSender) -> None:
        for number in range(3):
            sender.send(b"%d" % number)

    def slow(request: StreamRequest, sender: ResponseSender) -> None:
        for number in itertools.count():
            sender.send(b"%d" % number)
            time.sleep(0.01)

    worker_pool.subscribe(f"{unique}.echo", handler=lambda message: message.respond(message.data))
    subscriber.stream_subscribe_handler(f"{unique}.some", some, max_queued=100)
    subscriber.stream_subscribe_handler(f"{unique}.slow", slow, max_queued=100)


def run(start_program: StartProgram, server: EmbeddedServer, unique: str, way: str) -> Child:
    """Run the program; it and its children have to end well."""
    child = start_program("forks", url=server.url, subject=unique, way=way)
    code = child.wait()
    failed = child.find("failed")
    assert failed is None, failed and failed["why"]
    assert child.errors() == ""
    assert code == 0
    assert child.find("done") is not None
    assert {status for facts in child.facts if facts["event"] == "children" for status in facts["statuses"]} == {0}
    return child


@pytest.mark.parametrize(
    "way",
    [
        "four_children",
        "under_load",
        "while_connecting",
        "while_importing",
        "never_opened",
        "closed",
        "grandchildren",
        "in_a_handler",
        "with_multiprocessing",
    ],
)
def test_fork(server: EmbeddedServer, start_program: StartProgram, unique: str, subscriber: Subscriber, way: str) -> None:
    run(start_program, server, unique, way)
    wait_until(lambda: all(stats.running == 0 for stats in subscriber.stats()), what="the end of every stream")


def test_what_is_inherited_belongs_to_the_parent(server: EmbeddedServer, start_program: StartProgram, unique: str) -> None:
    child = run(start_program, server, unique, "inherited")
    refused: Dict[str, object] = child.hear("refused")
    answers = {key: value for key, value in refused.items() if key not in ("event", "at", "pid")}
    assert answers
    assert [key for key, value in answers.items() if value is not True] == []


def test_children_leave_the_parent_undisturbed(
    server: EmbeddedServer, start_program: StartProgram, unique: str, pool: Pool
) -> None:
    with pool.subscribe(f"{unique}.last") as last:
        child = run(start_program, server, unique, "leaving_undisturbed")
        assert last.next_msg(LONG).data == b"%d" % child.hear("last")["pid"]


def test_each_process_has_a_connection_of_its_own(
    server: EmbeddedServer, start_program: StartProgram, unique: str, pool: Pool
) -> None:
    """No reply to a child goes below an inbox of the parent's connection, or of another child's."""
    with pool.subscribe(f"{unique}.echo") as requests:
        run(start_program, server, unique, "four_children")
        replies = [requests.next_msg(LONG).reply for _ in range(5)]
    prefixes = {reply.rpartition(".")[0] for reply in replies}
    assert len(prefixes) == 5, "one for each child, and one for the parent"
