"""The responder's state table, walked cell by cell, and the rules of window, 503 and liveness."""

from __future__ import annotations

import copy
from typing import Callable, Dict, List, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natsbridge import _outgoing, _wire
from natsbridge._outgoing import CONFIRM_AFTER, DONE, ENDING, RUNNING, Emit, Outgoing
from natsbridge._wire import Control, Failure

INTERVAL = 2.0
FAILURE = Failure(418, "teapot")


def stream(
    *,
    native: bool = True,
    window: int = 8,
    max_bytes: int = 1000,
    room: int = 0,
    stall_timeout: Optional[float] = None,
    resume: float = 0.0,
) -> Outgoing:
    return Outgoing(
        native=native,
        window=window,
        max_bytes=max_bytes,
        room=(lambda needed: min(needed, room)) if room else None,
        probe_interval=INTERVAL,
        stall_timeout=stall_timeout,
        resume=resume,
    )


def sent(chunks: int = 3, *, native: bool = True, resume: float = 0.0) -> Outgoing:
    """A running stream with ``chunks`` chunks of 10 bytes written and none acknowledged."""
    outgoing = stream(native=native, resume=resume)
    for n in range(chunks):
        outgoing.push(b"%010d" % n, 0.0)
    outgoing.take(10_000, 0.0)
    return outgoing


def ending(*, written: bool = True, failure: bool = False) -> Outgoing:
    """The handler is through after three chunks; ``written``: the end has gone out, too."""
    outgoing = sent()
    assert outgoing.end(FAILURE if failure else None)
    if written:
        assert outgoing.take(10_000, 0.0) == [Emit("e", 3, failure=FAILURE if failure else None)]
    return outgoing


def admits(outgoing: Outgoing, size: int, clock: float = 0.0) -> bool:
    """Whether a chunk of that size would be taken in now; where not, it was offered, as by a sender that then waits."""
    chunk = b"x" * size
    return copy.deepcopy(outgoing).push(chunk, clock) or outgoing.push(chunk, clock)


def ack(outgoing: Outgoing, seq: int, clock: float = 0.0, max_bytes: Optional[int] = None) -> List[Emit]:
    return outgoing.on_control(Control("ack", seq, max_bytes=max_bytes), clock)


def nak(outgoing: Outgoing, seq: int, clock: float = 0.0) -> List[Emit]:
    return outgoing.on_control(Control("nak", seq), clock)


def cancel(outgoing: Outgoing, why: str = "") -> List[Emit]:
    return outgoing.on_control(Control("cancel", why=why), 0.0)


def done(how: str = "cancelled") -> Outgoing:
    outgoing = sent()
    if how == "ended":
        outgoing = ending()
        ack(outgoing, 4)
    elif how == "cancelled":
        cancel(outgoing)
    else:
        outgoing.give_up(how)
    assert outgoing.state == DONE
    assert outgoing.reason == how
    return outgoing


# -- the table: every state and every event, empty cells included -----------------------------------------------------

Event = Callable[[Outgoing], object]

EVENTS: Dict[str, Event] = {
    "ack of nothing new": lambda o: ack(o, 0, 1.0),
    "ack of some": lambda o: ack(o, 2, 1.0),
    "ack of all": lambda o: ack(o, 3, 1.0),
    "ack of the end": lambda o: ack(o, 4, 1.0),
    "ack beyond the end": lambda o: ack(o, 5, 1.0),
    "nak of some": lambda o: nak(o, 2, 1.0),
    "nak of what was never sent": lambda o: nak(o, 4, 1.0),
    "nak of nothing": lambda o: nak(o, 0, 1.0),
    "cancel": lambda o: cancel(o),
    "cancel deadline": lambda o: cancel(o, "deadline"),
    "cancel with a word of the future": lambda o: cancel(o, "whim"),
    "503": lambda o: o.on_no_responders(0, 1.0, 1.0),
    "confirm without suspicion": lambda o: o.on_confirm(1.0),
    "tick": lambda o: o.on_tick(1.0),
    "disconnect": lambda o: o.on_disconnect(1.0),
    "reconnect": lambda o: o.on_reconnect(1.0),
    "end": lambda o: o.end(),
    "end with an error": lambda o: o.end(FAILURE),
    "give up: offline": lambda o: o.give_up("offline"),
    "give up: denied": lambda o: o.give_up("denied"),
    "take": lambda o: o.take(10_000, 1.0),
}
STATES: Dict[str, Callable[[], Outgoing]] = {
    "running": sent,
    "ending, end not written": lambda: ending(written=False),
    "ending": ending,
    "done: ended": lambda: done("ended"),
    "done: cancelled": lambda: done("cancelled"),
    "done: offline": lambda: done("offline"),
}

END = Emit("e", 3)
OFFLINE = Emit("e", 3, failure=_wire.library_failure("offline"))
DISCONNECTED = Emit("e", 3, failure=_wire.library_failure("disconnected"))

