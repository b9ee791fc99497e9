"""What each end of a stream is told is the same wherever the two are; how soon they know is not."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List

import pytest
from conftest import no_thread_left
from procs import posix_only

pytest.register_assert_rewrite("faults.play")

from faults.acts import Stage  # noqa: E402
from faults.play import Played, check, playing  # noqa: E402
from faults.table import Row, elsewhere  # noqa: E402

from natsbridge import OnlineRegistry, Pool  # noqa: E402

from .sites import SITES  # noqa: E402
from .streams import wait_for_worker  # noqa: E402

pytestmark = [pytest.mark.process, pytest.mark.slow, posix_only]

FAULTS = [pytest.param(name, row, id=f"{name}-{row.name}") for name in SITES for row in elsewhere(SITES[name].says_503)]


@pytest.fixture(autouse=True, scope="module")
def _no_thread_left() -> Iterator[None]:
    """In place of the one for each test: a site, and all that is played there, outlives the first of its tests."""
    with no_thread_left():
        yield


@contextmanager
def playing_at(name: str, rows: List[Row]) -> Iterator[Played]:
    with ExitStack() as stack:
        ends = SITES[name].start(stack)
        asker = stack.enter_context(Pool(ends.requester, registry=OnlineRegistry()))
        stage = Stage(ends.worker, ends.requester, prefix="work.", known=lambda subject: wait_for_worker(asker, subject))
        stack.callback(stage.close)
        yield stack.enter_context(playing(stage, rows))


@pytest.fixture(scope="module")
def played_at(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Played]]:
    """Each fault whose rows are to be tested at a site, under way. One site is there at a time."""
    chosen: List[Dict[str, Any]] = [i.callspec.params for i in request.session.items if i.path == request.path]  # type: ignore[attr-defined]
    there: Dict[str, Played] = {}
    with ExitStack() as stack:

        def at(name: str) -> Played:
            if name not in there:
                there.clear()
                stack.close()
                rows = [params["row"] for params in chosen if params["site"] == name]
                there[name] = stack.enter_context(playing_at(name, rows))
            return there[name]

        yield at


@pytest.mark.parametrize(("site", "row"), FAULTS)
def test_a_fault(played_at: Callable[[str], Played], site: str, row: Row) -> None:
    check(row, played_at(site)[row.fault].result()[row])
