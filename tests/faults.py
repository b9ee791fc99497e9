"""What can go wrong with a stream, and how each end learns of it: one table, and how its rows are brought about.

``test_faults.py`` plays the rows on one server, ``topology/test_faults.py`` some of them wherever the two ends may be, and
``docs/faults.md`` has them for users. ``python tests/faults.py`` prints the table as it stands there.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any, Callable, Dict, Generator, List, NamedTuple, Optional, Sequence, Tuple

import pytest
from procs import LONG, Child, Facts, wait_until
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


class When(NamedTuple):
    """How soon an end knows, in words and in seconds."""

    words: str
    earliest: float
    latest: float


AT_ONCE = When("at once", 0.0, 0.0)
BY_PROBE = When("with the next probe", 0.0, PROBE)
# Silence counts from what was heard last: up to a probe interval before it happened.
BY_RULE = When("after four probe intervals", 2 * PROBE, 4 * PROBE)
AFTER_RESUME = When("after `resume`", RESUME - 1.5 * PROBE, RESUME + 2 * PROBE)
AFTER_STALL = When("after `stall_timeout`", STALL - 0.1, STALL)
AFTER_DRAIN = When("after `drain_timeout`", DRAIN - 0.1, DRAIN)
AFTER_TIMEOUT = When("when `timeout` has passed", -0.1, 0.0)
AFTER_IDLE = When("after `idle_timeout`", IDLE - 0.2, IDLE)
AFTER_RETRIES = When("after three more tries within 0.1 s", 0.08, RETRIES)
IN_THE_END = When("", 0.0, LONG)
AWAKE = When("when it runs again", 0.0, 4 * PROBE)


class Outcome(NamedTuple):
    """``words``: any of these. At the requester: end reasons; at the worker: reasons of ``ClientOfflineError``.

    ``error``: the exception of the requester's iteration, "" where it ends silently; at the worker, one that is no
    ``ClientOfflineError``.
    """

    words: Tuple[Optional[str], ...]
    when: When
    error: str = ""


GONE = Outcome((), IN_THE_END)  # there is no such end any more, or never was
COMPLETE = Outcome(("completed",), IN_THE_END)
ENDED = Outcome((None,), IN_THE_END)


def told(word: str, when: When, error: str) -> Outcome:
    return Outcome((word,), when, error)


def lost(when: When) -> Outcome:
    return Outcome(("lost",), when, "ResponderLostError")


def lost_or_told(when: When) -> Outcome:
    """By its own means, or by the worker's word: whichever is faster."""
    return Outcome(("lost", "error"), when, "ResponderLostError")


def offline(when: When, *reasons: str) -> Outcome:
    return Outcome(reasons, when)


# Where the stream is when it happens, and the handler that brings it there.
MUTE, FLOWING, QUIET, FULL = "before the first chunk", "chunks flow", "silent", "window full"
ENDING, LAST, ASKED = "the end is on its way", "the last chunks are being sent", "the request is made"
MANNERS = {MUTE: "mute", FLOWING: "slow", QUIET: "quiet", FULL: "fast", ENDING: "ending", LAST: "paced", ASKED: "slow"}

NATIVE, RESUMING, PLAIN, PLAIN_WORKER = "", "`resume`", "a plain requester", "a plain worker"


class Row(NamedTuple):
    fault: str
    where: str
    kind: str
    requester: Outcome
    worker: Outcome

    @property
    def name(self) -> str:
        return "-".join(part.strip("`").replace(" ", "_") for part in (self.fault, self.where, self.kind) if part)

    @property
    def survives(self) -> bool:
        return self.requester == COMPLETE and self.worker == ENDED


def rows(
    fault: Callable[[Stage], Acts], where: Sequence[str], requester: Outcome, worker: Outcome, kind: str = NATIVE
) -> List[Row]:
    return [Row(_name(fault), each, kind, requester, worker) for each in where]


def _name(fault: Callable[[Stage], Acts]) -> str:
    return fault.__name__.replace("_", " ").replace("requesters", "requester's").replace("workers", "worker's")


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

    def __init__(self, server: EmbeddedServer, worker_url: str = "", requester_url: str = "", prefix: str = "") -> None:
        """The URLs are for topologies where the ends connect to different servers, or as different users."""
        self.server = server
        self.worker_url, self.requester_url = worker_url or server.url, requester_url or server.url
        self._prefix = prefix
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
        return self._start("worker", url=url or self.worker_url, subject=subject, pool=pool, **given), subject

    def _start(self, program: str, **options: object) -> Child:
        child = Child(program, **options)
        with self._lock:
            self._stack.callback(child.close)
        child.hear("ready")
        return child

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


