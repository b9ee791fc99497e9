"""The porting guide: each of its programs runs, and the two of a pair print the same."""

from __future__ import annotations

import contextlib
import gc
import io
import re
from pathlib import Path
from typing import Iterator, List, NamedTuple

import pytest

from natsbridge import Pool
from natsbridge.server import EmbeddedServer

PAGE = Path(__file__).parents[1] / "docs" / "from-nats-py.md"
DEFAULT_URL = "nats://127.0.0.1:4222"


class Pair(NamedTuple):
    title: str
    theirs: str
    ours: str


def pairs() -> Iterator[Pair]:
    for section in re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        theirs, ours = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        yield Pair(section.splitlines()[0], theirs, ours)


PAIRS = list(pairs())


@pytest.fixture(scope="module")
def porting_server() -> Iterator[EmbeddedServer]:
    """A server for these programs alone: their streams and buckets have everyday names."""
    with EmbeddedServer(jetstream=True) as server:
        yield server


def run(code: str, server: EmbeddedServer) -> List[str]:
    """What the program prints. Runs it here, since a process for each would take long; its streams are deleted."""
    assert DEFAULT_URL in code
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(compile(code.replace(DEFAULT_URL, server.url), str(PAGE), "exec"), {"__name__": "__main__"})
    finally:
        gc.collect()
        with Pool(server.url) as pool:
            js = pool.jetstream()
            for info in js.streams_info():
                js.delete_stream(info.config.name or "")
    return output.getvalue().splitlines()


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # nats-py's services call it
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.title)
def test_both_programs_do_the_same(pair: Pair, porting_server: EmbeddedServer) -> None:
    theirs, ours = run(pair.theirs, porting_server), run(pair.ours, porting_server)
    assert theirs == ours
    assert ours


def test_every_area_is_there() -> None:
    titles = " ".join(pair.title for pair in PAIRS).lower()
    for area in ("connect", "publish", "subscri", "request", "queue groups", "streams", "pull", "push", "key-value",
                 "object store", "services", "errors", "ending"):  # fmt: skip
        assert area in titles, area


def test_ours_has_no_asyncio_and_theirs_no_natsbridge() -> None:
    for pair in PAIRS:
        assert "async" not in pair.ours
        assert "await" not in pair.ours
        assert "natsbridge" not in pair.theirs
