"""These tests need frameworks and web servers: they run where ``NATSBRIDGE_WEB=1`` is set; ``tox -e web`` sets it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator, List

import pytest

from natsbridge import OnlineRegistry, Pool, Subscriber
from natsbridge.server import EmbeddedServer

from .orders import Worker

WANTED = os.environ.get("NATSBRIDGE_WEB") == "1"
ROOT = Path(__file__).parents[2]

collect_ignore_glob: List[str] = [] if WANTED else ["test_*.py"]

if WANTED:
    # At the end: for "benchmarks" and "examples", while natsbridge is the one that is installed.
    sys.path.append(str(ROOT))


@pytest.fixture
def worker(server: EmbeddedServer) -> Iterator[Worker]:
    """A worker as in another process: it shares no registry with gateways in this one."""
    with Pool(server.url, registry=OnlineRegistry()) as pool:
        with Subscriber(pool, max_workers=64, max_queued=64, stall_timeout=1.0) as subscriber:
            subscriber.start_client_offline_listener()
            yield Worker(subscriber)


def pytest_report_header() -> str:
    return "web: " + ("wanted" if WANTED else "left out, set NATSBRIDGE_WEB=1 to run it")
