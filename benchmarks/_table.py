"""What all benchmarks of ratios share: taking turns, round by round, and the table that comes of it."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from natsbridge.server import EmbeddedServer, find_server

from ._peer import Peer


class Settings(NamedTuple):
    """How much is measured, against which server, on which event loop."""

    server: str
    loop: str
    rounds: int
    scale: float

    def count(self, full: int) -> int:
        """``full``, or less of it in a quick run."""
        return max(1, round(full * self.scale))


class Line(NamedTuple):
    """One line of the table; ``met`` is None where there is no target."""

    row: str
    what: str
    ours: str
    other: str
    result: str
    spread: str
    target: str = "–"
    met: Optional[bool] = None


# -- measuring --------------------------------------------------------------------------------------------------------


def peer(settings: Settings, module: str, role: str) -> Peer:
    return Peer(module, role, settings.server, settings.loop)


def take_turns(settings: Settings, sides: Sequence[Callable[[], float]]) -> List[List[float]]:
    """The figures of each side. The sides take turns, in the opposite order every other round; the first is a warm-up."""
    figures: List[List[float]] = [[] for _ in sides]
    for number in range(settings.rounds + 1):
        order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
        for side in order:
            figure = sides[side]()
            if number:
                figures[side].append(figure)
    return figures


def seconds(answer: Dict[str, float]) -> float:
    return float(answer["seconds"])


def median(answer: Dict[str, List[float]]) -> float:
    return statistics.median(answer["seconds"])


def ratios(ours: Sequence[float], other: Sequence[float]) -> List[float]:
    """Round by round, so that what slows a whole round down cancels out."""
    return [a / b for a, b in zip(ours, other)]


# -- printing ---------------------------------------------------------------------------------------------------------


def line(
    row: str,
    what: str,
    ours: str,
    other: str,
    ratios: Sequence[float],
    target: Optional[float] = None,
    *,
    most: bool = False,
) -> Line:
    """``target``: the least that the ratio may be, or, with ``most``, the most."""
    median = statistics.median(ratios)
    result, spread = f"{median:.2f} x", f"{min(ratios):.2f} … {max(ratios):.2f}"
    if target is None:
        return Line(row, what, ours, other, result, spread)
    met = median <= target if most else median >= target
    return Line(row, what, ours, other, result, spread, f"{'≤' if most else '≥'} {target:.3g} x", met)


def rate(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f}/s"


def duration(seconds: Sequence[float]) -> str:
    median = statistics.median(seconds)
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if median * factor >= 1:
            return f"{median * factor:.3g} {unit}"
    return f"{median * 1e9:.3g} ns"


def _environment(loop: str) -> str:
    described = subprocess.run([find_server(), "--version"], stdout=subprocess.PIPE, check=True, text=True)
    parts = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"nats-py {metadata.version('nats-py')}",
        described.stdout.strip().replace(": v", " "),
        f"uvloop {metadata.version('uvloop')}" if loop == "uvloop" else "asyncio's own event loop",
        f"{_cores()} cores",
        f"{platform.system()} {platform.machine()}",
    ]
    if hasattr(os, "getloadavg"):
        parts.append(f"load average {os.getloadavg()[0]:.1f} before the run")
    return ", ".join(parts)


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _print_line(line: Line) -> None:
    met = {True: "met", False: "not met", None: "–"}[line.met]
    print("| " + " | ".join((*line[:-1], met)) + " |", flush=True)


def main(
    module: str,
    description: Optional[str],
    rows: Mapping[str, Callable[[Settings], List[Line]]],
    arguments: Optional[Sequence[str]] = None,
) -> None:
    """Measure, and print the table as it grows."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    names = ", ".join(rows)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"what to measure, everything unless named: {names}")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to see that it runs")
    parser.add_argument("--uvloop", action="store_true", help="uvloop on both sides, instead of asyncio's own event loop")
    options = parser.parse_args(arguments)
    unknown = [row for row in options.rows if row not in rows]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}: choose from {names}")
    loop = "uvloop" if options.uvloop else "asyncio"
    rounds, scale = (3, 0.1) if options.quick else (9, 1.0)
    if loop == "uvloop":
        try:
            metadata.version("uvloop")
        except metadata.PackageNotFoundError:
            parser.error("uvloop is not installed: pip install uvloop")
    print(_environment(loop))
    print(f"{rounds} rounds, the sides taking turns; result: median over the rounds, spread: lowest … highest\n")
    print("| row | what | natsbridge | other | result | spread | target | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    begin = time.monotonic()
    with EmbeddedServer(jetstream=True) as server:
        for row in options.rows or rows:
            for line in rows[row](Settings(server.url, loop, rounds, scale)):
                _print_line(line)
    print(f"\n{time.monotonic() - begin:.0f} s")
