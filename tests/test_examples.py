"""The programs of ``examples/``, run as a user runs them: as processes, against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest
from procs import LONG, PACKAGE_ROOT, WaitFor, posix_only

from natsbridge.server import EmbeddedServer

pytestmark = [pytest.mark.process, posix_only]

EXAMPLES = Path(__file__).parents[1] / "examples"
TEXT = ["the", "worker", "stops", "when", "nobody", "listens", "any", "more"]


class Program:
    """A running example. What it prints, errors included, goes to a file."""

    def __init__(self, output: Path, url: str, name: str, *args: str) -> None:
        self.name = name
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *args],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": PACKAGE_ROOT, "NATS_URL": url},
            )

    def lines(self) -> List[str]:
        return self._output.read_text().splitlines()

    def wait(self) -> int:
        """The exit code; fails the test when the program does not end."""
        try:
            return self.process.wait(LONG)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} did not end; it printed {self.lines()}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LONG)


Run = Callable[..., Program]


@pytest.fixture
def run(server: EmbeddedServer, tmp_path: Path) -> Iterator[Run]:
    """``run(name, *args)``: start ``examples/<name>.py``; it ends with the test at the latest."""
    programs: List[Program] = []

    def start(name: str, *args: str) -> Program:
        programs.append(Program(tmp_path / f"{len(programs)}.txt", server.url, name, *args))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'run("{path.stem}"' not in text] == []


def test_worker_and_requester(run: Run, server: EmbeddedServer, wait_for: WaitFor) -> None:
    worker = run("worker", server.url)
    wait_for(lambda: "serving" in worker.lines(), what="the worker to serve")
    requester = run("requester", server.url)
    assert requester.wait() == 0
    assert requester.lines() == TEXT
    wait_for(lambda: "told everything" in worker.lines(), what="the end of the first answer")

    assert run("requester", server.url, "2").wait() == 0
    wait_for(lambda: "stopped: cancelled" in worker.lines(), what="the worker to stop")

    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.lines() == ["serving", "told everything", "stopped: cancelled"]


def test_a_killed_requester_stops_the_worker(run: Run, wait_for: WaitFor) -> None:
    worker = run("worker")
    wait_for(lambda: "serving" in worker.lines(), what="the worker to serve")
    requester = run("requester")
    wait_for(lambda: TEXT[0] in requester.lines(), what="the first word")
    requester.process.kill()
    wait_for(lambda: "stopped: no_interest" in worker.lines(), what="the worker to stop")
    worker.process.send_signal(signal.SIGINT)
    assert worker.wait() == 0


def test_a_requester_without_a_worker_says_so(run: Run) -> None:
    requester = run("requester")
    assert requester.wait() == 1
    assert requester.lines() == [
        "NoRespondersError: no responders on subject 'long.process': is a worker subscribed to it?"
    ]


def test_presence(run: Run, wait_for: WaitFor) -> None:
    worker = run("presence", "worker")
    wait_for(lambda: "serving" in worker.lines(), what="the worker to serve")
    ada, bob = run("presence", "gateway", "ada"), run("presence", "gateway", "bob")
    wait_for(lambda: "3" in ada.lines() and "3" in bob.lines(), what="three chunks for each")

    assert run("presence", "leave", "ada").wait() == 0
    assert ada.wait() == 0
    assert ada.lines()[-1] == "ada has left"
    wait_for(lambda: "stopped counting for ada: offline" in worker.lines(), what="the worker to stop")

    so_far = len(bob.lines())
    wait_for(lambda: len(bob.lines()) > so_far, what="bob's stream to go on")
    assert run("presence", "leave", "bob").wait() == 0
    assert bob.wait() == 0

    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_presence_explains_itself(run: Run) -> None:
    program = run("presence")
    assert program.wait() == 1
    assert any("presence.py gateway ID" in line for line in program.lines())


def test_request_reply(run: Run, server: EmbeddedServer) -> None:
    program = run("request_reply", server.url)
    assert program.wait() == 0
    assert program.lines() == [
        "hello Ada",
        "no responders on subject 'nobody.there': is a worker subscribed to it?",
        *(f"news.{number} item {number}" for number in range(3)),
    ]


def test_service(run: Run, wait_for: WaitFor) -> None:
    one, two = run("service", "serve"), run("service", "serve")
    ids = {wait_for(program.lines, what="the service to serve")[0].split()[1] for program in (one, two)}

    count = run("service", "count", "15")
    wait_for(count.lines, what="the first number")
    added, wrong = run("service", "add", "1", "2", "3"), run("service", "add", "x")
    assert added.wait() == 0
    assert added.lines() == ["6"]
    assert wrong.wait() == 1
    assert wrong.lines() == ["the service answered with error 400: that is not a list of numbers"]

    def looked() -> List[str]:
        look = run("service", "look")
        assert look.wait() == 0
        there = {line.split()[-1] for line in look.lines() if line.startswith("calculator 1.0.0 ")}
        return look.lines() if there == ids else []  # one that is slow to answer is not waited for

    found = wait_for(looked, what="both instances to be found")
    assert {line.split(":")[0] for line in found if line.startswith("  ")} == {"  numbers.add", "  numbers.count"}
    assert sum(int(line.split()[3]) for line in found if line.startswith("  ")) == 1  # the errors of all

    for program in (one, two):  # the stream goes on to its end
        program.process.send_signal(signal.SIGTERM)
    for program in (one, two):
        assert program.wait() == 0
        assert program.lines()[-1] == "stopped"
    assert count.wait() == 0
    assert count.lines() == [str(number) for number in range(1, 16)]

    alone = run("service", "add", "1")
    assert alone.wait() == 1
    assert alone.lines() == ["no responders on subject 'numbers.add': is a worker subscribed to it?"]


def test_service_explains_itself(run: Run) -> None:
    program = run("service")
    assert program.wait() == 1
    assert any("service.py look" in line for line in program.lines())
