"""What each end of a stream is told when something goes wrong, and how soon.

``python -m faults.table`` in ``tests`` prints the tables of ``docs/faults.md``.
"""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from procs import LONG

from . import acts
from .acts import (
    ASKED,
    DRAIN,
    ENDING,
    FLOWING,
    FULL,
    IDLE,
    LAST,
    MUTE,
    NATIVE,
    PLAIN,
    PLAIN_WORKER,
    PROBE,
    QUIET,
    RESUME,
    RESUMING,
    RETRIES,
    STALL,
    Acts,
    Stage,
    name_of,
)


class When(NamedTuple):
    """How soon an end knows, in words and in seconds."""

    words: str
    earliest: float
    latest: float


AT_ONCE = When("at once", 0.0, 0.0)
BY_PROBE = When("with the next probe", 0.0, PROBE)
# Silence counts from what was heard last: on a busy machine that may have been a while before it happened.
BY_RULE = When("after four probe intervals", PROBE, 4 * PROBE)
WITHIN_RULE = When("within four probe intervals", 0.0, 4 * PROBE)
AFTER_RESUME = When("after `resume`", RESUME - 3 * PROBE, RESUME + 2 * PROBE)
AFTER_STALL = When("after `stall_timeout`", STALL - 0.1, STALL)
AFTER_DRAIN = When("after `drain_timeout`", DRAIN - 0.1, DRAIN)
AFTER_TIMEOUT = When("when `timeout` has passed", -0.1, 0.0)
AFTER_IDLE = When("after `idle_timeout`", IDLE - 0.2, IDLE)
AFTER_RETRIES = When("after three more tries within 0.1 s", 0.08, RETRIES)
IN_THE_END = When("", -LONG, LONG)
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
    return [Row(name_of(fault), each, kind, requester, worker) for each in where]


ALWAYS = (MUTE, FLOWING, QUIET, FULL)

