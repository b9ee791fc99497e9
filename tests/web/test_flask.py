"""The Flask extension: configuration, responses, errors as HTTP statuses, and the commands as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import flask
import pytest
from event_stream import Event, parse
from procs import LONG, PACKAGE_ROOT, WaitFor

from natsbridge import NoRespondersError, Pool
from natsbridge.contrib.flask import NatsBridge
from natsbridge.server import EmbeddedServer

from .orders import SUBJECT, Worker, order


def make_app(url: str, **config: Any) -> flask.Flask:
    app = flask.Flask(__name__)
    app.config.update({f"NATSBRIDGE_{key}": value for key, value in {"SERVERS": url, **config}.items()})
    return app


@pytest.fixture
def app(server: EmbeddedServer) -> Iterator[flask.Flask]:
    app = make_app(server.url, TIMEOUT=2)
    bridge = NatsBridge(app)

    @app.get("/events")
    def events() -> flask.Response:
        return bridge.stream_response(SUBJECT, flask.request.args["order"].encode(), retry=2)

    @app.get("/bytes")
    def chunks() -> flask.Response:
        return bridge.stream_bytes(SUBJECT, flask.request.args["order"].encode(), mimetype="text/csv")

    @app.get("/nobody/<kind>")
    def nobody(kind: str) -> flask.Response:
        return bridge.stream_bytes("nobody") if kind == "bytes" else bridge.stream_response("nobody")

    @app.get("/offline")
    def offline() -> flask.Response:
        bridge.pool.registry.mark_offline("anna")
        with bridge.pool.client("bert"):
            return bridge.stream_bytes(SUBJECT, order("idle"), connect_id="anna", timeout=-1)

    yield app
    bridge.pool.close()


def get(app: flask.Flask, path: str, do: str = "", **arguments: Any) -> Any:
    query = {"order": order(do, **arguments)} if do else {}
    return app.test_client().get(path, query_string=query)


def test_events(app: flask.Flask, worker: Worker) -> None:
    response = get(app, "/events", "say", chunks=["one", "two\nlines"])
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    hello, *rest = parse(response.data)
    assert hello.type == "connect"
    assert rest == [Event("message", "one", "1"), Event("message", "two\nlines", "2"), Event("end", '{"chunks": 2}', "2")]


def test_the_browsers_last_event_id(app: flask.Flask, worker: Worker) -> None:
    key = worker.key()
    client = app.test_client()
    query = {"order": order("say", key, chunks=["x"])}
    response = client.get("/events", query_string=query, headers={"Last-Event-ID": "7"})
    assert [event.last_id for event in parse(response.data) if event.type == "message"] == ["8"]
    assert worker.requests[key].headers["Last-Event-ID"] == "7"


def test_a_response_that_is_closed_unread_stops_the_worker(app: flask.Flask, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    response = app.test_client().get("/events", query_string={"order": order("idle", key)}, buffered=False)
    wait_for(lambda: key in worker.requests)
    response.close()
    wait_for(lambda: key in worker.ended, what="the worker to stop")
    assert worker.ended[key][0] in ("cancelled", "offline")


def test_a_head_request_leaves_nothing(app: flask.Flask, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    assert app.test_client().head("/events", query_string={"order": order("idle", key)}).data == b""
    with app.app_context():
        pool = app.extensions["natsbridge"].pool
    wait_for(lambda: pool.stats().streams == 0)


def test_bytes(app: flask.Flask, worker: Worker) -> None:
    response = get(app, "/bytes", "say", chunks=["a;b\n", "\xff\x00"])
    assert response.status_code == 200
    assert response.mimetype == "text/csv"
    assert response.data == b"a;b\n\xff\x00"
    assert get(app, "/bytes", "say", chunks=[]).data == b""


def test_errors_before_the_first_chunk_are_statuses(app: flask.Flask, worker: Worker) -> None:
    response = get(app, "/bytes", "fail", code=404)
    assert response.status_code == 404
    assert b"no such report" in response.data
    assert get(app, "/bytes", "fail", code=7).status_code == 502
    assert get(app, "/bytes", "fail", code=499).status_code == 502  # no HTTP status that Flask knows
    assert get(app, "/nobody/bytes").status_code == 503


def test_errors_after_it_break_the_answer_off(app: flask.Flask, worker: Worker) -> None:
    with pytest.raises(Exception, match="no such report"):
        get(app, "/bytes", "fail", chunks=["a;b\n"], pause=0.1).data  # noqa: B018


def test_errors_of_events_are_events(app: flask.Flask, worker: Worker) -> None:
    response = get(app, "/nobody/events")
    assert response.status_code == 200
    assert json.loads(parse(response.data)[-1].data)["error"] == "no_responders"


def test_no_server_is_a_503_at_once() -> None:
    app = make_app("nats://127.0.0.1:1")
    bridge = NatsBridge(app)
    app.add_url_rule("/", view_func=lambda: bridge.stream_response("nobody"))
    assert app.test_client().get("/").status_code == 503
    bridge.pool.close()


def test_mistakes_are_not_hidden_behind_a_status(app: flask.Flask) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ValueError, match="timeout must be zero or more"):
        get(app, "/offline")


# -- configuration ----------------------------------------------------------------------------------------------------


def test_nothing_is_opened_before_it_is_used(app: flask.Flask) -> None:
    with app.app_context():
        assert app.extensions["natsbridge"].pool.stats().state == "new"


def test_one_bridge_for_many_applications(server: EmbeddedServer, worker: Worker) -> None:
    bridge = NatsBridge()
    apps = [make_app(server.url, NAME=f"app{number}") for number in range(2)]
    for app in apps:
        bridge.init_app(app)
    names: List[str] = []
    for app in apps:
        with app.app_context():
            names.append(bridge.pool.name)
    assert names == ["app0", "app1"]
    with pytest.raises(RuntimeError, match="no application"):
        bridge.pool  # noqa: B018
    with pytest.raises(RuntimeError, match="has a NatsBridge already"):
        NatsBridge(apps[0])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"SERVER": "nats://127.0.0.1"}, "unknown setting 'SERVER': did you mean 'SERVERS'"),
        ({"SERVERS": "http://127.0.0.1"}, "the scheme must be one of"),
        ({"HEARTBEAT": 0}, "heartbeat must be a finite number"),
        ({"WINDOW": "many"}, "window must be an int"),
        ({"MAX_WORKERS": 0}, "max_workers must be at least 1"),
        ({"FLUX": 1}, "there are"),
    ],
)
def test_bad_configuration_is_refused_by_name(config: Dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told) as caught:
        NatsBridge(make_app("nats://127.0.0.1:4222", **config))
    assert "NATSBRIDGE_" in str(caught.value)


# -- commands ---------------------------------------------------------------------------------------------------------

APP = """
import flask
from natsbridge.contrib.flask import NatsBridge

