"""The example as it is started: two processes of flask, and a browser's requests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from natsbridge.server import EmbeddedServer

HERE = Path(__file__).parent
LONG = 20.0


class Program:
    """``flask --app app …`` as a process; what it prints goes to a file."""

    def __init__(self, output: Path, url: str, *args: str) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "app", *args],
                cwd=str(HERE),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "FLASK_NATSBRIDGE_SERVERS": url, "PYTHONUNBUFFERED": "1"},
            )

    def printed(self) -> str:
        return self._output.read_text()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(LONG)


def wait_for(predicate: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not predicate():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


@pytest.fixture
def worker(nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path / "worker.txt", nats_server.url, "natsbridge", "worker")
    wait_for(lambda: "serving chat.answer" in program.printed(), "the worker's start")
    yield program
    program.close()


@pytest.fixture
def site(nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    program = Program(tmp_path / "site.txt", nats_server.url, "run", "--port", str(port))
    wait_for(lambda: f":{port}" in program.printed(), "the site's start")
    yield f"http://127.0.0.1:{port}"
    program.close()


def tokens(lines: Iterator[bytes]) -> Iterator[str]:
    for line in lines:
        if line == b"event: end\n":
            return
        if line.startswith(b"data: ") and not line.startswith(b'data: {"connect_id"'):
            yield line[len(b"data: ") : -1].decode()


def test_the_page(site: str) -> None:
    with urllib.request.urlopen(site, timeout=LONG) as page:
        assert b"EventSource" in page.read()


def test_an_answer(site: str, worker: Program) -> None:
    with urllib.request.urlopen(f"{site}/answer?question=Why%3F", timeout=LONG) as stream:
        text = "".join(tokens(stream))
    assert text.startswith("You asked: “Why?”")
    assert text.endswith("no word is on its way. ")
    wait_for(lambda: "answered in" in worker.printed(), "the worker's end")


def test_the_stop_button(site: str, worker: Program) -> None:
    read: List[str] = []
    with urllib.request.urlopen(f"{site}/answer", timeout=LONG) as stream:
        for token in tokens(stream):
            read.append(token)
            if len(read) == 5:
                break
    wait_for(lambda: "stopped after" in worker.printed(), "the worker's stop")
    assert int(worker.printed().split("stopped after ")[1].split()[0]) < 20
