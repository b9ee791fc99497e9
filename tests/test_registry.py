"""Who is online: marks, leases, what is remembered, and threads."""

from __future__ import annotations

import random
import threading
from typing import Dict, List, Optional, Tuple

import pytest
from procs import LONG

import natsbridge
from natsbridge import OnlineRegistry, online_clients, registry


class End:
    """An end of a stream: counts how often it is told."""

    def __init__(self, connect_id: Optional[str], lease: Optional[str] = None) -> None:
        self.connect_id, self.lease = connect_id, lease
        self.told = 0

    def go_offline(self) -> None:
        self.told += 1


class Clock:
    """Stands in for the module's ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(registry, "time", clock)
    return clock


def nothing_left(online: OnlineRegistry) -> bool:
    return not (online._online or online._leases or online._watched)


# -- marks ------------------------------------------------------------------------------------------------------------


def test_an_id_never_heard_of_is_neither_online_nor_offline() -> None:
    online = OnlineRegistry()
    assert not online.is_online("a")
    assert not online.is_offline("a")
    assert not online.is_offline("a", "lease")
    assert not online.is_offline(None)
    assert "a" not in online
    assert len(online) == 0


def test_marks_are_absolute() -> None:
    online = OnlineRegistry()
    online.mark_online("a")
    online.mark_online("a")
    assert online.is_online("a")
    assert "a" in online
    assert online.online() == ["a"]
    online.mark_offline("a")  # once is enough
    assert not online.is_online("a")
    assert online.is_offline("a")
    assert online.is_offline("a", "any lease")
    online.mark_online("a")
    assert online.is_online("a")
    assert not online.is_offline("a")


def test_marking_many_at_once() -> None:
    online = OnlineRegistry()
    online.mark_offline("b")
    online.update(name for name in "cab")
    assert online.online() == ["c", "a", "b"]
    assert not online.is_offline("b")
    with pytest.raises(ValueError, match="connect_id"):
        online.update(["d", ""])
    assert "d" not in online  # all or nothing


def test_forgetting_a_mark_does_not_make_the_client_online() -> None:
    online = OnlineRegistry()
    online.mark_offline("a")
    online.forget_offline("a")
    assert not online.is_offline("a")
    assert not online.is_online("a")
    online.forget_offline("never heard of")


@pytest.mark.parametrize("bad", ["", " a", "a ", "a\nb", "a\tb", "\x7f", "\ud800"])
def test_ids_that_a_header_cannot_carry_are_refused(bad: str) -> None:
    online = OnlineRegistry()
    for call in (online.mark_online, online.mark_offline, online.open_lease):
        with pytest.raises(ValueError, match="connect_id"):
            call(bad)
    assert nothing_left(online)


@pytest.mark.parametrize("bad", [None, 7, b"a", ["a"]])
def test_ids_of_another_type_are_refused(bad: str) -> None:
    online = OnlineRegistry()
    for call in (online.mark_online, online.mark_offline, online.open_lease):
        with pytest.raises(TypeError, match="connect_id must be a str"):
            call(bad)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="offline_seconds"):
        OnlineRegistry(offline_seconds=0)
    with pytest.raises(ValueError, match="offline_seconds"):
        OnlineRegistry(offline_seconds=float("inf"))
    with pytest.raises(ValueError, match="max_offline"):
        OnlineRegistry(max_offline=0)
    with pytest.raises(TypeError, match="max_offline"):
        OnlineRegistry(max_offline=1.5)  # type: ignore[arg-type]


def test_repr_counts() -> None:
    online = OnlineRegistry()
    online.mark_online("a")
    online.watch(End("b"))
    assert repr(online) == "<OnlineRegistry 1 online, 1 with streams>"


def test_the_process_wide_registry_serves_the_module_functions(unique: str) -> None:
    assert isinstance(online_clients, OnlineRegistry)
    assert not natsbridge.is_client_online(unique)
    natsbridge.mark_client_online(unique)
    try:
        assert natsbridge.is_client_online(unique)
        assert online_clients.is_online(unique)
    finally:
        natsbridge.mark_client_offline(unique)
    assert not natsbridge.is_client_online(unique)
    assert online_clients.is_offline(unique)
    online_clients.forget_offline(unique)


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_mark_tells_every_stream_of_the_id_and_no_other() -> None:
    online = OnlineRegistry()
    mine = [End("a"), End("a", "lease 1"), End("a", "lease 2")]
    others = [End("b"), End(None)]
    for end in (*mine, *others):
        online.watch(end)
    online.mark_offline("a")
    assert [end.told for end in mine] == [1, 1, 1]
    assert [end.told for end in others] == [0, 0]


def test_the_end_of_a_lease_tells_its_own_streams_only() -> None:
    online = OnlineRegistry()
    mine, other, unleased, namesake = End("a", "1"), End("a", "2"), End("a"), End("b", "1")
    for end in (mine, other, unleased, namesake):
        online.watch(end)
    online.end_lease("a", "1")
    assert (mine.told, other.told, unleased.told, namesake.told) == (1, 0, 0, 0)
    assert online.is_offline("a", "1")
    assert not online.is_offline("a", "2")
    assert not online.is_offline("a")
    assert not online.is_offline("b", "1")


def test_the_end_of_a_lease_elsewhere_leaves_the_client_online() -> None:
    online = OnlineRegistry()
    online.mark_online("a")
    online.end_lease("a", "of another process")
    assert online.is_online("a")


def test_who_watches_no_longer_is_not_told_and_nothing_is_left() -> None:
    online = OnlineRegistry()
    ends = [End("a"), End("a"), End("b"), End(None)]
    for end in ends:
        online.watch(end)
        online.watch(end)  # twice is once
    for end in ends:
        online.unwatch(end)
        online.unwatch(end)
    online.mark_offline("a")
    assert [end.told for end in ends] == [0, 0, 0, 0]
    assert nothing_left(online)
    online.unwatch(End("never watched"))


def test_a_stream_may_stop_watching_while_it_is_told() -> None:
    online = OnlineRegistry()

    class Leaving(End):
        def go_offline(self) -> None:
            super().go_offline()
            online.unwatch(self)

    ends = [Leaving("a") for _ in range(10)]
    for end in ends:
        online.watch(end)
    online.mark_offline("a")
    assert [end.told for end in ends] == [1] * 10
    assert nothing_left(online)


def test_streams_are_told_outside_the_lock() -> None:
    """A stream that is told takes its own lock; another thread may hold that and ask the registry at the same time."""
    online = OnlineRegistry()
    answered: List[bool] = []

    class Asking(End):
        def go_offline(self) -> None:
            thread = threading.Thread(target=lambda: answered.append(online.is_offline("a")))
            thread.start()
            thread.join(LONG)

    online.watch(Asking("a"))
    online.mark_offline("a")
    assert answered == [True]


# -- leases -----------------------------------------------------------------------------------------------------------


def test_leases_are_counted() -> None:
    online = OnlineRegistry()
    token = online.open_lease("a")
    assert online.open_lease("a") == token
    assert online.lease_of("a") == token
    assert online.is_online("a")
    assert online.close_lease("a") is None
    assert online.is_online("a")
    assert not online.is_offline("a", token)
    assert online.close_lease("a") == token
    assert not online.is_online("a")
    assert online.lease_of("a") is None
    assert online.is_offline("a", token)
    assert nothing_left(online)


def test_a_new_lease_has_a_new_token_and_is_not_offline() -> None:
    online = OnlineRegistry()
    first = online.open_lease("a")
    online.close_lease("a")
    second = online.open_lease("a")
    assert second != first
    assert online.is_offline("a", first)
    assert not online.is_offline("a", second)
    assert not online.is_offline("a")


def test_the_end_of_a_lease_does_not_refuse_the_id() -> None:
    online = OnlineRegistry()
    online.open_lease("a")
    online.close_lease("a")
    assert not online.is_offline("a")
    assert not online.is_online("a")


def test_a_mark_stops_the_streams_of_a_lease_that_is_held() -> None:
    online = OnlineRegistry()
    token = online.open_lease("a")
    end = End("a", token)
    online.watch(end)
    online.mark_offline("a")
    assert end.told == 1
    assert online.is_offline("a", token)
    assert not online.is_online("a")
    assert online.close_lease("a") == token  # the holder leaves in the regular way


def test_a_new_lease_undoes_an_offline_mark() -> None:
    online = OnlineRegistry()
    online.mark_offline("a")
    token = online.open_lease("a")
    assert online.is_online("a")
    assert not online.is_offline("a", token)


def test_closing_a_lease_that_nobody_holds_does_nothing() -> None:
    online = OnlineRegistry()
    online.mark_online("a")
    assert online.close_lease("a") is None
    assert online.close_lease("b") is None
    assert online.is_online("a"), "a mark does not count holders, so closing what was never opened must not undo it"


def test_nobody_has_no_lease() -> None:
    assert OnlineRegistry().lease_of(None) is None


# -- remembering ------------------------------------------------------------------------------------------------------


def test_a_mark_is_remembered_for_offline_seconds(clock: Clock) -> None:
    online = OnlineRegistry(offline_seconds=60.0)
    online.mark_offline("a")
    online.end_lease("b", "1")
    clock.now += 59.9
    assert online.is_offline("a")
    assert online.is_offline("b", "1")
    clock.now += 0.2
    assert not online.is_offline("a")
    assert not online.is_offline("b", "1")


def test_marking_again_renews_the_time(clock: Clock) -> None:
    online = OnlineRegistry(offline_seconds=60.0)
    online.mark_offline("a")
    clock.now += 50
    online.mark_offline("a")
    clock.now += 50
    assert online.is_offline("a")
    assert len(online._offline) == 1


def test_old_marks_are_dropped_when_new_ones_come(clock: Clock) -> None:
    online = OnlineRegistry(offline_seconds=60.0)
    for n in range(100):
        online.mark_offline(f"old {n}")
    clock.now += 61
    online.mark_offline("new")
    assert list(online._offline) == [("new", None)]


def test_no_more_than_max_offline_marks_are_kept(clock: Clock) -> None:
    online = OnlineRegistry(max_offline=3)
    for name in "abcd":
        online.mark_offline(name)
    assert [name for name in "abcd" if online.is_offline(name)] == ["b", "c", "d"]
    online.mark_offline("b")  # the newest now
    online.mark_offline("e")
    assert [name for name in "abcde" if online.is_offline(name)] == ["b", "d", "e"]
    online.end_lease("f", "1")  # leases count too
    assert [name for name in "abcde" if online.is_offline(name)] == ["b", "e"]
    assert len(online._offline) == 3


def test_a_million_short_lived_clients_leave_no_trace(clock: Clock) -> None:
    online = OnlineRegistry(offline_seconds=1.0, max_offline=50)
    for n in range(10_000):
        online.open_lease(f"client {n}")
        online.close_lease(f"client {n}")
        clock.now += 0.1
    assert len(online._offline) <= 50
    assert nothing_left(online)


# -- origin -----------------------------------------------------------------------------------------------------------


def test_every_registry_has_an_origin_of_its_own() -> None:
    one, other = OnlineRegistry(), OnlineRegistry()
    assert one.origin == one.origin
    assert one.origin != other.origin


# -- threads ----------------------------------------------------------------------------------------------------------


def test_many_threads_at_once() -> None:
    """Holders of few ids in many threads: at the end nobody is online, nothing is left, and every stream was told once."""
    online = OnlineRegistry()
    names = ["a", "b", "c"]
    failures: List[BaseException] = []
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            start.wait(LONG)
            for _ in range(400):
                name = chance.choice(names)
                token = online.open_lease(name)
                assert not online.is_offline(name, token)
                end = End(name, token)
                online.watch(end)
                if chance.random() < 0.5:
                    assert online.lease_of(name) is not None
                online.online()
                ended = online.close_lease(name)
                if ended is not None:
                    assert ended == token
                    assert end.told == 1
                online.unwatch(end)
                assert end.told <= 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    assert nothing_left(online)
    assert online.online() == []


def test_a_stream_that_starts_while_its_client_is_marked_is_never_missed() -> None:
    """Watch first, then ask: whatever the order of threads, one of the two sees the mark."""
    for _ in range(300):
        online = OnlineRegistry()
        end = End("a")
        seen: List[bool] = []
        both = threading.Barrier(2)

        def start(
            online: OnlineRegistry = online, end: End = end, both: threading.Barrier = both, seen: List[bool] = seen
        ) -> None:
            both.wait(LONG)
            online.watch(end)
            seen.append(online.is_offline("a"))

        thread = threading.Thread(target=start)
        thread.start()
        both.wait(LONG)
        online.mark_offline("a")
        thread.join(LONG)
        assert seen[-1] or end.told == 1


def test_marks_of_many_threads_leave_a_state_that_one_of_them_wanted() -> None:
    online = OnlineRegistry(max_offline=5)
    results: Dict[int, Tuple[bool, bool]] = {}

    def work(number: int) -> None:
        name = f"client {number % 4}"
        for _ in range(500):
            online.mark_online(name)
            online.mark_offline(name)
        results[number] = (online.is_online(name), online.is_offline(name))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(results) == 8
    for number in range(4):
        name = f"client {number}"
        assert not online.is_online(name)
        assert online.is_offline(name)
    assert nothing_left(online)
