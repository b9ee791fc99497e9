"""Child processes that run the programs of ``tests/programs``, and waiting with a limit.

A program reads its orders from stdin and tells what happens on stdout, one JSON object a line in both directions.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Protocol, TypeVar

import pytest

import natsbridge

T = TypeVar("T")
Facts = Dict[str, Any]

LONG = 20.0  # seconds that something which must happen may take, on a busy machine too

PROGRAMS = Path(__file__).parent / "programs"
PACKAGE_ROOT = str(Path(natsbridge.__file__).parents[1])

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX processes and signals")


def wait_until(predicate: Callable[[], T], timeout: float = LONG, what: str = "") -> T:
    """Call ``predicate`` until it gives something true, and return that; fail the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            pytest.fail(f"{what or 'what the test waits for'} did not happen within {timeout:g} s; it is {value!r}")
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


class WaitFor(Protocol):
    """What the fixture ``wait_for`` gives: ``wait_until``."""

    def __call__(self, predicate: Callable[[], T], timeout: float = LONG, what: str = "") -> T: ...


def environment() -> Dict[str, str]:
    """A copy, in any thread. Copying is no single step, and pytest changes a variable of it between two tests."""
    while True:
        with contextlib.suppress(KeyError):
            return dict(os.environ)


class Child:
    """A running program. ``facts``: what it has told so far, oldest first."""

    def __init__(self, program: str, **options: object) -> None:
        self.program = program
        self.facts: List[Facts] = []
        self._eof = False
        self._asked = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._cond = threading.Condition()  # guards facts and _eof
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(PROGRAMS / f"{program}.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**environment(), "PYTHONPATH": PACKAGE_ROOT, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"},
        )
        self._reader = threading.Thread(target=self._read, name=f"reader-{program}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    # -- talking ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                facts: Facts = json.loads(line)
            except ValueError:  # cut off by a kill
                facts = {"event": "garbage", "line": line.decode("utf-8", "replace")}
            with self._cond:
                self.facts.append(facts)
                self._cond.notify_all()
        with self._cond:
            self._eof = True
            self._cond.notify_all()

    def find(self, event: str, **wanted: object) -> Optional[Facts]:
        """The first fact of that event with those values, None if there is none yet."""
        wanted["event"] = event
        with self._cond:
            return next((f for f in self.facts if all(f.get(key) == value for key, value in wanted.items())), None)

    def hear(self, event: str, *, timeout: float = LONG, **wanted: object) -> Facts:
        """As ``find``, but wait for it; fail the test when it does not come, or cannot come any more."""
        deadline = time.monotonic() + timeout
        while True:
            with self._cond:
                facts = self.find(event, **wanted)
                if facts is not None:
                    return facts
                left = deadline - time.monotonic()
                if left > 0 and not self._eof:
                    self._cond.wait(left)
                    continue
                why = "its output ended" if self._eof else f"{timeout:g} s passed"
                pytest.fail(
                    f"{self.program} did not tell {wanted!r}: {why}; "
                    f"the last that it told is {self.facts[-10:]!r}, and it wrote {self.errors()!r}"
                )

    def order(self, do: str, **facts: object) -> None:
        """Tell the program to do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, do: str, **facts: object) -> Facts:
        """Tell the program to do something, and wait for its answer."""
        self._asked += 1
        self.order(do, ask=self._asked, **facts)
        return self.hear("answer", ask=self._asked)

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        # Not by reading it: the position in the file is the child's too.
        descriptor = self._errors.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")

    # -- signals ------------------------------------------------------------------------------------------------------

    def send(self, number: int) -> float:
        """Send a signal; the time (of ``time.monotonic``, which all processes share) just before."""
        now = time.monotonic()
        self.process.send_signal(number)
        return now

    def kill(self) -> float:
        """SIGKILL, and reap it; the time just before."""
        now = self.send(signal.SIGKILL)
        self.process.wait(LONG)
        return now

    def freeze(self) -> float:
        """SIGSTOP; returns the time just before, once the process stands still."""
        now = time.monotonic()
        stop(self.pid)
        return now

    def thaw(self) -> float:
        return self.send(signal.SIGCONT)

    def wait(self, timeout: float = LONG) -> int:
        """Wait for its end; the exit code, negative for a signal. Everything it told is in ``facts`` then."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGABRT)  # the fault handler writes where each of its threads is
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is stopped
                self.process.wait(1.0)
            pytest.fail(f"{self.program} did not end within {timeout:g} s; it wrote {self.errors()}")
        self._reader.join(LONG)
        return code

    def close(self) -> None:
        """End it whatever it does. What it wrote to stderr is shown with a test that fails."""
        if self.process.poll() is None:
            self.process.kill()  # works on a stopped process too
            self.process.wait(LONG)
        self._reader.join(LONG)
        text = self.errors()
        if text:
            print(f"--- stderr of {self.program}, exit code {self.process.returncode}\n{text}", file=sys.stderr)
        self._errors.close()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # an order that it did not live to read
                stream.close()


class StartProgram(Protocol):
    """What the fixture ``start_program`` gives: runs ``tests/programs/<program>.py`` with those options."""

    def __call__(self, program: str, **options: object) -> Child: ...


def stop(pid: int) -> None:
    """SIGSTOP; returns once every thread of the process stands still."""
    os.kill(pid, signal.SIGSTOP)
    if sys.platform.startswith("linux"):
        wait_until(lambda: set(states_of(pid)) <= {"T"}, what="the process to stop")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still meanwhile."""
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def states_of(pid: int) -> List[str]:
    """For each thread of a process the letter that Linux shows for its state."""
    states = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            states.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return states


def resident_bytes(pid: int) -> int:
    """What a process has in memory (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
