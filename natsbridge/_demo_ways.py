"""The seven ways in which the demo loses a client, and what it measures each time."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any, Callable, Dict, Generator, NamedTuple, Optional

from . import _demo_actors as actors
from ._demo_process import Actor, clock
from .errors import Error, NatsBridgeError, RequestTimeoutError
from .pool import Pool
from .server import EmbeddedServer

START_LIMIT = 15.0  # seconds for a process to come up and, if it is a requester, to have its chunks
STOP_LIMIT = 10.0  # seconds for the worker to stop; it takes six where only unanswered probes tell of a client's end
_SLICE = 0.1
_TOLERANCE = 0.005  # a deadline travels in whole milliseconds: the worker may be a fraction of one ahead of it

# states of the worker's loop
STOPPED = "stopped"
NEVER_STARTED = "never started"
STILL_RUNNING = "still running"
WAS_STARTED = "was started"
UNKNOWN = "unknown"


class DemoError(NatsBridgeError):
    """Something that the demo needs did not work."""


class Way(NamedTuple):
    """One way to lose a client: what its requester does, and what the stage does to it once chunks are flowing."""

    title: str
    manner: str
    lose: Optional[Callable[[Stage, Actor, str], float]] = None  # returns the moment; None: the requester goes by itself
    offline_before: bool = False


class Outcome(NamedTuple):
    """What became of the worker's loop."""

    state: str
    chunks_after: Optional[int] = None  # sent after the client had gone
    seconds: Optional[float] = None  # from then to the end of the loop
    reason: str = ""  # of ClientOfflineError
    detail: str = ""  # why the state is unknown

    @property
    def good(self) -> bool:
        return self.state in (STOPPED, NEVER_STARTED)


def _mark_offline_at_worker(stage: Stage, _requester: Actor, connect_id: str) -> float:
    reply = stage.pool.request(actors.MARK_OFFLINE, connect_id.encode())
    return float(json.loads(reply.data))


def _mark_offline_here(stage: Stage, _requester: Actor, connect_id: str) -> float:
    moment = clock()
    stage.pool.mark_client_offline(connect_id)
    return moment


def _kill(_stage: Stage, requester: Actor, _connect_id: str) -> float:
    return requester.kill()


WAYS = (
    Way("marked offline in worker's process", "read-on", lose=_mark_offline_at_worker),
    Way("marked offline in another process", "read-on", lose=_mark_offline_here),
    Way("left its loop early (break)", "leave-loop"),
    Way("its response handler said False", "return-false"),
    Way("its process was killed (SIGKILL)", "read-on", lose=_kill),
    Way("its deadline passed", "let-deadline-pass"),
    Way("was offline before it asked", "read-on", offline_before=True),
)