TABLE: List[Row] = [
    *rows(acts.nothing_goes_wrong, (*ALWAYS, LAST), COMPLETE, ENDED),
    *rows(acts.the_requester_is_killed, (*ALWAYS, ENDING), GONE, offline(BY_PROBE, "no_interest")),
    *rows(
        acts.the_requester_is_killed, (FLOWING, QUIET), GONE, offline(AFTER_RESUME, "no_interest", "unreachable"), RESUMING
    ),
    *rows(acts.the_requester_is_killed, (FLOWING,), GONE, offline(AT_ONCE, "no_interest"), PLAIN),
    *rows(acts.the_requester_gets_SIGTERM, (FLOWING, QUIET), GONE, offline(BY_PROBE, "no_interest")),
    *rows(acts.the_requester_is_frozen, ALWAYS, lost_or_told(AWAKE), offline(BY_RULE, "unreachable")),
    *rows(acts.the_requester_is_frozen, (ENDING,), COMPLETE, offline(BY_RULE, "unreachable")),
    *rows(acts.the_requester_is_frozen, (FLOWING,), lost_or_told(AWAKE), offline(AFTER_RESUME, "unreachable"), RESUMING),
    *rows(acts.the_requester_is_frozen_briefly, (*ALWAYS, ENDING), COMPLETE, ENDED),
    *rows(
        acts.the_requesters_connection_is_cut,
        ALWAYS,
        lost(AT_ONCE),
        offline(BY_PROBE, "no_interest", "cancelled"),
    ),
    *rows(acts.the_requesters_connection_is_cut, ALWAYS, COMPLETE, ENDED, RESUMING),
    *rows(acts.the_requesters_connection_is_cut, (ENDING,), COMPLETE, ENDED, RESUMING),
    *rows(acts.the_requesters_network_swallows_everything, ALWAYS, lost(BY_RULE), offline(BY_RULE, "unreachable")),
    *rows(
        acts.the_requesters_network_swallows_everything,
        (FLOWING,),
        lost(AFTER_RESUME),
        offline(AFTER_RESUME, "unreachable"),
        RESUMING,
    ),
    *rows(acts.the_requesters_network_swallows_briefly, (*ALWAYS, ENDING), COMPLETE, ENDED),
    *rows(acts.the_requester_stops, ALWAYS, told("cancelled", AT_ONCE, ""), offline(AT_ONCE, "cancelled")),
    *rows(acts.the_requester_stops, (FLOWING,), told("cancelled", AT_ONCE, ""), offline(AT_ONCE, "no_interest"), PLAIN),
    *rows(
        acts.the_client_is_marked_offline,
        ALWAYS,
        told("error", AT_ONCE, "ClientOfflineError"),
        offline(AT_ONCE, "offline"),
    ),
    *rows(
        acts.the_deadline_passes,
        ALWAYS,
        Outcome(("deadline", "error"), AFTER_TIMEOUT, "RequestTimeoutError"),
        offline(AFTER_TIMEOUT, "deadline"),
    ),
    *rows(
        acts.the_reader_reads_no_more,
        (FULL,),
        told("error", IN_THE_END, "StreamError"),
        offline(AFTER_STALL, "stalled"),
    ),
    *rows(acts.the_reader_pauses, (FULL,), COMPLETE, ENDED),
    *rows(acts.the_requester_forks, ALWAYS, COMPLETE, ENDED),
    *rows(acts.the_worker_is_killed, ALWAYS, lost(BY_PROBE), GONE),
    *rows(acts.the_worker_is_killed, (ENDING,), COMPLETE, GONE),
    *rows(acts.the_worker_is_killed, (FLOWING, QUIET), lost(AFTER_RESUME), GONE, RESUMING),
    *rows(acts.the_worker_is_killed, (FLOWING,), told("idle", AFTER_IDLE, "RequestTimeoutError"), GONE, PLAIN_WORKER),
    *rows(acts.the_worker_is_frozen, ALWAYS, lost(BY_RULE), offline(AWAKE, "cancelled")),
    *rows(acts.the_worker_is_suspended_for_longer_than_its_rule, ALWAYS, COMPLETE, ENDED),
    *rows(acts.the_worker_gets_SIGTERM, (LAST,), COMPLETE, ENDED),
    *rows(
        acts.the_worker_gets_SIGTERM,
        (MUTE, FLOWING, QUIET),
        told("error", AFTER_DRAIN, "ResponderLostError"),
        Outcome((None,), AFTER_DRAIN, "ClosedError"),
    ),
    *rows(acts.the_workers_connection_is_cut, ALWAYS, lost_or_told(BY_PROBE), offline(AT_ONCE, "disconnected")),
    *rows(acts.the_workers_connection_is_cut, ALWAYS, COMPLETE, ENDED, RESUMING),
    *rows(acts.the_workers_network_swallows_everything, ALWAYS, lost(BY_RULE), offline(BY_RULE, "unreachable")),
    *rows(
        acts.the_handler_raises_an_exception,
        ALWAYS,
        told("error", AT_ONCE, "StreamError"),
        Outcome((None,), AT_ONCE, "ValueError"),
    ),
    *rows(
        acts.the_handler_raises_StreamError,
        (MUTE, FLOWING),
        told("error", AT_ONCE, "StreamError"),
        Outcome((None,), AT_ONCE, "StreamError"),
    ),
    *rows(acts.every_worker_is_busy, (ASKED,), told("error", AFTER_RETRIES, "BusyError"), GONE),
    *rows(acts.nobody_serves_the_subject, (ASKED,), told("no_responders", AT_ONCE, "NoRespondersError"), GONE),
    *rows(
        acts.the_server_is_killed_and_started_again,
        ALWAYS,
        lost(AT_ONCE),
        offline(AT_ONCE, "disconnected"),
    ),
    *rows(acts.the_server_is_killed_and_started_again, ALWAYS, COMPLETE, ENDED, RESUMING),
    *rows(acts.the_server_is_killed_and_stays_away, (FLOWING,), lost(AT_ONCE), offline(AT_ONCE, "disconnected")),
    *rows(
        acts.the_server_is_killed_and_stays_away,
        (FLOWING, QUIET),
        lost(AFTER_RESUME),
        offline(AFTER_RESUME, "disconnected"),
        RESUMING,
    ),
]


