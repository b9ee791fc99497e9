"""How much may be on its way to a reader, at any speed and over any distance."""

from __future__ import annotations

import pytest

from natsbridge import _pace
from natsbridge._pace import SHARE, Pace

MOST = 16 * SHARE
CHUNK = 64 * 1024


def settle(rate: float, trip: float, seconds: float = 3.0) -> Pace:
    """A reader for whom ``rate`` bytes a second come through, from a responder whose answers take ``trip`` seconds."""
    pace = Pace(MOST)
    pace.asked(100.0)
    now = 100.0 + trip
    pace.answered(now)
    end = now + seconds
    while now < end:
        # The window moves on once in a round trip; what is more than that needs waits somewhere on the way.
        now += CHUNK / min(rate, pace.bytes / trip)
        pace.read(CHUNK, now)
    return pace


@pytest.mark.parametrize("rate", [1e5, 1e6, 1e7, 1e8, 2e8, 5e8])
@pytest.mark.parametrize("trip", [0.0002, 0.002, 0.02, 0.1, 0.25])
def test_what_is_on_its_way_keeps_the_responder_going_and_is_soon_there(rate: float, trip: float) -> None:
    window = settle(rate, trip).bytes
    assert SHARE <= window <= MOST
    assert window >= min(rate * trip, MOST) * 0.95, "the responder waits for the window"
    assert window / rate <= max(0.020 + 2 * trip + 0.001, SHARE / rate), "what comes by the same connection waits for this"


def test_it_begins_small_and_doubles() -> None:
    pace = Pace(MOST)
    pace.asked(0.0)
    pace.answered(0.0)
    sizes = []
    now = 0.0
    while pace.bytes < MOST:
        sizes.append(pace.bytes)
        before = pace.bytes
        while pace.bytes == before:
            now += 1e-5
            pace.read(CHUNK, now)
    assert sizes == [SHARE, 2 * SHARE, 4 * SHARE, 8 * SHARE]


def test_it_follows_a_reader_that_becomes_slower() -> None:
    pace = settle(5e8, 0.001)
    assert pace.bytes > 8 * SHARE
    now = pace._since
    for _ in range(20):
        now += 0.010
        pace.read(CHUNK, now)
    assert pace.bytes == SHARE


@pytest.mark.parametrize(("trip", "longer"), [(0.0, 0.0), (0.1, 0.2), (0.25, 0.5), (0.26, 0.0), (30.0, 0.0)])
def test_a_responder_that_takes_long_to_answer_is_not_far_away(trip: float, longer: float) -> None:
    pace = Pace(MOST)
    pace.asked(0.0)
    pace.answered(trip)
    assert pace._while == _pace._WHILE + longer


@pytest.mark.parametrize("most", [1, 1000, SHARE, SHARE + 1])
def test_it_never_allows_more_than_the_most(most: int) -> None:
    pace = Pace(most)
    pace.asked(0.0)
    pace.answered(0.0)
    assert pace.bytes == min(most, SHARE)
    for n in range(1000):
        pace.read(CHUNK, n * 1e-5)
        assert pace.bytes <= most


def test_no_time_at_all_may_have_passed() -> None:
    pace = Pace(MOST)
    pace.asked(1.0)
    pace.answered(1.0)
    pace.read(10 * MOST, 1.0)
    assert pace.bytes == 2 * SHARE
