"""A process of a demo, which runs one function and does not outlive the demo; and how signals end the demo itself."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NoReturn

# Of the clocks that processes share, the one that nobody sets.
clock: Callable[[], float] = time.monotonic if sys.platform.startswith("linux") else time.time


class Actor:
    """A process that runs ``function``, which a module has under that name, with strings as its arguments.

    It ends with ``end``, and by itself when this process is gone.
    """

    def __init__(self, name: str, function: Callable[..., None], *arguments: str) -> None:
        self.name = name
        # "-m" would look for modules in the working directory first, whatever is called "queue.py" there.
        start = f"import sys; sys.path[:] = sys.argv.pop().split('\\n'); from {__name__} import main; main()"
        path = "\n".join(str(entry) for entry in sys.path)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, function.__module__, function.__name__, *arguments, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            # Ctrl-C in the terminal is for the demo, which then ends this one.
            start_new_session=sys.platform != "win32",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> float:
        """SIGKILL; returns the moment before."""
        moment = clock()
        self._process.kill()
        return moment

    def failure(self) -> str:
        """The last thing that the process said if it ended with an error; else empty."""
        if not self._process.poll():
            return ""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").split("\n")
        last = [line.strip() for line in said if line.strip()][-1:]
        return f"the {self.name} ended with exit code {self._process.returncode}: {''.join(last)}"

    def end(self) -> None:
        """Kill it if it still runs, and wait until it is gone; idempotent."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._errors.close()


def main() -> NoReturn:
    """In a process that ``Actor`` started: run the function."""
    logging.basicConfig()
    threading.Thread(target=_end_with_starter, name="demo-starter", daemon=True).start()
    module, function, *arguments = sys.argv[1:]
    getattr(importlib.import_module(module), function)(*arguments)
    sys.exit()


def _end_with_starter() -> None:
    """Standard input is a pipe whose other end only the starter has."""
    while os.read(0, 1):
        pass
    os._exit(1)


class Interrupted(Exception):
    """SIGINT or SIGTERM has come. ``exit_code``: what a shell makes of that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def signals() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM only leave a note, so that they break into nothing; yields the function that raises on one."""
    received: List[int] = []

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    previous: Dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as for a background job of a shell
                previous[number] = signal.signal(number, lambda came, _frame: received.append(came))
    try:
        yield check
    finally:
        for number, handler in previous.items():
            # After one signal the program is about to end: the second Ctrl-C of an impatient user changes nothing.
            signal.signal(number, signal.SIG_IGN if received else handler)
