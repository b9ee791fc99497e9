"""How the programs talk to the test that started them: one JSON object a line, in both directions."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any, Dict, Iterator

Facts = Dict[str, Any]

# A shell's background jobs, and what they start, ignore Ctrl-C unless told otherwise.
signal.signal(signal.SIGINT, signal.default_int_handler)

_lock = threading.Lock()


def tell(event: str, **facts: object) -> None:
    """Say what happened; ``at`` is the time, comparable between processes."""
    line = json.dumps({"event": event, "at": time.monotonic(), "pid": os.getpid(), **facts}).encode() + b"\n"
    with _lock:
        while line:
            line = line[os.write(1, line) :]


def orders() -> Iterator[Facts]:
    """What the test wants done, until it closes the pipe."""
    for line in sys.stdin:
        yield json.loads(line)


def options() -> Facts:
    """The program's one argument."""
    given: Facts = json.loads(sys.argv[1])
    return given
