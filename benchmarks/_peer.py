"""The processes that a benchmark consists of: started here, asked one thing at a time, gone with the one that started them.

A command is a line of JSON on the peer's standard input, ``{"name": …, "arguments": {…}}``, and so is its answer on the
peer's standard output. The end of its input ends a peer.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, Dict

_ANSWER_SECONDS = 120.0  # a peer that has not answered by then hangs, and is killed
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class PeerError(Exception):
    """A peer failed, or was killed because it did not answer."""


class Peer:
    """The starter's end of one process that runs a module of this package, and is ready when this returns."""

    def __init__(self, module: str, *arguments: str) -> None:
        path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
        self._what = " ".join((module, *arguments))
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            self.answer()  # to no command: it is ready
        except BaseException:
            self.close()
            raise

    def ask(self, name: str, **arguments: Any) -> Dict[str, Any]:
        """Run one command in the process and return its answer. Raises PeerError."""
        self.tell(name, **arguments)
        return self.answer()

    def tell(self, name: str, **arguments: Any) -> None:
        """Have a command run; its ``answer`` is to be fetched later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"name": name, "arguments": arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Dict[str, Any]:
        """The answer to the oldest command that has none yet. Raises PeerError."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(_ANSWER_SECONDS, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise PeerError(f"{self._what} ended with exit code {self._process.wait()}")
        answer: Dict[str, Any] = json.loads(line)
        return answer

    def hold_to(self, core: int) -> None:
        """Linux: have all threads of the process, and those that they will start, run on one core."""
        for thread in os.listdir(f"/proc/{self._process.pid}/task"):
            os.sched_setaffinity(int(thread), {core})

    def kill(self) -> None:
        """End the process as a crash would."""
        self._process.kill()

    def close(self) -> None:
        """Ask the process to end, and see to it that it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def serve(commands: object) -> None:
    """The peer's end: answer each command with what the method of that name returns, until there are no more."""
    _reply({})
    for line in sys.stdin:
        command = json.loads(line)
        _reply(getattr(commands, command["name"])(**command["arguments"]))


async def serve_async(commands: object) -> None:
    """As ``serve``, for methods that are coroutine functions; the event loop runs on while no command is there."""
    loop = asyncio.get_event_loop()
    _reply({})
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        command = json.loads(line)
        _reply(await getattr(commands, command["name"])(**command["arguments"]))


def _reply(answer: Dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
