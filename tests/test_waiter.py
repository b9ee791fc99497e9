"""The hand-over between threads that a waiter can refuse, and the mailbox."""

from __future__ import annotations

import re
import threading
import time
from typing import Callable, List

import pytest
from procs import LONG, WaitFor

from natsbridge import _waiter
from natsbridge._deadline import FOREVER, LONGEST, Deadline, check_interval, check_life, check_timeout
from natsbridge._mailbox import Mailbox
from natsbridge._waiter import Abandoned, Condition, Waiter


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


# -- Waiter -----------------------------------------------------------------------------------------------------------


def test_a_value_is_handed_over() -> None:
    waiter: Waiter[int] = Waiter()
    assert waiter.set(7)
    assert waiter.wait(Deadline(0.0)) == 7
    assert not waiter.gone


def test_an_exception_is_handed_over() -> None:
    waiter: Waiter[int] = Waiter()
    assert waiter.fail(ZeroDivisionError("seven"))
    with pytest.raises(ZeroDivisionError, match="seven"):
        waiter.wait(Deadline(None))


def test_the_first_hand_over_counts() -> None:
    waiter: Waiter[int] = Waiter()
    assert waiter.set(1)
    assert not waiter.set(2)
    assert not waiter.fail(ValueError())
    assert not waiter.give_up()
    assert waiter.wait(Deadline(None)) == 1
    failed: Waiter[int] = Waiter()
    assert failed.fail(ValueError())
    assert not failed.set(1)


def test_a_waiter_that_gave_up_refuses_what_comes() -> None:
    waiter: Waiter[int] = Waiter()
    with pytest.raises(Abandoned):
        waiter.wait(Deadline(0.01))
    assert waiter.gone
    assert not waiter.set(1)
    assert not waiter.fail(ValueError())


def test_waiting_is_woken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiter, "SLICE", 60.0)
    waiter: Waiter[int] = Waiter()
    got: List[int] = []
    thread = in_thread(lambda: got.append(waiter.wait(Deadline(None))))
    assert waiter.set(3)
    thread.join(LONG)
    assert got == [3]


def test_waits_are_sliced_and_go_on(monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor) -> None:
    monkeypatch.setattr(_waiter, "SLICE", 0.001)
    waiter: Waiter[int] = Waiter()
    got: List[int] = []
    thread = in_thread(lambda: got.append(waiter.wait(Deadline(None))))
    thread.join(0.05)  # many slices
    assert thread.is_alive()
    waiter.set(3)
    wait_for(lambda: got)
    thread.join(LONG)
    assert got == [3]


