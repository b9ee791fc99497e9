"""What can happen to streams: the processes of a fault, and how it is brought about."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack
from typing import Any, Callable, Dict, Generator, NamedTuple, Optional, Tuple

from procs import Child, Facts, wait_until
from proxy import Proxy

from natsbridge import OnlineRegistry, Pool
from natsbridge.server import EmbeddedServer

PROBE = 0.2  # seconds: the probe interval of both ends
RESUME = 1.2  # seconds: more than the rule of three probes takes, to tell the two apart
STALL = 1.0
DRAIN = 0.5
TIMEOUT = 1.5
IDLE = 0.6
RETRIES = 0.1
WINDOW = 8
PATIENCE = 10.0  # for what ought to have happened long before
SLACK = 1.5  # seconds: ticks of 0.1 s, and a busy machine


# Where the stream is when it happens, and the handler that brings it there.
MUTE, FLOWING, QUIET, FULL = "before the first chunk", "chunks flow", "silent", "window full"
ENDING, LAST, ASKED = "the end is on its way", "the last chunks are being sent", "the request is made"
MANNERS = {MUTE: "mute", FLOWING: "slow", QUIET: "quiet", FULL: "fast", ENDING: "ending", LAST: "paced", ASKED: "slow"}

NATIVE, RESUMING, PLAIN, PLAIN_WORKER = "", "`resume`", "a plain requester", "a plain worker"


# -- who plays ----------------------------------------------------------------------------------------------------------


class Actors(NamedTuple):
    """The processes of one fault. ``hold``: keep the requester from answering, so that ends stay on their way.

    ``options``: of every stream; ``released``: a reader that stood still reads on once it has happened.
    """

    gateway: Child
    worker: Child
    subject: str
    hold: Optional[Callable[[], object]] = None
    options: Optional[Facts] = None
    released: bool = True


# A fault yields its actors, and is sent the keys of their streams once those are where they are to be. Then it strikes,
# and yields when (for all, or by key). What is lasting by then is looked at. If it mends, it yields when, once more.
Acts = Generator[Any, Any, None]


class Stage:
    """The processes that the faults of a run share, and those that each has of its own; closed as a whole."""

    def __init__(
        self,
        worker_url: str,
        requester_url: str = "",
        *,
        prefix: str = "",
        known: Optional[Callable[[str], object]] = None,
    ) -> None:
        """``requester_url``: where the ends connect to different servers, or as different users.

        ``known(subject)`` waits until a worker that has been started is known at the requester's server.
        """
        self.worker_url, self.requester_url = worker_url, requester_url or worker_url
        self._prefix, self._known = prefix, known
        self._stack = ExitStack()
        self.third = self._stack.enter_context(Pool(self.worker_url, registry=OnlineRegistry()))  # neither of the ends
        self._lock = threading.RLock()
        self._shared: Dict[str, Child] = {}
        self._count = 0

    def close(self) -> None:
        self._stack.close()

    def enter(self, resource: Any) -> Any:
        with self._lock:
            return self._stack.enter_context(resource)

    def proxy(self, url: str) -> Proxy:
        proxy = Proxy(url)
        with self._lock:
            self._stack.callback(proxy.close)
        return proxy

    def gateway(self, url: str = "", **options: object) -> Child:
        """A requesting process of its own."""
        pool = {"probe_interval": PROBE, "reconnect_time_wait": 0.1, **options}
        return self._start("gateway", url=url or self.requester_url, pool=pool)

    def worker(self, url: str = "", **options: object) -> Tuple[Child, str]:
        """A worker process of its own, and the subject below which it serves."""
        with self._lock:
            self._count += 1
            subject = f"{self._prefix}faults{self._count}"
        pool = {"probe_interval": PROBE, "reconnect_time_wait": 0.1}
        given: Facts = {"subscriber": {"max_workers": 64}, "listen": True, "count": 10, **options}
        worker = self._start("worker", url=url or self.worker_url, subject=subject, pool=pool, **given)
        if self._known is not None:
            self._known(subject)
        return worker, subject

    def _start(self, program: str, **options: object) -> Child:
        child = Child(program, **options)
        with self._lock:
            self._stack.callback(child.close)
        child.hear("ready")
        return child

    def settle(self) -> None:
        """Wait until the shared ones have no stream any more."""
        for child in self._shared.values():
            wait_until(lambda child=child: child.ask("look")["streams"] == 0, what="the end of all streams")  # type: ignore[misc]

    def shared_gateway(self) -> Child:
        with self._lock:
            if "gateway" not in self._shared:
                self._shared["gateway"] = self.gateway()
            return self._shared["gateway"]

    def shared_worker(self) -> Tuple[Child, str]:
        with self._lock:
            if "worker" not in self._shared:
                self._shared["worker"], self._subject = self.worker()
            return self._shared["worker"], self._subject


# -- what happens -------------------------------------------------------------------------------------------------------


def nothing_goes_wrong(stage: Stage) -> Acts:
    yield Actors(stage.shared_gateway(), *stage.shared_worker())
    yield time.monotonic()


def the_requester_is_killed(stage: Stage) -> Acts:
    gateway = stage.gateway()
    yield Actors(gateway, *stage.shared_worker(), hold=gateway.freeze)
    yield gateway.kill()


def the_requester_gets_SIGTERM(stage: Stage) -> Acts:
    gateway = stage.gateway()
    yield Actors(gateway, *stage.shared_worker())
    yield gateway.send(signal.SIGTERM)


def the_requester_is_frozen(stage: Stage) -> Acts:
    gateway = stage.gateway()
    yield Actors(gateway, *stage.shared_worker(), hold=gateway.freeze)
    yield gateway.freeze()
    yield gateway.thaw()


def the_requester_is_frozen_briefly(stage: Stage) -> Acts:
    gateway = stage.gateway()
    yield Actors(gateway, *stage.shared_worker(), hold=gateway.freeze)
    frozen = gateway.freeze()
    wait_until(lambda: time.monotonic() >= frozen + 2 * PROBE)
    yield gateway.thaw()


def the_requesters_connection_is_cut(stage: Stage) -> Acts:
    proxy = stage.proxy(stage.requester_url)
    yield Actors(stage.gateway(proxy.url), *stage.shared_worker(), hold=proxy.swallow)
    now = time.monotonic()
    proxy.cut()
    proxy.restore()
    yield now


def the_requesters_network_swallows_everything(stage: Stage) -> Acts:
    proxy = stage.proxy(stage.requester_url)
    yield Actors(stage.gateway(proxy.url), *stage.shared_worker(), hold=proxy.swallow)
    now = time.monotonic()
    proxy.swallow()
    yield now
    proxy.restore()
    yield now


def the_requesters_network_swallows_briefly(stage: Stage) -> Acts:
    proxy = stage.proxy(stage.requester_url)
    yield Actors(stage.gateway(proxy.url), *stage.shared_worker(), hold=proxy.swallow)
    now = time.monotonic()
    proxy.swallow()
    wait_until(lambda: time.monotonic() >= now + 2 * PROBE)
    proxy.restore()
    yield now


def the_requester_stops(stage: Stage) -> Acts:
    gateway = stage.shared_gateway()
    keys = yield Actors(gateway, *stage.shared_worker())
    now = time.monotonic()
    for key in keys:
        gateway.ask("cancel", key=key)
    yield now


def the_client_is_marked_offline(stage: Stage) -> Acts:
    """In a third process, as far as the registries of the two ends can tell."""
    keys = yield Actors(stage.shared_gateway(), *stage.shared_worker())
    now = time.monotonic()
    for key in keys:
        stage.third.mark_client_offline(key)
    yield now


def the_deadline_passes(stage: Stage) -> Acts:
    gateway = stage.shared_gateway()
    worker, subject = stage.shared_worker()
    keys = yield Actors(gateway, worker, subject, options={"timeout": TIMEOUT})
    yield {key: worker.hear("started", key=key)["at"] + TIMEOUT for key in keys}


def the_reader_reads_no_more(stage: Stage) -> Acts:
    worker, subject = stage.worker(subscriber={"stall_timeout": STALL})
    keys = yield Actors(stage.shared_gateway(), worker, subject, released=False)
    yield {key: worker.ask("look")["runs"][key]["last"] for key in keys}
    yield time.monotonic()


def the_reader_pauses(stage: Stage) -> Acts:
    """For longer than the rule of three probes takes."""
    yield Actors(stage.shared_gateway(), *stage.shared_worker(), released=False)
    now = time.monotonic()
    wait_until(lambda: time.monotonic() >= now + 5 * PROBE)
    yield now


def the_requester_forks(stage: Stage) -> Acts:
    """And the child uses what it has inherited, and ends."""
    gateway = stage.gateway()
    yield Actors(gateway, *stage.shared_worker())
    now = time.monotonic()
    assert gateway.ask("fork")["code"] == 0
    yield now


def the_worker_is_killed(stage: Stage) -> Acts:
    gateway = stage.gateway()
    worker, subject = stage.worker()
    yield Actors(gateway, worker, subject, hold=gateway.freeze)
    now = worker.kill()
    gateway.thaw()
    yield now


def the_worker_is_frozen(stage: Stage) -> Acts:
    worker, subject = stage.worker()
    yield Actors(stage.shared_gateway(), worker, subject)
    yield worker.freeze()
    yield worker.thaw()


def the_worker_is_suspended_for_longer_than_its_rule(stage: Stage) -> Acts:
    worker, subject = stage.worker()
    yield Actors(stage.gateway(probe_interval=10 * PROBE), worker, subject)
    frozen = worker.freeze()
    wait_until(lambda: time.monotonic() >= frozen + 6 * PROBE)
    now = worker.thaw()
    wait_until(lambda: time.monotonic() >= now + 5 * PROBE)  # a verdict would fall within this time
    yield now


def the_worker_gets_SIGTERM(stage: Stage) -> Acts:
    worker, subject = stage.worker(run={"drain_timeout": DRAIN})
    yield Actors(stage.shared_gateway(), worker, subject)
    yield worker.send(signal.SIGTERM)


def the_workers_connection_is_cut(stage: Stage) -> Acts:
    proxy = stage.proxy(stage.worker_url)
    worker, subject = stage.worker(proxy.url)
    yield Actors(stage.shared_gateway(), worker, subject)
    now = time.monotonic()
    proxy.cut()
    yield now


def the_workers_network_swallows_everything(stage: Stage) -> Acts:
    proxy = stage.proxy(stage.worker_url)
    worker, subject = stage.worker(proxy.url)
    yield Actors(stage.shared_gateway(), worker, subject, hold=proxy.swallow)
    now = time.monotonic()
    proxy.swallow()
    yield now
    proxy.restore()
    yield now


def the_handler_raises_an_exception(stage: Stage) -> Acts:
    yield from _raises(stage, "ValueError")


def the_handler_raises_StreamError(stage: Stage) -> Acts:
    yield from _raises(stage, "StreamError")


def _raises(stage: Stage, error: str) -> Acts:
    worker, subject = stage.shared_worker()
    keys = yield Actors(stage.shared_gateway(), worker, subject)
    now = time.monotonic()
    for key in keys:
        worker.order("proceed", key=key, error=error)
    yield now


def every_worker_is_busy(stage: Stage) -> Acts:
    worker, subject = stage.worker(subscriber={"max_workers": 1, "max_queued": 0})
    gateway = stage.shared_gateway()
    yield Actors(gateway, worker, subject)
    gateway.ask("stream", subject=f"{subject}.{MANNERS[ASKED]}", key="occupies")
    worker.hear("started", key="occupies")
    yield time.monotonic()
    gateway.ask("cancel", key="occupies")


def nobody_serves_the_subject(stage: Stage) -> Acts:
    worker, _ = stage.shared_worker()
    yield Actors(stage.shared_gateway(), worker, "nobody")
    yield time.monotonic()


def the_server_is_killed_and_started_again(stage: Stage) -> Acts:
    """The worker is back long before the requester."""
    server = stage.enter(EmbeddedServer())
    worker, subject = stage.worker(server.url)
    yield Actors(stage.gateway(server.url, reconnect_time_wait=0.6), worker, subject)
    now = time.monotonic()
    server.kill()
    server.restart(0.2)
    yield now


def the_server_is_killed_and_stays_away(stage: Stage) -> Acts:
    server = stage.enter(EmbeddedServer())
    worker, subject = stage.worker(server.url)
    yield Actors(stage.gateway(server.url), worker, subject)
    now = time.monotonic()
    server.kill()
    yield now


def name_of(fault: Callable[[Stage], Acts]) -> str:
    return fault.__name__.replace("_", " ").replace("requesters", "requester's").replace("workers", "worker's")


FAULTS = {
    name_of(fault): fault
    for name, fault in tuple(globals().items())
    if name.startswith(("the_", "every_", "nobody_", "nothing_"))
}
