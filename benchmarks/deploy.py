"""How soon each web server's worker stops when the browser is gone: ``python -m benchmarks.deploy [--write]``.

Each server runs ``_webapp.py``. A browser reads the first event of a stream that is silent from then on, and closes its
connection; measured is the time from there to the end of the worker's handler, in another process. ``--write`` puts the
table into ``docs/deploy.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from contextlib import ExitStack
from importlib import metadata
from typing import Dict, List, NamedTuple, Optional
from urllib.parse import quote

from natsbridge.server import EmbeddedServer

from ._browser import Browser
from ._nginx import PAGE, Nginx, find_nginx
from ._peer import Peer
from ._webservers import SERVERS, THREADS, WebServer
from ._worker import SUBJECT

MARK = "<!-- servers -->"
HEARTBEAT = 1.0  # seconds, where only heartbeats show it

_SOCKET = "hang-up of the socket"


class Kind(NamedTuple):
    """What there is to know of a server besides its figures."""

    package: str
    streams: str  # per process
    noticed: str
    heartbeat: float = 1000.0
    nginx: bool = False


KINDS: Dict[str, Kind] = {
    "werkzeug": Kind("Werkzeug", "a thread each, without limit", _SOCKET),
    "gunicorn sync": Kind("gunicorn", "1, and no longer than `--timeout`", _SOCKET),
    "gunicorn gthread": Kind("gunicorn", "`--threads`", _SOCKET),
    "gunicorn gevent": Kind("gunicorn", "`--worker-connections`", _SOCKET),
    "waitress": Kind("waitress", "`threads`", "asked every 50 ms (`channel_request_lookahead=1`)"),
    "uWSGI": Kind("pyuwsgi", "`--threads`", _SOCKET),
    "wsgiref": Kind("", "1", f"heartbeats (here every {HEARTBEAT:g} s): it shows no socket", HEARTBEAT),
}
BEHIND_NGINX = Kind("", "`--threads`", "nginx closes its connection to the gateway", nginx=True)


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/deploy.md")
    parser.add_argument("--clients", type=int, default=50, help="clients that leave, for each server (default: 50)")
    options = parser.parse_args(arguments)
    table = [
        "| server, worker class | streams per process | how a disconnect is noticed | median | longest |",
        "| --- | --- | --- | --- | --- |",
    ]
    with EmbeddedServer() as server, Peer("_worker", server.url) as worker:
        for name, kind in KINDS.items():
            if name not in SERVERS:
                continue
            table.append(row(name, kind, server, worker, options.clients))
            print(table[-1], flush=True)
            if name == "gunicorn gthread" and find_nginx():
                table.append(row(name, BEHIND_NGINX, server, worker, options.clients))
                print(table[-1], flush=True)
    if options.write:
        write(table, options.clients)
    return 0


def row(name: str, kind: Kind, server: EmbeddedServer, worker: Peer, clients: int) -> str:
    with ExitStack() as stack:
        env = {"NATS_URL": server.url, "GATEWAY_SUBJECT": SUBJECT}
        port = stack.enter_context(WebServer(name, env)).port
        if kind.nginx:
            port = stack.enter_context(Nginx(port)).port
        # A heartbeat each: fewer are enough.
        delays = measure(port, worker, clients if kind.heartbeat > HEARTBEAT else max(2, clients // 10), kind.heartbeat)
    shown = f"nginx, {name}" if kind.nginx else name
    version = f" {metadata.version(kind.package)}" if kind.package else ""
    median, longest = (f"{figure * 1000:.1f} ms" for figure in (statistics.median(delays), max(delays)))
    return f"| {shown}{version} | {kind.streams} | {kind.noticed} | {median} | {longest} |"


def measure(port: int, worker: Peer, clients: int, heartbeat: float) -> List[float]:
    """Seconds from the browser's close to the handler's end, for one client after the other."""
    path = "/events?heartbeat={:g}&order={}".format(heartbeat, quote(json.dumps({"count": 1, "idle": True})))
    delays: List[float] = []
    for _ in range(clients + 1):
        browser = Browser(port, path)
        browser.read_until(b"id: 1\n")
        time.sleep(random.uniform(0.01, 0.06))  # anywhere between two looks, where somebody looks now and then
        began = time.monotonic()
        browser.close()
        end = worker.ask("next_end", timeout=60)
        if end["reason"] is None:
            raise RuntimeError("the worker did not stop within 60 s")
        delays.append(end["at"] - began)
    return delays[1:]  # the first one may have had to connect


def write(table: List[str], clients: int) -> None:
    text = PAGE.read_text("utf-8")
    head, mark, tail = text.partition(MARK)
    assert mark, f"{PAGE} has no {MARK}"
    rest = tail.split("\n\n", 3)[3]  # behind the table and the line below it
    where = f"{platform.system()}, CPython {platform.python_version()}, servers with {THREADS} threads"
    how = f"Measured by `python -m benchmarks.deploy --write` on {where}; {clients} clients each."
    PAGE.write_text("\n\n".join([head + mark, "\n".join(table), how, rest]), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
