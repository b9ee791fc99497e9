"""The example as it is started: two commands of ``manage.py``, and a browser's requests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from natsbridge.server import EmbeddedServer

HERE = Path(__file__).parent
LONG = 20.0


class Program:
    """``manage.py …`` as a process; what it prints goes to a file."""

    def __init__(self, output: Path, url: str, *args: str) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", *args, "--noreload"],
                cwd=str(HERE),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "NATS_URL": url, "PYTHONUNBUFFERED": "1"},
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


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def worker(nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path / "worker.txt", nats_server.url, "natsbridge_worker")
    wait_for(lambda: "serving reports.csv" in program.printed(), "the worker's start")
    yield program
    program.close()


@pytest.fixture
def site(nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    program = Program(tmp_path / "site.txt", nats_server.url, "runserver", str(port))
    wait_for(lambda: answers(port), "the site's start")
    yield f"http://127.0.0.1:{port}"
    program.close()


def progress(lines: Iterator[bytes]) -> Iterator[Dict[str, Any]]:
    for line in lines:
        if line == b"event: end\n":
            return
        if line.startswith(b'data: {"row"'):
            yield json.loads(line[len(b"data: ") :])


def test_the_page(site: str) -> None:
    with urllib.request.urlopen(site, timeout=LONG) as page:
        assert b"<progress" in page.read()


def test_a_report_with_its_progress(site: str, worker: Program) -> None:
    with urllib.request.urlopen(f"{site}/report?year=2025", timeout=LONG) as stream:
        events = list(progress(stream))
    assert [event["done"] for event in events] == list(range(1, 366))
    assert {event["total"] for event in events} == {365}
    assert events[0]["row"][0] == "2025-001"
    wait_for(lambda: "made a report of 365 days" in worker.printed(), "the worker's end")


def test_a_cancelled_report_stops_the_worker(site: str, worker: Program) -> None:
    seen: List[int] = []
    with urllib.request.urlopen(f"{site}/report", timeout=LONG) as stream:
        for event in progress(stream):
            seen.append(event["done"])
            if len(seen) == 20:
                break
    wait_for(lambda: "stopped at day" in worker.printed(), "the worker's stop")
    assert int(worker.printed().split("stopped at day ")[1].split()[0]) < 200


def test_the_plain_download(site: str, worker: Program) -> None:
    with urllib.request.urlopen(f"{site}/report.csv", timeout=LONG) as answer:
        assert answer.headers["Content-Disposition"] == 'attachment; filename="report.csv"'
        lines = answer.read().decode().splitlines()
    assert lines[0] == "day,visits"
    assert len(lines) == 366


def test_a_bad_year_is_a_bad_request(site: str, worker: Program) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{site}/report.csv?year=soon", timeout=LONG)
    assert caught.value.code == 400
    caught.value.close()