# -- the table ----------------------------------------------------------------------------------------------------------

ALWAYS = (MUTE, FLOWING, QUIET, FULL)

TABLE: List[Row] = [
    *rows(the_requester_is_killed, (*ALWAYS, ENDING), GONE, offline(BY_PROBE, "no_interest")),
    *rows(the_requester_is_killed, (FLOWING, QUIET), GONE, offline(AFTER_RESUME, "no_interest", "unreachable"), RESUMING),
    *rows(the_requester_is_killed, (FLOWING,), GONE, offline(AT_ONCE, "no_interest"), PLAIN),
    *rows(the_requester_gets_SIGTERM, (FLOWING, QUIET), GONE, offline(BY_PROBE, "no_interest")),
    *rows(the_requester_is_frozen, ALWAYS, lost_or_told(AWAKE), offline(BY_RULE, "unreachable")),
    *rows(the_requester_is_frozen, (ENDING,), COMPLETE, offline(BY_RULE, "unreachable")),
    *rows(the_requester_is_frozen, (FLOWING,), lost_or_told(AWAKE), offline(AFTER_RESUME, "unreachable"), RESUMING),
    *rows(the_requester_is_frozen_briefly, (*ALWAYS, ENDING), COMPLETE, ENDED),
    *rows(
        the_requesters_connection_is_cut,
        ALWAYS,
        lost(AT_ONCE),
        offline(BY_PROBE, "no_interest", "cancelled"),
    ),
    *rows(the_requesters_connection_is_cut, ALWAYS, COMPLETE, ENDED, RESUMING),
    *rows(the_requesters_connection_is_cut, (ENDING,), COMPLETE, ENDED, RESUMING),
    *rows(the_requesters_network_swallows_everything, ALWAYS, lost(BY_RULE), offline(BY_RULE, "unreachable")),
    *rows(
        the_requesters_network_swallows_everything,
        (FLOWING,),
        lost(AFTER_RESUME),
        offline(AFTER_RESUME, "unreachable"),
        RESUMING,
    ),
    *rows(the_requesters_network_swallows_briefly, (*ALWAYS, ENDING), COMPLETE, ENDED),
    *rows(the_requester_stops, ALWAYS, told("cancelled", AT_ONCE, ""), offline(AT_ONCE, "cancelled")),
    *rows(the_requester_stops, (FLOWING,), told("cancelled", AT_ONCE, ""), offline(AT_ONCE, "no_interest"), PLAIN),
    *rows(
        the_client_is_marked_offline,
        ALWAYS,
        told("error", AT_ONCE, "ClientOfflineError"),
        offline(AT_ONCE, "offline"),
    ),
    *rows(
        the_deadline_passes,
        ALWAYS,
        Outcome(("deadline", "error"), AFTER_TIMEOUT, "RequestTimeoutError"),
        offline(AFTER_TIMEOUT, "deadline"),
    ),
    *rows(
        the_reader_reads_no_more,
        (FULL,),
        told("error", IN_THE_END, "StreamError"),
        offline(AFTER_STALL, "stalled"),
    ),
    *rows(the_reader_pauses, (FULL,), COMPLETE, ENDED),
    *rows(the_requester_forks, ALWAYS, COMPLETE, ENDED),
    *rows(the_worker_is_killed, ALWAYS, lost(BY_PROBE), GONE),
    *rows(the_worker_is_killed, (ENDING,), COMPLETE, GONE),
    *rows(the_worker_is_killed, (FLOWING, QUIET), lost(AFTER_RESUME), GONE, RESUMING),
    *rows(the_worker_is_killed, (FLOWING,), told("idle", AFTER_IDLE, "RequestTimeoutError"), GONE, PLAIN_WORKER),
    *rows(the_worker_is_frozen, ALWAYS, lost(BY_RULE), offline(AWAKE, "cancelled")),
    *rows(the_worker_is_suspended_for_longer_than_its_rule, ALWAYS, COMPLETE, ENDED),
    *rows(the_worker_gets_SIGTERM, (LAST,), COMPLETE, ENDED),
    *rows(
        the_worker_gets_SIGTERM,
        (MUTE, FLOWING, QUIET),
        told("error", AFTER_DRAIN, "ResponderLostError"),
        Outcome((None,), AFTER_DRAIN, "ClosedError"),
    ),
    *rows(the_workers_connection_is_cut, ALWAYS, lost_or_told(BY_PROBE), offline(AT_ONCE, "disconnected")),
    *rows(the_workers_connection_is_cut, ALWAYS, COMPLETE, ENDED, RESUMING),
    *rows(the_workers_network_swallows_everything, ALWAYS, lost(BY_RULE), offline(BY_RULE, "unreachable")),
    *rows(
        the_handler_raises_an_exception,
        ALWAYS,
        told("error", AT_ONCE, "StreamError"),
        Outcome((None,), AT_ONCE, "ValueError"),
    ),
    *rows(
        the_handler_raises_StreamError,
        (MUTE, FLOWING),
        told("error", AT_ONCE, "StreamError"),
        Outcome((None,), AT_ONCE, "StreamError"),
    ),
    *rows(every_worker_is_busy, (ASKED,), told("error", AFTER_RETRIES, "BusyError"), GONE),
    *rows(nobody_serves_the_subject, (ASKED,), told("no_responders", AT_ONCE, "NoRespondersError"), GONE),
    *rows(
        the_server_is_killed_and_started_again,
        ALWAYS,
        lost(AT_ONCE),
        offline(AT_ONCE, "disconnected"),
    ),
    *rows(the_server_is_killed_and_started_again, ALWAYS, COMPLETE, ENDED, RESUMING),
    *rows(the_server_is_killed_and_stays_away, (FLOWING,), lost(AT_ONCE), offline(AT_ONCE, "disconnected")),
    *rows(
        the_server_is_killed_and_stays_away,
        (FLOWING, QUIET),
        lost(AFTER_RESUME),
        offline(AFTER_RESUME, "disconnected"),
        RESUMING,
    ),
]

