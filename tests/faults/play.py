"""Have a fault of the table happen, and see what each end is told."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

import pytest
from procs import LONG, Child, Facts, wait_until

from .acts import (
    ASKED,
    ENDING,
    FAULTS,
    FULL,
    IDLE,
    LAST,
    MANNERS,
    MUTE,
    PATIENCE,
    PLAIN,
    PLAIN_WORKER,
    RESUME,
    RESUMING,
    SLACK,
    WINDOW,
    Actors,
    Stage,
)
from .table import AWAKE, COMPLETE, GONE, IN_THE_END, Row, When

AT_A_TIME = 5  # faults that happen side by side: most of their time is waiting


class Seen(NamedTuple):
    """What became of a row: the facts of each end, None where there was to be none, and the seconds since it happened."""

    requester: Optional[Facts]
    worker: Optional[Facts]
    requester_after: float
    worker_after: float


Played = Dict[str, "Future[Dict[Row, Seen]]"]


@contextmanager
def playing(stage: Stage, wanted: Sequence[Row]) -> Iterator[Played]:
    """Each fault of these rows, under way."""
    faults: Dict[str, List[Row]] = {}
    for row in wanted:
        faults.setdefault(row.fault, []).append(row)
    with ThreadPoolExecutor(AT_A_TIME) as executor:
        yield {fault: executor.submit(play, stage, fault, rows) for fault, rows in faults.items()}
    stage.settle()


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
