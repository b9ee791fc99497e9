"""Every fault of the table in ``faults/table.py``, on one server: what each end is told, and how soon."""

from __future__ import annotations

from contextlib import closing
from typing import Iterator

import pytest
from procs import posix_only

pytest.register_assert_rewrite("faults.play")

from faults.acts import Stage  # noqa: E402
from faults.play import Played, check, playing  # noqa: E402
from faults.table import TABLE, Row  # noqa: E402

from natsbridge.server import EmbeddedServer  # noqa: E402

# The faults are played once, all rows of each together.
pytestmark = [pytest.mark.process, posix_only, pytest.mark.xdist_group("faults")]


@pytest.fixture(scope="module")
def played(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Played]:
    """Each fault whose rows are to be tested, under way."""
    params = [item.callspec.params for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]
    with closing(Stage(server.url)) as stage, playing(stage, [each["row"] for each in params]) as played:
        yield played


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_fault(played: Played, row: Row) -> None:
    check(row, played[row.fault].result()[row])