FAULTS = {_name(fault): fault for name, fault in tuple(globals().items()) if name.startswith(("the_", "every_", "nobody_"))}


# -- the play -----------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What became of a row: the facts of each end, None where there was to be none, and the seconds since it happened."""

    requester: Optional[Facts]
    worker: Optional[Facts]
    requester_after: float
    worker_after: float


def play(stage: Stage, fault: str, wanted: Sequence[Row]) -> Dict[Row, Seen]:
    """Have the fault happen to all those streams at once, and see what became of each."""
    acts = FAULTS[fault](stage)
    actors: Actors = next(acts)
    keys = {row: f"{row.name}-{number}" for number, row in enumerate(wanted)}
    first = [row for row in wanted if row.where != ASKED]
    for row in first:
        _ask(actors, row, keys[row])
    for row in first:
        _wait_until_there(actors, row, keys[row])
    ending = [keys[row] for row in first if row.where == ENDING]
    if ending:
        assert actors.hold is not None
        actors.hold()
        for key in ending:
            actors.worker.order("proceed", key=key)
        for key in ending:
            actors.worker.hear("ending", key=key)
    struck = acts.send([keys[row] for row in first])
    asked = time.monotonic()
    for row in wanted:
        if row.where == ASKED:
            _ask(actors, row, keys[row])
        if row.where == FULL and actors.released and row.requester != GONE:
            actors.gateway.order("release", key=keys[row])

    def happened(row: Row) -> float:
        if row.where == ASKED:
            return asked
        at: float = struck[keys[row]] if isinstance(struck, dict) else struck
        return at

    # A verdict that is reached while it lasts is waited for before it is mended.
    lasting = [row for row in wanted if not row.survives]
    for row in lasting:
        if row.requester.when not in (AWAKE, IN_THE_END):
            _hear(actors.gateway, "over", keys[row])
        if row.worker.when not in (AWAKE, IN_THE_END):
            _hear(actors.worker, "ended", keys[row])
    mended = next(acts, None)
    for row in wanted:
        if row.where == FULL and not actors.released:
            actors.gateway.order("release", key=keys[row])
        if row.survives and row.where not in (ENDING, LAST):
            actors.worker.order("proceed", key=keys[row])
    seen = {}
    for row in wanted:
        over = None if row.requester == GONE else _hear(actors.gateway, "over", keys[row])
        ended = None if row.worker == GONE else _hear(actors.worker, "ended", keys[row])
        since = [happened(row) if outcome.when != AWAKE else mended for outcome in (row.requester, row.worker)]
        seen[row] = Seen(
            over,
            ended,
            0.0 if over is None else over["at"] - since[0],
            0.0 if ended is None else ended["at"] - since[1],
        )
    return seen


