"""Fixtures that all tests share. ``tests/procs.py`` has the helpers for child processes."""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
import time
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional

import pytest
from nats.js.api import StorageType
from procs import LONG, Child, StartProgram, WaitFor, wait_until

import natsbridge
from natsbridge import JetStream, Pool, Subscriber
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from natsbridge.testing import ServerOptions  # pytest has to be the first to import it

pytest_plugins = ["natsbridge.testing"]

# A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C is what some tests are about.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Threads take turns all the time, in the hope of a bad moment."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def no_gc_callbacks() -> Iterator[None]:
    """For handlers that raise: where one comes in a callback of the collector, such as hypothesis has, nobody is told."""
    before = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = before


class Monitor:
    """What a server counts, from its monitoring port (``EmbeddedServer(http=True)``)."""

    def __init__(self, server: EmbeddedServer) -> None:
        assert server.monitor_url is not None, "the server serves no monitoring: start it with http=True"
        self._url = server.monitor_url

    def get(self, path: str) -> Dict[str, Any]:
        """One of the server's pages, as in ``get("varz")``."""
        with urllib.request.urlopen(f"{self._url}/{path}", timeout=LONG) as answer:
            page: Dict[str, Any] = json.load(answer)
            return page

    def connections(self, name: Optional[str] = None) -> List[Dict[str, Any]]:
        """The clients' connections, all of them or those of pools with that name."""
        found: List[Dict[str, Any]] = self.get("connz?subs=1&limit=10000")["connections"]
        return found if name is None else [connection for connection in found if connection.get("name") == name]

    def subscriptions(self, name: Optional[str] = None) -> List[str]:
        """The subjects that the clients subscribe to, all of them or those of pools with that name."""
        return [subject for connection in self.connections(name) for subject in connection.get("subscriptions_list", ())]


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Of natsbridge, what was started meanwhile must end, within a few seconds."""
    before = set(threading.enumerate())
    yield

    def left() -> List[str]:
        return sorted(t.name for t in threading.enumerate() if t.name.startswith("natsbridge") and t not in before)

    deadline = time.monotonic() + 5.0
    if left():
        gc.collect()  # what nobody holds any more closes itself
    while left():
        if time.monotonic() >= deadline:
            pytest.fail(f"threads are left after the test: {left()}")
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """No test may leave a thread of natsbridge behind."""
    with no_thread_left():
        yield


@pytest.fixture(scope="session")
def nats_server_options() -> ServerOptions:
    return {"jetstream": True, "http": True}


@pytest.fixture(scope="session")
def server(nats_server: EmbeddedServer) -> EmbeddedServer:
    """The server that all tests share, with JetStream and monitoring. Leave it running."""
    return nats_server


@pytest.fixture
def monitor(server: EmbeddedServer) -> Monitor:
    """Connections and subscriptions as the shared server counts them."""
    return Monitor(server)


@pytest.fixture
def pool(server: EmbeddedServer) -> Iterator[Pool]:
    """An open pool on the shared server: the requester's."""
    with Pool(server.url) as pool:
        yield pool


@pytest.fixture
def worker_pool(server: EmbeddedServer) -> Iterator[Pool]:
    """A second open pool on the shared server: the worker's."""
    with Pool(server.url) as pool:
        yield pool


@pytest.fixture
def subscriber(worker_pool: Pool) -> Iterator[Subscriber]:
    """A started subscriber on ``worker_pool``."""
    with Subscriber(worker_pool) as subscriber:
        yield subscriber


@pytest.fixture
def unique() -> str:
    """A name that no other test has: for subjects, ids, queue groups."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def js(pool: Pool) -> JetStream:
    """JetStream of the shared server, through ``pool``."""
    return pool.jetstream()


@pytest.fixture
def stream(js: JetStream, unique: str) -> Iterator[str]:
    """The name of an empty stream in memory, for subjects below ``<name>.``."""
    js.add_stream(name=unique, subjects=[f"{unique}.>"], storage=StorageType.MEMORY)
    yield unique
    with suppress(natsbridge.Error):  # the test may have deleted it, or closed the pool
        js.delete_stream(unique)


@pytest.fixture
def wait_for() -> WaitFor:
    """``wait_for(predicate, timeout=20.0, what="")``: poll until the predicate gives something true, and return that."""
    return wait_until


@pytest.fixture
def start_program() -> Iterator[StartProgram]:
    """``start_program(name, **options)``: run ``tests/programs/<name>.py`` as a process, which ends with the test."""
    children: List[Child] = []

    def start(program: str, **options: object) -> Child:
        children.append(Child(program, **options))
        return children[-1]

    yield start
    for child in reversed(children):
        child.close()
