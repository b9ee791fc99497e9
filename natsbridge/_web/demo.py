"""``natsbridge demo --web``: a server, a worker process and a gateway, until they are interrupted. Needs werkzeug, rich."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
import webbrowser
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, Optional

from rich.console import Console
from rich.text import Text
from werkzeug.serving import WSGIRequestHandler, make_server

from .._demo_process import Actor, Interrupted, signals
from ..errors import Error, NatsBridgeError, ServerError
from ..message import Message
from ..pool import Pool
from ..server import EmbeddedServer
from . import worker
from .gateway import RESUME, Gateway
from .records import Records

HOST = "127.0.0.1"
START_LIMIT = 15.0  # seconds for the worker process to come up
WORKER_PAUSE = 1.5  # seconds without a worker after it was killed, so that this can be seen
SERVER_PAUSE = 0.5  # seconds without a server while it restarts
_SLICE = 0.05


class WebDemoError(NatsBridgeError):
    """Something that the web demo needs did not work."""


def run(*, port: Optional[int] = None, server: Optional[str] = None, open_browser: bool = False) -> int:
    """Serve the page until SIGINT or SIGTERM; returns the exit code.

    port: of the page; None for any that is free. server: URL of a nats-server; None starts one. open_browser: show the
    page in the user's browser.

    0: interrupted, as is usual here; 2: the demo could not be carried out. No process of the demo is left.
    """
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    try:
        with signals() as check, WebDemo(port=port, server=server, on_wait=check) as demo:
            console.print("natsbridge web demo", style="bold cyan")
            console.print(f"  open     {demo.url}", soft_wrap=True)
            console.print(f"  server   {demo.server_url}", soft_wrap=True)
            console.print("  Ctrl-C ends it, with all its processes.", style="dim")
            if open_browser:
                webbrowser.open(demo.url)
            demo.run()
    except Interrupted:
        console.print("ended, with all its processes", style="dim")
        return 0
    except Error as error:
        errors.print(Text(f"the demo could not be carried out: {error}", style="red"), soft_wrap=True)
        return 2
    return 0


class WebDemo:
    """All of the demo; it is gone when the ``with`` is left.

    port, server: as for ``run``. on_wait: called at least ten times a second by whoever enters, and in ``run``; what it
    raises ends that.

    Entering raises WebDemoError when the worker does not come up or the port is not to be had, ServerError, ConnectError.
    """

    def __init__(
        self, *, port: Optional[int] = None, server: Optional[str] = None, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        self._port, self._server, self._on_wait = port or 0, server, on_wait
        self._records = Records()
        self._prefix = f"demo.{secrets.token_hex(4)}"  # two demos on one server must not answer each other
        self._embedded: Optional[EmbeddedServer] = None
        self._lock = threading.Lock()  # guards all below
        self._worker: Optional[Actor] = None
        self._ready = False
        self._worker_due = 0.0
        self._failure = ""
        self._restarting = False

    def __enter__(self) -> WebDemo:
        with ExitStack() as exits:
            listener = exits.enter_context(_listener(self._port))
            self.url = f"http://{HOST}:{listener.getsockname()[1]}/"
            if self._server is None:
                self._embedded = exits.enter_context(EmbeddedServer())
                self.server_url = self._embedded.url
            else:
                self.server_url = self._server
            self._pool = exits.enter_context(Pool(self.server_url, name="demo-gateway"))
            self._pool.subscribe(f"{self._prefix}.{worker.REPORT}", handler=self._on_report)
            exits.callback(self._end_worker)
            self._start_worker()
            self._wait_for_worker()
            gateway = Gateway(self._pool, self._prefix, self._records, self)
            exits.enter_context(_serving(listener, gateway))
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exits.close()

    def run(self) -> None:
        """Look after the worker process for as long as ``on_wait`` lets us."""
        while True:
            self._on_wait()
            self.look_after_worker()
            time.sleep(_SLICE)

    # -- the worker process -------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        with self._lock:
            self._ready = False
            self._worker = Actor("worker", worker.work, self.server_url, self._prefix)

    def _wait_for_worker(self) -> None:
        deadline = time.monotonic() + START_LIMIT
        while not self._ready:
            self._on_wait()
            assert self._worker is not None
            if not self._worker.running:
                raise WebDemoError(self._worker.failure() or "the worker ended before it was ready")
            if time.monotonic() >= deadline:
                raise WebDemoError(f"the worker was not ready within {START_LIMIT:g} s")
            time.sleep(_SLICE)

    def look_after_worker(self) -> None:
        """Notice that the worker process has ended, and start another one after a while."""
        with self._lock:
            ended = self._worker if self._worker is not None and not self._worker.running else None
            if ended is not None:
                self._worker, self._failure = None, ended.failure()
                self._worker_due = time.monotonic() + WORKER_PAUSE
            due = self._worker is None and time.monotonic() >= self._worker_due
        if ended is not None:
            ended.end()
            self._records.on_worker_lost(ended.pid)
        elif due:
            self._start_worker()

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()

    def _on_report(self, message: Message) -> None:
        report = json.loads(message.data)
        if report["event"] == "ready":
            with self._lock:
                self._ready = self._worker is not None and self._worker.pid == report["pid"]
        else:
            self._records.on_report(report)

    # -- for the page -------------------------------------------------------------------------------------------------

    def facts(self) -> Dict[str, Any]:
        with self._lock:
            pid = None if self._worker is None else self._worker.pid
            state = "gone" if self._worker is None else "ready" if self._ready else "starting"
            server = "restarting" if self._restarting else "up"
            failure = self._failure
        running = self._records.running()
        return {
            "gateway": {"pid": os.getpid()},
            "server": {"url": self.server_url, "own": self._embedded is not None, "state": server, "resume": RESUME},
            "worker": {"pid": pid, "state": state, "failure": failure, "running": running},
        }

    def kill_worker(self) -> None:
        with self._lock:
            if self._worker is not None:
                self._worker.kill()

    def restart_server(self) -> None:
        """Raises ServerError when it does not come back, or is not ours."""
        if self._embedded is None:
            raise ServerError(f"{self.server_url} was not started by this demo, which therefore does not restart it")
        with self._lock:
            again, self._restarting = self._restarting, True
        if again:
            return
        try:
            self._embedded.restart(SERVER_PAUSE)
        finally:
            with self._lock:
                self._restarting = False


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *_args: object) -> None: ...  # a line for each poll of the page would be no help


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise WebDemoError(f"port {port} of {HOST} is not to be had: {error.strerror or error}") from None


@contextmanager
def _serving(listener: socket.socket, gateway: Gateway) -> Iterator[None]:
    """Serve on a thread of its own, and each connection on one."""
    # Not by host and port: when those are not to be had, werkzeug exits instead of raising.
    host, port = listener.getsockname()
    server = make_server(host, port, gateway, threaded=True, request_handler=_QuietHandler, fd=listener.fileno())
    thread = threading.Thread(target=server.serve_forever, args=(_SLICE,), name="demo-gateway", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
