"""The programs of ``examples/``, run as a user runs them: as processes, against a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Callable, Iterator, List

import pytest
from procs import LONG, PACKAGE_ROOT, WaitFor, posix_only

from natsbridge import Error, Pool
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


@pytest.fixture(scope="module")
def dead_url() -> Iterator[str]:
    """Where nobody listens, and nobody else will."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"nats://127.0.0.1:{holder.getsockname()[1]}"


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'run("{path.stem}"' not in text] == []


@pytest.mark.parametrize("name", ["config_watcher", "job_queue", "presence", "service", "upload"])
def test_wrong_arguments_are_told_without_a_server(tmp_path: Path, dead_url: str, name: str) -> None:
    program = Program(tmp_path / "out", dead_url, name, "no-such-role")
    assert program.wait() == 1
    assert f"python examples/{name}.py" in "\n".join(program.lines())


@pytest.mark.parametrize(
    "call",
    [
        "config_watcher", "job_queue work", "presence worker", "presence gateway ada", "presence leave ada",
        "request_reply", "requester", "service serve", "service look", "service add 1", "service count 1", "upload list",
        "worker",
    ],
)  # fmt: skip
def test_that_there_is_no_server_is_one_line(tmp_path: Path, dead_url: str, call: str) -> None:
    program = Program(tmp_path / "out", dead_url, *call.split())
    assert program.wait() == 1
    (line,) = program.lines()
    assert line.startswith("ConnectError: ")
    assert dead_url in line


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
    assert wrong.lines() == ["ServiceError: the service answered with error 400: that is not a list of numbers"]

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
    assert alone.lines() == ["NoRespondersError: no responders on subject 'numbers.add': is a worker subscribed to it?"]


def test_service_explains_itself(run: Run) -> None:
    program = run("service")
    assert program.wait() == 1
    assert any("service.py look" in line for line in program.lines())


@pytest.fixture
def streams(server: EmbeddedServer) -> Iterator[Callable[..., None]]:
    """``streams(name, …)``: these are deleted when the test is over, since all tests share the server."""
    names: List[str] = []
    yield lambda *given: names.extend(given)
    with Pool(server.url) as pool:
        for name in names:
            with suppress(Error):
                pool.jetstream().delete_stream(name)


def test_config_watcher(run: Run, streams: Callable[..., None], wait_for: WaitFor) -> None:
    streams("KV_settings")
    setter = run("config_watcher", "set", "color", "red")
    assert setter.wait() == 0, setter.lines()
    assert setter.lines() == ["revision 1"]
    watcher = run("config_watcher")
    wait_for(lambda: "following 1 settings" in watcher.lines(), what="the settings")
    assert run("config_watcher", "set", "size", "7").wait() == 0
    assert run("config_watcher", "unset", "color").wait() == 0
    wait_for(lambda: len(watcher.lines()) == 4, what="two changes")
    watcher.process.send_signal(signal.SIGTERM)
    assert watcher.wait() == 0
    assert watcher.lines() == ["color = red", "following 1 settings", "size = 7", "color is not set any more"]


def test_upload(run: Run, streams: Callable[..., None], tmp_path: Path) -> None:
    streams("OBJ_files")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3_000_000))
    upload = run("upload", "put", str(source), "a file")
    assert upload.wait() == 0, upload.lines()
    assert upload.lines()[-1] == "stored a file, 3000000 bytes"
    assert any("3.0/3.0 MB" in line for line in upload.lines()), "the bar is full"
    download = run("upload", "get", "a file", str(target))
    assert download.wait() == 0, download.lines()
    assert target.read_bytes() == source.read_bytes()
    assert run("upload", "list").wait() == 0
    missing = run("upload", "get", "nothing", str(target))
    assert missing.wait() == 1
    assert "there is no object 'nothing'" in missing.lines()[-1]


def test_job_queue(run: Run, streams: Callable[..., None], wait_for: WaitFor) -> None:
    streams("JOBS", "DEAD_JOBS")
    adding = run("job_queue", "add", "one", "flaky-two", "broken-three")
    assert adding.wait() == 0, adding.lines()
    workers = [run("job_queue", "work"), run("job_queue", "work")]

    def done() -> List[str]:
        return sorted(line for worker in workers for line in worker.lines() if line != "working")

    expected = [
        "broken-three: put aside",
        "broken-three: try 1 failed",
        "broken-three: try 2 failed",
        "flaky-two: done",
        "flaky-two: try 1 failed",
        "one: done",
    ]
    wait_for(lambda: done() == expected, what="all jobs")
    for worker in workers:
        worker.process.send_signal(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [0, 0]
    dead = run("job_queue", "dead")
    assert dead.wait() == 0, dead.lines()
    assert dead.lines() == ["broken-three: this did not work out"]
    assert done() == expected