app = flask.Flask(__name__)
app.config.from_prefixed_env()
app.config["GREETING"] = "hello"
bridge = NatsBridge(app)
"""
HANDLERS = """
@bridge.stream("cli.function", queue="workers")
def greet(request, sender):
    sender.send(f"{flask.current_app.config['GREETING']} {request.data.decode()}".encode())

@bridge.stream("cli.generator", max_workers=2)
def spell(request):
    for letter in flask.current_app.config["GREETING"]:
        yield letter.encode()
"""


class Command:
    """A running ``flask natsbridge …``; what it prints goes to a file."""

    def __init__(self, directory: Path, url: str, *args: str) -> None:
        self._output = directory / "output.txt"
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "flask", "--app", "cli_app", "natsbridge", *args],
                cwd=str(directory),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(directory), PACKAGE_ROOT]),
                    "FLASK_NATSBRIDGE_SERVERS": url,
                    "PYTHONUNBUFFERED": "1",
                },
            )

    def lines(self) -> List[str]:
        return self._output.read_text().splitlines()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LONG)


def test_the_worker_command(server: EmbeddedServer, pool: Pool, tmp_path: Path, wait_for: WaitFor) -> None:
    (tmp_path / "cli_app.py").write_text(APP)
    (tmp_path / "cli_handlers.py").write_text("import flask\nfrom cli_app import bridge\n" + HANDLERS)
    command = Command(tmp_path, server.url, "worker", "--import", "cli_handlers")
    try:
        wait_for(lambda: len(command.lines()) == 2 or command.process.poll() is not None)
        assert command.lines() == ["serving cli.function (queue group workers)", "serving cli.generator"]
        with pool.stream("cli.function", b"Ada", timeout=LONG) as stream:
            assert list(stream) == [b"hello Ada"]
        with pool.stream("cli.generator", timeout=LONG) as stream:
            assert b"".join(stream) == b"hello"
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(LONG) == 0
    finally:
        command.close()
    with pytest.raises(NoRespondersError), pool.stream("cli.function") as stream:
        list(stream)


def test_a_worker_without_handlers_says_so(server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "cli_app.py").write_text(APP)
    command = Command(tmp_path, server.url, "worker")
    assert command.process.wait(LONG) == 1
    assert command.lines()[0].startswith("natsbridge: no handlers: name one with @bridge.stream")


def test_the_demo_command(server: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "cli_app.py").write_text(APP)
    command = Command(tmp_path, server.url, "demo")
    assert command.process.wait(LONG) == 0
    counted, stopped = command.lines()
    assert counted == "a worker counts, and this is its stream: 1 2 3 4 5 6 7 8 9 10 "
    assert stopped.startswith("the reader has left its loop: the worker stopped after ")


@pytest.mark.parametrize("name", ["worker", "demo"])
def test_commands_without_a_server_say_so(name: str, tmp_path: Path) -> None:
    (tmp_path / "cli_app.py").write_text("import flask\n" + APP + HANDLERS)
    command = Command(tmp_path, "nats://127.0.0.1:1", name)
    assert command.process.wait(LONG) == 1
    assert "natsbridge: " in command.lines()[-1]
    assert "127.0.0.1:1" in command.lines()[-1]