# (state, event) to (state after, reason after, result, acked after, ignored after)
Cell = Tuple[str, object, object, int, int]
CELLS: Dict[Tuple[str, str], Cell] = {
    ("running", "ack of nothing new"): (RUNNING, None, [], 0, 0),
    ("running", "ack of some"): (RUNNING, None, [], 2, 0),
    ("running", "ack of all"): (RUNNING, None, [], 3, 0),
    ("running", "ack of the end"): (RUNNING, None, [], 0, 1),  # no end was written that could be acknowledged
    ("running", "ack beyond the end"): (RUNNING, None, [], 0, 1),
    ("running", "nak of some"): (RUNNING, None, [], 0, 0),
    ("running", "nak of what was never sent"): (RUNNING, None, [], 0, 1),
    ("running", "nak of nothing"): (RUNNING, None, [], 0, 1),
    ("running", "cancel"): (DONE, "cancelled", [], 0, 0),
    ("running", "cancel deadline"): (DONE, "deadline", [], 0, 0),
    ("running", "cancel with a word of the future"): (DONE, "cancelled", [], 0, 0),
    ("running", "503"): (RUNNING, None, True, 0, 0),
    ("running", "confirm without suspicion"): (RUNNING, None, [], 0, 0),
    ("running", "tick"): (RUNNING, None, [], 0, 0),
    ("running", "disconnect"): (DONE, "disconnected", [DISCONNECTED], 0, 0),
    ("running", "reconnect"): (RUNNING, None, [], 0, 0),
    ("running", "end"): (ENDING, None, True, 0, 0),
    ("running", "end with an error"): (ENDING, None, True, 0, 0),
    ("running", "give up: offline"): (DONE, "offline", [OFFLINE], 0, 0),
    ("running", "give up: denied"): (DONE, "denied", [], 0, 0),
    ("running", "take"): (RUNNING, None, [], 0, 0),
    ("ending, end not written", "ack of nothing new"): (ENDING, None, [], 0, 0),
    ("ending, end not written", "ack of some"): (ENDING, None, [], 2, 0),
    ("ending, end not written", "ack of all"): (ENDING, None, [], 3, 0),
    ("ending, end not written", "ack of the end"): (ENDING, None, [], 0, 1),
    ("ending, end not written", "ack beyond the end"): (ENDING, None, [], 0, 1),
    ("ending, end not written", "nak of some"): (ENDING, None, [], 0, 0),
    ("ending, end not written", "nak of what was never sent"): (ENDING, None, [], 0, 1),
    ("ending, end not written", "nak of nothing"): (ENDING, None, [], 0, 1),
    ("ending, end not written", "cancel"): (DONE, "ended", [], 0, 0),
    ("ending, end not written", "cancel deadline"): (DONE, "ended", [], 0, 0),
    ("ending, end not written", "cancel with a word of the future"): (DONE, "ended", [], 0, 0),
    ("ending, end not written", "503"): (ENDING, None, True, 0, 0),
    ("ending, end not written", "confirm without suspicion"): (ENDING, None, [], 0, 0),
    ("ending, end not written", "tick"): (ENDING, None, [], 0, 0),
    ("ending, end not written", "disconnect"): (DONE, "disconnected", [DISCONNECTED], 0, 0),
    ("ending, end not written", "reconnect"): (ENDING, None, [], 0, 0),
    ("ending, end not written", "end"): (ENDING, None, False, 0, 0),
    ("ending, end not written", "end with an error"): (ENDING, None, False, 0, 0),
    ("ending, end not written", "give up: offline"): (DONE, "offline", [OFFLINE], 0, 0),
    ("ending, end not written", "give up: denied"): (DONE, "denied", [], 0, 0),
    ("ending, end not written", "take"): (ENDING, None, [END], 0, 0),
    ("ending", "ack of nothing new"): (ENDING, None, [], 0, 0),
    ("ending", "ack of some"): (ENDING, None, [], 2, 0),
    ("ending", "ack of all"): (ENDING, None, [], 3, 0),
    ("ending", "ack of the end"): (DONE, "ended", [], 0, 0),
    ("ending", "ack beyond the end"): (ENDING, None, [], 0, 1),
    ("ending", "nak of some"): (ENDING, None, [], 0, 0),
    ("ending", "nak of what was never sent"): (ENDING, None, [], 0, 1),
    ("ending", "nak of nothing"): (ENDING, None, [], 0, 1),
    ("ending", "cancel"): (DONE, "ended", [], 0, 0),
    ("ending", "cancel deadline"): (DONE, "ended", [], 0, 0),
    ("ending", "cancel with a word of the future"): (DONE, "ended", [], 0, 0),
    ("ending", "503"): (ENDING, None, True, 0, 0),
    ("ending", "confirm without suspicion"): (ENDING, None, [], 0, 0),
    ("ending", "tick"): (ENDING, None, [], 0, 0),
    ("ending", "disconnect"): (DONE, "disconnected", [DISCONNECTED], 0, 0),
    ("ending", "reconnect"): (ENDING, None, [], 0, 0),
    ("ending", "end"): (ENDING, None, False, 0, 0),
    ("ending", "end with an error"): (ENDING, None, False, 0, 0),
    ("ending", "give up: offline"): (DONE, "offline", [OFFLINE], 0, 0),
    ("ending", "give up: denied"): (DONE, "denied", [], 0, 0),
    ("ending", "take"): (ENDING, None, [], 0, 0),
}


def expected_cell(state: str, event: str) -> Cell:
    """What is done stays as it is, for the first reason: nothing is said, and only messages are counted."""
    if not state.startswith("done"):
        return CELLS[state, event]
    message = event.startswith(("ack", "nak", "cancel"))
    result: object = False if event in ("503", "end", "end with an error") else []
    return DONE, state.partition(": ")[2], result, 0, 1 if message else 0


@pytest.mark.parametrize("event", list(EVENTS))
@pytest.mark.parametrize("state", list(STATES))
def test_every_cell(state: str, event: str) -> None:
    outgoing = STATES[state]()
    result = EVENTS[event](outgoing)
    assert (outgoing.state, outgoing.reason, result, outgoing.acked, outgoing.ignored) == expected_cell(state, event)
    unwritten_end = outgoing.state == ENDING and state != "ending" and event not in ("take", "503")
    again = event == "nak of some" and outgoing.state != DONE
    assert outgoing.has_work is (unwritten_end or again)


def test_the_walk_above_reaches_every_cell_of_the_table() -> None:
    assert set(_outgoing._TABLE) == {
        (state, event) for state in (RUNNING, ENDING, DONE) for event in ("ack", "nak", "cancel")
    }
    assert set(CELLS) == {(state, event) for state in STATES if not state.startswith("done") for event in EVENTS}


# -- crossings --------------------------------------------------------------------------------------------------------


def test_cancel_and_end_that_cross_leave_a_stream_that_ended() -> None:
    outgoing = ending()
    assert cancel(outgoing) == []
    assert (outgoing.state, outgoing.reason) == (DONE, "ended")
    assert ack(outgoing, 4, 1.0) == []  # the acknowledgement that crossed as well
    assert (outgoing.state, outgoing.reason, outgoing.ignored) == (DONE, "ended", 1)


def test_a_lost_end_is_said_again_as_its_own_probe() -> None:
    outgoing = ending(failure=True)
    ack(outgoing, 3)
    assert outgoing.on_tick(INTERVAL) == [Emit("e", 3, failure=FAILURE)]
    assert outgoing.on_tick(INTERVAL + 0.1) == []
    assert outgoing.on_tick(2 * INTERVAL) == [Emit("e", 3, failure=FAILURE)]
    ack(outgoing, 4, 2 * INTERVAL)
    assert outgoing.reason == "ended"


def test_a_lost_last_ack_is_made_good_by_the_cancel_of_a_requester_that_has_forgotten() -> None:
    outgoing = ending()
    assert outgoing.on_tick(INTERVAL) == [END]
    cancel(outgoing)
    assert outgoing.reason == "ended"


