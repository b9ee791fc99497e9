"""The requester's state table, walked cell by cell, and the rules of acknowledging, 503 and liveness."""

from __future__ import annotations

from operator import length_hint
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsbridge import _incoming, _wire
from natsbridge._incoming import DONE, NATIVE, PLAIN, WAITING, Ended, Incoming, Parcel, Say
from natsbridge._outgoing import CONFIRM_AFTER
from natsbridge._wire import Failure, StreamParams

INTERVAL = 2.0
CONTROL = "_INBOX.link.0123456789abcdef01234567"
OTHER = "_INBOX.else.76543210fedcba9876543210"
FAILURE = Failure(418, "teapot")
STATUS_503 = {"Status": "503"}
ABANDONED = _wire.encode_failure(_wire.library_failure("abandoned"))
PUB_ACK = b'{"stream":"REQUESTS","seq":7}'


class Arrival(NamedTuple):
    data: bytes
    reply: str
    headers: Optional[Dict[str, str]] = None


def message(
    kind: str, seq: int, data: bytes = b"", *, control: str = CONTROL, headers: Optional[Dict[str, str]] = None
) -> Arrival:
    return Arrival(data, f"{control}.{kind}{seq}", headers)


def accepted(window: int = 4096, size: int = 1 << 20, control: str = CONTROL, resume: float = 0.0) -> Arrival:
    params = StreamParams(window, size, resume_ms=round(resume * 1000))
    return message("a", 0, control=control, headers={_wire.STREAM: _wire.encode_params(params)})


def batch(seq: int, *chunks: bytes) -> Arrival:
    return message("b", seq, _wire.encode_batch(chunks))


def refused(word: str) -> Arrival:
    return message("e", 0, headers=_wire.encode_failure(_wire.library_failure(word)))


def failed(seq: int) -> Arrival:
    return message("e", seq, headers=_wire.encode_failure(FAILURE))


def give(incoming: Incoming, arrival: Arrival, clock: float = 0.0, now: float = 0.0) -> List[Say]:
    says, confirm = incoming.on_message(*arrival, clock, now)
    assert confirm is False
    return says


def fresh(window: int = 8, max_bytes: int = 1000, resume: float = 0.0) -> Incoming:
    return Incoming(window=window, max_bytes=max_bytes, probe_interval=INTERVAL, resume=resume)


def native(chunks: int = 2, *, window: int = 8, max_bytes: int = 1000, resume: float = 0.0) -> Incoming:
    """Accepted by a responder that speaks the protocol; ``chunks`` chunks of 10 bytes have arrived."""
    incoming = fresh(window, max_bytes, resume)
    assert give(incoming, accepted(resume=resume)) == []
    for n in range(1, chunks + 1):
        assert give(incoming, message("d", n, b"%010d" % n)) == []
    return incoming


def plain() -> Incoming:
    incoming = fresh()
    assert give(incoming, Arrival(b"one", "")) == []
    assert give(incoming, Arrival(b"two", "")) == []
    return incoming


def done(how: str = "completed") -> Incoming:
    incoming = native()
    if how == "completed":
        give(incoming, message("e", 2))
    else:
        incoming.stop(how)
    assert incoming.ended == Ended(how)
    return incoming


def ack(seq: int, last: str, *, max_bytes: Optional[int] = None, probe: bool = True) -> Say:
    return Say(f"{CONTROL}.{last}", b"ack %d" % seq if max_bytes is None else b"ack %d %d" % (seq, max_bytes), probe)


def nak(seq: int, last: str) -> Say:
    return Say(f"{CONTROL}.{last}", b"nak %d" % seq, True)


def cancel(last: str, why: str = "") -> Say:
    return Say(f"{CONTROL}.{last}", f"cancel {why}".strip().encode())


# -- the table: every state and every event, empty cells included -----------------------------------------------------

EVENTS: Dict[str, Callable[[Incoming], object]] = {
    "a": lambda i: give(i, accepted()),
    "a without header": lambda i: give(i, message("a", 0)),
    "next chunk": lambda i: give(i, message("d", i.received + 1, b"x")),
    "old chunk": lambda i: give(i, message("d", 1, b"x")),
    "chunk after a gap": lambda i: give(i, message("d", 9, b"x")),
    "batch": lambda i: give(i, batch(i.received + 1, b"x", b"y")),
    "batch of old and new": lambda i: give(i, batch(2, b"x", b"y")),
    "old batch": lambda i: give(i, batch(1, b"x")),
    "batch after a gap": lambda i: give(i, batch(9, b"x", b"y")),
    "malformed batch": lambda i: give(i, message("b", i.received + 1, b"\0\0\0\7x")),
    "p": lambda i: give(i, message("p", 2, headers=accepted().headers)),
    "p without header": lambda i: give(i, message("p", 2)),
    "p after a gap": lambda i: give(i, message("p", 5)),
    "e": lambda i: give(i, message("e", 2)),
    "e after a gap": lambda i: give(i, message("e", 5)),
    "e failed": lambda i: give(i, failed(2)),
    "e failed after a gap": lambda i: give(i, failed(5)),
    "e abandoned after a gap": lambda i: give(i, message("e", 5, headers=ABANDONED)),
    "e of the library": lambda i: give(i, refused("shutdown")),
    "unnumbered data": lambda i: give(i, Arrival(b"x", "")),
    "PubAck": lambda i: give(i, Arrival(PUB_ACK, "")),
    "unnumbered empty": lambda i: give(i, Arrival(b"", "some.reply")),
    "unnumbered failure": lambda i: give(i, Arrival(b"", "", _wire.encode_failure(FAILURE))),
    "unnumbered unknown": lambda i: give(i, Arrival(b"", "", _wire.encode_failure(_wire.library_failure("unknown")))),
    "second responder": lambda i: give(i, message("d", i.received + 1, b"x", control=OTHER)),
    "second responder accepts": lambda i: give(i, accepted(control=OTHER)),
    "503": lambda i: i.on_message(b"", "", STATUS_503, 0.0, 0.0),
    "status 408": lambda i: i.on_message(b"", "", {"Status": "408"}, 0.0, 0.0),
    "confirm without suspicion": lambda i: i.on_confirm(0.0),
    "tick": lambda i: i.on_tick(1.0),
    "disconnect": lambda i: i.on_disconnect(True, 1.0),
    "disconnect before sending": lambda i: i.on_disconnect(False, 1.0),
    "reconnect": lambda i: i.on_reconnect(1.0),
    "stop": lambda i: i.stop("cancelled"),
    "stop: deadline": lambda i: i.stop("deadline"),
}
STATES: Dict[str, Callable[[], Incoming]] = {
    "waiting": fresh,
    "native": native,
    "plain": plain,
    "done": done,
    "done: deadline": lambda: done("deadline"),
}

LOST = "lost"  # the reason is checked, not its text
REFUSED = _wire.library_failure("shutdown")
UNKNOWN = _wire.library_failure("unknown")
TO_OTHER = [Say(f"{OTHER}.d3", b"cancel")]
TO_OTHER_FIRST = [Say(f"{OTHER}.a0", b"cancel")]

