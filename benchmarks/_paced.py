"""Threads that do something ten times a second or so, all begun together: what any program with as many of them pays."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Dict, Iterator, List

from ._peer import serve
from ._process import resident_bytes


def beats(count: int, pause: float) -> Iterator[int]:
    """``count`` numbers, each ``pause`` seconds after the one before, however long the caller takes."""
    due = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, due - time.monotonic()))
        yield number
        due += pause


class Paced:
    def __init__(self) -> None:
        self._threads: List[threading.Thread] = []

    def start(self, count: int, beats_each: int, pause: float) -> Dict[str, Any]:
        """Start ``count`` threads; what the process had before."""
        before = resident_bytes()

        def beat() -> None:
            for _ in beats(beats_each, pause):
                b"%.9f" % time.monotonic()

        self._threads = [threading.Thread(target=beat) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        return {"bytes": before}

    def memory(self) -> Dict[str, Any]:
        return {"bytes": resident_bytes()}

    def join(self) -> Dict[str, Any]:
        for thread in self._threads:
            thread.join()
        return {}


if __name__ == "__main__":
    serve(Paced(*sys.argv[1:]))