def test_an_end_whose_requester_is_gone_is_given_up_after_the_probes() -> None:
    outgoing = ending()
    for n in (1, 2, 3):
        assert outgoing.on_tick(n * INTERVAL) == [END]
    assert outgoing.on_tick(4 * INTERVAL) == []
    assert outgoing.reason == "unreachable"


def test_repeated_and_stale_acks_change_nothing_but_prove_that_somebody_listens() -> None:
    outgoing = sent(5)
    ack(outgoing, 4, 1.0)
    ack(outgoing, 4, INTERVAL)
    assert (outgoing.acked, outgoing.ignored) == (4, 0)
    ack(outgoing, 2, INTERVAL + 1.0)  # overtaken by the later one
    assert (outgoing.acked, outgoing.ignored) == (4, 1)
    outgoing.on_tick(INTERVAL + 1.0 + INTERVAL - 0.1)
    assert outgoing.on_tick(4 * INTERVAL) != []  # but silence counts from the last of them
    assert outgoing.state == RUNNING


@pytest.mark.parametrize("seq", [4, 5, 1000, 2**53])
def test_an_ack_of_what_was_never_sent_is_ignored(seq: int) -> None:
    outgoing = sent(3)
    outgoing.push(b"unsent", 0.0)
    assert ack(outgoing, seq, 1.0) == []
    assert (outgoing.acked, outgoing.ignored, outgoing.state) == (0, 1, RUNNING)


def test_the_end_is_not_acknowledged_before_it_was_written() -> None:
    outgoing = ending(written=False)
    ack(outgoing, 4, 1.0)
    assert (outgoing.state, outgoing.ignored) == (ENDING, 1)
    assert outgoing.take(100, 1.0) == [END]


def test_give_up_says_so_once_and_only_where_the_requester_does_not_know() -> None:
    for word in sorted(_wire.LIBRARY_ENDS):
        outgoing = sent()
        assert outgoing.give_up(word) == [Emit("e", 3, failure=_wire.library_failure(word))]
        assert outgoing.give_up(word) == []
        assert outgoing.reason == word
    for word in ("cancelled", "no_interest", "unreachable", "denied"):
        assert sent().give_up(word) == []


def test_give_up_drops_what_was_not_written() -> None:
    outgoing = sent(2)
    outgoing.push(b"never", 0.0)
    assert outgoing.give_up("shutdown") == [Emit("e", 2, failure=_wire.library_failure("shutdown"))]
    assert not outgoing.has_work
    assert outgoing.take(100, 0.0) == []


# -- the writer -------------------------------------------------------------------------------------------------------


def test_chunks_are_numbered_from_one_and_the_end_carries_their_count() -> None:
    outgoing = stream()
    assert outgoing.accept() == Emit("a", 0)
    outgoing.push(b"x", 0.0)
    outgoing.push(b"y", 0.0)
    outgoing.end()
    assert outgoing.take(1, 0.0) == [Emit("d", 1, b"x")]
    assert outgoing.take(1, 0.0) == [Emit("d", 2, b"y"), Emit("e", 2)]
    assert outgoing.take(100, 0.0) == []


def test_an_empty_answer_is_an_end_with_number_zero() -> None:
    outgoing = stream()
    outgoing.end()
    assert outgoing.take(100, 0.0) == [Emit("e", 0)]
    ack(outgoing, 1)
    assert outgoing.reason == "ended"


def numbers(emits: List[Emit]) -> List[Tuple[str, int, int]]:
    """Kind, number and count of chunks of each message."""
    counts = {"d": 1, "e": 0, "p": 0}
    return [(e.kind, e.seq, len(_wire.decode_batch(e.payload) or ()) if e.kind == "b" else counts[e.kind]) for e in emits]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (1, [("d", 1, 1)]),
        (10, [("d", 1, 1)]),
        (14, [("d", 1, 1)]),
        (19, [("d", 1, 1)]),
        (20, [("d", 1, 1), ("d", 2, 1)]),  # what is left of the budget after the first is enough for one more
        (27, [("d", 1, 1), ("d", 2, 1)]),
        (28, [("b", 1, 2)]),
        (41, [("b", 1, 2)]),
        (42, [("b", 1, 3)]),
        (1000, [("b", 1, 3)]),
    ],
)
def test_a_turn_takes_its_budget_and_at_least_one_chunk(budget: int, expected: List[Tuple[str, int, int]]) -> None:
    outgoing = stream()
    for _ in range(3):
        outgoing.push(b"0123456789", 0.0)
    assert numbers(outgoing.take(budget, 0.0)) == expected
    assert outgoing.has_work is (sum(count for _, _, count in expected) < 3)


@pytest.mark.parametrize(("budget", "expected"), [(1, [1]), (10, [1]), (19, [1]), (20, [1, 2]), (30, [1, 2, 3])])
def test_a_plain_requester_gets_its_chunks_one_by_one(budget: int, expected: List[int]) -> None:
    outgoing = stream(native=False)
    for _ in range(3):
        outgoing.push(b"0123456789", 0.0)
    emits = outgoing.take(budget, 0.0)
    assert [emit.seq for emit in emits] == expected
    assert {emit.kind for emit in emits} == {"d"}
    assert outgoing.has_work is (expected != [1, 2, 3])


def test_a_batch_holds_what_waited_in_order() -> None:
    outgoing = stream()
    for chunk in (b"one", b"two", b"three"):
        outgoing.push(chunk, 0.0)
    (emit,) = outgoing.take(1000, 0.0)
    assert (emit.kind, emit.seq) == ("b", 1)
    assert _wire.decode_batch(emit.payload) == [b"one", b"two", b"three"]
    outgoing.push(b"four", 0.0)
    assert outgoing.take(1000, 0.0) == [Emit("d", 4, b"four")]  # nothing waited with it


def test_where_batches_are_not_agreed_chunks_go_one_by_one_and_can_be_asked_for_again() -> None:
    """Across accounts."""
    outgoing = Outgoing(native=True, batches=False, window=8, max_bytes=1000, probe_interval=INTERVAL)
    for chunk in (b"one", b"two", b"three"):
        outgoing.push(chunk, 0.0)
    assert numbers(outgoing.take(1000, 0.0)) == [("d", 1, 1), ("d", 2, 1), ("d", 3, 1)]
    nak(outgoing, 2)
    assert numbers(outgoing.take(1000, 0.0)) == [("d", 2, 1), ("d", 3, 1)]
    ack(outgoing, 3)
    assert admits(outgoing, 1000, 0.0)


