"""Every fault of the table in ``faults.py``, on one server: what each end is told, and how soon."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from procs import posix_only

pytest.register_assert_rewrite("faults")

import faults  # noqa: E402
from faults import Row, Seen, Stage  # noqa: E402

from natsbridge.server import EmbeddedServer  # noqa: E402

AT_ONCE = 5  # faults that happen side by side: most of their time is waiting

Played = Dict[str, "Future[Dict[Row, Seen]]"]


@pytest.fixture(scope="module")
def played(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Played]:
    """Each fault whose rows are to be tested, under way."""
    wanted: Dict[str, List[Row]] = {}
    for item in request.session.items:
        row = getattr(item, "callspec", None) and item.callspec.params.get("row")  # type: ignore[attr-defined]
        if isinstance(row, Row) and item.path == request.path:
            wanted.setdefault(row.fault, []).append(row)
    with closing(Stage(server)) as stage, ThreadPoolExecutor(AT_ONCE) as executor:
        yield {fault: executor.submit(faults.play, stage, fault, rows) for fault, rows in wanted.items()}


@pytest.mark.process
@posix_only
@pytest.mark.parametrize("row", faults.TABLE, ids=lambda row: row.name)
def test_a_fault(played: Played, row: Row) -> None:
    faults.check(row, played[row.fault].result()[row])


def test_the_table_is_documented() -> None:
    """``python tests/faults.py`` prints it."""
    page = (Path(__file__).parents[1] / "docs" / "faults.md").read_text("utf-8")
    assert f"<!-- faults -->\n\n{faults.documented()}\n" in page
