"""``natsbridge demo`` as the viewer sees it: a streamed answer, then a table of clients that go. Needs rich."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Iterable, List, Tuple

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ._demo_process import Interrupted, signals
from ._demo_ways import STOP_LIMIT, WAYS, DemoError, Outcome, Stage
from .errors import Error

WIDTH = 79
# A worker that is known not to stop is not worth the patience that others get.
BROKEN_STOP_LIMIT = 0.5

STORY = """\
A worker process sends this answer. Every word is a message of its own, and appears here the moment it arrives.
But what if the client that asked goes away in the middle? Nobody reads what the worker still sends, so it had better
stop. With natsbridge it does: the worker's next sender.send() raises ClientOfflineError, and its loop ends."""

LOOP = """\
for number in itertools.count(1):
    sender.send(b"chunk %d" % number)  # raises ClientOfflineError
    time.sleep(0.001)"""

LEGEND = (
    "reason: what the ClientOfflineError told the worker (in row 7: the client).",
    "Row 5: a killed process says no goodbye. The server reports that nobody listens; natsbridge believes it once "
    "it has asked again, 10 ms later.",
)


def run(*, broken_worker: bool = False) -> int:
    """Show the demo on standard output, within seconds; returns the exit code.

    0: the worker stopped every time; 1: it did not; 2: the demo could not be carried out; 130 or 143: SIGINT or SIGTERM
    came. No process of the demo is left in any of these cases. ``broken_worker``: let it ignore that its clients go.
    """
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    try:
        with signals() as check:
            limit = BROKEN_STOP_LIMIT if broken_worker else STOP_LIMIT
            with Stage(ignores_offline=broken_worker, stop_limit=limit, on_wait=check) as stage:
                return _show(console, stage)
    except Interrupted as interrupted:
        errors.print("interrupted; the processes of the demo have been ended", style="yellow")
        return interrupted.exit_code
    except Error as error:
        errors.print(Text(f"the demo could not be carried out: {error}", style="red"), soft_wrap=True)
        return 2


def _show(console: Console, stage: Stage) -> int:
    started_at = time.monotonic()
    console.print(Rule("natsbridge demo", style="cyan"), width=_width(console))
    console.print()
    _print(console, f"A client asks worker process {stage.worker.pid} for a streamed answer:", "bold cyan")
    console.print()
    with closing(stage.speak(STORY)) as answer:
        words = _print_words(console, answer)
    if words != STORY.split():
        raise DemoError("what came is not what the worker was to send")
    console.print()
    _print(console, f"{len(words)} words, {len(words)} chunks in {time.monotonic() - started_at:.1f} s", "dim")
    console.print()
    _print(console, "Seven clients ask this loop for an endless answer. Each goes in another way:", "bold cyan")
    console.print()
    code = Syntax(LOOP, "python", theme="ansi_dark", background_color="default", word_wrap=True)
    console.print(Padding(code, (0, 0, 1, 2)), width=_width(console))
    board = _Board(console, stage)
    with Live(board, console=console, refresh_per_second=12, transient=True):
        for way in WAYS:
            board.outcomes.append(stage.play(way))
    console.print(board)
    console.print()
    for line in LEGEND:
        _print(console, line, "dim")
    console.print()
    return _print_verdict(console, board.outcomes)


def _print(console: Console, text: str, style: str) -> None:
    console.print(Text(text, style=style), width=_width(console))


def _width(console: Console) -> int:
    return min(WIDTH, console.width)


def _print_words(console: Console, words: Iterable[str]) -> List[str]:
    """Print each word when it comes, wrapped; returns them all."""
    printed = []
    column = 0
    for word in words:
        if column + 1 + len(word) > _width(console):
            console.print()
            column = 0
        indented = f" {word}" if column else f"  {word}"
        console.print(Text(indented, style="green"), end="")
        column += len(indented)
        printed.append(word)
    console.print()
    return printed


class _Board:
    """The table of all ways, as far as they have been played; rendered anew each time it is looked at."""

    def __init__(self, console: Console, stage: Stage) -> None:
        self.outcomes: List[Outcome] = []
        self._console, self._stage = console, stage
        self._spinner = Spinner("line" if console.options.ascii_only else "dots", style="cyan")

    def __rich__(self) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.width = _width(self._console)
        table.add_column("")
        table.add_column("how the client went", ratio=1)
        table.add_column("chunks sent\nafter that", justify="right")
        table.add_column("worker's loop\nended after", justify="right")
        table.add_column("\nreason", min_width=11)
        for index, way in enumerate(WAYS):
            style, cells = self._cells(index)
            table.add_row(str(index + 1), way.title, *cells, style=style)
        return table

    def _cells(self, index: int) -> Tuple[str, Tuple[RenderableType, ...]]:
        if index > len(self.outcomes):
            return "dim", ()
        if index == len(self.outcomes):
            received = self._stage.received
            self._spinner.update(text=f"{received} read" if received else "starting")
            return "", ("", self._spinner)
        outcome = self.outcomes[index]
        if not outcome.good:
            return "bold red", ("?", outcome.state, "FAILED")
        ended = outcome.state if outcome.seconds is None else f"{outcome.seconds * 1000:.1f} ms"
        return "", (str(outcome.chunks_after), Text(ended, style="green"), outcome.reason)


def _print_verdict(console: Console, outcomes: List[Outcome]) -> int:
    failed = [(way, outcome) for way, outcome in zip(WAYS, outcomes) if not outcome.good]
    for way, outcome in failed:
        if outcome.detail:
            _print(console, f"{way.title}: {outcome.detail}", "red")
    if failed:
        _print(console, f"FAILED: in {len(failed)} of {len(WAYS)} cases the worker was not seen to stop.", "bold red")
        return 1
    _print(console, f"{len(WAYS)} of {len(WAYS)}: the worker stopped by itself once its client was gone.", "bold green")
    return 0