def test_a_frame_never_exceeds_the_budget_but_for_a_chunk_that_is_larger_itself() -> None:
    outgoing = stream(window=100, max_bytes=100_000)
    for size in (5, 500, 5, 5, 5, 50, 1):
        outgoing.push(b"x" * size, 0.0)
    taken: List[bytes] = []
    while outgoing.has_work:
        for emit in outgoing.take(64, 0.0):
            chunks = _wire.decode_batch(emit.payload) if emit.kind == "b" else [emit.payload]
            assert chunks is not None
            assert len(emit.payload) <= 64 or len(chunks) == 1
            assert emit.seq == len(taken) + 1
            taken += chunks
    assert [len(chunk) for chunk in taken] == [5, 500, 5, 5, 5, 50, 1]


def test_a_stream_that_is_alone_takes_several_frames_each_a_message_of_its_own() -> None:
    outgoing = stream(window=100_000, max_bytes=1 << 30)
    chunk = b"x" * 1020  # 32 of them fill a frame
    for _ in range(200):
        outgoing.push(chunk, 0.0)
    assert numbers(outgoing.take(1 << 20, 0.0, 4)) == [("b", 1 + 32 * n, 32) for n in range(4)]
    assert numbers(outgoing.take(1 << 20, 0.0, 1)) == [("b", 129, 32)]
    assert numbers(outgoing.take(2048, 0.0, 4)) == [("b", 161 + 2 * n, 2) for n in range(4)]  # the server takes no more
    outgoing.push(b"y" * 100_000, 0.0)
    assert numbers(outgoing.take(1 << 20, 0.0, 4))[-1] == ("b", 193, 8)  # what is too large for a batch waits its turn
    assert numbers(outgoing.take(1 << 20, 0.0, 4)) == [("d", 201, 1)]


def test_frames_are_acknowledged_and_asked_for_in_parts() -> None:
    outgoing = stream(window=100, max_bytes=10_000)
    for n in range(10):
        outgoing.push(b"%d" % n * (n + 1), 0.0)
    assert numbers(outgoing.take(1000, 0.0)) == [("b", 1, 10)]
    ack(outgoing, 3)
    assert (outgoing.acked, outgoing._bytes) == (3, sum(range(4, 11)))
    nak(outgoing, 6, 1.0)
    assert (outgoing.sent, outgoing.acked) == (5, 3)
    ack(outgoing, 7)  # it has arrived after all
    assert (outgoing.sent, outgoing.acked, outgoing._bytes) == (7, 7, 8 + 9 + 10)
    outgoing.push(b"more", 0.0)
    (emit,) = outgoing.take(1000, 1.0)
    assert (emit.kind, emit.seq) == ("b", 8)
    assert _wire.decode_batch(emit.payload) == [b"7" * 8, b"8" * 9, b"9" * 10, b"more"]
    ack(outgoing, 11)
    assert outgoing._bytes == 0
    assert not outgoing.has_work


def test_the_end_waits_for_its_chunks() -> None:
    outgoing = stream()
    for _ in range(2):
        outgoing.push(b"0123456789", 0.0)
    outgoing.end()
    assert numbers(outgoing.take(1, 0.0)) == [("d", 1, 1)]
    assert outgoing.has_work
    assert numbers(outgoing.take(1, 0.0)) == [("d", 2, 1), ("e", 2, 0)]
    assert not outgoing.has_work


# -- the window -------------------------------------------------------------------------------------------------------


def test_the_window_counts_chunks() -> None:
    outgoing = stream(window=2)
    assert admits(outgoing, 1, 0.0)
    outgoing.push(b"x", 0.0)
    assert admits(outgoing, 1, 0.0)
    outgoing.push(b"x", 0.0)
    assert not admits(outgoing, 1, 0.0)
    outgoing.take(100, 0.0)
    assert not admits(outgoing, 1, 0.0)  # written is not acknowledged
    ack(outgoing, 1)
    assert admits(outgoing, 1, 0.0)
    outgoing.push(b"x", 0.0)
    assert not admits(outgoing, 1, 0.0)


def test_the_window_counts_bytes() -> None:
    outgoing = stream(max_bytes=10)
    outgoing.push(b"123456", 0.0)
    assert admits(outgoing, 4, 0.0)
    assert not admits(outgoing, 5, 0.0)
    outgoing.take(100, 0.0)
    ack(outgoing, 1)
    assert admits(outgoing, 10, 0.0)


def test_a_chunk_is_always_admitted_when_nothing_is_unacknowledged() -> None:
    outgoing = stream(window=1, max_bytes=1)
    assert admits(outgoing, 1_000_000, 0.0)
    outgoing.push(b"big", 0.0)
    assert not admits(outgoing, 1, 0.0)
    outgoing.take(100, 0.0)
    ack(outgoing, 1)
    assert admits(outgoing, 1_000_000, 0.0)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["push", "take", "ack", "ack 1"]), max_size=60))
def test_the_window_is_never_exceeded_and_always_opens_again(steps: List[str]) -> None:
    outgoing = stream(window=4, max_bytes=40)
    for step in steps:
        if step == "push" and admits(outgoing, 15, 0.0):
            outgoing.push(b"x" * 15, 0.0)
        elif step == "take":
            outgoing.take(20, 0.0)
        elif step == "ack":
            ack(outgoing, outgoing.sent)
        elif step == "ack 1" and outgoing.acked < outgoing.sent:
            ack(outgoing, outgoing.acked + 1)
        assert outgoing.acked <= outgoing.sent <= outgoing.pushed
        unacked = outgoing.pushed - outgoing.acked
        assert unacked <= 2  # 40 bytes hold two chunks of 15
        assert outgoing._bytes == 15 * unacked
    outgoing.take(1000, 0.0)
    ack(outgoing, outgoing.sent)
    assert admits(outgoing, 40, 0.0)
    assert outgoing.ignored == 0


def fill(outgoing: Outgoing) -> int:
    """Send chunks of 100 bytes as far as the window allows: how many."""
    count = 0
    while count < 100 and outgoing.push(b"x" * 100, 0.0):
        count += 1
    outgoing.take(10_000, 0.0, 100)
    return count


def test_a_requester_may_ask_for_a_larger_or_smaller_window() -> None:
    outgoing = stream(window=1000, max_bytes=1000, room=5000)
    assert fill(outgoing) == 10
    assert ack(outgoing, 5, max_bytes=3000) == []
    assert fill(outgoing) == 25
    assert ack(outgoing, 25, max_bytes=500) == []
    assert fill(outgoing) == 0, "more than that is on its way already"
    assert ack(outgoing, 30) == []
    assert fill(outgoing) == 0
    assert ack(outgoing, 35) == []
    assert fill(outgoing) == 5, "so it stays"