# (state, event) to (state after, end after, result, received after, ignored after)
Cell = Tuple[str, object, object, int, int]
CELLS: Dict[Tuple[str, str], Cell] = {
    ("waiting", "a"): (NATIVE, None, [], 0, 0),
    ("waiting", "a without header"): (WAITING, None, [], 0, 1),
    ("waiting", "next chunk"): (PLAIN, None, [], 1, 0),  # another implementation that uses such replies
    ("waiting", "old chunk"): (PLAIN, None, [], 1, 0),
    ("waiting", "chunk after a gap"): (DONE, Ended("gap", None, 1, 9), [], 0, 0),
    ("waiting", "batch"): (WAITING, None, [], 0, 1),
    ("waiting", "batch of old and new"): (WAITING, None, [], 0, 1),
    ("waiting", "old batch"): (WAITING, None, [], 0, 1),
    ("waiting", "batch after a gap"): (WAITING, None, [], 0, 1),
    ("waiting", "malformed batch"): (WAITING, None, [], 0, 1),
    ("waiting", "p"): (NATIVE, None, [nak(1, "p2")], 0, 0),  # chunks went before it, and are lost
    ("waiting", "p without header"): (WAITING, None, [], 0, 1),
    ("waiting", "p after a gap"): (WAITING, None, [], 0, 1),
    ("waiting", "e"): (DONE, Ended("gap", None, 1, 3), [], 0, 0),  # all of it is missing: that is no empty answer
    ("waiting", "e after a gap"): (DONE, Ended("gap", None, 1, 6), [], 0, 0),
    ("waiting", "e failed"): (DONE, Ended("error", FAILURE), [], 0, 0),
    ("waiting", "e failed after a gap"): (DONE, Ended("error", FAILURE), [], 0, 0),
    ("waiting", "e abandoned after a gap"): (NATIVE, None, [nak(1, "e5")], 0, 0),
    ("waiting", "e of the library"): (DONE, Ended("error", REFUSED), [ack(1, "e0", probe=False)], 0, 0),
    ("waiting", "unnumbered data"): (PLAIN, None, [], 1, 0),
    ("waiting", "PubAck"): (WAITING, None, [], 0, 0),  # what comes next tells what it was
    ("waiting", "unnumbered empty"): (DONE, Ended("completed"), [], 0, 0),
    ("waiting", "unnumbered failure"): (DONE, Ended("error", FAILURE), [], 0, 0),
    ("waiting", "unnumbered unknown"): (DONE, Ended("error", UNKNOWN), [], 0, 0),
    ("waiting", "second responder"): (PLAIN, None, [], 1, 0),
    ("waiting", "second responder accepts"): (NATIVE, None, [], 0, 0),  # the first one, as far as is known
    ("waiting", "503"): (DONE, Ended("no_responders"), ([], False), 0, 0),
    ("waiting", "status 408"): (WAITING, None, ([], False), 0, 1),
    ("waiting", "confirm without suspicion"): (WAITING, None, [], 0, 0),
    ("waiting", "tick"): (WAITING, None, [], 0, 0),
    ("waiting", "disconnect"): (DONE, LOST, None, 0, 0),
    ("waiting", "disconnect before sending"): (WAITING, None, None, 0, 0),
    ("waiting", "reconnect"): (WAITING, None, [], 0, 0),
    ("waiting", "stop"): (DONE, Ended("cancelled"), [], 0, 0),
    ("waiting", "stop: deadline"): (DONE, Ended("deadline"), [], 0, 0),
    ("native", "a"): (NATIVE, None, [], 2, 0),
    ("native", "a without header"): (NATIVE, None, [], 2, 0),
    ("native", "next chunk"): (NATIVE, None, [], 3, 0),
    ("native", "old chunk"): (NATIVE, None, [ack(0, "d1")], 2, 0),
    ("native", "chunk after a gap"): (NATIVE, None, [nak(3, "d9")], 2, 0),
    ("native", "batch"): (NATIVE, None, [], 4, 0),
    ("native", "batch of old and new"): (NATIVE, None, [], 3, 0),
    ("native", "old batch"): (NATIVE, None, [ack(0, "b1")], 2, 0),
    ("native", "batch after a gap"): (NATIVE, None, [nak(3, "b9")], 2, 0),
    ("native", "malformed batch"): (NATIVE, None, [], 2, 1),
    ("native", "p"): (NATIVE, None, [ack(0, "p2")], 2, 0),
    ("native", "p without header"): (NATIVE, None, [ack(0, "p2")], 2, 0),
    ("native", "p after a gap"): (NATIVE, None, [nak(3, "p5")], 2, 0),
    ("native", "e"): (DONE, Ended("completed"), [ack(3, "e2", probe=False)], 2, 0),
    ("native", "e after a gap"): (NATIVE, None, [nak(3, "e5")], 2, 0),
    ("native", "e failed"): (DONE, Ended("error", FAILURE), [ack(3, "e2", probe=False)], 2, 0),
    ("native", "e failed after a gap"): (NATIVE, None, [nak(3, "e5")], 2, 0),
    ("native", "e abandoned after a gap"): (NATIVE, None, [nak(3, "e5")], 2, 0),
    ("native", "e of the library"): (DONE, Ended("error", REFUSED), [ack(1, "e0", probe=False)], 2, 0),
    ("native", "unnumbered data"): (NATIVE, None, [], 2, 1),
    ("native", "PubAck"): (NATIVE, None, [], 2, 1),
    ("native", "unnumbered empty"): (NATIVE, None, [], 2, 1),
    ("native", "unnumbered failure"): (NATIVE, None, [], 2, 1),
    ("native", "unnumbered unknown"): (DONE, Ended("error", UNKNOWN), [], 2, 0),
    ("native", "second responder"): (NATIVE, None, TO_OTHER, 2, 0),
    ("native", "second responder accepts"): (NATIVE, None, TO_OTHER_FIRST, 2, 0),
    ("native", "503"): (NATIVE, None, ([], True), 2, 0),
    ("native", "status 408"): (NATIVE, None, ([], False), 2, 1),
    ("native", "confirm without suspicion"): (NATIVE, None, [], 2, 0),
    ("native", "tick"): (NATIVE, None, [], 2, 0),
    ("native", "disconnect"): (DONE, LOST, None, 2, 0),
    ("native", "disconnect before sending"): (DONE, LOST, None, 2, 0),
    ("native", "reconnect"): (NATIVE, None, [], 2, 0),
    ("native", "stop"): (DONE, Ended("cancelled"), [cancel("d2")], 2, 0),
    ("native", "stop: deadline"): (DONE, Ended("deadline"), [cancel("d2", "deadline")], 2, 0),
    ("plain", "a"): (PLAIN, None, [], 2, 1),
    ("plain", "a without header"): (PLAIN, None, [], 2, 1),
    ("plain", "next chunk"): (PLAIN, None, [], 3, 0),
    ("plain", "old chunk"): (DONE, Ended("gap", None, 3, 1), [], 2, 0),
    ("plain", "chunk after a gap"): (DONE, Ended("gap", None, 3, 9), [], 2, 0),
    ("plain", "batch"): (PLAIN, None, [], 2, 1),
    ("plain", "batch of old and new"): (PLAIN, None, [], 2, 1),
    ("plain", "old batch"): (PLAIN, None, [], 2, 1),
    ("plain", "batch after a gap"): (PLAIN, None, [], 2, 1),
    ("plain", "malformed batch"): (PLAIN, None, [], 2, 1),
    ("plain", "p"): (PLAIN, None, [], 2, 1),
    ("plain", "p without header"): (PLAIN, None, [], 2, 1),
    ("plain", "p after a gap"): (PLAIN, None, [], 2, 1),
    ("plain", "e"): (DONE, Ended("completed"), [], 2, 0),
    ("plain", "e after a gap"): (DONE, Ended("gap", None, 3, 6), [], 2, 0),  # a truncated stream must not look complete
    ("plain", "e failed"): (DONE, Ended("error", FAILURE), [], 2, 0),
    ("plain", "e failed after a gap"): (DONE, Ended("error", FAILURE), [], 2, 0),
    ("plain", "e abandoned after a gap"): (DONE, Ended("error", _wire.library_failure("abandoned")), [], 2, 0),
    ("plain", "e of the library"): (DONE, Ended("error", REFUSED), [], 2, 0),
    ("plain", "unnumbered data"): (PLAIN, None, [], 3, 0),
    ("plain", "PubAck"): (PLAIN, None, [], 3, 0),
    ("plain", "unnumbered empty"): (DONE, Ended("completed"), [], 2, 0),
    ("plain", "unnumbered failure"): (DONE, Ended("error", FAILURE), [], 2, 0),
    ("plain", "unnumbered unknown"): (DONE, Ended("error", UNKNOWN), [], 2, 0),
    ("plain", "second responder"): (PLAIN, None, [], 3, 0),  # who is who cannot be told
    ("plain", "second responder accepts"): (PLAIN, None, [], 2, 1),
    ("plain", "503"): (PLAIN, None, ([], False), 2, 0),
    ("plain", "status 408"): (PLAIN, None, ([], False), 2, 1),
    ("plain", "confirm without suspicion"): (PLAIN, None, [], 2, 0),
    ("plain", "tick"): (PLAIN, None, [], 2, 0),
    ("plain", "disconnect"): (DONE, LOST, None, 2, 0),
    ("plain", "disconnect before sending"): (DONE, LOST, None, 2, 0),
    ("plain", "reconnect"): (PLAIN, None, [], 2, 0),
    ("plain", "stop"): (DONE, Ended("cancelled"), [], 2, 0),
    ("plain", "stop: deadline"): (DONE, Ended("deadline"), [], 2, 0),
}


