"""Web servers as processes, which serve ``_webapp.py`` unless told otherwise, with sixteen threads where they have any."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable, Dict, List

ROOT = Path(__file__).parents[1]
THREADS = 16
_START_TIMEOUT = 30.0

Command = Callable[[str, int], List[str]]


def _run(code: str) -> List[str]:
    return [sys.executable, "-c", code]


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _gunicorn(*options: str) -> Command:
    def command(app: str, port: int) -> List[str]:
        from gunicorn.config import KNOWN_SETTINGS

        common = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--graceful-timeout", "1"]
        if any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS):
            common.append("--no-control-socket")  # else all servers of a user share one path
        return [sys.executable, "-m", "gunicorn", *common, *options, app]

    return command


def _werkzeug(app: str, port: int) -> List[str]:
    module, _, name = app.partition(":")
    return _run(
        "from werkzeug.serving import run_simple\n"
        f"from {module} import {name} as app\n"
        f"run_simple('127.0.0.1', {port}, app, threaded=True)"
    )


def _waitress(app: str, port: int) -> List[str]:
    module, _, name = app.partition(":")
    return _run(
        "from waitress import serve\n"
        f"from {module} import {name} as app\n"
        f"serve(app, host='127.0.0.1', port={port}, threads={THREADS}, channel_request_lookahead=1)"
    )


def _uwsgi(app: str, port: int) -> List[str]:
    options = ("--master", "--enable-threads", "--threads", str(THREADS), "--die-on-term", "--need-app")
    return [_script("uwsgi"), "--http-socket", f"127.0.0.1:{port}", "--module", app, *options]


def _wsgiref(app: str, port: int) -> List[str]:
    module, _, name = app.partition(":")
    return _run(
        "from wsgiref.simple_server import make_server\n"
        f"from {module} import {name} as app\n"
        f"make_server('127.0.0.1', {port}, app).serve_forever()"
    )


SERVERS: Dict[str, Command] = {
    "werkzeug": _werkzeug,
    "gunicorn sync": _gunicorn("--worker-class", "sync"),
    "gunicorn sync --preload": _gunicorn("--worker-class", "sync", "--preload"),
    "gunicorn gthread": _gunicorn("--worker-class", "gthread", "--threads", str(THREADS)),
    "gunicorn gthread --preload": _gunicorn("--worker-class", "gthread", "--threads", str(THREADS), "--preload"),
    "gunicorn gevent": _gunicorn("--worker-class", "gevent", "--worker-connections", "2000"),
    "gunicorn gevent --preload": _gunicorn("--worker-class", "gevent", "--preload"),
    "waitress": _waitress,
    "uWSGI": _uwsgi,
    "wsgiref": _wsgiref,
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class WebServer:
    """A running server; ready when the constructor returns. ``kind``: a key of ``SERVERS``."""

    def __init__(self, kind: str, env: Dict[str, str], app: str = "benchmarks._webapp:app", ready: str = "/stats") -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            SERVERS[kind](app, self.port),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=str(ROOT),
            env={**os.environ, "PYTHONPATH": path, **env},
            start_new_session=True,
        )
        try:
            self._await(ready)
        except BaseException:
            self.close()
            raise

    def _await(self, path: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                urllib.request.urlopen(self.url + path, timeout=_START_TIMEOUT).close()
            except OSError as error:
                broken = isinstance(error, urllib.error.HTTPError) or self._process.poll() is not None
                if broken or time.monotonic() >= deadline:
                    raise RuntimeError(f"{self.kind} did not come up: {error}; it wrote\n{self.log()}") from error
                time.sleep(0.02)
            else:
                return

    @property
    def pid(self) -> int:
        """The process that was started; a master, where there is one."""
        return self._process.pid

    def log(self) -> str:
        """What it wrote so far."""
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")

    def close(self) -> None:
        """End it and everything it started; idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own, so nobody else is in the group
        self._process.wait()
        self._log.close()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