def _hear(child: Child, event: str, key: str) -> Optional[Facts]:
    """What an end tells of its stream; None if it does not: that is its row's failure alone."""
    with suppress(pytest.fail.Exception):
        return child.hear(event, key=key, timeout=PATIENCE)
    return None


def _ask(actors: Actors, row: Row, key: str) -> None:
    options = dict(actors.options or {})
    if row.where == FULL:
        options["window"] = WINDOW
    if row.kind == RESUMING:
        # Where it is to survive, it has the time for that.
        options["resume"] = LONG if row.requester == COMPLETE else RESUME
    if row.kind == PLAIN_WORKER:
        options["idle_timeout"] = IDLE
    actors.gateway.order(
        "stream",
        subject=f"{actors.subject}.{'bare' if row.kind == PLAIN_WORKER else MANNERS[row.where]}",
        key=key,
        connect_id=key,
        options=options,
        plain=row.kind == PLAIN,
        pause=1 if row.where == FULL else None,
    )


def _wait_until_there(actors: Actors, row: Row, key: str) -> None:
    if row.where == MUTE:
        actors.worker.hear("started", key=key)
    elif row.where == FULL:
        actors.gateway.hear("paused", key=key)

        def full() -> bool:
            run = actors.worker.ask("look")["runs"][key]
            return bool(run["sent"] > WINDOW) and time.monotonic() - run["last"] > 0.05

        wait_until(full, what="a full window")
    else:
        actors.gateway.hear("first", key=key)


def check(row: Row, seen: Seen) -> None:
    """Both ends have told the truth, in time."""
    over, ended = seen.requester, seen.worker
    if row.requester != GONE:
        assert over is not None, "the requester does not know that its stream is over"
        assert over["complete"], "chunks are missing or doubled"
        assert over["reason"] in row.requester.words
        assert over["error"] == row.requester.error
        assert "secret" not in over["text"]
        _check_time(row.requester.when, seen.requester_after)
    if row.worker != GONE:
        assert ended is not None, "the handler goes on"
        assert ended["reason"] in row.worker.words
        raised = "ClientOfflineError" if ended["reason"] and row.where != ENDING else None  # nothing is sent any more
        assert ended["error"] == (row.worker.error or raised)
        _check_time(row.worker.when, seen.worker_after)
    if over is not None and ended is not None:
        assert over["count"] <= ended["sent"] + 1  # one may have been counted too late: the handler was stopped
        if over["reason"] == "completed":
            assert over["count"] == ended["sent"]


def _check_time(when: When, after: float) -> None:
    assert when.earliest <= after, f"{after:.2f} s is too soon for {when.words!r}"
    assert after <= when.latest + SLACK, f"{after:.2f} s is too late for {when.words!r}"


# -- for the reader -----------------------------------------------------------------------------------------------------


def _in_words(outcome: Outcome, *, requester: bool) -> str:
    if outcome == GONE:
        return "–"
    if outcome == COMPLETE:
        return "gets everything"
    if outcome == ENDED:
        return "goes on to the end"
    words = " or ".join(f"`{word}`" for word in outcome.words if word)
    if outcome.error and requester:
        words = f"`{outcome.error}`"
    elif outcome.error:
        words = f"its handler ended with `{outcome.error}`"
    return f"{words}, {outcome.when.words}" if outcome.when.words else words


def documented() -> str:
    """The table as users read it: rows of the same outcome are one."""
    lines = [["what happens", "while", "with", "the requester", "the worker"], ["---"] * 5]
    for row in TABLE:
        line = [
            row.fault,
            row.where,
            row.kind or "–",
            _in_words(row.requester, requester=True),
            _in_words(row.worker, requester=False),
        ]
        if lines[-1][0] == line[0] and lines[-1][2:] == line[2:]:
            lines[-1][1] += f", {row.where}"
        else:
            lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(documented())