def test_who_asks_for_more_than_there_is_gets_that_and_is_told() -> None:
    outgoing = stream(window=1000, max_bytes=1000, room=5000)
    assert ack(outgoing, 0, max_bytes=5001) == [Emit("a", 0)]
    assert outgoing.max_bytes == 5000
    assert ack(outgoing, 0, max_bytes=5000) == []
    assert ack(outgoing, 0, 0.4, max_bytes=6000) == []
    assert ack(outgoing, 0, 0.5, max_bytes=6000) == [Emit("a", 0)], "what it was told may have been lost"


def test_room_is_asked_for_what_is_needed_and_no_longer() -> None:
    rooms: List[int] = []

    def room(needed: int) -> int:
        rooms.append(needed)
        return needed

    outgoing = Outgoing(native=True, window=1000, max_bytes=1000, probe_interval=INTERVAL, room=room)
    ack(outgoing, 0, max_bytes=3000)
    assert fill(outgoing) == 30
    ack(outgoing, 5, max_bytes=500)
    ack(outgoing, 20)
    ack(outgoing, 29)
    assert rooms == [3000, 2500, 1000, 500]
    for control in (Control("ack", 31, max_bytes=9000), Control("ack", 20, max_bytes=9000), Control("nak", 30)):
        outgoing.on_control(control, 0.0)
    assert outgoing.end()
    ack(outgoing, 30, max_bytes=9000)
    assert rooms == [3000, 2500, 1000, 500], "for what is ignored, and at the end, no room is needed"


def test_an_older_acknowledgement_does_not_take_the_window_back() -> None:
    outgoing = stream(window=1000, max_bytes=1000, room=5000)
    fill(outgoing)
    ack(outgoing, 5, max_bytes=3000)
    assert ack(outgoing, 4, max_bytes=100) == []
    assert outgoing.max_bytes == 3000


def test_an_impossible_acknowledgement_changes_no_window() -> None:
    outgoing = stream(max_bytes=1000, room=5000)
    assert ack(outgoing, 17, max_bytes=3000) == []
    assert outgoing.max_bytes == 1000


def test_a_plain_requester_cannot_ask_for_a_window() -> None:
    outgoing = stream(native=False, max_bytes=1000, room=5000)
    assert ack(outgoing, 0, max_bytes=3000) == []
    assert outgoing.max_bytes == 1000


@pytest.mark.parametrize("size", [1, 5000, 9000])
def test_asking_for_a_window_does_not_end_an_end(size: int) -> None:
    outgoing = ending()
    assert ack(outgoing, 4, max_bytes=size) == []
    assert outgoing.reason == "ended"


# -- plain requesters -------------------------------------------------------------------------------------------------


def test_a_plain_requester_needs_no_acks_and_gets_no_probes() -> None:
    outgoing = stream(native=False, window=1)
    outgoing.push(b"x", 0.0)
    assert not admits(outgoing, 1, 0.0)  # what is not written yet counts
    assert outgoing.take(100, 0.0) == [Emit("d", 1, b"x")]
    assert admits(outgoing, 1, 0.0)
    for n in range(1, 20):
        assert outgoing.on_tick(n * INTERVAL) == []
    assert outgoing.state == RUNNING
    outgoing.end()
    assert outgoing.take(100, 0.0) == [Emit("e", 1)]
    assert (outgoing.state, outgoing.reason) == (DONE, "ended")


def test_an_ack_from_a_plain_requester_is_ignored() -> None:
    outgoing = sent(3, native=False)
    ack(outgoing, 3)
    assert (outgoing.ignored, outgoing.state) == (1, RUNNING)


def test_a_plain_requester_can_cancel() -> None:
    outgoing = sent(3, native=False)
    cancel(outgoing)
    assert outgoing.reason == "cancelled"


# -- a server that accepts less than the one before ----------------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
@pytest.mark.parametrize("through", [True, False], ids=["ending", "running"])
def test_a_chunk_that_has_become_too_large_ends_the_stream_behind_the_one_before(native: bool, through: bool) -> None:
    outgoing = Outgoing(native=native, batches=False, window=8, max_bytes=1000, probe_interval=INTERVAL)
    for n in range(1, 5):
        outgoing.push(b"%d" % n, 0.0)
    if through:
        outgoing.end()
    outgoing.take(3, 0.0)
    assert outgoing.cut_short(2, FAILURE) == [Emit("e", 1, failure=FAILURE)]
    assert (outgoing.state, outgoing.pushed, outgoing.sent) == (ENDING if native else DONE, 1, 1)
    assert not outgoing.has_work
    if native:
        ack(outgoing, 1)
        assert outgoing.acked == 1
        ack(outgoing, 2)
        assert outgoing.reason == "ended"


# -- 503 --------------------------------------------------------------------------------------------------------------


def test_a_first_503_is_a_suspicion_that_asks_for_a_probe() -> None:
    outgoing = sent()
    assert outgoing.on_no_responders(0, 0.0, 100.0) is True
    assert outgoing.state == RUNNING
    assert outgoing.on_confirm(0.01) == [Emit("p", 3)]


def test_a_second_503_confirms_it() -> None:
    outgoing = sent()
    outgoing.on_no_responders(0, 0.0, 100.0)
    outgoing.on_confirm(0.0)
    assert outgoing.on_no_responders(0, 0.0, 100.0 + CONFIRM_AFTER) is False
    assert (outgoing.state, outgoing.reason) == (DONE, "no_interest")


def test_only_a_503_that_comes_after_the_confirming_probe_confirms() -> None:
    """A process that was suspended finds those for all that it had sent; whoever they were about may be back."""
    outgoing = sent()
    outgoing.on_no_responders(0, 0.0, 100.0)
    for late in (0.02, 1.0, 60.0):
        outgoing.on_no_responders(0, 0.0, 100.0 + late)
        assert outgoing.state == RUNNING
    assert outgoing.on_confirm(0.1) == [Emit("p", 3)]
    outgoing.on_no_responders(0, 0.1, 160.1)
    assert outgoing.reason == "no_interest"