def expected_cell(state: str, event: str) -> Cell:
    """What is done stays as it is: a second responder is told to stop, everything else is counted or nothing at all."""
    if not state.startswith("done"):
        return CELLS[state, event]
    result: object = []
    ignored = 1
    if event.startswith("second responder"):
        result, ignored = CELLS["native", event][2], 0
    elif event in ("503", "status 408"):
        result, ignored = ([], False), int(event == "status 408")
    elif event.startswith(("confirm", "tick", "stop", "disconnect", "reconnect")):
        result, ignored = None if event.startswith("disconnect") else [], 0
    return DONE, Ended(state.partition(": ")[2] or "completed"), result, 2, ignored


@pytest.mark.parametrize("event", list(EVENTS))
@pytest.mark.parametrize("state", list(STATES))
def test_every_cell(state: str, event: str) -> None:
    incoming = STATES[state]()
    before = list(incoming.buffer)
    result = EVENTS[event](incoming)
    after, ended, expected, received, ignored = expected_cell(state, event)
    if ended == LOST:
        assert incoming.ended is not None
        assert incoming.ended.reason == LOST
        assert incoming.ended.detail
    else:
        assert incoming.ended == ended
    assert (incoming.state, result, incoming.received, incoming.ignored) == (after, expected, received, ignored)
    assert list(incoming.buffer)[: len(before)] == before  # whatever ends a stream: what has arrived can be read
    assert len(incoming.buffer) == len(before) + incoming.received - (0 if state == "waiting" else 2)


def test_the_walk_above_reaches_every_cell_of_the_table() -> None:
    kinds = {"a", "b", "d", "p", "e", "unnumbered", "pub_ack"}
    assert {event for _, event in _incoming._TABLE} <= kinds
    assert {state for state, _ in _incoming._TABLE} == {WAITING, NATIVE, PLAIN}
    assert {event for state, event in _incoming._TABLE if state == NATIVE} == kinds
    assert set(CELLS) == {(state, event) for state in STATES if not state.startswith("done") for event in EVENTS}


# -- what is missing --------------------------------------------------------------------------------------------------


def test_a_gap_is_asked_for_once_however_much_comes_behind_it() -> None:
    incoming = native(2)
    assert give(incoming, message("d", 4, b"four")) == [nak(3, "d4")]
    assert give(incoming, message("d", 5, b"five")) == []
    assert give(incoming, batch(6, b"six", b"seven")) == []
    assert incoming.received == 2
    assert give(incoming, batch(3, b"three", b"four", b"five")) == []
    assert list(incoming.buffer)[2:] == [b"three", b"four", b"five"]


def test_a_probe_or_end_that_shows_it_missing_still_has_it_asked_for_again() -> None:
    incoming = native(2)
    assert give(incoming, message("d", 4, b"four")) == [nak(3, "d4")]
    assert give(incoming, message("p", 4)) == [nak(3, "p4")]
    assert give(incoming, message("e", 4)) == [nak(3, "e4")]
    assert incoming.state == NATIVE


def test_a_probe_that_shows_nothing_missing_is_answered_with_an_ack() -> None:
    incoming = native(2)
    give(incoming, message("d", 4, b"four"))
    assert give(incoming, message("p", 2)) == [ack(0, "p2")]


def test_a_chunk_that_stays_missing_ends_the_stream_with_a_gap() -> None:
    incoming = native(2)
    for n in range(_incoming._MAX_NAKS):
        assert give(incoming, message("p", 5), n * INTERVAL) == [nak(3, "p5")]
    assert give(incoming, message("p", 5), _incoming._MAX_NAKS * INTERVAL) == [cancel("p5")]
    assert incoming.ended == Ended("gap", None, 3, 6)


def test_asking_more_often_than_the_responder_heeds_costs_no_patience() -> None:
    """It probes ten times a second while it waits for the window, and sends the same again once a probe interval."""
    incoming = native(2)
    for n in range(40):
        assert give(incoming, message("p", 5), n * INTERVAL / 10) == [nak(3, "p5")]
    assert give(incoming, message("d", 3, b"three"), 4 * INTERVAL) == []
    assert incoming.received == 3


def test_every_missing_chunk_has_its_own_patience() -> None:
    incoming = native(0)
    for n in range(1, 20):
        assert give(incoming, message("p", n)) == [nak(n, f"p{n}")]
        assert give(incoming, message("d", n, b"x")) == []
    assert incoming.state == NATIVE


def test_a_malformed_batch_counts_as_lost() -> None:
    incoming = native(2)
    assert give(incoming, message("b", 3, b"\0\0\0\7x")) == []
    assert give(incoming, message("p", 4)) == [nak(3, "p4")]


# -- disconnects ------------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_waited_for_where_that_was_agreed() -> None:
    incoming = native(2, resume=10.0)
    incoming.on_disconnect(True, 1.0)
    incoming.on_disconnect(True, 5.0)  # once more: the time counts from the first
    assert incoming.on_tick(10.9) == []
    assert incoming.state == NATIVE
    assert incoming.on_reconnect(10.9) == [nak(3, "d2")]
    assert incoming.on_tick(10.9 + INTERVAL - 0.1) == []  # silence so far was nobody's fault
    assert incoming.on_reconnect(12.0) == []


