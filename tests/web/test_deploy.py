"""What the pages say about deploying: the README's view, the table of servers, nginx's configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from event_stream import parse
from procs import WaitFor

from benchmarks._browser import Browser
from benchmarks._nginx import PAGE, Nginx, find_nginx
from benchmarks._webservers import SERVERS, WebServer
from benchmarks.deploy import KINDS, MARK
from natsbridge.server import EmbeddedServer

from .orders import SUBJECT, Worker, query

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_view(server: EmbeddedServer, worker: Worker) -> None:
    (code,) = re.findall(r"^```python\n# app.py\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: Dict[str, Any] = {"__name__": __name__}
    exec(code.replace("nats://127.0.0.1:4222", server.url).replace("long.process", SUBJECT), names)
    response = names["app"].test_client().get("/tell?text=" + query("say", chunks=["a", "b"]).partition("=")[2])
    assert [event.data for event in parse(response.data)][1:3] == ["a", "b"]
    names["bridge"].pool.close()


def test_the_table_has_every_server() -> None:
    table = PAGE.read_text("utf-8").partition(f"{MARK}\n\n")[2].partition("\n\n")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert set(KINDS) == {kind for kind in SERVERS if "--preload" not in kind}
    for kind in SERVERS:
        if "--preload" not in kind:
            assert any(row.startswith(kind) for row in rows), f"{kind}: run python -m benchmarks.deploy --write"


@pytest.fixture(scope="module")
def proxied(nats_server: EmbeddedServer) -> Iterator[int]:
    """The port of nginx, as the page configures it, in front of gunicorn."""
    if find_nginx() is None:
        pytest.skip("nginx is not installed")
    with WebServer("gunicorn gthread", {"NATS_URL": nats_server.url, "GATEWAY_SUBJECT": SUBJECT}) as gateway:
        with Nginx(gateway.port) as nginx:
            yield nginx.port


@pytest.mark.process
def test_nginx_passes_events_on_at_once(proxied: int, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    browser = Browser(proxied, "/events?" + query("idle", key))
    browser.read_until(b"data: one\n")  # and nothing comes behind it that could push it out of a buffer
    assert b"text/event-stream" in browser.received
    browser.close()
    wait_for(lambda: key in worker.ended, 10, what="the worker to stop")


@pytest.mark.process
def test_nginx_shows_that_an_answer_was_broken_off(proxied: int, worker: Worker) -> None:
    assert Browser(proxied, "/bytes?" + query("say", chunks=["whole"])).read_all() == (200, b"whole", True)
    browser = Browser(proxied, "/bytes?" + query("fail", chunks=["half"], pause=0.1))
    assert browser.read_all() == (200, b"half", False)
