"""The Django application: settings and their checks, responses, and ``manage.py natsbridge_worker`` as a process."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import django
import pytest
from event_stream import Event, parse
from procs import LONG, PACKAGE_ROOT, WaitFor

from natsbridge import Pool
from natsbridge.server import EmbeddedServer

from .orders import Worker, order

SITE = Path(__file__).parent / "site"

sys.path.append(str(SITE))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
django.setup()

from django.core.checks import run_checks  # noqa: E402 - settings first
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.core.handlers.asgi import ASGIRequest  # noqa: E402
from django.test import Client, RequestFactory, override_settings  # noqa: E402

from natsbridge.contrib.django import get_pool, stream_bytes, stream_response  # noqa: E402


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Any]:
    with override_settings(NATSBRIDGE={"SERVERS": server.url, "TIMEOUT": 2}):
        yield Client()


def get(client: Any, path: str, do: str, key: str = "", **arguments: Any) -> Any:
    return client.get(path, {"order": order(do, key, **arguments).decode()})


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def test_events(client: Any, worker: Worker) -> None:
    response = get(client, "/events", "say", chunks=["one", "two\nlines"])
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response["Cache-Control"] == "no-cache"
    assert response["X-Accel-Buffering"] == "no"
    hello, *rest = parse(body(response))
    assert hello.type == "connect"
    assert rest == [Event("message", "one", "1"), Event("message", "two\nlines", "2"), Event("end", '{"chunks": 2}', "2")]
    response.close()


def test_events_are_not_kept_back_to_be_compressed(client: Any, worker: Worker) -> None:
    """The project has GZipMiddleware, and the browser would take gzip."""
    query = {"order": order("idle").decode()}
    response = client.get("/events", query, HTTP_ACCEPT_ENCODING="gzip")
    pieces = iter(response.streaming_content)
    assert next(pieces).startswith(b"event: connect\n")
    assert next(pieces) == b"id: 1\ndata: one\n\n"
    response.close()


def test_a_response_that_is_closed_unread_stops_the_worker(client: Any, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    response = get(client, "/events", "silent", key)
    wait_for(lambda: key in worker.requests)
    response.close()
    wait_for(lambda: key in worker.ended, what="the worker to stop")
    assert worker.ended[key][0] in ("cancelled", "offline")
    wait_for(lambda: get_pool().stats().streams == 0)


def test_bytes(client: Any, worker: Worker) -> None:
    response = get(client, "/bytes", "say", chunks=["a;b\n", "\xff\x00"])
    assert response["Content-Type"] == "text/csv"
    assert body(response) == b"a;b\n\xff\x00"
    response.close()
    compressed = client.get("/bytes", {"order": order("say", chunks=["x" * 1000]).decode()}, HTTP_ACCEPT_ENCODING="gzip")
    assert gzip.decompress(body(compressed)) == b"x" * 1000
    compressed.close()


def test_errors_before_the_first_chunk_are_statuses(client: Any, worker: Worker) -> None:
    response = get(client, "/bytes", "fail", code=404)
    assert (response.status_code, response.content) == (404, b"no such report")
    assert get(client, "/bytes", "fail", code=7).status_code == 502
    assert client.get("/nobody").status_code == 503
    with override_settings(NATSBRIDGE={"SERVERS": "nats://127.0.0.1:1"}):
        assert get(client, "/events", "idle").status_code == 503


def test_errors_after_it_break_the_answer_off(client: Any, worker: Worker) -> None:
    response = get(client, "/bytes", "fail", chunks=["a;b\n"], pause=0.1)
    with pytest.raises(Exception, match="no such report"):
        body(response)
    response.close()


def test_asgi_is_refused() -> None:
    request = ASGIRequest({"method": "GET", "path": "/", "headers": []}, None)
    for function in (stream_response, stream_bytes):
        with pytest.raises(RuntimeError, match="WSGI servers only"):
            function(request, "nobody")


def test_mistakes_are_not_hidden_behind_a_status(client: Any) -> None:
    with pytest.raises(ValueError, match="wildcard"):
        stream_response(RequestFactory().get("/"), "not.*")


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SERVER": "nats://127.0.0.1"}, "unknown setting 'SERVER': did you mean 'SERVERS'"),
        ({"servers": "nats://127.0.0.1"}, "did you mean 'SERVERS'"),
        ({"SERVERS": "http://127.0.0.1"}, "the scheme must be one of"),
        ({"HEARTBEAT": 0}, "heartbeat must be a finite number"),
        ({"STALL_TIMEOUT": -1}, "stall_timeout must be zero or more"),
        ("nats://127.0.0.1", "must be a dict"),
    ],
)
def test_bad_settings_are_found_by_the_checks_and_never_used(settings: Any, told: str) -> None:
    with override_settings(NATSBRIDGE=settings):
        (found,) = run_checks(tags=["natsbridge"])
        assert told in found.msg
        assert found.id == "natsbridge.E001"
        with pytest.raises(ImproperlyConfigured, match=r"settings\.NATSBRIDGE"):
            get_pool()


def test_good_settings_pass_and_open_nothing(client: Any) -> None:
    assert run_checks(tags=["natsbridge"]) == []
    assert get_pool().stats().state == "new"
    assert get_pool() is get_pool()


# -- the worker command -----------------------------------------------------------------------------------------------


class Command:
    """``manage.py …`` as a process; what it prints goes to a file."""

    def __init__(self, directory: Path, output: Path, settings: Dict[str, Any], *args: str, debug: bool = False) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", str(directory / "manage.py"), *args],
                cwd=str(directory),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(directory), PACKAGE_ROOT]),
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "SITE_NATSBRIDGE": json.dumps(settings),
                    "SITE_DATABASE": str(output.with_suffix(".sqlite3")),  # Django never closes one in memory
                    "SITE_DEBUG": "1" if debug else "0",
                },
            )

    def output(self) -> str:
        return self._output.read_text()

    def lines(self) -> List[str]:
        return self.output().splitlines()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: itself, and the process it reloads
        self.process.wait(LONG)


@pytest.fixture
def commands() -> Iterator[List[Command]]:
    running: List[Command] = []
    yield running
    for command in running:
        command.close()


def ask(pool: Pool, subject: str, data: bytes = b"") -> bytes:
    with pool.stream(subject, data, timeout=LONG) as stream:
        return b"".join(stream)


def test_the_worker_command(
    server: EmbeddedServer, pool: Pool, tmp_path: Path, wait_for: WaitFor, commands: List[Command]
) -> None:
    command = Command(SITE, tmp_path / "output", {"SERVERS": server.url}, "natsbridge_worker")
    commands.append(command)
    wait_for(lambda: len(command.lines()) == 2 or command.process.poll() is not None)
    assert command.lines() == ["serving site.greet (queue group workers)", "serving site.spell"]
    assert ask(pool, "site.greet") == b"hello 42"
    assert ask(pool, "site.spell", b"abc") == b"abc"
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(LONG) == 0
    assert len(command.lines()) == 2


def test_in_development_it_starts_anew_when_code_changes(
    server: EmbeddedServer, pool: Pool, tmp_path: Path, wait_for: WaitFor, commands: List[Command]
) -> None:
    site = tmp_path / "site"
    for path in (path for path in SITE.rglob("*.py")):
        copy = site / path.relative_to(SITE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    command = Command(site, tmp_path / "output", {"SERVERS": server.url}, "natsbridge_worker", debug=True)
    commands.append(command)
    wait_for(lambda: "serving site.spell" in command.lines() or command.process.poll() is not None)
    assert ask(pool, "site.greet") == b"hello 42"
    workers = site / "library" / "workers.py"
    changed = workers.read_text().replace('"hello"', '"good morning"')
    workers.write_text(changed)
    moments = itertools.count(int(workers.stat().st_mtime) + 10)

    def second_start() -> bool:
        moment = next(moments)  # again and again: the reloader may not have had its first look yet
        os.utime(str(workers), (moment, moment))
        return command.lines().count("serving site.spell") >= 2

    wait_for(second_start, what="the second start")
    assert ask(pool, "site.greet") == b"good morning 42"


def test_bad_settings_stop_the_command(tmp_path: Path, commands: List[Command]) -> None:
    command = Command(SITE, tmp_path / "output", {"SERVER": "x"}, "natsbridge_worker")
    commands.append(command)
    assert command.process.wait(LONG) == 1
    assert "(natsbridge.E001) settings.NATSBRIDGE: unknown setting 'SERVER'" in command.output()


def test_no_server_stops_the_command(tmp_path: Path, commands: List[Command]) -> None:
    command = Command(SITE, tmp_path / "output", {"SERVERS": "nats://127.0.0.1:1"}, "natsbridge_worker")
    commands.append(command)
    assert command.process.wait(LONG) == 1
    assert command.lines()[-1].startswith("CommandError: ")
    assert "127.0.0.1:1" in command.lines()[-1]
