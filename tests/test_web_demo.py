"""``natsbridge demo --web`` without a browser: what the gateway serves, refuses and reports. ``browser/`` has one."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from typing import Any, Dict, Iterator, NamedTuple, Tuple

import pytest
from procs import LONG, posix_only, wait_until

from natsbridge import cli
from natsbridge._demo_process import clock
from natsbridge._web import demo, worker
from natsbridge._web.demo import WebDemo
from natsbridge._web.gateway import PAGE
from natsbridge._web.records import KEPT, KILLED, TAB, Records
from natsbridge.server import EmbeddedServer

pytestmark = pytest.mark.process


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Dict[str, Any]:
        value: Dict[str, Any] = json.loads(self.body)
        return value


class Site:
    """The demo as a client sees it."""

    def __init__(self, demo: WebDemo) -> None:
        self.demo = demo
        self.address = demo.url.rpartition("//")[2].rstrip("/")

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        with closing(http.client.HTTPConnection(self.address, timeout=LONG)) as connection:
            payload = body if body is None or isinstance(body, str) else json.dumps(body)
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def state(self) -> Dict[str, Any]:
        return self.ask("GET", "/state").json

    def record(self, key: str) -> Dict[str, Any]:
        """Empty as long as the worker has no handler for that stream."""
        return next((record for record in self.state()["streams"] if record["key"] == key), {})

    def ended(self, key: str) -> Dict[str, Any]:
        """The record, once its handler has ended."""
        wait_until(lambda: self.record(key).get("reason"), what="the end of the handler")
        return self.record(key)

    def open(self, path: str) -> socket.socket:
        """The connection of a stream, once its first word is there."""
        host, _, port = self.address.partition(":")
        connection = socket.create_connection((host, int(port)), LONG)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.address}\r\n\r\n".encode())
        received = b""
        while b"\nid: 1\n" not in received:
            data = connection.recv(65536)
            assert data, received
            received += data
        return connection

    def start(self, pace: str) -> Tuple[str, socket.socket]:
        key = self.ask("POST", "/streams", {"pace": pace, "place": TAB}).json["key"]
        return key, self.open(f"/stream?key={key}")


@pytest.fixture(scope="module")
def site(nats_server: EmbeddedServer) -> Iterator[Site]:
    with WebDemo(server=nats_server.url) as running:
        yield Site(running)


# -- the page -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["/", "/tab"])
def test_a_page_and_all_that_it_needs_come_from_the_gateway(site: Site, page: str) -> None:
    answer = site.ask("GET", page)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    needed = set(re.findall(r'(?:href|src)="([\w.]+)"', answer.body.decode()))
    assert {"style.css", "icon.svg"} < needed
    scripts = [name for name in needed if name.endswith(".js")]
    while scripts:
        script = scripts.pop()
        imported = re.findall(r'from "\./([\w.]+)"', site.ask("GET", f"/{script}").body.decode())
        scripts += set(imported) - needed
        needed.update(imported)
    types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in needed:
        answer = site.ask("GET", f"/{name}")
        assert answer.status == 200, name
        assert answer.headers["Content-Type"].startswith(types[name.rpartition(".")[2]]), name


def test_nothing_comes_from_elsewhere() -> None:
    for path in PAGE.iterdir():
        assert set(re.findall(r"(?:https?:)?//[\w.]+", path.read_text("utf-8"))) <= {"http://www.w3.org"}, path.name


def test_the_handlers_code_is_the_handlers_code(site: Site) -> None:
    code = site.ask("GET", "/code").body.decode()
    assert code.startswith("def answer(")
    assert "sender.send(word)" in code


# -- streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", worker.PACES)
def test_a_client_that_goes_takes_its_handler_along(site: Site, pace: str) -> None:
    key, connection = site.start(pace)
    running = wait_until(lambda: site.record(key))
    assert running["reason"] is None
    assert running["pid"] == site.state()["worker"]["pid"]
    left_at = clock()
    connection.close()
    assert site.ask("POST", "/left", {"key": key, "at": left_at, "how": "tab-closed"}).status == 204
    ended = site.ended(key)
    assert ended["reason"] == "cancelled"
    assert (ended["left_at"], ended["left_how"]) == (left_at, "tab-closed")
    assert ended["ended_at"] - left_at < 5.0


def test_a_stream_needs_no_page(site: Site) -> None:
    connection = site.open("/stream")
    newest = site.state()["streams"][0]
    assert newest["place"] == "elsewhere"
    connection.close()
    assert site.ended(newest["key"])["reason"] == "cancelled"


def test_a_stream_is_opened_once(site: Site) -> None:
    key, connection = site.start(worker.BRISK)
    again = site.ask("GET", f"/stream?key={key}")
    assert again.status == 409
    assert "was opened already" in again.json["error"]
    connection.close()


def test_more_streams_than_the_worker_has_threads_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_HANDLERS", 0)
    answer = site.ask("POST", "/streams", {"pace": worker.BRISK, "place": TAB})
    assert answer.status == 503
    assert "stop one" in answer.json["error"]
    assert site.ask("GET", "/stream").status == 503


def test_a_killed_worker_is_told_of_and_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WORKER_PAUSE", 0.1)
    key, connection = site.start(worker.BRISK)
    pid = site.state()["worker"]["pid"]
    assert site.ask("POST", "/worker/kill").status == 204

    def seen() -> bool:
        site.demo.look_after_worker()
        return bool(site.record(key)["reason"])

    wait_until(seen, what="the end of the worker")
    assert site.record(key)["reason"] == KILLED
    assert "exit code -9" in site.state()["worker"]["failure"]

    def replaced() -> bool:
        site.demo.look_after_worker()
        now = site.state()["worker"]
        return bool(now["state"] == "ready" and now["pid"] != pid)

    wait_until(replaced, what="another worker")
    connection.close()


def test_a_server_that_is_not_the_demos_is_not_restarted(site: Site) -> None:
    assert site.state()["server"]["own"] is False
    answer = site.ask("POST", "/server/restart")
    assert answer.status == 503
    assert "was not started by this demo" in answer.json["error"]


# -- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/../../setup.cfg", None, 404),
        ("GET", "/stream?key=unknown", None, 404),
        ("POST", "/", None, 405),
        ("GET", "/worker/kill", None, 405),
        ("POST", "/streams", "no JSON", 400),
        ("POST", "/streams", [], 400),
        ("POST", "/streams", {"pace": "fast", "place": "page"}, 400),
        ("POST", "/streams", {"pace": "brisk", "place": []}, 400),
        ("POST", "/streams", " " * 5000, 413),
        ("POST", "/left", {"key": "unknown", "at": 1.0, "how": "stopped"}, 400),
        ("POST", "/left", {"key": [], "at": 1.0, "how": "stopped"}, 400),
        ("POST", "/left", {"key": "unknown", "at": "now", "how": "stopped"}, 400),
        ("POST", "/left", '{"key": "unknown", "at": NaN, "how": "stopped"}', 400),
        ("POST", "/left", {"key": "unknown", "at": 1.0, "how": {}}, 400),
    ],
)
def test_what_makes_no_sense_is_refused(site: Site, method: str, path: str, body: object, status: int) -> None:
    answer = site.ask(method, path, body)
    assert answer.status == status
    assert answer.json["error"]


def test_other_sites_give_no_orders(site: Site) -> None:
    assert site.ask("POST", "/worker/kill", Origin="http://evil.example").status == 403
    assert site.ask("POST", "/worker/kill", Origin="null").status == 403
    assert site.state()["worker"]["state"] == "ready"
    own = site.ask("POST", "/streams", {"pace": worker.BRISK, "place": TAB}, Origin=f"http://{site.address}")
    assert own.status == 201


# -- the records ----------------------------------------------------------------------------------------------------------


def test_only_the_newest_records_are_kept_and_those_that_run() -> None:
    records = Records()
    first = records.add(worker.BRISK, TAB)
    records.on_report({"event": "started", "key": first.key, "at": 1.0, "pid": 1})
    others = [records.add(worker.BRISK, TAB) for _ in range(KEPT + 5)]
    assert records.get(first.key) is first
    assert records.get(others[0].key) is None
    assert records.get(others[-1].key) is others[-1]


def test_a_client_that_read_it_all_did_not_leave() -> None:
    records = Records()
    record = records.add(worker.BRISK, TAB)
    records.on_report({"event": "started", "key": record.key, "at": 1.0, "pid": 1})
    records.on_report({"event": "ended", "key": record.key, "at": 2.0, "pid": 1, "reason": worker.COMPLETED})
    records.left(record.key, 3.0, "page-left")
    assert record.left_at is None


# -- the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--port", "8000"], "--port is for the demo in the browser"),
        (["--server", "nats://127.0.0.1:1"], "--server is for the demo in the browser"),
        (["--open"], "--open is for the demo in the browser"),
        (["--web", "--broken-worker"], "--broken-worker is for the demo in the terminal"),
        (["--web", "--port", "70000"], "70000 is not in the range"),
    ],
)
def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str], args: list[str], complaint: str) -> None:
    assert cli.main(["demo", *args]) == 2
    assert complaint in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str], server: EmbeddedServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main(["demo", "--web", "--server", server.url, "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is not to be had" in capsys.readouterr().err


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{free.getsockname()[1]}"
        assert cli.main(["demo", "--web", "--server", url]) == 2
    assert url in capsys.readouterr().err.replace("\n", "")


@posix_only
def test_ctrl_c_ends_it(server: EmbeddedServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "natsbridge", "demo", "--web", "--server", server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"natsbridge" in process.stdout.readline()
        url = process.stdout.readline().split()[-1].decode()
        assert url.startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=LONG)
        assert (process.returncode, errors) == (0, b"")
        assert b"ended, with all its processes" in output
    finally:
        process.kill()
        process.wait(LONG)