def test_a_connection_that_does_not_come_back_in_time_ends_the_stream() -> None:
    incoming = native(2, resume=10.0)
    incoming.on_disconnect(True, 1.0)
    incoming.on_disconnect(True, 5.0)
    assert incoming.on_tick(11.0) == []
    assert incoming.ended is not None
    assert incoming.ended.reason == "lost"
    assert incoming.on_reconnect(12.0) == []


def test_the_responder_may_have_refused_to_resume() -> None:
    incoming = fresh(resume=10.0)
    give(incoming, accepted(resume=0.0))
    incoming.on_disconnect(True, 1.0)
    assert incoming.ended is not None
    assert incoming.ended.reason == "lost"


def test_a_responder_cannot_prolong_the_waiting() -> None:
    incoming = fresh(resume=2.0)
    give(incoming, accepted(resume=1000.0))
    incoming.on_disconnect(True, 1.0)
    incoming.on_tick(3.0)
    assert incoming.state == DONE


def test_a_request_without_an_answer_yet_does_not_resume() -> None:
    incoming = fresh(resume=10.0)
    incoming.on_disconnect(True, 1.0)
    assert incoming.ended is not None
    assert incoming.ended.reason == "lost"


def test_a_503_is_doubted_for_as_long_as_the_responder_may_come_back() -> None:
    incoming = native(2, resume=10.0)
    assert no_responders(incoming, 100.0) is True
    assert incoming.on_confirm(0.01) == [ack(0, "d2")]
    probes = 0
    for tenth in range(1, 15):
        probes += len(incoming.on_tick(tenth / 10))
        assert no_responders(incoming, 100.0 + tenth / 10, tenth / 10) is False
    assert 3 <= probes <= 6  # asked more often than once in a probe interval
    assert incoming.state == NATIVE
    no_responders(incoming, 200.0, 1.5)  # the process was suspended meanwhile
    assert incoming.state == NATIVE
    no_responders(incoming, 209.9, 9.9)
    assert incoming.state == NATIVE
    no_responders(incoming, 210.0, 10.0)
    assert incoming.ended is not None
    assert incoming.ended.reason == "lost"


def test_a_suspected_responder_that_falls_silent_is_given_up_like_any_other() -> None:
    """The 503s may stop, say because somebody listens to everything: asking often must not put off the verdict."""
    incoming = native(0, resume=3.0)
    no_responders(incoming, 100.0)
    clock = 0.0
    while incoming.state == NATIVE:
        clock += 0.1
        incoming.on_tick(clock)
        assert clock < 100
    assert clock == pytest.approx(4 * INTERVAL, abs=0.21)


def test_an_unreachable_responder_is_waited_for_as_long_as_it_may_come_back() -> None:
    incoming = native(0, resume=30.0)
    for clock in range(1, 32):
        incoming.on_tick(float(clock))
        assert incoming.state == NATIVE  # also while what was said after 30 s may yet be answered
    for clock in range(32, 34):
        incoming.on_tick(float(clock))
    assert incoming.state == DONE


# -- what the ends of the library are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("word", sorted(_wire.LIBRARY_ENDS))
def test_a_refusal_ends_a_stream_that_had_not_begun(word: str) -> None:
    incoming = fresh()
    give(incoming, refused(word))
    assert incoming.ended == Ended("error", _wire.library_failure(word))


@pytest.mark.parametrize("word", sorted({*_wire.LIBRARY_ENDS} - {*_wire.ORDERLY_ENDS}))
def test_a_responder_that_gives_up_need_not_have_sent_what_it_counted(word: str) -> None:
    incoming = native(2)
    give(incoming, message("e", 7, headers=_wire.encode_failure(_wire.library_failure(word))))
    assert incoming.ended == Ended("error", _wire.library_failure(word))
    assert list(incoming.buffer) == [b"0000000001", b"0000000002"]


# -- two responders ---------------------------------------------------------------------------------------------------


def test_the_first_responder_is_kept_and_the_second_is_cancelled_message_by_message() -> None:
    incoming = native(1)
    assert give(incoming, message("d", 2, b"other", control=OTHER)) == [Say(f"{OTHER}.d2", b"cancel")]
    assert give(incoming, message("p", 0, control=OTHER)) == [Say(f"{OTHER}.p0", b"cancel")]
    assert give(incoming, message("e", 2, control=OTHER)) == [Say(f"{OTHER}.e2", b"cancel")]
    assert give(incoming, message("d", 2, b"mine")) == []
    assert incoming.state == NATIVE
    assert list(incoming.buffer) == [b"0000000001", b"mine"]


def test_what_a_second_responder_says_does_not_count_as_hearing_the_first() -> None:
    incoming = native(0)
    incoming.on_message(b"", "", STATUS_503, 0.0, 100.0)
    give(incoming, message("d", 1, b"x", control=OTHER))
    assert incoming.on_confirm(0.0) != []
    assert incoming.on_confirm(0.0)[0].to == f"{CONTROL}.a0"


# -- acknowledging ----------------------------------------------------------------------------------------------------


def read(incoming: Incoming, clock: float = 0.0) -> List[Say]:
    return incoming.take(clock)[1]


def test_chunks_are_acknowledged_when_a_quarter_of_the_window_is_read() -> None:
    incoming = native(8, window=12)
    assert [read(incoming) for _ in range(8)] == [[], [], [ack(3, "d8")], [], [], [ack(6, "d8")], [], []]


def test_chunks_are_acknowledged_when_a_quarter_of_the_bytes_is_read() -> None:
    incoming = native(8, window=1000, max_bytes=120)
    assert [read(incoming) for _ in range(8)] == [[], [], [ack(3, "d8")], [], [], [ack(6, "d8")], [], []]


def test_a_window_of_one_is_acknowledged_chunk_by_chunk() -> None:
    incoming = native(0, window=1)
    for n in range(1, 4):
        give(incoming, message("d", n, b"x"))
        assert read(incoming) == [ack(n, f"d{n}")]


def test_the_responder_may_have_capped_the_window() -> None:
    incoming = fresh(window=1000, max_bytes=1000)
    give(incoming, accepted(window=8, size=500))
    assert (incoming.window.chunks, incoming.window.bytes) == (8, 500)
    for n in (1, 2):
        give(incoming, message("d", n, b"x"))
    assert read(incoming) == []
    assert read(incoming) == [ack(2, "d2")]


def test_a_responder_cannot_widen_the_window() -> None:
    incoming = fresh(window=4, max_bytes=500)
    give(incoming, accepted(window=1000, size=10_000))
    assert (incoming.window.chunks, incoming.window.bytes) == (4, 500)


@pytest.mark.parametrize("value", ["", "nonsense", "v=1"])
def test_an_acceptance_that_cannot_be_read_leaves_the_window_alone(value: str) -> None:
    incoming = fresh(window=4, max_bytes=500)
    give(incoming, message("a", 0, headers={_wire.STREAM: value}))
    assert (incoming.state, incoming.window.chunks, incoming.window.bytes) == (NATIVE, 4, 500)