def test_a_second_503_of_the_same_burst_confirms_nothing_and_asks_for_no_second_probe() -> None:
    outgoing = sent()
    assert outgoing.on_no_responders(0, 0.0, 100.0) is True
    for late in (0.0, 0.001, 0.005, 0.0085):
        assert outgoing.on_no_responders(0, 0.0, 100.0 + late) is False
        assert outgoing.state == RUNNING


def test_whatever_is_heard_clears_the_suspicion() -> None:
    outgoing = sent()
    outgoing.on_no_responders(0, 0.0, 100.0)
    ack(outgoing, 1)
    assert outgoing.on_confirm(0.01) == []  # nothing left to confirm
    assert outgoing.on_no_responders(0, 0.0, 200.0) is True  # a suspicion of its own
    assert outgoing.state == RUNNING


def test_a_503_for_the_end_is_confirmed_with_the_end() -> None:
    outgoing = ending()
    assert outgoing.on_no_responders(0, 0.0, 100.0) is True
    assert outgoing.on_confirm(0.01) == [END]
    outgoing.on_no_responders(0, 0.0, 100.02)
    assert outgoing.reason == "no_interest"


def test_nothing_is_sent_to_a_suspect_but_probes() -> None:
    """Nobody may be there; or the server drops messages for a client that is too slow for them."""
    outgoing = sent()
    outgoing.push(b"more", 0.0)
    assert outgoing.has_work
    outgoing.on_no_responders(3, 0.0, 100.0)
    assert not outgoing.has_work
    assert outgoing.take(10_000, 0.0) == []
    assert outgoing.on_confirm(0.01) == [Emit("p", 3)]
    ack(outgoing, 0)
    assert outgoing.take(10_000, 0.02) == [Emit("d", 4, b"more")]


def test_a_plain_requester_is_gone_with_the_second_503_and_gets_no_probe() -> None:
    outgoing = sent(3, native=False)
    assert outgoing.on_no_responders(1, 0.0, 100.0) is False
    assert outgoing.on_no_responders(2, 0.0, 100.005) is False
    assert outgoing.state == RUNNING
    outgoing.on_no_responders(3, 0.0, 100.011)
    assert outgoing.reason == "no_interest"


def test_a_plain_requester_is_there_if_something_in_between_drew_no_503() -> None:
    """A server says for each message that is not delivered that it was not, and in their order."""
    outgoing = sent(9, native=False)
    for seq, now in ((1, 100.0), (3, 100.5), (5, 107.0), (6, 107.005), (8, 107.011)):
        assert outgoing.on_no_responders(seq, 0.0, now) is False
        assert outgoing.state == RUNNING
    assert outgoing.has_work is False  # it is sent to as before
    outgoing.push(b"more", 0.0)
    assert outgoing.has_work is True
    outgoing.on_no_responders(9, 0.0, 107.03)
    assert outgoing.reason == "no_interest"


# -- liveness ---------------------------------------------------------------------------------------------------------


def test_a_silent_requester_is_probed_three_times_and_then_gone() -> None:
    outgoing = sent()
    emitted = []
    clock = 0.0
    while outgoing.state == RUNNING:
        clock += 0.1
        emitted += [(round(clock, 1), emit) for emit in outgoing.on_tick(clock)]
        assert clock < 100
    assert [emit for _, emit in emitted] == [Emit("p", 3)] * 3
    assert [at for at, _ in emitted] == pytest.approx([2.0, 4.0, 6.0], abs=0.11)
    assert clock == pytest.approx(8.0, abs=0.21)  # the third probe had a full interval as well
    assert outgoing.reason == "unreachable"


def test_hearing_anything_starts_the_count_anew() -> None:
    outgoing = sent()
    for n in (1, 2, 3):
        assert outgoing.on_tick(n * INTERVAL) == [Emit("p", 3)]
    ack(outgoing, 0, 3.5 * INTERVAL)
    assert outgoing.on_tick(4 * INTERVAL) == [Emit("p", 3)]  # it has said nothing for an interval, which is no reproach
    for n in (5, 6, 7):
        assert outgoing.on_tick(n * INTERVAL) == [Emit("p", 3)]
        assert outgoing.state == RUNNING
    assert outgoing.on_tick(8 * INTERVAL) == []
    assert outgoing.reason == "unreachable"


def test_a_busy_handler_speaks_so_that_its_requester_hears_something() -> None:
    """Acknowledged all the time, it sends nothing: the requester would take the silence for death."""
    outgoing = sent(0)
    spoken = []
    for tenth in range(1, 100):
        clock = tenth / 10
        ack(outgoing, 0, clock)
        if outgoing.on_tick(clock):
            spoken.append(clock)
    assert spoken == pytest.approx([2.0, 4.0, 6.0, 8.0], abs=0.11)
    assert outgoing.state == RUNNING


def test_sending_is_speaking_but_not_hearing() -> None:
    """A stream that sends all the time does probe a requester of whom it hears nothing."""
    outgoing = stream(window=1000)
    probes = 0
    for tenth in range(1, 200):
        clock = tenth / 10
        if outgoing.state == DONE:
            break
        outgoing.push(b"x", clock)
        outgoing.take(100, clock)
        probes += len(outgoing.on_tick(clock))
    assert probes == 3
    assert outgoing.reason == "unreachable"


def test_who_has_promised_to_speak_more_often_does_so_without_probing_more_often() -> None:
    """A requester that probes every half second needs to hear something as often, answering is up to it."""
    outgoing = Outgoing(native=True, window=8, max_bytes=1000, probe_interval=INTERVAL, speak_interval=0.5)
    spoken = []
    clock = 0.0
    while outgoing.state == RUNNING:
        clock += 0.1
        if outgoing.on_tick(clock):
            spoken.append(round(clock, 1))
        assert clock < 100
    assert clock == pytest.approx(8.0, abs=0.21)  # silence is judged as ever
    assert len(spoken) == pytest.approx(8.0 / 0.5, abs=2)
    assert outgoing.reason == "unreachable"


def test_a_clock_that_stood_still_convicts_nobody() -> None:
    outgoing = sent()
    for _ in range(1000):
        assert outgoing.on_tick(1.9) == []
    assert outgoing.state == RUNNING


# -- sending again ----------------------------------------------------------------------------------------------------


def test_a_nak_sends_again_from_there_on() -> None:
    outgoing = sent(4)
    ack(outgoing, 1)
    assert nak(outgoing, 3) == []
    assert (outgoing.sent, outgoing.acked) == (2, 1)
    (again,) = outgoing.take(1000, 0.0)
    assert (again.kind, again.seq) == ("b", 3)
    assert _wire.decode_batch(again.payload) == [b"0000000002", b"0000000003"]
    ack(outgoing, 4)
    assert (outgoing.acked, outgoing.ignored) == (4, 0)


