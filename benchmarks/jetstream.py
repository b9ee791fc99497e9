"""JetStream beside bare nats-py, in ratios measured in one run: ``python -m benchmarks.jetstream [ROW…]``.

As in ``core``: both sides are processes of their own with the same kind of event loop, and take turns. Streams are kept in
memory, so that no disk has a say.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List, Tuple

from ._peer import Peer
from ._table import Line, Settings, duration, line, main, median, peer, rate, ratios, seconds, take_turns

_SIZE = 128  # bytes of a message that is published
_READ = 1024  # bytes of a message that is read
_WORKERS = 16
_BATCH = 500


@contextmanager
def _sides(settings: Settings, stream: str, most: int) -> Iterator[Tuple[Peer, Peer]]:
    """Both sides, and a stream for them."""
    with peer(settings, "_js_bridge", "streams") as ours, peer(settings, "_js_natspy", "streams") as plain:
        ours.ask("make", stream=stream, most=most)
        yield ours, plain


def publish(settings: Settings) -> List[Line]:
    """Publish from many threads, and from as many tasks; each waits for each acknowledgement.

    Threads of one interpreter run one at a time, on any core: what waking another core costs is part of the first figure,
    and not of the second, for which each side is held to one core, both to the same.
    """
    count = settings.count(4_800)
    with _sides(settings, "publish", 10_000) as (ours, plain):
        sides = [
            lambda: count / seconds(ours.ask("publish", stream="publish", size=_SIZE, count=count, threads=_WORKERS)),
            lambda: count / seconds(plain.ask("publish", stream="publish", size=_SIZE, count=count, tasks=_WORKERS)),
        ]
        measured = [("", take_turns(settings, sides))]
        if sys.platform == "linux":
            for side in (ours, plain):
                side.hold_to(max(os.sched_getaffinity(0)))
            measured.append((", each side on one core", take_turns(settings, sides)))
    what = f"publish {_SIZE} bytes from {_WORKERS} threads, each waiting for its acknowledgement{{}}: rate beside tasks"
    return [
        line("publish", what.format(how), rate(rates[0]), rate(rates[1]), ratios(rates[0], rates[1]), 0.8)
        for how, rates in measured
    ]


def pipeline(settings: Settings) -> List[Line]:
    """Publish from one thread, and wait for the acknowledgements together."""
    count = settings.count(10_000)
    with _sides(settings, "pipeline", 10_000) as (ours, plain):

        def measure(side: Peer, how: str) -> Callable[[], float]:
            return lambda: count / seconds(side.ask(how, stream="pipeline", size=_SIZE, count=count))

        rates = take_turns(
            settings, [measure(ours, "publish_async"), measure(ours, "publish_many"), measure(plain, "publish_async")]
        )
    what = f"of {_SIZE} bytes, acknowledgements awaited together: rate beside nats-py's `publish_async`"
    return [
        line("pipeline", f"`{how}` {what}", rate(mine), rate(rates[2]), ratios(mine, rates[2]), 0.8)
        for how, mine in (("publish_async", rates[0]), ("publish_many", rates[1]))
    ]


def consume(settings: Settings) -> List[Line]:
    """Read a stream through a pull consumer, acknowledging each message."""
    count = settings.count(10_000)
    with _sides(settings, "consume", count) as (ours, plain):
        ours.ask("publish_many", stream="consume", size=_READ, count=count)

        def measure(side: Peer, how: str, **more: int) -> Callable[[], float]:
            return lambda: count / seconds(side.ask(how, stream="consume", count=count, **more))

        rates = take_turns(
            settings,
            [measure(ours, "consume"), measure(ours, "fetch", batch=_BATCH), measure(plain, "fetch", batch=_BATCH)],
        )
    what = f"messages of {_READ // 1024} KiB, each acknowledged: rate beside nats-py's `fetch({_BATCH})`"
    return [
        line("consume", f"{how} {what}", rate(mine), rate(rates[2]), ratios(mine, rates[2]), 0.8)
        for how, mine in (("`for message in subscription`,", rates[0]), (f"`fetch({_BATCH})`,", rates[1]))
    ]


def keyvalue(settings: Settings) -> List[Line]:
    """Read the value of a key, one after another."""
    count = settings.count(400)
    lines = []
    with peer(settings, "_js_bridge", "buckets") as ours, peer(settings, "_js_natspy", "buckets") as plain:
        for direct in (False, True):
            ours.ask("make", bucket=f"bench{direct:d}", direct=direct, size=_SIZE)

            def measure(side: Peer, bucket: str = f"bench{direct:d}") -> Callable[[], float]:
                return lambda: median(side.ask("get", bucket=bucket, count=count))

            times = take_turns(settings, [measure(ours), measure(plain)])
            how = ", with direct access" if direct else ""
            what = f"`KeyValue.get` of {_SIZE} bytes{how}: median time beside nats-py's"
            lines.append(
                line("keyvalue", what, duration(times[0]), duration(times[1]), ratios(times[0], times[1]), 1.5, most=True)
            )
    return lines


ROWS: Dict[str, Callable[[Settings], List[Line]]] = {row.__name__: row for row in (publish, pipeline, consume, keyvalue)}


if __name__ == "__main__":
    main("benchmarks.jetstream", __doc__, ROWS)