def test_a_few_chunks_are_acknowledged_a_tenth_of_a_second_after_the_first_was_read() -> None:
    incoming = native(3, window=12)
    read(incoming, 1.00)
    read(incoming, 1.08)
    assert incoming.on_tick(1.09) == []
    assert incoming.on_tick(1.10) == [ack(2, "d3")]
    assert incoming.on_tick(1.30) == []  # nothing new
    read(incoming, 1.40)
    assert incoming.on_tick(1.49) == []
    assert incoming.on_tick(1.51) == [ack(3, "d3")]


def test_what_was_received_but_not_read_is_not_acknowledged() -> None:
    incoming = native(8, window=8)
    assert incoming.on_tick(1.0) == []
    assert give(incoming, message("p", 8)) == [ack(0, "p8")]


def test_acks_go_to_the_newest_reply_subject_unchanged() -> None:
    incoming = native(4, window=2)
    assert read(incoming) == [ack(1, "d4")]
    assert give(incoming, message("p", 4)) == [ack(1, "p4")]
    assert read(incoming) == [ack(2, "p4")]


def test_an_old_chunk_again_is_not_handed_out_again() -> None:
    incoming = native(2)
    assert give(incoming, message("d", 1, b"again")) == [ack(0, "d1")]
    assert give(incoming, message("d", 3, b"new")) == []
    assert list(incoming.buffer) == [b"0000000001", b"0000000002", b"new"]