def test_an_interrupted_wait_refuses_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C raises out of the wait: nobody is there any more, whoever hands over must learn that."""
    waiter: Waiter[int] = Waiter()

    class Interrupted:
        def acquire(self, *_: object) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr(_waiter, "new_event", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        waiter.wait(Deadline(None))
    assert waiter.gone
    assert not waiter.set(1)


@pytest.mark.usefixtures("fast_switching")
def test_a_value_is_either_taken_or_refused_never_lost() -> None:
    """Hand over just when the deadline passes: both sides must agree on who was first."""
    outcomes = set()
    delay = 0.001
    for n in range(400):
        waiter: Waiter[int] = Waiter()
        taken: List[bool] = []

        def take(waiter: Waiter[int] = waiter, taken: List[bool] = taken) -> None:
            try:
                waiter.wait(Deadline(0.001))
                taken.append(True)
            except Abandoned:
                taken.append(False)

        thread = in_thread(take)
        at = time.perf_counter() + delay
        while time.perf_counter() < at:
            pass
        accepted = waiter.set(n)
        thread.join(LONG)
        assert taken == [accepted]
        outcomes.add(accepted)
        delay *= 1.1 if accepted else 0.9  # stay where it is a close race, however busy the machine is
    assert outcomes == {True, False}, "the test has not met both orders"


@pytest.mark.usefixtures("fast_switching")
def test_of_many_hand_overs_one_is_accepted() -> None:
    for _ in range(100):
        waiter: Waiter[int] = Waiter()
        accepted: List[int] = []

        def hand(n: int, waiter: Waiter[int] = waiter, accepted: List[int] = accepted) -> None:
            if waiter.set(n):
                accepted.append(n)

        threads = [in_thread(lambda n=n: hand(n)) for n in range(4)]  # type: ignore[misc]
        value = waiter.wait(Deadline(LONG))
        for thread in threads:
            thread.join(LONG)
        assert accepted == [value]


# -- Condition --------------------------------------------------------------------------------------------------------


def test_a_condition_is_reentrant_and_shares_a_lock() -> None:
    """A signal handler may run inside any critical section of its thread."""
    lock = _waiter.Lock()
    one, other = Condition(lock), Condition(lock)
    with one, other, lock, one:
        one.notify_all()
        other.notify_all()


def test_a_slice_ends_at_the_timeout() -> None:
    condition = Condition()
    with condition:
        began = time.monotonic()
        condition.wait_slice(0.01)
        assert 0.005 < time.monotonic() - began < _waiter.SLICE


# -- Mailbox ----------------------------------------------------------------------------------------------------------


def mailbox_of(max_items: int = 10, max_bytes: int = 1000) -> Mailbox[int]:
    return Mailbox(max_items, max_bytes)


def test_items_come_in_order_each_once() -> None:
    mailbox = mailbox_of()
    for n in range(3):
        assert mailbox.offer(n, 1)
    assert len(mailbox) == 3
    assert [mailbox.take(Deadline(0.0)) for _ in range(3)] == [0, 1, 2]
    assert len(mailbox) == 0
    with pytest.raises(Abandoned):
        mailbox.take(Deadline(0.0))


def test_a_full_mailbox_refuses_until_there_is_room() -> None:
    mailbox = mailbox_of(max_items=2)
    assert mailbox.offer(1, 0)
    assert mailbox.offer(2, 0)
    assert not mailbox.offer(3, 0)
    assert mailbox.take(Deadline(0.0)) == 1
    assert mailbox.offer(3, 0)
    assert [mailbox.take(Deadline(0.0)) for _ in range(2)] == [2, 3]  # what was refused is not in it


def test_bytes_count_too() -> None:
    mailbox = mailbox_of(max_bytes=10)
    assert mailbox.offer(1, 6)
    assert not mailbox.offer(2, 5)
    assert mailbox.offer(3, 4)
    assert not mailbox.offer(4, 1)
    assert mailbox.take(Deadline(0.0)) == 1
    assert mailbox.offer(5, 6)
    assert not mailbox.offer(6, 1)


def test_an_item_that_is_larger_than_the_mailbox_fits_an_empty_one() -> None:
    mailbox = mailbox_of(max_bytes=10)
    assert mailbox.offer(1, 1000)
    assert not mailbox.offer(2, 0)
    assert mailbox.take(Deadline(0.0)) == 1
    assert mailbox.offer(2, 10)


def test_what_is_left_can_be_taken_after_the_end() -> None:
    mailbox = mailbox_of()
    mailbox.offer(1, 1)
    assert not mailbox.closed
    mailbox.close()
    assert mailbox.closed
    assert mailbox.offer(2, 1)  # dropped: nobody needs to be told that there is no room
    assert mailbox.take(Deadline(None)) == 1
    assert mailbox.take(Deadline(None)) is None
    assert mailbox.take(Deadline(None)) is None


def test_an_error_comes_after_what_is_left_and_stays() -> None:
    mailbox = mailbox_of()
    mailbox.offer(1, 1)
    mailbox.close(ValueError("over"))
    mailbox.close(None)  # the first counts
    assert mailbox.take(Deadline(None)) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="over"):
            mailbox.take(Deadline(None))


def test_what_is_left_can_be_dropped() -> None:
    mailbox = mailbox_of()
    mailbox.offer(1, 1)
    mailbox.close(discard=True)
    assert len(mailbox) == 0
    assert mailbox.take(Deadline(None)) is None


def test_dropping_what_is_left_works_after_the_end_too() -> None:
    mailbox = mailbox_of()
    mailbox.offer(1, 1)
    mailbox.close(ValueError("over"))
    mailbox.close(discard=True)
    with pytest.raises(ValueError, match="over"):
        mailbox.take(Deadline(None))


def test_an_offer_wakes_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiter, "SLICE", 60.0)
    mailbox = mailbox_of()
    got: List[object] = []
    thread = in_thread(lambda: got.append(mailbox.take(Deadline(None))))
    mailbox.offer(7, 1)
    thread.join(LONG)
    assert got == [7]


def test_the_end_wakes_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiter, "SLICE", 60.0)
    mailbox = mailbox_of()
    got: List[object] = []
    threads = [in_thread(lambda: got.append(mailbox.take(Deadline(None)))) for _ in range(3)]
    mailbox.close()
    for thread in threads:
        thread.join(LONG)
    assert got == [None, None, None]


# -- Deadline ---------------------------------------------------------------------------------------------------------


def test_a_deadline_without_limit() -> None:
    deadline = Deadline(None)
    assert deadline.remaining() is None
    assert not deadline.passed()
    assert deadline.at_most(5.0) == 5.0


def test_a_deadline_that_has_passed() -> None:
    deadline = Deadline(0.0)
    assert deadline.remaining() == 0.0
    assert deadline.passed()
    assert deadline.at_most(5.0) == 0.0


def test_a_deadline_that_runs() -> None:
    deadline = Deadline(100.0)
    left = deadline.remaining()
    assert left is not None
    assert 99.0 < left <= 100.0
    assert deadline.at_most(5.0) == 5.0
    assert deadline.at_most(500.0) <= 100.0
    assert deadline.timeout == 100.0


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), (float("inf"), None), (0, 0.0), (1, 1.0), (2.5, 2.5), (1e300, FOREVER)]
)
def test_timeouts_become_seconds(value: object, seconds: object) -> None:
    assert check_timeout(value) == seconds


@pytest.mark.parametrize("value", [-1, -0.001, float("nan"), float("-inf")])
def test_numbers_that_are_no_time_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"patience must be zero or more seconds, not {value}"):
        check_timeout(value, "patience")


@pytest.mark.parametrize("value", ["1", b"1", True, [], object()])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="patience must be a number of seconds"):
        check_timeout(value, "patience")


def test_none_is_refused_where_there_has_to_be_a_limit() -> None:
    with pytest.raises(TypeError, match="patience must be a number of seconds, not None"):
        check_timeout(None, "patience", optional=False)
    assert check_timeout(float("inf"), "patience", optional=False) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (0, 0.0), (0.5, 0.5), (2 * FOREVER, 2 * FOREVER), (LONGEST, LONGEST), (float("inf"), LONGEST)],
)
def test_what_a_server_keeps_is_not_cut_short(value: object, seconds: object) -> None:
    assert check_life(value, "life", 0.5) == seconds


@pytest.mark.parametrize("value", [-1, float("nan"), 1e-300, 0.4, 2 * LONGEST, 1e300])
def test_what_a_server_cannot_keep_for_so_long_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"life must be .*not {re.escape(str(value))}"):
        check_life(value, "life", 0.5)


@pytest.mark.parametrize("value", [0, 0.0, float("inf"), -1, float("nan")])
def test_an_interval_is_finite_and_above_zero(value: float) -> None:
    with pytest.raises(ValueError, match="pace"):
        check_interval(value, "pace")
    assert check_interval(0.5, "pace") == 0.5