# -- elsewhere ----------------------------------------------------------------------------------------------------------

# When a server says 503 of an end that is gone: on one server, in a cluster and across leafnodes; across gateways; across
# accounts.
PROMPT, LATE, NEVER = "at once", "late", "never"

# What need not happen everywhere: it is the same wherever the ends are, or there is no "elsewhere".
_HERE_ONLY = (
    "the requester is frozen briefly",
    "the requester's network swallows briefly",
    "the reader reads no more",
    "the reader pauses",
    "the requester forks",
    "the worker is suspended for longer than its rule",
    "the server is killed and started again",
    "the server is killed and stays away",
)


def elsewhere(says_503: str) -> List[Row]:
    """The rows, as they are where the ends are apart. Streams do not resume across accounts."""
    kinds = (NATIVE,) if says_503 == NEVER else (NATIVE, RESUMING)
    return [
        row._replace(requester=_apart(row.requester, says_503), worker=_apart(row.worker, says_503))
        for row in TABLE
        if row.fault not in _HERE_ONLY and row.kind in kinds
    ]


def _apart(outcome: Outcome, says_503: str) -> Outcome:
    """Where no 503 comes, or not always in time, the rule of three probes finds out what it would have told."""
    if says_503 == NEVER and outcome == offline(AWAKE, "cancelled"):
        # The server keeps its mapping of replies no longer than the requester keeps the stream: no word gets through.
        return offline(AWAKE, "unreachable")
    if says_503 == PROMPT or outcome.when != BY_PROBE:
        return outcome
    sure = says_503 == NEVER and len(outcome.words) == 1  # there is no other way for it to be known sooner
    words = list(outcome.words)
    if "no_interest" in words:
        words.append("unreachable")
        if says_503 == NEVER:
            words.remove("no_interest")
    return Outcome(tuple(words), BY_RULE if sure else WITHIN_RULE, outcome.error)


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
    lines: List[List[str]] = []
    for row in TABLE:
        ends = [_in_words(row.requester, requester=True), _in_words(row.worker, requester=False)]
        line = [row.fault, row.where, row.kind or "–", *ends]
        if lines and lines[-1][0] == line[0] and lines[-1][2:] == line[2:]:
            lines[-1][1] += f", {row.where}"
        else:
            lines.append(line)
    return _in_markdown(["what happens", "while", "with", "the requester", "the worker"], lines)


def documented_elsewhere() -> str:
    """Of the table that users read: what depends on where the ends are."""
    lines: List[List[str]] = []
    by_key = [{(row.fault, row.where, row.kind): row for row in elsewhere(says_503)} for says_503 in (PROMPT, LATE, NEVER)]
    for key in by_key[-1]:
        there = [rows_there[key] for rows_there in by_key]
        for requester in (True, False):
            outcomes = [row.requester if requester else row.worker for row in there]
            if outcomes.count(outcomes[0]) < len(outcomes):
                words = [_in_words(outcome, requester=requester) for outcome in outcomes]
                line = [key[0], "the requester" if requester else "the worker", *words]
                if line not in lines:
                    lines.append(line)
    places = ["on one server, in a cluster, across leaf nodes", "across gateways", "across accounts"]
    return _in_markdown(["what happens", "who is told", *places], lines)


def _in_markdown(head: List[str], lines: List[List[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines))


if __name__ == "__main__":
    print(documented(), documented_elsewhere(), sep="\n")