@pytest.mark.parametrize("max_bytes", [None, 20, 2000], ids=["as agreed", "less", "more"])
@pytest.mark.parametrize("window", [4, 64], ids=["parcels of one", "parcels of eight"])
@settings(deadline=None)
@given(st.lists(st.sampled_from(["chunk", "chunk", "batch", "read", "tick", "old", "probe"]), max_size=80))
def test_every_chunk_is_handed_out_once_in_order_and_acknowledged_in_the_end(
    window: int, max_bytes: Optional[int], steps: List[str]
) -> None:
    incoming = native(0, window=window, max_bytes=10 * window)
    parcel: Iterator[bytes] = iter(())
    out: List[bytes] = []
    acks: List[int] = []
    clock = 0.0

    def heed(says: List[Say]) -> None:
        for say in says:
            assert say.probe
            acks.append(int(say.data.split()[1]))

    def read_one() -> bool:
        """As the reader does: from the parcel it is at, and then from the next one."""
        nonlocal parcel
        for chunk in parcel:
            out.append(chunk)
            incoming.unread = length_hint(parcel)
            return True
        if not incoming.buffer:
            return False
        taken, says = incoming.take(clock, max_bytes)
        assert 1 <= len(taken.chunks) <= max(1, window // 8)
        parcel = iter(taken.chunks)
        out.append(next(parcel))
        heed(says)
        return True

    for step in steps:
        clock += 0.05
        first = incoming.received + 1
        if step == "chunk" and first - incoming.window.acked <= window:  # a responder keeps to the window
            heed(give(incoming, message("d", first, b"%d" % first), clock))
        elif step == "batch" and first + 2 - incoming.window.acked <= window:
            heed(give(incoming, batch(first, *(b"%d" % n for n in range(first, first + 3))), clock))
        elif step == "old" and incoming.received:
            heed(give(incoming, message("d", incoming.received, b"old"), clock))
        elif step == "probe":
            heed(give(incoming, message("p", incoming.received), clock))
        elif step == "read":
            read_one()
        elif step == "tick":
            heed(incoming.on_tick(clock))
        assert incoming.window.acked <= incoming.consumed <= incoming.received
        assert incoming.consumed == len(out)  # what lies in a parcel has not been consumed
    while read_one():
        pass
    heed(incoming.on_tick(clock + 0.2))
    assert out == [b"%d" % n for n in range(1, incoming.received + 1)]
    assert acks == sorted(acks)
    assert incoming.window.acked == incoming.received


def test_a_parcel_is_an_eighth_of_the_window_in_chunks_and_bytes() -> None:
    many = native(64, window=64, max_bytes=100_000)
    assert [len(many.take(0.0)[0].chunks) for _ in range(8)] == [8] * 8
    large = native(0, window=64, max_bytes=8_000)
    for n in range(1, 9):
        give(large, message("d", n, b"x" * 500))
    assert [len(large.take(0.0)[0].chunks) for _ in range(4)] == [2] * 4
    huge = native(0, window=64, max_bytes=8_000)
    for n in range(1, 4):
        give(huge, message("d", n, b"x" * 5_000))
    assert [len(huge.take(0.0)[0].chunks) for _ in range(3)] == [1] * 3


class Flow:
    """A responder that always sends as much as it may, and a reader that reads it."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.sent = self.acked = self.unacked_bytes = 0
        self.max_bytes = incoming.window.told  # as far as the responder knows
        self.waits = 0  # times that both waited until time had passed
        self.on_the_way: List[int] = []  # bytes, whenever the reader took something
        self._sizes: List[int] = []

    def send(self, size: int) -> bool:
        """Whether the window was open for a chunk of that size."""
        full = self.sent - self.acked >= self.incoming.window.chunks or self.unacked_bytes + size > self.max_bytes
        if full and self.sent > self.acked:
            return False
        self.sent += 1
        self.unacked_bytes += size
        self._sizes.append(size)
        self.heed(give(self.incoming, message("d", self.sent, b"x" * size)))
        return True

    def take(self, max_bytes: Optional[int]) -> None:
        if not self.incoming.buffer:
            says = self.incoming.on_wait(0.0)
            self.heed(says)
            if says:
                return
            self.waits += 1
            self.heed(self.incoming.on_tick(1.0))
            return
        self.on_the_way.append(sum(self._sizes[self.incoming.consumed : self.sent]))
        _, says = self.incoming.take(0.0, max_bytes)
        self.incoming.unread = 0
        self.heed(says)

    def heed(self, says: List[Say]) -> None:
        for say in says:
            control = _wire.parse_control(say.data)
            assert control is not None
            assert self.acked <= control.seq <= self.incoming.consumed
            self.unacked_bytes -= sum(self._sizes[self.acked : control.seq])
            self.acked = control.seq
            self.max_bytes = control.max_bytes or self.max_bytes

    def run(self, sizes: Sequence[int], max_bytes: Optional[int], waits: int = 0) -> Flow:
        """Until all of that has been read, with so much on its way."""
        end = self.sent + len(sizes)
        left = iter(sizes)
        size = next(left)
        while self.incoming.consumed < end:
            while self.sent < end and self.send(size):
                size = next(left, 0)
            self.take(max_bytes)
            assert self.waits <= waits, "both wait for each other"
        return self


@pytest.mark.parametrize(
    ("size", "window", "max_bytes"),
    [(10, 1000, 4000), (10, 200, 4000), (10, 50, 4000), (300, 1000, 4000), (10, 1000, 700)],
    ids=["bytes", "chunks", "few chunks", "large chunks", "few bytes"],
)
@pytest.mark.parametrize("asked", [1000, 4000, 8000], ids=["less", "about as agreed", "more"])
def test_what_is_on_its_way_is_what_was_asked_for(asked: int, size: int, window: int, max_bytes: int) -> None:
    """Whichever of the windows is the smallest one."""
    whole = min(asked, window * size)
    flow = Flow(native(0, window=window, max_bytes=max_bytes)).run([size] * 3000, asked)
    settled = flow.on_the_way[len(flow.on_the_way) // 2 : -10]
    assert whole // 2 - size <= min(settled), "it has too little to go on with"
    assert max(settled) <= whole
    assert flow.max_bytes == asked


def test_a_window_that_becomes_smaller_and_larger_is_told_in_time() -> None:
    flow = Flow(native(0, window=1000, max_bytes=4000))
    for asked in (4000, 1000, 8000, 100, 50_000, 1, 4000):
        flow.run([10] * 5000, asked)
        assert flow.max_bytes == asked
        assert max(flow.on_the_way[-50:]) <= max(asked, 10)


def test_a_larger_window_is_not_counted_on_before_it_was_told() -> None:
    """Else what is due for that one might be more than the responder may send yet."""
    incoming = native(0, window=1000, max_bytes=400)
    for n in range(1, 5):
        give(incoming, message("d", n, b"x" * 100))
    assert incoming.take(0.0, 4000)[1] == [ack(1, "d4", max_bytes=4000)]
    for n in range(5, 9):
        give(incoming, message("d", n, b"x" * 100))
    for _ in range(2):  # parcels of four and three
        assert incoming.take(0.0, 4000)[1] == []


def test_a_smaller_window_is_told_at_once() -> None:
    incoming = native(8, window=1000, max_bytes=4000)
    assert incoming.take(0.0, 3999)[1] == [ack(1, "d8", max_bytes=3999)]


def test_what_was_told_of_the_window_is_repeated() -> None:
    """The message before may have been lost."""
    incoming = native(8, window=1000, max_bytes=4000)
    for asked in (3999, 4000):
        incoming.take(0.0, asked)
        incoming.unread = 0
        assert give(incoming, message("p", 8))[0].data.split()[2:] == [b"%d" % asked]


def test_who_does_not_ask_for_another_window_does_not_speak_of_it() -> None:
    """Responders need not know of it."""
    flow = Flow(native(0, window=1000, max_bytes=4000))
    flow.max_bytes = 4000
    incoming = flow.incoming
    said: List[Say] = []
    for n in range(1, 1000):
        give(incoming, message("d", n, b"x" * 10))
        said += incoming.take(0.0, 4000)[1]
    assert said
    assert all(len(say.data.split()) == 2 for say in said)


def test_a_responder_may_have_no_room_for_more() -> None:
    """It says so with another acceptance, and is not asked again; what it does have room for holds."""
    incoming = native(8, window=1000, max_bytes=4000)
    incoming.take(0.0, 2000)
    give(incoming, message("d", 9, b"x"))
    assert incoming.take(0.0, 9000)[1] == []
    assert give(incoming, message("p", 9)) == [ack(9, "p9", max_bytes=9000)]
    assert give(incoming, accepted(size=5000), 10.0) == []
    assert (incoming.window.bytes, incoming.window.told) == (5000, 5000)
    for n, clock, asked in ((10, 10.9, 5000), (11, 11.0, 9000)):  # but after a while again
        give(incoming, message("d", n, b"x"))
        incoming.take(clock, 9000)
        assert give(incoming, message("p", n), clock) == [ack(n, f"p{n}", max_bytes=asked)]


def test_the_first_acceptance_says_nothing_about_larger_windows() -> None:
    incoming = native(8, window=1000, max_bytes=4000)
    assert give(incoming, accepted(size=4000)) == []  # nor does the same again
    incoming.take(0.0, 8000)
    assert incoming.window.bytes == 8000


def test_a_responder_without_room_for_more_is_believed_also_when_less_is_wanted_by_then() -> None:
    """Or it would be asked again, and its answer counted on, for as long as it does not repeat itself."""
    incoming = native(8, window=1000, max_bytes=4000)
    for n, asked in ((9, 9000), (10, 1000)):
        incoming.take(0.0, asked)
        give(incoming, message("p", n - 1))
        give(incoming, message("d", n, b"x"))
    give(incoming, accepted(size=5000))
    assert (incoming.window.bytes, incoming.window.told) == (1000, 1000)
    incoming.take(0.0, 9000)
    assert incoming.window.bytes == 5000


def test_a_responder_that_agrees_to_less_is_at_its_limit() -> None:
    incoming = fresh(1000, 4000)
    give(incoming, accepted(size=3000))
    give(incoming, message("d", 1, b"x"))
    incoming.take(0.0, 4000)
    assert incoming.window.bytes == 3000


def test_a_stream_whose_chunks_grow_is_not_waited_for() -> None:
    sizes = [size for size in (100, 120, 300, 90, 600, 150) for _ in range(2500)]
    Flow(native(0, window=1000, max_bytes=400_000)).run(sizes, 50_000)


@pytest.mark.parametrize("asked", [None, 1000, 500, 3000])
@pytest.mark.parametrize(
    "pattern", [[200, 870], [1, 1000], [30] * 8 + [870], [600], [510, 480, 20], [999, 2], [100] * 9 + [1000]]
)
def test_a_large_chunk_among_small_ones_is_not_waited_for(pattern: List[int], asked: Optional[int]) -> None:
    """One that does not fit beside so few that no acknowledgement is due for them. Only of the first nobody knows."""
    Flow(native(0, window=1000, max_bytes=1000)).run(pattern * 200, asked, waits=1)


def test_a_smaller_window_is_told_also_when_nobody_reads() -> None:
    incoming = native(8, window=1000, max_bytes=4000)
    assert incoming.on_tick(0.05, 4000) == []
    assert incoming.on_tick(0.05, 5000) == []
    assert incoming.on_tick(0.05, 3999) == [ack(0, "d8", max_bytes=3999)]
    assert incoming.on_tick(0.05, 3999) == []


@pytest.mark.parametrize("size", [999, 1500, 2500, 4000, 5000])
def test_a_chunk_larger_than_the_window_is_not_waited_for(size: int) -> None:
    Flow(native(0, window=1000, max_bytes=4000)).run([size] * 50, 1000)


def test_what_lies_in_a_parcel_is_acknowledged_as_far_as_it_was_read() -> None:
    incoming = native(16, window=64)
    incoming.take(0.0)
    incoming.unread = 5  # of the eight in it
    assert incoming.on_tick(0.1) == [ack(3, "d16")]
    assert incoming.on_tick(0.3) == []  # the reader has come no further
    incoming.unread = 0
    assert incoming.on_tick(0.4) == [ack(8, "d16")]


def test_a_parcel_that_was_not_read_to_its_end_counts_as_unread() -> None:
    incoming = native(8, window=64)
    incoming.take(0.0)
    give(incoming, message("e", 8))
    assert not incoming.buffer
    incoming.unread = 1
    incoming.discard("cancelled")
    assert incoming.ended == Ended("cancelled")


# -- 503 --------------------------------------------------------------------------------------------------------------


def no_responders(incoming: Incoming, now: float, clock: float = 0.0) -> bool:
    says, confirm = incoming.on_message(b"", "", STATUS_503, clock, now)
    assert says == []
    return confirm


def test_a_503_on_the_request_means_that_nobody_is_there() -> None:
    incoming = fresh()
    assert no_responders(incoming, 100.0) is False
    assert incoming.ended == Ended("no_responders")


def test_a_503_later_is_a_suspicion_that_a_second_one_confirms() -> None:
    incoming = native()
    assert no_responders(incoming, 100.0) is True
    assert incoming.state == NATIVE
    assert incoming.on_confirm(0.0) == [ack(0, "d2")]
    assert no_responders(incoming, 100.0 + CONFIRM_AFTER) is False
    assert incoming.ended is not None
    assert incoming.ended.reason == "lost"


def test_only_a_503_that_comes_after_the_confirming_probe_confirms() -> None:
    """A process that was suspended finds those for all that it had sent; whoever they were about may be back."""
    incoming = native()
    no_responders(incoming, 100.0)
    for late in (0.02, 1.0, 60.0):
        assert no_responders(incoming, 100.0 + late) is False
        assert incoming.state == NATIVE
    assert incoming.on_confirm(0.1) == [ack(0, "d2")]
    no_responders(incoming, 160.1)
    assert incoming.state == DONE


def test_a_second_503_of_the_same_burst_confirms_nothing() -> None:
    incoming = native()
    assert no_responders(incoming, 100.0) is True
    for late in (0.0, 0.001, 0.005, 0.0085):
        assert no_responders(incoming, 100.0 + late) is False
        assert incoming.state == NATIVE


@pytest.mark.parametrize("contradiction", [message("d", 3, b"x"), message("p", 2), accepted(), message("d", 1, b"old")])
def test_whatever_is_heard_clears_the_suspicion(contradiction: Arrival) -> None:
    incoming = native()
    no_responders(incoming, 100.0)
    give(incoming, contradiction)
    assert incoming.on_confirm(0.0) == []
    assert no_responders(incoming, 200.0) is True
    assert incoming.state == NATIVE


def test_a_payload_is_data_whatever_its_headers_say() -> None:
    incoming = fresh()
    give(incoming, Arrival(b"data", "", {"Status": "503"}))
    assert incoming.state == PLAIN
    assert list(incoming.buffer) == [b"data"]


# -- liveness ---------------------------------------------------------------------------------------------------------


def test_a_silent_responder_is_probed_three_times_and_then_lost() -> None:
    incoming = native(0)
    said = []
    clock = 0.0
    while incoming.state == NATIVE:
        clock += 0.1
        said += [(round(clock, 1), say) for say in incoming.on_tick(clock)]
        assert clock < 100
    assert [say for _, say in said] == [ack(0, "a0")] * 3
    assert [at for at, _ in said] == pytest.approx([2.0, 4.0, 6.0], abs=0.11)
    assert clock == pytest.approx(8.0, abs=0.21)  # the third probe had a full interval as well
    assert incoming.ended is not None
    assert incoming.ended.reason == "lost"
    assert "3 probes" in incoming.ended.detail


def test_hearing_anything_starts_the_count_anew() -> None:
    incoming = native(0)
    for n in (1, 2, 3):
        assert len(incoming.on_tick(n * INTERVAL)) == 1
    give(incoming, message("p", 0), 3.5 * INTERVAL)
    assert incoming.on_tick(4 * INTERVAL) == []
    for tenths in range(1, 100):
        incoming.on_tick(4 * INTERVAL + tenths * 0.1)
        if incoming.state == DONE:
            break
    assert incoming.state == DONE
    assert 4 * INTERVAL + tenths * 0.1 == pytest.approx(7.5 * INTERVAL, abs=0.3)


def test_the_count_begins_with_the_acceptance() -> None:
    """A request may wait long for its first answer; the clock of the pool has gone on meanwhile."""
    incoming = Incoming(window=8, max_bytes=1000, probe_interval=INTERVAL, clock=5.0)
    assert incoming.on_tick(500.0) == []
    assert incoming.state == WAITING
    give(incoming, accepted(), 500.0)
    assert incoming.on_tick(501.9) == []
    assert len(incoming.on_tick(502.0)) == 1


@pytest.mark.parametrize("make", [fresh, plain])
def test_who_cannot_answer_probes_is_not_judged_by_them(make: Callable[[], Incoming]) -> None:
    incoming = make()
    for n in range(1, 100):
        assert incoming.on_tick(n * INTERVAL) == []
    assert incoming.state != DONE


# -- plain responders -------------------------------------------------------------------------------------------------


def test_a_plain_responder_keeps_its_headers_and_gets_no_acks() -> None:
    incoming = fresh(window=1)
    give(incoming, Arrival(b"one", "", {"Colour": "red"}))
    give(incoming, Arrival(b"two", "somewhere"))
    assert incoming.take(0.0) == (Parcel([b"one"], 3, {"Colour": "red"}), [])
    assert incoming.take(0.0) == (Parcel([b"two"], 3), [])
    assert incoming.on_tick(10.0) == []


def test_a_plain_responders_end_with_an_error_keeps_the_chunks() -> None:
    incoming = plain()
    give(incoming, Arrival(b"", "", _wire.encode_failure(FAILURE)))
    assert incoming.ended == Ended("error", FAILURE)
    assert list(incoming.buffer) == [b"one", b"two"]


def test_a_plain_responder_that_numbers_its_chunks_is_held_to_it() -> None:
    """One of this protocol whose acceptance was lost, or across an account: it numbers, and a gap must not go unseen."""
    incoming = fresh()
    give(incoming, message("d", 1, b"one"))
    give(incoming, message("d", 2, b"two"))
    give(incoming, message("d", 4, b"four"))
    assert incoming.ended == Ended("gap", None, 3, 4)
    assert list(incoming.buffer) == [b"one", b"two"]


def test_a_lost_acceptance_is_made_good_by_a_probe() -> None:
    incoming = fresh()
    give(incoming, message("d", 1, b"one"))
    give(incoming, batch(2, b"two", b"three"))  # a plain responder has none: not for us, as far as is known
    assert (incoming.state, incoming.received) == (PLAIN, 1)
    assert give(incoming, message("p", 3, headers=accepted(window=4).headers)) == [nak(2, "p3")]
    assert (incoming.state, incoming.window.chunks) == (NATIVE, 4)
    give(incoming, batch(2, b"two", b"three"))
    assert [incoming.take(0.0)[0] for _ in range(3)] == [
        Parcel([b"one"], 3),
        Parcel([b"two"], 3),
        Parcel([b"three"], 5),
    ]
    assert give(incoming, message("e", 3)) == [ack(4, "e3", probe=False)]
    assert incoming.ended == Ended("completed")


def test_a_responder_that_numbers_its_chunks_is_bound_to_also_when_it_is_plain() -> None:
    incoming = fresh()
    give(incoming, message("d", 1, b"one"))
    assert give(incoming, message("d", 2, b"other", control=OTHER)) == [Say(f"{OTHER}.d2", b"cancel")]
    assert give(incoming, message("p", 0, control=OTHER, headers=accepted().headers)) == [Say(f"{OTHER}.p0", b"cancel")]
    assert give(incoming, Arrival(b"foreign", "")) == []
    assert give(incoming, Arrival(b"", "")) == []
    assert (incoming.state, incoming.received, incoming.ignored) == (PLAIN, 1, 2)
    give(incoming, Arrival(b"", "", _wire.encode_failure(UNKNOWN)))  # it has no number ever
    assert incoming.ended == Ended("error", UNKNOWN)


def test_too_many_messages_of_a_plain_responder_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_incoming, "MAX_PLAIN_MESSAGES", 3)
    incoming = plain()
    give(incoming, Arrival(b"three", ""))
    assert incoming.state == PLAIN
    incoming.take(0.0)
    give(incoming, Arrival(b"four", ""))  # room again
    assert incoming.state == PLAIN
    give(incoming, Arrival(b"five", ""))
    assert incoming.ended == Ended("overflow", detail="3 messages, 12 bytes unread")
    assert list(incoming.buffer) == [b"two", b"three", b"four"]


def test_too_many_bytes_of_a_plain_responder_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_incoming, "MAX_PLAIN_BYTES", 10)
    incoming = plain()
    give(incoming, Arrival(b"four", ""))
    assert incoming.state == PLAIN  # ten bytes exactly
    give(incoming, Arrival(b"!", ""))
    assert incoming.ended is not None
    assert incoming.ended.reason == "overflow"


def test_the_limits_for_plain_responders_are_as_documented() -> None:
    assert (_incoming.MAX_PLAIN_MESSAGES, _incoming.MAX_PLAIN_BYTES) == (65536, 64 * 1024 * 1024)


def test_the_end_of_a_full_mailbox_is_the_end_and_no_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_incoming, "MAX_PLAIN_MESSAGES", 2)
    incoming = plain()
    give(incoming, Arrival(b"", ""))
    assert incoming.ended == Ended("completed")


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["cancelled", "offline", "closed", "denied", "idle"])
def test_stopping_tells_the_responder_once(reason: str) -> None:
    incoming = native()
    why = "offline" if reason == "offline" else ""
    assert incoming.stop(reason) == [cancel("d2", why)]
    assert incoming.stop("deadline") == []
    assert incoming.ended == Ended(reason)


@pytest.mark.parametrize("make", [native, done], ids=["under way", "with its end received"])
@pytest.mark.parametrize("reason", ["cancelled", "offline", "closed", "denied"])
def test_discarding_what_was_not_read_makes_it_this_sides_end(make: Callable[[], Incoming], reason: str) -> None:
    """The reader had not come to the end, wherever the responder was: it stopped."""
    incoming = make()
    incoming.stop(reason)
    incoming.discard(reason)
    assert not incoming.buffer
    assert incoming.ended == Ended(reason)


def test_a_stream_that_was_read_to_its_end_has_nothing_left_to_discard() -> None:
    incoming = done()
    while incoming.buffer:
        incoming.take(0.0)
    assert incoming.stop("cancelled") == []
    incoming.discard("cancelled")
    assert incoming.ended == Ended("completed")


def test_an_end_that_crosses_a_cancel_is_ignored() -> None:
    incoming = native()
    incoming.stop("cancelled")
    assert give(incoming, message("e", 2)) == []
    assert (incoming.ended, incoming.ignored) == (Ended("cancelled"), 1)


# -- across accounts --------------------------------------------------------------------------------------------------


def relayed(kind: str, seq: int, data: bytes = b"", *, reply: str = "", params: str = "") -> Arrival:
    """A message of a responder in another account: the sequence in a header, a reply only now and then."""
    token = CONTROL.rpartition(".")[2]
    headers = {_wire.SEQUENCE: _wire.encode_sequence(token, kind, seq)}
    if params:
        headers[_wire.STREAM] = params
    return Arrival(data, reply, headers)


def relayed_stream() -> Incoming:
    incoming = fresh(window=8)
    params = _wire.encode_params(StreamParams(8, 1000))
    assert give(incoming, relayed("a", 0, reply="_R_.first", params=params)) == []
    assert incoming.state == NATIVE
    return incoming


def test_the_sequence_may_come_in_a_header() -> None:
    incoming = relayed_stream()
    for n in (1, 2):
        assert give(incoming, relayed("d", n, b"x")) == []
    assert incoming.take(0.0)[1] == []
    assert incoming.take(0.0)[1] == [Say("_R_.first", b"ack 2", False)]  # where it was last told to, without a probe
    assert give(incoming, relayed("p", 2, reply="_R_.second", params="x")) == [Say("_R_.second", b"ack 2", False)]
    assert give(incoming, relayed("d", 4, b"x")) == [Say("_R_.second", b"nak 3", False)]
    assert give(incoming, relayed("d", 3, b"x")) == []
    assert give(incoming, relayed("e", 3)) == [
        Say("_R_.second", b"ack 4", False),
        Say("_R_.second", b"", False),  # so that the server forgets its mapping
    ]
    assert incoming.ended == Ended("completed")


def test_the_sequence_header_is_not_handed_out() -> None:
    incoming = relayed_stream()
    give(incoming, relayed("d", 1, b"x"))
    assert list(incoming.buffer) == [b"x"]


# -- a JetStream stream that has captured the request -----------------------------------------------------------------


@pytest.mark.parametrize("chunks", [0, 2])
def test_a_pub_ack_before_the_acceptance_is_no_chunk(chunks: int) -> None:
    incoming = fresh()
    give(incoming, Arrival(PUB_ACK, ""))
    give(incoming, accepted())
    for n in range(1, chunks + 1):
        give(incoming, message("d", n, b"%d" % n))
    give(incoming, message("e", chunks))
    assert incoming.ended == Ended("completed")
    assert list(incoming.buffer) == [b"1", b"2"][:chunks]
    assert incoming.ignored == 1


def test_a_pub_ack_is_no_chunk_where_the_acceptance_was_lost() -> None:
    incoming = fresh()
    give(incoming, Arrival(PUB_ACK, ""))
    give(incoming, message("d", 1, b"one"))
    assert list(incoming.buffer) == [b"one"]
    assert (incoming.state, incoming.ignored) == (PLAIN, 1)


@pytest.mark.parametrize("then", [b"two", b"", PUB_ACK])
def test_what_looks_like_a_pub_ack_is_a_plain_responders_chunk_if_more_of_that_kind_comes(then: bytes) -> None:
    incoming = fresh()
    give(incoming, Arrival(PUB_ACK, ""))
    assert not incoming.buffer
    give(incoming, Arrival(then, ""))
    assert list(incoming.buffer) == [PUB_ACK, *([then] if then else [])]
    assert incoming.ended == (None if then else Ended("completed"))


@pytest.mark.parametrize("reply", ["some.reply", ""])
def test_with_a_reply_or_headers_it_is_a_chunk(reply: str) -> None:
    incoming = fresh()
    give(incoming, Arrival(PUB_ACK, reply, None if reply else {"Name": "value"}))
    assert list(incoming.buffer) == [PUB_ACK]


def test_who_only_hears_a_pub_ack_learns_of_it() -> None:
    incoming = fresh()
    give(incoming, Arrival(PUB_ACK, ""))
    incoming.stop("idle")
    assert incoming.ended is not None
    assert "JetStream" in incoming.ended.detail


def test_a_second_responder_in_another_account_is_ignored_where_it_cannot_be_told() -> None:
    incoming = relayed_stream()
    other = {_wire.SEQUENCE: _wire.encode_sequence("f" * 24, "d", 1)}
    assert give(incoming, Arrival(b"x", "", other)) == []
    assert give(incoming, Arrival(b"x", "_R_.other", other)) == [Say("_R_.other", b"cancel")]
    assert incoming.received == 0
