"""A reader that pauses holds its worker back, and costs nobody else time or memory; then it reads on without a gap."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import pytest
from procs import StartProgram, posix_only, wait_until

from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from natsbridge.testing import ServerFactory

pytestmark = [pytest.mark.process, posix_only]

MIB = 1024 * 1024
SIZE, COUNT = 64 * 1024, 400  # 25 MiB
ROOM = 20 * MIB  # for whatever else a process needs meanwhile


class Config(NamedTuple):
    """Of a server, and the window that goes with it."""

    text: str
    window: int


# What the three streams at a time may have on the way stays below three quarters of what may wait in the server.
CONFIGS = {
    "as it is": Config("", 4 * MIB),
    "that drops": Config(f"max_pending: {MIB}\nno_fast_producer_stall: true", 3 * SIZE),
}


class Memory(NamedTuple):
    """What a process had in memory, and the most that it may come to have."""

    process: psutil.Process
    limit: int

    @classmethod
    def of(cls, pid: int, window: int) -> Memory:
        process = psutil.Process(pid)
        return cls(process, process.memory_info().rss + window + ROOM)

    def check(self) -> None:
        assert self.process.memory_info().rss < self.limit


class Play:
    """A worker and a requester, each a process, on a server of that configuration; everything has been used once."""

    def __init__(self, server: EmbeddedServer, window: int, start_program: StartProgram, subject: str) -> None:
        self.subject, self.window = subject, window
        self.worker = start_program("worker", url=server.url, subject=subject, size=SIZE, count=COUNT)
        self.gateway = start_program("gateway", url=server.url, pool={"window_bytes": window})
        for child in (self.worker, self.gateway):
            child.hear("ready")
        self.stream("warm", "some")
        assert self.gateway.hear("over", key="warm")["count"] == COUNT
        self.memories = [Memory.of(pid, window) for pid in (self.worker.pid, self.gateway.pid, server.pid)]

    def stream(self, key: str, manner: str, **options: Any) -> None:
        self.gateway.ask("stream", subject=f"{self.subject}.{manner}", key=key, **options)

    def sent(self, key: str) -> int:
        sent: int = self.worker.ask("look")["runs"][key]["sent"]
        return sent

    def read(self, key: str) -> int:
        count: int = self.gateway.ask("look")["counts"].get(key, 0)
        return count


def pause(play: Play, seconds: float) -> None:
    """A reader stands still after its first chunk, for so long; what others do is watched meanwhile."""
    play.stream("beside", "slow")
    play.gateway.hear("first", key="beside")
    play.stream("pauses", "some", pause=1, options={"window_bytes": play.window})
    play.gateway.hear("paused", key="pauses")
    most = play.window // SIZE + 1  # the window, and the chunk that was read
    wait_until(lambda: play.sent("pauses") >= most - 1, what="a full window")
    began, before = time.monotonic(), play.read("beside")
    turn = 0
    while time.monotonic() - began < seconds:
        turn += 1
        play.stream(f"another{turn}", "some")  # on the same two connections
        assert play.gateway.hear("over", key=f"another{turn}")["count"] == COUNT
        assert play.sent("pauses") <= most
        for memory in play.memories:
            memory.check()
    took = time.monotonic() - began
    # The handler waits in send(), alone: that of the last other stream has told its end, and is on its way out.
    wait_until(lambda: play.worker.ask("look")["stats"][f"{play.subject}.some"]["running"] == 1, what="one handler")
    # Its handler sleeps for 50 ms between two chunks. Whatever held its link up would have held these up.
    assert play.read("beside") - before >= 0.5 * took / 0.05 - 1
    play.gateway.ask("release", key="pauses")
    over = play.gateway.hear("over", key="pauses")
    assert (over["reason"], over["count"], over["complete"]) == ("completed", COUNT, True)
    assert play.gateway.find("over", key="beside") is None


@pytest.fixture(params=CONFIGS)
def play(request: pytest.FixtureRequest, make_nats_server: ServerFactory, start_program: StartProgram, unique: str) -> Play:
    config: Config = CONFIGS[request.param]
    # A payload may not be larger than what may wait for a slow client.
    server = make_nats_server(config_text=f"max_payload: {2 * SIZE}\n{config.text}\n")
    return Play(server, config.window, start_program, unique)


def test_a_reader_pauses(play: Play) -> None:
    pause(play, 1.0)


@pytest.mark.stress
def test_a_reader_pauses_for_long(play: Play) -> None:
    pause(play, 10.0)