class Stage:
    """An embedded server, a worker process and a connection of our own; all of it is gone when the ``with`` is left.

    ignores_offline: take a worker that goes on when its client is gone.
    stop_limit: seconds after which a worker that has not stopped counts as still running.
    on_wait: called at least ten times a second while the stage waits; what it raises ends the wait.

    Entering raises DemoError when the worker does not come up, ServerError, ConnectError.
    """

    def __init__(
        self,
        *,
        ignores_offline: bool = False,
        stop_limit: float = STOP_LIMIT,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._ignores_offline = ignores_offline
        self._stop_limit = stop_limit
        self._on_wait = on_wait
        self._facts: Dict[str, Dict[str, Any]] = {}
        self._current = ""

    def __enter__(self) -> Stage:
        with ExitStack() as exits:
            self.server = exits.enter_context(EmbeddedServer())
            self.pool = exits.enter_context(Pool(self.server.url, name="demo"))
            self._reports = self.pool.subscribe(actors.REPORT)
            obedience = "ignores-offline" if self._ignores_offline else "obeys"
            self.worker = Actor("worker", actors.work, self.server.url, obedience)
            exits.callback(self.worker.end)
            self._fact(actors.WORKER, "ready", self.worker)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exits.close()

    # -- the show -----------------------------------------------------------------------------------------------------

    def speak(self, text: str) -> Generator[str, None, None]:
        """Have the worker say ``text``; yields each word when it arrives. Raises what a ``ResponseStream`` raises."""
        with self.pool.stream(actors.SPEAK, text.encode(), idle_timeout=START_LIMIT) as stream:
            for word in stream:
                self._on_wait()
                yield word.decode()

    @property
    def received(self) -> int:
        """Chunks that the client of the way under way has received, as far as it has said so."""
        return int(self._facts.get(self._current, {}).get("received", 0))

    def play(self, way: Way) -> Outcome:
        """Lose a client in one way. What goes wrong meanwhile leaves the outcome unknown."""
        connect_id = self._current = f"client-{len(self._facts)}"
        self._facts[connect_id] = {}
        try:
            if way.offline_before:
                self._make_offline(connect_id)
            requester = Actor("requester", actors.ask, self.server.url, way.manner, connect_id)
            try:
                if way.offline_before:
                    return self._watch_refusal(connect_id, requester)
                return self._watch_end(way, connect_id, requester)
            finally:
                requester.end()
        except Error as error:
            return Outcome(UNKNOWN, detail=str(error))

    def _watch_end(self, way: Way, connect_id: str, requester: Actor) -> Outcome:
        facts = self._facts[connect_id]
        if way.lose is None:
            gone_at = self._fact(connect_id, "gone_at", requester)
        else:
            if not self._wait(lambda: self.received >= actors.ENOUGH, START_LIMIT, requester):
                raise DemoError(f"after {START_LIMIT:g} s the client had only {self.received} chunks")
            gone_at = way.lose(self, requester, connect_id)
        if not self._wait(lambda: "ended_at" in facts, self._stop_limit):
            return Outcome(STILL_RUNNING)
        if facts["reason"] is None:
            raise DemoError(f"the worker's loop ended with another error: {facts['error']}")
        seconds = facts["ended_at"] - gone_at
        if seconds < -_TOLERANCE:
            raise DemoError(f"the worker's loop ended {-seconds:.3f} s before the client went ({facts['reason']})")
        after = sum(moment > gone_at for moment in facts["sent_at"])
        return Outcome(STOPPED, after, max(0.0, seconds), facts["reason"])

    def _make_offline(self, connect_id: str) -> None:
        self.pool.mark_client_offline(connect_id)
        if not self._wait(lambda: bool(self._known(connect_id)["offline"]), START_LIMIT):
            raise DemoError("the worker was not told that the client is offline")

    def _watch_refusal(self, connect_id: str, requester: Actor) -> Outcome:
        self._fact(connect_id, "told_offline", requester)
        if self._known(connect_id)["started"]:
            return Outcome(WAS_STARTED)
        return Outcome(NEVER_STARTED, chunks_after=0, reason="offline")

    def _known(self, connect_id: str) -> Dict[str, Any]:
        known: Dict[str, Any] = json.loads(self.pool.request(actors.KNOWN, connect_id.encode()).data)
        return known

    # -- reports ------------------------------------------------------------------------------------------------------

    def _fact(self, connect_id: str, fact: str, actor: Actor) -> Any:
        facts = self._facts.setdefault(connect_id, {})
        if not self._wait(lambda: fact in facts, START_LIMIT, actor):
            raise DemoError(f"the {actor.name} did not report {fact!r} within {START_LIMIT:g} s")
        return facts[fact]

    def _wait(self, done: Callable[[], bool], limit: float, actor: Optional[Actor] = None) -> bool:
        """Take in reports until ``done()``; False after ``limit`` seconds. DemoError when an actor has failed."""
        deadline = time.monotonic() + limit
        while not done():
            self._on_wait()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for failure in (self.worker.failure(), actor.failure() if actor else ""):
                if failure:
                    raise DemoError(failure)
            try:
                report = json.loads(self._reports.next_msg(min(left, _SLICE)).data)
            except RequestTimeoutError:
                continue
            self._facts.setdefault(report.pop("id"), {}).update(report)
        return True