def test_the_same_nak_is_heeded_once_per_probe_interval() -> None:
    outgoing = sent(4)
    nak(outgoing, 3, 10.0)
    outgoing.take(1000, 10.0)
    nak(outgoing, 3, 10.0 + INTERVAL - 0.1)
    assert not outgoing.has_work
    assert outgoing.ignored == 1
    nak(outgoing, 4, 10.0 + INTERVAL - 0.1)  # another one
    assert numbers(outgoing.take(1000, 12.0)) == [("d", 4, 1)]
    nak(outgoing, 3, 10.0 + 2 * INTERVAL)
    assert numbers(outgoing.take(1000, 14.0)) == [("d", 3, 1), ("d", 4, 1)]  # in the pieces of before


@pytest.mark.parametrize("seq", [0, 1, 2, 5, 2**53])
def test_a_nak_of_what_was_acknowledged_or_never_sent_is_ignored(seq: int) -> None:
    outgoing = sent(4)
    ack(outgoing, 2)
    outgoing.push(b"unsent", 0.0)
    nak(outgoing, seq)
    assert (outgoing.sent, outgoing.ignored) == (4, 1)


def test_an_ack_of_what_is_about_to_be_sent_again_saves_the_trouble() -> None:
    """A nak and the ack of what had only been late cross."""
    outgoing = sent(4)
    nak(outgoing, 2)
    ack(outgoing, 3)
    assert (outgoing.acked, outgoing.sent, outgoing.ignored) == (3, 3, 0)
    assert outgoing.take(1000, 0.0) == [Emit("d", 4, b"0000000003")]
    ack(outgoing, 4)
    assert outgoing._bytes == 0
    assert admits(outgoing, 1000, 0.0)


def test_a_rewind_does_not_open_the_window() -> None:
    outgoing = stream(window=3)
    for _ in range(3):
        outgoing.push(b"x", 0.0)
    outgoing.take(1000, 0.0)
    nak(outgoing, 1)
    assert not admits(outgoing, 1, 0.0)
    outgoing.take(1000, 0.0)
    assert not admits(outgoing, 1, 0.0)
    ack(outgoing, 3)
    assert admits(outgoing, 1, 0.0)


def test_the_end_is_written_again_behind_the_chunks_that_are() -> None:
    outgoing = ending()
    nak(outgoing, 2)
    emits = outgoing.take(1000, 0.0)
    assert numbers(emits) == [("b", 2, 2), ("e", 3, 0)]
    ack(outgoing, 4)
    assert outgoing.reason == "ended"


def test_an_error_end_counts_what_was_ever_sent() -> None:
    outgoing = sent(4)
    nak(outgoing, 2)
    (end,) = outgoing.give_up("shutdown")
    assert end.seq == 4


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["push", "take", "lose", "ack", "end"]), st.integers(1, 40)), max_size=60))
def test_what_is_lost_and_asked_for_again_arrives_once_in_order(steps: List[Tuple[str, int]]) -> None:
    """A requester made of a counter: it takes what is next, asks for what is missing, acknowledges now and then."""
    outgoing = stream(window=50, max_bytes=10_000)
    arrived: List[bytes] = []
    clock = 0.0
    ended = False

    def deliver(emits: List[Emit], lost: bool) -> None:
        nonlocal ended
        for emit in emits:
            if lost:
                continue
            if emit.kind in "pe":
                if emit.seq > len(arrived):
                    nak(outgoing, len(arrived) + 1, clock)
                elif emit.kind == "e":
                    ended = True
                    ack(outgoing, emit.seq + 1, clock)
                continue
            chunks = [emit.payload] if emit.kind == "d" else _wire.decode_batch(emit.payload)
            assert chunks
            if emit.seq > len(arrived) + 1:
                nak(outgoing, len(arrived) + 1, clock)
            else:
                arrived.extend(chunks[len(arrived) + 1 - emit.seq :])

    pushed = 0
    for step, value in steps:
        clock += INTERVAL
        if step == "push" and outgoing.state == RUNNING and admits(outgoing, 4, clock):
            outgoing.push(b"%04d" % pushed, 0.0)
            pushed += 1
        elif step == "end":
            outgoing.end()
        elif step in ("take", "lose"):
            deliver(outgoing.take(value, clock), step == "lose")
        elif step == "ack":
            ack(outgoing, min(len(arrived), outgoing.acked + value), clock)
    outgoing.end()
    for _ in range(20):
        if ended:
            break
        clock += INTERVAL
        deliver(outgoing.take(10_000, clock), False)
        deliver(outgoing.on_tick(clock), False)
        ack(outgoing, min(len(arrived), outgoing.pushed), clock)
    assert ended
    assert arrived == [b"%04d" % n for n in range(pushed)]
    assert outgoing.reason == "ended"


# -- stalling ---------------------------------------------------------------------------------------------------------


def full(stall_timeout: Optional[float]) -> Outgoing:
    outgoing = stream(window=2, stall_timeout=stall_timeout)
    outgoing.push(b"x", 0.0)
    outgoing.push(b"x", 0.0)
    outgoing.take(100, 0.0)
    assert not admits(outgoing, 1, 1.0)
    return outgoing


def alive(outgoing: Outgoing, clock: float) -> List[Emit]:
    """The requester answers probes, but reads nothing."""
    ack(outgoing, outgoing.acked, clock)
    return outgoing.on_tick(clock)


def test_a_requester_that_lives_but_does_not_read_stalls_the_stream() -> None:
    outgoing = full(10.0)
    for clock in range(1, 11):
        assert [emit.kind for emit in alive(outgoing, float(clock))] in ([], ["p"])
        assert outgoing.state == RUNNING
    assert outgoing.on_tick(11.0) == [Emit("p", 2)]
    assert outgoing.state == RUNNING  # its answer decides
    assert ack(outgoing, 0, 11.1) == [Emit("e", 2, failure=_wire.library_failure("stalled"))]
    assert outgoing.reason == "stalled"


def test_silence_is_no_stall() -> None:
    """A requester whose connection was down for longer than the stall time, and that reads on as soon as it is back."""
    outgoing = full(1.0)
    probes = [tick / 20 for tick in range(20, 120) if outgoing.on_tick(tick / 20)]
    assert outgoing.state == RUNNING
    late = [clock for clock in probes if clock >= 2.0]
    assert len(late) == pytest.approx(4.0 / _outgoing._SUSPECT_PROBES, abs=2)  # so that its answer comes soon
    assert ack(outgoing, 1, 6.0) == []
    assert alive(outgoing, 6.1) == []
    assert outgoing.state == RUNNING


