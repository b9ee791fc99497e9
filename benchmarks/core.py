"""The core beside bare nats-py, in ratios measured in one run: ``python -m benchmarks.core [ROW…]``.

Both sides are processes of their own with the same kind of event loop. They take turns, round by round, so that whatever
else the machine does meets both; each ratio is the median over the rounds, with the lowest and highest beside it.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import Callable, Dict, List

from ._peer import Peer
from ._table import Line, Settings, main
from ._table import duration as _time
from ._table import line as _line
from ._table import median as _median
from ._table import peer as _peer
from ._table import rate as _rate
from ._table import ratios as _ratios
from ._table import seconds as _seconds
from ._table import take_turns as _rounds

_SIZE = 128  # bytes of a message or chunk
_LARGE = 64 * 1024
_STREAMS = 100
_IDS = 1_000_000


# -- the rows ---------------------------------------------------------------------------------------------------------


def publish(settings: Settings) -> List[Line]:
    """Publish from one thread, then flush."""
    count, few = settings.count(30_000), settings.count(1_500)
    with ExitStack() as stack:
        ours, plain, threaded = (
            stack.enter_context(_peer(settings, module, role))
            for module, role in (("_bridge", "requester"), ("_natspy", "plain"), ("_natspy", "threaded"))
        )

        def rate(peer: Peer, number: int) -> Callable[[], float]:
            return lambda: number / _seconds(peer.ask("publish", subject="bench.void", size=_SIZE, count=number))

        rates = _rounds(settings, [rate(ours, count), rate(plain, count), rate(threaded, few)])
    what = f"publish {_SIZE} bytes, then flush: rate beside"
    mine, bare, each = map(_rate, rates)
    return [
        _line("publish", f"{what} a bare `await publish`", mine, bare, _ratios(rates[0], rates[1]), 0.8),
        _line("publish", f"{what} a `run_coroutine_threadsafe` each", mine, each, _ratios(rates[0], rates[2]), 30),
    ]


def request(settings: Settings) -> List[Line]:
    """Requests one after another, answered by one and the same process."""
    count = settings.count(400)
    with ExitStack() as stack:
        echo = stack.enter_context(_peer(settings, "_natspy", "plain"))
        echo.ask("echo", subject="bench.echo")
        ours = stack.enter_context(_peer(settings, "_bridge", "requester"))
        plain = stack.enter_context(_peer(settings, "_natspy", "plain"))

        def median(peer: Peer) -> Callable[[], float]:
            return lambda: _median(peer.ask("request", subject="bench.echo", size=_SIZE, count=count))

        times = _rounds(settings, [median(ours), median(plain)])
    ratios = _ratios(times[0], times[1])
    what = "request and reply: median time beside a bare `await request`"
    return [_line("request", what, _time(times[0]), _time(times[1]), ratios, 1.5, most=True)]


def kill(settings: Settings) -> List[Line]:
    """SIGKILL of the process that reads, until the handler that sends to it has ended."""
    delays: List[float] = []
    reasons = set()
    with _peer(settings, "_bridge", "worker") as worker, ExitStack() as stack:
        readers = [stack.enter_context(_peer(settings, "_bridge", "requester")) for _ in range(settings.rounds)]
        for reader in readers:
            reader.ask("read_on", subject="bench.tick")
            time.sleep(0.05)
            killed = time.monotonic()
            reader.kill()
            end = worker.ask("next_end")
            delays.append(float(end["at"]) - killed)
            reasons.add(str(end["reason"]))
    median = statistics.median(delays)
    what = f"SIGKILL of the reader until the sending handler has ended ({', '.join(sorted(reasons))})"
    spread = f"{_time([min(delays)])} … {_time([max(delays)])}"
    return [Line("kill", what, _time(delays), "–", _time(delays), spread, "< 50 ms", median < 0.050)]


def registry(settings: Settings) -> List[Line]:
    """A million clients that are online."""
    sizes = [1_000, 10_000, 100_000, _IDS]
    with Peer("_ids", "registry") as ours, Peer("_ids", "dict") as plain:
        taken = [int(peer.ask("fill", count=_IDS, probes=20_000)["bytes"]) for peer in (ours, plain)]
        for peer in (ours, plain):
            for size in sizes[:-1]:
                peer.ask("fill", count=size, probes=20_000)

        def look(peer: Peer, size: int) -> Callable[[], float]:
            return lambda: _seconds(peer.ask("look_up", count=size))

        times = _rounds(settings, [look(peer, size) for size in sizes for peer in (ours, plain)])
    limit = 300_000_000
    lines = [
        Line(
            "registry",
            f"memory for {_IDS:,} ids, the ids included, beside a bare dict",
            f"{taken[0] / 1e6:.0f} MB",
            f"{taken[1] / 1e6:.0f} MB",
            f"{taken[0] / taken[1]:.2f} x",
            "one fill",
            f"< {limit / 1e6:.0f} MB",
            taken[0] < limit,
        )
    ]
    what = "look-up among {:,} ids beside a bare dict"
    ratios = [_ratios(mine, bare) for mine, bare in zip(times[::2], times[1::2])]
    shown = [_time(figures) for figures in times]
    for number, size in enumerate(sizes[:-1]):
        lines.append(_line("registry", what.format(size), shown[2 * number], shown[2 * number + 1], ratios[number]))
    # What a dict itself loses to the processor's caches is not the registry's doing: beside it the ratio must not grow.
    most = 1.2 * statistics.median(ratios[0])
    lines.append(_line("registry", what.format(_IDS), shown[-2], shown[-1], ratios[-1], most, most=True))
    return lines


def threads(settings: Settings) -> List[Line]:
    """Threads of both processes while streams are open."""
    with _peer(settings, "_bridge", "worker") as worker, _peer(settings, "_bridge", "requester") as reader:
        reader.ask("open_streams", subject="bench.hold", count=1)
        first_reader, first_worker = int(reader.ask("threads")["threads"]), int(worker.ask("threads")["threads"])
        reader.ask("open_streams", subject="bench.hold", count=_STREAMS - 1)
        all_reader, all_worker = int(reader.ask("threads")["threads"]), int(worker.ask("threads")["threads"])
        readers = 10
        reading = int(reader.ask("read_streams", readers=readers)["threads"])
    more = _STREAMS - 1

    def line(what: str, before: int, after: int, most: int) -> Line:
        grown = after - before
        return Line("threads", what, str(after), "–", f"{grown:+d}", "exact", f"≤ +{most}", grown <= most)

    return [
        line(f"reader's threads: {_STREAMS} streams that one thread reads, beside 1 stream", first_reader, all_reader, 0),
        line(f"reader's threads: {readers} more threads that read", all_reader, reading, readers),
        line(f"worker's threads: {_STREAMS} streams, beside 1 stream: its handlers", first_worker, all_worker, more),
    ]


def check(settings: Settings) -> List[Line]:
    """What it costs a handler to know that its client is there."""
    looks, bursts = settings.count(100_000), settings.count(20)
    with _peer(settings, "_bridge", "worker") as worker, _peer(settings, "_bridge", "requester") as reader:

        def measure() -> Dict[str, float]:
            arguments = f"{looks} {bursts} 500 {_SIZE}"
            reader.ask("request_check", arguments=arguments)
            return worker.ask("next_check")

        measure()
        results = [measure() for _ in range(settings.rounds)]
    looked, called, sent = ([result[key] for result in results] for key in ("look", "call", "send"))
    median = statistics.median(looked)
    return [
        Line(
            "check",
            "`sender.is_online()`, beside an empty call",
            _time(looked),
            _time(called),
            _time(looked),
            f"{_time([min(looked)])} … {_time([max(looked)])}",
            "< 1 µs",
            median < 1e-6,
        ),
        Line(
            "check",
            f"`sender.send()` of {_SIZE} bytes that waits for nothing: the sending thread's own time",
            _time(sent),
            _time(called),
            _time(sent),
            f"{_time([min(sent)])} … {_time([max(sent)])}",
        ),
    ]


def stream(settings: Settings) -> List[Line]:
    """Chunks and bytes per second, from a synchronous handler to a synchronous reader."""
    with ExitStack() as stack:
        stack.enter_context(_peer(settings, "_bridge", "worker"))
        reader = stack.enter_context(_peer(settings, "_bridge", "requester"))
        sender = stack.enter_context(_peer(settings, "_natspy", "plain"))
        listener = stack.enter_context(_peer(settings, "_natspy", "plain"))
        listener.ask("listen", subject="bench.flow")

        def ours(size: int, count: int) -> float:
            return count / _seconds(reader.ask("read", subject="bench.many", size=size, count=count))

        def plain(size: int, count: int) -> float:
            listener.ask("expect", count=count)
            listener.tell("received")
            sender.ask("publish", subject="bench.flow", size=size, count=count)
            return count / _seconds(listener.answer())

        def measure(size: int, count: int) -> List[List[float]]:
            return _rounds(settings, [lambda: ours(size, count), lambda: plain(size, count)])

        small, large = measure(_SIZE, settings.count(100_000)), measure(_LARGE, settings.count(2_000))
    what = "chunks of {}, handler to reader: rate beside bare publisher to bare callback"
    return [
        _line("stream", what.format(size), _rate(rates[0]), _rate(rates[1]), _ratios(rates[0], rates[1]), target)
        for size, rates, target in ((f"{_SIZE} bytes", small, 3), (f"{_LARGE // 1024} KiB", large, 0.8))
    ]


def first(settings: Settings) -> List[Line]:
    """The first chunk of a fresh stream."""
    count = settings.count(150)
    with ExitStack() as stack:
        stack.enter_context(_peer(settings, "_bridge", "worker"))
        reader = stack.enter_context(_peer(settings, "_bridge", "requester"))
        echo = stack.enter_context(_peer(settings, "_natspy", "plain"))
        echo.ask("echo", subject="bench.echo")
        plain = stack.enter_context(_peer(settings, "_natspy", "plain"))
        hand_worker = stack.enter_context(_peer(settings, "_natspy", "threaded"))
        hand_worker.ask("answer", subject="bench.hand")
        hand_reader = stack.enter_context(_peer(settings, "_natspy", "threaded"))

        def median(peer: Peer, command: str, subject: str) -> Callable[[], float]:
            return lambda: _median(peer.ask(command, subject=subject, size=_SIZE, count=count))

        times = _rounds(
            settings,
            [
                median(reader, "first_chunks", "bench.one"),
                median(hand_reader, "first_chunks", "bench.hand"),
                median(plain, "request", "bench.echo"),
            ],
        )
    what = "first chunk of a new stream: median time beside"
    mine, hand, bare = map(_time, times)
    by_hand = f"{what} threads and `run_coroutine_threadsafe` by hand"
    return [
        _line("first", by_hand, mine, hand, _ratios(times[0], times[1]), 1.1, most=True),
        _line("first", f"{what} a bare `await request`", mine, bare, _ratios(times[0], times[2]), 2.2, most=True),
    ]


def slow(settings: Settings) -> List[Line]:
    """How old the chunks of a slow stream are when they are read."""
    count, pause = settings.count(500), 0.001
    with ExitStack() as stack:
        stack.enter_context(_peer(settings, "_bridge", "worker"))
        reader = stack.enter_context(_peer(settings, "_bridge", "requester"))
        sender = stack.enter_context(_peer(settings, "_natspy", "plain"))
        listener = stack.enter_context(_peer(settings, "_natspy", "plain"))

        def plain() -> float:
            listener.ask("clock", subject="bench.slow", count=count)
            sender.ask("tick", subject="bench.slow", count=count, pause=pause)
            return _median(listener.ask("ages"))

        def ours() -> float:
            return _median(reader.ask("ages", subject="bench.clock", count=count, pause=pause))

        times = _rounds(settings, [ours, plain])
    what = "a chunk every ms: median age when it is read, beside a bare callback's"
    return [_line("slow", what, _time(times[0]), _time(times[1]), _ratios(times[0], times[1]), 1.5, most=True)]


ROWS: Dict[str, Callable[[Settings], List[Line]]] = {
    row.__name__: row for row in (publish, request, kill, registry, threads, check, stream, first, slow)
}


if __name__ == "__main__":
    main("benchmarks.core", __doc__, ROWS)