def test_what_did_not_arrive_could_not_be_read() -> None:
    outgoing = full(10.0)
    nak(outgoing, 1, 10.0)
    outgoing.take(100, 10.0)
    alive(outgoing, 19.9)
    assert outgoing.state == RUNNING
    alive(outgoing, 20.0)
    assert outgoing.reason == "stalled"


def test_a_stalled_stream_keeps_its_promise_to_speak() -> None:
    outgoing = Outgoing(
        native=True, window=1, max_bytes=100, probe_interval=INTERVAL, speak_interval=0.1, stall_timeout=0.5
    )
    outgoing.push(b"x", 0.0)
    outgoing.take(100, 0.0)
    assert not admits(outgoing, 1, 0.0)
    assert [tick for tick in range(1, 21) if outgoing.on_tick(tick / 8)] == list(range(1, 21))


def test_reading_on_ends_the_stall() -> None:
    outgoing = full(10.0)
    ack(outgoing, 1, 9.0)
    alive(outgoing, 12.0)
    assert outgoing.state == RUNNING  # nothing waits for the window any more
    assert admits(outgoing, 1, 12.0)
    outgoing.push(b"x", 0.0)
    outgoing.take(100, 12.0)
    assert not admits(outgoing, 1, 20.0)
    assert not admits(outgoing, 1, 29.0)
    alive(outgoing, 29.9)
    assert outgoing.state == RUNNING
    alive(outgoing, 30.0)
    assert outgoing.reason == "stalled"


def test_a_full_window_that_nobody_waits_for_is_no_stall() -> None:
    outgoing = stream(window=2, stall_timeout=1.0)
    outgoing.push(b"x", 0.0)
    outgoing.push(b"x", 0.0)
    outgoing.take(100, 0.0)
    for clock in range(1, 60):
        alive(outgoing, float(clock))
    assert outgoing.state == RUNNING


def test_without_a_limit_nothing_stalls() -> None:
    outgoing = full(None)
    for clock in range(1, 1000):
        alive(outgoing, float(clock))
    assert outgoing.state == RUNNING


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_waited_for_where_that_was_agreed() -> None:
    outgoing = sent(3, resume=10.0)
    outgoing.push(b"later", 0.0)
    assert outgoing.on_disconnect(1.0) == []
    assert outgoing.state == RUNNING
    assert not outgoing.has_work  # nothing is written meanwhile
    assert outgoing.take(100, 1.0) == []
    assert outgoing.on_disconnect(5.0) == []  # once more: the time counts from the first
    assert outgoing.on_tick(10.9) == []
    assert outgoing.on_reconnect(10.9) == [Emit("p", 3)]
    assert outgoing.take(100, 11.0) == [Emit("d", 4, b"later")]


def test_a_connection_that_does_not_come_back_in_time_ends_the_stream() -> None:
    outgoing = sent(3, resume=10.0)
    outgoing.on_disconnect(1.0)
    outgoing.on_disconnect(5.0)
    assert outgoing.on_tick(11.0) == [Emit("e", 3, failure=_wire.library_failure("disconnected"))]
    assert outgoing.reason == "disconnected"
    assert outgoing.on_reconnect(12.0) == []


def test_an_ending_stream_says_its_end_when_the_connection_is_back() -> None:
    outgoing = sent(3, resume=10.0)
    outgoing.end()
    outgoing.take(100, 0.0)
    outgoing.on_disconnect(1.0)
    assert outgoing.on_reconnect(2.0) == [Emit("e", 3)]


def test_silence_while_disconnected_is_nobodys_fault() -> None:
    outgoing = sent(3, resume=100.0)
    outgoing.on_disconnect(1.0)
    for clock in range(1, 50):
        assert outgoing.on_tick(float(clock)) == []
    outgoing.on_reconnect(50.0)
    assert outgoing.on_tick(50.0 + INTERVAL) == [Emit("p", 3)]
    assert outgoing.state == RUNNING


def test_a_plain_requester_cannot_resume() -> None:
    outgoing = sent(3, native=False, resume=10.0)
    assert outgoing.on_disconnect(1.0) == [DISCONNECTED]
    assert outgoing.reason == "disconnected"


def test_a_503_is_doubted_for_as_long_as_the_requester_may_come_back() -> None:
    outgoing = sent(3, resume=10.0)
    assert outgoing.on_no_responders(0, 0.0, 100.0) is True
    assert outgoing.on_confirm(0.01) == [Emit("p", 3)]
    probes = 0
    for tenth in range(1, 15):
        probes += len(outgoing.on_tick(tenth / 10))
        outgoing.on_no_responders(0, tenth / 10, 100.0 + tenth / 10)
    assert 3 <= probes <= 6  # asked more often than once in a probe interval
    assert outgoing.state == RUNNING
    outgoing.on_no_responders(0, 1.5, 200.0)  # the process was suspended meanwhile
    assert outgoing.state == RUNNING
    outgoing.on_no_responders(0, 9.9, 209.9)
    assert outgoing.state == RUNNING
    outgoing.on_no_responders(0, 10.0, 210.0)
    assert outgoing.reason == "no_interest"


def test_an_unreachable_requester_is_waited_for_as_long_as_it_may_come_back() -> None:
    outgoing = sent(3, resume=30.0)
    for clock in range(1, 32):
        outgoing.on_tick(float(clock))
        assert outgoing.state == RUNNING  # also while what was said after 30 s may yet be answered
    for clock in range(32, 34):
        outgoing.on_tick(float(clock))
    assert outgoing.reason == "unreachable"


def test_a_sender_that_begins_to_wait_probes_more_often_for_a_second() -> None:
    """All that was sent had arrived before the requester was killed: only something new can bring the 503 about."""
    outgoing = Outgoing(native=True, window=1, max_bytes=100, probe_interval=2.0, clock=0.0)
    outgoing.push(b"x", 0.0)
    outgoing.take(1000, 0.0)
    assert not admits(outgoing, 1, 0.0)
    probes = [tick / 20 for tick in range(1, 40) if outgoing.on_tick(tick / 20)]
    assert probes
    assert probes[0] <= 0.15
    assert 5 <= len(probes) <= 11
    assert probes[-1] < 1.1
    assert outgoing.state == RUNNING
